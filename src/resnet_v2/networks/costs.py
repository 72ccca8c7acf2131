"""Bytes and time of every link of a chain for one image, counted from its layers' shapes; nothing is computed.

Time is in floating point operations of a convolution; moving a byte through memory counts as FLOPS_PER_BYTE of them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from torch import nn

from resnet_v2.networks.chain import KERNEL, PADDING, STRIDE, Link

# Measured on 2 CPU cores (330 GFLOP/s in convolutions, 45 GB/s elementwise); only the choice among plans depends on it.
FLOPS_PER_BYTE = 7.0
INDEX_BYTES = 8


@dataclass(frozen=True)
class LinkCost:
    """A link's bytes and time for one image.

    `points`: bytes of every point; `activations`: of every normalised tensor that plain autograd keeps; `again`: time
    to compute a point anew from the one before it, `output_again` the output from the last one. `forward_peak`: bytes
    of temporary tensors while it runs; `backward_peak`: the same in its backward pass, gradients included, its points
    not; `plain_peak`: without recomputation. `renormalise`: time of computing its activations once more.
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


def link_costs(links: Sequence[Link], image_size: int, element_bytes: int = 4) -> tuple[LinkCost, ...]:
    """The costs of a network's links for images of `image_size` pixels a side; `element_bytes` is 2 under bf16."""
    costs = []
    side = image_size
    for number, link in enumerate(links):
        shapes = _shapes(link, side)
        costs.append(_cost(link, shapes, element_bytes, 4 if number == 0 else element_bytes))
        side = shapes.side
    return tuple(costs)


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


def _cost(link: Link, shapes: _Shapes, element: int, input_element: int) -> LinkCost:
    def moved(elements: float) -> float:
        return elements * element * FLOPS_PER_BYTE

    last = len(link.layers)
    sizes = {0: shapes.inputs[1], **shapes.outputs, link.last: shapes.shortcut}
    normed = {place: sizes[norm.point] for place, norm in link.norms.items()}
    # Plain autograd keeps what a convolution or a pooling takes in, not what is only added.
    saved = sum(size for place, size in normed.items() if place <= last or link.pooled)
    flops = sum(shapes.flops.values()) + shapes.shortcut_flops
    # Reading and writing for the BatchNorm's output and for the ReLU's.
    again = {place: shapes.flops[place] + moved(4 * normed.get(place, 0)) for place in range(1, last + 1)}
    again[link.last] = shapes.shortcut_flops + (moved(4 * normed.get(1, 0)) if link.shortcut == "activated" else 0)
    tail = moved(4 * normed.get(link.last, 0) + 4 * normed.get(link.last + 1, 0) + 3 * shapes.output)
    elementwise = sum(normed.values())
    points = {point: sizes[point] * (input_element if point == 0 else element) for point in link.points}
    return LinkCost(
        points=points,
        activations=saved * element,
        indices=shapes.output * INDEX_BYTES if link.pooled else 0,
        output=shapes.output * element,
        again=again,
        output_again=tail,
        # Four again, less two that overwriting saves against plain autograd's new tensors.
        renormalise=moved(2 * elementwise),
        forward=flops + moved(6 * elementwise + 3 * shapes.output),
        backward=2 * flops + moved(9 * elementwise + 3 * shapes.output),
        forward_peak=_forward_peak(link, shapes, sizes) * element,
        backward_peak=max(_backward_peaks(link, shapes, sizes, plain=False)) * element,
        plain_peak=max(_backward_peaks(link, shapes, sizes, plain=True)) * element,
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
