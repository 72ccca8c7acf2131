"""A `.rec` read once from its front, in blocks whose records are looked at in threads; without its index.

The magic number stands at a multiple of 4 only where a part of a record begins, for the writer cuts it out of payloads.
So the next one tells where a record must end, whatever its length says, and damage does not spread to its neighbours.
"""

import math
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from resnet_v2.console import Progress, counted
from resnet_v2.data.claims import check_claim
from resnet_v2.data.exact import EXACT_LABELS, first_label
from resnet_v2.data.jpeg import decode
from resnet_v2.data.loader import MAX_PIXELS
from resnet_v2.data.records import (
    FIRST,
    LAST,
    LENGTH_BITS,
    MAGIC,
    MAGIC_BYTES,
    MAX_RECORD_BYTES,
    MIDDLE,
    PART_HEADER,
    WHOLE,
    unpack,
)
from resnet_v2.data.source import close, open_source, read, size_of
from resnet_v2.files import fingerprint
from resnet_v2.machine import processors

BLOCK_BYTES = 1 << 23


class Piece(NamedTuple):
    """A record, or bytes that are none (`whole` is False): from `start` to `end`, its fingerprint, its id and labels.

    `empty`: it holds labels and no image.

    `problem` says what is wrong with it, `kind` in one word; both are empty where nothing is. Bytes between records
    have no `problem` of their own, since the next piece may be more of them.
    """

    start: int
    end: int
    whole: bool
    sum: int = 0
    key: int = -1
    labels: tuple[float, ...] = ()
    kind: str = ""
    problem: str = ""
    empty: bool = False


@dataclass(frozen=True)
class Block:
    """Bytes of a file from `start` on, which begin and end between records; `magics` are places in `data`."""

    start: int
    data: memoryview
    magics: Sequence[int]
    last: bool


def walk(rec: Path, known: Collection[int], decode_all: bool, threads: int) -> Iterator[Piece]:
    """Every piece of a file, in its order. Images are decoded whose fingerprint is not `known`, or all of them."""
    threads = threads or processors()
    waiting: deque[tuple[int, Future[list[Piece]]]] = deque()
    bar = Progress(rec.name, rec.stat().st_size, "B")
    with ThreadPoolExecutor(threads, thread_name_prefix="verify") as pool, bar as progress:
        for block in _blocks(rec):
            waiting.append((len(block.data), pool.submit(_look_at, block, known, decode_all)))
            while waiting and (block.last or len(waiting) > 2 * threads):
                size, task = waiting.popleft()
                yield from task.result()
                progress.update(size)


