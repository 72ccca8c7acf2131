"""BatchNorms behind a convolution become part of it: the same numbers with fewer operations."""

import copy
from typing import cast

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from resnet_v2.networks.resnet import PreActivationUnit, ResNet

# Convolution and the BatchNorm right behind it. In v2 the first BatchNorm of a unit follows a sum, and bn_data must
# come before the zeros around the image, so these stay.
V2_PAIRS = (("conv1", "bn2"), ("conv2", "bn3"))
V1_PAIRS = (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3"), ("conv1sc", "sc"))


@torch.no_grad()
def folded(network: ResNet) -> ResNet:
    """A copy of a network for evaluation alone, whose convolutions do the work of the BatchNorms behind them.

    A BatchNorm that is gone is an `nn.Identity`. Logits agree up to rounding; arXiv 1603.05027's order of layers keeps
    the first BatchNorm of every unit and `bn1`.
    """
    network = copy.deepcopy(network).eval()
    if network.bn0 is not None:
        network.conv0, network.bn0 = _fused(network.conv0, network.bn0), cast(nn.BatchNorm2d, nn.Identity())
    for unit in network.residual_units():
        for convolution, norm in V2_PAIRS if isinstance(unit, PreActivationUnit) else V1_PAIRS:
            if getattr(unit, convolution, None) is not None and getattr(unit, norm, None) is not None:
                setattr(unit, convolution, _fused(unit.get_submodule(convolution), unit.get_submodule(norm)))
                setattr(unit, norm, nn.Identity())
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def _fused(convolution: nn.Module, norm: nn.Module) -> nn.Conv2d:
    return fuse_conv_bn_eval(cast(nn.Conv2d, convolution), cast(nn.BatchNorm2d, norm))
