"""Image files where they lie: in a folder, in a tar, or in a tar of tars (as ImageNet comes), without unpacking.

A tar is gone through once, header by header; from then on an image is one positional read, from any thread. What is
kept of millions of members is flat arrays, about 50 bytes per member, and 30 where only their names are wanted.
"""

import os
import re
import tarfile
from array import array
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import IO, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from resnet_v2.console import Progress, agreeing, counted, say
from resnet_v2.errors import ResnetError, printable
from resnet_v2.files import OF_THE_MACHINE, open_regular, read_bytes
from resnet_v2.packing.image_names import is_image
from resnet_v2.portable import read_at

# What no path in an archive has, and what tarfile of earlier Pythons takes hours for.
LONG_NUMBER = re.compile(rb"\d{256}")
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


MOST_HEADER_BYTES = 1 << 20  # of one member, with its long name, its attributes and its map of holes


class Members:
    """The members of a tar, as tarfile reads them through this: of each no more than `MOST_HEADER_BYTES`.

    `end` is where the last one ends, once all are read. ValueError for a longer header, or one with a number of more
    digits than a path has letters; else as tarfile. Who reads a member's contents may seek in `file` meanwhile.
    """

    def __init__(self, file: IO[bytes] | "_Window") -> None:
        self._file, self.seek, self.tell = file, file.seek, file.tell
        self._left, self.end = MOST_HEADER_BYTES, 0

    def __iter__(self) -> Iterator[tarfile.TarInfo]:
        with tarfile.open(fileobj=cast(IO[bytes], self), mode="r:") as archive:
            while (member := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # tarfile would keep an object per member
                self._left = MOST_HEADER_BYTES
                yield member
            self.end = archive.offset

    def read(self, count: int) -> bytes:
        """What tarfile asks for: parts of headers alone."""
        if not 0 <= count <= self._left:
            raise ValueError(f"a header of more than {MOST_HEADER_BYTES} bytes")
        self._left -= count
        data = self._file.read(count)
        if LONG_NUMBER.search(data):
            raise ValueError("a number of more than 255 digits")
        return data


class ImageFiles(Protocol):
    """Where the images of a list are read from; `read` is safe to call from many threads."""

    def read(self, path: str) -> bytes:
        """The bytes of the file that a list calls `path`; a ResnetError names a file that cannot be read."""

    def place(self, path: str) -> str:
        """The file as a message names it."""


def open_images(root: Path) -> ImageFiles:
    """The files below a folder or inside a tar; a ResnetError when the tar is compressed, damaged or cut short."""
    return Tar(root) if root.is_file() else Folder(root)


class Folder:
    """The files below a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def read(self, path: str) -> bytes:
        """The bytes of a file below the folder, by itself or by a link that its owner made."""
        if not self._is_inside(path, self._file(path)):
            raise ResnetError(f"{self.place(path)} is not below {self.root}; mend the list, or give a folder above it.")
        try:
            return read_bytes(self._file(path))
        except OSError as error:
            if error.errno in OF_THE_MACHINE:  # an image that may be sound is not left out for it
                raise
            raise ResnetError(f"{self.place(path)} cannot be read ({error.strerror}); check the path.") from None

    def _file(self, path: str) -> Path:
        """The file of a path: below the folder also with a slash before it, as C++ lists have, or from `/` on."""
        whole = self.root / path
        below = path.lstrip("/")
        return self.root / below if below != path and not self._is_inside(path, whole) else whole

    def _is_inside(self, path: str, file: Path) -> bool:
        if not path.startswith("/") and ".." not in path and not Path(path).is_absolute():
            return True  # nearly every path; what follows takes longer than reading the file
        inside, wanted = (Path(os.path.normpath(Path.cwd() / one)) for one in (self.root, file))
        return wanted.is_relative_to(inside)

    def place(self, path: str) -> str:
        """`images/cat/1.jpg`."""
        return str(self._file(path))


class Names:
    """A long sequence of short texts in two flat buffers: the bytes of each and 4 more, 8 from 4 GiB on."""

    def __init__(self) -> None:
        self._text, self._ends = bytearray(), array("I", [0])

    def append(self, name: str) -> None:
        """Add one text at the end."""
        self._text += os.fsencode(name)
        try:
            self._ends.append(len(self._text))
        except OverflowError:
            self._ends = array("Q", self._ends)
            self._ends.append(len(self._text))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> str:
        return os.fsdecode(bytes(self._text[self._ends[index] : self._ends[index + 1]]))


class Tar:
    """The files of a tar, or of the tars inside a tar, by the paths that lists use.

    A file of a tar is called by its path there; a file of an inner tar by the inner tar's path without `.tar`, a slash,
    and its path inside: `n01440764/n01440764_10026.JPEG` in ILSVRC2012_img_train.tar. Folders (or inner tars) stand
    once in `folders`; member i is `names[i]` in the folder of number `folder_of[i]`. Without `readable` only the names
    are kept, and nothing can be read.
    """

    def __init__(self, path: Path, readable: bool = True) -> None:
        self.path, self._readable = path, readable
        self.folders: list[str] = []
        self.folder_of, self.names = array("I"), Names()
        self._offsets, self._sizes = array("Q"), array("Q")
        self._folder_numbers: dict[str, int] = {}
        self._descriptor = open_regular(path)
        self._index()

    def _index(self) -> None:
        size, left_out = os.fstat(self._descriptor).st_size, list[str]()
        done = 0
        with Progress(self.path.name, size, "B") as progress:
            for name, offset, length in _members(_Window(self._descriptor, 0, size), str(self.path), left_out):
                if name.endswith((".tar", ".tar.gz", ".tgz")):
                    inner = _Window(self._descriptor, offset, length)
                    for inner_name, inner_offset, inner_length in _members(inner, f"{self.path}: {name}", left_out):
                        self._add(name.rpartition(".tar")[0], inner_name, offset + inner_offset, inner_length)
                else:
                    folder, _, base = name.rpartition("/")
                    self._add(folder, base, offset, length)
                progress.update(offset + length - done)
                done = offset + length
        if left_out:
            say(
                f"warning: {self.path} holds {counted(len(left_out), 'image')} "
                f"{agreeing(len(left_out), 'that is a link or a sparse file', 'that are links or sparse files')} and "
                f"left out, such as {printable(left_out[0])}; unpack the archive to have what is left out."
            )

    def _add(self, folder: str, name: str, offset: int, size: int) -> None:
        number = self._folder_numbers.setdefault(folder, len(self.folders))
        if number == len(self.folders):
            self.folders.append(folder)
        self.folder_of.append(number)
        self.names.append(name)
        if self._readable:
            self._offsets.append(offset)
            self._sizes.append(size)

    def __len__(self) -> int:
        return len(self.names)

    def member(self, index: int) -> str:
        """The path of a member by its place in the tar."""
        folder = self.folders[self.folder_of[index]]
        return f"{folder}/{self.names[index]}" if folder else self.names[index]

    def read(self, path: str) -> bytes:
        """The bytes of a member."""
        index = self._find(path.lstrip("/").removeprefix("./"))
        if index is None:
            raise ResnetError(
                f"{self.path} holds no {path}; make the list from this tar: `resnet-v2 list {self.path} PREFIX`."
            )
        data = read_at(self._descriptor, self._sizes[index], self._offsets[index])
        if len(data) < self._sizes[index]:
            raise ResnetError(f"{self.place(path)} cannot be read: the tar became shorter; copy it again.")
        return data

    def _find(self, path: str) -> int | None:
        # As tar itself does, the last of two members of one path wins.
        hashes, members = self._by_hash
        low, high = np.searchsorted(hashes, hash(path), "left"), np.searchsorted(hashes, hash(path), "right")
        same = (int(index) for index in members[low:high][::-1])
        return next((index for index in same if self.member(index) == path), None)

    @cached_property
    def _by_hash(self) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
        # Sorted 64-bit hashes and the members they belong to; a dict of 12.4 million paths would take 2 GB.
        hashes = np.fromiter((hash(self.member(index)) for index in range(len(self))), np.int64, len(self))
        order = hashes.argsort(kind="stable").astype(np.uint32)
        return hashes[order], order

    def place(self, path: str) -> str:
        """`train.tar: n01440764/n01440764_10026.JPEG`."""
        return f"{self.path}: {path}"

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)


class _Window:
    """A stretch of a file as a file of its own, as far as tarfile needs one."""

    def __init__(self, descriptor: int, start: int, size: int) -> None:
        self._descriptor, self._start, self.size, self._position = descriptor, start, size, 0

    def at(self, position: int, count: int) -> bytes:
        if not 0 <= position < self.size:
            return b""
        return read_at(self._descriptor, min(count, self.size - position), self._start + position)

    def read(self, count: int) -> bytes:
        data = self.at(self._position, count)
        self._position += len(data)
        return data

    def seek(self, position: int) -> None:
        self._position = position

    def tell(self) -> int:
        return self._position


def _members(window: _Window, place: str, left_out: list[str]) -> Iterator[tuple[str, int, int]]:
    """Name, offset and size in bytes of every plain file of a tar that lies in a window, in the tar's order.

    Names of images that are none join `left_out`.
    """
    _refuse_compressed(window.at(0, 6), place)
    try:
        for member in (members := Members(window)):
            if member.size < 0 or member.offset_data + member.size > window.size:
                raise EOFError(f"it says {counted(member.size, 'byte')} of {member.name!a}, which it does not hold")
            if member.isreg() and not member.issparse():
                yield member.name.removeprefix("./"), member.offset_data, member.size
            elif not member.isdir() and is_image(member.name.removeprefix("./")):
                left_out.append(member.name)
    except (tarfile.TarError, EOFError, ValueError, OverflowError, RecursionError) as error:
        raise ResnetError(f"{place} is damaged or no tar ({error}); copy or download it again.") from None
    # tarfile takes damage between two members, and a file cut there, for the end; a tar ends with a block of zeros.
    if window.at(members.end, tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise ResnetError(f"{place} is damaged or cut short at byte {members.end}; copy or download it again.")


def _refuse_compressed(start: bytes, place: str) -> None:
    for magic, name in COMPRESSED.items():
        if start.startswith(magic):
            raise ResnetError(
                f"{place} is compressed ({name}), so its images cannot be reached one by one; decompress it to a .tar "
                "first."
            )
