"""What Windows does in another way: reading at a position, keeping a file to one process.

A memory map would read at a position everywhere. But a file that becomes shorter under it ends the process (SIGBUS),
and a page that is still on the disk holds up all threads of Python.
"""

import contextlib
import errno
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

# Windows locks bytes, not files, and nobody else may read them then: one where what is locked here never reaches.
_LOCKED_BYTE = 1 << 30

_turn = threading.Lock()


def seek_and_read(descriptor: int, count: int, offset: int) -> bytes:
    """What `os.pread` does, where threads take turns; forked processes, which Windows has not, could not share it."""
    with _turn:
        os.lseek(descriptor, offset, os.SEEK_SET)
        return os.read(descriptor, count)


_read_once: Callable[[int, int, int], bytes] = getattr(os, "pread", seek_and_read)


def read_at(descriptor: int, count: int, offset: int) -> bytes:
    """`count` bytes of a file from `offset` on, safe for threads; fewer only where the file ends.

    It may have become shorter after it was opened. An OSError names the file where the system tells its name.
    """
    try:
        data = _read_once(descriptor, count, offset)
        while len(data) < count and (more := _read_once(descriptor, count - len(data), offset + len(data))):
            data += more  # a system may give less than it has
        return data
    except OSError as error:
        _name(error, descriptor)
        raise


def read_into(descriptor: int, room: memoryview, offset: int) -> int:
    """Fill memory from a file's byte `offset` on; returns how many bytes there were, fewer only where the file ends."""
    if not hasattr(os, "preadv"):
        data = read_at(descriptor, len(room), offset)
        room[: len(data)] = data
        return len(data)
    try:
        there: int = os.preadv(descriptor, [room], offset)
        while there < len(room) and (more := os.preadv(descriptor, [room[there:]], offset + there)):
            there += more
        return there
    except OSError as error:
        _name(error, descriptor)
        raise


def _name(error: OSError, descriptor: int) -> None:
    with contextlib.suppress(OSError):
        error.filename = str(Path(f"/proc/self/fd/{descriptor}").readlink())


def unnamed_file(size: int) -> int:
    """The descriptor of memory that other processes can map, with no name that could stay behind.

    On Linux it is no file, and the size of /dev/shm is no limit; elsewhere a temporary file that is already removed.
    """
    if hasattr(os, "memfd_create"):
        descriptor: int = os.memfd_create("resnet-v2")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    try:
        os.truncate(descriptor, size)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


@contextlib.contextmanager
def kept(path: Path) -> Iterator[BinaryIO | None]:
    """A file, made if need be, that is this process's own while the block is open; None when another one has it.

    Who dies lets go of it. Whoever has it may remove it.
    """
    with contextlib.ExitStack() as opened:
        while True:
            file = path.open("a+b")
            opened.callback(_close, file)
            if not _lock(file):
                yield None
                return
            # Whoever had it before may have removed it between its opening and its locking here.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    break
        yield file


def _close(file: BinaryIO) -> None:
    # What has to be on the disk was flushed before, or that was told: a disk that fails now hides no other error.
    with contextlib.suppress(OSError):
        file.close()


@contextlib.contextmanager
def being_written(path: Path) -> Iterator[None]:
    """Make a file that `remove_abandoned` of other processes leaves alone as long as the block is open.

    Not on Windows, which renames no open file.
    """
    with contextlib.ExitStack() as opened:
        if sys.platform != "win32":
            # Where there are no locks, nothing is taken for abandoned either.
            with contextlib.suppress(ImportError):
                import fcntl  # noqa: F401 (where it is missing, an open file may not be renamed)

                opened.enter_context(kept(path))
        yield


def remove_abandoned(path: Path) -> None:
    """Remove a file whose writer has died; nothing happens where the system cannot tell."""
    if sys.platform == "win32":
        return
    with contextlib.suppress(OSError, ImportError):
        import fcntl

        with os.fdopen(os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK), "rb+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)


def _lock(file: BinaryIO) -> bool:
    """Keep an open file to this process until it is closed; False when another one has it.

    Where the system or the file system cannot lock, two runs at once are the user's to avoid: True.
    """
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(_LOCKED_BYTE)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            file.seek(0, os.SEEK_END)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except ImportError:
        pass
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP):
            raise
    return True
