"""Run a chain of links by a plan: keep what it says, compute the rest again in the backward pass, change no bit.

The backward pass is autograd's own. Only what it finds saved differs: a BatchNorm keeps its input and the batch's mean
and deviation, from which its output (and the ReLU's) is computed again element by element; a convolution asks for that
output when its turn comes; and an input that was not kept is computed from the segment's first one, together with the
whole segment. Moving statistics move in the forward pass alone.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from resnet_v2.errors import ResnetError
from resnet_v2.networks import batch_norm, kernels
from resnet_v2.networks.batch_norm import Kept
from resnet_v2.networks.chain import Link, max_pool, max_pool_indices
from resnet_v2.networks.resnet import ResNet
from resnet_v2.recompute.plan import Plan, Segment, uniform_plan


def follow(network: ResNet, plan: Plan | None) -> ResNet:
    """Let a network's training steps keep what a plan says, or (None) what autograd keeps; returns the network."""
    network.pass_by_plan = None if plan is None else partial(run, plan)
    return network


def take_our_kernels(network: ResNet, device: torch.device) -> None:
    """Let a network without a plan follow one that keeps all, where that takes kernels of our own: on a GPU.

    torch.compile makes its own kernels, and BatchNorms over several ranks are modules of their own.
    """
    ordinary = all(type(norm.module) is nn.BatchNorm2d for norm in network.links()[1].norms.values())
    wanted = network.pass_by_plan is None and not network.compiled and network.architecture.stem != "timm"
    if wanted and ordinary and device.type == "cuda" and kernels.usable(device):
        follow(network, uniform_plan(network.links(), activated=True))


def run(plan: Plan, links: Sequence[Link], x: Tensor) -> Tensor:
    """The output of the last link for the first one's input, ready for a backward pass (one only) by the plan."""
    return Tape(links, plan).forward(x)


class _Slot:
    """A tensor for the backward pass, None while it is not there; `uses` counts the operations that still want it."""

    __slots__ = ("tensor", "uses")

    def __init__(self) -> None:
        self.tensor: Tensor | None = None
        self.uses = 0

    def release(self) -> None:
        """One of the operations is done."""
        self.uses -= 1
        if self.uses <= 0:
            self.tensor = None


class Tape:
    """What one forward pass keeps of a chain, and how the rest comes back."""

    def __init__(self, links: Sequence[Link], plan: Plan) -> None:
        if plan.segments[-1].stop != len(links):
            raise ResnetError(f"The plan is for {plan.segments[-1].stop} links, the network has {len(links)}; make a "
                              "plan for this network.")  # fmt: skip
        self.links, self.plan = links, plan
        self.points = [{point: _Slot() for point in link.points} for link in links]
        self.activations = [{place: _Slot() for place in link.norms} for link in links]
        self.statistics: dict[tuple[int, int], Kept] = {}
        self.cast_weights: dict[nn.Conv2d, Tensor] = {}  # by autocast, which keeps them for the backward pass anyway

    def forward(self, x: Tensor) -> Tensor:
        device = x.device.type
        self.autocast = (device, torch.is_autocast_enabled(device), torch.get_autocast_dtype(device))
        batch_norm.count_batch(norm.module for link in self.links for norm in link.norms.values())
        for segment in self.plan.segments:
            for number in range(segment.start, segment.stop):
                kept = segment.kept(number, self.links[number])
                x = _Forward(self, number, kept, segment.activated).output(x)
        return x

    def point(self, number: int, point: int) -> Tensor:
        """A point, computed again if it is not there."""
        slot = self.points[number][point]
        if slot.tensor is None:
            self._restore(number, point)
        return cast(Tensor, slot.tensor)

    def activation(self, number: int, place: int) -> Tensor:
        """The output of a BatchNorm (and ReLU), computed again if it is not there."""
        slot = self.activations[number][place]
        if slot.tensor is None:
            norm = self.links[number].norms[place]
            slot.tensor = self.normalised_again(number, place, self.point(number, norm.point))
        return slot.tensor

    def pool_indices(self, number: int) -> Tensor:
        """Where the maxima of a pooled link's last activation stand."""
        return max_pool_indices(self.activation(number, self.links[number].last))

    def normalised_again(self, number: int, place: int, x: Tensor) -> Tensor:
        """The same bits that the first forward pass got from a BatchNorm (and ReLU)."""
        norm = self.links[number].norms[place]
        return batch_norm.normalise_again(norm.module, x, self.statistics[number, place], norm.relu)

    def _restore(self, number: int, point: int) -> None:
        """Compute a segment again, from the outer level to the inner one, until a point is there."""
        segments: Sequence[Segment] = self.plan.segments
        device, enabled, kind = self.autocast
        # No cache: it would hold weights that were cast without a gradient, and those of the forward pass are kept.
        with torch.no_grad(), torch.autocast(device, enabled=enabled, dtype=kind, cache_enabled=False):
            while self.points[number][point].tensor is None:
                segment = _segment_of(segments, number)
                if self.points[segment.start][0].tensor is None:
                    raise ResnetError("The activations of this forward pass are gone: run it again before another "
                                      "backward pass.")  # fmt: skip
                if not segment.inner:
                    self._run_again((segment,), whole=True)
                    return
                inner = _segment_of(segment.inner, number)
                if self.points[inner.start][0].tensor is None:
                    self._run_again(segment.inner, whole=False)
                segments = segment.inner

    def _run_again(self, segments: Sequence[Segment], whole: bool) -> None:
        """Run from the first segment's input, keeping what the segments say, or (`whole`) every point."""
        x = cast(Tensor, self.points[segments[0].start][0].tensor)
        final = segments[-1].stop - 1
        for segment in segments:
            for number in range(segment.start, segment.stop):
                link = self.links[number]
                kept = link.points if whole else segment.kept(number, link)
                x = _Again(self, number, x, kept).run(output=number != final)


