"""What a new record may replace: an earlier record, and no file of another kind."""

from pathlib import Path

from resnet_v2.data.index import index_column, index_path
from resnet_v2.data.records import MAGIC_BYTES
from resnet_v2.data.sidecar import FORMS, sidecar_path
from resnet_v2.errors import ResnetError, naming
from resnet_v2.files import refuse_no_file
from resnet_v2.storage import Address

MAGICS_OF_ROWS = tuple(FORMS)


def refuse_to_replace(out: Path, *read: Path) -> None:
    """Raise ResnetError where a record that is to be written at `out` would take the place of something else.

    That is a file that is `read`, such as the list, a folder, a file that is no record, such as a picture, the index of
    another record, as `a.idx` is of `a.rec` and of `a`, and a file that only has the name of the record's index.
    """
    if isinstance(out, Address):
        return
    sides = (index_path(out), sidecar_path(out))
    for path in (out, *sides):
        refuse_no_file(path)
        if any(path.exists() and other.is_file() and path.samefile(other) for other in read):
            raise ResnetError(f"{path} would be overwritten, and it is to be read; give another name for the record.")
    if out.exists() and not _begins_with(out, MAGIC_BYTES):
        raise ResnetError(f"{out} is there and is no record; give another name, or remove it.")
    if other := _other_record(out):
        raise ResnetError(f"{sides[0]} is the index of {other}; give another name for the record.")
    if not out.exists():
        _refuse_foreign(out, *sides)


def _other_record(out: Path) -> Path | None:
    """Another record in the folder that has the same index, if there is one."""
    for path in out.parent.iterdir() if out.parent.is_dir() else ():
        shares = path.name != out.name and index_path(path) == index_path(out)
        is_same = out.exists() and path.samefile(out)  # on a disk that does not tell `.rec` from `.REC`
        if shares and not is_same and path.is_file() and _begins_with(path, MAGIC_BYTES):
            return path
    return None


def _refuse_foreign(out: Path, idx: Path, rows: Path) -> None:
    """Raise ResnetError for files that are no index and no `.rows`, where there is no record that they could be of."""
    try:
        if idx.exists():
            index_column(out, 1)
    except ResnetError:
        raise ResnetError(f"{idx} is there and is no index of a record; give another name for the record.") from None
    if rows.exists() and not _begins_with(rows, *MAGICS_OF_ROWS):
        raise ResnetError(f"{rows} is there and was not made for a record; give another name for the record.")


def _begins_with(path: Path, *magics: bytes) -> bool:
    """Whether a file is empty or begins with one of these bytes."""
    with naming(path), path.open("rb") as file:
        return file.read(len(magics[0])) in (*magics, b"")
