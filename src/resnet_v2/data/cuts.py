"""Sliceable JPEG files -> files of only the segments that a crop needs, for many images at once.

The pixels of a cut are those of the whole image, but for the outermost ones, whose colour is interpolated with a
neighbour that is not there; so a cut has a margin. What a segment is: `rows.py`.
"""

import struct
from collections.abc import Sequence
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from resnet_v2.data.rows import END, Box, Data, JpegHeader, Offsets
from resnet_v2.data.stored import InMemory

# The decoder's interpolation of colours reads one sample of colour on either side, which is 2 pixels, at most 4.
MARGIN = 4

Places = NDArray[np.int64]


class Sliceable(NamedTuple):
    """A JPEG file, by its bytes and header, what `rows.find_segments` gives for it, and the pixels that are wanted."""

    size: int
    header: JpegHeader
    segments: Offsets
    wanted: Box


class Part(NamedTuple):
    """A part of an image that is a JPEG file by itself, and the box of pixels that it holds.

    `pieces` of the image's bytes from `first` to `last` make it. `marked` are the places of the markers' bytes in
    those, and `expected` what these are. `places` are those of the numbers of the markers in what is made, which
    become `markers`.
    """

    header: JpegHeader
    held: Box
    first: int
    last: int
    pieces: list[slice]
    marked: Places
    expected: bytes
    places: Places
    markers: NDArray[np.uint8]

    def data(self, image: InMemory) -> bytearray | None:
        """The file, put together when it is asked for: memory that was just written is quick to read.

        None where a segment does not lie between its markers: a table of another image, or a damaged one, costs time
        and no pixel.
        """
        head = bytes(image.read(0, self.header.data_at))
        there = image.read(self.first, self.last)
        if np.frombuffer(there, np.uint8).take(self.marked).tobytes() != self.expected:
            return None
        whole = bytearray(b"".join([head, *[there[piece] for piece in self.pieces]]))
        height, width = self.held.bottom - self.held.top, self.held.right - self.held.left
        struct.pack_into(">HH", whole, self.header.size_at, height, width)
        np.frombuffer(whole, np.uint8)[self.places] = self.markers
        whole[-1] = END[1]  # the last marker becomes the end marker
        return whole


def cut(images: Sequence[Sliceable]) -> list[Part | None]:
    """For each image the part that holds the segments which its pixels and a margin need; None where its table cannot
    be right.
    """
    fitting = [len(image.segments) == image.header.segments + 1 for image in images]
    if not all(fitting):
        made = iter(cut([image for image, fits in zip(images, fitting, strict=True) if fits]))
        return [next(made) if fits else None for fits in fitting]
    return _cut(images) if images else []


class _Rows(NamedTuple):
    """The rows of segments that are wanted of n images: how many each has, and the boxes that they hold (n x 4).

    Of each row: its image, how many of the image's segments lie before its first one, and how many it has.
    """

    counts: Places
    held: Places
    image: Places
    before: Places
    segments: Places


def _cut(images: Sequence[Sliceable]) -> list[Part | None]:
    rows = _wanted_rows(images)
    # For each row its start and the end of each of its segments: where they are in their image.
    row_of, number = _counted(rows.segments + 1)
    image_of = rows.image[row_of]
    counts = rows.before[row_of] + number
    tables = np.cumsum([0, *(len(image.segments) for image in images[:-1])])
    ends = np.concatenate([image.segments for image in images]).astype(np.int64)[tables[image_of] + counts]
    starts, lasts = ends[number == 0], ends[np.append(number[1:] == 0, True)]
    # Of each image the bytes from the marker before its first segment on; before the first of all there is none.
    last_rows = np.cumsum(rows.counts)
    first_rows = last_rows - rows.counts
    firsts = starts[first_rows] - 2 * (rows.before[first_rows] > 0)
    sound = _could_be(images, image_of, ends, counts, number)
    marked, expected, pairs = _markers(images, image_of, ends - firsts[image_of], counts)
    places, fresh, marks = _new_markers(images, rows, ends, starts, lasts, row_of, number)
    pieces = list(map(slice, (starts - firsts[rows.image]).tolist(), (lasts - firsts[rows.image]).tolist()))
    made: list[Part | None] = []
    each = zip(images, sound.tolist(), rows.held.tolist(), firsts.tolist(), lasts[last_rows - 1].tolist(), strict=True)
    for (image, fine, held, first, last), row, mark, pair in zip(each, _bounds(rows.counts), marks, pairs, strict=True):
        words = expected[2 * pair.start : 2 * pair.stop]
        its = pieces[row], marked[pair].ravel(), words, places[mark], fresh[mark]
        made.append(Part(image.header, Box(*held), first, last, *its) if fine else None)
    return made


