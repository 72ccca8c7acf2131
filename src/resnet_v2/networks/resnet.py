"""Residual networks with pre-activation units (v2) and with the units of the first paper (v1).

He, Zhang, Ren, Sun: "Identity Mappings in Deep Residual Networks", arXiv 1603.05027 (v2), and "Deep Residual Learning
for Image Recognition", arXiv 1512.03385 (v1). Modules carry the parameter names of MXNet's symbols one to one:
`stage1.unit1.conv2.weight` is `stage1_unit1_conv2_weight`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnet_v2.networks.architecture import EPSILON, IMAGENET_UNITS, Architecture, Stem, Version
from resnet_v2.networks.batch_norm import FixedGammaBatchNorm
from resnet_v2.networks.chain import Layer, Link, max_pool

# Kinds of units and shapes of batches that torch.compile may meet, in training and evaluation.
KINDS_OF_UNITS = 64


def _batch_norm(channels: int, momentum: float) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=EPSILON, momentum=momentum)


def _convolution(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)


def _activated(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """ReLU of the normalised x, in the place of the latter: its backward pass needs x alone, so memory is spared."""
    return F.relu(norm(x), inplace=True)


class PreActivationUnit(nn.Module):
    """BatchNorm and ReLU before every convolution; the sum is left as it is (arXiv 1603.05027, figure 1b).

    The first unit of every stage takes its shortcut from the activated input through a 1x1 convolution `sc`. Basic:
    two 3x3 convolutions, the first with the stride; bottleneck: 1x1, 3x3 with the stride, 1x1.

    Input: N x inputs x H x W. Output: N x outputs x H/stride x W/stride.
    """

    def __init__(
        self, inputs: int, outputs: int, stride: int, projected: bool, bottleneck: bool, momentum: float
    ) -> None:
        super().__init__()
        inner = outputs // 4 if bottleneck else outputs
        self.bn1 = _batch_norm(inputs, momentum)
        self.conv1 = _convolution(inputs, inner, 1) if bottleneck else _convolution(inputs, inner, 3, stride)
        self.bn2 = _batch_norm(inner, momentum)
        self.conv2 = _convolution(inner, inner, 3, stride if bottleneck else 1)
        if bottleneck:
            self.bn3 = _batch_norm(inner, momentum)
            self.conv3 = _convolution(inner, outputs, 1)
        self.bottleneck = bottleneck
        self.sc = _convolution(inputs, outputs, 1, stride) if projected else None

    def forward(self, x: Tensor) -> Tensor:
        activated = _activated(self.bn1, x)
        shortcut = x if self.sc is None else self.sc(activated)
        y = self.conv1(activated)
        y = self.conv2(_activated(self.bn2, y))
        if self.bottleneck:
            y = self.conv3(_activated(self.bn3, y))
        # In place: a convolution's backward pass does not need its output.
        return cast(Tensor, y.add_(shortcut))

    def zero_init_residual(self) -> None:
        """Let the unit begin as its shortcut: the weights behind everything else are zero."""
        nn.init.zeros_(self.conv3.weight if self.bottleneck else self.conv2.weight)

    def link(self) -> Link:
        """The unit as a link of the network's chain."""
        layers = [Layer(self.bn1, True, self.conv1), Layer(self.bn2, True, self.conv2)]
        if self.bottleneck:
            layers.append(Layer(self.bn3, True, self.conv3))
        return Link(tuple(layers), "identity" if self.sc is None else "activated", self.sc)


