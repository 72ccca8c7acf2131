"""Which records of several files go into which new one, in which order, and what their classes are called there."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resnet_v2.config.converting import ConvertConfig
from resnet_v2.console import counted
from resnet_v2.data.exact import EXACT_LABELS, LARGEST_EXACT, shown
from resnet_v2.data.lists import read_synset
from resnet_v2.errors import ResnetError, printable
from resnet_v2.packing.inputs import Inputs

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Choice:
    """A new file and the numbers of the records that go into it, in their order."""

    out: Path
    numbers: Numbers


def choose(
    records: Inputs, settings: ConvertConfig, names: Sequence[str]
) -> tuple[list[Choice], Mapping[float, int] | None]:
    """The files to write, and the new number of every class where classes are numbered anew.

    The same seed gives the same choice. Raises ResnetError where something is asked for that the records do not have.
    """
    generator = np.random.default_rng(settings.seed)
    numbers = records.numbers
    wanted = _wanted_classes(settings.classes, names)
    if wanted or _looks_at_classes(settings):
        records.refuse_boxes()
        records.tell_of_several_labels()
        check_classes(records, numbers)
    elif records.faces:  # whose label becomes the identity alone
        refuse_rounded(records, numbers[np.isin(records.files[numbers], list(records.faces))])
    if wanted:
        numbers = _of_classes(records, numbers, wanted, names)
    if settings.shuffle:
        numbers = generator.permutation(numbers)
    if settings.subset:
        numbers = _first(numbers, settings.subset)
    if settings.faces:
        numbers = numbers[records.labels[numbers].argsort(kind="stable")]
    choices = _divided(records, numbers, settings, names, generator)
    return choices, _new_numbers(records, choices, wanted) if settings.renumber else None


def _looks_at_classes(settings: ConvertConfig) -> bool:
    return bool(
        settings.renumber or settings.faces or settings.val_per_class or settings.val_ratio or settings.val_identities
    )


def _wanted_classes(text: str, names: Sequence[str]) -> list[int]:
    """`"3,cat"` or a file of such lines -> the numbers of the classes, in this order."""
    if not text:
        return []
    words = read_synset(Path(text)) if text.endswith(".txt") else [word.strip() for word in text.split(",")]
    number_of: dict[str, int] = {}
    for number, name in enumerate(names):
        if number_of.setdefault(name, number) != number and name in words:
            raise ResnetError(f"Several classes are called {printable(name)} in synset.txt; give `classes` by number.")
    wanted = [_class_number(word, number_of) for word in words]
    if len(set(wanted)) < len(wanted):
        twice = next(number for number in wanted if wanted.count(number) > 1)
        raise ResnetError(f"`classes` names class {twice} twice; give every class once.")
    return wanted


def _class_number(word: str, number_of: Mapping[str, int]) -> int:
    if word in number_of:
        return number_of[word]
    if word.isdecimal():
        return int(word)
    known = "synset.txt beside the first .rec does not name it" if number_of else "no synset.txt lies beside the .rec"
    raise ResnetError(f"`classes`: {word!r} is no number of a class, and {known}; give numbers or names of classes.")


def without_class(records: Inputs, numbers: Numbers) -> Numbers:
    """Of some records those whose first label is no number of a class."""
    labels = records.labels[numbers]
    found: Numbers = numbers[~((labels >= 0) & (labels < LARGEST_EXACT) & (labels == np.floor(labels)))]
    return found


def check_classes(records: Inputs, numbers: Numbers) -> None:
    """Raise ResnetError for a record whose first label is no number of a class."""
    bad = without_class(records, numbers)
    refuse_rounded(records, bad)
    if len(bad):
        raise ResnetError(
            f"{without_class_words(records, int(bad[0]))}; such records can be merged, shuffled and divided, and "
            "nothing else."
        )


def refuse_rounded(records: Inputs, numbers: Numbers) -> None:
    """Raise ResnetError for a record whose label may stand for several identities."""
    unknown = numbers[np.isnan(records.labels[numbers])]
    for number in unknown[:1].tolist():
        if abs(records.stored_labels[number]) >= EXACT_LABELS:
            raise ResnetError(
                f"{without_class_words(records, number)}; give the identities numbers from 0 and pack again, or pack "
                "the same list with `resnet-v2 pack`, which keeps the exact ones."
            )


def without_class_words(records: Inputs, number: int) -> str:
    """What is wrong with a label that is no number of a class."""
    stored = float(records.stored_labels[number])
    told = f"{records.name(number)} has the label {shown(stored)}"
    if math.isnan(records.labels[number]) and EXACT_LABELS <= stored < LARGEST_EXACT:
        return f"{told}, to which others are rounded, and not the exact one as id2"
    return f"{told}, which is no number of a class"


def _of_classes(records: Inputs, numbers: Numbers, wanted: Sequence[int], names: Sequence[str]) -> Numbers:
    labels = records.labels[numbers]
    if len(missing := np.setdiff1d(np.array(wanted), labels)):
        raise ResnetError(f"No record is of class {_named(missing[0], names)}; mend `classes`.")
    return numbers[np.isin(labels, wanted)]


def _first(numbers: Numbers, count: int) -> Numbers:
    if count > len(numbers):
        raise ResnetError(f"`subset` {count} is more than the {counted(len(numbers), 'image')} there; give fewer.")
    return numbers[:count]


def _divided(
    records: Inputs, numbers: Numbers, settings: ConvertConfig, names: Sequence[str], generator: np.random.Generator
) -> list[Choice]:
    out = settings.out
    if settings.parts:
        if settings.parts > len(numbers):
            raise ResnetError(
                f"`parts` {settings.parts} is more than the {counted(len(numbers), 'image')}; give fewer."
            )
        pieces = np.array_split(numbers, settings.parts)
        return [Choice(out.with_name(f"{out.name}.part{part:03d}"), piece) for part, piece in enumerate(pieces)]
    if settings.val_identities:
        held_out = _held_out_classes(records, numbers, settings.val_identities, generator)
    elif settings.val_per_class or settings.val_ratio:
        held_out = _held_out_images(records, numbers, settings, names, generator)
    else:
        return [Choice(out, numbers)]
    if not held_out.any():
        raise ResnetError(f"`val_ratio` {settings.val_ratio} holds out no image of any class; give a larger share.")
    train, val = (out.with_name(f"{out.stem}_{part}.rec") for part in ("train", "val"))
    return [Choice(train, numbers[~held_out]), Choice(val, numbers[held_out])]


def _held_out_classes(
    records: Inputs, numbers: Numbers, count: int, generator: np.random.Generator
) -> NDArray[np.bool_]:
    classes = np.unique(records.labels[numbers])
    if count >= len(classes):
        raise ResnetError(
            f"`val_identities` {count} leaves nothing to train on: the records have "
            f"{counted(len(classes), 'class')}; give fewer."
        )
    return np.isin(records.labels[numbers], generator.permutation(classes)[:count])


def _held_out_images(
    records: Inputs, numbers: Numbers, settings: ConvertConfig, names: Sequence[str], generator: np.random.Generator
) -> NDArray[np.bool_]:
    labels = records.labels[numbers]
    order = labels.argsort(kind="stable")
    classes, first = np.unique(labels[order], return_index=True)
    held_out = np.zeros(len(numbers), np.bool_)
    for label, places in zip(classes, np.split(order, first[1:]), strict=True):
        count = settings.val_per_class or round(settings.val_ratio * len(places))
        if count >= len(places):
            raise ResnetError(
                f"Class {_named(label, names)} has {counted(len(places), 'image')}, too few to hold out {count} for "
                "validation; "
                "give a smaller number or share, or leave the class out by `classes`."
            )
        held_out[generator.permutation(places)[:count]] = True
    return held_out


def _named(label: float, names: Sequence[str]) -> str:
    number = int(label)
    return f"{number} ({printable(names[number])})" if number < len(names) else str(number)


def _new_numbers(records: Inputs, choices: Sequence[Choice], wanted: Sequence[int]) -> Mapping[float, int]:
    """In the order asked for; else ascending, classes that are for validation alone behind the others."""
    found: dict[float, int] = {}
    for choice in choices:
        for label in np.unique(records.labels[choice.numbers]).tolist():
            found.setdefault(label, len(found))
    return {float(label): new for new, label in enumerate(wanted)} if wanted else found
