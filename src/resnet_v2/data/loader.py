"""Records -> batches: workers make images straight in shared memory, a bounded number of batches ahead."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_v2.data.augment import Augmentation
from resnet_v2.data.claims import claimed_size
from resnet_v2.data.filling import Augmented, Centred, Failure, Job, Preprocess, Task
from resnet_v2.data.hands import Hands, hands
from resnet_v2.data.labels import Labels, labels_of
from resnet_v2.data.left_out import too_many
from resnet_v2.data.order import epoch_order, split
from resnet_v2.data.record_set import Records, SetRows
from resnet_v2.data.ring import Layout, Pin, Ring
from resnet_v2.errors import ResnetError
from resnet_v2.machine import free_memory

# More would only spread over more memory what a processor's cache holds.
BATCHES_AHEAD = 2
FETCHED_AHEAD = 1024  # images whose bytes are fetched from storage before their turn
# Batches that whoever takes them may keep at a time: on a GPU one that is worked on, two behind it, one on its way.
BATCHES_KEPT = 4
MEMORY_SHARE = 0.125  # of what is free, for batches
LEAST_TASK_IMAGES, MOST_TASK_IMAGES = 8, 64
MOST_TASKS = 512  # of a batch: those of all that are made ahead, and their answers, have to fit into pipes

# Refused beyond this, before memory is taken: half a gigabyte of pixels is no photograph but a mistake or an attack.
MAX_PIXELS = 178_956_970


@dataclass(frozen=True)
class Batch:
    """Images (n x size x size x 3, uint8, RGB), labels (n, int64) and the images' ordinals in the record (n, int64).

    Of tasks the labels are n x tasks, int64, of multi and soft labels n x classes, float32.

    The images lie where they were made; their memory is used again when no array shows it any more.
    """

    images: NDArray[np.uint8]
    labels: NDArray[Any]
    ordinals: NDArray[np.int64]


@dataclass(frozen=True)
class Reading:
    """How images are read, whatever is made of them.

    `workers` processes read them, 0: this one does. An image that claims more than `max_pixels` is refused. `fast` is
    libjpeg-turbo's less exact decoding. With `on_skip` the next good record takes the place of a bad one, and `on_skip`
    is called with a sentence that names it; with `leave_out` its batch is smaller instead, and `on_skip` says how many
    are too many. `pin` keeps the memory of batches where it is, for a GPU. `sharers`: how
    many processes of this machine read at once and share its memory.
    """

    workers: int = 0
    max_pixels: int = MAX_PIXELS
    fast: bool = False
    on_skip: Callable[[str], object] | None = None
    pin: Pin | None = None
    sharers: int = 1
    leave_out: bool = False

    def slots(self, rows: int, shape: tuple[int, ...], labels: int = 0) -> int:
        """How many batches there is memory for, of as many as are of use."""
        room = int(MEMORY_SHARE * free_memory() / self.sharers) or 1 << 62
        return max(2, min(BATCHES_AHEAD + BATCHES_KEPT, room // max(1, Layout(1, rows, shape, labels).bytes)))


def stored_side(reader: Records) -> int:
    """The shorter side, in pixels, of a record's first image as it is stored; 0 where only decoding it would tell."""
    return min(claimed_size(reader.image(0)[1]) or (0, 0))


