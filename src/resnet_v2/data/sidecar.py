"""The `.rows` beside a `.rec`: what every record's bytes were, and where its JPEG can be cut.

docs/formats.md tells every byte of it.
"""

import contextlib
import hashlib
import os
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from resnet_v2.console import following
from resnet_v2.data.index import side_path
from resnet_v2.data.records import RecordReader, unpack
from resnet_v2.data.remote import local_copy
from resnet_v2.data.rows import NOTHING, Offsets, find_segments
from resnet_v2.errors import DamagedError, ResnetError, naming
from resnet_v2.files import CHUNK_BYTES, fingerprint, open_regular, replacing
from resnet_v2.portable import read_at

SIDECAR_MAGIC, SECOND_MAGIC, FIRST_MAGIC = b"RSNROWS3", b"RSNROWS2", b"RSNROWS1"
SIDECAR_HEADER, SECOND_HEADER, FIRST_HEADER = struct.Struct("<8sQQQQ"), struct.Struct("<8sQQQ"), struct.Struct("<8sQQ")
FORMS = {SIDECAR_MAGIC: SIDECAR_HEADER, SECOND_MAGIC: SECOND_HEADER, FIRST_MAGIC: FIRST_HEADER}
MOST_ORIGIN_BYTES = 1 << 20  # of the text about the records' making
COMPARED = 16  # records whose fingerprints are compared when a `.rows` is opened


def sidecar_path(rec: Path) -> Path:
    """`data/flowers.rec` -> `data/flowers.rows`."""
    return side_path(rec, ".rows")


def write_rows(rec: Path, origin: str = "") -> int:
    """Read a `.rec` once and write its `.rows`, with a text about where the records came from.

    Returns the number of images that can be sliced.
    """
    reader = RecordReader(rec)
    ordinals = following(range(len(reader)), sidecar_path(rec).name, len(reader))
    rows = (rows_of_record(reader[ordinal]) for ordinal in ordinals)
    return write_known_rows(rec, len(reader), reader.file_bytes, rows, origin)


def write_known_rows(
    rec: Path, count: int, rec_bytes: int, rows: Iterable[tuple[int, Offsets]], origin: str = ""
) -> int:
    """The same from what `rows_of_record` gave for every one of `count` records of a `.rec` of `rec_bytes` bytes."""
    with replacing(sidecar_path(rec)) as temporary, temporary.open("wb+") as file:
        return write_rows_file(file, count, rec_bytes, rows, origin)


def write_rows_file(
    file: BinaryIO, count: int, rec_bytes: int, rows: Iterable[tuple[int, Offsets]], origin: str
) -> int:
    """The same into an open file, with a text about where the records came from.

    It holds a header (`SIDECAR_HEADER`: magic bytes, record count, size of the `.rec`, bytes of the text, fingerprint
    of all that follows), u64 starts of each record's segments (one more than records), the u64 fingerprint of each
    record's payload, u32 offsets within each image, and the text.
    """
    starts, sums, text = np.zeros(count + 1, "<u8"), np.zeros(count, "<u8"), origin.encode()
    file.write(bytes(SIDECAR_HEADER.size + starts.nbytes + sums.nbytes))
    for ordinal, (sums[ordinal], segments) in zip(range(count), rows, strict=True):
        file.write(segments.astype("<u4").tobytes())
        starts[ordinal + 1] = starts[ordinal] + np.uint64(segments.size)
    file.write(text)
    file.seek(SIDECAR_HEADER.size)
    file.write(starts.tobytes() + sums.tobytes())
    header = SIDECAR_MAGIC, count, rec_bytes, len(text), _fingerprint_behind(file, SIDECAR_HEADER.size)
    file.seek(0)
    file.write(SIDECAR_HEADER.pack(*header))
    return int(np.count_nonzero(np.diff(starts)))


def rows_of_record(payload: bytes | memoryview) -> tuple[int, Offsets]:
    """What a `.rows` holds of a record: the fingerprint of its payload, and its image's segments, if any."""
    return fingerprint(payload), _segments_of_record(payload)


def _fingerprint_behind(file: BinaryIO, header_bytes: int) -> int:
    file.seek(header_bytes)
    total = hashlib.sha256()
    while block := file.read(CHUNK_BYTES):
        total.update(block)
    return int.from_bytes(total.digest()[:8], "little")


def _segments_of_record(payload: bytes | memoryview) -> Offsets:
    try:
        return find_segments(unpack(payload)[1])
    except ValueError:  # no image record
        return NOTHING


def read_segments(
    sources: Sequence[int | None], files: Sequence[int], places: NDArray[np.int64], counts: NDArray[np.int64]
) -> list[Offsets]:
    """The offsets of images' segments, whose bytes and counts `Rows.places` tells; none where the file has ended.

    `files` are the numbers of their files among `sources`, in which None is a file without `.rows`.
    """
    if not any(source is not None for source in sources):
        return [NOTHING] * len(places)
    wanted = zip(files, places.tolist(), counts.tolist(), strict=True)
    return [_read_offsets(sources[file], at, count) for file, at, count in wanted]


