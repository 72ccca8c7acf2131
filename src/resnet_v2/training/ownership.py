"""A run owns its prefix: no other one writes there meanwhile, and nothing of an earlier one is taken for it."""

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from resnet_v2.data.record_set import Records, all_sums
from resnet_v2.errors import DamagedError, ResnetError
from resnet_v2.files import flush_folder, make_folder
from resnet_v2.logs.runlog import LOG_ENDINGS
from resnet_v2.networks.finding import checkpoint_path, params_path, saved_epochs
from resnet_v2.networks.header import read_header
from resnet_v2.portable import kept
from resnet_v2.training.checkpoint import Start, best_path, forget_run, latest_path, name_also

# What tells one run from another; the same data may lie in another folder.
TOLD_BY = ("learning_rate", "weight_decay", "epochs", "data")
FOLDERS = ("data_dir", "list_dir", "folder")
READ_WHOLE = 256  # records, spread over a file, whose bytes count too: at most seconds of reading


@contextlib.contextmanager
def owned(prefix: str) -> Iterator[None]:
    """Keep a prefix to this process while the block is open, by a lock on .NAME.lock; who dies lets go of it.

    Raises ResnetError when another run has it.
    """
    start = Path(prefix)
    path = start.with_name(f".{start.name}.lock")
    made = not path.parent.is_dir()
    make_folder(path.parent)
    with contextlib.ExitStack() as afterwards, kept(path) as file:
        if file is None:
            raise ResnetError(
                f"{prefix} belongs to another run, which still goes on; wait for its end, or give another "
                "`model_prefix`."
            )
        try:
            yield
        finally:
            _forget(path, made)
            if os.name == "nt":  # it removes no open file, such as the lock
                afterwards.callback(_forget, path, made)


def _forget(path: Path, made: bool) -> None:
    with contextlib.suppress(OSError):  # on Windows: another process waits for it
        path.unlink(missing_ok=True)
        if made:
            path.parent.rmdir()  # unless it holds what the run wrote


def fingerprint(readers: Iterable[Records]) -> dict[str, str]:
    """What each record is known by, by its name, wherever the file lies: three hashes of 16 digits, joined by dashes.

    They are of where its images begin and end; of the bytes of `READ_WHOLE` records, all where there are no more; and,
    where a `.rows` tells it, of what every record's bytes were when it was packed.
    """
    found: dict[str, str] = {}
    for reader in readers:
        name = reader.name
        while name in found:  # of two folders
            name += " (2)"
        found[name] = "-".join(map(_hash, _identity(reader)))
    return found


def _identity(reader: Records) -> Iterator[bytes]:
    ends = b"".join(one.file_bytes.to_bytes(8, "little") for one in reader.readers)
    yield reader.offsets.astype("<i8").tobytes() + ends
    some = np.unique(np.linspace(0, len(reader) - 1, min(len(reader), READ_WHOLE)).astype(np.int64)).tolist()
    total = hashlib.sha256()
    for ordinal in some:
        with contextlib.suppress(DamagedError):  # a damaged record is said to be so when its turn comes
            total.update(reader[ordinal])
    yield total.digest()
    with contextlib.suppress(ResnetError):
        sums = all_sums(reader)
        if len(sums):
            yield sums.tobytes()


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def is_another(before: str, now: str) -> bool:
    """Whether any hash that both have differs; an earlier version of the program had the first alone."""
    return any(old != new for old, new in zip(before.split("-"), now.split("-"), strict=False))


def check_data(start: Start, now: Mapping[str, str], class_names: tuple[str, ...]) -> None:
    """A run goes on with the records and the class names that it began with; a ResnetError says which are others."""
    before = start.header.training.get("data", {})
    others = [name for name in now if name in before and is_another(before[name], now[name])]
    if start.header.class_names != class_names:
        others.append("synset.txt")
    if others:
        raise ResnetError(
            f"{start.path} was made with another {' and another '.join(others)} than `data_dir` holds now; put back "
            "what the run began with, or give `force` to go on with this."
        )


def make_room(prefix: str, first_epoch: int, saved: Mapping[str, Any], say: Callable[[str], object]) -> None:
    """Move what another run has left behind `first_epoch` into a folder PREFIX-earlier-N, and say so.

    `saved` is what the run's own checkpoints will tell of it. What tells the same was made by the same command, stays,
    and is written again with the same bytes; but a run from the start forgets its latest and best states.
    """
    numbered = [checkpoint_path(prefix, epoch) for epoch in saved_epochs(prefix)]
    mxnets = [params_path(prefix, epoch) for epoch in saved_epochs(prefix) if epoch > first_epoch]
    there = [path for path in (*numbered, best_path(prefix), latest_path(prefix)) if path.is_file()]
    others = [path for path in there if _is_others(path, first_epoch, saved)]
    # MXNet's tell nothing of their run, and the prefix would mean the last of them; the symbol beside them stays.
    others += [path for path in mxnets if path.is_file()]
    if others:
        folder = _free_folder(prefix)
        folder.mkdir()
        logs = [Path(prefix + ending) for ending in LOG_ENDINGS] if not first_epoch else []
        # The logs first: a run that begins again knows by the checkpoints that there is something to move.
        for paths in (logs, others):
            for path in paths:
                if path.is_file():
                    path.rename(folder / path.name)
            flush_folder(folder)
            flush_folder(folder.parent)
        say(f"what an earlier run left at {prefix} is now in {folder}: {_names(others)}")
    if not first_epoch:
        forget_run(prefix)


def best_so_far(prefix: str, start: Start) -> tuple[float, int] | None:
    """The best epoch up to the one that a retraining goes on from, to which PREFIX-best is set; None: not known."""
    header = start.header
    if not header.training.get("best"):
        return None
    error, epoch = header.training["best"]
    path = checkpoint_path(prefix, epoch)
    named = best_path(prefix)
    if named.is_file() and read_header(named).epoch == epoch:
        return error, epoch
    if not path.is_file():  # `keep` has removed it
        error, epoch, path = header.error, header.epoch, start.path
    name_also(path, named)
    return error, epoch


def _is_others(path: Path, first_epoch: int, saved: Mapping[str, Any]) -> bool:
    try:
        header = read_header(path)
    except ResnetError:
        return True
    training = header.training
    if (header.epoch, training.get("position", {}).get("step", 0)) <= (first_epoch, 0):
        return False
    return _told(training) != _told(saved)


def _told(saved: Mapping[str, Any]) -> dict[str, Any]:
    settings = {name: value for name, value in saved.get("settings", {}).items() if name not in FOLDERS}
    return settings | {name: saved.get(name) for name in TOLD_BY}


def _free_folder(prefix: str) -> Path:
    number = 1
    while (folder := Path(f"{prefix}-earlier-{number}")).exists():
        number += 1
    return folder


def _names(paths: list[Path]) -> str:
    some = [path.name for path in paths[:3]]
    return ", ".join(some) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")
