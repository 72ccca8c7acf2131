"""Which images of class folders are trained on and which are held out: by class, at random, and what looks alike on one
side.

Images are numbers in flat arrays: 14.2 million of them, all of ImageNet, take less than 1 GiB.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from resnet_v2.console import counted
from resnet_v2.data.lists import ListEntry
from resnet_v2.errors import ResnetError

AT_ONCE = 1 << 20  # images whose labels are looked up together
Labelled = list[tuple[int, NDArray[np.uint32]]]  # labels, and the images of each


@dataclass(frozen=True)
class ClassFolders:
    """By class name, in label order, the numbers of the class's images in the order of their paths, and what turns a
    number into its path below the root."""

    images_of: Mapping[str, NDArray[np.uint32]]
    path: Callable[[int], str]


@dataclass(frozen=True)
class Lines:
    """The lines of a list to be: labels (int32) and the numbers of the images (uint32), both N."""

    labels: NDArray[np.int32]
    images: NDArray[np.uint32]

    def __len__(self) -> int:
        return len(self.labels)

    def entries(self, path: Callable[[int], str]) -> Iterator[ListEntry]:
        """The list's entries one by one, indexed from 0."""
        for index, (label, image) in enumerate(zip(self.labels, self.images, strict=True)):
            yield ListEntry(index, (float(label),), path(int(image)))


def split(
    classes: ClassFolders, held_out: Callable[[int], int], seed: int, groups: NDArray[np.int64] | None = None
) -> tuple[Lines, Lines]:
    """Shuffled lines for training and validation; of a class of n images `held_out(n)` are held out.

    The same seed gives the same lists. `groups`, a number for each image, keeps images of one number on one side, where
    fewer may then be held out; where all numbers differ the lists are the same. Raises ResnetError when a class would
    have no image to train on.
    """
    generator = np.random.default_rng(seed)
    sides = None if groups is None else _Sides(classes, held_out, groups)
    train: Labelled = []
    validation: Labelled = []
    for label, (name, images) in enumerate(classes.images_of.items()):
        wanted = held_out(len(images))
        if wanted >= len(images):
            raise ResnetError(
                f"Class {name} has {counted(len(images), 'image')}, too few to hold out {wanted} for validation; "
                f"give a smaller share or `min_images` {wanted + 1}."
            )
        ordered = images[generator.permutation(len(images))]
        held = np.arange(len(ordered)) < wanted if sides is None else sides.held_out(label, ordered)
        validation.append((label, ordered[held]))
        train.append((label, ordered[~held]))
    return shuffled_lines(train, generator), shuffled_lines(validation, generator)


class _Sides:
    """On which side each group is, decided when its first image comes."""

    def __init__(self, classes: ClassFolders, held_out: Callable[[int], int], groups: NDArray[np.int64]) -> None:
        self._groups = groups
        self._left = [held_out(len(images)) for images in classes.images_of.values()]
        self._held: dict[int, bool] = {}
        self._members: dict[int, dict[int, int]] = {}  # of groups with several images: how many of which class
        alone = np.bincount(groups) < 2
        for label, images in enumerate(classes.images_of.values()):
            for group in groups[images][~alone[groups[images]]].tolist():
                members = self._members.setdefault(group, {})
                members[label] = members.get(label, 0) + 1

    def held_out(self, label: int, images: NDArray[np.uint32]) -> NDArray[np.bool_]:
        """Which of a class's images, in the order in which they are looked at, are held out."""
        return np.array([self._is_held(label, int(group)) for group in self._groups[images]], np.bool_)

    def _is_held(self, label: int, group: int) -> bool:
        if group not in self._held:
            members = self._members.get(group, {label: 1})
            self._held[group] = all(count <= self._left[its] for its, count in members.items())
            if self._held[group]:
                for its, count in members.items():
                    self._left[its] -= count
        return self._held[group]


def shuffled_lines(classes: Labelled, generator: np.random.Generator) -> Lines:
    """The lines of all images, in an order of their own."""
    all_images = np.concatenate([images for _, images in classes])
    order = generator.permutation(len(all_images))
    ends, its_label = np.cumsum([len(images) for _, images in classes]), np.array([label for label, _ in classes])
    labels = np.empty(len(order), np.int32)
    for start in range(0, len(order), AT_ONCE):  # all at once would take 16 bytes more of each image
        some = slice(start, start + AT_ONCE)
        labels[some] = its_label[np.searchsorted(ends, order[some], side="right")]
    return Lines(labels, all_images[order])
