"""Lists of images (`.lst`: index, label or labels, path) and of class names (synset.txt: one name per line)."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from resnet_v2.console import counted
from resnet_v2.data.remote import local_copy
from resnet_v2.errors import ResnetError
from resnet_v2.files import open_regular, read_bytes, replacing, write_text

MOST_IMAGES = 1 << 63  # an index of MXNet's
LONGEST_LINE = 1 << 20  # in characters; a path has at most 4,096
LARGEST_LABEL = float(np.finfo(np.float32).max)
MOST_NAMES_BYTES = 1 << 25  # of a synset.txt
MOST_NAMES = 10**6  # as many as a network has classes
MARK = "\ufeff"  # the byte-order mark, which Windows puts before a text
UTF16_MARKS = ("\udcff\udcfe", "\udcfe\udcff")  # as bytes that are no UTF-8 are read


@dataclass(frozen=True, slots=True)
class ListEntry:
    """One line of a list: an image's index, its labels (nearly always one) and its path below the root."""

    index: int
    labels: tuple[float, ...]
    path: str


def read_list(path: Path) -> Iterator[ListEntry]:
    """The entries of a `.lst`, one by one; a ResnetError names the line that is none."""
    for entry in read_lines(path):
        if isinstance(entry, ResnetError):
            raise entry
        yield entry


def read_lines(
    path: Path, label_width: int | None = None, parts: int = 1, part: int = 0
) -> Iterator[ListEntry | ResnetError]:
    """What the lines of a `.lst` say, one by one; for a line that says nothing, the sentence about it.

    Fields are separated by tabs, as MXNet's im2rec.py reads them, or else by white space, as its C++ im2rec does:
    index, `label_width` labels (None: as many as there are, behind white space 1) and the rest is the path. Blanks
    around fields, byte-order marks and empty lines mean nothing. Of `parts` parts of the list only `part` is read, cut
    by bytes where the C++ im2rec cuts (dmlc's InputSplit). Raises ResnetError for a file that is no list at all.
    """
    try:
        copy = local_copy(path)
        step = -(-copy.stat().st_size // parts)
        # Line ends as they are: their bytes count.
        with os.fdopen(open_regular(copy), encoding="utf-8", errors="surrogateescape", newline="") as file:
            end = 0
            for number, line in enumerate(iter(partial(file.readline, LONGEST_LINE), ""), start=1):
                if number == 1 and line.startswith(UTF16_MARKS):
                    raise ResnetError(f"{path} is a text in UTF-16; save it as UTF-8.")
                if len(line) == LONGEST_LINE and not line.endswith(("\n", "\r")):
                    raise ResnetError(f"{path}, line {number} is longer than any line of a list; is it a list?")
                begin = end
                if parts > 1:
                    end += len(line.encode("utf-8", "surrogateescape"))
                    if max(0, begin - 1) // step != part:
                        continue
                if line := line.strip().lstrip(MARK).lstrip():
                    said = _parse_line(line, label_width)
                    yield said if isinstance(said, ListEntry) else ResnetError(f"{path}, line {number}{said}")
    except OSError as error:
        raise ResnetError(f"{path} cannot be read ({error.strerror}); make it with `resnet-v2 list`.") from None


def _parse_line(line: str, label_width: int | None) -> ListEntry | str:
    """What a line says, or what is to be said of it."""
    fields = [field.strip() for field in line.split("\t")]
    entry = _entry(fields)
    if entry is not None and label_width not in (None, len(entry.labels)):
        return f" has {counted(len(entry.labels), 'label')}, and `label_width` is {label_width}; mend one of them."
    if entry is None and (len(fields) < 3 or label_width is not None):
        entry = _entry(line.split(None, 1 + (label_width or 1)))
    return entry or (
        f": {line[:80]!r} is not index, label and path separated by tabs, with numbers that a record can hold; "
        "mend or remove it."
    )


def _entry(fields: Sequence[str]) -> ListEntry | None:
    """The entry of a line's fields: an index, one or more labels, a path; None where they are something else."""
    if len(fields) < 3 or not fields[-1]:
        return None
    try:
        entry = ListEntry(int(fields[0]), tuple(map(float, fields[1:-1])), fields[-1])
    except ValueError:
        return None
    # A comparison with nan is false.
    fits = 0 <= entry.index < MOST_IMAGES and all(abs(label) <= LARGEST_LABEL for label in entry.labels)
    return entry if fits else None


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
    """The class names of a synset.txt, in label order; a ResnetError when it is missing, empty or no text."""
    try:
        # Not splitlines(): it takes more for an end of line than what writes such files does.
        text = read_bytes(local_copy(path), MOST_NAMES_BYTES).decode("utf-8", "replace")
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    except OSError as error:
        raise ResnetError(f"{path} cannot be read ({error.strerror}); it holds one class name per line.") from None
    if (count := text.count("\n")) > 2 * MOST_NAMES:  # blank ones among them
        raise ResnetError(f"{path} has {count} lines, more than a network can have classes; give another file.")
    if "\0" in text:
        raise ResnetError(f"{path} is no text; it must hold one class name per line, in label order.")
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
