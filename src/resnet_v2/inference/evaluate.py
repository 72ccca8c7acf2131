"""Evaluation as the papers report it: any crop, ten crops, every image once, and what a class is taken for."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from resnet_v2.data.augment import centre_crop
from resnet_v2.data.jpeg import Encoded, Image, resize_shorter_side
from resnet_v2.data.loader import Preprocess, Reading, batches, centred, split
from resnet_v2.data.records import RecordReader
from resnet_v2.data.rows import Box
from resnet_v2.errors import ResnetError
from resnet_v2.inference.engines import Engine
from resnet_v2.inference.predict import probabilities
from resnet_v2.interchange.header import Header

NOWHERE = 1 << 62
TOP, MIDDLE, BOTTOM = 0.0, 0.5, 1.0
CENTRE = (MIDDLE, MIDDLE, False)
# Krizhevsky et al. 2012: the corners and the centre, and each of them mirrored.
TEN_CROPS = tuple(
    (row, column, mirror)
    for mirror in (False, True)
    for row, column in ((TOP, TOP), (TOP, BOTTOM), (BOTTOM, TOP), (BOTTOM, BOTTOM), (MIDDLE, MIDDLE))
)


@dataclass(frozen=True)
class View:
    """How images are looked at: the side of the square crop, the shorter side before it (0: as packed), in pixels."""

    crop: int
    resize: int = 0
    ten_crop: bool = False

    def __str__(self) -> str:
        """As tables say it: 224x224."""
        return f"{self.crop}x{self.crop}" + (", ten crops" if self.ten_crop else "")


@dataclass(frozen=True)
class Verdicts:
    """What an engine said of every record: its label, the class it took it for, and the label's rank (n, int64).

    Rank 0 is right; NOWHERE means logits that are no numbers. `loss` is the mean cross-entropy in nats.
    """

    labels: NDArray[np.int64]
    predictions: NDArray[np.int64]
    ranks: NDArray[np.int64]
    loss: float
    classes: int

    def error(self, top: int, mxnet_batch: int = 0) -> float:
        """The top-`top` error in percent; with `mxnet_batch` as MXNet's logs count it.

        MXNet fills the last batch of so many images up with the record's first ones, which then count twice.
        """
        wrong = self.ranks >= top
        if mxnet_batch:
            wrong = np.concatenate([wrong, np.resize(wrong, -len(wrong) % mxnet_batch)])
        return 100 * float(wrong.mean())

    def class_errors(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """For every class the number of its images and its top-1 error in percent (no images: not a number)."""
        images = np.bincount(self.labels, minlength=self.classes)
        wrong = np.bincount(self.labels[self.ranks > 0], minlength=self.classes)
        with np.errstate(invalid="ignore"):
            return images, 100 * wrong / images

    def confusion(self) -> NDArray[np.int64]:
        """classes x classes counts: images of class (row) that were taken for class (column)."""
        counts = np.bincount(self.labels * self.classes + self.predictions, minlength=self.classes**2)
        return counts.reshape(self.classes, self.classes)


def plan_view(header: Header, crop: int, resize: int, ten_crop: bool) -> View:
    """The view that is asked for; a crop of 0 is the one that the network was evaluated with in training."""
    crop = crop or header.crop
    if crop < 1 or resize < 0 or (resize and resize < crop):
        raise ResnetError(f"--crop {crop} does not fit into --resize {resize}; the crop must be the smaller one.")
    return View(crop, resize, ten_crop)


def judge(engine: Engine, reader: RecordReader, view: View, *, batch_size: int, threads: int = 0) -> Verdicts:
    """What an engine says of every record, each counted once. Ten crops: the mean of their probabilities."""
    labels, predictions, ranks = (np.empty(len(reader), np.int64) for _ in range(3))
    loss = 0.0
    for places, truth, shares in _shares(engine, reader, view, batch_size, threads):
        own = np.take_along_axis(shares, truth[:, None], 1)
        before = (shares > own) | ((shares == own) & (np.arange(shares.shape[1]) < truth[:, None]))
        finite = np.isfinite(shares).all(1)
        labels[places], predictions[places] = truth, shares.argmax(1)
        ranks[places] = np.where(finite, before.sum(1), NOWHERE)
        with np.errstate(divide="ignore"):
            loss -= float(np.log(own).sum())
    return Verdicts(labels, predictions, ranks, loss / max(1, len(reader)), engine.header.architecture.classes)


Shares = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]


def _shares(engine: Engine, reader: RecordReader, view: View, batch_size: int, threads: int) -> Iterator[Shares]:
    """(ordinals, labels, n x classes probabilities) of the whole record."""
    crops = TEN_CROPS if view.ten_crop else (CENTRE,)
    classes = engine.header.architecture.classes
    # Every crop is a pass of its own, so that the loader's batches stay what they are.
    whole = np.zeros((len(reader), classes), np.float64) if view.ten_crop else None
    with tqdm(total=len(reader) * len(crops), desc="evaluate", unit="img", leave=False, disable=None,
              mininterval=1) as progress:  # fmt: skip
        for crop in crops:
            steps = split(np.arange(len(reader)), batch_size)
            stream = batches(reader, steps, _preprocess(view, *crop), view.crop, classes, Reading(threads))
            labels = np.empty(len(reader), np.int64)
            for batch in stream:
                shares = probabilities(engine.logits(batch.images))
                progress.update(len(batch.labels))
                labels[batch.ordinals] = batch.labels
                if whole is None:
                    yield batch.ordinals, batch.labels, shares
                else:
                    whole[batch.ordinals] += shares / len(crops)
    if whole is not None:
        yield np.arange(len(reader)), labels, whole


def _preprocess(view: View, row: float, column: float, mirror: bool) -> Preprocess:
    if not view.resize and (row, column, mirror) == CENTRE:
        return centred
    return partial(_look, view.resize, row, column, mirror)


def _look(resize: int, row: float, column: float, mirror: bool, ordinal: int, image: Encoded, out: Image) -> None:
    pixels = image.decode(Box(0, image.height, 0, image.width))
    crop = len(out)
    if side := resize or (crop if min(image.height, image.width) < crop else 0):
        pixels = resize_shorter_side(pixels, side)
    height, width = pixels.shape[:2]
    if (row, column) == (MIDDLE, MIDDLE):
        centre_crop(pixels, out)
    else:
        top, left = int(row * (height - crop)), int(column * (width - crop))
        out[:] = pixels[top : top + crop, left : left + crop, :3]
    if mirror:
        out[:] = out[:, ::-1].copy()
