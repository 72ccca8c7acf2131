"""What a network said of every record, and the figures that come of it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from resnet_v2.errors import ResnetError
from resnet_v2.training.average_precision import mean_of
from resnet_v2.training.evaluation import Evaluation, MultiEvaluation, TasksEvaluation

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

    @property
    def choices(self) -> int:
        """How many classes an answer is chosen from."""
        return self.classes

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

    def evaluation(self, mxnet_batch: int = 0) -> Evaluation:
        """The figures of all."""
        errors = (self.error(top, mxnet_batch) for top in (1, 5))
        return Evaluation(len(self.ranks), self.loss, *errors, classes=self.choices)


@dataclass(frozen=True)
class TasksVerdicts(Verdicts):
    """The same of several `tasks`, of which an image has a class each: errors are the tasks' mean, the loss their sum.

    `labels`, `predictions` and `ranks` are n x tasks.
    """

    tasks: tuple[Verdicts, ...]

    @property
    def choices(self) -> int:
        """See `Verdicts.choices`; that of the task with the most."""
        return max(task.classes for task in self.tasks)

    def error(self, top: int, mxnet_batch: int = 0) -> float:
        """The mean of the tasks' top-`top` errors in percent; see `Verdicts.error`."""
        return sum(task.error(top, mxnet_batch) for task in self.tasks) / len(self.tasks)

    def class_errors(self) -> tuple[NDArray[np.int64], Shares]:
        """See `Verdicts.class_errors`; the classes of the first task come first."""
        images, errors = zip(*(task.class_errors() for task in self.tasks), strict=True)
        return np.concatenate(images), np.concatenate(errors)

    def confusion(self) -> NDArray[np.int64]:
        """classes x classes counts; no class is taken for one of another task."""
        counts, first = np.zeros((self.classes, self.classes), np.int64), 0
        for task in self.tasks:
            its = slice(first, first + task.classes)
            counts[its, its] = task.confusion()
            first += task.classes
        return counts

    def evaluation(self, mxnet_batch: int = 0) -> Evaluation:
        """The figures of all."""
        figures = super().evaluation(mxnet_batch)
        each = tuple(task.error(1, mxnet_batch) for task in self.tasks)
        errors = figures.top1_error, figures.top5_error
        return TasksEvaluation(figures.images, figures.loss, *errors, each, classes=self.choices)


@dataclass(frozen=True)
class MultiVerdicts(Verdicts):
    """The same where an image has any number of classes, of which `labels` has the one that the network puts first.

    `rank`: how many classes come before it, `classes` or more where an image has no class. `class_images` says how many
    images have each class, `precisions` are the classes' average precisions (shares, not a number without images).
    """

    class_images: NDArray[np.int64]
    precisions: Shares

    @property
    def mean_average_precision(self) -> float:
        """The mean over the classes that have images, in percent."""
        return 100 * mean_of(self.precisions)

    def class_errors(self) -> tuple[NDArray[np.int64], Shares]:
        """Of every class the number of its images, and what its average precision lacks, in percent."""
        return self.class_images, 100 - 100 * self.precisions

    def confusion(self) -> NDArray[np.int64]:
        """There is none: a ResnetError says so."""
        raise ResnetError("An image of `labels` multi has any number of classes: no one is taken for another.")

    def evaluation(self, mxnet_batch: int = 0) -> Evaluation:
        """The figures of all."""
        figures = super().evaluation(mxnet_batch)
        each = tuple(None if np.isnan(one) else 100 * float(one) for one in self.precisions)
        mean = self.mean_average_precision
        errors = figures.top1_error, figures.top5_error
        return MultiEvaluation(figures.images, figures.loss, *errors, mean, each, classes=self.choices)
