"""The ring: slots lie apart in memory, and are free again when nobody shows them."""

import gc
import mmap

import numpy as np
import pytest

from resnet_v2.data.ring import PAGE, Layout, Ring


def ring(slots: int = 3, rows: int = 5, pin: list[tuple[int, int]] | None = None) -> Ring:
    layout = Layout(slots, rows, (6, 7, 3))
    calls = pin if pin is not None else []

    def pinned(address: int, size: int) -> object:
        calls.append((address, size))
        return lambda: calls.append((0, 0))

    return Ring(layout, mmap.mmap(-1, layout.bytes), None if pin is None else pinned)  # type: ignore[arg-type]


def test_nothing_overlaps() -> None:
    made = ring()
    slots = made.slots
    tables = [
        slots.ordinals,
        slots.files,
        slots.numbers,
        slots.offsets,
        slots.segments_at,
        slots.segments,
        slots.labels,
    ]
    for number, table in enumerate(tables):
        table[:] = number
    for slot in range(3):
        slots.images[slot] = 100 + slot
    assert [int(table.min()) for table in tables] == [int(table.max()) for table in tables] == list(range(7))
    for slot in range(3):
        assert (slots.images[slot] == 100 + slot).all()
        assert slots.images[slot].ctypes.data % PAGE == 0
        assert slots.images[slot].flags.c_contiguous


def test_a_slot_is_free_when_no_array_shows_it() -> None:
    made = ring()
    slot = made.free.popleft()
    lent = made.lend(slot, 4)
    assert lent.shape == (4, 6, 7, 3)
    lent[:] = 9
    assert (made.slots.images[slot, :4] == 9).all()
    views = [lent[2:], lent.reshape(-1)[5:9], np.asarray(lent).transpose(0, 3, 1, 2)]
    del lent
    for _ in range(3):
        assert slot not in made.free
        views.pop()
    assert made.free[0] == slot


def test_memory_outlives_the_ring_while_it_is_shown() -> None:
    made = ring()
    made.slots.images[0] = 7
    lent = made.lend(made.free.popleft(), 5)
    del made
    gc.collect()
    assert (lent == 7).all()


def test_memory_is_locked_as_long_as_it_is_used() -> None:
    calls: list[tuple[int, int]] = []
    made = ring(pin=calls)
    address = made.slots.images.ctypes.data
    assert calls == [(address, 3 * made.layout.slot_bytes)]
    lent = made.lend(made.free.popleft(), 1)
    del made
    gc.collect()
    assert len(calls) == 1
    del lent
    gc.collect()
    assert calls[1:] == [(0, 0)]


@pytest.mark.parametrize("rows", [1, 100])
def test_a_layout_counts_all(rows: int) -> None:
    layout = Layout(2, rows, (10, 3))
    assert layout.bytes == layout.table_bytes + 2 * layout.slot_bytes
    assert layout.table_bytes >= 2 * rows * 48
    assert layout.slot_bytes >= rows * 30
    assert layout.bytes % PAGE == 0
