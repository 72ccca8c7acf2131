"""Records to copy from: several files as one set, each held against its index before anything is written."""

import glob
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resnet_v2.console import Progress, say
from resnet_v2.data.index import index_path, read_index
from resnet_v2.data.records import (
    IMAGE_HEADER,
    LENGTH_BITS,
    MAGIC,
    MAX_RECORD_BYTES,
    PART_HEADER,
    WHOLE,
    RecordReader,
    damaged,
    no_image_record,
    read_record,
    scan,
)
from resnet_v2.data.sidecar import Rows, sidecar_path
from resnet_v2.data.source import Source, open_source, read, size_of
from resnet_v2.errors import DamagedError, ResnetError
from resnet_v2.files import fingerprint
from resnet_v2.storage import Address, as_path

HEAD_BYTES = PART_HEADER.size + IMAGE_HEADER.size + 8  # with two labels, which tell records of faces and of boxes
RECORD_NAME = re.compile(r"\.rec(\.part\d+)?$")
PADDING = 3  # bytes that may be missing behind the last record


def find_inputs(words: Sequence[str]) -> list[Path]:
    """The files that words name: paths, addresses, patterns, or several of these with commas between.

    The files of a pattern come in the order of their names, numbers in them by their size. Raises ResnetError for a
    pattern without a file, and for a file that is named twice.
    """
    paths = [path for word in words for path in _named(word)]
    for number, path in enumerate(paths):
        if any(_is_same(path, other) for other in paths[:number]):
            raise ResnetError(f"{path} is given twice; give every .rec once.")
    return paths


def _named(word: str) -> Iterator[Path]:
    path = as_path(word)
    if isinstance(path, Address) or path.exists():
        yield path
    elif "," in word:
        for part in filter(None, word.split(",")):
            yield from _named(part)
    elif glob.has_magic(word):
        names = glob.glob(word)  # noqa: PTH207  # a Path's own takes no pattern with a root
        found = sorted(filter(RECORD_NAME.search, names), key=_by_numbers)
        if not found:
            raise ResnetError(f"No .rec has a name like {word}; check the path.")
        yield from map(Path, found)
    else:
        raise ResnetError(f"{path} is missing; give the path of a .rec.")


