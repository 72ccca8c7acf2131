"""The memory that batches are made in: a ring of slots, a batch each, which processes share and nobody copies."""

import math
import mmap
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PAGE = 4096
COLUMNS = 8  # of int64 for each image: what a `Slot` holds beside the pixels

# Keeps memory, by its address and its bytes, where it is, so that a GPU copies from it by itself; gives what ends that.
Pin = Callable[[int, int], Callable[[], object]]


@dataclass(frozen=True)
class Layout:
    """How many slots, how many images in each, the shape of what an image becomes (uint8), and how many numbers it has
    as labels where they are not one class.
    """

    slots: int
    rows: int
    shape: tuple[int, ...]
    labels: int = 0

    @property
    def table_bytes(self) -> int:
        """Of all that lies before the images, in whole pages."""
        return -(-self.slots * self.rows * (COLUMNS * 8 + self.labels * 4) // PAGE) * PAGE

    @property
    def slot_bytes(self) -> int:
        """Of the images of a slot, in whole pages."""
        return -(-self.rows * math.prod(self.shape) // PAGE) * PAGE

    @property
    def bytes(self) -> int:
        """Of all."""
        return self.table_bytes + self.slots * self.slot_bytes


class Slots:
    """Views of the memory. By slot and row: an image's ordinal, the number of its file and that of its record there,
    where the record and its segments begin (bytes), how many segments, and, once they are there, the byte behind the
    record, its label or several (float32), and its pixels.
    """

    def __init__(self, layout: Layout, memory: mmap.mmap) -> None:
        count = layout.slots * layout.rows
        table = np.frombuffer(memory, np.int64, count * COLUMNS).reshape(COLUMNS, layout.slots, layout.rows)
        self.ordinals, self.files, self.numbers, self.offsets, self.segments_at, self.segments = table[:6]
        self.ends, self.labels = table[6:]
        several = np.frombuffer(memory, np.float32, count * layout.labels, count * COLUMNS * 8)
        self.several = several.reshape(layout.slots, layout.rows, layout.labels)
        pixels = np.frombuffer(memory, np.uint8, layout.slots * layout.slot_bytes, layout.table_bytes)
        used = pixels.reshape(layout.slots, -1)[:, : layout.rows * math.prod(layout.shape)]
        self.images = used.reshape(layout.slots, layout.rows, *layout.shape)


class Ring:
    """Slots and which of them are free. A slot that was lent is free again when nobody has its array any more."""

    def __init__(self, layout: Layout, memory: mmap.mmap, pin: Pin | None = None) -> None:
        self.layout, self.slots = layout, Slots(layout, memory)
        self.free: deque[int] = deque(range(layout.slots))
        if pin is not None:
            weakref.finalize(self, pin(self.slots.images.ctypes.data, layout.slots * layout.slot_bytes))

    def lend(self, slot: int, rows: int) -> NDArray[np.uint8]:
        """The first images of a slot, without a copy."""
        return np.asarray(_Lent(self, slot, self.slots.images[slot, :rows]))


class _Lent:
    """What an array of a slot, and each view of that, keeps as long as it is there."""

    def __init__(self, ring: Ring, slot: int, images: NDArray[np.uint8]) -> None:
        self._ring, self._slot = ring, slot
        self.__array_interface__ = images.__array_interface__

    def __del__(self) -> None:
        self._ring.free.appendleft(self._slot)  # the one used last is still in the processor's cache
