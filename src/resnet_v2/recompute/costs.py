"""Bytes and time of every link of a chain for one image, counted from its layers' shapes; nothing is computed.

Time is in seconds of a device, whose `Speeds` are given.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from torch import nn

from resnet_v2.networks.chain import KERNEL, PADDING, STRIDE, Link
from resnet_v2.recompute import speeds
from resnet_v2.recompute.speeds import Speeds

INDEX_BYTES = 8


@dataclass(frozen=True)
class LinkCost:
    """A link's bytes and time for one image.

    `points`: bytes of every point; `activations`: of every normalised tensor that plain autograd keeps; `again`: time
    to compute a point anew from the one before it, `output_again` the output from the last one. `forward_peak`: bytes
    of temporary tensors while it runs; `backward_peak`: the same in its backward pass, gradients included, its points
    not; `plain_peak`: without recomputation. `renormalise`: time of computing its activations once more. `kernels`: how
    many a step starts for it.
    """

    points: dict[int, int]
    activations: int
    indices: int
    output: int
    again: dict[int, float]
    output_again: float
    renormalise: float
    forward: float
    backward: float
    forward_peak: int
    backward_peak: int
    plain_peak: int
    kernels: int

    @property
    def whole(self) -> int:
        """Bytes of all points."""
        return sum(self.points.values())

    @property
    def plain(self) -> int:
        """Bytes that plain autograd keeps for the backward pass."""
        return self.whole + self.activations + self.indices


@dataclass
class _Shapes:
    """Elements of the tensors of a link: `inputs` and `outputs` of its layers by place, and its convolutions' work."""

    inputs: dict[int, int] = field(default_factory=dict)
    outputs: dict[int, int] = field(default_factory=dict)
    flops: dict[int, float] = field(default_factory=dict)
    shortcut: int = 0
    shortcut_flops: float = 0.0
    output: int = 0
    side: int = 0


def link_costs(
    links: Sequence[Link], image_size: int, element_bytes: int = 4, device: Speeds = speeds.CPU, batch_size: int = 128
) -> tuple[LinkCost, ...]:
    """The costs of a network's links for images of `image_size` pixels a side; `element_bytes` is 2 under bf16.

    `batch_size` images share the start of a kernel.
    """
    costs = []
    side = image_size
    for number, link in enumerate(links):
        shapes = _shapes(link, side)
        clock = _Clock(device, element_bytes, device.launch / batch_size)
        costs.append(_cost(link, shapes, element_bytes, 4 if number == 0 else element_bytes, clock))
        side = shapes.side
    return tuple(costs)