class PostActivationUnit(nn.Module):
    """The unit of arXiv 1512.03385: convolution, BatchNorm, ReLU; the sum is activated.

    As in Caffe and MXNet the stride stands on the first convolution (a bottleneck's 1x1), and the first unit of every
    stage projects its shortcut (`conv1sc`, then the BatchNorm `sc`). Shapes as in `PreActivationUnit`.
    """

    def __init__(
        self, inputs: int, outputs: int, stride: int, projected: bool, bottleneck: bool, momentum: float
    ) -> None:
        super().__init__()
        inner = outputs // 4 if bottleneck else outputs
        self.conv1 = _convolution(inputs, inner, 1 if bottleneck else 3, stride)
        self.bn1 = _batch_norm(inner, momentum)
        self.conv2 = _convolution(inner, inner, 3)
        self.bn2 = _batch_norm(inner, momentum)
        if bottleneck:
            self.conv3 = _convolution(inner, outputs, 1)
            self.bn3 = _batch_norm(outputs, momentum)
        self.bottleneck = bottleneck
        self.conv1sc = _convolution(inputs, outputs, 1, stride) if projected else None
        self.sc = _batch_norm(outputs, momentum) if projected else None

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.conv1sc is None or self.sc is None else self.sc(self.conv1sc(x))
        y = self.conv2(_activated(self.bn1, self.conv1(x)))
        y = self.bn3(self.conv3(_activated(self.bn2, y))) if self.bottleneck else self.bn2(y)
        # In place: the backward passes of the last BatchNorm and of the sum do not need their outputs.
        return F.relu(y.add_(shortcut), inplace=True)

    def zero_init_residual(self) -> None:
        """Let the unit begin as its activated shortcut: the last BatchNorm's gamma is zero."""
        nn.init.zeros_(self.bn3.weight if self.bottleneck else self.bn2.weight)

    def link(self) -> Link:
        """The unit as a link of the network's chain."""
        layers = [Layer(None, False, self.conv1), Layer(self.bn1, True, self.conv2)]
        if self.bottleneck:
            layers.append(Layer(self.bn2, True, self.conv3))
        return Link(
            tuple(layers), "identity" if self.conv1sc is None else "input", self.conv1sc, self.sc,
            last_norm=self.bn3 if self.bottleneck else self.bn2, last_relu=True,
        )  # fmt: skip


class ResNet(nn.Module):
    """A residual network for raw RGB images.

    Input: N x 3 x H x W, values 0-255, any floating type; v2 normalises them by its own first BatchNorm, v1 by the one
    behind its first convolution. Output: N x classes logits.

    `pass_by_plan` runs the chain of links in training where it keeps less than autograd for the backward pass (see
    `recompute.tape`); it changes no bit of the results.

    >>> ResNet(Architecture(depth=20, classes=10, stem="cifar"))(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """

    def __init__(self, architecture: Architecture, batch_norm_momentum: float = 0.1) -> None:
        super().__init__()
        self.architecture = architecture
        self.pass_by_plan: Callable[[Sequence[Link], Tensor], Tensor] | None = None
        self.compiled, self._compiled_images = False, 0
        filters = architecture.filters
        v2, large = architecture.version == "v2", architecture.large_images
        self.bn_data = FixedGammaBatchNorm(3, EPSILON, batch_norm_momentum) if v2 else None
        self.conv0 = _convolution(3, filters[0], 7, 2) if large else _convolution(3, filters[0], 3)
        self.bn0 = _batch_norm(filters[0], batch_norm_momentum) if architecture.norm_behind_conv0 else None
        self.stages = [f"stage{number}" for number in range(1, len(architecture.units) + 1)]
        for number, name in enumerate(self.stages):
            stride = 1 if number == 0 else 2
            self.add_module(name, self._stage(architecture, number, stride, batch_norm_momentum))
        self.bn1 = _batch_norm(filters[-1], batch_norm_momentum) if v2 else None
        self.fc1 = nn.Linear(filters[-1], architecture.classes)

    @staticmethod
    def _stage(architecture: Architecture, number: int, stride: int, momentum: float) -> nn.Sequential:
        unit = PreActivationUnit if architecture.version == "v2" else PostActivationUnit
        inputs, outputs = architecture.filters[number : number + 2]
        stage = nn.Sequential()
        stage.add_module("unit1", unit(inputs, outputs, stride, True, architecture.bottleneck, momentum))
        for index in range(2, architecture.units[number] + 1):
            stage.add_module(f"unit{index}", unit(outputs, outputs, 1, False, architecture.bottleneck, momentum))
        return stage

    def __repr__(self) -> str:
        """What it is, on one line; a part, such as `network.stage1`, shows its layers."""
        numbers, mode = sum(one.numel() for one in self.parameters()), "training" if self.training else "evaluation"
        return f"ResNet({self.architecture}, {numbers:,} parameters, in {mode} mode)"

    def residual_units(self) -> Iterator[nn.Module]:
        """The units of all stages, from the input on."""
        for name in self.stages:
            yield from cast(nn.Sequential, getattr(self, name))

    def stem(self, x: Tensor) -> Tensor:
        """N x 3 x H x W images -> the first unit's input: N x 64 x H/4 x W/4, N x 16 x H x W (CIFAR; pooled: half)."""
        if self.bn_data is not None:
            x = self.bn_data(x)
        x = self.conv0(x)
        if self.bn0 is not None:
            x = _activated(self.bn0, x)
        return max_pool(x) if self.architecture.pools else x

    def links(self) -> tuple[Link, ...]:
        """The stem and the units as a chain."""
        stem = Link(
            (Layer(self.bn_data, False, self.conv0),), last_norm=self.bn0, last_relu=self.bn0 is not None,
            pooled=self.architecture.pools,
        )  # fmt: skip
        return stem, *(cast(PreActivationUnit | PostActivationUnit, unit).link() for unit in self.residual_units())

    def maps(self, x: Tensor) -> Tensor:
        """N x 3 x H x W images -> N x filters x H/32 x W/32 (CIFAR: /4, pooled: /8), what is averaged at the end."""
        if self.pass_by_plan is not None and self.training and torch.is_grad_enabled():
            x = self.pass_by_plan(self.links(), x)
        else:
            as_written = self.compiled and not self._takes_compiled(x)
            x = self.stem(x)
            for unit in self.residual_units():
                x = unit.forward(x) if as_written else unit(x)
        return x if self.bn1 is None else _activated(self.bn1, x)

    def compile_units(self) -> None:
        """Compile each kind of unit, once (torch.compile by regions): a deep network has a few kinds."""
        torch._dynamo.config.cache_size_limit = max(torch._dynamo.config.cache_size_limit, KINDS_OF_UNITS)
        for unit in self.residual_units():
            unit.compile()
        self.compiled = True

    def _takes_compiled(self, x: Tensor) -> bool:
        """Whether compiled units are for this batch: one of training, of the usual number of images.

        Evaluation and an epoch's last, smaller batch would be compiled anew, for longer than they take.
        """
        if not self.training:
            return False
        self._compiled_images = self._compiled_images or len(x)
        return len(x) == self._compiled_images

    def features(self, x: Tensor) -> Tensor:
        """N x 3 x H x W images -> N x filters pooled features, the input of `fc1`."""
        return self.maps(x).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.fc1(self.features(x)))

    def reset_classifier(self, classes: int, seed: int = 0) -> None:
        """Replace `fc1` by a new one for other classes, its weights drawn as by `initialize`, for fine-tuning."""
        old = self.fc1.weight
        self.architecture = replace(self.architecture, classes=classes)
        self.fc1 = nn.Linear(self.fc1.in_features, classes, device=old.device, dtype=old.dtype)
        _draw(self.fc1, torch.Generator().manual_seed(seed))


