"""Run a chain of links by a plan: keep what it says, compute the rest again in the backward pass, change no bit.

The backward pass is autograd's own. Only what it finds saved differs: a BatchNorm keeps its input and the batch's mean
and deviation, from which its output (and the ReLU's) is computed again element by element; a convolution asks for that
output when its turn comes; and an input that was not kept is computed from the segment's first one, together with the
whole segment. Moving statistics move in the forward pass alone.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from resnet_v2.errors import ResnetError
from resnet_v2.networks import batch_norm, kernels
from resnet_v2.networks.batch_norm import Kept
from resnet_v2.networks.description import INPUT, Step
from resnet_v2.networks.modules import Link, compute
from resnet_v2.networks.resnet import ResNet
from resnet_v2.recompute.plan import Plan, Segment, segment_of, uniform_plan


def follow(network: ResNet, plan: Plan | None) -> ResNet:
    """Let a network's training steps keep what a plan says, or (None) what autograd keeps; returns the network."""
    network.pass_by_plan = None if plan is None else partial(run, plan)
    return network


def take_our_kernels(network: ResNet, device: torch.device) -> None:
    """Let a network without a plan follow one that keeps all, where that takes kernels of our own: on a GPU.

    torch.compile makes its own kernels, and BatchNorms over several ranks are modules of their own.
    """
    ordinary = all(type(norm) is nn.BatchNorm2d for norm in network.links()[1].norms)
    wanted = network.pass_by_plan is None and not network.compiled
    if wanted and ordinary and device.type == "cuda" and kernels.usable(device):
        follow(network, uniform_plan(network.links(), activated=True))


def run(plan: Plan, links: Sequence[Link], x: Tensor) -> Tensor:
    """The output of the last link for the first one's input, ready for a backward pass (one only) by the plan."""
    return Tape(links, plan).forward(x)


@dataclass(slots=True)
class _Slot:
    """A tensor for the backward pass, None while it is not there; `uses` counts the steps that still want it."""

    tensor: Tensor | None = None
    uses: int = 0


