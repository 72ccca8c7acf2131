"""One or several `.rec` files as one set of images, in one order."""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from resnet_v2.console import agreeing, counted
from resnet_v2.data.boxes import refuse_boxes
from resnet_v2.data.faces import ranges, without_image
from resnet_v2.data.record_names import parts_of, record_paths
from resnet_v2.data.records import IRHeader, RecordReader
from resnet_v2.data.sidecar import Rows, sidecar_path
from resnet_v2.errors import ResnetError
from resnet_v2.storage import Address, as_path

MOST_REMARKS = 3
Numbers = NDArray[np.int64]


class RecordSet:
    """The images of some files, by ordinal: those of the first file, then those of the next one.

    Within a file they have the order of its index; records without an image are left out. `offsets` (n, int64) says at
    which byte of its file the record of an image begins. `remarks` are sentences for whoever uses the set.
    """

    def __init__(self, readers: Sequence[RecordReader], path: Path) -> None:
        self.readers, self.path = tuple(readers), path
        self.remarks = [remark for reader in readers for remark in reader.remarks]
        kept = [self._images(reader) for reader in readers]
        for reader, its in zip(readers, kept, strict=True):
            if not len(its) and len(readers) > 1:  # most likely a copy that was not finished
                raise ResnetError(f"{reader.path} holds no images; copy it again, or leave it out of {path}.")
        self._firsts = np.cumsum([0, *map(len, kept)])
        if len(readers) == 1 and len(kept[0]) == len(readers[0]):
            self._numbers: Numbers | None = None
            self.offsets = readers[0].offsets
        else:
            self._numbers = np.concatenate(kept)
            self.offsets = np.concatenate([one.offsets[its] for one, its in zip(readers, kept, strict=True)])
        if len(self.remarks) > MOST_REMARKS:
            left = counted(len(self.remarks) - MOST_REMARKS, "remark")
            more = f"the same holds for other files of {path}, {left} in all"
            self.remarks = [*self.remarks[:MOST_REMARKS], more]
        if len(readers) > 1:
            self.remarks.append(
                f"{path}: {counted(len(self), 'image')} of {len(readers)} files, {readers[0].path} the first"
            )

    def _images(self, reader: RecordReader) -> Numbers:
        """The numbers of a file's records that hold images; what there is to say of the others is a remark."""
        others, all_of_them = without_image(reader), np.arange(len(reader))
        if not len(others):
            return all_of_them
        images = np.delete(all_of_them, others)
        its, path = ranges(reader), reader.path
        if its is None:
            self.remarks.append(
                f"{len(others)} of the {counted(len(reader), 'record')} of {path} "
                f"{agreeing(len(others), 'holds no image and is', 'hold no image and are')} left out"
            )
            return images
        self.remarks.append(
            f"{path}: {counted(len(images), 'image')} of {counted(its.last - its.first, 'identity')}, which are the "
            f"classes; {counted(len(others), 'record')} without an image {agreeing(len(others), 'is', 'are')} left out"
        )
        if not its.tells_of(len(images)):
            self.remarks.append(
                f"warning: record 0 of {path} tells of {counted(its.first - 1, 'image')}, but {len(images)} "
                f"{agreeing(len(images), 'is', 'are')} there; is the "
                "file or its index cut short, or another's?"
            )
        return images

    @property
    def name(self) -> str:
        """What it is called wherever it lies."""
        several = len(self.readers) > 1 and "," in str(self.path)
        return ",".join(reader.name for reader in self.readers) if several else self.path.name

    @property
    def file_bytes(self) -> int:
        """Bytes of all files."""
        return sum(reader.file_bytes for reader in self.readers)

    def __len__(self) -> int:
        return len(self.offsets)

    def locate(self, ordinals: Numbers) -> tuple[Numbers, Numbers]:
        """The numbers of the files in which some images are, and those of their records there."""
        if self._numbers is None:
            return np.zeros(len(ordinals), np.int64), ordinals
        return np.searchsorted(self._firsts, ordinals, side="right") - 1, self._numbers[ordinals]

    def place(self, ordinal: int) -> tuple[RecordReader, int]:
        """The file of an image, and the number of its record there."""
        files, numbers = self.locate(np.array([ordinal]))
        return self.readers[int(files[0])], int(numbers[0])

    def __getitem__(self, ordinal: int) -> memoryview:
        """The payload of an image's record; a ResnetError names file and record when it is damaged."""
        reader, number = self.place(ordinal)
        return reader[number]

    def image(self, ordinal: int) -> tuple[IRHeader, memoryview]:
        """Header and bytes of an image."""
        reader, number = self.place(ordinal)
        return reader.image(number)

    def lengths(self, ordinals: Numbers) -> Numbers:
        """How many bytes to read at once of some records; see `RecordReader.lengths`."""
        files, numbers = self.locate(ordinals)
        lengths = np.empty(len(ordinals), np.int64)
        for file in np.unique(files).tolist():
            its = files == file
            lengths[its] = self.readers[file].lengths(numbers[its])
        return lengths

    def look_behind(self, ordinals: Numbers, ends: Numbers) -> None:
        """Say it where an index leaves records out; see `RecordReader.look_behind`."""
        files, numbers = self.locate(ordinals)
        for file in np.unique(files).tolist():
            its = files == file
            self.readers[file].look_behind(numbers[its], ends[its])

    def is_replaced(self) -> bool:
        """Whether another file has the name of one of them now."""
        return any(reader.is_replaced() for reader in self.readers)

    def close(self) -> None:
        """Close the files; reading afterwards is an error."""
        for reader in self.readers:
            reader.close()