@dataclass(frozen=True)
class _Clock:
    """Seconds of single kernels for one image: no kernel takes less than its share of a start."""

    device: Speeds
    element: int
    start: float

    def moved(self, elements: float) -> float:
        """Reading or writing so many elements in a kernel."""
        return max(elements * self.element / self.device.bandwidth, self.start if elements else 0.0)

    def convolution(self, flops: float, inputs: float, outputs: float) -> float:
        """One convolution, in any direction."""
        return max(flops / self.device.flops(self.element), self.moved(inputs + outputs)) if flops else 0.0

    def passes(self, count: int, elements: Iterable[int]) -> float:
        """So many passes over each of several BatchNorms' elements, in kernels of two or three."""
        kernels = -(-count // 3)
        return sum(kernels * self.moved(count * some / kernels) for some in elements if kernels)


def _shapes(link: Link, side: int) -> _Shapes:
    shapes = _Shapes()
    first = side
    for place, layer in enumerate(link.layers, start=1):
        shapes.inputs[place] = layer.convolution.in_channels * side**2
        side = _side(layer.convolution, side)
        shapes.outputs[place] = layer.convolution.out_channels * side**2
        shapes.flops[place] = _flops(layer.convolution, side)
    if link.shortcut_convolution is not None:
        reduced = _side(link.shortcut_convolution, first)
        shapes.shortcut = link.shortcut_convolution.out_channels * reduced**2
        shapes.shortcut_flops = _flops(link.shortcut_convolution, reduced)
    shapes.output = shapes.outputs[len(link.layers)]
    if link.pooled:
        pooled = (side + 2 * PADDING - KERNEL) // STRIDE + 1
        shapes.output, side = shapes.output // side**2 * pooled**2, pooled
    shapes.side = side
    return shapes


def _side(convolution: nn.Conv2d, side: int) -> int:
    kernel, stride = convolution.kernel_size[0], convolution.stride[0]
    return (side + 2 * (kernel // 2) - kernel) // stride + 1


def _flops(convolution: nn.Conv2d, side: int) -> float:
    return 2.0 * convolution.weight.numel() * side**2


def _cost(link: Link, shapes: _Shapes, element: int, input_element: int, clock: _Clock) -> LinkCost:
    last, passes = len(link.layers), clock.device.passes
    sizes = {0: shapes.inputs[1], **shapes.outputs, link.last: shapes.shortcut}
    normed = {place: sizes[norm.point] for place, norm in link.norms.items()}
    # Plain autograd keeps what a convolution or a pooling takes in, not what is only added.
    saved = sum(size for place, size in normed.items() if place <= last or link.pooled)
    convolutions = {
        place: clock.convolution(shapes.flops[place], shapes.inputs[place], shapes.outputs[place])
        for place in range(1, last + 1)
    }
    shortcut = clock.convolution(shapes.shortcut_flops, shapes.inputs[1], shapes.shortcut)
    forward = sum(convolutions.values()) + shortcut

    def norm_again(*places: int) -> float:
        return clock.passes(passes.again, [normed[place] for place in places if place in normed])

    again = {place: time + norm_again(place) for place, time in convolutions.items()}
    again[link.last] = shortcut + (norm_again(1) if link.shortcut == "activated" else 0.0)
    summed = clock.moved(3 * shapes.output)
    points = {point: sizes[point] * (input_element if point == 0 else element) for point in link.points}
    return LinkCost(
        points=points,
        activations=saved * element,
        indices=shapes.output * INDEX_BYTES if link.pooled else 0,
        output=shapes.output * element,
        again=again,
        output_again=norm_again(link.last, link.last + 1) + summed,
        renormalise=clock.passes(passes.again - passes.spared, normed.values()),
        forward=forward + clock.passes(passes.forward, normed.values()) + summed,
        backward=2 * forward + clock.passes(passes.backward, normed.values()) + summed,
        forward_peak=_forward_peak(link, shapes, sizes) * element,
        backward_peak=max(_backward_peaks(link, shapes, sizes, plain=False)) * element,
        plain_peak=max(_backward_peaks(link, shapes, sizes, plain=True)) * element,
        kernels=3 * (len(convolutions) + bool(shortcut)) + 6 * len(normed) + 2,
    )


def _forward_peak(link: Link, shapes: _Shapes, sizes: dict[int, int]) -> int:
    """Elements of what is there besides the points: two neighbours in the row of tensors, and the shortcut's."""
    peaks = []
    for place in range(1, len(link.layers) + 1):
        peaks.append(shapes.inputs[place] + shapes.outputs[place])
        peaks.append(shapes.inputs[place] + (sizes[place - 1] if place > 1 else 0))
    if link.last_norm is not None:
        peaks.append(2 * shapes.outputs[len(link.layers)])
    return max(peaks) + shapes.shortcut


def _backward_peaks(link: Link, shapes: _Shapes, sizes: dict[int, int], plain: bool) -> Iterator[int]:
    """Elements of gradients and of activations computed again, at every step back through a link.

    In a `plain` network the activations are kept (and counted elsewhere), and a ReLU's gradient is a new tensor.
    """
    last = len(link.layers)
    gradient = shapes.output
    # The gradient of the output waits until the shortcut has taken it.
    waiting = shapes.output if link.shortcut != "none" else 0
    if link.pooled:
        size = sizes[last]
        indices = 0 if plain else shapes.output * INDEX_BYTES // 4 + size
        yield gradient + indices + size
        gradient = size
    if link.last_relu and link.shortcut != "none":
        yield gradient + (2 if not plain else 0) * shapes.output + shapes.output
    for place in (link.last + 1, link.last):
        if place in link.norms and place != 1:
            size = sizes[link.norms[place].point]
            yield waiting + gradient + size + (size if link.norms[place].relu else 0)
            gradient = size
    for place in range(last, 0, -1):
        size = shapes.inputs[place]
        normed = place in link.norms
        yield (waiting if place < last else 0) + gradient + size + (size if normed and not plain else 0)
        if place == 1 and shapes.shortcut:
            yield waiting + 2 * size + (size if normed and not plain else 0)
        gradient = size
        if normed:
            yield waiting + 2 * size
