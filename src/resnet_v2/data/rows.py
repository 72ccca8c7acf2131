"""JPEG files that can be sliced: restart markers every few blocks, and the offsets of the segments between them.

A baseline JPEG whose restart interval divides its rows of blocks evenly (or is some whole rows) can be cut without
decoding: the header with another size, the segments that are wanted with their markers counted anew from 0, the end
marker. Its pixels are those of the whole image, but for the outermost ones of a cut, whose colour is interpolated with
a neighbour that is not there; so a cut has a margin. Markers and header fields: ITU-T T.81,
annex B.
"""

import math
import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Data = bytes | bytearray | memoryview
Offsets = NDArray[np.uint32]

NOTHING: Offsets = np.empty(0, np.uint32)

# The decoder's interpolation of colours reads one sample of colour on either side, which is 2 pixels, at most 4.
MARGIN = 4

START, END = b"\xff\xd8", b"\xff\xd9"
BASELINE = (0xC0, 0xC1)  # Huffman-coded, sequential; progressive files have several scans and no rows
FRAMES = (*BASELINE, 0xC2, 0xC3, *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0))
RESTART_INTERVAL, SCAN = 0xDD, 0xDA
ALONE = (0x01, *range(0xD0, 0xD8))  # markers without a length behind them


@dataclass(frozen=True)
class JpegHeader:
    """What stands before the image data: sizes in pixels, and where.

    A segment, which lies between two restart markers, is `segment_height` x `segment_width` pixels; both are 0 when the
    file cannot be sliced. `row_height` is that of a row of blocks, 0 unless rows can be left out at the end: in a
    baseline file without restart markers. `size_at` is the offset of height and width, `data_at` that of the image
    data.
    """

    height: int
    width: int
    segment_height: int
    segment_width: int
    row_height: int
    size_at: int
    data_at: int

    @property
    def grid(self) -> tuple[int, int]:
        """Rows of segments, and segments in a row."""
        return -(-self.height // self.segment_height), -(-self.width // self.segment_width)


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
                return JpegHeader(height, width, 0, 0, 0, size_at, at + 2 + length)
            segment = _segment_size(interval, -(-width // block_width), block_height, block_width)
            return JpegHeader(height, width, *segment, 0 if interval else block_height, size_at, at + 2 + length)
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


@dataclass(frozen=True)
class Box:
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

    def of(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """These pixels of an image (H x W x channels), as a view."""
        return pixels[self.top : self.bottom, self.left : self.right]


def cut(data: Data, header: JpegHeader, segments: Offsets, wanted: Box) -> tuple[bytearray, Box]:
    """A JPEG file of the segments that the pixels `wanted` and a margin need, and the box of what it holds.

    Raises ValueError where one of them does not lie between its markers: a table of another image, or a damaged one,
    costs time and no pixel.
    """
    rows, columns = header.grid
    if segments.size != rows * columns + 1:
        raise ValueError("the segments are another image's")
    first_row, last_row = _around(wanted.top, wanted.bottom, header.segment_height, rows)
    first, last = _around(wanted.left, wanted.right, header.segment_width, columns)
    held = Box(
        first_row * header.segment_height,
        min(last_row * header.segment_height, header.height),
        first * header.segment_width,
        min(last * header.segment_width, header.width),
    )
    # Of each row where its first segment begins and where each one ends: so many segments of the image lie before.
    counts = np.arange(first_row, last_row)[:, None] * columns + np.arange(first, last + 1)
    ends = segments[counts].astype(np.int64)
    if not _between_markers(data, header, ends, counts):
        raise ValueError("the segments are another image's")
    starts, ends = ends[:, 0], ends[:, 1:]
    last_ends = ends[:, -1]
    pieces = [data[start:end] for start, end in zip(starts.tolist(), last_ends.tolist(), strict=True)]
    whole = bytearray(b"".join([data[: header.data_at], *pieces]))
    struct.pack_into(">HH", whole, header.size_at, held.bottom - held.top, held.right - held.left)
    # The markers behind the segments are counted anew; the last one becomes the end marker.
    behind = header.data_at + np.cumsum(last_ends - starts) - last_ends
    markers = (ends + behind[:, None]).ravel() - 1
    np.frombuffer(whole, np.uint8)[markers] = 0xD0 + np.arange(markers.size) % 8
    whole[-1] = END[1]
    return whole, held


def _between_markers(data: Data, header: JpegHeader, ends: NDArray[np.int64], counts: NDArray[np.int64]) -> bool:
    """Whether `counts` segments of an image end at `ends`, each behind its own marker."""
    ascending = (ends[:, 1:] > ends[:, :-1]).all() and ends[0, 0] >= header.data_at
    if not ascending or ends.max() > len(data) or (counts[0, 0] == 0 and ends[0, 0] != header.data_at):
        return False
    markers = 0xD0 + (counts - 1) % 8
    if counts[-1, -1] == math.prod(header.grid):
        markers[-1, -1] = END[1]
    ends, markers = ends.ravel(), markers.ravel()
    if counts[0, 0] == 0:
        ends, markers = ends[1:], markers[1:]
    there = np.frombuffer(data, np.uint8)
    return bool((there[ends - 2] == END[0]).all() and (there[ends - 1] == markers).all())


def shorten(data: Data, header: JpegHeader, bottom: int) -> tuple[bytearray, Box]:
    """A JPEG file that claims to end below row `bottom` and a margin, and the box of what it says it holds.

    The data of the rows below are still in it, so a decoder tells of extraneous bytes before the end marker.
    """
    last_row = -(-(bottom + MARGIN) // header.row_height)
    held = Box(0, min(last_row * header.row_height, header.height), 0, header.width)
    shorter = bytearray(data)
    struct.pack_into(">H", shorter, header.size_at, held.bottom)
    return shorter, held


def _around(first: int, last: int, side: int, count: int) -> tuple[int, int]:
    """The segments of `side` pixels that cover pixels `first` to `last` and the margin around them."""
    return max(0, (first - MARGIN) // side), min(count, -(-(last + MARGIN) // side))
