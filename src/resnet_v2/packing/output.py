"""New records with their `.idx` and `.rows`: all of them appear under their names, or none."""

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, cast

from resnet_v2.data.records import RecordWriter, writing
from resnet_v2.data.sidecar import sidecar_path, write_rows_file
from resnet_v2.files import make_folder, replacing
from resnet_v2.packing.rows_part import note, read_notes


class Output:
    """Appends records to one new file; what its `.rows` will hold waits in a file without a name."""

    def __init__(self, path: Path, rows: Path, writer: RecordWriter, notes: BinaryIO, origin: str) -> None:
        self.path, self.count = path, 0
        self._rows, self._writer, self._notes, self._origin = rows, writer, notes, origin

    def write(self, key: int, payload: bytes | memoryview) -> None:
        """Append one record under an integer key."""
        self._writer.write(key, payload)
        self._notes.write(note(payload))
        self.count += 1

    def finish(self) -> None:
        """Write the `.rows`; nothing comes behind it."""
        self._notes.seek(0)
        with self._rows.open("wb+") as file:
            write_rows_file(file, self.count, self._writer.position, read_notes(self._notes, self.count), self._origin)
            file.flush()
            os.fsync(file.fileno())  # where the disk is full, it is so before any file has its name


@contextlib.contextmanager
def writing_all(paths: Sequence[Path], origin: str = "") -> Iterator[list[Output]]:
    """An `Output` for each path; their files appear when the `with` block ends well, the records before their `.rows`.

    `origin` is the text about the records' making that each `.rows` holds.
    """
    with contextlib.ExitStack() as opened:
        outputs = [_opened(opened, path, origin) for path in paths]
        yield outputs
        for output in outputs:
            output.finish()


def _opened(opened: contextlib.ExitStack, path: Path, origin: str) -> Output:
    make_folder(path.parent)
    rows = opened.enter_context(replacing(sidecar_path(path)))
    writer = opened.enter_context(writing(path))
    notes = opened.enter_context(tempfile.TemporaryFile(dir=path.parent))  # noqa: SIM115
    return Output(path, rows, writer, cast(BinaryIO, notes), origin)
