"""BatchNorm in training, with a ReLU behind it or none, on a GPU: the kernels of `triton_kernels` as torch's operators.

torch has no fast kernels for it in bfloat16, and none that computes the normalised and rectified x again in one pass
over memory. Variances are merged as by Chan, Golub, LeVeque, "Algorithms for Computing the Sample Variance" (1983);
the gradients are those of Ioffe, Szegedy, arXiv 1502.03167. The same input gives the same bits every time.

For every operator `x` is N x C x H x W in float32, bfloat16 or float16; where it is not in channels-last memory it is
copied. Statistics, weights and biases are float32 [C], and so is all arithmetic. The operators know FakeTensorMode, can
be captured into a CUDA graph once they have run, and belong into a `torch.autograd.Function`: autograd cannot see
through them.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import unset_fake_temporarily

from resnet_v2.console import say

# A call through a library of one's own takes 2 microseconds, through `torch.library.custom_op` 9 to 20 (measured on a
# CPU with empty functions), and a training step makes hundreds.
_LIBRARY = torch.library.Library("resnet_v2", "FRAGMENT")  # type: ignore[no-untyped-call]
_SCALES = "Tensor mean, Tensor deviation, Tensor weight, Tensor bias, bool relu"
_SCHEMAS = {
    "statistics": "(Tensor x, Tensor(a!) running_mean, Tensor(b!) running_var, float momentum, float eps)"
    " -> (Tensor, Tensor)",
    "normalise": f"(Tensor x, {_SCALES}) -> Tensor",
    "backward": f"(Tensor gradient, Tensor x, {_SCALES}, bool wants_input) -> (Tensor, Tensor, Tensor)",
}


@cache
def usable(device: torch.device) -> bool:
    """Whether the operators work on a device: tried once, on a GPU, with numbers that the CPU computes as well.

    Where they do not, a sentence on standard error says why. The first call waits for the GPU: not in a CUDA graph.
    """
    if device.type != "cuda" or not torch.cuda.is_available():
        return False
    try:
        with unset_fake_temporarily(), torch.inference_mode(False), torch.enable_grad():
            _try_out(device)
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        say(f"BatchNorm runs on torch's own kernels, slower in bfloat16: those in Triton fail on {device} ({reason}).")
        return False
    return True


@cache
def has_bfloat16(device: torch.device) -> bool:
    """Whether a device computes in bfloat16 by itself, as Triton's compiler wants it: from Ampere on."""
    return device.type != "cuda" or torch.cuda.get_device_capability(device) >= (8, 0)


def _try_out(device: torch.device) -> None:
    """Raise an error unless all kernels agree with torch in float64 on a few numbers."""
    # Whole numbers, so that bfloat16, the type that most cards lack, holds them; after BatchNorm none is close to 0.
    x = (torch.arange(1600, dtype=torch.float64, device="cpu") * 37 % 101).view(4, 16, 5, 5) + 100
    gradient = x.flip(1) % 7 - 3
    ends = (0, 1), (1, 2), (0.5, 2), (-1, 1)
    mean, variance, weight, bias = (torch.linspace(first, last, 16).to(x) for first, last in ends)
    moved, spread, gamma, beta = (tensor.to(device, torch.float32) for tensor in (mean, variance, weight, bias))
    leaves = x.requires_grad_(), weight.requires_grad_(), bias.requires_grad_()
    y = F.batch_norm(x, mean, variance, weight, bias, True, 0.1, 1e-5).relu()
    expected = y, *torch.autograd.grad(y, leaves, gradient), mean, variance

    kind = torch.bfloat16 if has_bfloat16(device) else torch.float16
    x, gradient = x.detach().to(device, kind), gradient.to(device, kind)
    found = _statistics(x, moved, spread, 0.1, 1e-5)
    y = _normalise(x, *found, gamma, beta, True)
    results = y, *_backward(gradient, x, *found, gamma, beta, True, True), moved, spread
    for ours, theirs in zip(results, expected, strict=True):
        # The distance of neighbours in bfloat16.
        if not torch.allclose(ours.to("cpu", torch.float64), theirs, rtol=1 / 128, atol=1e-3):
            raise ArithmeticError("their results differ from torch's")


class _Cut(NamedTuple):
    """How a tensor is cut for the programs: by its shape alone, since the order of sums, and so their bits, follow it.

    A tile is `width` channels wide. A block is `length` rows, `tiles` tiles one below the other. A program takes a
    tile, of `programs`, or all of a block, of `block_programs`, or merges some channels, of `merge_programs`.
    """

    rows: int
    channels: int
    width: int
    tiles: int
    length: int
    blocks: int
    programs: int
    block_programs: int
    merge_programs: int


