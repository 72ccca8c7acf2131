"""What becomes part of a layer: BatchNorms of a convolution, the temperature of the last layer."""

import copy
from dataclasses import replace

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from resnet_v2.networks.header import Header
from resnet_v2.networks.resnet import ResNet


@torch.no_grad()
def folded(network: ResNet) -> ResNet:
    """A copy of a network for evaluation alone, whose convolutions do the work of the BatchNorms behind them.

    A BatchNorm that is gone is an `nn.Identity`. Logits agree up to rounding. What does not stand right behind a
    convolution stays: in v2 `bn1`, the first BatchNorm of every unit, and `bn_data`, which must come before the zeros
    around the image.
    """
    network = copy.deepcopy(network).eval()
    for description, owner in network.links():
        for convolution, norm in description.folding:
            setattr(owner, convolution, fuse_conv_bn_eval(getattr(owner, convolution), getattr(owner, norm)))
            setattr(owner, norm, nn.Identity())
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


@torch.no_grad()
def with_temperature(network: ResNet, header: Header) -> tuple[ResNet, Header]:
    """A network whose own logits are divided by the header's temperature, for systems that know none, and its header.

    The same network where the temperature is 1, else a copy.
    """
    if header.temperature == 1:
        return network, header
    network = copy.deepcopy(network)
    for parameter in network.fc1.parameters():
        parameter.div_(header.temperature)
    return network, replace(header, temperature=1.0)


def norms_as_convolutions(network: ResNet) -> ResNet:
    """A folded network whose BatchNorms behind a sum are convolutions, 1x1 with a group for each channel.

    ONNX Runtime has no BatchNorm of whole numbers. `bn_data` stays, before the zeros around the image.
    """
    for _, owner in network.links():
        for name, norm in list(owner.named_children()):
            if isinstance(norm, nn.BatchNorm2d) and name != "bn_data":
                channels = norm.num_features
                alone = nn.Conv2d(channels, channels, 1, groups=channels, bias=False)
                nn.init.ones_(alone.weight)
                setattr(owner, name, fuse_conv_bn_eval(alone.eval(), norm))
    return network
