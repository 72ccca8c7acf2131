"""Records to copy from: a set of files, whose headers are all read before anything is written."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resnet_v2.console import Progress, agreeing, counted, say
from resnet_v2.data.boxes import holds_boxes
from resnet_v2.data.exact import first_label
from resnet_v2.data.faces import ranges
from resnet_v2.data.index import index_path
from resnet_v2.data.record_names import record_paths
from resnet_v2.data.record_set import RecordSet
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
)
from resnet_v2.data.sidecar import Rows, sidecar_path
from resnet_v2.data.source import read
from resnet_v2.errors import DamagedError, ResnetError
from resnet_v2.files import fingerprint
from resnet_v2.storage import Address

HEAD_BYTES = PART_HEADER.size + IMAGE_HEADER.size + 4  # with the first label
PADDING = 3  # bytes that may be missing behind the last record


def find_inputs(words: Sequence[str]) -> list[Path]:
    """The files that words name, as `record_paths` reads each; a ResnetError for a file that two of them name."""
    found: list[Path] = []
    for word in words:
        for path in record_paths(word):
            if any(_is_same(path, other) for other in found):
                raise ResnetError(f"{path} is given twice; give every .rec once.")
            found.append(path)
    return found


def _is_same(path: Path, other: Path) -> bool:
    if isinstance(path, Address) or isinstance(other, Address) or not (path.exists() and other.exists()):
        return path == other
    return os.path.samefile(path, other)  # noqa: PTH121  # mypy takes an Address for the other type


class Inputs:
    """The images of several files; `number` counts through all of them, in the order of `RecordSet`.

    `numbers` are those of the images that can be read as far as was looked, which is not into them. A record that
    cannot is a ResnetError, or with `skip` a sentence that `skip` is called with. Arrays of as many entries as there
    are images: `stored_labels` (float32, the first of each record), `labels` (float64, the same; from 2^24 on the exact
    one that `id2` tells, not a number where it tells another), `ids` (uint64) and `counts` (int64, how many labels
    there are). `faces` are the numbers of the files that have InsightFace's form, `boxes` of those with records of
    object detection. `origins` are what the files' `.rows` say of their making.
    """

    def __init__(self, paths: Sequence[Path], skip: Callable[[str], object] | None = None) -> None:
        self.paths = list(paths)
        readers = [RecordReader(path) for path in paths]
        self._set = RecordSet(readers, self.paths[0])
        heads = [_read_heads(reader, skip) for reader in readers]
        self.files, ordinals = self._set.locate(np.arange(len(self._set)))
        at = np.cumsum([0, *map(len, readers)])[self.files] + ordinals
        self.labels = np.concatenate([one.labels for one in heads])[at]
        self.stored_labels = np.concatenate([one.stored_labels for one in heads])[at]
        self.ids = np.concatenate([one.ids for one in heads])[at]
        self.counts = np.concatenate([one.counts for one in heads])[at]
        self.numbers = np.flatnonzero(self.counts)
        self.faces = {file for file, reader in enumerate(readers) if ranges(reader) is not None}
        self.boxes = {file for file, reader in enumerate(readers) if holds_boxes(reader)}
        rows = [Rows.of(reader) if sidecar_path(reader.path).is_file() else None for reader in readers]
        self._sums = [np.empty(0, np.uint64) if one is None else one.sums() for one in rows]
        self.origins = ["" if one is None else one.origin() for one in rows]

    def __len__(self) -> int:
        return len(self._set)

    def place(self, number: int) -> tuple[int, int]:
        """The number of the file of an image, and that of its record there."""
        files, numbers = self._set.locate(np.array([number]))
        return int(files[0]), int(numbers[0])

    def name(self, number: int) -> str:
        """`a.rec: record 5 at byte 1234`."""
        reader, ordinal = self._set.place(number)
        return f"{reader.path}: record {ordinal} at byte {int(reader.offsets[ordinal])}"

    def read(self, number: int) -> memoryview:
        """The payload of an image's record; a DamagedError where it is not what was packed."""
        file, ordinal = self.place(number)
        payload = self._set.readers[file][ordinal]
        sums = self._sums[file]
        if len(sums) and int(sums[ordinal]) != fingerprint(payload):
            raise DamagedError(
                f"{self.name(number)} is damaged (its bytes are not those that were packed); `resnet-v2 verify "
                f"{self.paths[file]} --repair NEW.rec` writes the records that are sound."
            )
        return payload

    def tell(self) -> None:
        """Say what there is to say of the files, such as records without an image; ResnetError where all are."""
        for file, path in enumerate(self.paths):
            if not (self.files[self.numbers] == file).any():
                raise ResnetError(f"{path} holds no image; give a .rec of images.")
        several = len(self.paths) > 1
        for remark in self._set.remarks[:-1] if several else self._set.remarks:
            say(remark)
        if several:
            say(f"{counted(len(self), 'image')} of {counted(len(self.paths), 'file')}, {self.paths[0]} the first")

    def refuse_boxes(self) -> None:
        """Raise ResnetError for records of object detection, whose first label is no class."""
        if self.boxes:
            raise ResnetError(
                f"{self.paths[min(self.boxes)]} holds records of object detection (boxes among the labels), which have "
                "no class; they can be merged, shuffled and divided, and nothing else."
            )

    def tell_of_several_labels(self) -> None:
        """Say that of several labels the first is taken for the class, unless it is the identity of a face."""
        several = (self.counts > 1) & ~np.isin(self.files, list(self.faces))
        if several.any():
            number = int(several.argmax())
            say(
                f"warning: {counted(int(several.sum()), 'image')} {agreeing(int(several.sum()), 'has', 'have')} "
                f"several labels, such as {self.name(number)}; the first is "
                "taken for the class"
            )