def _cut(x: Tensor) -> _Cut:
    constants, channels = _kernels(), x.shape[1]
    rows = x.numel() // channels
    # 64 channels fill a line of 128 bytes in 16 bits; of fewer channels all lie in one piece.
    width = min(64, _power_of_two(channels))
    height, columns = constants.TILE.value // width, -(-channels // width)
    in_a_column = -(-rows // height)
    # About 1024 programs, whatever the channels: they fill any card, and leave few sums to merge.
    tiles = -(-in_a_column // max(1, constants.MOST_BLOCKS.value // _power_of_two(columns)))
    blocks = -(-in_a_column // tiles)
    all_programs = in_a_column * columns, blocks * columns, -(-channels // constants.MERGED.value)
    return _Cut(rows, channels, width, tiles, height * tiles, blocks, *all_programs)


def _power_of_two(number: int) -> int:
    """The smallest one that is not below a number."""
    return 1 << (number - 1).bit_length()


@cache
def _kernels() -> Any:
    from resnet_v2.networks import triton_kernels

    return triton_kernels


def _statistics(
    x: Tensor, running_mean: Tensor, running_var: Tensor, momentum: float, eps: float
) -> tuple[Tensor, Tensor]:
    """The mean [C] and the deviation [C], 1 / sqrt(biased variance + eps); moves the running statistics in place.

    They become (1 - momentum) * running + momentum * new with the unbiased variance, as by `F.batch_norm`; N x H x W
    must be at least 2.
    """
    x, kernels = _dense(x), _kernels()
    cut = _cut(x)
    results = _empty_statistics(x)
    parts = results[0].new_empty(cut.blocks, 2, cut.channels)
    sizes = cut.rows, cut.channels, cut.blocks, cut.length
    # Triton launches on the current card, whichever the tensors are on.
    with torch.cuda.device(x.get_device()):
        _launch(kernels.partial_statistics, cut.block_programs, x, parts, cut.rows, cut.channels, cut.tiles, cut.width)
        moved = running_mean, running_var
        _launch(kernels.merge_statistics, cut.merge_programs, parts, *moved, *results, *sizes, momentum, eps, warps=8)
    return results


def _normalise(x: Tensor, mean: Tensor, deviation: Tensor, weight: Tensor, bias: Tensor, relu: bool) -> Tensor:
    """(x - mean) * deviation * weight + bias, with `relu` not below 0, as N x C x H x W in x's type; NaN stays NaN."""
    x, kernels = _dense(x), _kernels()
    cut = _cut(x)
    y = _empty_output(x)
    scales = mean, deviation, weight, bias
    with torch.cuda.device(x.get_device()):
        _launch(kernels.normalise, cut.programs, x, y, *scales, cut.rows, cut.channels, relu, cut.width)
    return y


def _backward(gradient: Tensor, x: Tensor, *scales_and_flags: Any) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of x, weight and bias from that of what `normalise` gave, whose strides may be any.

    Where the ReLU passed is computed again from x. Without `wants_input` the gradient of x is not: it is empty, [0].
    """
    *scales, relu, wants_input = scales_and_flags
    gradient, x, kernels = _dense(gradient), _dense(x), _kernels()
    cut = _cut(x)
    by_x, *by_scales = results = _empty_gradients(gradient, x, wants_input)
    parts = by_scales[0].new_empty(cut.blocks, 2, cut.channels)
    inputs, sizes = (gradient, x, *scales), (cut.rows, cut.channels)
    with torch.cuda.device(x.get_device()):
        _launch(kernels.partial_gradients, cut.block_programs, *inputs, parts, *sizes, cut.tiles, relu, cut.width)
        _launch(kernels.merge_gradients, cut.merge_programs, parts, *by_scales, cut.channels, cut.blocks, warps=8)
        if wants_input:
            _launch(kernels.input_gradient, cut.programs, *inputs, *by_scales, by_x, *sizes, relu, cut.width)
    return results


def _launch(kernel: Any, programs: int, *arguments: Any, warps: int = 4) -> None:
    """Without fused multiply-adds: which ones a compiler makes would decide the bits, and Triton's defaults differ."""
    kernel[(programs,)](*arguments, num_warps=warps, enable_fp_fusion=False)


def _dense(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _empty_statistics(x: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    mean = x.new_empty(x.shape[1], dtype=torch.float32)
    return mean, torch.empty_like(mean)


def _empty_output(x: Tensor, *_: object) -> Tensor:
    return torch.empty_like(x, memory_format=torch.channels_last)


def _empty_gradients(gradient: Tensor, x: Tensor, *flags: object) -> tuple[Tensor, Tensor, Tensor]:
    return _empty_output(x) if flags[-1] else x.new_empty(0), *_empty_statistics(x)


for _name, _on_gpu, _fake in (
    ("statistics", _statistics, _empty_statistics),
    ("normalise", _normalise, _empty_output),
    ("backward", _backward, _empty_gradients),
):
    _LIBRARY.define(_name + _SCHEMAS[_name])  # type: ignore[no-untyped-call]
    _LIBRARY.impl(_name, _on_gpu, "CUDA")  # type: ignore[no-untyped-call]
    torch.library.register_fake(f"resnet_v2::{_name}", _fake, lib=_LIBRARY)

# The operators; what they do is said at the functions that they run, `_statistics`, `_normalise` and `_backward`.
statistics: Callable[[Tensor, Tensor, Tensor, float, float], tuple[Tensor, Tensor]]
normalise: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, bool], Tensor]
backward: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, bool, bool], tuple[Tensor, Tensor, Tensor]]
statistics, normalise, backward = (getattr(torch.ops.resnet_v2, name).default for name in _SCHEMAS)
