"""What unpacked images are called: a folder for each class, a name from the list or the record's id, and an ending."""

import os
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from resnet_v2.console import say
from resnet_v2.data.index import side_path
from resnet_v2.data.lists import read_list
from resnet_v2.errors import ResnetError, printable
from resnet_v2.packing.archives import Names
from resnet_v2.packing.choosing import check_classes
from resnet_v2.packing.inputs import Inputs

# By the first bytes of an image file, the endings that its kind has, the usual one first.
ENDINGS: Mapping[bytes, tuple[str, ...]] = {
    b"\xff\xd8\xff": (".jpg", ".jpeg", ".jpe", ".jfif"),
    b"\x89PNG\r\n\x1a\n": (".png",),
    b"BM": (".bmp",),
    b"GIF8": (".gif",),
    b"II*\0": (".tif", ".tiff"),
    b"MM\0*": (".tif", ".tiff"),
    b"\0\0\0\x0cjP  \r\n\x87\n": (".jp2",),
    b"P5": (".pgm",),
    b"P6": (".ppm",),
}
LONGEST_BYTES = 255  # of a part of a path
SHOWN = 60  # letters of a name that is refused
FORBIDDEN = set('\0\\:*?"<>|' if os.name == "nt" else "\0\\")  # in a part of a path


def ending_of(image: memoryview) -> tuple[str, ...]:
    """The endings of the kind of image that these bytes are; none where it is unknown."""
    head = bytes(image[:16])
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return (".webp",)
    if head[4:12] in (b"ftypavif", b"ftypavis"):
        return (".avif",)
    return next((endings for start, endings in ENDINGS.items() if head.startswith(start)), ())


def folder_names(records: Inputs, numbers: NDArray[np.int64], names: Sequence[str]) -> Mapping[float, str]:
    """The folder of every class: its name, which may have slashes, else its number, as wide as the largest.

    Names that stand for several classes get the number behind them. Raises ResnetError for labels that are no classes,
    and for a name that leads out of the folder.
    """
    check_classes(records, numbers)
    classes = np.unique(records.labels[numbers]).astype(np.int64).tolist()
    width = len(str(max(classes[-1], len(names) - 1)))
    counts = Counter(name.casefold() for name in names)
    folders = {}
    for number in classes:
        name = f"{number:0{width}d}"
        if number < len(names):
            name = names[number] if counts[names[number].casefold()] == 1 else f"{names[number]}_{name}"
        folders[float(number)] = _safe(name)
    if names and classes[-1] >= len(names):
        say(f"class {classes[-1]} is none of the {len(names)} that synset.txt names; its folder is its number")
    return folders


def _safe(name: str) -> str:
    is_line = len(name.splitlines()) == 1 and "\t" not in name  # of the list
    if not is_line or not all(map(_may_be_folder, name.split("/"))):
        raise ResnetError(
            f"The class name {printable(name)[:SHOWN]!r} of synset.txt can be no folder; rename the class there."
        )
    return name


def _may_be_folder(part: str) -> bool:
    return part not in ("", ".", "..") and not FORBIDDEN & set(part) and len(part.encode()) <= LONGEST_BYTES


class FileNames:
    """The paths of unpacked images: where a list lies beside the record the names that stand there, else their ids.

    Of two images of one class and name the second gets its number behind the name.
    """

    def __init__(self, records: Inputs, numbers: NDArray[np.int64], folders: Mapping[float, str]) -> None:
        self._records, self._folders = records, folders
        self._listed = [_Listed.of(records, file) for file in range(len(records.paths))]
        hashes = np.fromiter(map(self._hash, numbers.tolist()), np.int64, len(numbers))
        self._hashes, counts = np.unique(hashes, return_counts=True)
        self._several, self._used = set(self._hashes[counts > 1].tolist()), set[str]()

    def path(self, number: int, endings: Sequence[str]) -> str:
        """`cat/1.jpg`; the ending is one of the image's kind."""
        start, ending = self._parts(number)
        ending = ending if ending.lower() in endings else endings[0]
        if hash(start.casefold()) not in self._several:
            return start + ending
        taken = (start + ending).casefold() in self._used
        while taken:
            start = f"{start}_{number}"
            taken = (start + ending).casefold() in self._used or hash(start.casefold()) in self._hashes
        self._used.add((start + ending).casefold())
        return start + ending

    def _parts(self, number: int) -> tuple[str, str]:
        """Folder and name of an image, without its ending, and the ending."""
        listed = self._listed[self._records.place(number)[0]]
        identity = int(self._records.ids[number])
        name = PurePosixPath(str(identity) if listed is None else listed.name(identity))
        return f"{self._folders[float(self._records.labels[number])]}/{name.stem}", name.suffix

    def _hash(self, number: int) -> int:
        return hash(self._parts(number)[0].casefold())


class _Listed:
    """File names by the indices of a list; without an object for each of them."""

    def __init__(self, path: Path) -> None:
        self._names, self.labels, indices = Names(), array("f"), array("q")
        for entry in read_list(path):
            name = PurePosixPath(entry.path).name
            self._names.append(name if name not in ("", "..") and not FORBIDDEN & set(name) else str(entry.index))
            indices.append(entry.index)
            self.labels.append(entry.labels[0])
        self._order = np.argsort(np.asarray(indices), kind="stable")
        self._indices = np.asarray(indices)[self._order]

    @classmethod
    def of(cls, records: Inputs, file: int) -> "_Listed | None":
        """The list beside a record, if there is one and it names every image under its label."""
        path = side_path(records.paths[file], ".lst")
        if not path.is_file():
            return None
        listed, images = cls(path), np.flatnonzero(records.files == file)
        ids = records.ids[images].astype(np.int64)
        places = np.minimum(np.searchsorted(listed._indices, ids), len(listed._indices) - 1)
        if len(listed._indices) and (listed._indices[places] == ids).all():
            labels = np.asarray(listed.labels)[listed._order[places]]
            if np.allclose(labels, records.labels[images], rtol=1e-6, atol=1e-6):
                return listed
        say(f"{path} does not name the images of {records.paths[file].name}; their files are named by their ids")
        return None

    def name(self, index: int) -> str:
        """The file name in the line of an index."""
        return self._names[int(self._order[np.searchsorted(self._indices, index)])]
