"""A data set appears whole: it is made in a folder of its own inside its place, and then moved there.

However the making ends, the names of classes there are those of the records there. A run that was killed goes on in the
folder; a second one at the same time is refused.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from resnet_v2.errors import ResnetError
from resnet_v2.files import flush_folder, make_folder, remove
from resnet_v2.portable import kept

UNFINISHED = ".records.part"
LOCK = ".lock"
PARTS = ("train", "val")
RECORD_ENDINGS = (".rec", ".idx", ".rows", ".lst")


@contextlib.contextmanager
def staged(folder: Path, name: str) -> Iterator[Path]:
    """A folder to make the data set `name` in; its files are moved to `folder` when the `with` block ends well.

    What another run could go on with stays where the block does not end well; else nothing does. Where the moving fails
    the rest stays, and making the set again mends it. Raises ResnetError when another run makes a data set in the
    folder.
    """
    staging = folder / UNFINISHED
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    make_folder(staging)
    with contextlib.ExitStack() as afterwards, kept(staging / LOCK) as file:
        if file is None:
            raise ResnetError(f"{folder} is being filled by another run; wait for its end or stop it.")
        try:
            yield staging
        except BaseException:
            if not any(staging.glob("*.journal")):
                _leave(staging, made, afterwards)
            raise
        _move(staging, folder, name)  # where that fails, what is not moved yet stays
        _leave(staging, made, afterwards)


def begun(staging: Path) -> bool:
    """Whether a run that was killed has left something to go on with."""
    return any(path.name != LOCK for path in staging.iterdir())


def _leave(staging: Path, made: Sequence[Path], afterwards: contextlib.ExitStack) -> None:
    _remove(staging, made)
    if os.name == "nt":  # it removes no open file, such as the lock
        afterwards.callback(_remove, staging, made)


def _remove(staging: Path, made: Sequence[Path]) -> None:
    shutil.rmtree(staging, ignore_errors=True)
    with contextlib.suppress(OSError):  # something is in it
        for path in made:
            path.rmdir()


def _move(staging: Path, folder: Path, name: str) -> None:
    # The old records go first and the new ones come last: between, a kill leaves none that could meet other names.
    # The disk may do it in another order, but for what is flushed in between.
    remove(*(folder / f"{name}_{part}{ending}" for part in PARTS for ending in RECORD_ENDINGS))
    files = [path for path in staging.rglob("*") if path.is_file() and path.name != LOCK]
    for last in (False, True):
        for path in (path for path in files if (path.suffix == ".rec") is last):
            target = folder / path.relative_to(staging)
            make_folder(target.parent)
            path.replace(target)
        flush_folder(folder)
