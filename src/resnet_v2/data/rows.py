"""JPEG files that can be sliced: a restart marker behind every row of blocks, and the offsets of those rows.

A baseline JPEG whose restart interval is one row (or a few rows) of blocks can be cut between rows without decoding:
the header with another height, the rows that are wanted with their markers counted anew from 0, the end marker. Its
pixels are those of the whole image, but for the outermost rows of a cut, whose colour is interpolated with a neighbour
that is not there; so a cut takes one row of blocks more on either side. Markers and header fields: ITU-T T.81, annex B.
"""

import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resnet_v2.files import ResnetError, replacing

Offsets = NDArray[np.uint32]

START, END = b"\xff\xd8", b"\xff\xd9"
BASELINE = (0xC0, 0xC1)  # Huffman-coded, sequential; progressive files have several scans and no rows
FRAMES = (*BASELINE, 0xC2, 0xC3, *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0))
RESTART_INTERVAL, SCAN = 0xDD, 0xDA
RESTART_MARKER = re.compile(rb"\xff[\xd0-\xd7]")

SIDECAR_MAGIC = b"RSNROWS1"
SIDECAR_HEADER = struct.Struct("<8sQQ")


@dataclass(frozen=True)
class JpegHeader:
    """What stands before the image data: sizes in pixels, and where.

    `segment_rows` is the height in pixels of what lies between two restart markers, 0 when the file cannot be sliced;
    `height_at` the offset of the height field, `data_at` that of the image data.
    """

    height: int
    width: int
    segment_rows: int
    height_at: int
    data_at: int


def read_header(data: bytes | memoryview) -> JpegHeader | None:
    """The header of a JPEG file; None for bytes that are none or that end too early."""
    try:
        return _read_header(data)
    except (struct.error, IndexError):
        return None


def _read_header(data: bytes | memoryview) -> JpegHeader | None:
    if data[:2] != START:
        return None
    at, interval = 2, 0
    height = width = height_at = block_width = block_height = components = 0
    baseline = False
    while data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        (length,) = struct.unpack_from(">H", data, at + 2)
        if marker in FRAMES:
            precision, height, width, components = struct.unpack_from(">BHHB", data, at + 4)
            height_at, baseline = at + 5, marker in BASELINE and precision == 8
            sampling = data[at + 11 : at + 10 + 3 * components : 3]
            block_width = 8 * (max(one >> 4 for one in sampling) if components > 1 else 1)
            block_height = 8 * (max(one & 15 for one in sampling) if components > 1 else 1)
        elif marker == RESTART_INTERVAL:
            (interval,) = struct.unpack_from(">H", data, at + 4)
        elif marker == SCAN:
            if not (height and width and block_width and block_height):
                return None
            blocks = -(-width // block_width)
            sliceable = baseline and components in (1, 3) and data[at + 4] == components and interval
            rows = interval // blocks * block_height if sliceable and interval % blocks == 0 else 0
            return JpegHeader(height, width, rows, height_at, at + 2 + length)
        at += 2 + length
    return None


def find_segments(data: bytes | memoryview) -> Offsets:
    """Where the segments of a sliceable JPEG begin, and where the last one ends; empty for any other file."""
    nothing = np.empty(0, np.uint32)
    header = read_header(data)
    if header is None or not header.segment_rows:
        return nothing
    end = bytes(data[-64:]).rfind(END)
    if end < 0:
        return nothing
    end += max(0, len(data) - 64)
    starts = [match.end() for match in RESTART_MARKER.finditer(data, header.data_at, end)]
    if len(starts) + 1 != -(-header.height // header.segment_rows):
        return nothing
    # Every segment but the last is followed by its marker of 2 bytes, so starts tell ends.
    return np.array([header.data_at, *starts, end + 2], np.uint32)


def cut(
    data: bytes | memoryview, header: JpegHeader, segments: Offsets, first: int, last: int
) -> tuple[bytes, int, int]:
    """A JPEG file of the rows `first` to `last` (not included) and at least one row of blocks around them.

    Returns it with the number of its first row and the row behind its last, in pixels of the whole image.
    """
    begin = max(0, first // header.segment_rows - 1)
    stop = min(len(segments) - 1, -(-last // header.segment_rows) + 1)
    top, bottom = begin * header.segment_rows, min(stop * header.segment_rows, header.height)
    head = bytearray(data[: header.data_at])
    struct.pack_into(">H", head, header.height_at, bottom - top)
    bounds = segments[begin : stop + 1].tolist()
    body = bytearray(data[bounds[0] : bounds[-1] - 2])
    for number, bound in enumerate(bounds[1:-1]):
        body[bound - bounds[0] - 1] = 0xD0 + number % 8
    return b"".join((head, body, END)), top, bottom


def sidecar_path(rec: Path) -> Path:
    """`data/flowers.rec` -> `data/flowers.rows`."""
    return rec.with_suffix(".rows")


class RowsWriter:
    """Collects the segments of the records in order; see `writing_rows`."""

    def __init__(self) -> None:
        self.counts: list[int] = []
        self.segments: list[Offsets] = []

    def add(self, image: bytes | memoryview) -> None:
        """Count in the image of the next record."""
        segments = find_segments(image)
        self.counts.append(len(segments))
        self.segments.append(segments)


@contextmanager
def writing_rows(rec: Path) -> Iterator[RowsWriter]:
    """Write the `.rows` of a `.rec` when the block ends well.

    It holds the magic bytes, u64 record count, u64 size of the `.rec`, u64 starts of each record's segments (one more
    than records), and u32 offsets within each image.
    """
    writer = RowsWriter()
    yield writer
    starts = np.concatenate([[0], np.cumsum(writer.counts, dtype=np.uint64)]).astype("<u8")
    with replacing(sidecar_path(rec)) as temporary, temporary.open("wb") as file:
        file.write(SIDECAR_HEADER.pack(SIDECAR_MAGIC, len(writer.counts), rec.stat().st_size))
        file.write(starts.tobytes())
        for segments in writer.segments:
            file.write(segments.astype("<u4").tobytes())


class Rows:
    """The `.rows` of a `.rec`, by memory map. `segments(ordinal)` is empty where an image cannot be sliced."""

    def __init__(self, rec: Path, records: int) -> None:
        path = sidecar_path(rec)
        again = f"make it again with `resnet-v2 index {rec}`."
        try:
            content: NDArray[np.uint8] = np.memmap(path, np.uint8, "r")
            magic, count, rec_bytes = SIDECAR_HEADER.unpack_from(content[: SIDECAR_HEADER.size].tobytes())
        except (ValueError, struct.error):
            raise ResnetError(f"{path} is damaged; {again}") from None
        tables_at = SIDECAR_HEADER.size + 8 * (count + 1)
        if magic != SIDECAR_MAGIC or tables_at > content.size or (content.size - tables_at) % 4:
            raise ResnetError(f"{path} is damaged; {again}")
        if count != records or rec_bytes != rec.stat().st_size:
            raise ResnetError(f"{path} belongs to another state of {rec.name}; {again}")
        self._starts = content[SIDECAR_HEADER.size : tables_at].view("<u8")
        self._offsets = content[tables_at:].view("<u4")
        if int(self._starts[-1]) != self._offsets.size:
            raise ResnetError(f"{path} is damaged; {again}")

    def segments(self, ordinal: int) -> Offsets:
        """What `find_segments` gives for the image of a record."""
        return self._offsets[int(self._starts[ordinal]) : int(self._starts[ordinal + 1])]
