"""Logits -> probabilities, and what they say of every record: by the kind of labels."""

from collections.abc import Sequence
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from resnet_v2.data.labels import Labels
from resnet_v2.inference.engines import Logits
from resnet_v2.inference.verdicts import MultiVerdicts, Shares, TasksVerdicts, Verdicts
from resnet_v2.training.average_precision import average_precisions

Places = NDArray[np.int64]


class Tally(Protocol):
    """Takes what a network says of images, batch after batch; images that never come are in no figure."""

    @property
    def seen(self) -> NDArray[np.bool_]:
        """Which images have come."""

    def add(self, places: Places, crops: Sequence[Logits], truth: NDArray[Any]) -> None:
        """The ordinals of n images, the logits of each of their crops (n x classes) and their labels."""

    def verdicts(self) -> Verdicts:
        """What all of them come to."""


def tally_of(labels: Labels, images: int) -> Tally:
    """What counts so many images with such labels."""
    if labels.kind == "tasks":
        return _Tasks(labels, images)
    return _Multi(labels, images) if labels.kind == "multi" else _Choice(labels.classes, images)


class _Choice:
    """One class of an image; of soft labels the most probable one, while the loss looks at all of them."""

    def __init__(self, classes: int, images: int) -> None:
        self.classes, self.loss = classes, 0.0
        self.labels, self.predictions, self.ranks = (np.empty(images, np.int64) for _ in range(3))
        self.seen = np.zeros(images, np.bool_)

    def add(self, places: Places, crops: Sequence[Logits], truth: NDArray[Any]) -> None:
        logs = _mean([log_probabilities(crop) for crop in crops])
        if truth.ndim == 2:
            self.loss -= float((truth * logs).sum())
            truth = truth.argmax(1)
        else:
            self.loss -= float(np.take_along_axis(logs, truth[:, None], 1).sum())
        self.count(places, np.exp(logs), truth)

    def count(self, places: Places, shares: Shares, truth: Places) -> None:
        """Note which class comes first and how many come before the right one."""
        self.seen[places] = True
        self.labels[places], self.predictions[places] = truth, shares.argmax(1)
        self.ranks[places] = _before(shares, truth)

    def verdicts(self) -> Verdicts:
        labels, predictions, ranks = (one[self.seen] for one in (self.labels, self.predictions, self.ranks))
        return Verdicts(labels, predictions, ranks, self.loss / len(ranks), self.classes)


class _Tasks:
    """A class of each task."""

    def __init__(self, labels: Labels, images: int) -> None:
        self._labels = labels
        self._tasks = [_Choice(classes, images) for classes in labels.tasks]

    @property
    def seen(self) -> NDArray[np.bool_]:
        return self._tasks[0].seen

    def add(self, places: Places, crops: Sequence[Logits], truth: NDArray[Any]) -> None:
        for number, (task, place) in enumerate(zip(self._tasks, self._labels.places, strict=True)):
            task.add(places, [crop[:, place] for crop in crops], truth[:, number])

    def verdicts(self) -> TasksVerdicts:
        tasks = tuple(task.verdicts() for task in self._tasks)
        labels, predictions, ranks = (
            np.stack([getattr(task, name) for task in tasks], 1) for name in ("labels", "predictions", "ranks")
        )
        loss = sum(task.loss for task in tasks)
        return TasksVerdicts(labels, predictions, ranks, loss, self._labels.classes, tasks)


class _Multi(_Choice):
    """A yes or no for every class."""

    def __init__(self, labels: Labels, images: int) -> None:
        super().__init__(labels.classes, images)
        self._truth = np.empty((images, labels.classes), np.bool_)
        self._scores = np.empty((images, labels.classes), np.float32)

    def add(self, places: Places, crops: Sequence[Logits], truth: NDArray[Any]) -> None:
        yes, no = _yes_and_no(crops)
        self.loss -= float(np.where(truth > 0, yes, no).sum()) / self.classes
        odds = yes - no  # of one crop its logits: where probabilities are 1 to all digits, they still tell the order
        self._truth[places], self._scores[places] = truth > 0, odds
        first = np.where(truth > 0, odds, -np.inf).argmax(1)
        self.count(places, odds, first)
        self.ranks[places[~(truth > 0).any(1)]] = max(5, self.classes)

    def verdicts(self) -> MultiVerdicts:
        its = super().verdicts()
        truth = self._truth[self.seen]
        precisions = average_precisions(truth, self._scores[self.seen])
        images = truth.sum(0, dtype=np.int64)
        return MultiVerdicts(its.labels, its.predictions, its.ranks, its.loss, its.classes, images, precisions)


def _mean(logs: Sequence[Shares]) -> Shares:
    """Logarithms of the mean of several crops' probabilities."""
    with np.errstate(invalid="ignore"):
        return cast(Shares, np.logaddexp.reduce(logs, axis=0) - np.log(len(logs)))


def _yes_and_no(crops: Sequence[Logits]) -> tuple[Shares, Shares]:
    """Logarithms of the mean probabilities, of multi labels, that an image is of a class and that it is not."""
    exact = [crop.astype(np.float64) for crop in crops]
    yes, no = (_mean([-np.logaddexp(0, sign * crop) for crop in exact]) for sign in (-1, 1))
    return yes, no


def logits_of_mean(several: Sequence[Logits], labels: Labels) -> Logits:
    """Logits of several networks (each n x classes) -> those whose `probabilities` are the mean of theirs."""
    if labels.kind == "multi":
        yes, no = _yes_and_no(several)
        return (yes - no).astype(np.float32)
    places = labels.places or (slice(None),)
    means = [_mean([log_probabilities(one[:, place]) for one in several]) for place in places]
    return np.concatenate(means, 1).astype(np.float32)


def _before(shares: Shares, truth: Places) -> Places:
    """How many classes come before the right one; among equals the lower class does."""
    own = np.take_along_axis(shares, truth[:, None], 1)
    before = (shares > own) | ((shares == own) & (np.arange(shares.shape[1]) < truth[:, None]))
    return cast(Places, before.sum(1))


def log_probabilities(logits: Logits) -> Shares:
    """n x classes logits -> n x classes logarithms of probabilities, finite where probabilities are too small to be."""
    exact = logits.astype(np.float64)
    exact -= exact.max(axis=1, keepdims=True)
    return cast(Shares, exact - np.log(np.exp(exact).sum(axis=1, keepdims=True)))


def probabilities(logits: Logits, labels: Labels | None = None) -> Shares:
    """n x classes logits -> n x classes probabilities in double precision: softmax, of tasks one for each task, of
    multi labels the sigmoid of each.
    """
    if labels is not None and labels.kind == "multi":
        return cast(Shares, np.exp(-np.logaddexp(0, -logits.astype(np.float64))))
    if labels is not None and labels.kind == "tasks":
        return np.concatenate([probabilities(logits[:, place]) for place in labels.places], 1)
    return np.exp(log_probabilities(logits))