def _wanted_rows(images: Sequence[Sliceable]) -> _Rows:
    height, width, segment_height, segment_width = np.array([image.header for image in images]).T[:4]
    top, bottom, left, right = np.array([image.wanted for image in images]).T
    columns = -(-width // segment_width)
    first_row, last_row = _around(top, bottom, segment_height, -(-height // segment_height))
    first, last = _around(left, right, segment_width, columns)
    held = (
        first_row * segment_height,
        np.minimum(last_row * segment_height, height),
        first * segment_width,
        np.minimum(last * segment_width, width),
    )
    image_of, row = _counted(last_row - first_row)
    before = (first_row[image_of] + row) * columns[image_of] + first[image_of]
    return _Rows(last_row - first_row, np.stack(held, axis=1), image_of, before, (last - first)[image_of])


def _markers(
    images: Sequence[Sliceable], image_of: Places, ends: Places, counts: Places
) -> tuple[Places, bytes, list[slice]]:
    """The two bytes of the marker that stands before each end: their places, what they have to be, and whose they are.

    Before an image's first segment there is none.
    """
    behind_one = np.flatnonzero(counts)
    of_all = np.array([image.header.segments for image in images])
    numbers = 0xD0 | (counts[behind_one] - 1) & 7
    numbers[counts[behind_one] == of_all[image_of[behind_one]]] = END[1]
    places = np.empty((len(behind_one), 2), np.int64)
    places[:, 1] = ends[behind_one] - 1
    places[:, 0] = places[:, 1] - 1
    words = (numbers << 8 | END[0]).astype("<u2").tobytes()
    return places, words, _bounds(np.bincount(image_of[behind_one], minlength=len(images)))


def _new_markers(
    images: Sequence[Sliceable],
    rows: _Rows,
    ends: Places,
    starts: Places,
    lasts: Places,
    row_of: Places,
    number: Places,
) -> tuple[Places, NDArray[np.uint8], list[slice]]:
    """Where the numbers of markers stand in what is put together from rows, what they become, and whose they are."""
    data_at = np.array([image.header.data_at for image in images])
    lengths = lasts - starts
    moved = np.cumsum(lengths) - lengths
    moved += (data_at - moved[np.cumsum(rows.counts) - rows.counts])[rows.image] - starts
    per_image = np.bincount(rows.image, rows.segments, len(images)).astype(np.int64)
    fresh = (0xD0 | _counted(per_image)[1] & 7).astype(np.uint8)
    return (ends + moved[row_of] - 1)[number > 0], fresh, _bounds(per_image)


def _could_be(
    images: Sequence[Sliceable], image_of: Places, ends: Places, counts: Places, number: Places
) -> NDArray[np.bool_]:
    """Whether the segments of each image end within it, one behind the other; `counts` of them lie before."""
    sizes, data_at = np.array([(image.size, image.header.data_at) for image in images]).T
    begins, first = counts == 0, data_at[image_of]
    ascending = np.append(True, ends[1:] > ends[:-1]) | (number == 0)
    right = ascending & (ends <= sizes[image_of]) & np.where(begins, ends == first, ends >= first + 2)
    return cast(NDArray[np.bool_], np.bincount(image_of[~right], minlength=len(images)) == 0)


def _bounds(counts: Places) -> list[slice]:
    """Where the things of each lie among those of all."""
    ends = np.cumsum(counts)
    return list(map(slice, (ends - counts).tolist(), ends.tolist()))


def _counted(counts: Places) -> tuple[Places, Places]:
    """The places of `counts`, each repeated so often as it says, and the number of each repetition."""
    places = np.arange(len(counts)).repeat(counts)
    return places, np.arange(len(places)) - (np.cumsum(counts) - counts)[places]


def _around(first: Places, last: Places, side: Places, count: Places) -> tuple[Places, Places]:
    """The segments of `side` pixels that cover pixels `first` to `last` and the margin around them."""
    return np.maximum(0, (first - MARGIN) // side), np.minimum(count, -(-(last + MARGIN) // side))


def shorten(data: Data, header: JpegHeader, bottom: int) -> tuple[Data, Box]:
    """A JPEG file that claims to end below row `bottom` and a margin, and the box of what it says it holds.

    The data of the rows below are still in it, so a decoder tells of extraneous bytes before the end marker.
    """
    last_row = -(-(bottom + MARGIN) // header.row_height)
    held = Box(0, min(last_row * header.row_height, header.height), 0, header.width)
    # What was read for this image alone is changed where it is.
    shorter = bytearray(data) if memoryview(data).readonly else data
    struct.pack_into(">H", shorter, header.size_at, held.bottom)
    return shorter, held
