"""Where the records of a `.rec` begin: what its `.idx` says, and what the file itself says where that is not all."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from resnet_v2.console import Progress, agreeing, counted
from resnet_v2.data.index import index_path, read_index
from resnet_v2.data.parts import MAGIC, PART_HEADER, read_record, scan_source
from resnet_v2.data.source import Source, read, size_of
from resnet_v2.errors import DamagedError, ResnetError
from resnet_v2.storage import Address

COMPARED = 16  # lines of an index that are looked at where its last one is wrong
MEBIBYTE = 1 << 20


class Found(NamedTuple):
    """The byte at which each record begins, how many of them the index tells, and sentences on what it does not."""

    offsets: NDArray[np.int64]
    listed: int
    remarks: tuple[str, ...]


def find_offsets(path: Path, source: Source) -> Found:
    """The records of an open `.rec`, in the order of its index, those that the index lacks behind them.

    Where there is no index, or an empty one, the file is read once, its headers alone. Nothing is written. Raises
    ResnetError for an index that is damaged or another record's, and for a file that ends before its last record.
    """
    idx, size = index_path(path), size_of(source)
    if not idx.is_file():
        if isinstance(path, Address):  # to look for its records would fetch all of it
            raise ResnetError(f"{idx} is missing; make it with `resnet-v2 index` where the record is a file.")
        return _found_by_reading(path, source, "missing")
    offsets = read_index(path)
    if not len(offsets):
        return _found_by_reading(path, source, "empty") if size else Found(offsets, 0, ())
    kept = _without_a_cut_line(idx, source, offsets)
    end = _end_of_last(path, source, kept)
    rest, lost = _behind(path, source, end)
    odd = _odd(path, source, kept)
    if not len(rest):
        if len(kept) < len(offsets):
            raise ResnetError(f"{idx} ends amid a line; make it again with `resnet-v2 index {path}`.")
        last = (
            f"warning: the last {counted(size - end, 'byte')} of {path} {agreeing(size - end, 'is', 'are')} no whole "
            f"record; `resnet-v2 verify {path}` tells more"
        )
        return Found(kept, len(kept), (*odd, last) if size > end else odd)
    remark = (
        f"warning: {idx} ends early: it lists {counted(len(kept), 'record')}, and {len(rest)} more "
        f"{agreeing(len(rest), 'stands', 'stand')} behind {agreeing(len(kept), 'it', 'them')} in "
        f"{path.name}; {agreeing(len(rest), 'it is', 'they are')} taken too. `resnet-v2 index {path}` makes a whole one"
    )
    return Found(np.concatenate([kept, rest]), len(kept), (*odd, remark, *_warning(path, lost)))


def _odd(path: Path, source: Source, offsets: NDArray[np.int64]) -> tuple[str, ...]:
    """What is odd in an index by its offsets alone: a first record that does not begin the file, a record named twice.

    What it leaves out further on is seen when the record before it is read.
    """
    remarks = (left_out(path, source, 0, int(offsets.min())),) if offsets.min() else ()
    if (offsets[1:] > offsets[:-1]).all():
        return remarks
    ordered = np.sort(offsets)
    if not len(twice := np.flatnonzero(ordered[1:] == ordered[:-1])):
        return remarks
    twice_named = (
        f"warning: {index_path(path)} has {counted(len(twice), 'line')} too many: "
        f"{agreeing(len(twice), 'it names', 'they name')} a record again, first that at byte "
        f"{int(ordered[twice[0]])}, and it is read again. `resnet-v2 index {path}` makes a whole one"
    )
    return (*remarks, twice_named)


def _found_by_reading(path: Path, source: Source, why: str) -> Found:
    offsets, lost = _behind(path, source, 0)
    if not len(offsets) and size_of(source):
        raise ResnetError(f"{path} holds no whole record; it is damaged or no RecordIO file.")
    remark = (
        f"{index_path(path)} is {why}: {path.name} was read to find its {counted(len(offsets), 'record')}; "
        f"`resnet-v2 index {path}` saves that time"
    )
    return Found(offsets, 0, (remark, *_warning(path, lost)))


def _warning(path: Path, lost: int) -> tuple[str, ...]:
    """What to say of bytes among those that were read which are in no whole record."""
    if not lost:
        return ()
    return (
        f"warning: {counted(lost, 'byte')} of {path} {agreeing(lost, 'is', 'are')} in no whole record; `resnet-v2 "
        f"verify {path}` tells more",
    )


def _behind(path: Path, source: Source, start: int) -> tuple[NDArray[np.int64], int]:
    """Where the whole records from a byte on begin, and how many bytes are in none of them."""
    size, done, found = size_of(source), start, []
    if start >= size:
        return np.empty(0, np.int64), 0
    lost, last = 0, start
    with Progress(f"look for records in {path.name}", size // MEBIBYTE, "MiB", start // MEBIBYTE) as progress:
        for begin, end in scan_source(source, start):
            found.append(begin)
            lost, last = lost + begin - last, end
            if end - done >= MEBIBYTE:
                progress.update((end - done) // MEBIBYTE)
                done += (end - done) // MEBIBYTE * MEBIBYTE
    return np.array(found, np.int64), lost + max(0, size - last)


def _without_a_cut_line(idx: Path, source: Source, offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """The offsets but for the last where its line has no end, and no record of its own begins there."""
    if len(offsets) < 2 or isinstance(idx, Address):
        return offsets
    with idx.open("rb") as file:
        file.seek(-1, 2)
        whole = file.read(1) == b"\n"
    if whole or (_begins(source, int(offsets[-1])) and not (offsets[:-1] == offsets[-1]).any()):
        return offsets
    return offsets[:-1]


def _end_of_last(path: Path, source: Source, offsets: NDArray[np.int64]) -> int:
    """The byte behind the record that lies last in the file; a ResnetError where none is there."""
    last, size = int(offsets.max()), size_of(source)
    if last + PART_HEADER.size > size:
        raise ResnetError(
            f"{path} ends at byte {size} but its index points to byte {last}: the record is cut short or the index is "
            "another file's; copy it again, or run `resnet-v2 index`."
        )
    try:
        return read_record(source, last)[1]
    except ValueError as error:
        some = offsets[np.unique(np.linspace(0, len(offsets) - 1, COMPARED).astype(np.int64))]
        if 2 * sum(not _begins(source, int(one)) for one in some) > len(some):
            raise ResnetError(
                f"{index_path(path)} is another record's index: {path.name} has no records where it says; make it "
                f"again with `resnet-v2 index {path}`."
            ) from None
        raise damaged(path, int(offsets.argmax()), last, error) from None


def _begins(source: Source, offset: int) -> bool:
    """Whether a part of a record begins at a byte."""
    head = read(source, PART_HEADER.size, offset)
    return len(head) == PART_HEADER.size and PART_HEADER.unpack(head)[0] == MAGIC


def left_out(path: Path, source: Source, begin: int, end: int) -> str:
    """What is said of the bytes from `begin` to `end` of a `.rec`, which are in no record that its index names."""
    whole = 0
    for start, _ in scan_source(source, begin):
        if start >= end:
            break
        whole += 1
    if not whole:
        return (
            f"warning: {counted(end - begin, 'byte')} from byte {begin} of {path} on "
            f"{agreeing(end - begin, 'is', 'are')} in no whole record; `resnet-v2 verify "
            f"{path}` tells more"
        )
    records = "the record at" if whole == 1 else f"the {whole} records from"
    return (
        f"warning: {index_path(path)} leaves out records, such as {records} byte {begin} on; they are not read. "
        f"`resnet-v2 index {path}` makes a whole one"
    )


def damaged(path: Path, number: int, offset: int, error: ValueError) -> DamagedError:
    """What is said of a record that is none."""
    return DamagedError(
        f"{path}: record {number} at byte {offset} is damaged ({error}); "
        f"`resnet-v2 index {path}` makes an index of the records that are whole."
    )
