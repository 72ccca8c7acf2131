"""Records on object storage: blocks of them are kept on the disk, and fetched before they are needed.

All processes of a machine share the blocks. A block is a file that appears when it is whole, in a folder that is named
after the object's address and version: what a changed object holds never mixes with what it held. Which are used
longest ago go first where the folder outgrows its size.

RESNET_V2_CACHE is the folder, RESNET_V2_CACHE_SIZE how much it may hold, such as 200GB.
"""

import contextlib
import functools
import hashlib
import os
import shutil
import threading
import time
import uuid
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_v2.console import say
from resnet_v2.errors import SettingError
from resnet_v2.files import not_written, replacing
from resnet_v2.machine import parse_bytes
from resnet_v2.portable import kept, read_at
from resnet_v2.storage import Address, Object, fetch, look

USUAL_BYTES = 100 << 30  # of the folder, or a quarter of its disk where that is less
# An object that the folder holds twice is fetched in large blocks, each once; of others a block is soon thrown away.
LARGE_BLOCK, SMALL_BLOCK = 1 << 20, 1 << 18
COPIED_AT_ONCE = 1 << 23
THREADS = 16  # that fetch ahead
LOOK_SECONDS = 0.005  # between two looks at a block that another process fetches
TOUCH_SECONDS = 60.0  # a block that is used is not marked as used more often
SWEEPS = 64  # the folder is looked through when so large a part of its size has been added


