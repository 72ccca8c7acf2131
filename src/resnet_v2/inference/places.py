"""Where people have pictures: files, folders of them, records, and standard input."""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resnet_v2.console import say
from resnet_v2.data.jpeg import Image, decode
from resnet_v2.data.record_names import names_records
from resnet_v2.data.record_set import Records, not_empty, open_records
from resnet_v2.data.records import RecordReader
from resnet_v2.errors import ResnetError
from resnet_v2.inference.pictures import Picture
from resnet_v2.packing.image_names import IMAGE_ENDINGS, is_image, walk
from resnet_v2.storage import as_path

STANDARD_INPUT = "-"
GIVE = "give image files, folders of them, .rec files, or -."


@dataclass(frozen=True)
class Named:
    """A picture that has a name, read when it is needed; `record` says where its labels are, if it is in a record, and
    `label` its class, where that is known otherwise.
    """

    name: str
    read: Callable[[], Picture]
    record: tuple[RecordReader, int] | None = None
    label: int | None = None

    def labelled(self) -> tuple[Picture, NDArray[np.float32] | None]:
        """The picture, and the numbers that it is labelled with; None where there are none."""
        if self.record is not None:
            return _of_record(*self.record)
        return self.read(), None if self.label is None else np.array([self.label], np.float32)


def find_pictures(places: Sequence[str]) -> list[Named]:
    """What is named: files, folders (with their subfolders, sorted), records (.rec), or standard input, as `-`.

    Standard input is one image, or else a list of paths, one on a line. A ResnetError names a place that is not there.
    """
    found = [named for place in places for named in _at(place)]
    if not found:
        raise ResnetError(f"No image is named; {GIVE}")
    return found


def _at(place: str) -> Iterator[Named]:
    if not place:
        raise ResnetError(f"An empty path names no image; {GIVE}")
    if place == STANDARD_INPUT:
        yield from _from_standard_input(sys.stdin.buffer.read())
        return
    if names_records(place):
        yield from _of_records(not_empty(open_records(place)))
        return
    path = as_path(place)
    if path.is_dir():
        inside = sorted(path / folder / file for folder, files in walk(path) for file in filter(is_image, files))
        if not inside:
            raise ResnetError(f"{path} holds no images ({', '.join(IMAGE_ENDINGS)}); give another folder.")
        yield from (Named(str(file), partial(Path, file)) for file in inside)
    elif path.is_file():
        yield Named(place, partial(Path, path))
    else:
        raise ResnetError(f"{path} does not exist; {GIVE}")


def _from_standard_input(data: bytes) -> Iterator[Named]:
    try:
        lines = [] if b"\0" in data else data.decode("utf-8").splitlines()
    except UnicodeDecodeError:
        lines = []
    if lines:
        yield from (Named(line, partial(Path, line)) for line in lines if line.strip())
    elif data:
        yield Named(STANDARD_INPUT, partial(bytes, data))


def _of_records(records: Records) -> Iterator[Named]:
    """The images of a set, each named by its file and the number of its record there."""
    for remark in records.remarks:
        say(remark)
    for ordinal in range(len(records)):
        reader, number = records.place(ordinal)
        yield Named(f"{reader.path}#{number}", partial(_image_of, reader, number), (reader, number))


def _image_of(reader: RecordReader, number: int) -> Image:
    return _of_record(reader, number)[0]


def _of_record(reader: RecordReader, number: int) -> tuple[Image, NDArray[np.float32]]:
    """The pixels as training and evaluation see them, which no EXIF orientation turns, and the labels."""
    try:
        header, data = reader.image(number)
        return decode(data), np.ravel(np.asarray(header.label, np.float32))
    except ValueError as error:
        raise ResnetError(f"{reader.path}#{number} is no readable image: {error}; pack the record again.") from None
