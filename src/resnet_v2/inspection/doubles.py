"""Pictures that are there more than once: the same pixels, or the same picture to the eye."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from resnet_v2.interchange.optional import package

MOST_BITS = 4  # of 64 in which the hashes of one picture differ, saved twice
MOST_APART = 6.0  # of 255, by which the colours of 8 x 8 fields differ in the mean
# Hashes that differ in no more bits agree in one of so many parts at least.
BANDS = np.array_split(np.arange(64, dtype=np.uint64), MOST_BITS + 1)
ONES = np.array([bin(byte).count("1") for byte in range(256)], np.int64)
Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Group:
    """Pictures that are one, by their places in ascending order; `exact`: to the last pixel."""

    members: tuple[int, ...]
    exact: bool


def find_doubles(measures: NDArray[np.void]) -> list[Group]:
    """The groups of pictures that are one, by `looking.MEASURES`; the largest first."""
    _, first, copies = np.unique(measures["sum"], return_index=True, return_inverse=True)
    own = np.arange(len(measures))
    same = np.flatnonzero(first[copies] != own)
    near = np.concatenate([*_alike(measures[first]), np.empty((0, 2), np.int64)])
    ones, others = np.concatenate([same, first[near[:, 0]]]), np.concatenate([first[copies[same]], first[near[:, 1]]])
    sparse, graphs = package("scipy.sparse", "inspect"), package("scipy.sparse.csgraph", "inspect")
    links = sparse.coo_matrix((np.ones(len(ones), np.int8), (ones, others)), shape=(len(own), len(own)))
    _, group_of = graphs.connected_components(links, directed=False)
    order = np.argsort(group_of, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(group_of[order])) + 1)
    groups = [Group(tuple(one.tolist()), len(np.unique(measures["sum"][one])) == 1) for one in members if len(one) > 1]
    return sorted(groups, key=lambda group: (-len(group.members), group.members))


def _alike(measures: NDArray[np.void]) -> Iterator[Numbers]:
    """Pairs (k x 2) that look alike, of pictures of which no two have the same pixels."""
    hashes, tiny = measures["hash"], measures["tiny"].reshape(len(measures), -1).astype(np.int16)
    for band in BANDS:
        keys = (hashes >> band[0]) & np.uint64((1 << len(band)) - 1)
        order = np.argsort(keys, kind="stable")
        keys, shift = keys[order], 1
        while len(at := np.flatnonzero(keys[shift:] == keys[:-shift])):
            pairs = np.stack([order[at], order[at + shift]], 1)
            apart = hashes[pairs[:, 0]] ^ hashes[pairs[:, 1]]
            pairs = pairs[ONES[apart.view(np.uint8).reshape(-1, 8)].sum(1) <= MOST_BITS]
            distance = np.abs(tiny[pairs[:, 0]] - tiny[pairs[:, 1]]).mean(1)
            yield pairs[distance <= MOST_APART]
            shift += 1
            if shift >= len(keys):
                break
