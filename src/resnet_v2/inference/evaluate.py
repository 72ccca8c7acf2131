"""Evaluation as the papers report it: any crop, ten crops, every image once, and what a class is taken for."""

import contextlib
from dataclasses import dataclass
from itertools import zip_longest
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray

from resnet_v2.config.fields import Count, OnError, Workers, checked
from resnet_v2.console import Progress, say
from resnet_v2.data.hands import usual_workers
from resnet_v2.data.left_out import LeftOut
from resnet_v2.data.lists import read_synset
from resnet_v2.data.loader import Reading, batches
from resnet_v2.data.order import split
from resnet_v2.data.record_set import Records, not_empty
from resnet_v2.errors import ResnetError
from resnet_v2.inference.engines import Engine, Images, Logits
from resnet_v2.inference.pictures import View, Viewed
from resnet_v2.networks.header import Header

WORTH_WORKERS = 300  # images: fewer are read before workers have started
NO_NUMBER = "The network answers with what is no number: its weights are damaged; take others."
Shares = NDArray[np.float64]


@dataclass(frozen=True)
class Verdicts:
    """What a network said of every record: its label, the class it took it for, and the label's rank (n, int64).

    Rank 0 is right. `loss` is the mean cross-entropy in nats.
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
        wrong, count = self.ranks >= top, len(self.ranks)
        repeats, rest = divmod(-count % mxnet_batch if mxnet_batch else 0, count)
        return 100 * ((int(wrong.sum()) * (1 + repeats) + int(wrong[:rest].sum())) / (count * (1 + repeats) + rest))

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


def tell_of_other_classes(records: Records, header: Header) -> None:
    """Say it where the synset.txt beside a record names other classes than the network's."""
    synset = records.readers[0].path.with_name("synset.txt")
    if not header.class_names or not synset.is_file():
        return
    names: tuple[str, ...] = header.class_names
    with contextlib.suppress(ResnetError):  # a file that is none of ours says nothing
        names = read_synset(synset)
    for number, (theirs, ours) in enumerate(zip_longest(names, header.class_names)):
        if theirs != ours:
            say(
                f"warning: class {number} is {theirs!r} in {synset} and {ours!r} to the network; where these are other "
                "classes, the errors say nothing"
            )
            return


def judge(
    engine: Engine,
    reader: Records,
    view: View,
    classes: int,
    batch_size: int,
    workers: int | Literal["auto"] = "auto",
    on_error: OnError = "stop",
) -> Verdicts:
    """What an engine says of every record, each read and counted once. Ten crops: the mean of their probabilities.

    With `on_error` skip a record that cannot be read is named and left out, up to one in a hundred. Raises ResnetError
    where there are no records, and where an answer is no number.
    """
    steps = split(np.arange(len(not_empty(reader))), checked("batch_size", Count, batch_size))
    checked("workers", Workers, workers)
    if workers == "auto":
        workers = usual_workers(1, computes=True) if len(reader) > WORTH_WORKERS else 0
    labels, predictions, ranks = (np.empty(len(reader), np.int64) for _ in range(3))
    seen = np.zeros(len(reader), np.bool_)
    loss = 0.0

    left_out = LeftOut(reader.path, len(reader), lambda sentence: say(f"left out: {sentence}"))
    skip = on_error == "skip"
    reading = Reading(workers, on_skip=left_out if skip else None, leave_out=skip)
    stream = batches(reader, steps, Viewed(view), view.slot, classes, reading)
    with Progress("evaluate", len(reader)) as progress:
        for batch in stream:
            if left_out.problem:
                raise ResnetError(left_out.problem)
            if not len(batch.labels):
                continue
            logs, truth, places = _logs(engine, batch.images), batch.labels, batch.ordinals
            if not np.isfinite(logs).all():
                raise ResnetError(NO_NUMBER)
            shares = np.exp(logs)
            own = np.take_along_axis(shares, truth[:, None], 1)
            before = (shares > own) | ((shares == own) & (np.arange(classes) < truth[:, None]))
            seen[places] = True
            labels[places], predictions[places] = truth, shares.argmax(1)
            ranks[places] = before.sum(1)
            loss -= float(np.take_along_axis(logs, truth[:, None], 1).sum())
            progress.update(len(truth))
    if not np.isfinite(loss):
        raise ResnetError(
            f"The network answers {reader.path} with what is no number: its weights are damaged; take others."
        )
    if not seen.any():
        raise ResnetError(f"{reader.path} holds no image that can be read; pack it again.")
    return Verdicts(labels[seen], predictions[seen], ranks[seen], loss / int(seen.sum()), classes)


def _logs(engine: Engine, images: Images) -> Shares:
    """n x crops x H x W x 3 images -> n x classes logarithms of probabilities, of the mean of the crops'."""
    crops = [np.ascontiguousarray(images[:, crop]) for crop in range(images.shape[1])]
    logs = [log_probabilities(engine.logits(crop)) for crop in crops]
    with np.errstate(invalid="ignore"):
        return cast(Shares, np.logaddexp.reduce(logs, axis=0) - np.log(len(crops)))


def log_probabilities(logits: Logits) -> Shares:
    """n x classes logits -> n x classes logarithms of probabilities, finite where probabilities are too small to be."""
    exact = logits.astype(np.float64)
    exact -= exact.max(axis=1, keepdims=True)
    return cast(Shares, exact - np.log(np.exp(exact).sum(axis=1, keepdims=True)))


def probabilities(logits: Logits) -> Shares:
    """n x classes logits -> n x classes probabilities (softmax, in double precision)."""
    return np.exp(log_probabilities(logits))
