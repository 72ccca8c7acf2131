"""How somebody's training scaled its images, so that our networks can take them as they are, 0 to 255.

No file of MXNet says it. The first BatchNorm of a v2 network shows it: its moving statistics are those of the images
that it was trained on. In v1 it stands behind the first convolution, and shows less.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from resnet_v2.networks.architecture import EPSILON


class Scaling(NamedTuple):
    """Images are (pixel / 255 - mean) / deviation; `words` stands in sentences behind "images"."""

    words: str
    mean: tuple[float, ...]
    deviation: tuple[float, ...]


RAW = Scaling("of pixels 0 to 255", (0, 0, 0), (1 / 255,) * 3)
# The defaults of MXNet's train_imagenet.py and fine-tune.py, --rgb-mean 123.68,116.779,103.939.
LESS_MEAN = Scaling(
    "less the mean 123.68, 116.779, 103.939", (123.68 / 255, 116.779 / 255, 103.939 / 255), (1 / 255,) * 3
)
ZOO = Scaling(
    "scaled to 0 to 1, less the mean 0.485, 0.456, 0.406, over the deviation 0.229, 0.224, 0.225",
    (0.485, 0.456, 0.406),
    (0.229, 0.224, 0.225),
)
UNIT = Scaling("scaled to 0 to 1", (0, 0, 0), (1, 1, 1))
SIGNED = Scaling("scaled to -1 to 1", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
ALL = (RAW, LESS_MEAN, ZOO, UNIT, SIGNED)
# Photographs: the mean and the deviation of their pixels.
_USUAL_MEAN, _USUAL_DEVIATION = 116, 58
_FAR = 1.2
_ROUNDING = 1.001
_WHOLE = 0.9
# Of the deviation of images, 58 in pixels and about 1 otherwise, the most that a channel lets through; of their mean.
_PIXELS_THROUGH, _GREY_PIXELS, _GREY_UNIT = 2.5, 20, 0.2


def scaling_of(mean: Tensor, variance: Tensor, usual: Scaling) -> Scaling:
    """The scaling that moving statistics of images show (3 values each); `usual` where they leave it open.

    What is possible for pixels counts first: values from 0 to 255 of mean m have no larger variance than m (255 - m),
    and whole numbers of a mean below 1 no smaller one than m (1 - m).
    """
    if usual == RAW and _possible(RAW, mean, variance) and _whole(mean, variance):
        return RAW  # dark images of digits may look like anything else
    possible = [each for each in ALL if _possible(each, mean, variance)]
    found = min(possible, key=lambda each: _distance(each, mean, variance), default=usual)
    return found if _distance(found, mean, variance) < _FAR else usual


def behind_stem(state: Mapping[str, Tensor]) -> Scaling | None:
    """The scaling that `bn0` behind `conv0` shows in the state of a v1; None where no image has gone through it.

    The convolution of grey images of one value gives that value times the sums of its weights, which tells their mean.
    Their deviation is told to a tenth, by the channel that lets most of it through. So SIGNED is taken for ZOO.
    """
    weight, mean, variance = (state[name] for name in ("conv0.weight", "bn0.running_mean", "bn0.running_var"))
    fresh = not mean.any() and bool((variance == 1).all())
    if fresh or not torch.stack([mean, variance]).isfinite().all():
        return None
    weight, deviation = weight.double(), variance.double().clamp(min=1e-12).sqrt()
    sums = weight.sum((1, 2, 3)) / deviation
    grey = float((sums * (mean.double() / deviation)).sum() / (sums * sums).sum().clamp(min=1e-12))
    through = float((deviation / weight.abs().sum((1, 2, 3)).clamp(min=1e-12)).max())
    if through > _PIXELS_THROUGH:
        return RAW if grey > _GREY_PIXELS else LESS_MEAN
    return UNIT if grey > _GREY_UNIT else ZOO


def _pixels(scaling: Scaling, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of the pixels, 0 to 255, in float64."""
    deviation = 255 * torch.tensor(scaling.deviation, dtype=torch.float64)
    middle = 255 * torch.tensor(scaling.mean, dtype=torch.float64)
    return middle + deviation * mean.double(), deviation**2 * variance.double()


def _possible(scaling: Scaling, mean: Tensor, variance: Tensor) -> bool:
    pixels, squares = _pixels(scaling, mean, variance)
    return bool((squares <= _ROUNDING * pixels * (255 - pixels)).all())


def _whole(mean: Tensor, variance: Tensor) -> bool:
    """Whether values between 0 and 1 may be whole numbers; averages of batches stay a little below the bound."""
    inside = mean.clamp(0, 1).double()
    return bool((variance >= _WHOLE * inside * (1 - inside)).all())


def _distance(scaling: Scaling, mean: Tensor, variance: Tensor) -> float:
    pixels, squares = _pixels(scaling, mean, variance)
    deviation = float(squares.mean().clamp(min=1e-12).sqrt())
    return abs(float(pixels.mean()) - _USUAL_MEAN) / 60 + abs(math.log(deviation / _USUAL_DEVIATION))


def in_pixels(scaling: Scaling, mean: Tensor, variance: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """Moving statistics of scaled images -> those of `bn_data` on the pixels; `epsilon` is that of their BatchNorm."""
    pixels, squares = _pixels(scaling, mean, variance.double() + epsilon)
    return pixels.float(), (squares - EPSILON).float()


def out_of_pixels(scaling: Scaling, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Moving statistics of `bn_data` -> mean and variance, eps included, of scaled images; float64."""
    deviation = 255 * torch.tensor(scaling.deviation, dtype=torch.float64)
    middle = 255 * torch.tensor(scaling.mean, dtype=torch.float64)
    return (mean.double() - middle) / deviation, (variance.double() + EPSILON) / deviation**2
