"""The plan of least time within a memory limit, by dynamic programming over the chain from its end.

In the manner of rotor (Beaumont, Eyraud-Dubois, Herrmann, Joly, Shilova: "Optimal checkpointing for heterogeneous
chains", arXiv 1911.13214) with, as in Checkmate (Jain et al., arXiv 1910.02653), a choice of what to keep inside a
segment: table [i, m] is the least extra time for the links from i on when m bytes are left. A segment from i to j that
keeps b bytes leaves m - b to those behind it, and needs m to hold all its points and the gradients in flight when its
own turn comes. Memory is counted in slots, so a found plan is checked by a walk through it and searched again with a
little less if it is over.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, combinations

import numpy as np
from numpy.typing import NDArray

from resnet_v2.networks.description import INPUT
from resnet_v2.networks.modules import Link
from resnet_v2.recompute.costs import LinkCost
from resnet_v2.recompute.plan import Forecast, Plan, Segment, again_time, convolutions_again, forecast

Floats = NDArray[np.float64]
Keep = tuple[str, ...]

SLOTS, SLOTS_OF_LEVEL_2, SLOTS_OF_SMALLEST = 1200, 300, 250
LONGEST, LONGEST_OF_LEVEL_2 = 48, 20
ENDS_OF_LEVEL_2 = 24


@dataclass(frozen=True)
class _Candidate:
    """A segment from some link to `stop`: `slots` kept, `needed` while it is worked on, extra `time`."""

    segment: Segment
    slots: int
    needed: int
    time: float


@dataclass(frozen=True)
class _Table:
    """Least time by link and slots left, and which candidate gives it."""

    time: Floats
    choice: NDArray[np.int64]
    candidates: list[list["_Candidate | _Nested"]]


@dataclass(frozen=True)
class _Nested:
    """A segment of two levels: `inner` is the table of the links up to its end."""

    start: int
    stop: int
    slots: int
    time: float
    inner: _Table


def find_plan(links: Sequence[Link], costs: Sequence[LinkCost], limit: float) -> Plan | None:
    """The plan of least modelled time whose peak is at most `limit` bytes per image; None if there is none.

    A second level is tried only where one does not do.
    """
    for level in (1, 2):
        aim = limit
        for _ in range(12):
            if aim <= 0:
                break
            plan = _Search(links, costs, aim, level).plan()
            if plan is None:
                break
            peak = forecast(links, costs, plan).peak_bytes
            if peak <= limit:
                return plan
            aim -= max(peak - limit, limit / SLOTS)
    return None


def smallest_plan(links: Sequence[Link], costs: Sequence[LinkCost]) -> tuple[Plan, Forecast]:
    """The plan with the smallest peak of memory (to one or two percent), and what it costs."""
    plan = Plan((Segment(0, len(links)),))
    best = forecast(links, costs, plan)
    for level in (1, 2, 2):
        found = _Search(links, costs, best.peak_bytes, level, SLOTS_OF_SMALLEST).plan(smallest=True)
        if found is None:
            continue
        its = forecast(links, costs, found)
        if its.peak_bytes < best.peak_bytes:
            plan, best = found, its
    return plan, best


def several_plans(links: Sequence[Link], costs: Sequence[LinkCost], limits: Sequence[float]) -> list[Plan]:
    """Plans of one level for several limits, out of one table: over theirs by a percent at most; None is left out."""
    search = _Search(links, costs, max(limits), level=1)
    plans = (search.plan(limit) for limit in limits)
    return [plan for plan in plans if plan is not None]


class _Search:
    """Tables for one limit."""

    def __init__(
        self, links: Sequence[Link], costs: Sequence[LinkCost], limit: float, level: int, slots: int = 0
    ) -> None:
        self.links, self.costs, self.level = links, costs, level
        self.slots = slots or (SLOTS if level == 1 else SLOTS_OF_LEVEL_2)
        self.longest = LONGEST if level == 1 else LONGEST_OF_LEVEL_2
        self.slot_bytes = limit / self.slots
        self.options = _options(links, costs)
        self.single = [self._candidates(start) for start in range(len(links))]

    def plan(self, limit: float | None = None, smallest: bool = False) -> Plan | None:
        """The plan of least time within the limit or a lower one, or (`smallest`) within the least that one fits in."""
        slots = self.slots if limit is None else int(limit // self.slot_bytes)
        (fitting,) = np.isfinite(self.table.time[0, : slots + 1]).nonzero()
        if not len(fitting):
            return None
        return Plan(tuple(_read(self.table, 0, len(self.links), int(fitting[0 if smallest else -1]))))

    @cached_property
    def table(self) -> _Table:
        count = len(self.links)
        end = np.where(np.arange(self.slots + 1) * self.slot_bytes >= 4 * self.costs[-1].output, 0.0, np.inf)
        nested: list[list[_Nested]] = [[] for _ in self.links]
        if self.level == 2:
            for stop in range(count, 0, -count // ENDS_OF_LEVEL_2):
                inner = self._table(stop, np.zeros(self.slots + 1), [[] for _ in self.links], activated=False)
                for start in range(stop - 1):
                    nested[start].append(self._nested(start, stop, inner))
        return self._table(count, end, nested)

    def _table(self, stop: int, end: Floats, nested: list[list[_Nested]], activated: bool = True) -> _Table:
        def allowed(one: _Candidate) -> bool:
            return activated or not one.segment.activated

        time = np.full((stop + 1, self.slots + 2), np.inf)
        # The column behind the last stands for less than nothing left.
        time[stop, : self.slots + 1] = end
        choice = np.zeros((stop + 1, self.slots + 1), dtype=np.int64)
        slots = np.arange(self.slots + 1)
        candidates: list[list[_Candidate | _Nested]] = [[] for _ in range(stop)]
        for start in reversed(range(stop)):
            singles = [one for one in self.single[start] if one.segment.stop <= stop and allowed(one)]
            candidates[start] = [*singles, *nested[start]]
            if not candidates[start]:
                continue
            totals = []
            if singles:
                left = slots - np.array([one.slots for one in singles])[:, None]
                rest = time[np.array([one.segment.stop for one in singles])[:, None], np.where(left < 0, -1, left)]
                total = rest + np.array([one.time for one in singles])[:, None]
                total[slots < np.array([one.needed for one in singles])[:, None]] = np.inf
                totals.append(total)
            for two in nested[start]:
                left = slots - two.slots
                rest = time[two.stop, np.where(left < 0, -1, left)]
                totals.append((rest + two.time + two.inner.time[start, : self.slots + 1])[None])
            everything = np.concatenate(totals)
            choice[start] = everything.argmin(0)
            time[start, : self.slots + 1] = everything.min(0)
        return _Table(time, choice, candidates)

    def _candidates(self, start: int) -> list[_Candidate]:
        """All segments of one level that begin at a link."""
        found = [self._activated(start)]
        kept = dict.fromkeys(self.options, self.costs[start].points[INPUT])
        time = dict.fromkeys(self.options, 0.0)
        whole, working, running = 0, 0, 0
        for stop in range(start + 1, min(len(self.links), start + self.longest) + 1):
            number = stop - 1
            link, cost = self.links[number], self.costs[number]
            whole += cost.whole
            working = max(working, whole + cost.backward_peak)
            running = max(running, whole + cost.forward_peak)
            needed = max(working, running + cost.output)
            if needed > self.slots * self.slot_bytes:
                break
            for keep in self.options:
                segment = Segment(start, stop, keep)
                own = segment.kept(number, link)
                kept[keep] += sum(cost.points[point] for point in own if point != INPUT)
                have = {INPUT, *own}
                without = convolutions_again(link, have, link.description.points, output=False)
                final = time[keep] + cost.renormalise + again_time(cost, without, output=False)
                found.append(self._candidate(segment, kept[keep], needed, final))
                runs = convolutions_again(link, have, link.description.points, output=True)
                time[keep] += cost.renormalise + again_time(cost, runs, output=True)
        return found

    def _activated(self, start: int) -> _Candidate:
        cost, link = self.costs[start], self.links[start]
        kept = cost.whole + cost.activations
        segment = Segment(start, start + 1, link.description.points[1:], activated=True)
        return self._candidate(segment, kept, kept + cost.backward_peak, 0.0)

    def _candidate(self, segment: Segment, kept: int, needed: int, time: float) -> _Candidate:
        return _Candidate(segment, round(kept / self.slot_bytes), -int(-needed // self.slot_bytes), time)

    def _nested(self, start: int, stop: int, inner: _Table) -> _Nested:
        time = 0.0
        for number in range(start, stop):
            link, cost, output = self.links[number], self.costs[number], number < stop - 1
            time += again_time(cost, convolutions_again(link, {INPUT}, link.description.points, output), output)
        return _Nested(start, stop, round(self.costs[start].points[INPUT] / self.slot_bytes), time, inner)


def _read(table: _Table, start: int, stop: int, left: int) -> list[Segment]:
    """Follow the choices of a table."""
    segments = []
    while start < stop:
        chosen = table.candidates[start][table.choice[start, left]]
        if isinstance(chosen, _Nested):
            inner = _read(chosen.inner, start, chosen.stop, left)
            segments.append(Segment(start, chosen.stop, inner=tuple(inner) if len(inner) > 1 else ()))
        else:
            segments.append(chosen.segment)
        start, left = segments[-1].stop, left - chosen.slots
    return segments


def _options(links: Sequence[Link], costs: Sequence[LinkCost]) -> tuple[Keep, ...]:
    """The choices of points to keep of every link that are worth trying: none beaten in both bytes and time.

    Judged by the link that has most of its kind, one without projection.
    """
    outputs = [link.description.sources[link.description.output] for link in links]
    number = max(range(len(links)), key=lambda i: (INPUT in outputs[i], len(links[i].description.points)))
    link, cost, inner = links[number], costs[number], links[number].description.points[1:]
    every = tuple(dict.fromkeys(chain.from_iterable(each.description.points[1:] for each in links)))
    options: dict[Keep, tuple[int, float]] = {}
    for keep in chain.from_iterable(combinations(inner, size) for size in range(len(inner) + 1)):
        runs = convolutions_again(link, {INPUT, *keep}, link.description.points, output=True)
        options[keep] = sum(cost.points[point] for point in keep), again_time(cost, runs, output=True)

    def beaten(size: int, time: float) -> bool:
        return any(s <= size and t <= time and (s, t) != (size, time) for s, t in options.values())

    return tuple(every if keep == inner else keep for keep, both in options.items() if not beaten(*both))
