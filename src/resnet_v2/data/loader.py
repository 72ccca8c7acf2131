"""Records -> batches: threads decode and augment straight into uint8 arrays, a bounded number of batches ahead."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from resnet_v2.data import augment
from resnet_v2.data.claims import claimed_size
from resnet_v2.data.jpeg import Encoded, Image
from resnet_v2.data.records import IRHeader, RecordReader
from resnet_v2.data.rows import NOTHING, Offsets
from resnet_v2.data.sidecar import Rows, sidecar_path
from resnet_v2.errors import ResnetError
from resnet_v2.machine import processors

BATCHES_AHEAD = 3
# Tasks per thread and batch: enough that no thread idles at the end of a batch, few enough to cost nothing.
TASKS_PER_THREAD = 4

# Refused beyond this, before memory is taken: half a gigabyte of pixels is no photograph but a mistake or an attack.
MAX_PIXELS = 178_956_970
MOST_SKIPPED = 0.01

Preprocess = Callable[[int, Encoded, Image], None]
Allocate = Callable[[tuple[int, ...]], NDArray[np.uint8]]


@dataclass(frozen=True)
class Batch:
    """Images (n x size x size x 3, uint8, RGB), labels (n, int64) and the images' ordinals in the record (n, int64)."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    ordinals: NDArray[np.int64]


