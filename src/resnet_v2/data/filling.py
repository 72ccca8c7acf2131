"""Records -> finished images in their slots: read, draw, cut, decode, warp; each step for some images at a time.

It is the same in a worker process and in the process that takes the batches.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from resnet_v2.data import stages
from resnet_v2.data.augment import Augmentation, Draw, crops_alone, draw, draw_crops
from resnet_v2.data.jpeg import Encoded, Image, cut_all
from resnet_v2.data.labels import Labels, several_labels
from resnet_v2.data.philox import Streams
from resnet_v2.data.records import class_label, damaged, no_image_record
from resnet_v2.data.remote import RemoteFile
from resnet_v2.data.ring import Slots
from resnet_v2.data.rows import Box
from resnet_v2.data.sidecar import read_segments
from resnet_v2.data.source import Source
from resnet_v2.data.stored import Found, NoImageRecordError, find_images
from resnet_v2.data.warp import apply, centre_box, centre_crop
from resnet_v2.errors import ResnetError

AT_ONCE = 64  # images for which each step is made at once
IMAGES, PLACE = range(2)  # of `Filler.progress`
NOTHING = -1
FILE_BITS = 40  # of a place: the number of the file stands above that of the record
REDUCTIONS = (1, 2, 4, 8)  # of libjpeg
Whole = NDArray[np.int64]


class Look(Protocol):
    """What is done to one image: the pixels that it needs, and what puts them into their place in the batch."""

    @property
    def box(self) -> Box:
        """The pixels that are decoded."""

    @property
    def reduction(self) -> int:
        """By how much a JPEG may be decoded smaller: 1, 2, 4 or 8."""

    @property
    def channels(self) -> int:
        """3 (RGB), or 4, of which the last has no meaning: OpenCV warps those faster."""

    def finish(self, pixels: Image, out: Image) -> None:
        """Make `out` of the pixels of `box` (height x width x `channels`), which are all that is there.

        Raises ValueError where that cannot be.
        """


class Crops(NamedTuple):
    """Squares of n images: rows and columns where they begin (n, int64), their side, and which to mirror (n, bool)."""

    top: Whole
    left: Whole
    size: int
    mirror: NDArray[np.bool_]


class Preprocess(Protocol):
    """What becomes of images. Worker processes get it pickled."""

    def crops(self, ordinals: Whole, height: int, width: int) -> Crops | None:
        """What to do to images of one size where that is to crop and mirror them and no more; else None."""

    def looks(self, ordinals: Whole, heights: Whole, widths: Whole) -> Sequence[Look]:
        """What to do to n images of these ordinals and sizes in pixels."""


class _Warp(NamedTuple):
    box: Box
    drawn: Draw
    interpolation: str
    reduction: int
    channels: int

    def finish(self, pixels: Image, out: Image) -> None:
        apply(pixels, self.drawn, out, self.interpolation)


@dataclass(frozen=True)
class Augmented:
    """For training: what is drawn from (seed, epoch, ordinal).

    With `fast` a random resized crop of at least twice the size is decoded smaller, to no less than the size.
    """

    plan: Augmentation
    seed: int
    epoch: int
    fast: bool = False

    def crops(self, ordinals: Whole, height: int, width: int) -> Crops | None:
        """See `Preprocess`."""
        if not crops_alone(self.plan, height, width):
            return None
        return Crops(*draw_crops(self.plan, height, width, Streams(self.seed, self.epoch, ordinals)))

    def looks(self, ordinals: Whole, heights: Whole, widths: Whole) -> Sequence[Look]:
        """See `Preprocess`."""
        drawn = draw(self.plan, heights, widths, Streams(self.seed, self.epoch, ordinals))
        how = self.plan.interpolation
        return [_Warp(one.box, one.within_box(), how, self._reduction(one.source), _channels(one)) for one in drawn]

    def _reduction(self, source: Box | None) -> int:
        if source is None or not self.fast:
            return 1
        times = min(source.bottom - source.top, source.right - source.left) // self.plan.size
        return max(one for one in REDUCTIONS if one <= max(1, times))


def _channels(drawn: Draw) -> int:
    return 3 if drawn.matrix is None and drawn.source is None else 4


class _Centre(NamedTuple):
    box: Box
    reduction: int = 1
    channels: int = 3

    def finish(self, pixels: Image, out: Image) -> None:
        centre_crop(pixels, out)


@dataclass(frozen=True)
class Centred:
    """For evaluation: the centre crop of so many pixels a side."""

    size: int

    def crops(self, ordinals: Whole, height: int, width: int) -> Crops | None:
        """See `Preprocess`."""
        if min(height, width) < self.size:
            return None
        top, left = (np.full(len(ordinals), (side - self.size) // 2) for side in (height, width))
        return Crops(top, left, self.size, np.zeros(len(ordinals), np.bool_))

    def looks(self, ordinals: Whole, heights: Whole, widths: Whole) -> Sequence[Look]:
        """See `Preprocess`."""
        sizes = zip(heights.tolist(), widths.tolist(), strict=True)
        return [_Centre(centre_box(self.size, height, width)) for height, width in sizes]


class Failure(NamedTuple):
    """An image that could not be made: its row in the slot, and the sentence that names it."""

    row: int
    sentence: str


class Task(NamedTuple):
    """Some rows of a slot."""

    slot: int
    first: int
    images: int


@dataclass(frozen=True)
class Job:
    """What is made of a set's images; the same for all tasks.

    `paths` are the set's files, `path` is what it is called; `remotes` are those that are no files, None elsewhere.
    """

    path: Path
    preprocess: Preprocess
    labels: Labels
    max_pixels: int
    fast: bool
    paths: tuple[Path, ...] = ()
    remotes: tuple[RemoteFile | None, ...] = ()


@dataclass(frozen=True)
class Filler:
    """A job with the files that it reads, `segments` being those of the `.rows`, None without, and its memory.

    `progress` are the images begun and the place (file and record) of the one that is being made, or NOTHING: for
    whoever watches.
    """

    job: Job
    records: Sequence[Source]
    segments: Sequence[int | None]
    slots: Slots
    progress: NDArray[np.int64]

    def fill(self, task: Task) -> list[Failure]:
        """Make the images of a task; returns those that could not be made."""
        rows = list(range(task.first, task.first + task.images))
        some = [rows[start : start + AT_ONCE] for start in range(0, len(rows), AT_ONCE)]
        with stages.prepared():
            return [failure for its in some for failure in self._fill(task.slot, its)]

    def _fill(self, slot: int, rows: list[int]) -> list[Failure]:
        failures: list[Failure] = []
        images = self._opened(slot, rows, failures)
        ordinals = self.slots.ordinals[slot, [row for row, _ in images]]
        heights, widths = np.array([(image.height, image.width) for _, image in images] or np.empty((0, 2)), np.int64).T
        looks = self.job.preprocess.looks(ordinals, heights, widths)
        parts = cut_all([image for _, image in images], [look.box for look in looks])
        for (row, image), look, part in zip(images, looks, parts, strict=True):
            self._begin(slot, row)
            try:
                look.finish(image.decode(look.box, part, look.reduction, look.channels), self.slots.images[slot, row])
            except ValueError as error:
                failures.append(self._undecodable(slot, row, error))
        self.progress[PLACE] = NOTHING
        return failures

    def _begin(self, slot: int, row: int) -> None:
        self.progress[PLACE] = (self.slots.files[slot, row] << FILE_BITS) + self.slots.numbers[slot, row]
        self.progress[IMAGES] += 1

    def _opened(self, slot: int, rows: list[int], failures: list[Failure]) -> list[tuple[int, Encoded]]:
        """The images of the rows whose records are good, and their labels in the slot."""
        slots, labels, some = self.slots, self.job.labels, slice(rows[0], rows[-1] + 1)
        several = labels.width > 0
        files, offsets = slots.files[slot, some].tolist(), slots.offsets[slot, some].tolist()
        found = find_images(self.records, files, offsets)
        clock = time.perf_counter()
        segments = read_segments(self.segments, files, slots.segments_at[slot, some], slots.segments[slot, some])
        stages.lap(stages.READ, clock)
        images: list[tuple[int, Encoded]] = []
        for row, offset, one, its_segments in zip(rows, offsets, found, segments, strict=True):
            self._begin(slot, row)
            try:
                path, number = self._place(slot, row)
                header, image, slots.ends[slot, row] = _sound(one, path, number, offset)
                if several:
                    slots.several[slot, row] = several_labels(path, number, header, labels)
                else:
                    slots.labels[slot, row] = class_label(path, number, header, labels.classes)
            except ResnetError as error:
                failures.append(Failure(row, str(error)))
                continue
            try:  # a storage that fails now is no bad record, and ends the run
                images.append((row, Encoded(image, its_segments, self.job.max_pixels, self.job.fast)))
            except ValueError as error:
                failures.append(self._undecodable(slot, row, error))
        return images

    def _undecodable(self, slot: int, row: int, error: ValueError) -> Failure:
        path, number = self._place(slot, row)
        return Failure(row, f"{path}: the image of record {number} cannot be decoded: {error}.")

    def _place(self, slot: int, row: int) -> tuple[Path, int]:
        """The file of an image, and the number of its record there."""
        return self.job.paths[self.slots.files[slot, row]], int(self.slots.numbers[slot, row])


def _sound(found: Found | ValueError, path: Path, ordinal: int, offset: int) -> Found:
    """What was found; a ResnetError says what is wrong."""
    if isinstance(found, NoImageRecordError):
        raise no_image_record(path, ordinal, found)
    if isinstance(found, ValueError):
        raise damaged(path, ordinal, offset, found)
    return found
