"""Lists of images (`.lst`: index, label or labels, path) and of class names (synset.txt: one name per line)."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from resnet_v2.data.remote import local_copy
from resnet_v2.errors import ResnetError
from resnet_v2.files import open_regular, read_bytes, replacing, write_text

MOST_IMAGES = 1 << 63  # an index of MXNet's
LONGEST_LINE = 1 << 20  # in characters; a path has at most 4,096
LARGEST_LABEL = float(np.finfo(np.float32).max)
MOST_NAMES_BYTES = 1 << 25  # of a synset.txt
MOST_NAMES = 10**6  # as many as a network has classes


@dataclass(frozen=True, slots=True)
class ListEntry:
    """One line of a list: an image's index, its labels (nearly always one) and its path below the root."""

    index: int
    labels: tuple[float, ...]
    path: str


def read_list(path: Path) -> Iterator[ListEntry]:
    """The entries of a `.lst`, one by one; a ResnetError names the line that is wrong.

    Fields are separated by tabs; a line without tabs is split at white space, as MXNet's C++ im2rec did.
    """
    try:
        with os.fdopen(open_regular(local_copy(path)), encoding="utf-8", errors="surrogateescape") as file:
            for number, line in enumerate(iter(partial(file.readline, LONGEST_LINE), ""), start=1):
                if len(line) == LONGEST_LINE and not line.endswith("\n"):
                    raise ResnetError(f"{path}, line {number} is longer than any line of a list; is it a list?")
                if line.strip():
                    yield _parse_line(path, number, line.strip("\r\n"))
    except OSError as error:
        raise ResnetError(f"{path} cannot be read ({error.strerror}); make it with `resnet-v2 list`.") from None


def _parse_line(path: Path, number: int, line: str) -> ListEntry:
    fields = line.split("\t") if "\t" in line else line.split(None, 2)
    try:
        index, *labels, name = fields
        entry = ListEntry(int(index), tuple(float(label) for label in labels), name.strip())
        fit = 0 <= entry.index < MOST_IMAGES and all(abs(label) <= LARGEST_LABEL for label in entry.labels)
        if not labels or not fit:
            raise ValueError
        return entry
    except ValueError:
        raise ResnetError(
            f"{path}, line {number}: {line[:80]!r} is not index, label and path separated by tabs, with numbers that a "
            "record can hold; mend or remove it."
        ) from None


def as_line(name: str) -> str:
    """A name, when it reads back from a list as it is; a ResnetError for one with line breaks, tabs, blanks around."""
    # What Python and other readers take for the end of a line: also VT, FF, NEL, U+2028.
    if len(name.splitlines()) != 1 or "\t" in name or name != name.strip():
        raise ResnetError(
            f"The name {name!a} does not fit into a line of a list: it has a line break, a tab or blanks at an end; "
            "rename it."
        )
    return name


def write_list(path: Path, entries: Iterable[ListEntry]) -> None:
    """Write a `.lst` with tabs, labels as MXNet's im2rec.py prints them (6 decimals).

    Raises ResnetError for a path that would not read back.
    """
    with (
        replacing(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="\n") as file,
    ):
        for entry in entries:
            labels = "\t".join(f"{label:.6f}" for label in entry.labels)
            file.write(f"{entry.index}\t{labels}\t{as_line(entry.path)}\n")


def read_synset(path: Path) -> tuple[str, ...]:
    """The class names of a synset.txt, in label order; a ResnetError when it is missing or empty."""
    try:
        # Not splitlines(): it takes more for an end of line than what writes such files does.
        text = read_bytes(local_copy(path), MOST_NAMES_BYTES).decode("utf-8", "replace")
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    except OSError as error:
        raise ResnetError(f"{path} cannot be read ({error.strerror}); it holds one class name per line.") from None
    if (count := text.count("\n")) > 2 * MOST_NAMES:  # blank ones among them
        raise ResnetError(f"{path} has {count} lines, more than a network can have classes; give another file.")
    names = tuple(line.strip() for line in text.split("\n") if line.strip())
    if not names:
        raise ResnetError(f"{path} is empty; it must hold one class name per line, in label order.")
    return names


def as_class_name(name: str) -> str:
    """A name, when synset.txt can hold it; a ResnetError for one that would not read back or is no UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ResnetError(f"The class name {name!a} is no UTF-8; rename its folder.") from None
    return as_line(name)


def write_synset(path: Path, names: Iterable[str]) -> None:
    """Write one class name per line. Raises ResnetError for a name that would not read back."""
    write_text(path, "".join(f"{as_class_name(name)}\n" for name in names))


def is_sorted_by_class(labels: np.ndarray[tuple[int], np.dtype[np.generic]]) -> bool:
    """Whether images come class after class, which ruins training wherever they are read in order."""
    changes = int(np.count_nonzero(labels[1:] != labels[:-1]))
    classes = len(np.unique(labels))
    return classes > 1 and len(labels) > 2 * classes and changes < 2 * classes
