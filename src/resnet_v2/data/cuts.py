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

# The decoder's interpolation of colours reads one sample of colour on either side, which is 2 pixels, at most 4.
MARGIN = 4

Places = NDArray[np.int64]


class Sliceable(NamedTuple):
    """A JPEG file, its header, the offsets that `rows.find_segments` gives for it, and the pixels that are wanted."""

    data: Data
    header: JpegHeader
    segments: Offsets
    wanted: Box


class Part(NamedTuple):
    """A part of an image that is a JPEG file by itself, and the box of pixels that it holds."""

    image: Sliceable
    held: Box
    pieces: list[slice]  # of the image's data
    places: Places  # of the numbers of markers in what they make
    markers: NDArray[np.uint8]

    def data(self) -> bytearray:
        """The file, put together when it is asked for: memory that was just written is quick to read."""
        data, header, held = self.image.data, self.image.header, self.held
        whole = bytearray(b"".join([data[: header.data_at], *[data[piece] for piece in self.pieces]]))
        struct.pack_into(">HH", whole, header.size_at, held.bottom - held.top, held.right - held.left)
        np.frombuffer(whole, np.uint8)[self.places] = self.markers
        whole[-1] = END[1]  # the last marker becomes the end marker
        return whole


def cut(images: Sequence[Sliceable]) -> list[Part | None]:
    """For each image the part that holds the segments which its pixels and a margin need.

    None where a segment does not lie between its markers: a table of another image, or a damaged one, costs time and no
    pixel.
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
    sound = _between_markers(images, its_image, ends, counts, number, data_at)
    starts, lasts = ends[number == 0], ends[np.append(number[1:] == 0, True)]
    # The markers behind the segments are counted anew, in what is put together from the rows.
    lengths = lasts - starts
    behind = np.cumsum(lengths) - lengths
    behind += (data_at - behind[np.searchsorted(image_of, np.arange(len(images)))])[image_of] - starts
    places = (ends + behind[row_of] - 1)[number > 0]
    per_image = (last_row - first_row) * (last - first)
    fresh = (0xD0 + _counted(per_image)[1] % 8).astype(np.uint8)
    pieces = list(map(slice, starts.tolist(), lasts.tolist()))
    rows = np.cumsum([0, *(last_row - first_row)]).tolist()
    markers = np.cumsum([0, *per_image]).tolist()
    made: list[Part | None] = []
    for number_of, (image, fine, box) in enumerate(zip(images, sound.tolist(), held.tolist(), strict=True)):
        some, its_rows = slice(*markers[number_of : number_of + 2]), slice(*rows[number_of : number_of + 2])
        made.append(Part(image, Box(*box), pieces[its_rows], places[some], fresh[some]) if fine else None)
    return made


def _between_markers(
    images: Sequence[Sliceable], its_image: Places, ends: Places, counts: Places, number: Places, data_at: Places
) -> NDArray[np.bool_]:
    """Whether the segments of each image end at `ends`, each behind its marker; `counts` of them lie before."""
    begins = counts == 0
    ascending = np.append(True, ends[1:] > ends[:-1]) | (number == 0)
    sizes = np.array([len(image.data) for image in images])
    right = ascending & (ends <= sizes[its_image]) & (ends >= data_at[its_image] + ~begins)
    right &= ~begins | (ends == data_at[its_image])
    of_all = np.array([image.header.segments for image in images])
    markers = np.where(counts == of_all[its_image], END[1], 0xD0 + (counts - 1) % 8)
    # The two bytes of every marker, and what they have to be; before an image's first segment there is none.
    at = np.stack([ends - 2, ends - 1], axis=1)[~begins].ravel()
    wanted = np.stack([np.full_like(markers, END[0]), markers], axis=1)[~begins].astype(np.uint8).tobytes()
    sound = np.bincount(its_image[~right], minlength=len(images)) == 0
    bounds = (2 * np.cumsum(np.bincount(its_image[~begins], minlength=len(images)))).tolist()
    for image, (one, first, last) in enumerate(zip(images, [0, *bounds], bounds, strict=False)):
        if sound[image]:
            sound[image] = np.frombuffer(one.data, np.uint8).take(at[first:last]).tobytes() == wanted[first:last]
    return cast(NDArray[np.bool_], sound)


def _counted(counts: Places) -> tuple[Places, Places]:
    """The places of `counts`, each repeated so often as it says, and the number of each repetition."""
    places = np.arange(len(counts)).repeat(counts)
    return places, np.arange(len(places)) - (np.cumsum(counts) - counts)[places]


def _around(first: Places, last: Places, side: Places, count: Places) -> tuple[Places, Places]:
    """The segments of `side` pixels that cover pixels `first` to `last` and the margin around them."""
    return np.maximum(0, (first - MARGIN) // side), np.minimum(count, -(-(last + MARGIN) // side))


def shorten(data: Data, header: JpegHeader, bottom: int) -> tuple[bytearray, Box]:
    """A JPEG file that claims to end below row `bottom` and a margin, and the box of what it says it holds.

    The data of the rows below are still in it, so a decoder tells of extraneous bytes before the end marker.
    """
    last_row = -(-(bottom + MARGIN) // header.row_height)
    held = Box(0, min(last_row * header.row_height, header.height), 0, header.width)
    shorter = bytearray(data)
    struct.pack_into(">H", shorter, header.size_at, held.bottom)
    return shorter, held
