"""What bytes at places are read from: a file of this machine, by its descriptor, or an object of a storage."""

import os
from pathlib import Path

from resnet_v2.data.remote import RemoteFile
from resnet_v2.errors import ResnetError
from resnet_v2.files import open_regular
from resnet_v2.portable import read_at, read_into
from resnet_v2.storage import Address, find

Source = int | RemoteFile


def open_source(path: Path, cached: bool = True) -> Source:
    """Open a file or an object; what is read of the latter stays on the disk when it is `cached`.

    OSError where a file cannot be opened, ResnetError where an object cannot.
    """
    return RemoteFile(path, cached=cached) if isinstance(path, Address) else open_regular(path)


def read(source: Source, count: int, offset: int) -> bytes:
    """`count` bytes from `offset` on; fewer only where the file ends."""
    return read_at(source, count, offset) if isinstance(source, int) else source.read(count, offset)


def fill(source: Source, room: memoryview, offset: int) -> int:
    """Fill memory from byte `offset` on; returns how many bytes there were, fewer only where the file ends."""
    if isinstance(source, int):
        return read_into(source, room, offset)
    data = source.read(len(room), offset)
    room[: len(data)] = data
    return len(data)


def size_of(source: Source) -> int:
    """Bytes of all."""
    return os.fstat(source).st_size if isinstance(source, int) else source.size


def is_replaced(source: Source, path: Path) -> bool:
    """Whether another file, or another version of the object, has the path now."""
    try:
        if isinstance(path, Address) and not isinstance(source, int):
            return find(path) != source.known
        return isinstance(source, int) and not os.path.samestat(os.fstat(source), path.stat())
    except (OSError, ResnetError):
        return True


def close(source: Source) -> None:
    """Close it; reading afterwards is an error for files."""
    if isinstance(source, int):
        os.close(source)
    else:
        source.close()
