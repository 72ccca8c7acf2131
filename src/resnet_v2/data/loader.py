"""Records -> batches: threads decode and augment straight into uint8 arrays, a bounded number of batches ahead."""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from resnet_v2.data import augment
from resnet_v2.data.jpeg import Encoded, Image
from resnet_v2.data.records import IRHeader, RecordReader
from resnet_v2.data.rows import NOTHING, Offsets, Rows, sidecar_path
from resnet_v2.files import ResnetError

BATCHES_AHEAD = 3
# Tasks per thread and batch: enough that no thread idles at the end of a batch, few enough to cost nothing.
TASKS_PER_THREAD = 4

# Refused beyond this, before memory is taken: half a gigabyte of pixels is no photograph but a mistake or an attack.
MAX_PIXELS = 178_956_970
MOST_SKIPPED = 0.01

Preprocess = Callable[[int, Encoded, Image], None]


@dataclass(frozen=True)
class Batch:
    """Images (n x size x size x 3, uint8, RGB), labels (n, int64) and the images' ordinals in the record (n, int64)."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    ordinals: NDArray[np.int64]


def epoch_order(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The order of an epoch: a permutation of all ordinals that depends on (seed, epoch) alone."""
    # 2^63 is no ordinal: the stream of the order is none of the images'.
    return augment.generator(seed, epoch, 1 << 63).permutation(count)


def augmented(plan: augment.Augmentation, seed: int, epoch: int) -> Preprocess:
    """Preprocessing for training: (ordinal, image, slot) with draws from (seed, epoch, ordinal)."""

    def preprocess(ordinal: int, image: Encoded, out: Image) -> None:
        drawn = augment.draw(plan, image.height, image.width, augment.generator(seed, epoch, ordinal))
        pixels = image.decode(augment.needed_box(drawn, plan.size, image.height, image.width))
        augment.apply(pixels, drawn, out)

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
    max_pixels: int
    skip_errors: bool
    stop: threading.Event


def batches(
    reader: RecordReader,
    order: NDArray[np.int64],
    preprocess: Preprocess,
    *,
    batch_size: int,
    size: int,
    classes: int,
    threads: int = 0,
    max_pixels: int = MAX_PIXELS,
    on_skip: Callable[[str], object] | None = None,
) -> Iterator[Batch]:
    """The records of `order`, `batch_size` at a time (the last batch may be smaller), as `size` x `size` pixels.

    Of images packed sliceable (with a `.rows` beside the record) only the part that a crop needs is decoded. The same
    bytes come out for any number of threads (0: one per core), with or without it. Raises ResnetError, naming the
    record, for one that is damaged or claims more than `max_pixels`, and for a label outside 0 to `classes` - 1.

    With `on_skip` the next good record takes the place of a bad one, and `on_skip` is called with a sentence that names
    it; a ResnetError ends the epoch when more than one record in a hundred is bad.
    """
    cv2.setNumThreads(0)  # the threads are ours; OpenCV's own would only fight with them
    threads = threads or os.cpu_count() or 1
    stream = Stream(
        reader, _segments_of(reader), preprocess, classes, max_pixels, on_skip is not None, threading.Event()
    )
    waiting: deque[tuple[Batch, list[Future[list[str]]]]] = deque()
    skipped = 0
    starts = iter(range(0, len(order), batch_size))
    with ThreadPoolExecutor(threads, thread_name_prefix="loader") as pool:
        try:
            while True:
                while len(waiting) < BATCHES_AHEAD and (start := next(starts, None)) is not None:
                    batch = _empty_batch(order[start : start + batch_size], size)
                    rows = _task_rows(len(batch.ordinals), threads)
                    waiting.append((batch, [pool.submit(_fill, stream, batch, some) for some in rows]))
                if not waiting:
                    return
                batch, tasks = waiting.popleft()
                for sentence in [sentence for task in tasks for sentence in task.result()]:
                    skipped += 1
                    if skipped > MOST_SKIPPED * len(order) + 1:
                        raise ResnetError(
                            f"{reader.path}: more than one record in a hundred is bad, the last: {sentence}"
                        )
                    if on_skip is not None:
                        on_skip(sentence)
                yield batch
        finally:
            stream.stop.set()
            pool.shutdown(cancel_futures=True)


def _segments_of(reader: RecordReader) -> Callable[[int], Offsets]:
    if not sidecar_path(reader.path).is_file():
        return lambda ordinal: NOTHING
    return Rows(reader.path, len(reader)).segments


def _empty_batch(ordinals: NDArray[np.int64], size: int) -> Batch:
    images = np.empty((len(ordinals), size, size, 3), np.uint8)
    return Batch(images, np.empty(len(ordinals), np.int64), ordinals.copy())


def _task_rows(count: int, threads: int) -> list[range]:
    rows = -(-count // (threads * TASKS_PER_THREAD))
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
                if not stream.skip_errors or len(skipped) > MOST_SKIPPED * len(stream.reader) + 1:
                    raise
                skipped.append(str(error))
                batch.ordinals[row] = (batch.ordinals[row] + 1) % len(stream.reader)
    return skipped


def _load(stream: Stream, batch: Batch, row: int) -> None:
    ordinal = int(batch.ordinals[row])
    header, data = stream.reader.image(ordinal)
    batch.labels[row] = _class_label(stream.reader, ordinal, header, stream.classes)
    try:
        image = Encoded(data, stream.segments(ordinal), stream.max_pixels)
        stream.preprocess(ordinal, image, batch.images[row])
    except ValueError as error:
        path = stream.reader.path
        raise ResnetError(f"{path}: the image of record {ordinal} cannot be decoded: {error}.") from None


def _class_label(reader: RecordReader, ordinal: int, header: IRHeader, classes: int) -> int:
    label = float(np.ravel(header.label)[0])
    if not (label.is_integer() and 0 <= label < classes):
        raise ResnetError(
            f"{reader.path}: record {ordinal} has the label {label:g}, but the classes are 0 to {classes - 1}; "
            "give the right --num-classes or synset.txt, or pack again."
        )
    return int(label)
