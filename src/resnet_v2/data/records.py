"""RecordIO files: `.rec` holds records one after the other, `.idx` says at which byte each one starts.

A record is one or more parts. A part is, little-endian: the magic number (u32), a word with the part's place in its top
3 bits (0 whole, 1 first, 2 middle, 3 last) and its length in the other 29, the payload, zeros up to a multiple of 4
bytes. Where the magic number itself stands at a multiple of 4 inside a payload, the writer drops it and starts a new
part; the reader puts it back. So a damaged file can be searched for the next magic number. docs/formats.md has it all.
"""

import contextlib
import math
import os
import struct
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, NamedTuple, TextIO, cast

import numpy as np
from numpy.typing import NDArray

from resnet_v2.console import agreeing, counted, say
from resnet_v2.data.exact import EXACT_LABELS, first_label, shown
from resnet_v2.data.index import index_column, index_path, side_path
from resnet_v2.data.offsets import damaged, find_offsets, left_out
from resnet_v2.data.parts import (
    FIRST,
    LAST,
    LENGTH_BITS,
    MAGIC,
    MAGIC_BYTES,
    MAX_RECORD_BYTES,
    MIDDLE,
    PART_HEADER,
    WHOLE,
    read_record,
    scan,
)
from resnet_v2.data.source import Source, close, is_replaced, open_source, size_of
from resnet_v2.errors import ResnetError
from resnet_v2.files import remove, replacing

__all__ = [
    "FIRST",
    "IMAGE_HEADER",
    "LAST",
    "LENGTH_BITS",
    "MAGIC",
    "MAGIC_BYTES",
    "MAX_RECORD_BYTES",
    "MIDDLE",
    "PART_HEADER",
    "WHOLE",
    "IRHeader",
    "RecordReader",
    "RecordWriter",
    "class_label",
    "damaged",
    "frame",
    "no_image_record",
    "pack",
    "read_record",
    "scan",
    "unpack",
    "writing",
]

IMAGE_HEADER = struct.Struct("<IfQQ")

READ_AT_ONCE_BYTES = 1 << 22  # at most, where the index tells the length of a record


class IRHeader(NamedTuple):
    """The header of an image record: `flag` 0 with one label, or `flag` n with n labels (float32)."""

    flag: int
    label: float | Sequence[float] | NDArray[np.float32]
    id: int
    id2: int


def pack(header: IRHeader, data: bytes) -> bytes:
    """Header and image bytes -> the payload of an image record. Several labels go behind the header as float32."""
    if isinstance(header.label, int | float | np.number):
        return IMAGE_HEADER.pack(0, float(header.label), header.id, header.id2) + data
    labels = np.asarray(header.label, dtype="<f4").ravel()
    return IMAGE_HEADER.pack(labels.size, 0.0, header.id, header.id2) + labels.tobytes() + data


def unpack(payload: bytes | memoryview) -> tuple[IRHeader, memoryview]:
    """The payload of an image record -> its header and a view of the image bytes.

    A `flag` of 0 gives a float label, any other an array of `flag` float32. Raises ValueError when the payload is
    shorter than its header says.
    """
    view = memoryview(payload)
    if len(view) < IMAGE_HEADER.size:
        raise ValueError(f"{counted(len(view), 'byte')} {agreeing(len(view), 'is', 'are')} too few for an image header")
    flag, label, identity, identity2 = IMAGE_HEADER.unpack_from(view)
    if flag == 0:
        return IRHeader(0, label, identity, identity2), view[IMAGE_HEADER.size :]
    end = IMAGE_HEADER.size + 4 * flag
    if len(view) < end:
        too_few = f"{counted(len(view), 'byte')} {agreeing(len(view), 'is', 'are')} too few"
        raise ValueError(f"{too_few} for {counted(flag, 'label')}")
    labels = np.frombuffer(view[IMAGE_HEADER.size : end], dtype="<f4").astype(np.float32)
    return IRHeader(flag, labels, identity, identity2), view[end:]


