"""A network as a chain of links: the stem and every residual unit, each as layers with known points between them.

A point is a tensor that the backward pass needs: 0 is a link's input, k the output of its k-th convolution, and the one
behind the last convolution's is a normalised shortcut's. What stands between two points is elementwise but for one
convolution: any point follows from the one before it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

KERNEL, STRIDE, PADDING = 3, 2, 1


@dataclass(frozen=True)
class Layer:
    """A convolution and what stands before it: nothing, a BatchNorm, or a BatchNorm and a ReLU."""

    norm: nn.BatchNorm2d | None
    relu: bool
    convolution: nn.Conv2d


@dataclass(frozen=True)
class Norm:
    """A BatchNorm of a link: the point it normalises, and whether a ReLU follows at once."""

    module: nn.BatchNorm2d
    relu: bool
    point: int


@dataclass(frozen=True)
class Link:
    """A stem or a residual unit.

    The layers follow one another; the last one's output is normalised by `last_norm`, if any. Then the shortcut is
    added: the link's input (`identity`), `shortcut_convolution` of the input (`input`) or of the first layer's
    normalised input (`activated`), and `shortcut_norm` of that, if any; then come `last_relu` and `pooled` (3x3 maxima,
    stride 2).
    """

    layers: tuple[Layer, ...]
    shortcut: Literal["none", "identity", "input", "activated"] = "none"
    shortcut_convolution: nn.Conv2d | None = None
    shortcut_norm: nn.BatchNorm2d | None = None
    last_norm: nn.BatchNorm2d | None = None
    last_relu: bool = False
    pooled: bool = False

    @cached_property
    def norms(self) -> dict[int, Norm]:
        """The BatchNorms by their place: k before the k-th convolution, then `last`, then the shortcut's."""
        found = {
            place: Norm(layer.norm, layer.relu, place - 1)
            for place, layer in enumerate(self.layers, start=1)
            if layer.norm is not None
        }
        if self.last_norm is not None:
            found[self.last] = Norm(self.last_norm, self.last_relu and self.shortcut == "none", self.last - 1)
        if self.shortcut_norm is not None:
            found[self.last + 1] = Norm(self.shortcut_norm, False, self.last)
        return found

    @property
    def last(self) -> int:
        """The place of `last_norm`, one behind the layers."""
        return len(self.layers) + 1

    @cached_property
    def points(self) -> tuple[int, ...]:
        """The points that the backward pass needs: the input and what a BatchNorm normalises."""
        return tuple(sorted({0} | {norm.point for norm in self.norms.values()}))

    def output(self, y: Tensor, shortcut: Tensor | None, pool: Callable[[Tensor], Tensor]) -> Tensor:
        """From the last layer's normalised output and the shortcut's to the link's; may overwrite `y`."""
        if shortcut is not None:
            y = y.add_(shortcut)
            y = y.relu_() if self.last_relu else y
        return pool(y) if self.pooled else y


def max_pool(y: Tensor) -> Tensor:
    """The pooling of a `pooled` link."""
    return F.max_pool2d(y, KERNEL, STRIDE, PADDING)


def max_pool_indices(y: Tensor) -> Tensor:
    """Where the maxima of `max_pool` stand, as its backward pass wants them."""
    return cast(Tensor, torch.ops.aten.max_pool2d_with_indices(y, KERNEL, STRIDE, PADDING)[1])
