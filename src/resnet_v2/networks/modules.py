"""Modules that run descriptions: the layers of a description by name, and how each step is computed."""

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnet_v2.networks.architecture import EPSILON
from resnet_v2.networks.description import INPUT, Description, Operation, Step


class Link(NamedTuple):
    """A description and the module that has its layers: a network is a chain of links, its stem and its units."""

    description: Description
    owner: nn.Module

    @property
    def norms(self) -> list[nn.BatchNorm2d]:
        """The BatchNorms."""
        names = (operation.name for operation in self.description.operations if operation.kind == "norm")
        return [cast(nn.BatchNorm2d, getattr(self.owner, name)) for name in names]


class Unit(nn.Module):
    """A residual unit, or whatever else a description says: N x C x H x W -> N x C' x H' x W'."""

    def __init__(self, description: Description, momentum: float) -> None:
        super().__init__()
        self.description = description
        add_layers(self, description, momentum)

    def forward(self, x: Tensor) -> Tensor:
        return run(self.description.steps, self, x)


class FixedGammaBatchNorm(nn.BatchNorm2d):
    """BatchNorm with gamma fixed at 1 and a beta that is learned: MXNet's `fix_gamma=True`, used on the raw images."""

    def __init__(self, channels: int, eps: float, momentum: float) -> None:
        super().__init__(channels, eps=eps, momentum=momentum)
        self.register_parameter("weight", None)

    def reset_parameters(self) -> None:
        self.reset_running_stats()
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        momentum = cast(float, self.momentum)
        mean, variance = self.running_mean, self.running_var
        return F.batch_norm(x, mean, variance, gamma(self), self.bias, self.training, momentum, self.eps)


def gamma(module: nn.BatchNorm2d) -> Tensor:
    """The gamma of a BatchNorm, or ones where it is fixed, made anew each time: no copy and no file holds them."""
    return torch.ones_like(module.bias, requires_grad=False) if module.weight is None else module.weight


def add_layers(owner: nn.Module, description: Description, momentum: float) -> None:
    """Make the layers of a description as submodules; `momentum` is the BatchNorms'."""
    for operation in description.layers:
        owner.add_module(operation.name, _layer(operation, description.widths[operation.inputs[0]], momentum))


def _layer(operation: Operation, inputs: int, momentum: float) -> nn.Module:
    if operation.kind == "norm":
        kind = FixedGammaBatchNorm if operation.fixed_gamma else nn.BatchNorm2d
        return kind(inputs, eps=EPSILON, momentum=momentum)
    if operation.kind == "dense":
        return nn.Linear(inputs, operation.channels)
    kernel = operation.kernel
    return nn.Conv2d(inputs, operation.channels, kernel, operation.stride, padding=kernel // 2, bias=False)


def run(steps: Sequence[Step], owner: nn.Module, x: Tensor) -> Tensor:
    """The output of a description's steps, by the layers of `owner`; what nobody wants any more is freed at once."""
    values = {INPUT: x}
    for step in steps:
        values[step.name] = x = compute(step, owner, [values[name] for name in step.operation.inputs], step.overwrites)
        for name in step.last_uses:
            del values[name]
    return x


def compute(step: Step, owner: nn.Module, inputs: Sequence[Tensor], overwrite: bool) -> Tensor:
    """What a step gives; a sum may `overwrite` its first input.

    In place a ReLU spares memory: the backward passes of a BatchNorm and of a sum do not need what they gave.
    """
    y = _arithmetic(step.operation, owner, inputs, overwrite)
    return F.relu(y, inplace=True) if step.relu else y


def _arithmetic(operation: Operation, owner: nn.Module, inputs: Sequence[Tensor], overwrite: bool) -> Tensor:
    kind, x = operation.kind, inputs[0]
    if kind == "add":
        return x.add_(inputs[1]) if overwrite else x + inputs[1]
    if kind == "multiply":
        return x * inputs[1]
    if kind == "relu":
        return F.relu(x)
    if kind == "sigmoid":
        return x.sigmoid()
    if kind == "mean":
        return x.mean((2, 3), keepdim=True)
    if kind == "max_pool":
        return F.max_pool2d(x, operation.kernel, operation.stride, operation.kernel // 2)
    layer = getattr(owner, operation.name)
    return cast(Tensor, layer(x.flatten(1) if kind == "dense" else x))
