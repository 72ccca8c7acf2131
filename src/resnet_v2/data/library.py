"""The loader for training loops of others: an iterable of images and labels that knows where it is."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from resnet_v2.console import say
from resnet_v2.data.augment import Augmentation, augmentation, random_resized_crop
from resnet_v2.data.filling import Centred
from resnet_v2.data.hands import usual_workers
from resnet_v2.data.kept import LARGEST_SIDE
from resnet_v2.data.labels import Labels
from resnet_v2.data.loader import Loader, Reading
from resnet_v2.data.record_set import open_records
from resnet_v2.data.ring import Pin
from resnet_v2.errors import ResnetError

Augment = Literal["level-1", "level-2", "level-3", "rrc", "centre"]
MOST_CLASSES = 1 << 53  # what a number of Python or of a list can count


class RecordLoader:
    """Batches of a record for any training loop: a loop over it gives (images, labels) of one epoch, the next the next.

    Images are n x size x size x 3, uint8, RGB, labels n, int64; both are NumPy arrays, which PyTorch and JAX take as
    they are. `batch_size` counts the images of a step on all ranks; the last batch of an epoch may be smaller. The
    `augment` levels are those of the 2016 reproduction (1: crop and mirror; 2: and scale, aspect, colours; 3: and
    rotation, shear), `rrc` is the random resized crop, both in an order that depends on (`seed`, epoch) alone; `centre`
    is for evaluation: the centre crop, in the order of the record. `rec` names one record or several, as
    `a.rec,b.rec` or `train_*.rec`. `classes` checks the labels, 0: not. Records of several labels have a `label_width`,
    MXNet's word: 2 or more gives n x width labels, float32, 1 the first of them. `workers` processes read, 0: none
    beside this one. `pin` is for GPUs: see `resnet_v2.training.feed.pin_for`.

    Raises ResnetError for a record that is missing, damaged or another's, naming it.

    >>> train = RecordLoader("data/train_480_q90.rec", batch_size=256, augment="level-2")
    >>> for images, labels in train: ...
    >>> state = train.state_dict()  # amid an epoch, too; `load_state_dict` goes on there, on any number of ranks
    """

    def __init__(
        self,
        rec: str | Path,
        *,
        batch_size: int,
        size: int = 224,
        augment: Augment = "level-2",
        classes: int = 0,
        label_width: int = 1,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        workers: int | Literal["auto"] = "auto",
        pin: Pin | None = None,
    ) -> None:
        if workers == "auto":
            workers = usual_workers(world_size, computes=pin is None)
        if label_width < 1:
            raise ResnetError(f"`label_width` must be 1 or more, not {label_width}.")
        if classes and label_width > 1:
            raise ResnetError("`classes` checks one label, and `label_width` asks for more; leave one of them out.")
        records = open_records(rec)
        for remark in records.remarks if rank == 0 else ():
            say(remark)
        self._loader = Loader(
            records,
            _plan(augment, size),
            seed=seed,
            batch_size=batch_size,
            classes=Labels(label_width, "numbers") if label_width > 1 else classes or MOST_CLASSES,
            rank=rank,
            world_size=world_size,
            reading=Reading(workers, pin=pin, sharers=world_size),
        )

    @property
    def epoch(self) -> int:
        """The epoch that a loop gives next, or gives now; counted from 0."""
        return self._loader.epoch

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return self._loader.steps

    def __iter__(self) -> Iterator[tuple[NDArray[np.uint8], NDArray[Any]]]:
        """The batches that are left of the current epoch."""
        for batch in self._loader:
            yield batch.images, batch.labels

    def state_dict(self) -> dict[str, int]:
        """Where it is, in plain numbers."""
        return self._loader.state_dict()

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go where another one was; a ResnetError says what keeps it from going on."""
        self._loader.load_state_dict(state)


def _plan(augment: str, size: int) -> Augmentation | Centred:
    if augment == "centre":
        return Centred(size)
    if augment == "rrc":
        return random_resized_crop(size)
    level = {"level-1": 1, "level-2": 2, "level-3": 3}.get(augment, 0)
    if not level:
        raise ResnetError(f"There is no augmentation {augment!r}; take level-1, level-2, level-3, rrc or centre.")
    return augmentation(level, size, imagenet=size > LARGEST_SIDE)
