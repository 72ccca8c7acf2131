"""Records of object detection, whose labels are boxes and no classes, told from others by the form of their labels."""

import contextlib

import numpy as np

from resnet_v2.data.records import IRHeader, RecordReader
from resnet_v2.errors import ResnetError

HEADER_WIDTH, OBJECT_WIDTH = 2, 5  # at least: the two widths; class, left, top, right, bottom
LOOKED_AT = 3  # records of a file


def has_boxes(header: IRHeader) -> bool:
    """Whether labels have the form of MXNet's ImageDetRecordIter.

    It is the width of their own header, that of an object, whatever else that header holds, and the objects: a class,
    and a box in shares of the image's sides.
    """
    labels = np.ravel(header.label)
    if header.flag < HEADER_WIDTH + OBJECT_WIDTH or not np.isfinite(labels).all():
        return False
    first, width = labels[:2].tolist()
    if not (first.is_integer() and width.is_integer() and first >= HEADER_WIDTH and width >= OBJECT_WIDTH):
        return False
    if first >= len(labels) or (len(labels) - first) % width:
        return False
    objects = labels[int(first) :].reshape(-1, int(width))
    classes, left, top, right, bottom = objects[:, :OBJECT_WIDTH].T
    of_class = (classes >= 0) & (classes == np.floor(classes))
    inside = (left >= 0) & (left < right) & (right <= 1) & (top >= 0) & (top < bottom) & (bottom <= 1)
    return bool((of_class & inside).all())


def holds_boxes(reader: RecordReader) -> bool:
    """Whether one of the first records of a file is one of object detection; a single one may be damaged."""
    for ordinal in range(min(len(reader), LOOKED_AT)):
        with contextlib.suppress(ResnetError):  # it is said to be damaged when its turn comes
            if has_boxes(reader.image(ordinal)[0]):
                return True
    return False


def refuse_boxes(reader: RecordReader) -> None:
    """Raise ResnetError for a file of object detection."""
    if holds_boxes(reader):
        raise ResnetError(
            f"{reader.path} holds records of object detection (boxes among the labels), which have no class; give "
            "records of classes."
        )
