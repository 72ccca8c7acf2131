"""The files that `list` and `data` write beside records: lists, in one piece or in chunks, and the names of classes."""

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice, zip_longest
from pathlib import Path

from resnet_v2.config.packing import ListConfig
from resnet_v2.console import counted, following, say
from resnet_v2.data.index import is_record
from resnet_v2.data.lists import ListEntry, read_lines, read_synset, write_list
from resnet_v2.errors import ResnetError

LOOKED_AT = 10_000  # images of an older list


def list_paths(prefix: Path, part: str, chunks: int) -> list[Path]:
    """`PREFIX_train.lst` for the part `train`; of several chunks `PREFIX_0_train.lst`, `PREFIX_1_train.lst` ..."""
    numbers = [""] if chunks == 1 else [f"_{number}" for number in range(chunks)]
    return [prefix.with_name(f"{prefix.name}{number}_{part}.lst") for number in numbers]


def write_lists(paths: Sequence[Path], entries: Iterable[ListEntry], total: int) -> None:
    """Write `total` entries, as many into each list as into the others, or one more. Their order stays."""
    left = iter(entries)
    for number, path in enumerate(paths):
        count = total * (number + 1) // len(paths) - total * number // len(paths)
        write_list(path, following(islice(left, count), path.name, count))


def told_lists(settings: ListConfig, classes: int, train: int, validation: int) -> str:
    """What was written of so many classes, on a line for each part: so many images for training and for validation."""
    chunk = "" if settings.chunks == 1 else f"_0 to _{settings.chunks - 1}"
    start = f"{settings.prefix}{chunk}"
    held = "nothing is held out for validation; --val-per-class or --val-ratio would"
    if validation:
        held = f"{start}_val.lst: {counted(validation, 'image')}"
    return f"{start}_train.lst: {counted(train, 'image')} of {counted(classes, 'class')}\n{held}"


def tell_of_older_lists(prefix: Path, written: Collection[Path]) -> None:
    """Say it where a list of an earlier run with the same prefix is not replaced and holds images of the new lists."""
    own = re.compile(re.escape(prefix.name) + r"(_\d+)?_(train|val)\.lst")
    for path in sorted(prefix.parent.iterdir()):
        if own.fullmatch(path.name) and path not in written:
            older = {entry.path for entry in _entries(path, LOOKED_AT)}
            if any(entry.path in older for one in written for entry in _entries(one)):
                say(f"warning: {path} is of an earlier run and stays; it holds images of the new lists; remove it.")


def _entries(path: Path, most: int | None = None) -> Iterator[ListEntry]:
    return islice((line for line in read_lines(path) if isinstance(line, ListEntry)), most)


def refuse_other_classes(folder: Path, own: Collection[str], names: Sequence[str], unfinished: bool = False) -> None:
    """Raise ResnetError where a folder's synset.txt names other classes than `names` and is not to be replaced.

    `own` are the names of the files that are made with it. Where they are the folder's only lists and records, they are
    of an earlier run, and that their classes change is said; so it is where there are none and a run was killed that
    had taken them away (`unfinished`).
    """
    synset = folder / "synset.txt"
    there = _names_in(synset) if synset.exists() else names
    pairs = zip_longest(there, names, fillvalue="nothing")
    number, other = next(((n, pair) for n, pair in enumerate(pairs) if pair[0] != pair[1]), (0, None))
    if other is None:
        return
    users = sorted(path.name for path in folder.iterdir() if path.suffix == ".lst" or is_record(path))
    others = [name for name in users if name not in own]
    differs = f"{synset} is there, and its class {number} is {other[0]}, not {other[1]}"
    if others or not (users or unfinished):
        used = f"; {others[0]} beside it goes by it" if others else ""
        raise ResnetError(f"{differs}{used}: give another folder, or remove {synset.name}.")
    say(f"{differs}; it is replaced.")


def _names_in(synset: Path) -> tuple[str, ...]:
    try:
        return read_synset(synset)
    except ResnetError:  # whatever it is, it is no names of these classes
        return ()
