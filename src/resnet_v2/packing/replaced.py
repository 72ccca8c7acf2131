"""What a new record may replace: an earlier record, and no file of another kind."""

from pathlib import Path

from resnet_v2.data.index import index_path
from resnet_v2.data.records import MAGIC_BYTES
from resnet_v2.data.sidecar import sidecar_path
from resnet_v2.errors import ResnetError, naming
from resnet_v2.files import refuse_no_file
from resnet_v2.storage import Address


def refuse_to_replace(out: Path, *read: Path) -> None:
    """Raise ResnetError where a record that is to be written at `out` would take the place of something else.

    That is a file that is `read`, such as the list, a folder, a file that is no record, such as a picture, or the index
    of a record whose name differs in the case of `.rec`.
    """
    if isinstance(out, Address):
        return
    for path in (out, index_path(out), sidecar_path(out)):
        refuse_no_file(path)
        if any(path.exists() and other.is_file() and path.samefile(other) for other in read):
            raise ResnetError(f"{path} would be overwritten, and it is to be read; give another name for the record.")
    if out.exists() and not _begins_as_record(out):
        raise ResnetError(f"{out} is there and is no record; give another name, or remove it.")
    for other in {out.with_suffix(".rec"), out.with_suffix(".REC")} if out.suffix.lower() == ".rec" else ():
        if other.exists() and not (out.exists() and out.samefile(other)) and other != out:
            raise ResnetError(f"{index_path(out)} is the index of {other}; give another name for the record.")


def _begins_as_record(path: Path) -> bool:
    with naming(path), path.open("rb") as file:
        return file.read(len(MAGIC_BYTES)) in (MAGIC_BYTES, b"")