@dataclass
class _Heads:
    """Of all records of a file: their lengths in the file, first labels (as stored, and exact), ids, and how many
    labels each has; those of which `counts` is 0 cannot be read.
    """

    lengths: NDArray[np.int64]
    stored_labels: NDArray[np.float32]
    labels: NDArray[np.float64]
    ids: NDArray[np.uint64]
    counts: NDArray[np.int64]


def _read_heads(reader: RecordReader, skip: Callable[[str], object] | None) -> _Heads:
    """What is to be known of every record of a file: some bytes of each are read, in the order of the index."""
    count = len(reader)
    heads = _Heads(
        np.zeros(count, np.int64),
        np.zeros(count, np.float32),
        np.zeros(count, np.float64),
        np.zeros(count, np.uint64),
        np.zeros(count, np.int64),
    )
    with Progress(f"look at {reader.path.name}", count, "records") as progress:
        for ordinal, offset in enumerate(reader.offsets.tolist()):
            try:
                _read_head(reader, heads, ordinal, offset)
            except ResnetError as error:
                if skip is None:
                    raise
                skip(str(error))
            if not ordinal % 1000:
                progress.update(min(1000, count - ordinal))
    if heads.counts.all():
        _check_whole(reader, heads)
    return heads


def _read_head(reader: RecordReader, heads: _Heads, ordinal: int, offset: int) -> None:
    data = read(reader.source, HEAD_BYTES, offset)
    magic, word = PART_HEADER.unpack_from(data) if len(data) >= PART_HEADER.size else (0, 0)
    size = word & MAX_RECORD_BYTES
    end = offset + PART_HEADER.size + size + -size % 4
    payload = data[PART_HEADER.size : PART_HEADER.size + size]
    if magic != MAGIC or word >> LENGTH_BITS != WHOLE:  # of several parts, or none
        try:
            whole, end = read_record(reader.source, offset)
        except ValueError as error:
            raise damaged(reader.path, ordinal, offset, error) from None
        payload, size = bytes(whole[:HEAD_BYTES]), len(whole)
    if size < IMAGE_HEADER.size:
        words = f"{counted(size, 'byte')} {agreeing(size, 'is', 'are')} too few for an image header"
        raise no_image_record(reader.path, ordinal, ValueError(words))
    if len(payload) < IMAGE_HEADER.size:
        raise damaged(reader.path, ordinal, offset, ValueError("the file ends inside it"))
    flag, label, heads.ids[ordinal], id2 = IMAGE_HEADER.unpack_from(payload)
    first_labels = np.frombuffer(payload, "<f4", min(flag, (len(payload) - IMAGE_HEADER.size) // 4), IMAGE_HEADER.size)
    if size < IMAGE_HEADER.size + 4 * flag or (flag and not len(first_labels)):
        raise no_image_record(reader.path, ordinal, ValueError(f"{size} bytes are too few for {flag} labels"))
    heads.stored_labels[ordinal] = stored = float(first_labels[0]) if flag else label
    heads.labels[ordinal] = first_label(stored, id2)
    heads.lengths[ordinal], heads.counts[ordinal] = end - offset, max(flag, 1)


def _check_whole(reader: RecordReader, heads: _Heads) -> None:
    """Raise ResnetError where an index names a record twice, or bytes of the file are in no record that it names."""
    if not len(reader):
        return
    path, size, order = reader.path, reader.file_bytes, reader.offsets.argsort(kind="stable")
    starts = reader.offsets[order]
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