def _segment_of(segments: Sequence[Segment], number: int) -> Segment:
    return next(segment for segment in segments if segment.start <= number < segment.stop)


class _Forward:
    """The first run of a link, recorded by autograd."""

    def __init__(self, tape: Tape, number: int, kept: Sequence[int], activated: bool) -> None:
        self.tape, self.number, self.link = tape, number, tape.links[number]
        self.kept, self.activated = kept, activated

    def output(self, x: Tensor) -> Tensor:
        link = self.link
        self._keep(0, x)
        shortcut = x if link.shortcut == "identity" else None
        if link.shortcut == "input":
            shortcut = self._shortcut(x, self.tape.points[self.number][0])
        y = x
        for place, layer in enumerate(link.layers, start=1):
            source = self.tape.points[self.number][0]
            if layer.norm is not None:
                y, source = self._normalise(y, place), self.tape.activations[self.number][place]
            if place == 1 and link.shortcut == "activated":
                shortcut = self._shortcut(y, source)
            y = self._convolve(layer.convolution, y, source, place)
            self._keep(place, y)
        if link.last_norm is not None:
            y = self._normalise(y, link.last)
        if shortcut is not None and link.last_relu:
            return _rectified_sum(y, shortcut, self.tape, self.number)
        return link.output(y, shortcut, self._pool)

    def _keep(self, point: int, tensor: Tensor) -> None:
        if point in self.kept:
            self.tape.points[self.number][point].tensor = tensor.detach()

    def _shortcut(self, x: Tensor, source: _Slot) -> Tensor:
        link = self.link
        y = self._convolve(cast(nn.Conv2d, link.shortcut_convolution), x, source, 1)
        self._keep(link.last, y)
        return y if link.shortcut_norm is None else self._normalise(y, link.last + 1)

    def _normalise(self, x: Tensor, place: int) -> Tensor:
        norm = self.link.norms[place].module
        y = _Normalise.apply(x, norm.weight, norm.bias, self.tape, self.number, place)  # type: ignore[no-untyped-call]
        # What is only added to the other branch nobody asks for again.
        if self.activated and (place < self.link.last or self.link.norms[place].relu):
            self.tape.activations[self.number][place].tensor = y.detach()
        return cast(Tensor, y)

    def _convolve(self, convolution: nn.Conv2d, x: Tensor, source: _Slot, place: int) -> Tensor:
        """A convolution that finds its input by its place instead of holding it."""
        tape, number, storage = self.tape, self.number, _storage(x)
        normalised = source is not tape.points[number][0]

        def fetch() -> Tensor:
            tensor = tape.activation(number, place) if normalised else tape.point(number, 0)
            source.release()
            return tensor

        def pack(tensor: Tensor) -> Any:
            if _storage(tensor) != storage:
                if tensor.dtype != convolution.weight.dtype and tensor.shape == convolution.weight.shape:
                    tape.cast_weights[convolution] = tensor.detach()
                return tensor
            source.uses += 1
            return fetch

        with torch.autograd.graph.saved_tensors_hooks(pack, _unpack):
            return cast(Tensor, convolution(x))

    def _pool(self, y: Tensor) -> Tensor:
        tape, number, place = self.tape, self.number, self.link.last
        source = tape.activations[number][place]

        def fetch() -> Tensor:
            tensor = tape.activation(number, place)
            source.release()
            return tensor

        def pack(tensor: Tensor) -> Any:
            if not tensor.is_floating_point():
                return lambda: tape.pool_indices(number)
            source.uses += 1
            return fetch

        with torch.autograd.graph.saved_tensors_hooks(pack, _unpack):
            return max_pool(y)