def initialize(network: ResNet, seed: int, zero_init_residual: bool = False) -> ResNet:
    """Draw new weights in place: Gaussian with deviation sqrt(2/inputs), gamma 1, beta and biases 0.

    He et al., arXiv 1502.01852; MXNet's `Xavier(rnd_type="gaussian", factor_type="in", magnitude=2)`. The same seed
    gives the same weights, whatever was drawn before. `zero_init_residual` lets every unit begin as its shortcut (Goyal
    et al., arXiv 1706.02677, section 5.1, there by BatchNorm's gamma).
    """
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            _draw(module, generator)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
    if zero_init_residual:
        for unit in network.residual_units():
            cast(PreActivationUnit | PostActivationUnit, unit).zero_init_residual()
    return network


def default_stem(depth: int) -> Stem:
    """The stem that a depth is known with: imagenet for 18, 34, 50, 101, 152, 200 and 269, else cifar."""
    return "imagenet" if depth in IMAGENET_UNITS else "cifar"


def _draw(layer: nn.Conv2d | nn.Linear, generator: torch.Generator) -> None:
    deviation = (2 / layer.weight[0].numel()) ** 0.5
    # Drawn apart: filling a channels-last tensor in place would give other weights for the same seed.
    layer.weight.data.copy_(torch.empty(layer.weight.shape).normal_(0, deviation, generator=generator))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def resnet(
    depth: int, classes: int = 1000, version: Version = "v2", stem: Stem | None = None, seed: int = 0, width: int = 1
) -> ResNet:
    """A new network with drawn weights, in channels-last memory.

    `stem` None: that of `default_stem`; `width` multiplies the channels. A depth that does not exist raises ResnetError
    and names those that do.
    """
    network = ResNet(Architecture(depth, classes, stem or default_stem(depth), version, width))
    return initialize(network, seed).to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]
