"""Pictures that look alike: the same photo saved twice, at another size or quality, must not stand on both sides of a
split.

A picture is known by its thumbnail, 16 x 16 grey pixels, and by the 64 signs of the differences between neighbours in
it (the difference hash). Hashes that differ in few signs make candidates, their thumbnails decide.
"""

from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from resnet_v2.data.jpeg import Image

SIDE = 16  # of a thumbnail
HASH_BITS, BANDS = 64, 8
SIGNS_APART = BANDS - 1  # hashes that differ in no more signs are the same in one band at least
# Thumbnails differ on average by less than this share of how far their pixels are from their mean, and a level or two.
LEVELS_APART, SHARE_APART = 1.5, 0.15
AT_ONCE = 1 << 22  # pairs

Thumbnails = NDArray[np.uint8]  # n x SIDE x SIDE
Groups = NDArray[np.int64]


def thumbnail(pixels: Image) -> Thumbnails:
    """A picture (H x W x 3, uint8, RGB) as SIDE x SIDE grey pixels."""
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    return cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)


def groups_of(thumbnails: Thumbnails) -> Groups:
    """For each of n pictures the number of the first one that it looks like, its own where that is none before it.

    What looks like the same third picture is of one group.
    """
    flat = np.ascontiguousarray(thumbnails.reshape(len(thumbnails), SIDE * SIDE))
    _, first, of_unique = np.unique(flat.view(f"V{SIDE * SIDE}")[:, 0], return_index=True, return_inverse=True)
    unique = flat[first]
    parent = np.arange(len(unique))
    for one, other in _alike(unique, _hashes(unique)):
        _join(parent, one, other)
    roots = np.array([_root(parent, number) for number in range(len(unique))], np.int64)
    smallest = np.full(len(unique), len(flat), np.int64)
    np.minimum.at(smallest, roots, first)
    found: Groups = smallest[roots][of_unique.reshape(-1)]
    return found


def _hashes(flat: NDArray[np.uint8]) -> NDArray[np.uint64]:
    small = np.empty((len(flat), 8, 9), np.uint8)
    for number, one in enumerate(flat):
        small[number] = cv2.resize(one.reshape(SIDE, SIDE), (9, 8), interpolation=cv2.INTER_AREA)
    signs = np.packbits(small[:, :, 1:] > small[:, :, :-1], axis=None)
    return signs.view(np.uint64)


def _alike(flat: NDArray[np.uint8], hashes: NDArray[np.uint64]) -> Iterator[tuple[int, int]]:
    """Pairs of pictures that look alike."""
    mean = flat.mean(1, keepdims=True, dtype=np.float32)
    spread = np.abs(flat - mean).mean(1)
    limits = LEVELS_APART + SHARE_APART * spread
    for one, other in _candidates(hashes):
        difference = np.abs(flat[one].astype(np.float32) - mean[one] - flat[other] + mean[other]).mean(1)
        close = difference <= np.minimum(limits[one], limits[other])
        yield from zip(one[close].tolist(), other[close].tolist(), strict=True)


def _candidates(hashes: NDArray[np.uint64]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Pairs of pictures whose hashes differ in at most SIGNS_APART signs; a pair may come several times."""
    width = -(-HASH_BITS // BANDS)
    for band in range(BANDS):
        keys = hashes >> np.uint64(width * band) & np.uint64((1 << width) - 1)
        order = keys.argsort(kind="stable")
        ends = np.flatnonzero(np.diff(keys[order], append=np.uint64(1 << width))) + 1
        for start, end in zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True):
            bucket = order[start:end]
            rows = max(1, AT_ONCE // max(1, len(bucket)))
            for first in range(0, len(bucket) - 1, rows):
                some = bucket[first : first + rows]
                apart = _signs_apart(hashes[some][:, None], hashes[bucket[first:]][None])
                row, column = np.nonzero(np.triu(apart <= SIGNS_APART, 1))
                yield some[row], bucket[first:][column]


def _signs_apart(one: NDArray[np.uint64], other: NDArray[np.uint64]) -> NDArray[np.uint8]:
    differing = np.ascontiguousarray((one ^ other)[..., None]).view(np.uint8)
    apart: NDArray[np.uint8] = _ONES[differing].sum(-1, dtype=np.uint8)
    return apart


_ONES = np.array([bin(number).count("1") for number in range(256)], np.uint8)


def _root(parent: NDArray[np.int64], number: int) -> int:
    while parent[number] != number:
        parent[number] = parent[parent[number]]
        number = int(parent[number])
    return number


def _join(parent: NDArray[np.int64], one: int, other: int) -> None:
    roots = sorted((_root(parent, one), _root(parent, other)))
    parent[roots[1]] = roots[0]