def frame(payload: bytes | memoryview) -> list[bytes | memoryview]:
    """The pieces of a record as they stand in the file, ready for `writelines`.

    Raises ValueError for a payload of 2^29 bytes or more.
    """
    view = memoryview(payload)
    if len(view) > MAX_RECORD_BYTES:
        raise ValueError(f"a record of {len(view)} bytes is too long; the limit is {MAX_RECORD_BYTES}")
    words = np.frombuffer(view[: len(view) // 4 * 4], dtype="<u4")
    cuts = [int(index) * 4 for index in np.flatnonzero(words == MAGIC)]
    pieces: list[bytes | memoryview] = []
    for number, (start, end) in enumerate(zip([0, *(cut + 4 for cut in cuts)], [*cuts, len(view)], strict=True)):
        place = WHOLE if not cuts else FIRST if number == 0 else LAST if number == len(cuts) else MIDDLE
        pieces += [
            PART_HEADER.pack(MAGIC, place << LENGTH_BITS | end - start),
            view[start:end],
            bytes(-(end - start) % 4),
        ]
    return pieces


class RecordWriter:
    """Appends records to an open `.rec` and their keys and offsets to an open `.idx`; see `writing`.

    `position` is the number of bytes of the `.rec` so far.
    """

    def __init__(self, rec: BinaryIO, idx: TextIO) -> None:
        self._rec, self._idx, self.position = rec, idx, 0

    def write(self, key: int, payload: bytes | memoryview) -> None:
        """Append one record under an integer key."""
        pieces = frame(payload)
        self._rec.writelines(pieces)
        self._idx.write(f"{key}\t{self.position}\n")
        self.position += sum(map(len, pieces))


@contextlib.contextmanager
def writing(path: Path) -> Iterator[RecordWriter]:
    """A writer of `path` and its `.idx`; both appear under their names only when the `with` block ends well.

    An `.idx` and a `.rows` of an earlier record of this name go before it does: they never stand beside this one.

    >>> with writing(Path("flowers.rec")) as writer:
    ...     writer.write(0, pack(IRHeader(0, 3.0, 0, 0), jpeg_bytes))
    """
    # The record is renamed first: an index without its record would be the worse half.
    with (
        replacing(index_path(path)) as idx_path,
        replacing(path) as rec_path,
        rec_path.open("wb") as rec,
        idx_path.open("w", encoding="ascii", newline="\n") as idx,
    ):
        yield RecordWriter(rec, idx)
        for file in (rec, idx):  # both are whole before anything of the earlier record goes
            file.flush()
            os.fsync(file.fileno())
        remove(index_path(path), side_path(path, ".rows"))


def class_label(path: Path, ordinal: int, header: IRHeader, classes: int) -> int:
    """The class of a record; a ResnetError, naming it, for a label that is no number from 0 to `classes` - 1."""
    label = first_label(header.label, header.id2)
    if not (label.is_integer() and 0 <= label < classes):
        stored = float(np.ravel(header.label)[0]) if math.isnan(label) else label
        if math.isnan(label) and EXACT_LABELS <= stored < classes:
            raise ResnetError(
                f"{path}: record {ordinal} has the label {stored:.0f}, to which others are rounded, and not the exact "
                "one as id2; pack again with `resnet-v2 pack`."
            )
        raise ResnetError(
            f"{path}: record {ordinal} has the label {shown(stored)}, but the classes are 0 to {classes - 1}; "
            "give the right `num_classes` or synset.txt, or pack again."
        )
    return int(label)


def no_image_record(path: Path, ordinal: int, error: ValueError) -> ResnetError:
    """What is said of a record whose payload is no image record."""
    return ResnetError(f"{path}: record {ordinal} is not an image record ({error}).")


class RecordReader:
    """Random access to the records of a `.rec` through its `.idx`, by ordinal: the place in the index.

    Reads are positional and share no state, so threads and forked processes use one reader freely (one of an `Address`
    no forked processes); the file is never held in memory. `offsets` (and `keys`) are int64 arrays of length
    `len(reader)`. `remarks` are sentences on what its index lacks.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.is_dir():
            raise ResnetError(f"{path} is a folder; give a .rec, such as `resnet-v2 data` makes of it.")
        if not path.is_file():
            raise ResnetError(f"{path} is missing; make it with `resnet-v2 pack` or `resnet-v2 data`.")
        try:
            self.source: Source = open_source(path)
        except OSError as error:
            raise ResnetError(f"{path} cannot be opened ({error.strerror}); check the path.") from None
        self.file_bytes = size_of(self.source)
        self.offsets, self._listed, self.remarks = find_offsets(path, self.source)
        self._ascending = bool((self.offsets[1:] > self.offsets[:-1]).all())
        self._told = False  # of what the index leaves out

    @cached_property
    def keys(self) -> NDArray[np.int64]:
        """The keys of the index, of records that it does not list their ids; read only when asked for."""
        listed = index_column(self.path, 0)[: self._listed] if self._listed else np.empty(0, np.int64)
        ids = [self.image(number)[0].id for number in range(self._listed, len(self))]
        return np.concatenate([listed, np.array(ids, np.int64)])

    @property
    def readers(self) -> tuple["RecordReader", ...]:
        """The files of a set: this one. Whoever reads a `RecordSet` reads all records of one file in the same way."""
        return (self,)

    @property
    def name(self) -> str:
        """What it is called wherever it lies."""
        return self.path.name

    def locate(self, ordinals: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The numbers of the files in which some records are, and those of the records there."""
        return np.zeros(len(ordinals), np.int64), ordinals

    def place(self, ordinal: int) -> tuple["RecordReader", int]:
        """The file of a record, and its number there."""
        return self, ordinal

    def __len__(self) -> int:
        return len(self.offsets)

    def __getitem__(self, ordinal: int) -> memoryview:
        """The payload of a record; a ResnetError names the file, the record and the byte when it is damaged."""
        return self._read(ordinal)

    def image(self, ordinal: int) -> tuple[IRHeader, memoryview]:
        """Header and image bytes of an image record."""
        try:
            return unpack(self[ordinal])
        except ValueError as error:
            raise no_image_record(self.path, ordinal, error) from None

    def _read(self, ordinal: int) -> memoryview:
        offset, length = int(self.offsets[ordinal]), int(self.lengths(np.array([ordinal]))[0])
        try:
            payload, end = read_record(self.source, offset, length)
        except ValueError as error:
            raise damaged(self.path, ordinal, offset, error) from None
        self.look_behind(np.array([ordinal]), np.array([end]))
        return payload

    def lengths(self, ordinals: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many bytes to read at once of some records: all of them, unless they are very long."""
        lengths = self._following(ordinals) - self.offsets[ordinals]
        return cast(NDArray[np.int64], np.minimum(lengths, READ_AT_ONCE_BYTES))

    def look_behind(self, ordinals: NDArray[np.int64], ends: NDArray[np.int64]) -> None:
        """Say it, once for the file, where the index leaves out what stands behind some records.

        `ends` are the bytes behind these, 0 where a record cannot be read. What stands behind the last is a remark.
        """
        if self._told:
            return
        following = self._following(ordinals)
        gaps = np.flatnonzero((ends > 0) & (ends < following) & (following < self.file_bytes))
        if len(gaps):
            self._told = True
            say(left_out(self.path, self.source, int(ends[gaps[0]]), int(following[gaps[0]])))

    def _following(self, ordinals: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where the next record of the index begins, in the order of the file; its end behind the last."""
        starts = self.offsets if self._ascending else self._sorted
        places = ordinals if self._ascending else np.searchsorted(starts, self.offsets[ordinals])
        following = starts[np.minimum(places + 1, len(starts) - 1)]
        return np.where(places + 1 < len(starts), following, self.file_bytes)

    @cached_property
    def _sorted(self) -> NDArray[np.int64]:
        return np.unique(self.offsets)

    def is_replaced(self) -> bool:
        """Whether another file has its name now."""
        return is_replaced(self.source, self.path)

    def close(self) -> None:
        """Close the file; reading afterwards is an error."""
        if self.source != -1:
            close(self.source)
            self.source = -1

    def __del__(self) -> None:
        if hasattr(self, "source"):
            self.close()
