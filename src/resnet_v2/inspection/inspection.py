"""What is wrong with a data set and with a network's answers about it: all that is looked for, one after the other."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from resnet_v2.console import agreeing, counted
from resnet_v2.errors import ResnetError
from resnet_v2.inference.classifier import Classifier
from resnet_v2.inference.tally import probabilities
from resnet_v2.inspection import calibration
from resnet_v2.inspection.calibration import Calibration
from resnet_v2.inspection.doubles import Group, find_doubles
from resnet_v2.inspection.labelled import Labelled
from resnet_v2.inspection.looking import Looked, look
from resnet_v2.inspection.oddities import Odd, find_odd
from resnet_v2.inspection.wrong_labels import Suspicions, find_wrong_labels
from resnet_v2.networks.header import Header


@dataclass(frozen=True)
class Confusion:
    """Pictures of class `given` that the network takes for `taken`, the most certain first, each with its share."""

    given: int
    taken: int
    pictures: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Inspection:
    """All that was found. `counts` (sets x classes) are pictures.

    Answers are those about the set `answered`, the last one; `silence` says why there are none. `trained`: the network
    was trained on these very pictures, and is more often right about them than about others.
    """

    network: Header
    looked: Looked
    names: tuple[str, ...]
    counts: NDArray[np.int64]
    doubles: tuple[Group, ...]
    wrong: Suspicions
    odd: tuple[Odd, ...]
    answered: int
    silence: str = ""
    error: float | None = None
    confusions: tuple[Confusion, ...] = ()
    calibration: Calibration | None = None
    uncalibrated: str = ""
    trained: bool = False

    def name(self, label: int) -> str:
        """What a class is called; its number where it has no name."""
        return self.names[label] if label < len(self.names) else str(label)

    def across(self, group: Group) -> bool:
        """Whether a group of doubles has pictures of both sets."""
        return len({int(self.looked.parts[one]) for one in group.members}) > 1

    def mixed(self, group: Group) -> bool:
        """Whether a group of doubles has pictures of several classes."""
        return len({int(self.looked.labels[one]) for one in group.members}) > 1


def examine(sets: list[Labelled], network: Classifier, named: bool = True) -> Inspection:
    """Everything about one set of pictures, or about two, of which the second is held out.

    `named`: somebody chose the network, which may then be one of these classes although no names say so.
    """
    header = network.header
    if header.label_kind != "class":
        raise ResnetError(
            f"The network was trained with `labels` {header.labels}, and this command wants one class for each "
            "picture; give another `prefix`."
        )
    names = _names(sets)
    looked = look(sets, network)
    classes = max(len(names), int(looked.labels.max()) + 1)
    silence = _silence(names, classes, header, named)
    counts = np.stack(
        [np.bincount(looked.labels[looked.parts == part], minlength=classes) for part in range(len(sets))]
    )
    found = Inspection(
        header,
        looked,
        names or (() if silence else header.class_names),
        counts,
        tuple(find_doubles(looked.measures)),
        find_wrong_labels(looked.features, looked.labels),
        tuple(find_odd(looked.measures, looked.features)),
        len(sets) - 1,
        silence,
    )
    return found if silence else _with_answers(found)


def _names(sets: list[Labelled]) -> tuple[str, ...]:
    """The class names beside the sets; ResnetError where they are not the same."""
    names = [its.class_names for its in sets if its.class_names]
    if len(names) == 2 and names[0] != names[1]:
        one, other = next(
            pair for pair in zip((*names[0], "none"), (*names[1], "none"), strict=False) if pair[0] != pair[1]
        )
        raise ResnetError(f"The two sets are of other classes, {one!r} and {other!r}; give two of the same.")
    return names[0] if names else ()


def _silence(names: tuple[str, ...], classes: int, header: Header, named: bool) -> str:
    """Why a network's answers say nothing about pictures of these classes; nothing where they do."""
    known, whose = header.class_names, "The network" if named else "The network that ships"
    if names and known and names != known:
        return f"{whose} knows other classes than these; give --prefix of one that was trained on them."
    if not names and not named:
        return (
            "No synset.txt names the classes; name the network with --prefix, or put its synset.txt beside the record."
        )
    if classes > header.architecture.classes or (names and classes != header.architecture.classes):
        return (
            f"{whose} has {counted(header.architecture.classes, 'class')}, and here "
            f"{agreeing(classes, 'is', 'are')} {classes}; give another --prefix."
        )
    return ""


def _with_answers(found: Inspection) -> Inspection:
    looked = found.looked
    its = np.flatnonzero(looked.parts == found.answered)
    if not len(its):
        return replace(found, silence="No picture of the set held out can be read.")
    logits, labels = looked.logits[its], looked.labels[its]
    shares = probabilities(logits / np.float32(found.network.temperature))
    confusions = tuple(_confusions(its, shares, labels))
    error = 100 * float((shares.argmax(1) != labels).mean())
    trained = looked.sets[found.answered].was_trained_on(found.network.training.get("data", {}))
    found = replace(found, error=error, confusions=confusions, trained=trained)
    try:
        measured = calibration.calibrate(logits, labels, found.network.temperature)
    except ResnetError as problem:
        return replace(found, uncalibrated=str(problem))
    return replace(found, calibration=measured)


def _confusions(
    places: NDArray[np.int64], shares: NDArray[np.float64], labels: NDArray[np.int64]
) -> Iterator[Confusion]:
    """The pairs of classes that are confused, the most frequent first."""
    taken, certain = shares.argmax(1), shares.max(1)
    pairs = Counter((int(labels[one]), int(taken[one])) for one in np.flatnonzero(taken != labels))
    for (given, other), _ in sorted(pairs.items(), key=lambda item: (-item[1], item[0])):
        its = np.flatnonzero((labels == given) & (taken == other))
        order = its[np.argsort(-certain[its], kind="stable")]
        yield Confusion(given, other, tuple((int(places[one]), float(certain[one])) for one in order))