def _read_offsets(source: int | None, at: int, count: int) -> Offsets:
    if source is None or not count:
        return NOTHING
    data = read_at(source, 4 * count, at)
    return np.frombuffer(data, "<u4") if len(data) == 4 * count else NOTHING


class Rows:
    """The `.rows` of a `.rec`. `segments(ordinal)` is empty where an image cannot be sliced.

    Offsets are read piece by piece: a file that becomes shorter while a run reads it gives empty segments, and images
    are decoded whole. Raises ResnetError for a damaged file. `has_sums` is False for the files of the first version,
    which hold no fingerprints.
    """

    def __init__(self, rec: Path) -> None:
        self.path = sidecar_path(rec)
        self._again = f"make it again with `resnet-v2 index {rec}`."
        try:
            self._copy = local_copy(self.path)
            self.source = open_regular(self._copy)
        except OSError as error:
            raise ResnetError(f"{self.path} cannot be opened ({error.strerror}); {self._again}") from None
        head = read_at(self.source, SIDECAR_HEADER.size, 0)
        form = FORMS.get(head[:8])
        if form is None or len(head) < form.size:
            raise self._damaged()
        self.has_sums, self._header_bytes = head[:8] != FIRST_MAGIC, form.size
        _, self.count, self._rec_bytes, *more = form.unpack_from(head)
        self._origin_bytes, self._sum_behind_header = [0, 0, *more][-2:]
        self._sums_at = form.size + 8 * (self.count + 1)
        self._offsets_at = self._sums_at + 8 * self.count * self.has_sums
        offsets_bytes = os.fstat(self.source).st_size - self._offsets_at - self._origin_bytes
        if offsets_bytes < 0 or self._origin_bytes > MOST_ORIGIN_BYTES:  # before memory is taken
            raise self._damaged()
        # Held, so that an image is one read: a thread lets go of Python's lock at each, and gets it back when it may.
        self._starts, self._offsets = self._numbers(form.size, self.count + 1), offsets_bytes // 4
        if len(self._starts) != self.count + 1 or offsets_bytes != 4 * int(self._starts[-1]):
            raise self._damaged()

    @classmethod
    def of(cls, reader: RecordReader) -> "Rows":
        """The `.rows` of an open record; a ResnetError also for one that belongs to another record."""
        rows = cls(reader.path)
        if (rows.count, rows._rec_bytes) != (len(reader), reader.file_bytes) or rows._is_of_others(reader):
            if reader.is_replaced():
                raise ResnetError(f"{reader.path} was packed anew while it was read; start the command again.")
            raise ResnetError(f"{rows.path} belongs to another state of {reader.path.name}; {rows._again}")
        return rows

    def _damaged(self) -> ResnetError:
        return ResnetError(f"{self.path} is damaged; {self._again}")

    def _numbers(self, offset: int, count: int) -> NDArray[np.uint64]:
        """Some u64 of the file; fewer where it ends."""
        data = read_at(self.source, 8 * count, offset)
        return np.frombuffer(data[: len(data) // 8 * 8], "<u8")

    def _is_of_others(self, reader: RecordReader) -> bool:
        """Whether most of a few records have other fingerprints: one alone may be damaged."""
        some = np.unique(np.linspace(0, self.count - 1, min(self.count, COMPARED)).astype(np.int64)).tolist()
        others = 0
        for ordinal in some if self.has_sums else ():
            with contextlib.suppress(DamagedError):  # a damaged record is said to be so when its turn comes
                others += self._numbers(self._sums_at + 8 * ordinal, 1).tolist() != [fingerprint(reader[ordinal])]
        return 2 * others > len(some)

    def places(self, ordinals: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """For some records the byte at which their offsets begin, and how many there are; none where an image cannot
        be sliced.
        """
        first, last = self._starts[ordinals], self._starts[ordinals + 1]
        there = (first < last) & (last <= self._offsets)
        counts = np.where(there, last - first, 0).astype(np.int64)
        return self._offsets_at + 4 * np.where(there, first, 0).astype(np.int64), counts

    def segments(self, ordinal: int) -> Offsets:
        """What `find_segments` gives for the image of a record."""
        return read_segments([self.source], [0], *self.places(np.array([ordinal])))[0]

    def sums(self) -> NDArray[np.uint64]:
        """The fingerprint of every record, by ordinal, none where the file has none; ResnetError when it is damaged."""
        with naming(self.path), self._copy.open("rb") as file:
            if self.has_sums and _fingerprint_behind(file, self._header_bytes) != self._sum_behind_header:
                raise self._damaged()
        return self.stored_sums()

    def origin(self) -> str:
        """The text about the records' making; empty where there is none."""
        end = self._offsets_at + 4 * self._offsets
        return read_at(self.source, self._origin_bytes, end).decode("utf-8", "replace")

    def stored_sums(self) -> NDArray[np.uint64]:
        """The same, whether the file is damaged or not."""
        return self._numbers(self._sums_at, self.count * self.has_sums)

    def __del__(self) -> None:
        if hasattr(self, "source"):
            os.close(self.source)
