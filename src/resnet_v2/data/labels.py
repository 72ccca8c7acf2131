"""What the labels of a record are to a network: one class, or several numbers for each image."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray

from resnet_v2.data.records import IRHeader
from resnet_v2.errors import ResnetError

MOST_OFF = 0.01  # by which probabilities may miss a sum of 1: lists have 6 decimals, people write 0.33

Kind = Literal["class", "multi", "soft", "tasks", "numbers"]
Numbers = NDArray[np.float32]


@dataclass(frozen=True)
class Labels:
    """What the labels of a record are to a network of so many `classes`, which is how many logits it has.

    `kind`: class (the record's first label is the class), multi (0 or 1 for every class), soft (a probability for every
    class) or tasks (a class of each task; `tasks` are their numbers of classes, which add up to `classes`). No network
    is trained on numbers: as many of any kind as `classes` says.
    """

    classes: int
    kind: Kind = "class"
    tasks: tuple[int, ...] = ()

    def __str__(self) -> str:
        """As the setting says it."""
        return f"tasks:{','.join(map(str, self.tasks))}" if self.tasks else self.kind

    @property
    def width(self) -> int:
        """How many labels a record has to have, 0: one or more, of which the first counts."""
        return {"class": 0, "tasks": len(self.tasks)}.get(self.kind, self.classes)

    @property
    def answers(self) -> int:
        """How many answers about an image are right or wrong."""
        return len(self.tasks) or 1

    @property
    def choices(self) -> int:
        """How many classes an answer is chosen from, of several tasks at most."""
        return max(self.tasks, default=self.classes)

    @property
    def places(self) -> tuple[slice, ...]:
        """Where the logits of each task lie."""
        ends = np.cumsum(self.tasks).tolist()
        return tuple(slice(end - count, end) for end, count in zip(ends, self.tasks, strict=True))

    def bad(self, values: Numbers) -> NDArray[np.bool_]:
        """Which numbers of n images (n x width) cannot be their labels; of soft ones all, where their sum is wrong."""
        if self.kind == "numbers":
            return cast(NDArray[np.bool_], ~np.isfinite(values))
        if self.kind == "multi":
            return cast(NDArray[np.bool_], (values != 0) & (values != 1))
        if self.kind == "tasks":
            return cast(NDArray[np.bool_], ~((values >= 0) & (values < np.array(self.tasks)) & (values % 1 == 0)))
        with np.errstate(invalid="ignore", over="ignore"):
            off = ~(abs(values.sum(1, dtype=np.float64, keepdims=True) - 1) <= MOST_OFF)
            return cast(NDArray[np.bool_], off | ~((values >= 0) & (values <= 1)))

    def of_batch(self, values: Numbers) -> NDArray[np.int64] | Numbers:
        """The labels of a batch (n x width) as a network is trained on them: tasks int64, others float32."""
        return values.astype(np.int64) if self.kind == "tasks" else values.copy()


def labels_of(classes: int | Labels) -> Labels:
    """A number of classes means one class for each image."""
    return classes if isinstance(classes, Labels) else Labels(classes)


def several_labels(path: Path, ordinal: int, header: IRHeader, labels: Labels) -> Numbers:
    """The labels of a record, `labels.width` numbers; a ResnetError, naming it, where they are others."""
    values = np.ravel(np.asarray(header.label, np.float32))
    if len(values) != labels.width:
        found = f"{len(values)} label{'s' if len(values) != 1 else ''}"
        asked = "`label_width`" if labels.kind == "numbers" else f"`labels` {labels}"
        advice = f"give {len(values)}" if labels.kind == "numbers" else "train with other `labels`"
        raise ResnetError(
            f"{path}: record {ordinal} has {found}, but {asked} wants {labels.width}; pack it with all labels of its "
            f"list, or {advice}."
        )
    bad = np.flatnonzero(labels.bad(values[None])[0])
    if len(bad):
        raise ResnetError(f"{path}: record {ordinal} {_fault(values, int(bad[0]), labels)}; mend the list, pack again.")
    return values


def _fault(values: Numbers, place: int, labels: Labels) -> str:
    value = f"the number {values[place]:g} as label {place}"
    if labels.kind == "numbers":
        return f"has {value}"
    if labels.kind == "multi":
        return f"has {value}, but `labels` multi wants 0 or 1 for every class"
    if labels.kind == "tasks":
        return f"has {value}, but the classes of task {place} are 0 to {labels.tasks[place] - 1}"
    if np.isfinite(values).all() and ((values >= 0) & (values <= 1)).all():
        return f"has labels that add up to {values.sum():g}, but `labels` soft wants probabilities, which add up to 1"
    place = int(np.flatnonzero(~((values >= 0) & (values <= 1)))[0])
    return f"has the number {values[place]:g} as label {place}, but `labels` soft wants probabilities, 0 to 1"
