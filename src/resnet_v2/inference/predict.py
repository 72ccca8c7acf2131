"""Pictures -> class names and probabilities, with the preprocessing of evaluation."""

import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from resnet_v2.data.jpeg import Image
from resnet_v2.data.records import RecordReader
from resnet_v2.errors import ResnetError
from resnet_v2.inference.engines import Engine
from resnet_v2.inference.pictures import Picture, prepare
from resnet_v2.interchange.header import Header
from resnet_v2.packing.class_folders import IMAGE_ENDINGS

STANDARD_INPUT = "-"
Item = TypeVar("Item")
Made = TypeVar("Made")


@dataclass(frozen=True)
class Answer:
    """A class by its number and name, and its probability."""

    class_index: int
    name: str
    probability: float


@dataclass(frozen=True)
class Named:
    """A picture that has a name, read when it is needed."""

    name: str
    read: Callable[[], Picture]


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of a picture, the first one first; or why there are none."""

    name: str
    answers: tuple[Answer, ...]
    problem: str = ""


def find_pictures(places: Sequence[str]) -> list[Named]:
    """What is named: files, folders (with their subfolders, sorted), records (.rec), or standard input, as `-`.

    Standard input is one image, or else a list of paths, one on a line. A ResnetError names a place that is not there.
    """
    found = [named for place in places for named in _at(place)]
    if not found:
        raise ResnetError("--img names no image; give image files, folders of them, .rec files, or -.")
    return found


def _at(place: str) -> Iterator[Named]:
    path = Path(place)
    if place == STANDARD_INPUT:
        yield from _from_standard_input(sys.stdin.buffer.read())
    elif path.is_dir():
        inside = sorted(file for file in path.rglob("*") if file.suffix.lower() in IMAGE_ENDINGS)
        if not inside:
            raise ResnetError(f"{path} holds no images ({', '.join(IMAGE_ENDINGS)}); give another folder.")
        yield from (Named(str(file), partial(Path, file)) for file in inside)
    elif path.suffix == ".rec":
        reader = RecordReader(path)
        yield from (Named(f"{path}#{n}", partial(_image_of, reader, n)) for n in range(len(reader)))
    elif path.is_file():
        yield Named(place, partial(Path, path))
    else:
        raise ResnetError(f"{path} does not exist; give image files, folders of them, .rec files, or -.")


def _from_standard_input(data: bytes) -> Iterator[Named]:
    try:
        lines = [] if b"\0" in data else data.decode("utf-8").splitlines()
    except UnicodeDecodeError:
        lines = []
    if lines:
        yield from (Named(line, partial(Path, line)) for line in lines if line.strip())
    elif data:
        yield Named(STANDARD_INPUT, partial(bytes, data))


def _image_of(reader: RecordReader, ordinal: int) -> bytes:
    return bytes(reader.image(ordinal)[1])


def predict(
    engine: Engine, pictures: Sequence[Named], *, top: int, batch_size: int, threads: int = 0
) -> Iterator[Prediction]:
    """The `top` classes of every picture, in the order given; one that is unreadable has its `problem` instead.

    `threads` (0: one per core) read pictures while the engine works on those before.
    """
    cv2.setNumThreads(0)  # the threads are ours; OpenCV's own would only fight with them
    header = engine.header
    for some in _batched(pictures, batch_size, threads or os.cpu_count() or 1, partial(_load, header)):
        images = [image for _, image in some if isinstance(image, np.ndarray)]
        rows = iter(probabilities(engine.logits(np.stack(images)))) if images else iter(())
        for named, image in some:
            if isinstance(image, str):
                yield Prediction(named.name, (), image)
            else:
                yield Prediction(named.name, best_answers(next(rows), header, top))


def _load(header: Header, named: Named) -> Image | str:
    try:
        return prepare(named.read(), header.resize, header.crop)
    except ResnetError as error:
        return str(error)


def _batched(
    items: Iterable[Item], batch_size: int, threads: int, make: Callable[[Item], Made]
) -> Iterator[list[tuple[Item, Made]]]:
    """(item, make(item)) in their order, `batch_size` at a time; threads make the next batch meanwhile."""
    source = iter(items)
    waiting: deque[list[tuple[Item, Future[Made]]]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="pictures") as pool:
        while True:
            while len(waiting) < 2 and (some := list(islice(source, batch_size))):
                waiting.append([(item, pool.submit(make, item)) for item in some])
            if not waiting:
                return
            yield [(item, future.result()) for item, future in waiting.popleft()]


def probabilities(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """n x classes logits -> n x classes probabilities (softmax, in double precision)."""
    exact = logits.astype(np.float64)
    raised: NDArray[np.float64] = np.exp(exact - exact.max(axis=1, keepdims=True))
    raised /= raised.sum(axis=1, keepdims=True)
    return raised


def best_answers(row: NDArray[np.float64], header: Header, top: int) -> tuple[Answer, ...]:
    """The `top` classes of a row of probabilities; among equals the lower class comes first."""
    best = np.argsort(-row, kind="stable")[:top]
    return tuple(Answer(int(index), header.name(index), float(row[index])) for index in best)
