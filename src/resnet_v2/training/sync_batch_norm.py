"""BatchNorm over the images of all ranks, on any device, so that a split batch trains as the whole one would."""

from typing import Any, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from resnet_v2.networks.modules import gamma


class SyncBatchNorm(nn.BatchNorm2d):
    """BatchNorm2d whose batch is that of all ranks, of any and even unequal sizes (0 too).

    The mean first and then the mean square around it, each one sum over the ranks: raw pixels have means so far from 0
    that the difference of squares would lose its digits. torch's own module of this name refuses the CPU.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            mean, variance = self.running_mean, self.running_var
            return F.batch_norm(x, mean, variance, gamma(self), self.bias, eps=self.eps)
        kind, x = x.dtype, x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
        count = torch.tensor([x.numel() / x.shape[1]], dtype=x.dtype, device=x.device)
        dist.all_reduce(count)
        mean = _over_ranks(x.sum((0, 2, 3))) / count
        centred = x - mean[:, None, None]
        variance = _over_ranks(centred.square().sum((0, 2, 3))) / count
        self._move_statistics(mean.detach(), variance.detach() * (count / (count - 1)))
        scale = torch.rsqrt(variance + self.eps)
        if self.weight is not None:
            scale = scale * self.weight
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(kind)

    @torch.no_grad()
    def _move_statistics(self, mean: Tensor, variance: Tensor) -> None:
        momentum = cast(float, self.momentum)
        cast(Tensor, self.running_mean).lerp_(mean, momentum)
        cast(Tensor, self.running_var).lerp_(variance, momentum)


class _OverRanks(torch.autograd.Function):
    """The sum over all ranks; each rank's part moves the sum, and with it the loss of every rank."""

    @staticmethod
    def forward(context: Any, part: Tensor) -> Tensor:
        total = part.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total


def _over_ranks(part: Tensor) -> Tensor:
    return cast(Tensor, _OverRanks.apply(part))  # type: ignore[no-untyped-call]


def synchronize(network: nn.Module) -> None:
    """Turn every BatchNorm2d of a network into one over all ranks, with the same parameters and buffers."""
    for parent in list(network.modules()):
        for name, norm in list(parent.named_children()):
            if isinstance(norm, nn.BatchNorm2d):
                setattr(parent, name, _synchronized(norm))


def _synchronized(norm: nn.BatchNorm2d) -> SyncBatchNorm:
    new = SyncBatchNorm(norm.num_features, eps=norm.eps, momentum=norm.momentum, device=norm.bias.device)
    new.weight, new.bias = norm.weight, norm.bias  # a gamma fixed at 1 is no parameter, and stays none
    new.running_mean, new.running_var = norm.running_mean, norm.running_var
    return new.train(norm.training)
