"""Images as they lie in a record: their first bytes, which tell their size, and others when they are needed.

What is read just before it is decoded is still in the processor's cache then; and of an image that is cut, or lies
there as a BMP, no more is read than its crop needs.
"""

import threading
import time
from collections.abc import Sequence
from typing import NamedTuple

from resnet_v2.data import stages
from resnet_v2.data.records import (
    IMAGE_HEADER,
    LENGTH_BITS,
    MAGIC,
    MAX_RECORD_BYTES,
    PART_HEADER,
    WHOLE,
    IRHeader,
    read_record,
    unpack,
)
from resnet_v2.data.rows import Data
from resnet_v2.data.source import Source, fill

HEAD_BYTES = 1024  # of a record: the header of a JPEG file without pictures in it has 600 to 700


class InMemory:
    """An image whose bytes are all there. `head` are its first bytes, or all, and `size` is how many it has."""

    def __init__(self, data: Data) -> None:
        self.head = memoryview(data)
        self.size = len(self.head)

    def read(self, first: int, last: int) -> memoryview:
        """The bytes from `first` to below `last`; their memory may be used again by the thread's next call."""
        return self.head[first:last]

    def all(self) -> memoryview:
        """All bytes; their memory may be used again by the thread's next call, and changed before where it can be."""
        return self.read(0, self.size)


class OnDisk(InMemory):
    """An image of which the head was read: it has `size` bytes from a byte of the file on."""

    def __init__(self, source: Source, at: int, size: int, head: memoryview) -> None:
        super().__init__(head)
        self._source, self._at, self.size = source, at, size

    def read(self, first: int, last: int) -> memoryview:
        """See `InMemory`. Raises ValueError where the file ends before."""
        if last <= len(self.head):
            return memoryview(bytes(self.head[first:last]))  # the head stays what it is, whatever becomes of this
        clock = time.perf_counter()
        room = memoryview(_memory("image", last - first))[: last - first]
        there = fill(self._source, room, self._at + first)
        stages.lap(stages.READ, clock)
        if there < len(room):
            raise ValueError("the file ends inside it")
        return room


class Found(NamedTuple):
    """An image record: its header, its image, and the byte behind it."""

    header: IRHeader
    image: InMemory
    end: int


class NoImageRecordError(ValueError):
    """A whole record, but none of an image."""


def find_images(sources: Sequence[Source], files: Sequence[int], offsets: Sequence[int]) -> list[Found | ValueError]:
    """The image records at some byte offsets of some files, by their numbers among `sources`, or what is wrong; their
    heads' memory is used again by the next call.
    """
    clock = time.perf_counter()
    heads = memoryview(_memory("heads", HEAD_BYTES * len(offsets)))
    found: list[Found | ValueError] = []
    for number, (file, offset) in enumerate(zip(files, offsets, strict=True)):
        source = sources[file]
        room = heads[HEAD_BYTES * number : HEAD_BYTES * (number + 1)]
        try:
            found.append(_find(source, offset, room[: fill(source, room, offset)]))
        except ValueError as error:
            found.append(error)
    stages.lap(stages.READ, clock)
    return found


def _find(source: Source, offset: int, head: memoryview) -> Found:
    if len(head) > PART_HEADER.size + IMAGE_HEADER.size:
        magic, word = PART_HEADER.unpack_from(head)
        length = word & MAX_RECORD_BYTES
        payload = head[PART_HEADER.size : PART_HEADER.size + length]
        labels = IMAGE_HEADER.unpack_from(payload)[0] if len(payload) >= IMAGE_HEADER.size else len(payload)
        start = IMAGE_HEADER.size + 4 * labels
        if magic == MAGIC and word >> LENGTH_BITS == WHOLE and start < len(payload):
            header, image = unpack(payload)
            end = offset + PART_HEADER.size + length + -length % 4
            return Found(header, OnDisk(source, offset + PART_HEADER.size + start, length - start, image), end)
    payload, end = read_record(source, offset)  # of several parts, or very short, or none
    try:
        header, image = unpack(payload)
    except ValueError as error:
        raise NoImageRecordError(str(error)) from None
    return Found(header, InMemory(image), end)


_kept = threading.local()


def _memory(name: str, size: int) -> bytearray:
    """Memory that this thread keeps under a name: fresh memory costs more than what is read into it."""
    memory: bytearray = getattr(_kept, name, bytearray())
    if len(memory) < size:
        memory = bytearray(size)
        setattr(_kept, name, memory)
    return memory
