"""Plans: which points of a chain to keep in the forward pass, and the memory and time that follow.

A plan cuts the chain into segments. The forward pass keeps every segment's input and chosen points inside it; the
backward pass computes the other points of a segment again, all at once, when it arrives there. A segment that is cut
itself keeps only its input at first and is run again by its inner plan: the second level.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from resnet_v2.networks.description import INPUT
from resnet_v2.networks.modules import Link
from resnet_v2.recompute.costs import LinkCost


@dataclass(frozen=True)
class Segment:
    """Links `start` to `stop` - 1. `keep`: the points kept of each, by their names, besides the segment's input.

    `activated` keeps what the BatchNorms and ReLUs give, too. `inner`: the segments of the second level.
    """

    start: int
    stop: int
    keep: tuple[str, ...] = ()
    activated: bool = False
    inner: tuple["Segment", ...] = ()

    def kept(self, number: int, link: Link) -> tuple[str, ...]:
        """The points of a link that the first run through this segment keeps."""
        first = (INPUT,) if number == self.start else ()
        return first if self.inner else (*first, *(point for point in self.keep if point in link.description.points))


@dataclass(frozen=True)
class Plan:
    """Segments that follow one another from the first link to the last."""

    segments: tuple[Segment, ...]

    def __post_init__(self) -> None:
        for segments in (self.segments, *(segment.inner for segment in self.segments if segment.inner)):
            assert all(one.stop == other.start for one, other in pairwise(segments)), "segments must join"

    @property
    def levels(self) -> int:
        """2 when a segment is cut itself, else 1."""
        return 2 if any(segment.inner for segment in self.segments) else 1


def uniform_plan(links: Sequence[Link], activated: bool) -> Plan:
    """Keep every point; `activated`: and what the BatchNorms and ReLUs give, which leaves nothing to compute again."""
    return Plan(tuple(Segment(i, i + 1, link.description.points[1:], activated) for i, link in enumerate(links)))


def convolutions_again(link: Link, have: Iterable[str], want: Iterable[str], output: bool) -> set[str]:
    """The convolutions that must run to get from the points `have` to `want` and the output."""
    description, runs = link.description, set[str]()
    wanted = [*want, *(description.sources[description.output] if output else ())]
    while wanted:
        name = wanted.pop()
        if name != INPUT and name not in have and name not in runs:
            runs.add(name)
            wanted += description.sources[description.named[name].inputs[0]]
    return runs


@dataclass
class Forecast:
    """What a plan costs for one image: peak and kept bytes, time beside that of the plain network (1: as much again).

    `runs`: how often each convolution of each link runs forward in one step. `timeline`: (time, bytes) through a step.
    """

    peak_bytes: int = 0
    kept_bytes: int = 0
    extra_time: float = 0.0
    runs: list[dict[str, int]] = field(default_factory=list)
    timeline: list[tuple[float, int]] = field(default_factory=list)


def forecast(links: Sequence[Link], costs: Sequence[LinkCost], plan: Plan | None) -> Forecast:
    """Walk through one training step by a plan, or by plain autograd (None)."""
    return _Walk(links, costs, plan).forecast()


class _Walk:
    """Mirrors what `recompute.Tape` does, with counts in place of tensors."""

    def __init__(self, links: Sequence[Link], costs: Sequence[LinkCost], plan: Plan | None) -> None:
        self.links, self.costs, self.plain = links, costs, plan is None
        self.plan = plan or uniform_plan(links, activated=True)
        self.have: list[set[str]] = [set() for _ in links]
        self.extra = [0] * len(links)
        self.bytes, self.time = 0, 0.0
        self.result = Forecast(runs=[dict.fromkeys(cost.again, 1) for cost in costs])

    def forecast(self) -> Forecast:
        for segment in self.plan.segments:
            for number in range(segment.start, segment.stop):
                self._first_run(number, segment)
        self.result.kept_bytes = self.bytes
        head = 4 * self.costs[-1].output
        self._event(head)
        for number in reversed(range(len(self.links))):
            self._backward(number)
        plain = sum(cost.forward + cost.backward for cost in self.costs)
        self.result.extra_time = self.time / plain - 1
        return self.result

    def _event(self, temporary: int, duration: float = 0.0) -> None:
        self.time += duration
        self.result.timeline.append((self.time, self.bytes + temporary))
        self.result.peak_bytes = max(self.result.peak_bytes, self.bytes + temporary)

    def _keep(self, number: int, points: Iterable[str]) -> None:
        for point in set(points) - self.have[number]:
            self.have[number].add(point)
            self.bytes += self.costs[number].points[point]

    def _first_run(self, number: int, segment: Segment) -> None:
        cost = self.costs[number]
        self._keep(number, segment.kept(number, self.links[number]))
        if segment.activated:
            self.extra[number] = cost.activations + (cost.indices if self.plain else 0)
            self.bytes += self.extra[number]
        self._event(cost.forward_peak, cost.forward)

    def _backward(self, number: int) -> None:
        cost = self.costs[number]
        if self.have[number] != set(self.links[number].description.points):
            self._restore(number, waiting=cost.output)
        again = 0.0 if self.extra[number] else cost.renormalise
        self._event(cost.plain_peak if self.plain else cost.backward_peak, cost.backward + again)
        self.bytes -= sum(cost.points[point] for point in self.have[number]) + self.extra[number]
        self.have[number] = set()
        self._event(cost.output)

    def _restore(self, number: int, waiting: int) -> None:
        segments: Sequence[Segment] = self.plan.segments
        while self.have[number] != set(self.links[number].description.points):
            segment = segment_of(segments, number)
            if not segment.inner:
                self._run_again((segment,), waiting, lambda number, _: self.links[number].description.points)
                return
            if INPUT not in self.have[segment_of(segment.inner, number).start]:
                self._run_again(segment.inner, waiting, lambda number, inner: inner.kept(number, self.links[number]))
            segments = segment.inner

    def _run_again(
        self, segments: Sequence[Segment], waiting: int, kept: Callable[[int, Segment], Iterable[str]]
    ) -> None:
        final = segments[-1].stop - 1
        for segment in segments:
            for number in range(segment.start, segment.stop):
                link, cost, want = self.links[number], self.costs[number], tuple(kept(number, segment))
                runs = convolutions_again(link, self.have[number], want, output=number != final)
                for name in runs:
                    self.result.runs[number][name] += 1
                self._keep(number, want)
                time = again_time(cost, runs, output=number != final)
                if time:
                    self._event(cost.forward_peak + waiting, time)


def again_time(cost: LinkCost, runs: Iterable[str], output: bool) -> float:
    """The time of running convolutions of a link again, and of its output where that is wanted."""
    return sum(cost.again[place] for place in runs) + (cost.output_again if output else 0.0)


def segment_of(segments: Sequence[Segment], number: int) -> Segment:
    """The segment that a link lies in."""
    return next(segment for segment in segments if segment.start <= number < segment.stop)
