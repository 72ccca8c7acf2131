"""Several networks that answer as one: the mean of their probabilities."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

from resnet_v2.console import counted
from resnet_v2.data.labels import Labels
from resnet_v2.errors import ResnetError
from resnet_v2.inference.engines import Engine, Images, Logits
from resnet_v2.inference.tally import logits_of_mean
from resnet_v2.networks.header import Header


@dataclass(frozen=True)
class EnsembleHeader(Header):
    """What several checkpoints say alike; `members` are what papers call their networks."""

    members: tuple[str, ...] = ()

    @property
    def network(self) -> str:
        """All of them: ResNet-20-v2 + ResNet-56-v2."""
        return " + ".join(self.members)


class Ensemble:
    """Engines as one, whose logits are those of the mean of their probabilities."""

    def __init__(self, engines: Sequence[Engine], labels: Labels) -> None:
        self.where = engines[0].where
        self._engines, self._labels = engines, labels

    def logits(self, images: Images) -> Logits:
        return logits_of_mean([engine.logits(images) for engine in self._engines], self._labels)


def agreed(headers: Sequence[Header], names: Sequence[str]) -> EnsembleHeader:
    """The header of an ensemble; a ResnetError with two of the `names` where they cannot answer as one."""
    first = headers[0]
    for header, name in zip(headers[1:], names[1:], strict=True):
        _refuse_other(first, header, names[0], name)
    return EnsembleHeader(
        first.architecture,
        first.epoch,
        first.resize,
        first.crop,
        next((header.class_names for header in headers if header.class_names), ()),
        label_kind=first.label_kind,
        tasks=first.tasks,
        members=tuple(header.network for header in headers),
    )


def refuse_other_classes(first: Header, other: Header, first_name: str, name: str) -> None:
    """Raise ResnetError where two networks do not tell the same classes."""
    if first.labels != other.labels:
        ours, theirs = (
            f"{counted(one.architecture.classes, 'class')} (`labels` {one.labels})" for one in (first, other)
        )
        raise ResnetError(f"{first_name} tells {ours} and {name} {theirs}; give networks of the same classes.")
    if first.class_names and other.class_names:
        for number, (ours, theirs) in enumerate(zip_longest(first.class_names, other.class_names)):
            if ours != theirs:
                raise ResnetError(
                    f"Class {number} is {ours!r} to {first_name} and {theirs!r} to {name}; give networks of the same "
                    "classes."
                )


def _refuse_other(first: Header, other: Header, first_name: str, name: str) -> None:
    refuse_other_classes(first, other, first_name, name)
    if (first.crop, first.resize) != (other.crop, other.resize):
        raise ResnetError(
            f"{first_name} sees pictures at {first.crop} of {first.resize} pixels and {name} at {other.crop} of "
            f"{other.resize}; evaluate each alone."
        )