def _storage(tensor: Tensor) -> int:
    """Which memory a tensor lies in."""
    return int(tensor.untyped_storage()._cdata)


def _rectified_sum(y: Tensor, shortcut: Tensor, tape: Tape, number: int) -> Tensor:
    return cast(Tensor, _RectifiedSum.apply(y, shortcut, tape, number))  # type: ignore[no-untyped-call]


def _unpack(saved: Tensor | Callable[[], Tensor]) -> Tensor:
    return saved if isinstance(saved, Tensor) else saved()


class _Again:
    """Another run of a link, without autograd, from its input and whatever points are there."""

    def __init__(self, tape: Tape, number: int, x: Tensor, kept: Sequence[int]) -> None:
        self.tape, self.number, self.link = tape, number, tape.links[number]
        self.x, self.kept = x, kept

    def run(self, output: bool) -> Tensor:
        """Fill the points to keep; returns the link's output, or its input when no output is wanted."""
        slots = self.tape.points[self.number]
        for point in self.kept:
            # What the backward pass is done with stays away.
            if slots[point].tensor is None and slots[point].uses:
                slots[point].tensor = self._point(point)
        return self.output() if output else self.x

    def _point(self, point: int) -> Tensor:
        if point == 0:
            return self.x
        slot = self.tape.points[self.number].get(point)
        if slot is not None and slot.tensor is not None:
            return slot.tensor
        if point == self.link.last:
            source = self._input(1) if self.link.shortcut == "activated" else self.x
            return self._convolve(cast(nn.Conv2d, self.link.shortcut_convolution), source)
        return self._convolve(self.link.layers[point - 1].convolution, self._input(point))

    def _convolve(self, convolution: nn.Conv2d, x: Tensor) -> Tensor:
        """A convolution with the weights that autocast had cast in the forward pass."""
        weight = self.tape.cast_weights.get(convolution)
        if weight is None:
            return cast(Tensor, convolution(x))
        return cast(Tensor, torch.func.functional_call(convolution, {"weight": weight}, (x,)))

    def _input(self, place: int) -> Tensor:
        """The input of the convolution at a place."""
        x = self._point(place - 1)
        return self.tape.normalised_again(self.number, place, x) if place in self.link.norms else x

    def output(self) -> Tensor:
        link = self.link
        y = self._input(link.last)
        shortcut = None
        if link.shortcut == "identity":
            shortcut = self.x
        elif link.shortcut != "none":
            shortcut = self._point(link.last)
            if link.shortcut_norm is not None:
                shortcut = self.tape.normalised_again(self.number, link.last + 1, shortcut)
        return link.output(y, shortcut, max_pool)


class _Normalise(torch.autograd.Function):
    """BatchNorm (and ReLU) that remembers its place on a tape instead of its input."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor, tape: Tape, number: int, place: int
    ) -> Tensor:
        norm = tape.links[number].norms[place]
        y, kept = batch_norm.normalise(norm.module, x, norm.relu)
        tape.statistics[number, place] = kept
        tape.points[number][norm.point].uses += 1
        # Our kernels find from their input where a ReLU passed.
        tape.activations[number][place].uses += norm.relu and not kept.ours
        ctx.place = tape, number, place
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,), (tape, number, place) = gradients, ctx.place
        norm, kept = tape.links[number].norms[place], tape.statistics[number, place]
        if norm.relu and not kept.ours:
            gradient = batch_norm.through_relu(gradient, tape.activation(number, place))
            tape.activations[number][place].release()
        x = tape.point(number, norm.point)
        results = batch_norm.backward(norm.module, x, kept, gradient, norm.relu, ctx.needs_input_grad[0])
        tape.points[number][norm.point].release()
        wanted = zip(results, ctx.needs_input_grad, strict=False)
        return *(result if want else None for result, want in wanted), None, None, None


class _RectifiedSum(torch.autograd.Function):
    """ReLU of branch plus shortcut; where it passed is computed again from what their BatchNorms keep anyway."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, shortcut: Tensor, tape: Tape, number: int) -> Tensor:
        ctx.place = tape, number
        return (y + shortcut).relu_()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        tape, number = ctx.place
        for point in tape.links[number].points:
            tape.point(number, point)
        output = _Again(tape, number, tape.point(number, 0), ()).output()
        gradient = torch.ops.aten.threshold_backward(gradients[0], output, 0)
        return gradient, gradient, None, None