def _blocks(rec: Path) -> Iterator[Block]:
    source = open_source(rec, cached=False)
    try:
        start, data, size = 0, b"", size_of(source)
        while True:
            # At least as much again: a long record costs no more than twice its bytes.
            data += read(source, max(BLOCK_BYTES, len(data)), start + len(data))
            last = start + len(data) >= size
            words = np.frombuffer(data, "<u4", len(data) // 4)
            at = np.flatnonzero(words == MAGIC)
            places = words[np.minimum(at + 1, len(words) - 1)] >> LENGTH_BITS
            # The last word may be a magic number whose place and length are in the next block.
            starts = at[((places == WHOLE) | (places == FIRST)) & (at + 1 < len(words))]
            cut = len(data) if last or len(data) > 2 * MAX_RECORD_BYTES else _known_until(words, starts)
            if cut or last:
                yield Block(start, memoryview(data)[:cut], [4 * int(i) for i in at if 4 * i < cut], last)
                start, data = start + cut, data[cut:]
            if last:
                return
    finally:
        close(source)


def _known_until(words: NDArray[np.uint32], starts: NDArray[np.intp]) -> int:
    """How many bytes are known to be whole records, or none, of these words, in which records begin at `starts`."""
    rest = max(0, len(words) - 1) * 4
    if not len(starts):
        return rest
    start, word = int(starts[-1]) * 4, int(words[starts[-1] + 1])
    length = word & MAX_RECORD_BYTES
    end = start + PART_HEADER.size + length + -length % 4
    return rest if word >> LENGTH_BITS == WHOLE and end <= rest else start


def _look_at(block: Block, known: Collection[int], decode_all: bool) -> list[Piece]:
    pieces, at, number = [], 0, 0
    while number < len(block.magics):
        if block.magics[number] > at:
            pieces.append(_gap(block, at, block.magics[number]))
        at = block.magics[number]
        try:
            parts, end, number = _record(block, number)
            pieces.append(_image(block.start + at, block.start + end, MAGIC_BYTES.join(parts), known, decode_all))
        except _BrokenError as broken:
            end, number = broken.end, broken.number
            place = block.start + at, block.start + end
            pieces.append(Piece(*place, False, kind="cut" if broken.cut else "damaged", problem=str(broken)))
        at = end
    if at < len(block.data):
        pieces.append(_gap(block, at, len(block.data)))
    return pieces


def _gap(block: Block, start: int, end: int) -> Piece:
    return Piece(block.start + start, block.start + end, False, kind="damaged")


class _BrokenError(Exception):
    """No record: where the next one may begin, and whether the end of the file is what it lacks."""

    def __init__(self, problem: str, end: int, number: int, cut: bool = False) -> None:
        super().__init__(problem)
        self.end, self.number, self.cut = end, number, cut


def _record(block: Block, first: int) -> tuple[list[memoryview], int, int]:
    """The parts of the record at a magic number, where it ends, and the number of the magic number behind it."""
    parts: list[memoryview] = []
    for number in range(first, len(block.magics)):
        start = block.magics[number]
        following = block.magics[number + 1] if number + 1 < len(block.magics) else len(block.data)
        at_end = block.last and following == len(block.data)
        if following - start < PART_HEADER.size:
            raise _BrokenError("its header is not whole", following, number + 1, at_end)
        word = PART_HEADER.unpack_from(block.data, start)[1]
        place, length = word >> LENGTH_BITS, word & MAX_RECORD_BYTES
        if parts and place not in (MIDDLE, LAST):
            break
        if not parts and place not in (WHOLE, FIRST):
            raise _BrokenError("it starts in the middle of a record", following, number + 1)
        end = start + PART_HEADER.size + length
        if end > following:
            words = "the file ends inside it" if at_end else "the next one begins inside it"
            raise _BrokenError(f"its header says {counted(length, 'byte')}, but {words}", following, number + 1, at_end)
        parts.append(block.data[start + PART_HEADER.size : end])
        end = min(end + -length % 4, following)
        if place in (WHOLE, LAST):
            return parts, end, number + 1
        if end != following:
            raise _BrokenError("one of its parts is missing", following, number + 1)
    else:
        raise _BrokenError("its last part is missing", len(block.data), len(block.magics), block.last)
    raise _BrokenError("its last part is missing", start, number)


def _image(start: int, end: int, payload: bytes, known: Collection[int], decode_all: bool) -> Piece:
    total = fingerprint(payload)
    try:
        header, data = unpack(payload)
    except ValueError as error:
        return Piece(start, end, True, total, kind="damaged", problem=f"it is no image record ({error})")
    labels = tuple(float(label) for label in np.ravel(header.label))
    if labels[:1] and labels[0] >= EXACT_LABELS and not math.isnan(exact := first_label(header.label, header.id2)):
        labels = exact, *labels[1:]
    if header.flag and not len(data):
        return Piece(start, end, True, total, header.id, labels, empty=True)
    kind = problem = ""
    if decode_all or total not in known:
        try:
            check_claim(data, MAX_PIXELS)
            decode(data)
        except ValueError as error:
            kind, problem = "unreadable", f"its image does not decode ({error})"
    return Piece(start, end, True, total, header.id, labels, kind, problem)