Records = RecordReader | RecordSet


def open_records(path: str | Path) -> RecordSet:
    """The images of a record, of several, as `a.rec,b.rec` or a pattern, or of the parts that im2rec wrote of one.

    Raises ResnetError for a file that is missing, damaged or named twice, for one of several that holds no images, and
    for records of object detection.
    """
    paths = record_paths(str(path))
    readers = [RecordReader(one) for one in paths]
    for reader in readers:
        refuse_boxes(reader)
    records = RecordSet(readers, paths[0] if len(paths) == 1 else as_path(path))
    for one in paths:
        if not isinstance(one, Address) and (parts := parts_of(one)):
            records.remarks.append(f"warning: {one} is read, and not {parts[0]} and what else lies beside it")
    return records


class SetRows:
    """The `.rows` of a set's files, of those that have one: where the segments of an image are told."""

    def __init__(self, records: Records) -> None:
        self._rows = [Rows.of(one) if sidecar_path(one.path).is_file() else None for one in records.readers]

    @property
    def sources(self) -> list[int | None]:
        """The open file of each, None where there is none."""
        return [None if rows is None else rows.source for rows in self._rows]

    def __bool__(self) -> bool:
        return any(rows is not None for rows in self._rows)

    def places(self, files: Numbers, numbers: Numbers) -> tuple[Numbers, Numbers]:
        """For some records, by file and number, what `Rows.places` tells; nothing where a file has none."""
        if len(self._rows) == 1:
            only = cast(Rows, self._rows[0])
            return only.places(numbers)
        at, counts = np.zeros(len(files), np.int64), np.zeros(len(files), np.int64)
        for file in np.unique(files).tolist():
            rows, its = self._rows[file], files == file
            if rows is not None:
                at[its], counts[its] = rows.places(numbers[its])
        return at, counts


def all_sums(records: Records) -> NDArray[np.uint64]:
    """The fingerprint of every image's record, by ordinal; none where a `.rows` is missing, or has none."""
    sums = [Rows.of(reader).stored_sums() for reader in records.readers]
    if not all(map(len, sums)):
        return np.empty(0, np.uint64)
    files, numbers = records.locate(np.arange(len(records)))
    firsts = np.cumsum([0, *map(len, sums)])
    return np.concatenate(sums)[firsts[files] + numbers]


def not_empty(records: Records) -> Records:
    """The same; a ResnetError where there is no image."""
    if not len(records):
        raise ResnetError(f"{records.path} holds no images; pack it again.")
    return records