class Tape:
    """What one forward pass keeps of a chain, and how the rest comes back."""

    def __init__(self, links: Sequence[Link], plan: Plan) -> None:
        if plan.segments[-1].stop != len(links):
            count = plan.segments[-1].stop
            raise ResnetError(
                f"The plan is for {count} links, the network has {len(links)}; make a plan for this network."
            )
        self.links, self.plan = links, plan
        self.slots = [{name: _Slot() for name in link.description.held} for link in links]
        self.statistics: dict[tuple[int, str], Kept] = {}
        self.cast_weights: dict[nn.Conv2d, Tensor] = {}  # by autocast, which keeps them for the backward pass anyway

    def forward(self, x: Tensor) -> Tensor:
        device = x.device.type
        self.autocast = (device, torch.is_autocast_enabled(device), torch.get_autocast_dtype(device))
        batch_norm.count_batch(norm for link in self.links for norm in link.norms)
        for segment in self.plan.segments:
            for number in range(segment.start, segment.stop):
                link = self.links[number]
                activations = link.description.activations if segment.activated else ()
                x = self._first_run(number, (*segment.kept(number, link), *activations), x)
        return x

    def _first_run(self, number: int, kept: Collection[str], x: Tensor) -> Tensor:
        """The output of a link for its input, recorded by autograd; keeps some of its values."""
        link, values = self.links[number], {INPUT: x}
        if INPUT in kept:
            self.slots[number][INPUT].tensor = x.detach()
        for step in link.description.steps:
            values[step.name] = x = self._run(number, step, [values[name] for name in step.operation.inputs])
            if step.name in kept:
                self.slots[number][step.name].tensor = x.detach()
            for name in step.last_uses:
                del values[name]
        return x

    def _run(self, number: int, step: Step, inputs: list[Tensor]) -> Tensor:
        owner, arguments = self.links[number].owner, (self, number, step, *inputs)
        if step.heavy:
            return self._convolve(number, step, inputs[0])
        if step.operation.kind == "norm":
            norm = getattr(owner, step.operation.name)
            return cast(Tensor, _Normalise.apply(*arguments, norm.weight, norm.bias))  # type: ignore[no-untyped-call]
        if self.links[number].description.needs[step.name]:
            return cast(Tensor, _Elementwise.apply(*arguments))  # type: ignore[no-untyped-call]
        return compute(step, owner, inputs, step.overwrites)

    def _convolve(self, number: int, step: Step, x: Tensor) -> Tensor:
        """A convolution that finds its input by its name instead of holding it."""
        owner, source, storage = self.links[number].owner, step.operation.inputs[0], _storage(x)
        convolution = getattr(owner, step.operation.name)

        def fetch() -> Tensor:
            tensor = self.value(number, source)
            self.release(number, source)
            return tensor

        def pack(tensor: Tensor) -> Any:
            if _storage(tensor) != storage:
                if tensor.dtype != convolution.weight.dtype and tensor.shape == convolution.weight.shape:
                    self.cast_weights[convolution] = tensor.detach()
                return tensor
            self.hold(number, source)
            return fetch

        with torch.autograd.graph.saved_tensors_hooks(pack, _unpack):
            return compute(step, owner, (x,), overwrite=False)

    def hold(self, number: int, name: str) -> None:
        """One more step wants a value, and with it the points that it follows from."""
        for each in self.links[number].description.held[name]:
            self.slots[number][each].uses += 1

    def release(self, number: int, name: str) -> None:
        """One of the steps is done with a value."""
        for each in self.links[number].description.held[name]:
            slot = self.slots[number][each]
            slot.uses -= 1
            if slot.uses <= 0:
                slot.tensor = None

    def value(self, number: int, name: str) -> Tensor:
        """A value that is held, computed again if it is not there."""
        slot, description = self.slots[number][name], self.links[number].description
        if slot.tensor is None and name in description.points:
            self._restore(number, name)
        elif slot.tensor is None:
            slot.tensor = self._activation(number, description.step[name])
        return cast(Tensor, slot.tensor)

    def _activation(self, number: int, step: Step) -> Tensor:
        if step.operation.kind == "norm":
            return self.normalised_again(number, step, self.value(number, step.operation.inputs[0]))
        for source in self.links[number].description.sources[step.name]:
            self.value(number, source)
        with self.as_in_forward():
            return _Again(self, number, self.slots[number][INPUT].tensor).value(step.name)

    def normalised_again(self, number: int, step: Step, x: Tensor) -> Tensor:
        """The same bits that the first forward pass got from a BatchNorm (and ReLU)."""
        norm = getattr(self.links[number].owner, step.operation.name)
        return batch_norm.normalise_again(norm, x, self.statistics[number, step.name], step.relu)

    @contextmanager
    def as_in_forward(self) -> Iterator[None]:
        """Without autograd, with autocast as in the forward pass."""
        device, enabled, kind = self.autocast
        # No cache: it would hold weights that were cast without a gradient, and those of the forward pass are kept.
        with torch.no_grad(), torch.autocast(device, enabled=enabled, dtype=kind, cache_enabled=False):
            yield

    def _restore(self, number: int, point: str) -> None:
        """Compute a segment again, from the outer level to the inner one, until a point is there."""
        segments: Sequence[Segment] = self.plan.segments
        with self.as_in_forward():
            while self.slots[number][point].tensor is None:
                segment = segment_of(segments, number)
                if self.slots[segment.start][INPUT].tensor is None:
                    raise ResnetError(
                        "The activations of this forward pass are gone: run it again before another backward pass."
                    )
                if not segment.inner:
                    self._run_again((segment,), whole=True)
                    return
                inner = segment_of(segment.inner, number)
                if self.slots[inner.start][INPUT].tensor is None:
                    self._run_again(segment.inner, whole=False)
                segments = segment.inner

    def _run_again(self, segments: Sequence[Segment], whole: bool) -> None:
        """Run from the first segment's input, keeping what the segments say, or (`whole`) every point."""
        x = cast(Tensor, self.slots[segments[0].start][INPUT].tensor)
        final = segments[-1].stop - 1
        for segment in segments:
            for number in range(segment.start, segment.stop):
                link = self.links[number]
                again = _Again(self, number, x)
                again.keep(link.description.points if whole else segment.kept(number, link))
                if number != final:
                    x = again.value(link.description.output)


def _storage(tensor: Tensor) -> int:
    """Which memory a tensor lies in."""
    return int(tensor.untyped_storage()._cdata)


def _unpack(saved: Tensor | Callable[[], Tensor]) -> Tensor:
    return saved if isinstance(saved, Tensor) else saved()


