"""No file is ever seen half-written; nothing is read that is no file, and no more of it than there should be."""

import contextlib
import errno
import gzip
import hashlib
import http.client
import io
import json
import os
import re
import stat
import urllib.request
import uuid
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from resnet_v2.console import Progress
from resnet_v2.errors import ResnetError, naming
from resnet_v2.portable import being_written, remove_abandoned

CHUNK_BYTES = 1 << 20
# What says nothing about a file, but about the machine that it is read on.
OF_THE_MACHINE = {getattr(errno, name) for name in ("EIO", "EMFILE", "ENFILE", "ENOMEM", "ESTALE", "ETIMEDOUT")}
# More than any picture, data set or network that is read whole or fetched; what is longer is none of them.
MOST_BYTES = 1 << 30


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; on success flush it to the disk and rename it to `path`.

    Whatever happens inside the block (an exception, a full disk, a kill), `path` holds either its old bytes or all of
    the new ones. Missing folders are made; what killed processes left of the same path is removed. Raises ResnetError
    for the path of a folder, a pipe or a device, such as /dev/null, which stays.
    """
    refuse_no_file(path)
    make_folder(path.parent)
    _remove_half_written(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with being_written(temporary):
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
    except OSError as error:
        if error.filename not in (None, str(temporary)):  # of another file
            raise
        raise not_written(path, error) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    try:
        flush_folder(path.parent)
    except OSError as error:
        raise not_written(path, error) from None


def refuse_no_file(path: Path) -> None:
    """Raise ResnetError where a path is taken by a folder, a pipe or a device, which a file must not replace."""
    if path.exists() and not path.is_file():
        raise ResnetError(f"{path} is not written: it is a folder, a pipe or a device; give another name.")


def not_written(path: str | os.PathLike[str], error: OSError) -> ResnetError:
    """What to say when the system cannot write a file."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ResnetError(f"{path} is not written: the disk is full; free some space and run again.")
    why = error.strerror or error
    return ResnetError(f"{path} is not written, or not for sure ({why}); check disk and permissions, and run again.")


def told(error: OSError) -> str | None:
    """What to say of an error of the system that nobody has put into words; None where it is a fault of the program."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{error.filename or 'A file'}: the disk is full; free some space and run again."
    if error.filename is None and error.errno not in (*OF_THE_MACHINE, errno.EROFS):
        return None
    check = "the disk and the machine's limits" if error.errno in OF_THE_MACHINE else "the path and its permissions"
    return f"{error.filename or 'A file'}: {error.strerror}; check {check}."


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it, unless it is there; their names are on the disk when this returns."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in reversed(missing):
        flush_folder(path.parent)


def remove(*paths: Path) -> None:
    """Remove files of one folder, as far as they are there; they are gone from the disk when this returns."""
    there = [path for path in paths if path.exists()]
    for path in there:
        path.unlink(missing_ok=True)
    if there:
        flush_folder(there[0].parent)


def _remove_half_written(path: Path) -> None:
    half_written = re.compile(re.escape(f".{path.name}.") + r"[0-9a-f]{8}\.tmp")
    for other in path.parent.iterdir():
        if half_written.fullmatch(other.name):
            remove_abandoned(other)


def open_regular(path: str | os.PathLike[str], most_bytes: int | None = None) -> int:
    """A descriptor to read a file with, from which the raw bytes come on Windows too.

    OSError says so of what is no file, such as a pipe that nobody may ever write to or a device without an end, and of
    a file of more than `most_bytes`.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0))
    status = os.fstat(descriptor)
    if stat.S_ISDIR(status.st_mode):
        error = OSError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    elif not stat.S_ISREG(status.st_mode):
        error = OSError(errno.EINVAL, "it is a pipe or a device, no file", str(path))
    elif most_bytes is not None and status.st_size > most_bytes:
        error = OSError(errno.EFBIG, f"it has {status.st_size} bytes, more than any such file", str(path))
    else:
        return descriptor
    os.close(descriptor)
    raise error


def read_bytes(path: str | os.PathLike[str], most_bytes: int = MOST_BYTES) -> bytes:
    """The bytes of a file; OSError as `open_regular` raises it."""
    with naming(path), open(open_regular(path, most_bytes), "rb") as file:
        return _read(file, most_bytes)


def _read(file: IO[bytes] | gzip.GzipFile, most_bytes: int) -> bytes:
    """What a file holds, one byte more than `most_bytes` at most; `read(most_bytes)` would take that memory at once."""
    pieces, left = [], most_bytes + 1
    while left and (piece := file.read(min(left, CHUNK_BYTES))):
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)


def gunzip(data: bytes, most_bytes: int) -> bytes:
    """What gzip packed; OSError, EOFError or zlib.error where that is damaged or more than `most_bytes`."""
    with gzip.open(io.BytesIO(data)) as file:
        unpacked = _read(file, most_bytes)
    if len(unpacked) > most_bytes:
        raise OSError(errno.EFBIG, f"it unpacks to more than {most_bytes} bytes")
    return unpacked


def parse_json(text: str | bytes) -> Any:
    """What JSON says; ValueError also where it is nested deeper than Python follows."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def download(
    url: str,
    path: Path,
    instead: str,
    check: Callable[[Path], object] | None = None,
    most_bytes: int = MOST_BYTES,
) -> None:
    """Fetch a file, with progress; it gets its name only when it is whole and `check`, which sees it before, agrees.

    A ResnetError says what went wrong, such as a file of more than `most_bytes`, and what to do `instead`.
    """
    try:
        with _HTTP.open(url, timeout=60) as answer, replacing(path) as temporary:
            length = int(answer.headers.get("Content-Length") or 0)
            bar = Progress(path.name, length, "B")
            with temporary.open("wb") as file, bar as progress:
                while chunk := _received(answer, url, instead):
                    file.write(chunk)
                    progress.update(len(chunk))
                    if file.tell() > most_bytes:
                        raise ResnetError(f"{url} is larger than {most_bytes} bytes, which no such file is; {instead}.")
                if length and file.tell() != length:
                    raise ResnetError(f"{url} ended after {file.tell()} of {length} bytes; try again.")
            if check is not None:
                check(temporary)
    except (OSError, EOFError, ValueError, zlib.error, http.client.HTTPException) as error:
        raise ResnetError(f"{url} cannot be downloaded ({getattr(error, 'reason', error)}); {instead}.") from None


def _received(answer: IO[bytes], url: str, instead: str) -> bytes:
    try:
        return answer.read(CHUNK_BYTES)
    except (OSError, ValueError, http.client.HTTPException) as error:  # of the net, and not of the disk
        raise ResnetError(f"{url} cannot be downloaded ({error}); {instead}.") from None


def _http_alone() -> urllib.request.OpenerDirector:
    """What opens addresses of the web, also behind a proxy; Python's own opens file:, ftp: and data: too."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.UnknownHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    return opener


_HTTP = _http_alone()


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with naming(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(data: bytes | bytearray | memoryview) -> int:
    """The first 8 bytes of the SHA-256 of some bytes, as a number (little-endian)."""
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "little")


def write_text(path: Path, text: str) -> None:
    """Write a whole UTF-8 text file so that it is never seen half-written; lines end with a line feed everywhere."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def flush_folder(folder: Path) -> None:
    """Bring what a folder holds to the disk: which names there are, and of which files."""
    # The rename itself is only durable once the folder is on the disk too; Windows cannot open folders.
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            with naming(folder.absolute()):
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
