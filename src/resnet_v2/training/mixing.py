"""Mixup and CutMix: two neighbours in the epoch's order are mixed with each other, their images and their labels.

Zhang et al., arXiv 1710.09412, and Yun et al., arXiv 1905.04899. A pair stays on one rank (`data.order.split`), and
what is drawn for it depends on the seed, the epoch and the ordinal of its first image alone.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resnet_v2.config.training import TrainConfig
from resnet_v2.data.labels import Labels
from resnet_v2.training.feed import Fed

TOGETHER = 2  # images of a pair
PAIRS = 1  # in a counter of random numbers, where the streams of images have 0
SHARE, TOP, BOTTOM, LEFT, RIGHT = range(5)  # of what is drawn for a pair

Drawn = NDArray[np.float32]


def kept_together(config: TrainConfig) -> int:
    """How many neighbours of the epoch's order must be on the same rank."""
    return TOGETHER if config.augmentation.mixes else 1


def mixed(config: TrainConfig, labels: Labels, epoch: int, fed: Fed) -> tuple[Tensor, Tensor]:
    """Images and labels of a batch as the network is trained on them: as they are, or mixed where that is asked for.

    Mixed images are n x H x W x 3, float32, mixed labels n x classes, float32. A last image without a partner stays.
    """
    if not config.augmentation.mixes:
        return fed.images, fed.labels
    firsts = fed.ordinals[: len(fed.ordinals) // 2 * 2 : 2]
    drawn = draw_pairs(config, epoch, firsts, fed.images.shape[1])
    truth = fed.labels if fed.labels.is_floating_point() else _one_hot(fed.labels, labels.classes)
    return mix(fed.images, truth, drawn)


def draw_pairs(config: TrainConfig, epoch: int, firsts: NDArray[np.int64], size: int) -> Drawn:
    """For n pairs, by their first images, of `size` pixels a side (n x 5): by how much of the other an image is
    replaced everywhere, and the edges of the box, which may be empty, where it is the other.
    """
    rows = [_draw(config, epoch, ordinal, size) for ordinal in firsts.tolist()]
    return np.array(rows, np.float32).reshape(-1, 5)


def _draw(config: TrainConfig, epoch: int, ordinal: int, size: int) -> tuple[float, int, int, int, int]:
    """One of both where both are asked for."""
    its, seed = config.augmentation, config.optimisation.seed
    key, counter = np.array([seed, epoch], np.uint64), np.array([0, 0, PAIRS, ordinal], np.uint64)
    generator = np.random.Generator(np.random.Philox(key=key, counter=counter))
    one_of_both, row, column = generator.random(3).tolist()
    if its.mixup and not (its.cutmix and one_of_both < 0.5):
        return float(generator.beta(its.mixup, its.mixup)), 0, 0, 0, 0
    side = size * math.sqrt(generator.beta(its.cutmix, its.cutmix))
    # The middle of the box lies anywhere in the image, and what reaches beyond is cut off.
    edges = [(round(size * middle - side / 2), round(size * middle + side / 2)) for middle in (row, column)]
    (top, bottom), (left, right) = [(max(0, first), min(size, last)) for first, last in edges]
    return 0.0, top, bottom, left, right


def mix(images: Tensor, truth: Tensor, drawn: Drawn) -> tuple[Tensor, Tensor]:
    """Mix each image with its neighbour: n x H x W x 3 and n x classes, float32, and what is drawn for n // 2 pairs."""
    count, (height, width) = len(drawn), images.shape[1:3]
    by_pair = _on_device(drawn, images.device)
    share, top, bottom, left, right = by_pair.T.reshape(5, count, 1, 1)
    rows = torch.arange(height, device=images.device).reshape(1, -1, 1)
    columns = torch.arange(width, device=images.device).reshape(1, 1, -1)
    inside = (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)
    replaced = torch.where(inside, 1.0, share)[..., None]
    area = (by_pair[:, BOTTOM] - by_pair[:, TOP]) * (by_pair[:, RIGHT] - by_pair[:, LEFT]) / (height * width)
    return _exchange(images.float(), replaced), _exchange(truth.clone(), (by_pair[:, SHARE] + area)[:, None])


def _exchange(values: Tensor, replaced: Tensor) -> Tensor:
    """Replace a share of the first of each pair by the second one's, and the other way round; in place."""
    pairs = values[: 2 * len(replaced)]
    first, second = pairs[0::2], pairs[1::2]
    change = (second - first) * replaced
    first += change
    second -= change
    return values


def _one_hot(classes: Tensor, count: int) -> Tensor:
    return (classes[:, None] == torch.arange(count, device=classes.device)).float()


def _on_device(drawn: Drawn, device: torch.device) -> Tensor:
    """On a GPU without waiting for the steps that it is behind."""
    values = torch.from_numpy(drawn)
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)
