"""Pictures that have one class each: those of records, and those of class folders."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from resnet_v2.data.claims import check_claim
from resnet_v2.data.jpeg import Image, decode
from resnet_v2.data.lists import MOST_NAMES, ListEntry, read_list, read_synset
from resnet_v2.data.loader import MAX_PIXELS
from resnet_v2.data.record_names import names_records
from resnet_v2.data.record_set import RecordSet, not_empty, open_records
from resnet_v2.data.records import RecordReader, class_label
from resnet_v2.errors import ResnetError
from resnet_v2.files import read_bytes
from resnet_v2.packing.class_folders import find_classes
from resnet_v2.packing.photos import read_upright
from resnet_v2.training.ownership import fingerprint, is_another


class At(NamedTuple):
    """Where a picture is: a file and the number of its record there, or an image file (`record` is None)."""

    file: Path
    record: int | None
    image: str = ""
    """of a record the path in the list that it was packed from, where that is known"""

    @property
    def short(self) -> str:
        """What to call it beside the picture: without the folder of the file."""
        return self.image or str(At(Path(self.file.name), self.record))

    def __str__(self) -> str:
        """As `predict` names it."""
        return str(self.file) if self.record is None else f"{self.file}#{self.record}"


class Labelled(Protocol):
    """Pictures with a class each. `class_names` are those that stand beside them, none: they are not known."""

    name: str
    class_names: tuple[str, ...]
    remarks: list[str]

    def __len__(self) -> int: ...

    def at(self, number: int) -> At:
        """Where a picture is."""

    def was_trained_on(self, data: Mapping[str, str]) -> bool:
        """Whether these are the pictures of a run's first record, that of its training; `data` as its header has it."""

    def read(self, number: int) -> tuple[int, Image]:
        """The class and the pixels (H x W x 3, uint8, RGB) of a picture; ResnetError when it cannot be read."""


class OfRecords:
    """The images of a set of records, as they are stored."""

    def __init__(self, records: RecordSet) -> None:
        self._records, self.remarks, self.name = records, records.remarks, records.name
        synset = records.readers[0].path.with_name("synset.txt")
        self.class_names = read_synset(synset) if synset.is_file() else ()
        self._lists: dict[Path, list[ListEntry]] = {}
        self._refuse_several_labels()

    def __len__(self) -> int:
        return len(self._records)

    def at(self, number: int) -> At:
        reader, record = self._records.place(number)
        return At(reader.path, record, self._image(reader, record))

    def _image(self, reader: RecordReader, record: int) -> str:
        """The path of a record in the list beside it, NAME.lst of NAME.rec, where its line has the record's number."""
        if reader.path not in self._lists:
            lst = reader.path.with_suffix(".lst")
            try:
                self._lists[reader.path] = list(read_list(lst)) if lst.is_file() else []
            except ResnetError:
                self._lists[reader.path] = []  # it is no list, and nothing here needs one
        lines = self._lists[reader.path]
        if len(lines) != len(reader):
            return ""
        try:
            header, _ = reader.image(record)
        except ResnetError:
            return ""
        line = lines[record]
        return line.path if line.index == header.id and line.labels == tuple(np.ravel(header.label)) else ""

    def read(self, number: int) -> tuple[int, Image]:
        header, data = self._records.image(number)
        at = self.at(number)
        assert at.record is not None
        label = class_label(at.file, at.record, header, len(self.class_names) or MOST_NAMES)
        try:
            check_claim(data, MAX_PIXELS)  # before memory is taken
            return label, decode(data)
        except ValueError as error:
            raise ResnetError(f"{at} is no readable image: {error}; pack the record again.") from None

    def was_trained_on(self, data: Mapping[str, str]) -> bool:
        """See `Labelled.was_trained_on`."""
        (mine,) = fingerprint([self._records]).values()
        return bool(data) and not is_another(next(iter(data.values())), mine)

    def _refuse_several_labels(self) -> None:
        try:
            header, _ = self._records.image(0)
        except ResnetError:
            return  # it will be counted as unreadable
        if (labels := np.size(header.label)) != 1:
            raise ResnetError(
                f"{self.at(0)} has {labels} labels, and `resnet-v2 inspect` looks at pictures of one class each; pack "
                "one label for each image."
            )


class OfFolders:
    """The images of class folders, upright; the classes are the folders in sorted order, as `list` labels them."""

    def __init__(self, root: Path) -> None:
        found = find_classes(root)
        self._root, self._path, self.name = root, found.path, root.name or str(root)
        self.remarks: list[str] = []
        self.class_names = tuple(found.images_of)
        self._images = np.concatenate(list(found.images_of.values()))
        counts = [len(images) for images in found.images_of.values()]
        self._labels: NDArray[np.int64] = np.repeat(np.arange(len(counts)), counts)

    def __len__(self) -> int:
        return len(self._images)

    def at(self, number: int) -> At:
        return At(self._root / self._path(int(self._images[number])), None)

    def was_trained_on(self, data: Mapping[str, str]) -> bool:
        """See `Labelled.was_trained_on`; a run trains on records."""
        return False

    def read(self, number: int) -> tuple[int, Image]:
        file = self.at(number).file
        try:
            return int(self._labels[number]), read_upright(read_bytes(file), 0)
        except OSError as error:
            raise ResnetError(f"{file} cannot be read ({error.strerror}); check the path.") from None
        except ValueError as error:
            raise ResnetError(f"{file} is no readable image: {error}; replace or remove it.") from None


def open_labelled(place: Path) -> Labelled:
    """The pictures of a record, of several, or of a folder; ResnetError where there are none, or of several labels."""
    if not names_records(str(place)) and place.is_dir():
        return OfFolders(place)
    records = open_records(place)
    not_empty(records)
    return OfRecords(records)