class Loader:
    """The batches of a record, epoch after epoch; it can stop after any batch and go on there.

    A loop over it gives what is left of the current epoch, in an order that depends on (seed, epoch) alone; with
    `Centred` for evaluation in the order of the record.
    `batch_size` counts the images of a step on all ranks; each rank gets its part of every step, so that all ranks make
    the same number of steps (parts of the last may be smaller, or empty) and nothing is lost or seen twice. Of each
    step `together` neighbours stay on one rank. `count` images of the order make an epoch, 0: all. `classes` are how
    many there are, or `Labels` that are not one class.

    >>> loader = Loader(RecordReader(path), augmentation(2, 224, imagenet=True), seed=0, batch_size=256, classes=1000)
    >>> for batch in loader: ...
    >>> state = loader.state_dict()  # {"epoch": 1, "step": 0, ...}; within the loop "step" counts the batches given
    """

    def __init__(
        self,
        reader: Records,
        plan: Augmentation | Centred,
        *,
        seed: int,
        batch_size: int,
        classes: int | Labels,
        epoch: int = 0,
        count: int = 0,
        rank: int = 0,
        world_size: int = 1,
        reading: Reading | None = None,
        together: int = 1,
    ) -> None:
        self.epoch, self.step = epoch, 0
        self._reader, self._plan, self._seed, self._classes = reader, plan, seed, classes
        self._batch_size, self._count = batch_size, count or len(reader)
        self._rank, self._world_size, self._reading = rank, world_size, reading or Reading()
        self._together = together

    @property
    def images(self) -> int:
        """Images of an epoch, on all ranks."""
        return self._count

    @property
    def steps(self) -> int:
        """Steps of a whole epoch."""
        return -(-self._count // self._batch_size)

    def images_of(self, step: int) -> int:
        """Images of a step (counted from 0) on all ranks."""
        return min(self._batch_size, self._count - step * self._batch_size)

    def __iter__(self) -> Generator[Batch]:
        """The batches of this rank that are left of the current epoch; at the end the next epoch is the current one."""
        preprocess, order = self._pass()
        order = order[: self._count]
        steps = split(order, self._batch_size, self._rank, self._world_size, self.step, self._together)
        shape = (self._plan.size, self._plan.size, 3)
        for batch in batches(self._reader, steps, preprocess, shape, self._classes, self._reading):
            self.step += 1
            yield batch
        self.epoch, self.step = self.epoch + 1, 0

    def _pass(self) -> tuple[Preprocess, NDArray[np.int64]]:
        if isinstance(self._plan, Centred):
            return self._plan, np.arange(len(self._reader))
        augmented = Augmented(self._plan, self._seed, self.epoch, self._reading.fast)
        return augmented, epoch_order(len(self._reader), self._seed, self.epoch)

    def state_dict(self) -> dict[str, int]:
        """Where the loader is, and what the order depends on."""
        return {"epoch": self.epoch, "step": self.step, **self._identity()}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go to where another loader was, on any number of ranks; a ResnetError says what keeps it from going on."""
        for name, mine in self._identity().items():
            if state[name] != mine:
                raise ResnetError(
                    f"{self._reader.path}: the position to go on from was saved with {name} {state[name]}, but it is "
                    f"{mine} now; give what it was, or start the epoch anew."
                )
        self.epoch, self.step = state["epoch"], state["step"]

    def _identity(self) -> dict[str, int]:
        names = {"seed": self._seed, "batch_size": self._batch_size, "images": self._count}
        return {**names, "records": len(self._reader)}


def batches(
    reader: Records,
    steps: Iterable[NDArray[np.int64]],
    preprocess: Preprocess,
    shape: tuple[int, ...],
    classes: int | Labels,
    reading: Reading,
) -> Generator[Batch]:
    """A batch for the ordinals of every step; an image becomes an array of `shape`.

    Of images packed sliceable (with a `.rows` beside the record) only the part that a crop needs is decoded, of others
    nothing below it. The same bytes come out for any number of workers, and with or without `.rows`. Raises
    ResnetError, naming the record, for one that is damaged or claims too many pixels, and for a label outside 0 to
    `classes` - 1 or not as `Labels` says; where others take the places of bad records, when more than one in a hundred
    is bad; and for a worker that died or hangs.
    """
    steps = list(steps)
    if not steps:
        return
    # Not always the first: of 8 images the middle one of 5 ranks takes 1, of 7 it takes 2.
    largest = max(1, *map(len, steps))
    rows = SetRows(reader)
    paths = tuple(one.path for one in reader.readers)
    remotes = tuple(None if isinstance(one.source, int) else one.source for one in reader.readers)
    labels = labels_of(classes)
    job = Job(reader.path, preprocess, labels, reading.max_pixels, reading.fast, paths, remotes)
    layout = Layout(reading.slots(largest, shape, labels.width), largest, shape, labels.width)
    with hands(job, reader, rows, layout, reading.pin, reading.workers, reading.sharers) as (made_by, ring):
        yield from _Stream(reader, rows, reading, made_by, ring, labels).batches(_fetched_ahead(reader, steps))


def _fetched_ahead(reader: Records, steps: Iterable[NDArray[np.int64]]) -> Iterator[NDArray[np.int64]]:
    """The steps as they are; from storage is fetched what those to come will need."""
    remotes = {file: one.source for file, one in enumerate(reader.readers) if not isinstance(one.source, int)}
    if not remotes:
        yield from steps
        return
    most = min(FETCHED_AHEAD, *(source.most_ahead for source in remotes.values()))
    coming: deque[NDArray[np.int64]] = deque()
    for step in steps:
        files = reader.locate(step)[0]
        for file, source in remotes.items():
            its = step[files == file]
            source.prefetch(reader.offsets[its], reader.lengths(its))
        coming.append(step)
        while sum(map(len, coming)) > most:
            yield coming.popleft()
    yield from coming


class _Stream:
    """The batches on their way: which slots are being filled, and what of each is still to come."""

    def __init__(
        self, reader: Records, rows: SetRows, reading: Reading, made_by: Hands, ring: Ring, labels: Labels
    ) -> None:
        self._reader, self._rows, self._reading, self._hands, self._ring = reader, rows, reading, made_by, ring
        self._labels = labels
        self._coming: deque[tuple[int, int]] = deque()  # slot and number of images
        self._left: dict[int, int] = {}  # images of a slot that are not done yet
        self._failures: dict[int, list[Failure]] = {}
        self._missing: dict[int, list[int]] = {}  # rows of a slot that are left out
        self._skipped = 0

    def batches(self, steps: Iterator[NDArray[np.int64]]) -> Iterator[Batch]:
        while True:
            ahead = BATCHES_AHEAD if self._reading.workers else 1
            while len(self._coming) < ahead and self._ring.free:
                ordinals = next(steps, None)
                if ordinals is None:
                    break
                self._begin(self._ring.free.popleft(), ordinals)
            if not self._coming:
                return
            slot, count = self._coming.popleft()
            self._finish(slot)
            yield self._batch(slot, count)

    def _begin(self, slot: int, ordinals: NDArray[np.int64]) -> None:
        count = len(ordinals)
        self._coming.append((slot, count))
        self._left[slot], self._failures[slot], self._missing[slot] = count, [], []
        self._look_up(slot, slice(0, count), ordinals)
        each = _task_images(count, self._reading.workers)
        for first in range(0, count, each):
            self._hands.submit(Task(slot, first, min(each, count - first)))

    def _look_up(self, slot: int, rows: slice, ordinals: NDArray[np.int64]) -> None:
        """Write down for a slot's rows which records are theirs, and where these are."""
        slots = self._ring.slots
        slots.ordinals[slot, rows] = ordinals
        slots.files[slot, rows], slots.numbers[slot, rows] = files, numbers = self._reader.locate(ordinals)
        slots.offsets[slot, rows] = self._reader.offsets[ordinals]
        slots.ends[slot, rows] = 0
        if self._rows:
            slots.segments_at[slot, rows], slots.segments[slot, rows] = self._rows.places(files, numbers)

    def _finish(self, slot: int) -> None:
        """Wait until all images of a slot are there, others having taken the place of those that are skipped."""
        while True:
            while self._left[slot]:
                for task, failures in self._hands.collect():
                    self._left[task.slot] -= task.images
                    self._failures[task.slot] += failures
            if not self._failures[slot]:
                return
            failures, self._failures[slot] = sorted(self._failures[slot]), []
            for failure in failures:
                self._skip(slot, failure)

    def _skip(self, slot: int, failure: Failure) -> None:
        """Let the next record take the place of a bad one, or none; a ResnetError where bad ones are not skipped."""
        if self._reading.on_skip is None:
            raise ResnetError(failure.sentence)
        if self._reading.leave_out:
            self._reading.on_skip(failure.sentence)
            self._missing[slot].append(failure.row)
            return
        self._skipped += 1
        if too_many(self._skipped, len(self._reader)):
            raise ResnetError(
                f"{self._reader.path}: more than one record in a hundred is bad, the last: {failure.sentence}"
            )
        self._reading.on_skip(failure.sentence)
        row = slice(failure.row, failure.row + 1)
        self._look_up(slot, row, (self._ring.slots.ordinals[slot, row] + 1) % len(self._reader))
        self._left[slot] += 1
        self._hands.submit(Task(slot, failure.row, 1))

    def _batch(self, slot: int, count: int) -> Batch:
        slots = self._ring.slots
        ordinals = slots.ordinals[slot, :count].copy()
        self._reader.look_behind(ordinals, slots.ends[slot, :count])
        several = self._labels.width > 0
        labels = self._labels.of_batch(slots.several[slot, :count]) if several else slots.labels[slot, :count].copy()
        images = self._ring.lend(slot, count)
        if len(self._coming) + len(self._ring.free) < min(BATCHES_AHEAD, self._ring.layout.slots - 1):
            images = images.copy()  # whoever takes the batches keeps many: the others need this slot's memory
        if self._missing[slot]:
            there = np.delete(np.arange(count), self._missing[slot])
            return Batch(images[there], labels[there], ordinals[there])
        return Batch(images, labels, ordinals)


def _task_images(count: int, workers: int) -> int:
    """Images of a task: enough that what is done for all at once is cheap, few enough that no worker idles long."""
    if not workers:
        return max(1, count)
    fair = min(MOST_TASK_IMAGES, max(LEAST_TASK_IMAGES, -(-count // workers)))
    return max(fair, -(-count // MOST_TASKS))
