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

from resnet_v2.data.exact import EXACT_LABELS, first_label, shown
from resnet_v2.data.index import index_column, index_path, read_index
from resnet_v2.data.source import Source, close, is_replaced, open_source, read, size_of
from resnet_v2.errors import DamagedError, ResnetError
from resnet_v2.files import remove, replacing

MAGIC = 0xCED7230A
MAGIC_BYTES = struct.pack("<I", MAGIC)
LENGTH_BITS = 29
MAX_RECORD_BYTES = (1 << LENGTH_BITS) - 1
WHOLE, FIRST, MIDDLE, LAST = 0, 1, 2, 3

PART_HEADER = struct.Struct("<II")
IMAGE_HEADER = struct.Struct("<IfQQ")

# What is read at once where the length of a record is not known beforehand, and at most where the index tells it.
READ_AHEAD_BYTES = 1 << 16
READ_AT_ONCE_BYTES = 1 << 22
PART_READ_AHEAD_BYTES = 1 << 12  # of parts behind the first, of which a record may have very many


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
        raise ValueError(f"{len(view)} bytes are too few for an image header")
    flag, label, identity, identity2 = IMAGE_HEADER.unpack_from(view)
    if flag == 0:
        return IRHeader(0, label, identity, identity2), view[IMAGE_HEADER.size :]
    end = IMAGE_HEADER.size + 4 * flag
    if len(view) < end:
        raise ValueError(f"{len(view)} bytes are too few for {flag} labels")
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
    """Appends records to an open `.rec` and their keys and offsets to an open `.idx`; see `writing`."""

    def __init__(self, rec: BinaryIO, idx: TextIO) -> None:
        self._rec, self._idx, self._position = rec, idx, 0

    def write(self, key: int, payload: bytes | memoryview) -> None:
        """Append one record under an integer key."""
        pieces = frame(payload)
        self._rec.writelines(pieces)
        self._idx.write(f"{key}\t{self._position}\n")
        self._position += sum(map(len, pieces))


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
        remove(index_path(path), path.with_suffix(".rows"))


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


def damaged(path: Path, ordinal: int, offset: int, error: ValueError) -> DamagedError:
    """What is said of a record that is none."""
    return DamagedError(
        f"{path}: record {ordinal} at byte {offset} is damaged ({error}); "
        f"`resnet-v2 index {path}` makes an index of the records that are whole."
    )


def no_image_record(path: Path, ordinal: int, error: ValueError) -> ResnetError:
    """What is said of a record whose payload is no image record."""
    return ResnetError(f"{path}: record {ordinal} is not an image record ({error}).")


class RecordReader:
    """Random access to the records of a `.rec` through its `.idx`, by ordinal: the place in the index.

    Reads are positional and share no state, so threads and forked processes use one reader freely (one of an `Address`
    no forked processes); the file is never held in memory. `offsets` (and `keys`) are int64 arrays of length
    `len(reader)`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offsets = read_index(path)
        try:
            self.source: Source = open_source(path)
        except OSError as error:
            raise ResnetError(f"{path} cannot be opened ({error.strerror}); check the path.") from None
        self.file_bytes = size_of(self.source)
        self._ascending = bool((self.offsets[1:] > self.offsets[:-1]).all())
        self._check_end()

    def _check_end(self) -> None:
        if len(self.offsets) and int(self.offsets.max()) + PART_HEADER.size > self.file_bytes:
            raise ResnetError(
                f"{self.path} ends at byte {self.file_bytes} but its index points to byte {int(self.offsets.max())}: "
                f"the record is cut short or the index is another file's; copy it again, or run `resnet-v2 index`."
            )
        if len(self.offsets):
            self._read(int(self.offsets.argmax()))

    @cached_property
    def keys(self) -> NDArray[np.int64]:
        """The keys of the index; nothing here needs them, so they are read only when asked for."""
        return index_column(self.path, 0)

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
            return read_record(self.source, offset, length)[0]
        except ValueError as error:
            raise damaged(self.path, ordinal, offset, error) from None

    def lengths(self, ordinals: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many bytes to read at once of some records: all of them, unless they are very long."""
        if not self._ascending:
            return np.full(len(ordinals), READ_AHEAD_BYTES)
        ends = self.offsets[np.minimum(ordinals + 1, len(self) - 1)]
        ends = np.where(ordinals + 1 < len(self), ends, self.file_bytes)
        return cast(NDArray[np.int64], np.minimum(ends - self.offsets[ordinals], READ_AT_ONCE_BYTES))

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


def read_record(source: Source, offset: int, expected_bytes: int = READ_AHEAD_BYTES) -> tuple[memoryview, int]:
    """The payload of the record at a byte offset, its parts joined, and the offset behind it.

    `expected_bytes` is how much is read at once; a longer record takes a second read. Raises ValueError where there is
    no whole record.
    """
    place, payload, offset = _read_part(source, offset, expected_bytes)
    if place == WHOLE:
        return payload, offset
    if place != FIRST:
        raise ValueError("it starts in the middle of a record")
    parts: list[bytes | memoryview] = [payload]
    while place != LAST:
        place, payload, offset = _read_part(source, offset, PART_READ_AHEAD_BYTES)
        if place not in (MIDDLE, LAST):
            raise ValueError("its last part is missing")
        parts += [MAGIC_BYTES, bytes(payload)]  # a copy: a view would keep all that was read ahead
    return memoryview(b"".join(parts)), offset


def _read_part(source: Source, offset: int, expected_bytes: int) -> tuple[int, memoryview, int]:
    block = read(source, max(expected_bytes, PART_HEADER.size), offset)
    if len(block) < PART_HEADER.size:
        raise ValueError("the file ends here")
    magic, word = PART_HEADER.unpack_from(block)
    if magic != MAGIC:
        raise ValueError(f"{magic:#010x} stands where the magic number {MAGIC:#010x} should")
    place, length = word >> LENGTH_BITS, word & MAX_RECORD_BYTES
    if place > LAST:
        raise ValueError(f"its header {word:#010x} is impossible")
    end = PART_HEADER.size + length
    if end > len(block):
        # A damaged length must not take memory that the file cannot fill.
        missing = min(end - len(block), size_of(source) - offset - len(block))
        block += read(source, max(missing, 0), offset + len(block))
    if end > len(block):
        raise ValueError("the file ends inside it")
    return place, memoryview(block)[PART_HEADER.size : end], offset + end + -length % 4


def scan(path: Path) -> Iterator[tuple[int, int]]:
    """(start, end) of every whole record of a file, read once from the front.

    Where the bytes are damaged it goes on at the next aligned magic number that starts a record, so the gap between an
    end and the next start is what is lost.
    """
    source = open_source(path)
    try:
        size, offset = size_of(source), 0
        while offset < size:
            try:
                _, end = read_record(source, offset)
            except ValueError:
                offset = _next_start(source, offset + 4, size)
                continue
            yield offset, end
            offset = end
    finally:
        close(source)


def _next_start(source: Source, offset: int, size: int) -> int:
    offset += -offset % 4
    while offset < size:
        block = read(source, READ_AHEAD_BYTES, offset)
        words = np.frombuffer(block[: len(block) // 4 * 4], dtype="<u4")
        for index in np.flatnonzero(words[:-1] == MAGIC):
            if int(words[index + 1]) >> LENGTH_BITS in (WHOLE, FIRST):
                return offset + 4 * int(index)
        if len(block) < READ_AHEAD_BYTES:
            break
        offset += READ_AHEAD_BYTES - 4  # the last word may be the magic number and its partner in the next block
    return size
