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
from resnet_v2.data.jpeg import Image, decode
from resnet_v2.data.records import IRHeader, RecordReader
from resnet_v2.files import ResnetError

BATCHES_AHEAD = 3
# Tasks per thread and batch: enough that no thread idles at the end of a batch, few enough to cost nothing.
TASKS_PER_THREAD = 4

Preprocess = Callable[[int, Image, Image], None]


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
    """Preprocessing for training: (ordinal, pixels, slot) with draws from (seed, epoch, ordinal)."""

    def preprocess(ordinal: int, pixels: Image, out: Image) -> None:
        drawn = augment.draw(plan, pixels.shape[0], pixels.shape[1], augment.generator(seed, epoch, ordinal))
        augment.apply(pixels, drawn, out)

    return preprocess


def centred(ordinal: int, pixels: Image, out: Image) -> None:
    """Preprocessing for evaluation: the centre crop."""
    augment.centre_crop(pixels, out)


def batches(
    reader: RecordReader,
    order: NDArray[np.int64],
    preprocess: Preprocess,
    *,
    batch_size: int,
    size: int,
    classes: int,
    threads: int = 0,
) -> Iterator[Batch]:
    """The records of `order`, `batch_size` at a time (the last batch may be smaller), as `size` x `size` pixels.

    The same bytes come out for any number of threads (0: one per core). Raises ResnetError, naming the record, for one
    that is damaged and for a label outside 0 to `classes` - 1.
    """
    cv2.setNumThreads(0)  # the threads are ours; OpenCV's own would only fight with them
    threads = threads or os.cpu_count() or 1
    stop = threading.Event()
    waiting: deque[tuple[Batch, list[Future[None]]]] = deque()
    starts = iter(range(0, len(order), batch_size))
    with ThreadPoolExecutor(threads, thread_name_prefix="loader") as pool:
        try:
            while True:
                while len(waiting) < BATCHES_AHEAD and (start := next(starts, None)) is not None:
                    batch = _empty_batch(order[start : start + batch_size], size)
                    tasks = [
                        pool.submit(_fill, reader, batch, rows, preprocess, classes, stop)
                        for rows in _task_rows(len(batch.ordinals), threads)
                    ]
                    waiting.append((batch, tasks))
                if not waiting:
                    return
                batch, tasks = waiting.popleft()
                for task in tasks:
                    task.result()
                yield batch
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


def _empty_batch(ordinals: NDArray[np.int64], size: int) -> Batch:
    images = np.empty((len(ordinals), size, size, 3), np.uint8)
    return Batch(images, np.empty(len(ordinals), np.int64), ordinals)


def _task_rows(count: int, threads: int) -> list[range]:
    rows = -(-count // (threads * TASKS_PER_THREAD))
    return [range(start, min(start + rows, count)) for start in range(0, count, rows)]


def _fill(
    reader: RecordReader, batch: Batch, rows: range, preprocess: Preprocess, classes: int, stop: threading.Event
) -> None:
    for row in rows:
        if stop.is_set():
            return
        ordinal = int(batch.ordinals[row])
        header, data = reader.image(ordinal)
        try:
            pixels = decode(data)
        except ValueError as error:
            raise ResnetError(f"{reader.path}: the image of record {ordinal} cannot be decoded: {error}.") from None
        preprocess(ordinal, pixels, batch.images[row])
        batch.labels[row] = _class_label(reader, ordinal, header, classes)


def _class_label(reader: RecordReader, ordinal: int, header: IRHeader, classes: int) -> int:
    label = float(np.ravel(header.label)[0])
    if not (label.is_integer() and 0 <= label < classes):
        raise ResnetError(
            f"{reader.path}: record {ordinal} has the label {label:g}, but the classes are 0 to {classes - 1}; "
            "give the right --num-classes or synset.txt, or pack again."
        )
    return int(label)