class _Again:
    """Another run of a link, without autograd, from its input and whatever is there."""

    def __init__(self, tape: Tape, number: int, x: Tensor | None) -> None:
        self.tape, self.number, self.link, self.slots = tape, number, tape.links[number], tape.slots[number]
        self.found = {INPUT: x}

    def keep(self, points: Iterable[str]) -> None:
        """Fill the slots of points, but for those that the backward pass is done with."""
        for point in points:
            slot = self.slots[point]
            if slot.tensor is None and slot.uses:
                slot.tensor = self.value(point)

    def value(self, name: str) -> Tensor:
        """A value, from its slot or computed."""
        there = self._there(name)
        if there is not None:
            return there
        step = self.link.description.step[name]
        first, *_ = step.operation.inputs
        overwrite = step.overwrites and self._there(first) is None
        inputs = [self.value(each) for each in step.operation.inputs]
        if step.operation.kind == "norm":
            return self.tape.normalised_again(self.number, step, inputs[0])
        y = self._convolve(step, inputs[0]) if step.heavy else compute(step, self.link.owner, inputs, overwrite)
        # What takes a convolution, and what several steps take, is computed once.
        if (step.heavy or step.operation.kind == "max_pool") and len(self.link.description.users[name]) > 1:
            self.found[name] = y
        return y

    def _there(self, name: str) -> Tensor | None:
        slot = self.slots.get(name)
        return self.found.get(name) if slot is None or slot.tensor is None else slot.tensor

    def _convolve(self, step: Step, x: Tensor) -> Tensor:
        """A convolution with the weights that autocast had cast in the forward pass."""
        convolution = getattr(self.link.owner, step.operation.name)
        weight = self.tape.cast_weights.get(convolution)
        if weight is None:
            return compute(step, self.link.owner, (x,), overwrite=False)
        return cast(Tensor, torch.func.functional_call(convolution, {"weight": weight}, (x,)))


class _Normalise(torch.autograd.Function):
    """BatchNorm (and ReLU) that remembers its place on a tape instead of its input."""

    @staticmethod
    def forward(
        ctx: Any, tape: Tape, number: int, step: Step, x: Tensor, weight: Tensor | None, bias: Tensor
    ) -> Tensor:
        norm = getattr(tape.links[number].owner, step.operation.name)
        y, kept = batch_norm.normalise(norm, x, step.relu)
        tape.statistics[number, step.name] = kept
        # Our kernels find from their input where a ReLU passed.
        ctx.needs = [*step.operation.inputs, *([step.name] if step.relu and not kept.ours else [])]
        for name in ctx.needs:
            tape.hold(number, name)
        ctx.place = tape, number, step, norm, kept
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,), (tape, number, step, norm, kept) = gradients, ctx.place
        source, *output = ctx.needs
        for name in output:
            gradient = batch_norm.through_relu(gradient, tape.value(number, name))
            tape.release(number, name)
        wanted = ctx.needs_input_grad[3:]
        results = batch_norm.backward(norm, tape.value(number, source), kept, gradient, step.relu, wanted[0])
        tape.release(number, source)
        return None, None, None, *(result if want else None for result, want in zip(results, wanted, strict=True))


class _Elementwise(torch.autograd.Function):
    """Any other step whose backward pass looks at values: it finds them by their names."""

    @staticmethod
    def forward(ctx: Any, tape: Tape, number: int, step: Step, *inputs: Tensor) -> Tensor:
        ctx.place = tape, number, step
        for name in tape.links[number].description.needs[step.name]:
            tape.hold(number, name)
        return compute(step, tape.links[number].owner, inputs, overwrite=False)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        tape, number, step = ctx.place
        needs = tape.links[number].description.needs[step.name]
        values = [tape.value(number, name) for name in needs]
        if needs == (step.name,):  # a ReLU, behind a sum or alone
            gradient = torch.ops.aten.threshold_backward(gradients[0], values[0], 0)
            results: Sequence[Tensor] = [gradient] * len(step.operation.inputs)
        else:
            leaves = [value.detach().requires_grad_() for value in values]
            with tape.as_in_forward(), torch.enable_grad():
                output = compute(step, tape.links[number].owner, leaves, overwrite=False)
            results = torch.autograd.grad(output, leaves, gradients[0])
        for name in needs:
            tape.release(number, name)
        return None, None, None, *results
