"""Every picture of class folders looked at once, before anything is decided: can it be read, how large is it, and which
others does it look like?"""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from resnet_v2.console import Progress, agreeing, counted, say
from resnet_v2.data.claims import claimed_size
from resnet_v2.errors import ResnetError, printable
from resnet_v2.machine import processors
from resnet_v2.packing.archives import ImageFiles
from resnet_v2.packing.image_names import MOST_TOLD
from resnet_v2.packing.likeness import SIDE, Thumbnails, groups_of, thumbnail
from resnet_v2.packing.photos import read_upright
from resnet_v2.packing.splitting import ClassFolders

SEEN_SIDE = 4 * SIDE  # pixels of the shorter side, enough for a thumbnail
SMALLEST_SIDE = 8  # pixels; what is smaller shows nothing
MOST_NAMED = 20
MOST_COMPARED = 100_000  # pictures; four times as long for twice as many
AT_ONCE = 1024


@dataclass(frozen=True)
class Survey:
    """Of each picture by its number: the shorter side in pixels, 0 where it cannot be read, and its group of pictures
    that look alike (None: there are too many to compare). `problems` are sentences on those that cannot be read.
    """

    sides: NDArray[np.uint32]
    groups: NDArray[np.int64] | None
    problems: tuple[str, ...]

    def readable(self, classes: ClassFolders) -> ClassFolders:
        """The classes without pictures that cannot be read or are too small; a class without others is none."""
        kept = {name: images[self.sides[images] >= SMALLEST_SIDE] for name, images in classes.images_of.items()}
        return ClassFolders({name: images for name, images in kept.items() if len(images)}, classes.path)


class _Seen(NamedTuple):
    side: int
    thumbnail: Thumbnails | None
    problem: str


def survey(files: ImageFiles, classes: ClassFolders, threads: int = 0) -> Survey:
    """Look at every picture of some classes; raises ResnetError where there is none that can be read."""
    numbers = np.concatenate(list(classes.images_of.values())).tolist()
    last, compared = max(numbers) + 1, len(numbers) <= MOST_COMPARED
    sides, problems = np.zeros(last, np.uint32), list[str]()
    thumbnails = np.zeros((last if compared else 0, SIDE, SIDE, 3), np.uint8)
    for number, seen in _in_threads(files, classes, numbers, threads or processors()):
        sides[number] = seen.side
        if seen.problem:
            problems.append(seen.problem)
        elif compared and seen.thumbnail is not None:
            thumbnails[number] = seen.thumbnail
    if not compared:
        say(f"{len(numbers)} pictures are too many to look for ones that look alike; only the same bytes are told")
    return Survey(sides, _groups(thumbnails, sides) if compared else None, tuple(problems))


def _in_threads(
    files: ImageFiles, classes: ClassFolders, numbers: list[int], threads: int
) -> Iterator[tuple[int, _Seen]]:
    cv2.setNumThreads(0)  # the threads are ours
    with ThreadPoolExecutor(threads, thread_name_prefix="look") as pool, Progress("look", len(numbers)) as progress:
        for start in range(0, len(numbers), AT_ONCE):
            some = numbers[start : start + AT_ONCE]
            yield from progress.over(zip(some, pool.map(partial(_look, files, classes), some), strict=True))


def _look(files: ImageFiles, classes: ClassFolders, number: int) -> _Seen:
    path = classes.path(number)
    try:
        data = files.read(path)
    except ResnetError as error:
        return _Seen(0, None, str(error))
    try:
        pixels = read_upright(data, SEEN_SIDE)
        side = min(claimed_size(data) or read_upright(data, 0).shape[:2])
    except (ValueError, cv2.error) as error:
        return _Seen(0, None, f"{files.place(path)} is no readable image: {error}; replace or remove it.")
    return _Seen(side, thumbnail(pixels), "")


def _groups(thumbnails: Thumbnails, sides: NDArray[np.uint32]) -> NDArray[np.int64]:
    """The groups of pictures that can be read; each other one is alone."""
    groups, readable = np.arange(len(sides)), np.flatnonzero(sides)
    if len(readable):
        groups[readable] = readable[groups_of(thumbnails[readable])]
    return groups


def tell_of_left_out(root: Path, classes: ClassFolders, found: Survey) -> None:
    """Say on standard error which pictures cannot be read, and how many are left out, by their endings."""
    numbers = np.concatenate(list(classes.images_of.values()))
    sides = found.sides[numbers]
    for problem in found.problems[:MOST_NAMED]:
        say(f"left out: {problem}")
    _tell(root, classes, numbers[sides == 0], "cannot be read")
    too_small = (sides > 0) & (sides < SMALLEST_SIDE)
    _tell(
        root,
        classes,
        numbers[too_small],
        f"{agreeing(int(too_small.sum()), 'has', 'have')} fewer than {SMALLEST_SIDE} rows or columns",
    )


def _tell(root: Path, classes: ClassFolders, left_out: NDArray[np.uint32], what: str) -> None:
    if len(left_out):
        endings = Counter(PurePosixPath(classes.path(int(number))).suffix.lower() for number in left_out)
        told = ", ".join(f"{count} {ending}" for ending, count in endings.most_common(MOST_TOLD))
        example = printable(classes.path(int(left_out[0])))
        say(
            f"warning: {counted(len(left_out), 'picture')} of {root} {what} and "
            f"{agreeing(len(left_out), 'is', 'are')} left out ({told}), such as {example}"
        )
