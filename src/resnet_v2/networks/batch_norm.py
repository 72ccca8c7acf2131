"""BatchNorm of a backward pass that is written by hand: its statistics kept, its output made once more from them.

No autograd call here has a beta without a gamma: torch's CUDA kernels would give the beta no gradient, and cuDNN's are
only taken with both.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from resnet_v2.networks import kernels
from resnet_v2.networks.modules import gamma


@dataclass(frozen=True)
class Kept:
    """What the backward pass of a BatchNorm needs besides its input: `deviation` is 1 over the root of the variance.

    `reserve` and `implementation` are what torch's own kernels want back, where ours, of `kernels`, were not taken.
    """

    mean: Tensor
    deviation: Tensor
    reserve: Tensor | None = None
    implementation: int = 0

    @property
    def ours(self) -> bool:
        """Whether our kernels were taken."""
        return self.reserve is None


def normalise(module: nn.BatchNorm2d, x: Tensor, relu: bool) -> tuple[Tensor, Kept]:
    """BatchNorm (and ReLU) of N x C x H x W, and what is needed of it later; moves the moving statistics.

    It does not count the batch; `count_batch` does that for many at once.
    """
    mean, variance, momentum = module.running_mean, module.running_var, cast(float, module.momentum)
    if module.training and mean is not None and variance is not None and _takes_our_kernels(module, x):
        kept = Kept(*kernels.statistics(x, mean, variance, momentum, module.eps))
        return _by_our_kernel(module, x, kept, relu), kept
    y, kept = _by_torch(module, x, mean, variance)
    return y.relu_() if relu else y, kept


def count_batch(modules: Iterable[nn.BatchNorm2d]) -> None:
    """Add 1 to `num_batches_tracked` of those in training: of all at once, since a GPU starts a kernel each time."""
    counts = [module.num_batches_tracked for module in modules if module.training]
    if counts := [count for count in counts if count is not None]:
        torch._foreach_add_(counts, 1)


def normalise_again(module: nn.BatchNorm2d, x: Tensor, kept: Kept, relu: bool) -> Tensor:
    """The same bits that `normalise` gave, in one pass over memory where our kernels run."""
    if kept.ours:
        return _by_our_kernel(module, x, kept, relu)
    y = _by_torch_again(module, x, kept)
    return y.relu_() if relu else y


def backward(
    module: nn.BatchNorm2d, x: Tensor, kept: Kept, gradient: Tensor, relu: bool, wants_x: bool
) -> tuple[Tensor | None, Tensor, Tensor]:
    """The gradients of x (None if it is not wanted), gamma and beta, from that of the BatchNorm's output.

    `relu`: from that of the ReLU's output. Our kernels find from x where it passed; before torch's the caller takes the
    gradient through it, with `through_relu`.
    """
    weight = gamma(module).detach()
    if kept.ours:
        bias = module.bias.detach()
        found = kernels.backward(gradient, x, kept.mean, kept.deviation, weight, bias, relu, wants_x)
        return found[0] if wants_x else None, found[1], found[2]
    moving, settings = (module.running_mean, module.running_var), (module.training, module.eps, (wants_x, True, True))
    its = *moving, kept.mean, kept.deviation, *settings, kept.reserve
    results = torch.ops.aten._batch_norm_impl_index_backward(kept.implementation, x, gradient, weight, *its)
    return cast(tuple[Tensor | None, Tensor, Tensor], results)


def through_relu(gradient: Tensor, activation: Tensor) -> Tensor:
    """The gradient where a ReLU passed; overwrites it if it is one plain block of memory, as a convolution's is."""
    if gradient.stride() == activation.stride():
        return cast(Tensor, torch.ops.aten.threshold_backward.grad_input(gradient, activation, 0, grad_input=gradient))
    return cast(Tensor, torch.ops.aten.threshold_backward(gradient, activation, 0))


def _takes_our_kernels(module: nn.BatchNorm2d, x: Tensor) -> bool:
    """Whether a batch is what our kernels are for, on a GPU that runs them; torch's own take the rest."""
    fitting = (
        x.is_cuda
        and x.dtype in (torch.float32, torch.bfloat16, torch.float16)
        and module.bias.dtype == torch.float32
        and x.numel() >= 2 * x.shape[1]
        and x.is_contiguous(memory_format=torch.channels_last)
    )
    return fitting and kernels.usable(x.device) and (x.dtype != torch.bfloat16 or kernels.has_bfloat16(x.device))


def _by_our_kernel(module: nn.BatchNorm2d, x: Tensor, kept: Kept, relu: bool) -> Tensor:
    return kernels.normalise(x, kept.mean, kept.deviation, gamma(module).detach(), module.bias.detach(), relu)


def _by_torch(module: nn.BatchNorm2d, x: Tensor, mean: Tensor | None, variance: Tensor | None) -> tuple[Tensor, Kept]:
    """What `F.batch_norm` computes, and what its backward pass wants; moves the moving statistics that are given."""
    weight, bias, momentum = gamma(module).detach(), module.bias.detach(), cast(float, module.momentum)
    training, cudnn = module.training, torch.backends.cudnn.enabled
    results = torch._batch_norm_impl_index(x, weight, bias, mean, variance, training, momentum, module.eps, cudnn)
    return results[0], Kept(*results[1:])


def _by_torch_again(module: nn.BatchNorm2d, x: Tensor, kept: Kept) -> Tensor:
    dense = x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last)
    if not module.training:
        return _by_torch(module, x, module.running_mean, module.running_var)[0]
    if x.device.type != "cpu" or not dense:
        return _by_torch(module, x, None, None)[0]
    # torch's CPU kernel computes x * (weight * deviation) + (bias - mean * (weight * deviation)), rounded in this
    # order. In evaluation form with variance 1 and eps 0 it does the very same to a weight that holds the deviation
    # already.
    weight, ones = gamma(module).detach() * kept.deviation, torch.ones_like(kept.mean)
    return torch.native_batch_norm(x, weight, module.bias.detach(), kept.mean, ones, False, 0.0, 0.0)[0]
