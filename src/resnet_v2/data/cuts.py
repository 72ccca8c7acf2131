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


def _cut(images: Sequence[Sliceable]) -> list[Part | None]:
    headers = np.array([image.header for image in images]).T
    height, width, segment_height, segment_width = headers[:4]
    data_at = headers[-1]
    top, bottom, left, right = np.array([image.wanted for image in images]).T
    columns = -(-width // segment_width)
    first_row, last_row = _around(top, bottom, segment_height, -(-height // segment_height))
    first, last = _around(left, right, segment_width, columns)
    held = np.stack(
        [
            first_row * segment_height,
            np.minimum(last_row * segment_height, height),
            first * segment_width,
            np.minimum(last * segment_width, width),
        ],
        axis=1,
    )
    # A place for each row of segments: its image, and how many segments of the image lie before it.
    image_of, row = _counted(last_row - first_row)
    before = (first_row[image_of] + row) * columns[image_of] + first[image_of]
    # And for each row's start and the end of each of its segments: where they are in their image.
    row_of, number = _counted((last - first)[image_of] + 1)
    its_image = image_of[row_of]
    counts = before[row_of] + number
    tables = np.cumsum([0, *(len(image.segments) for image in images[:-1])])
    ends = np.concatenate([image.segments for image in images]).astype(np.int64)[tables[its_image] + counts]
    sound = _could_be(images, its_image, ends, counts, number, data_at)
    starts, lasts = ends[number == 0], ends[np.append(number[1:] == 0, True)]
    # Of each image: its first row and marker, and the bytes from there on; before its first segment there is no marker.
    first_rows = np.searchsorted(image_of, np.arange(len(images)))
    begins = counts == 0
    firsts = starts[first_rows] - 2 * ~begins[np.searchsorted(its_image, np.arange(len(images)))]
    of_all = np.array([image.header.segments for image in images])
    behind_one = np.flatnonzero(~begins)
    numbers = 0xD0 | (counts[behind_one] - 1) & 7
    numbers[counts[behind_one] == of_all[its_image[behind_one]]] = END[1]
    marked = np.empty((len(behind_one), 2), np.int64)
    marked[:, 1] = (ends - firsts[its_image])[behind_one] - 1
    marked[:, 0] = marked[:, 1] - 1
    expected = (numbers << 8 | END[0]).astype("<u2").tobytes()
    # The markers behind the segments are counted anew, in what is put together from the rows.
    lengths = lasts - starts
    behind = np.cumsum(lengths) - lengths
    behind += (data_at - behind[first_rows])[image_of] - starts
    places = (ends + behind[row_of] - 1)[number > 0]
    per_image = (last_row - first_row) * (last - first)
    fresh = (0xD0 | _counted(per_image)[1] & 7).astype(np.uint8)
    pieces = list(map(slice, (starts - firsts[image_of]).tolist(), (lasts - firsts[image_of]).tolist()))
    rows = _bounds(last_row - first_row)
    markers, pairs = _bounds(per_image), _bounds(np.bincount(its_image[behind_one], minlength=len(images)))
    stops = lasts[np.append(first_rows[1:], len(image_of)) - 1].tolist()
    made: list[Part | None] = []
    whats = zip(images, sound.tolist(), held.tolist(), firsts.tolist(), stops, strict=True)
    for (image, fine, box, first_byte, stop), piece, marker, pair in zip(whats, rows, markers, pairs, strict=True):
        words = expected[2 * pair.start : 2 * pair.stop]
        its = pieces[piece], marked[pair].ravel(), words, places[marker], fresh[marker]
        made.append(Part(image.header, Box(*box), first_byte, stop, *its) if fine else None)
    return made


def _could_be(
    images: Sequence[Sliceable], its_image: Places, ends: Places, counts: Places, number: Places, data_at: Places
) -> NDArray[np.bool_]:
    """Whether the segments of each image end within it, one behind the other; `counts` of them lie before."""
    begins = counts == 0
    ascending = np.append(True, ends[1:] > ends[:-1]) | (number == 0)
    sizes = np.array([image.size for image in images])
    right = ascending & (ends <= sizes[its_image]) & (ends >= data_at[its_image] + 2 * ~begins)
    right &= ~begins | (ends == data_at[its_image])
    return cast(NDArray[np.bool_], np.bincount(its_image[~right], minlength=len(images)) == 0)


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