def unpinned(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Memory for images, where the processor alone reads them."""
    return np.empty(shape, np.uint8)


@dataclass(frozen=True)
class Reading:
    """How images are read, whatever is made of them.

    `threads` 0: one per core. An image that claims more than `max_pixels` is refused. `fast` is libjpeg-turbo's less
    exact decoding. With `on_skip` the next good record takes the place of a bad one, and `on_skip` is called with a
    sentence that names it. `allocate` makes the arrays of images, pinned ones for a GPU.
    """

    threads: int = 0
    max_pixels: int = MAX_PIXELS
    fast: bool = False
    on_skip: Callable[[str], object] | None = None
    allocate: Allocate = unpinned


def stored_side(reader: RecordReader) -> int:
    """The shorter side, in pixels, of a record's first image as it is stored; 0 where only decoding it would tell."""
    return min(claimed_size(reader.image(0)[1]) or (0, 0))


class Loader:
    """The training batches of a record, epoch after epoch; it can stop after any batch and go on there.

    A loop over it gives what is left of the current epoch, in an order that depends on (seed, epoch) alone.
    `batch_size` counts the images of a step on all ranks; each rank gets its part of every step, so that all ranks make
    the same number of steps (parts of the last may be smaller, or empty) and nothing is lost or seen twice. `count`
    images of the order make an epoch, 0: all.

    >>> loader = Loader(RecordReader(path), augmentation(2, 224, imagenet=True), seed=0, batch_size=256, classes=1000)
    >>> for batch in loader: ...
    >>> state = loader.state_dict()  # {"epoch": 1, "step": 0, ...}; within the loop "step" counts the batches given
    """

    def __init__(
        self,
        reader: RecordReader,
        plan: augment.Augmentation,
        *,
        seed: int,
        batch_size: int,
        classes: int,
        epoch: int = 0,
        count: int = 0,
        rank: int = 0,
        world_size: int = 1,
        reading: Reading | None = None,
    ) -> None:
        self.epoch, self.step = epoch, 0
        self._reader, self._plan, self._seed, self._classes = reader, plan, seed, classes
        self._batch_size, self._count = batch_size, count or len(reader)
        self._rank, self._world_size, self._reading = rank, world_size, reading or Reading()

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

    def __iter__(self) -> Iterator[Batch]:
        """The batches of this rank that are left of the current epoch; at the end the next epoch is the current one."""
        order = epoch_order(len(self._reader), self._seed, self.epoch)[: self._count]
        steps = split(order, self._batch_size, self._rank, self._world_size, self.step)
        preprocess = augmented(self._plan, self._seed, self.epoch)
        for batch in batches(self._reader, steps, preprocess, self._plan.size, self._classes, self._reading):
            self.step += 1
            yield batch
        self.epoch, self.step = self.epoch + 1, 0

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


def epoch_order(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The order of an epoch: a permutation of all ordinals that depends on (seed, epoch) alone."""
    # 2^63 is no ordinal: the stream of the order is none of the images'.
    return augment.generator(seed, epoch, 1 << 63).permutation(count)


def split(
    order: NDArray[np.int64], batch_size: int, rank: int = 0, world_size: int = 1, first_step: int = 0
) -> Iterator[NDArray[np.int64]]:
    """A rank's part of every step of `batch_size` ordinals, from a step on; parts differ by one ordinal at most."""
    for start in range(first_step * batch_size, len(order), batch_size):
        step = order[start : start + batch_size]
        yield step[len(step) * rank // world_size : len(step) * (rank + 1) // world_size]


def augmented(plan: augment.Augmentation, seed: int, epoch: int) -> Preprocess:
    """Preprocessing for training: (ordinal, image, slot) with draws from (seed, epoch, ordinal)."""

    def preprocess(ordinal: int, image: Encoded, out: Image) -> None:
        drawn = augment.draw(plan, image.height, image.width, augment.generator(seed, epoch, ordinal))
        box = augment.needed_box(drawn, plan, image.height, image.width)
        augment.apply(image.decode(box), drawn.within(box), out, plan.interpolation)

    return preprocess


def centred(ordinal: int, image: Encoded, out: Image) -> None:
    """Preprocessing for evaluation: the centre crop."""
    pixels = image.decode(augment.centre_box(out.shape[0], image.height, image.width))
    augment.centre_crop(pixels, out)


@dataclass(frozen=True)
class Stream:
    """What every task of `batches` needs."""

    reader: RecordReader
    segments: Callable[[int], Offsets]
    preprocess: Preprocess
    classes: int
    reading: Reading
    stop: threading.Event


def batches(
    reader: RecordReader,
    steps: Iterable[NDArray[np.int64]],
    preprocess: Preprocess,
    size: int,
    classes: int,
    reading: Reading,
) -> Iterator[Batch]:
    """A batch of `size` x `size` pixels for the ordinals of every step.

    Of images packed sliceable (with a `.rows` beside the record) only the part that a crop needs is decoded, of others
    nothing below it. The same bytes come out for any number of threads, and with or without `.rows`. Raises
    ResnetError, naming the record, for one that is damaged or claims too many pixels, and for a label outside 0 to
    `classes` - 1; where bad records are skipped, when more than one record in a hundred is bad.
    """
    cv2.setNumThreads(0)  # the threads are ours; OpenCV's own would only fight with them
    threads = reading.threads or processors()
    stream = Stream(reader, _segments_of(reader), preprocess, classes, reading, threading.Event())
    waiting: deque[tuple[Batch, list[Future[list[str]]]]] = deque()
    skipped = 0
    left = iter(steps)
    with ThreadPoolExecutor(threads, thread_name_prefix="loader") as pool:
        try:
            while True:
                while len(waiting) < BATCHES_AHEAD and (ordinals := next(left, None)) is not None:
                    images = reading.allocate((len(ordinals), size, size, 3))
                    batch = Batch(images, np.empty(len(ordinals), np.int64), ordinals.copy())
                    rows = _task_rows(len(ordinals), threads)
                    waiting.append((batch, [pool.submit(_fill, stream, batch, some) for some in rows]))
                if not waiting:
                    return
                batch, tasks = waiting.popleft()
                for sentence in [sentence for task in tasks for sentence in task.result()]:
                    skipped += 1
                    if skipped > _most_skipped(reader):
                        raise ResnetError(
                            f"{reader.path}: more than one record in a hundred is bad, the last: {sentence}"
                        )
                    if reading.on_skip is not None:
                        reading.on_skip(sentence)
                yield batch
        finally:
            stream.stop.set()
            pool.shutdown(cancel_futures=True)


def _most_skipped(reader: RecordReader) -> float:
    return MOST_SKIPPED * len(reader) + 1


def _segments_of(reader: RecordReader) -> Callable[[int], Offsets]:
    if not sidecar_path(reader.path).is_file():
        return lambda ordinal: NOTHING
    return Rows.of(reader).segments


def _task_rows(count: int, threads: int) -> list[range]:
    rows = max(1, -(-count // (threads * TASKS_PER_THREAD)))
    return [range(start, min(start + rows, count)) for start in range(0, count, rows)]


def _fill(stream: Stream, batch: Batch, rows: range) -> list[str]:
    """Load some rows of a batch; returns a sentence for every record that was skipped."""
    skipped: list[str] = []
    for row in rows:
        if stream.stop.is_set():
            break
        while True:
            try:
                _load(stream, batch, row)
                break
            except ResnetError as error:
                if stream.reading.on_skip is None or len(skipped) > _most_skipped(stream.reader):
                    raise
                skipped.append(str(error))
                batch.ordinals[row] = (batch.ordinals[row] + 1) % len(stream.reader)
    return skipped


def _load(stream: Stream, batch: Batch, row: int) -> None:
    ordinal = int(batch.ordinals[row])
    header, data = stream.reader.image(ordinal)
    batch.labels[row] = class_label(stream.reader, ordinal, header, stream.classes)
    try:
        image = Encoded(data, stream.segments(ordinal), stream.reading.max_pixels, stream.reading.fast)
        stream.preprocess(ordinal, image, batch.images[row])
    except ValueError as error:
        path = stream.reader.path
        raise ResnetError(f"{path}: the image of record {ordinal} cannot be decoded: {error}.") from None


def class_label(reader: RecordReader, ordinal: int, header: IRHeader, classes: int) -> int:
    """The class of a record; a ResnetError, naming it, for a label that is no number from 0 to `classes` - 1."""
    label = float(np.ravel(header.label)[0])
    if not (label.is_integer() and 0 <= label < classes):
        raise ResnetError(
            f"{reader.path}: record {ordinal} has the label {label:g}, but the classes are 0 to {classes - 1}; "
            "give the right `num_classes` or synset.txt, or pack again."
        )
    return int(label)
