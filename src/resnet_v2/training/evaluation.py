"""What a validation finds, by the kind of labels."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from resnet_v2.console import counted


def told_errors(classes: int) -> tuple[int, ...]:
    """The errors, top-1 and top-5, that say something: with five classes or fewer one of five is always right."""
    return (1,) if 0 < classes <= 5 else (1, 5)


@dataclass(frozen=True)
class Evaluation:
    """Figures over a record: `loss` is the mean cross-entropy in nats, errors are in percent of `images`.

    `classes` is what an answer is chosen from, 0 where that is not known; no file holds it.
    """

    images: int
    loss: float
    top1_error: float
    top5_error: float
    classes: int = field(default=0, kw_only=True, compare=False, repr=False)

    @property
    def error(self) -> float:
        """What the best epoch has least of, in percent."""
        return self.top1_error

    @property
    def figures(self) -> dict[str, float]:
        """What the header of a checkpoint tells, in percent."""
        return {"top1_error": self.top1_error, "top5_error": self.top5_error}

    def __str__(self) -> str:
        """The figures in words."""
        errors = {1: self.top1_error, 5: self.top5_error}
        told = ", ".join(f"top-{top} error {errors[top]:.2f} %" for top in told_errors(self.classes))
        return f"{told} on {counted(self.images, 'image')}"


@dataclass(frozen=True)
class TasksEvaluation(Evaluation):
    """The same over several tasks: the loss is their sum, both errors are the tasks' mean, `task_errors` the top-1
    error of each.
    """

    task_errors: tuple[float, ...]

    def __str__(self) -> str:
        """The figures in words."""
        each = ", ".join(f"task {task}: {error:.2f} %" for task, error in enumerate(self.task_errors))
        return f"{super().__str__()}; top-1 error of {each}"


@dataclass(frozen=True)
class MultiEvaluation(Evaluation):
    """The same where an image has any number of classes: the loss is the mean binary cross-entropy.

    An image counts for the top-1 error whose most probable class is none of its own, for the top-5 error where no one
    of five is; an image without classes counts for both. `average_precision` is that of each class in percent, None
    where it has no images, and `mean_average_precision` is the mean of the others.
    """

    mean_average_precision: float
    average_precision: tuple[float | None, ...]

    @property
    def error(self) -> float:
        """What the best epoch has least of, in percent."""
        return 100 - self.mean_average_precision

    @property
    def figures(self) -> dict[str, float]:
        """What the header of a checkpoint tells, in percent."""
        return super().figures | {"mean_average_precision": self.mean_average_precision}

    def __str__(self) -> str:
        """The figures in words."""
        return f"mean average precision {self.mean_average_precision:.2f} %, {super().__str__()}"


def saved(result: Evaluation) -> dict[str, Any]:
    """A result as JSON holds it without loss."""
    values = asdict(result)
    del values["classes"]
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def restored(values: Mapping[str, Any], classes: int = 0) -> Evaluation:
    """What `saved` gave, of a network that chooses from so many classes (0: not known)."""
    whole: dict[str, Any] = {name: tuple(one) if isinstance(one, list) else one for name, one in values.items()}
    whole["classes"] = classes
    if "average_precision" in whole:
        return MultiEvaluation(**whole)
    return TasksEvaluation(**whole) if "task_errors" in whole else Evaluation(**whole)
