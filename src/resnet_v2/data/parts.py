"""RecordIO as bytes: the parts that records are made of, and where records begin in a file that has no index.

`records.py` says what a part is.
"""

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from resnet_v2.data.source import Source, close, open_source, read, size_of

MAGIC = 0xCED7230A
MAGIC_BYTES = struct.pack("<I", MAGIC)
LENGTH_BITS = 29
MAX_RECORD_BYTES = (1 << LENGTH_BITS) - 1
WHOLE, FIRST, MIDDLE, LAST = 0, 1, 2, 3

PART_HEADER = struct.Struct("<II")

# What is read at once where the length of a record is not known beforehand.
READ_AHEAD_BYTES = 1 << 16
PART_READ_AHEAD_BYTES = 1 << 12  # of parts behind the first, of which a record may have very many
HEADERS_BYTES = 1 << 12  # read at once where only headers are wanted


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
    """(start, end) of every whole record of a file, found once from the front; see `scan_source`."""
    source = open_source(path)
    try:
        yield from scan_source(source)
    finally:
        close(source)


def scan_source(source: Source, start: int = 0) -> Iterator[tuple[int, int]]:
    """(start, end) of every whole record of an open file from a byte on, by their headers alone.

    Where the bytes are damaged it goes on at the next aligned magic number that starts a record, so the gap between an
    end and the next start is what is lost.
    """
    size, offset, headers = size_of(source), start, _Headers(source)
    while offset < size:
        end = headers.end_of_record(offset, size)
        if not end:
            offset = _next_start(source, offset + 4, size)
            continue
        yield offset, end
        offset = end


class _Headers:
    """The headers of parts, in the order of the file; what was read with one serves those that lie close behind it."""

    def __init__(self, source: Source) -> None:
        self._source, self._block, self._start = source, b"", 0

    def end_of_record(self, offset: int, size: int) -> int:
        """The byte behind the record at an offset of a file of `size` bytes, padding counted; 0 where none is whole."""
        place, end = self._part(offset)
        if place == FIRST:
            while end and place != LAST:
                place, end = self._part(end)
                if place not in (MIDDLE, LAST):
                    return 0
        elif place != WHOLE:
            return 0
        return end + -end % 4 if end <= size else 0

    def _part(self, offset: int) -> tuple[int, int]:
        """The place of the part at an offset, and the byte behind its payload; no place (-1) where there is none."""
        offset += -offset % 4
        at = offset - self._start
        if not 0 <= at <= len(self._block) - PART_HEADER.size:
            self._block, self._start, at = read(self._source, HEADERS_BYTES, offset), offset, 0
            if len(self._block) < PART_HEADER.size:
                return -1, 0
        magic, word = PART_HEADER.unpack_from(self._block, at)
        place = word >> LENGTH_BITS
        if magic != MAGIC or place > LAST:
            return -1, 0
        return place, offset + PART_HEADER.size + (word & MAX_RECORD_BYTES)


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