def _by_numbers(name: str) -> list[tuple[int, str]]:
    """`train_2.rec` before `train_10.rec`."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def _is_same(path: Path, other: Path) -> bool:
    if isinstance(path, Address) or isinstance(other, Address):
        return path == other
    return path.samefile(other)


class Records:
    """The records of several files, one after the other; `number` counts through all of them.

    Arrays of as many entries as there are records: `offsets` (int64) in their files, `lengths` (int64, bytes with
    their headers and padding), `labels` (float32, the first of each), `ids` (uint64), `images` (bool: image bytes
    follow the header). `starts` are the numbers of the files' first records, one more than files; `faces` are the
    numbers of the files that have InsightFace's form, `boxes` of those with records of object detection. `origins` are
    what the files' `.rows` say of their making.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)
        heads = [_read_heads(path) for path in self.paths]
        self._sources = [one.source for one in heads]
        self.starts = np.cumsum([0, *(len(one.offsets) for one in heads)])
        self.offsets = np.concatenate([one.offsets for one in heads])
        self.lengths = np.concatenate([one.lengths for one in heads])
        self.labels = np.concatenate([one.labels for one in heads])
        self.ids = np.concatenate([one.ids for one in heads])
        self.images = np.concatenate([one.images for one in heads])
        self.faces = {number for number, one in enumerate(heads) if one.faces}
        self.boxes = {number for number, one in enumerate(heads) if one.boxes}
        self._sums, self.origins = [], list[str]()
        for path, one in zip(self.paths, heads, strict=True):
            rows = _rows(path, len(one.offsets))
            self._sums.append(np.empty(0, np.uint64) if rows is None else rows.sums())
            self.origins.append("" if rows is None else rows.origin())

    def __len__(self) -> int:
        return len(self.offsets)

    def place(self, number: int) -> tuple[int, int]:
        """The number of the file and the ordinal in it."""
        file = int(np.searchsorted(self.starts, number, "right")) - 1
        return file, number - int(self.starts[file])

    def name(self, number: int) -> str:
        """`a.rec: record 5 at byte 1234`."""
        file, ordinal = self.place(number)
        return f"{self.paths[file]}: record {ordinal} at byte {int(self.offsets[number])}"

    def read(self, number: int) -> memoryview:
        """The payload of a record; a DamagedError where it is not what was packed."""
        file, ordinal = self.place(number)
        offset = int(self.offsets[number])
        try:
            payload = read_record(self._sources[file], offset, int(self.lengths[number]))[0]
        except ValueError as error:
            raise damaged(self.paths[file], ordinal, offset, error) from None
        sums = self._sums[file]
        if len(sums) and int(sums[ordinal]) != fingerprint(payload):
            raise DamagedError(
                f"{self.name(number)} is damaged (its bytes are not those that were packed); `resnet-v2 verify "
                f"{self.paths[file]} --repair NEW.rec` writes the records that are sound."
            )
        return payload

    def tell(self) -> None:
        """Say how many records hold no image, which nobody can train on."""
        for file, path in enumerate(self.paths):
            images = self.images[int(self.starts[file]) : int(self.starts[file + 1])]
            if not images.any():
                raise ResnetError(f"{path} holds no image; give a .rec of images.")
            if without := int(np.count_nonzero(~images)):
                form = " (InsightFace's form: ranges of identities)" if file in self.faces else ""
                say(f"{path}: {int(images.sum())} images; {without} records without an image are left out{form}")

    def refuse_boxes(self) -> None:
        """Raise ResnetError for records of object detection, whose first label is no class."""
        if self.boxes:
            raise ResnetError(
                f"{self.paths[min(self.boxes)]} holds records of object detection (boxes among the labels), which have "
                "no class; they can be merged, shuffled and divided, and nothing else."
            )


@dataclass
class _Heads:
    source: Source
    offsets: NDArray[np.int64]
    lengths: NDArray[np.int64]
    labels: NDArray[np.float32]
    ids: NDArray[np.uint64]
    images: NDArray[np.bool_]
    faces: bool = False
    boxes: bool = False


def _read_heads(path: Path) -> _Heads:
    """What is to be known of every record of a file: some bytes of each are read, in the order of the index."""
    try:
        source = open_source(path)
    except OSError as error:
        raise ResnetError(f"{path} cannot be opened ({error.strerror}); check the path.") from None
    offsets, count = _offsets(path), 0
    heads = _Heads(
        source,
        offsets,
        np.zeros(len(offsets), np.int64),
        np.zeros(len(offsets), np.float32),
        np.zeros(len(offsets), np.uint64),
        np.zeros(len(offsets), np.bool_),
    )
    with Progress(path.name, len(offsets), "records") as progress:
        for count, offset in enumerate(offsets.tolist()):
            _read_head(path, heads, count, offset)
            if not count % 1000:
                progress.update(min(1000, len(offsets) - count))
    _check_whole(path, heads)
    return heads


def _offsets(path: Path) -> NDArray[np.int64]:
    if index_path(path).is_file():
        offsets = read_index(path)
        if not len(offsets):
            raise ResnetError(f"{index_path(path)} is empty; make it again with `resnet-v2 index {path}`.")
        return offsets
    say(f"{index_path(path)} is missing; {path.name} is read once to find its records.")
    offsets = np.fromiter((start for start, _ in scan(path)), np.int64)
    if not len(offsets):
        raise ResnetError(f"{path} holds no whole record; it is damaged or no RecordIO file.")
    return offsets


