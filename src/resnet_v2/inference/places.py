"""Where people have pictures: files, folders of them, records, and standard input."""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from resnet_v2.console import say
from resnet_v2.data.jpeg import Image, decode
from resnet_v2.data.record_names import names_records
from resnet_v2.data.record_set import RecordSet, open_records
from resnet_v2.data.records import RecordReader
from resnet_v2.errors import ResnetError
from resnet_v2.inference.pictures import Picture
from resnet_v2.packing.image_names import IMAGE_ENDINGS, is_image, walk
from resnet_v2.storage import as_path

STANDARD_INPUT = "-"
GIVE = "give image files, folders of them, .rec files, or -."


@dataclass(frozen=True)
class Named:
    """A picture that has a name, read when it is needed."""

    name: str
    read: Callable[[], Picture]


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
        yield from _of_records(open_records(place))
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


def _of_records(records: RecordSet) -> Iterator[Named]:
    """The images of a set, each named by its file and the number of its record there."""
    for remark in records.remarks:
        say(remark)
    for ordinal in range(len(records)):
        reader, number = records.place(ordinal)
        yield Named(f"{reader.path}#{number}", partial(_image_of, reader, number))


def _image_of(reader: RecordReader, number: int) -> Image:
    """The pixels as training and evaluation see them: an EXIF orientation does not turn a record's image."""
    try:
        return decode(reader.image(number)[1])
    except ValueError as error:
        raise ResnetError(f"{reader.path}#{number} is no readable image: {error}; pack the record again.") from None
