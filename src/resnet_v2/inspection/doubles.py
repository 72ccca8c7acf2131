"""Pictures that are there more than once: the same pixels, or the same picture to the eye."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from resnet_v2.packing.likeness import groups_of


@dataclass(frozen=True)
class Group:
    """Pictures that are one, by their places in ascending order; `exact`: to the last pixel."""

    members: tuple[int, ...]
    exact: bool


def find_doubles(measures: NDArray[np.void]) -> list[Group]:
    """The groups of pictures that are one, by `looking.MEASURES`; the largest first."""
    group_of = groups_of(measures["thumbnail"])
    order = np.argsort(group_of, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(group_of[order])) + 1)
    groups = [Group(tuple(one.tolist()), len(np.unique(measures["sum"][one])) == 1) for one in members if len(one) > 1]
    return sorted(groups, key=lambda group: (-len(group.members), group.members))
