"""Inputs -> other records: merged, shuffled, filtered, split. Images keep their bytes, and nothing is decoded."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from resnet_v2.config.converting import ConvertConfig
from resnet_v2.console import Progress, agreeing, counted, say
from resnet_v2.data.exact import EXACT_LABELS, shown
from resnet_v2.data.index import index_path
from resnet_v2.data.lists import as_class_name, read_synset, write_synset
from resnet_v2.data.record_names import parts_of
from resnet_v2.data.sidecar import sidecar_path
from resnet_v2.errors import ResnetError
from resnet_v2.packing import faces, origin
from resnet_v2.packing.choosing import Choice, choose
from resnet_v2.packing.headers import Change
from resnet_v2.packing.inputs import Inputs, find_inputs
from resnet_v2.packing.output import Output, writing_all
from resnet_v2.storage import Address

LARGEST_KEY = (1 << 63) - 1
MOST_TOLD = 6


def convert(settings: ConvertConfig) -> list[str]:
    """Write what the settings ask for; returns a sentence for each file.

    No file has its name before all are written. Raises ResnetError for an output that is an input or is there already,
    and for a damaged record.
    """
    paths = find_inputs(settings.files[:-1])
    _refuse_taken(settings.out, paths)
    if settings.parts and not isinstance(settings.out, Address) and (there := parts_of(settings.out)):
        raise ResnetError(f"{there[0]} is there already, part of another set; remove it, or give another name.")
    names = class_names(paths)
    records = Inputs(paths)
    choices, classes = choose(records, settings, names)
    for choice in choices:
        _refuse_taken(choice.out, paths)
        if settings.faces:
            faces.check(records, choice)
    synset = settings.out.with_name("synset.txt")
    new_names = _new_names(synset, names, classes)
    records.tell()
    _tell_of_identities(records)
    if settings.faces and classes is None and records.labels.max() >= EXACT_LABELS:
        say(
            "warning: labels from 16777216 on are exact to this program alone, others read them rounded; `--renumber` "
            "counts the identities from 0"
        )
    _tell_of_gaps(records, choices, classes)
    _write_all(records, choices, settings, classes)
    if new_names:
        write_synset(synset, new_names)
    return [f"{choice.out}: {counted(len(choice.numbers), 'image')}" for choice in choices]


def _refuse_taken(out: Path, paths: Sequence[Path]) -> None:
    """Raise ResnetError for a file to be that is an input, by whatever name, or is there already."""
    inputs = [file for path in paths for file in (path, index_path(path), sidecar_path(path)) if file.exists()]
    for path in (out, index_path(out), sidecar_path(out)):
        if not path.exists():
            continue
        if any(not isinstance(file, Address) and path.samefile(file) for file in inputs):
            raise ResnetError(f"{path} is read from, it is not written; give another name for what is to be written.")
        raise ResnetError(f"{path} is there already, it is not written; remove it, or give another name.")


def class_names(paths: Sequence[Path]) -> tuple[str, ...]:
    """What the synset.txt beside the records says, none where there is none; ResnetError where several differ."""
    found: dict[Path, tuple[str, ...]] = {}
    for path in dict.fromkeys(path.with_name("synset.txt") for path in paths):
        if path.is_file():
            found[path] = read_synset(path)
    for path, names in found.items():
        first, first_names = next(iter(found.items()))
        if names != first_names:
            raise ResnetError(
                f"{first} and {path} name other classes, so one number would mean two things; convert each alone "
                "with `classes` and `renumber` to the same classes first."
            )
    return next(iter(found.values()), ())


def _new_names(synset: Path, names: Sequence[str], classes: Mapping[float, int] | None) -> Sequence[str]:
    """What is to be written as synset.txt, nothing where it is there or unknown; ResnetError where another is there."""
    if not names:
        return ()
    old_of = {new: int(old) for old, new in classes.items()} if classes is not None else {}
    if outside := [old for old in old_of.values() if old >= len(names)]:
        raise ResnetError(
            f"Class {outside[0]} is none of the {len(names)} that synset.txt names; mend the one or other."
        )
    wanted = tuple(names[old_of[new]] for new in range(len(old_of))) if classes is not None else tuple(names)
    if not synset.exists():
        try:
            return tuple(map(as_class_name, wanted))
        except ResnetError as error:  # before anything is written
            raise ResnetError(f"{synset} cannot be written: {error}") from None
    if read_synset(synset) != wanted:
        raise ResnetError(f"{synset} names other classes than the new records have; write them into another folder.")
    return ()


def _tell_of_identities(records: Inputs) -> None:
    """Say that several collections of faces call people by one number, who may be others."""
    its = [np.unique(records.labels[records.files == file]) for file in sorted(records.faces)]
    if several := sum(map(len, its)) - len(np.unique(np.concatenate([np.empty(0), *its]))):
        say(
            f"warning: {counted(several, 'identity')} {agreeing(several, 'has', 'have')} the number of another "
            f"file's and {agreeing(several, 'becomes', 'become')} one with it; where they are "
            "other people, number them anew first"
        )


def _tell_of_gaps(records: Inputs, choices: Sequence[Choice], classes: Mapping[float, int] | None) -> None:
    """Say what classes are called now, or that some have no image any more."""
    if classes is not None:
        changed = [f"{shown(old)} -> {new}" for old, new in classes.items() if old != new]
        told = ", ".join(changed[:6]) + (", ..." if len(changed) > 6 else "")
        say(
            f"{counted(len(classes), 'class')}, numbered anew: {told}"
            if changed
            else f"{counted(len(classes), 'class')} {agreeing(len(classes), 'keeps its number', 'keep their numbers')}"
        )
        return
    before = np.unique(records.labels)
    kept = np.unique(np.concatenate([records.labels[choice.numbers] for choice in choices]))
    if len(kept) < len(before):
        say(
            f"{len(kept)} of {len(before)} classes {agreeing(len(kept), 'is', 'are')} kept, under the old numbers; "
            "`--renumber` closes the gaps"
        )


def _write_all(
    records: Inputs, choices: Sequence[Choice], settings: ConvertConfig, classes: Mapping[float, int] | None
) -> None:
    # A face is asked for by its identity alone; the other labels of its array stay in InsightFace's form.
    change = Change(classes, frozenset() if settings.faces else frozenset(records.faces))
    if change.one_label:
        say("the label of each face is its identity, as one number; `--faces` keeps InsightFace's form")
    total = sum(len(choice.numbers) for choice in choices)
    anew = not settings.faces and _meet(records, choices)
    given = 0
    with (
        writing_all([choice.out for choice in choices], origin.of_convert(settings, records.origins)) as outputs,
        Progress(settings.out.name, total) as progress,
    ):
        for choice, output in zip(choices, outputs, strict=True):
            if settings.faces:
                faces.write(records, choice, output, change, progress)
            else:
                _write(records, choice, output, change, progress, given if anew else None)
            given += len(choice.numbers)


def _meet(records: Inputs, choices: Sequence[Choice]) -> bool:
    """Whether two records have one id, or one has too large an id, so that all are given new ones, which is said."""
    ids = np.concatenate([records.ids[choice.numbers] for choice in choices])
    if len(np.unique(ids)) < len(ids):
        why = "some records have the same id"
    elif int(ids.max()) > LARGEST_KEY:
        why = f"a record has the id {int(ids.max())}, which is larger than an index holds"
    else:
        return False
    say(f"{why}: all are numbered anew from 0, in their order")
    return True


def _write(
    records: Inputs, choice: Choice, output: Output, change: Change, progress: Progress, first: int | None
) -> None:
    """Write records under their ids, or under new ones from `first` on."""
    for place, number in enumerate(progress.over(choice.numbers.tolist())):
        identity = int(records.ids[number]) if first is None else first + place
        output.write(identity, change.apply(records, number, identity))
