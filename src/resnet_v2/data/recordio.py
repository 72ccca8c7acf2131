"""MXNet's `mxnet.recordio` under its own names and with its behaviour, so that old loaders replace one import line.

    from resnet_v2.data import recordio  # was: from mxnet import recordio

Images are BGR, as OpenCV's and so as MXNet's. What this package itself uses is `resnet_v2.data.records`, which is safe
for threads; an `MXRecordIO` is a stream with one position and, like MXNet's, is not.
"""

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from resnet_v2.data import records
from resnet_v2.data.records import IRHeader, frame, read_record
from resnet_v2.errors import naming

__all__ = ["IRHeader", "MXIndexedRecordIO", "MXRecordIO", "pack", "pack_img", "unpack", "unpack_img"]


class MXRecordIO:
    """Records read or written one after the other. `flag`: "r" or "w" (which empties the file at once, as MXNet does).

    A reader or writer that was pickled opens its file anew. After a fork a stream belongs to its first process:
    reading and writing in another raises RuntimeError, `MXIndexedRecordIO.seek` opens the file anew there.

    Raises ValueError for another flag and for damaged records, OSError for files that cannot be opened.
    """

    def __init__(self, uri: str, flag: str) -> None:
        self.uri = uri
        self.flag = flag
        self.pid: int | None = None
        self.is_open = False
        self.open()

    def open(self) -> None:
        """Open the file at its beginning."""
        if self.flag not in ("r", "w"):
            raise ValueError(f"Invalid flag {self.flag}")
        self.writable = self.flag == "w"
        # Without a buffer: a forked process would flush its copy of one a second time.
        self._file: IO[bytes] = Path(self.uri).open("wb" if self.writable else "rb", buffering=0)  # noqa: SIM115
        self._position = 0
        self.pid = os.getpid()
        self.is_open = True

    def close(self) -> None:
        """Close the file; a closed stream may be opened again."""
        if self.is_open:
            self.is_open = False
            self.pid = None
            with naming(self.uri):
                self._file.close()

    def __del__(self) -> None:
        if "is_open" in self.__dict__:
            with contextlib.suppress(OSError):  # Python prints it, and nobody can catch it
                self.close()

    def __getstate__(self) -> dict[str, Any]:
        was_open = self.is_open
        self.close()
        return {name: value for name, value in self.__dict__.items() if name != "_file"} | {"is_open": was_open}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state | {"is_open": False})
        if state["is_open"]:
            self.open()

    def _check_pid(self, allow_reset: bool) -> None:
        if self.pid != os.getpid():
            if not allow_reset:
                raise RuntimeError("Forbidden operation in multiple processes")
            self.reset()

    def reset(self) -> None:
        """Back to the first record; a writer's file is emptied."""
        self.close()
        self.open()

    def write(self, buf: bytes) -> None:
        """Append a record. An OSError names the file, which then ends with the record before."""
        assert self.writable
        self._check_pid(allow_reset=False)
        record = memoryview(b"".join(frame(buf)))
        left = record
        try:
            with naming(self.uri):
                while left:  # a system may take less than it is given
                    left = left[self._file.write(left) :]
        except OSError:
            with contextlib.suppress(OSError):  # the next record stands where this one would
                self._file.truncate(self._position)
                self._file.seek(self._position)
            raise
        self._position += len(record)

    def read(self) -> bytes | None:
        """The next record, or None behind the last one."""
        assert not self.writable
        self._check_pid(allow_reset=False)
        if not self._file.seek(0, 2) > self._position:
            return None
        payload, self._position = read_record(self._file.fileno(), self._position)
        return bytes(payload)


class MXIndexedRecordIO(MXRecordIO):
    """Records that are also found by key, through an index of `key TAB offset` lines; a later duplicate of a key wins.

    `keys` are in the order of the index, `idx` maps each to its byte offset; `key_type` converts the text of a key.
    """

    def __init__(self, idx_path: str, uri: str, flag: str, key_type: Callable[[Any], Any] = int) -> None:
        self.idx_path = idx_path
        self.idx: dict[Any, int] = {}
        self.fidx: IO[str] | None = None
        self.keys: list[Any] = []
        self.key_type = key_type
        super().__init__(uri, flag)

    def open(self) -> None:
        """Open both files; a reader reads the index."""
        super().open()
        self.idx, self.keys = {}, []
        idx = Path(self.idx_path)
        self.fidx = idx.open(self.flag, buffering=1, encoding="utf-8", newline="\n")
        if not self.writable:
            for line in self.fidx:
                key, offset = line.strip().split("\t")[:2]
                self.idx[self.key_type(key)] = int(offset)
                self.keys.append(self.key_type(key))

    def close(self) -> None:
        """Close both files."""
        fidx = self.fidx if self.is_open else None
        super().close()
        if fidx is not None:
            with naming(self.idx_path):
                fidx.close()

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"fidx": None}

    def seek(self, idx: Any) -> None:
        """Move to the record of a key, for the next `read`. Raises KeyError for an unknown key."""
        assert not self.writable
        self._check_pid(allow_reset=True)
        self._position = self.idx[idx]

    def tell(self) -> int:
        """The byte offset that the next written record will have."""
        assert self.writable
        return self._position

    def read_idx(self, idx: Any) -> bytes | None:
        """The record of a key."""
        self.seek(idx)
        return self.read()

    def write_idx(self, idx: Any, buf: bytes) -> None:
        """Append a record under a key."""
        key, offset = self.key_type(idx), self.tell()
        self.write(buf)
        with naming(self.idx_path):
            cast(IO[str], self.fidx).write(f"{key}\t{offset}\n")
        self.idx[key] = offset
        self.keys.append(key)


def pack(header: IRHeader | Sequence[Any], s: bytes) -> bytes:
    """Header (an IRHeader or a tuple like it) and image bytes -> a record. Several labels set `flag` to their count."""
    return records.pack(IRHeader(*header), s)


def unpack(s: bytes) -> tuple[IRHeader, bytes]:
    """A record -> its header and image bytes; `label` is a float, or float32 numbers where `flag` is above 0."""
    header, data = records.unpack(s)
    return header, bytes(data)


def pack_img(
    header: IRHeader | Sequence[Any], img: NDArray[np.uint8], quality: int = 95, img_fmt: str = ".jpg"
) -> bytes:
    """Encode pixels (H x W x 3, BGR, or grey) and pack them.

    `quality` is a JPEG's, or a PNG's compression (1 to 9; more is 9, as for OpenCV); other formats have none.
    """
    options = {
        ".jpg": [cv2.IMWRITE_JPEG_QUALITY, quality],
        ".jpeg": [cv2.IMWRITE_JPEG_QUALITY, quality],
        ".png": [cv2.IMWRITE_PNG_COMPRESSION, min(quality, 9)],
    }
    done, buffer = cv2.imencode(img_fmt, img, options.get(img_fmt.lower(), []))
    if not done:
        raise ValueError("failed to encode image")
    return pack(header, buffer.tobytes())


def unpack_img(s: bytes, iscolor: int = -1) -> tuple[IRHeader, Any]:
    """A record -> its header and pixels as OpenCV decodes them (BGR; None when it cannot)."""
    header, data = unpack(s)
    return header, cv2.imdecode(np.frombuffer(data, np.uint8), iscolor)
