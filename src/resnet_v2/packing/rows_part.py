"""What the `.rows` of an unfinished record will hold, noted record by record while it is packed.

So the record need not be read a second time. A note is the u64 fingerprint of a record's payload, the u32 number of its
segments' offsets and these as u32, little-endian.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from resnet_v2.data.rows import Offsets
from resnet_v2.data.sidecar import rows_of_record, sidecar_path, write_known_rows, write_rows

NOTE = struct.Struct("<QI")


def note(payload: bytes | memoryview) -> bytes:
    """What is to be kept of a record."""
    fingerprint, segments = rows_of_record(payload)
    return NOTE.pack(fingerprint, segments.size) + segments.astype("<u4").tobytes()


def finish_rows(rec: Path, part: Path, count: int, rec_bytes: int, origin: str) -> None:
    """Write the `.rows` of a whole `.rec` from the notes in `part`, which goes; without them from the record.

    `origin` is the text about the records' making.
    Nothing is done where a run before this one has done it.
    """
    if part.exists():
        try:
            with part.open("rb") as file:
                write_known_rows(rec, count, rec_bytes, read_notes(file, count), origin)
        except (ValueError, struct.error):  # cut short by whoever was here since
            write_rows(rec, origin)
        part.unlink()
    elif not sidecar_path(rec).exists():
        write_rows(rec, origin)


def read_notes(file: BinaryIO, count: int) -> Iterator[tuple[int, Offsets]]:
    """Fingerprint and segments of each record; ValueError or struct.error where the file ends too early."""
    for _ in range(count):
        fingerprint, size = NOTE.unpack(file.read(NOTE.size))
        segments = np.frombuffer(file.read(4 * size), "<u4")
        if segments.size < size:
            raise ValueError("the notes end inside one")
        yield fingerprint, segments
