"""No file is ever seen half-written."""

import contextlib
import errno
import hashlib
import http.client
import os
import urllib.request
import uuid
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from tqdm import tqdm

from resnet_v2.errors import ResnetError

CHUNK_BYTES = 1 << 20
# More than any data set or network that is fetched; a longer answer is none of them.
MOST_BYTES = 1 << 30


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; on success flush it to the disk and rename it to `path`.

    Whatever happens inside the block (an exception, a full disk, a kill), `path` holds either its old bytes or all of
    the new ones. Missing folders are made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        _flush_folder(path.parent)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ResnetError(f"{path} is not written: the disk is full; free some space and run again.") from None
        raise
    finally:
        temporary.unlink(missing_ok=True)


def download(url: str, path: Path, instead: str, check: Callable[[Path], object] | None = None) -> None:
    """Fetch a file, with progress; it gets its name only when it is whole and `check`, which sees it before, agrees.

    A ResnetError says what went wrong, and what to do `instead`.
    """
    try:
        with urllib.request.urlopen(url, timeout=60) as answer, replacing(path) as temporary:
            length = int(answer.headers.get("Content-Length") or 0)
            bar = tqdm(total=length or None, desc=path.name, unit="B", unit_scale=True, leave=False, disable=None)
            with temporary.open("wb") as file, bar as progress:
                while chunk := answer.read(CHUNK_BYTES):
                    file.write(chunk)
                    progress.update(len(chunk))
                    if file.tell() > MOST_BYTES:
                        raise ResnetError(f"{url} is larger than anything that is fetched here; {instead}.")
                if length and file.tell() != length:
                    raise ResnetError(f"{url} ended after {file.tell()} of {length} bytes; try again.")
            if check is not None:
                check(temporary)
    except (OSError, EOFError, ValueError, zlib.error, http.client.HTTPException) as error:
        raise ResnetError(f"{url} cannot be downloaded ({getattr(error, 'reason', error)}); {instead}.") from None


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(data: bytes | bytearray | memoryview) -> int:
    """The first 8 bytes of the SHA-256 of some bytes, as a number (little-endian)."""
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "little")


def write_text(path: Path, text: str) -> None:
    """Write a whole UTF-8 text file so that it is never seen half-written; lines end with a line feed everywhere."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def _flush_folder(folder: Path) -> None:
    # The rename itself is only durable once the folder is on the disk too; Windows cannot open folders.
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
