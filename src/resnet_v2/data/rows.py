"""JPEG files that can be sliced: restart markers every few blocks, and the offsets of the segments between them.

A baseline JPEG whose restart interval divides its rows of blocks evenly (or is some whole rows) can be cut without
decoding: the header with another size, the segments that are wanted with their markers counted anew from 0, the end
marker (`cuts.py`). Markers and header fields: ITU-T T.81, annex B.
"""

import math
import struct
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Data = bytes | bytearray | memoryview
Offsets = NDArray[np.uint32]

NOTHING: Offsets = np.empty(0, np.uint32)

START, END = b"\xff\xd8", b"\xff\xd9"
BASELINE = (0xC0, 0xC1)  # Huffman-coded, sequential; progressive files have several scans and no rows
FRAMES = (*BASELINE, 0xC2, 0xC3, *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0))
RESTART_INTERVAL, SCAN = 0xDD, 0xDA
ALONE = (0x01, *range(0xD0, 0xD8))  # markers without a length behind them


class JpegHeader(NamedTuple):
    """What stands before the image data: sizes in pixels, and where.

    A segment, which lies between two restart markers, is `segment_height` x `segment_width` pixels; both are 0 when the
    file cannot be sliced. `row_height` is that of a row of blocks, 0 unless rows can be left out at the end: in a
    baseline file without restart markers. `size_at` is the offset of height and width, `data_at` that of the image
    data. `one_scan`: all of it stands in one scan, as in every baseline file but rare ones.
    """

    height: int
    width: int
    segment_height: int
    segment_width: int
    row_height: int
    size_at: int
    data_at: int
    one_scan: bool

    @property
    def grid(self) -> tuple[int, int]:
        """Rows of segments, and segments in a row."""
        return -(-self.height // self.segment_height), -(-self.width // self.segment_width)

    @property
    def segments(self) -> int:
        """How many segments the image has."""
        return math.prod(self.grid)


def read_header(data: Data) -> JpegHeader | None:
    """The header of a JPEG file; None for bytes that are none or that end too early.

    Most files of a record have the same header but for their size, and what stands before the image data tells it all.
    """
    global _usual_length
    header = _header_of(bytes(data[:_usual_length])) or _header_of_data(data)
    if header is not None and header.data_at <= LONGEST_KEPT:
        _usual_length = header.data_at
    return header


LONGEST_KEPT = 4096
_usual_length = 0  # of what stands before the image data; a wrong guess costs time alone


@lru_cache(4096)
def _header_of(start: bytes) -> JpegHeader | None:
    return _header_of_data(start)


def _header_of_data(data: Data) -> JpegHeader | None:
    try:
        return _read_header(data)
    except (struct.error, IndexError):
        return None


def _read_header(data: Data) -> JpegHeader | None:
    if data[:2] != START:
        return None
    at, interval = 2, 0
    height = width = size_at = block_width = block_height = components = 0
    baseline = False
    while data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF or marker in ALONE:  # 0xff fills
            at += 1 if marker == 0xFF else 2
            continue
        length = max(2, struct.unpack_from(">H", data, at + 2)[0])  # the decoder takes less for 2 too
        if marker in FRAMES:
            precision, height, width, components = struct.unpack_from(">BHHB", data, at + 4)
            size_at, baseline = at + 5, marker in BASELINE and precision == 8
            sampling = data[at + 11 : at + 10 + 3 * components : 3]
            block_width = 8 * (max(one >> 4 for one in sampling) if components > 1 else 1)
            block_height = 8 * (max(one & 15 for one in sampling) if components > 1 else 1)
        elif marker == RESTART_INTERVAL:
            (interval,) = struct.unpack_from(">H", data, at + 4)
        elif marker == SCAN:
            if not (height and width and block_width and block_height):
                return None
            if not (baseline and components in (1, 3) and data[at + 4] == components):
                return JpegHeader(height, width, 0, 0, 0, size_at, at + 2 + length, False)
            segment = _segment_size(interval, -(-width // block_width), block_height, block_width)
            row_height = 0 if interval else block_height
            return JpegHeader(height, width, *segment, row_height, size_at, at + 2 + length, True)
        at += 2 + length
    return None


def _segment_size(interval: int, blocks: int, block_height: int, block_width: int) -> tuple[int, int]:
    """Height and width in pixels of what `interval` blocks cover, `blocks` in a row; zeros if that is no rectangle."""
    if interval and interval % blocks == 0:
        return interval // blocks * block_height, blocks * block_width
    if interval and blocks % interval == 0:
        return block_height, interval * block_width
    return 0, 0


def find_segments(data: bytes | memoryview) -> Offsets:
    """Where the segments of a sliceable JPEG begin, row by row, and where the last one's end marker ends.

    Empty for any other file.
    """
    header = read_header(data)
    if header is None or not header.segment_height:
        return NOTHING
    end = bytes(data[-64:]).rfind(END)
    if end < 0:
        return NOTHING
    end += max(0, len(data) - 64)
    body = np.frombuffer(data, np.uint8)[header.data_at : end]
    marked = np.flatnonzero(body[:-1] == 0xFF)
    restarts = marked[body[marked + 1] & 0xF8 == 0xD0]  # d0 to d7
    rows, columns = header.grid
    if restarts.size + 1 != rows * columns:
        return NOTHING
    # Every segment is followed by a marker of 2 bytes, so the starts tell the ends.
    return np.concatenate([[header.data_at], header.data_at + 2 + restarts, [end + 2]]).astype(np.uint32)


class Box(NamedTuple):
    """A rectangle of pixels: `top` to `bottom` and `left` to `right`, the last of each not included."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def area(self) -> int:
        """Its number of pixels."""
        return (self.bottom - self.top) * (self.right - self.left)

    def within(self, frame: "Box") -> "Box":
        """The same rectangle, counted from the upper left corner of another one."""
        return Box(self.top - frame.top, self.bottom - frame.top, self.left - frame.left, self.right - frame.left)

    def reduced(self, times: int) -> "Box":
        """The rectangle that covers it in an image so many times smaller."""
        return Box(self.top // times, -(-self.bottom // times), self.left // times, -(-self.right // times))

    def of(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """These pixels of an image (H x W x channels), as a view."""
        return pixels[self.top : self.bottom, self.left : self.right]