def _read_head(path: Path, heads: _Heads, ordinal: int, offset: int) -> None:
    data = read(heads.source, HEAD_BYTES, offset)
    magic, word = PART_HEADER.unpack_from(data) if len(data) >= PART_HEADER.size else (0, 0)
    size = word & MAX_RECORD_BYTES
    end = offset + PART_HEADER.size + size + -size % 4
    payload = data[PART_HEADER.size : PART_HEADER.size + size]
    if magic != MAGIC or word >> LENGTH_BITS != WHOLE:  # of several parts, or none
        try:
            whole, end = read_record(heads.source, offset)
        except ValueError as error:
            raise damaged(path, ordinal, offset, error) from None
        payload, size = bytes(whole[:HEAD_BYTES]), len(whole)
    if size < IMAGE_HEADER.size:
        raise no_image_record(path, ordinal, ValueError(f"{size} bytes are too few for an image header"))
    if len(payload) < IMAGE_HEADER.size:
        raise damaged(path, ordinal, offset, ValueError("the file ends inside it"))
    flag, label, heads.ids[ordinal], _ = IMAGE_HEADER.unpack_from(payload)
    first_labels = np.frombuffer(payload, "<f4", min(flag, (len(payload) - IMAGE_HEADER.size) // 4), IMAGE_HEADER.size)
    image_bytes = size - IMAGE_HEADER.size - 4 * flag
    if image_bytes < 0 or (flag and not len(first_labels)):
        raise no_image_record(path, ordinal, ValueError(f"{size} bytes are too few for {flag} labels"))
    heads.labels[ordinal] = first_labels[0] if flag else label
    heads.lengths[ordinal], heads.images[ordinal] = end - offset, image_bytes > 0
    if ordinal == 0:
        heads.faces = flag == 2 and not image_bytes
        heads.boxes = _is_of_boxes(flag, first_labels)


def _is_of_boxes(flag: int, labels: NDArray[np.float32]) -> bool:
    """Whether labels begin as those of MXNet's detection records: their header's width, and that of an object."""
    if flag < 7 or len(labels) < 2:
        return False
    header, width = labels.tolist()
    whole = header.is_integer() and width.is_integer() and 2 <= header < flag and width >= 5
    return bool(whole and (flag - header) % width == 0)


def _check_whole(path: Path, heads: _Heads) -> None:
    """Raise ResnetError where an index names a record twice, or bytes of the file are in no record that it names."""
    order = heads.offsets.argsort(kind="stable")
    starts, size = heads.offsets[order], size_of(heads.source)
    ends = starts + heads.lengths[order]
    if len(twice := np.flatnonzero(starts[1:] == starts[:-1])):
        raise ResnetError(
            f"{index_path(path)} names the record at byte {int(starts[twice[0]])} twice; make it again with `resnet-v2 "
            f"index {path}`."
        )
    if int(ends[-1]) - size > PADDING:
        raise damaged(path, int(order[-1]), int(starts[-1]), ValueError("the file ends inside it"))
    following = np.append(starts[1:], max(size, int(ends[-1])))
    gaps = np.flatnonzero(np.append(0, ends) != np.append(starts[:1], following))
    if len(gaps):
        first = int(np.append(0, ends)[gaps[0]])
        raise ResnetError(
            f"{path}: the bytes from {first} on are in no record that its index names; make the index again with "
            f"`resnet-v2 index {path}`, or write the sound records with `resnet-v2 verify {path} --repair NEW.rec`."
        )


def _rows(path: Path, count: int) -> Rows | None:
    """The `.rows` of a record, if there is one; ResnetError for that of another record."""
    if not sidecar_path(path).is_file():
        return None
    rows = Rows.of(RecordReader(path)) if index_path(path).is_file() else Rows(path)
    if rows.count != count:
        raise ResnetError(
            f"{rows.path} belongs to another state of {path.name}; make it again with `resnet-v2 index {path}`."
        )
    return rows
