"""Residual networks with pre-activation units (v2) and with the units of the first paper (v1).

He, Zhang, Ren, Sun: "Identity Mappings in Deep Residual Networks", arXiv 1603.05027 (v2), and "Deep Residual Learning
for Image Recognition", arXiv 1512.03385 (v1). Modules carry the parameter names of MXNet's symbols one to one:
`stage1.unit1.conv2.weight` is `stage1_unit1_conv2_weight`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from resnet_v2.config.fields import Stem, Version
from resnet_v2.networks import units
from resnet_v2.networks.architecture import IMAGENET_UNITS, Architecture
from resnet_v2.networks.modules import FixedGammaBatchNorm, Link, Unit, add_layers, run

# Kinds of units and shapes of batches that torch.compile may meet, in training and evaluation.
KINDS_OF_UNITS = 64


class ResNet(nn.Module):
    """A residual network for raw RGB images.

    Input: N x 3 x H x W, values 0-255, any floating type; v2 normalises them by its own first BatchNorm, v1 by the one
    behind its first convolution (and Gluon's by its own first one). Output: N x classes logits.

    `pass_by_plan` runs the chain of links in training where it keeps less than autograd for the backward pass (see
    `recompute.tape`); it changes no bit of the results.

    >>> ResNet(Architecture(depth=20, classes=10, stem="cifar"))(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """

    bn_data: FixedGammaBatchNorm
    conv0: nn.Conv2d
    fc1: nn.Linear

    def __init__(self, architecture: Architecture, batch_norm_momentum: float = 0.1) -> None:
        super().__init__()
        self.architecture = architecture
        self.pass_by_plan: Callable[[Sequence[Link], Tensor], Tensor] | None = None
        self.compiled, self._compiled_images = False, 0
        self._stem, self._head = units.stem(architecture), units.head(architecture)
        add_layers(self, self._stem, batch_norm_momentum)
        self.stages: list[str] = []
        for name, description in units.units(architecture).items():
            stage, unit = name.split(".")
            if stage not in self.stages:
                self.stages.append(stage)
                self.add_module(stage, nn.Sequential())
            self.get_submodule(stage).add_module(unit, Unit(description, batch_norm_momentum))
        add_layers(self, self._head, batch_norm_momentum)

    def __repr__(self) -> str:
        """What it is, on one line; a part, such as `network.stage1`, shows its layers."""
        numbers, mode = sum(one.numel() for one in self.parameters()), "training" if self.training else "evaluation"
        return f"ResNet({self.architecture}, {numbers:,} parameters, in {mode} mode)"

    def residual_units(self) -> Iterator[Unit]:
        """The units of all stages, from the input on."""
        for name in self.stages:
            yield from cast("Iterator[Unit]", getattr(self, name))

    def stem(self, x: Tensor) -> Tensor:
        """N x 3 x H x W images -> the first unit's input (see `units.stem`)."""
        return run(self._stem.steps, self, x)

    def links(self) -> tuple[Link, ...]:
        """The stem and the units as a chain."""
        return Link(self._stem, self), *(Link(unit.description, unit) for unit in self.residual_units())

    def maps(self, x: Tensor) -> Tensor:
        """N x 3 x H x W images -> N x filters x H/32 x W/32 (CIFAR: /4, pooled, dawn: /8), what the head averages."""
        return run(self._head.steps[:-2], self, self._units_of(x))

    def features(self, x: Tensor) -> Tensor:
        """N x 3 x H x W images -> N x filters pooled features, the input of `fc1`."""
        return run(self._head.steps[:-1], self, self._units_of(x)).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        return run(self._head.steps, self, self._units_of(x))

    def _units_of(self, x: Tensor) -> Tensor:
        """N x 3 x H x W images -> what the last unit gives."""
        if self.pass_by_plan is not None and self.training and torch.is_grad_enabled():
            return self.pass_by_plan(self.links(), x)
        as_written = self.compiled and not self._takes_compiled(x)
        x = self.stem(x)
        for unit in self.residual_units():
            x = unit.forward(x) if as_written else unit(x)
        return x

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

    def reset_classifier(self, classes: int, seed: int = 0) -> None:
        """Replace `fc1` by a new one for other classes, its weights drawn as by `initialize`, for fine-tuning."""
        old = self.fc1.weight
        self.architecture = replace(self.architecture, classes=classes)
        self._head = units.head(self.architecture)
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
            # The weights of a convolution, the gamma of a BatchNorm.
            nn.init.zeros_(unit.get_parameter(f"{unit.description.last_of_branch.name}.weight"))
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
