"""Records that hold labels and no image, as collections of faces have them, told from the images without reading these.

InsightFace's form: record 0 has two labels, the first key of the identities and the key behind the last one. The images
have the keys from 1 on, with their identity as their (first) label. Each identity has a record with two labels: the
first key of its images and the key behind the last one.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from resnet_v2.data.parts import LENGTH_BITS, MAGIC, MAX_RECORD_BYTES, PART_HEADER, WHOLE
from resnet_v2.data.records import IMAGE_HEADER, RecordReader, unpack
from resnet_v2.data.source import read
from resnet_v2.errors import ResnetError

# The longest record that is taken for one without an image: 32 labels. Hardly an image file is as short.
LONGEST_BYTES = PART_HEADER.size + IMAGE_HEADER.size + 4 * 32
AT_ONCE_BYTES = 1 << 20
CLOSE_BYTES = 1 << 12  # records so close together are read at once
MOST = 1 << 32  # of keys: no file holds as many records
EXACT = 1 << 24  # whole numbers up to here are float32, as labels are; beyond it keys are rounded


class Ranges(NamedTuple):
    """What record 0 of a collection of faces tells: the keys of its identities, from `first` to below `last`."""

    first: int
    last: int

    def tells_of(self, images: int) -> bool:
        """Whether so many images have the keys from 1 on, as exactly as a label tells it."""
        return float(np.float32(images + 1)) == self.first


def without_image(reader: RecordReader) -> NDArray[np.int64]:
    """The numbers of the records that hold labels and no image, ascending; only records of few bytes are read."""
    order = None if _ascends(reader.offsets) else np.argsort(reader.offsets, kind="stable")
    starts = reader.offsets if order is None else reader.offsets[order]
    short = np.flatnonzero(np.diff(starts, append=reader.file_bytes) <= LONGEST_BYTES)
    empty = short[_are_empty(reader, starts[short])]
    return np.sort(empty if order is None else order[empty])


def _ascends(offsets: NDArray[np.int64]) -> bool:
    return bool((offsets[1:] > offsets[:-1]).all())


def _are_empty(reader: RecordReader, starts: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether records that begin at some bytes, which ascend, hold labels and no image."""
    empty = np.zeros(len(starts), np.bool_)
    first = 0
    while first < len(starts):
        some = starts[first : first + AT_ONCE_BYTES // 32]
        far = np.flatnonzero((np.diff(some) > CLOSE_BYTES) | (some[1:] - some[0] > AT_ONCE_BYTES))
        count = int(far[0]) + 1 if len(far) else len(some)
        some = some[:count]
        empty[first : first + count] = _look(reader, some)
        first += count
    return empty


def _look(reader: RecordReader, starts: NDArray[np.int64]) -> NDArray[np.bool_]:
    begin = int(starts[0])
    head = PART_HEADER.size + IMAGE_HEADER.size
    data = read(reader.source, int(starts[-1]) - begin + head, begin)
    words = np.frombuffer(data + bytes(head), "<u4", (len(data) + head) // 4)
    at = (starts - begin) // 4
    length, flag = (words[at + 1] & MAX_RECORD_BYTES).astype(np.int64), words[at + 2].astype(np.int64)
    whole = (words[at] == MAGIC) & (words[at + 1] >> LENGTH_BITS == WHOLE) & ((starts - begin) % 4 == 0)
    empty: NDArray[np.bool_] = whole & (flag > 0) & (length == IMAGE_HEADER.size + 4 * flag)
    return empty


def ranges(reader: RecordReader) -> Ranges | None:
    """What record 0 tells of the identities; None where the file is no collection of faces."""
    try:
        return ranges_of(reader[0]) if len(reader) else None
    except ResnetError:
        return None


def ranges_of(payload: memoryview) -> Ranges | None:
    """The same from the record itself."""
    try:
        header, data = unpack(payload)
    except ValueError:
        return None
    return None if len(data) else ranges_of_labels(np.ravel(header.label).tolist())


def ranges_of_labels(labels: Sequence[float]) -> Ranges | None:
    """The same from the labels of a record without an image."""
    if len(labels) != 2 or not all(label.is_integer() for label in labels) or not 1 <= labels[0] <= labels[1] < MOST:
        return None
    return Ranges(int(labels[0]), int(labels[1]))