class _Cache:
    """The folder of the blocks, and how much it holds."""

    def __init__(self) -> None:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        self.folder = Path(os.environ.get("RESNET_V2_CACHE") or Path(home) / "resnet-v2")
        self.bytes = self._limit()
        self._added = self.bytes  # a first look, at what earlier runs have left
        self._turn = threading.Lock()
        self.writable = True

    def _limit(self) -> int:
        try:
            given = parse_bytes(os.environ.get("RESNET_V2_CACHE_SIZE", ""), "RESNET_V2_CACHE_SIZE")
        except SettingError as error:
            raise SettingError(str(error).replace("amount of memory", "size")) from None
        if given:
            return given
        there = next(folder for folder in (self.folder, *self.folder.absolute().parents) if folder.is_dir())
        return min(USUAL_BYTES, shutil.disk_usage(there).total // 4)

    def keep(self, path: Path, data: bytes) -> None:
        """Write a block; OSError where that cannot be."""
        temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.tmp")
        try:
            temporary.write_bytes(data)
            temporary.replace(path)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
        self.added(len(data))

    def added(self, count: int) -> None:
        """Count bytes, and throw away what is too much now and then."""
        with self._turn:
            self._added += count
            due = self._added > self.bytes // SWEEPS
            if due:
                self._added = 0
        if due:
            with kept(self.folder / "sweep.lock") as mine:
                if mine is not None:
                    self._sweep()

    def _sweep(self) -> None:
        found = []
        for path in self.folder.glob("[0-9a-f]" * 32 + "/*"):
            with contextlib.suppress(OSError):  # another process has removed it
                status = path.lstat()
                if path.is_file() and path.suffix != ".lock":
                    found.append((status.st_mtime, status.st_size, path))
        left = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if left <= self.bytes - self.bytes // SWEEPS:
                return
            with contextlib.suppress(OSError):
                path.unlink()
            left -= size

    def fails(self, error: OSError) -> None:
        """Nothing is kept from now on; say so once."""
        if self.writable:
            self.writable = False
            say(
                f"warning: {self.folder} takes no more of what is read from storage ({error.strerror or error}), which "
                "makes reading slower; free some space, or give another folder as RESNET_V2_CACHE"
            )


@functools.cache
def cache() -> _Cache:
    """This process's view of the folder."""
    return _Cache()


def _folder(address: Address, known: Object, block: int) -> Path:
    name = f"{address}\n{known.size}\n{known.version}\n{block}"
    return cache().folder / hashlib.sha256(name.encode()).hexdigest()[:32]


class RemoteFile:
    """An object that is read at places, through the blocks on the disk unless it is not `cached`.

    It holds nothing open: another process that gets it pickled reads the same version of the object. Threads may share
    it; a process that is forked may not. A ResnetError says what keeps it from being read, and that it was changed.
    """

    def __init__(self, address: Address, known: Object | None = None, cached: bool = True, block: int = 0) -> None:
        self.address, self.known, self._cached = address, known or look(address), cached
        self.size = self.known.size
        self._block = block or (LARGE_BLOCK if 2 * self.size <= cache().bytes else SMALL_BLOCK)
        self._folder = _folder(address, self.known, self._block)
        self._turn = threading.Lock()
        self._coming: deque[int] = deque()
        self._running = 0

    @property
    def most_ahead(self) -> int:
        """How many records may be fetched ahead so that none of their blocks goes before it is used."""
        return max(1, cache().bytes // (8 * self._block))

    def __reduce__(self) -> tuple[Any, ...]:
        """Its address and version, and how it is cut into blocks."""
        return RemoteFile, (self.address, self.known, self._cached, self._block)

    def read(self, count: int, offset: int) -> bytes:
        """`count` bytes from `offset` on, fewer only where the object ends."""
        end = min(offset + count, self.size)
        if not self._cached or end <= offset:
            return fetch(self.address, self.known, offset, end)
        first, last = offset // self._block, (end - 1) // self._block
        return b"".join(self._part(number, offset, end) for number in range(first, last + 1))

    def _part(self, number: int, start: int, end: int) -> bytes:
        """What of a block lies between two bytes of the object."""
        begin, stop = self._bounds(number)
        start, end = max(start, begin), min(end, stop)
        part = self._stored(number, start - begin, end - start)
        if part is None:
            block = self._fetch(number)
            part = fetch(self.address, self.known, start, end) if block is None else block[start - begin : end - begin]
        return part

    def _bounds(self, number: int) -> tuple[int, int]:
        return number * self._block, min((number + 1) * self._block, self.size)

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:08x}"

    def _stored(self, number: int, offset: int, count: int) -> bytes | None:
        """Bytes of a block on the disk; None where it is not there, or not whole."""
        begin, stop = self._bounds(number)
        try:
            descriptor = os.open(self._path(number), os.O_RDONLY | getattr(os, "O_BINARY", 0))
        except OSError:
            return None
        try:
            status = os.fstat(descriptor)
            if status.st_size != stop - begin:
                return None
            if time.time() - status.st_mtime > TOUCH_SECONDS:
                os.utime(self._path(number))
            return read_at(descriptor, count, offset)
        except OSError:
            return None
        finally:
            os.close(descriptor)

    def _fetch(self, number: int) -> bytes | None:
        """A block, fetched by one process for all; None where the folder takes no more."""
        path, whole = self._path(number), self._bounds(number)[1] - self._bounds(number)[0]
        data = None
        try:
            while data is None and cache().writable:
                self._folder.mkdir(0o700, parents=True, exist_ok=True)
                with kept(path.with_suffix(".lock")) as mine:
                    data = self._stored(number, 0, whole)
                    if data is None and mine is not None:
                        data = fetch(self.address, self.known, *self._bounds(number))
                        cache().keep(path, data)
                    if mine is not None:
                        with contextlib.suppress(OSError):  # Windows removes no open file
                            path.with_suffix(".lock").unlink()
                if data is None:
                    time.sleep(LOOK_SECONDS)
        except OSError as error:
            cache().fails(error)
        return data

    def prefetch(self, offsets: NDArray[np.int64], lengths: NDArray[np.int64]) -> None:
        """Fetch the blocks of some ranges (bytes), in their order, in threads that end when all are there."""
        if not self._cached:
            return
        firsts, lasts = offsets // self._block, (offsets + lengths - 1) // self._block
        numbers = [n for a, b in zip(firsts.tolist(), lasts.tolist(), strict=True) for n in range(a, b + 1)]
        with self._turn:
            self._coming += [number for number in dict.fromkeys(numbers) if not self._path(number).exists()]
            more = min(THREADS, len(self._coming)) - self._running
            self._running += max(0, more)
        for _ in range(more):
            threading.Thread(target=self._fetch_ahead, name="prefetch").start()

    def _fetch_ahead(self) -> None:
        while True:
            with self._turn:
                if not self._coming or not threading.main_thread().is_alive():
                    self._running -= 1
                    return
                number = self._coming.popleft()
            if not self._path(number).exists():
                with contextlib.suppress(Exception):  # whoever needs the block says what is wrong
                    self._fetch(number)

    def close(self) -> None:
        """Fetch nothing ahead any more."""
        self._coming.clear()


def local_copy(path: Path) -> Path:
    """A path, or for an `Address` that of a whole copy among the blocks; a ResnetError where that cannot be made."""
    if not isinstance(path, Address):
        return path
    known = look(path)
    copy = _folder(path, known, 0) / path.name
    try:
        if copy.is_file() and copy.stat().st_size == known.size:
            os.utime(copy)
            return copy
        with replacing(copy) as temporary, temporary.open("wb") as file:
            for start in range(0, known.size, COPIED_AT_ONCE):
                file.write(fetch(path, known, start, min(known.size, start + COPIED_AT_ONCE)))
        cache().added(known.size)
    except OSError as error:
        raise not_written(copy, error) from None
    return copy
