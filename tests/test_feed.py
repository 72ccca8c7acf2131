"""Batches on their way to the device, with a GPU's streams and events played by stand-ins that keep a diary."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from resnet_v2.data.loader import Batch
from resnet_v2.training import feed as feeding
from resnet_v2.training.feed import STEPS_BEHIND, Fed, IdleClock, feed, pin_for

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def batches(count: int) -> Iterator[Batch]:
    for number in range(count):
        yield Batch(np.full((2, 4, 4, 3), number, np.uint8), np.full(2, number), np.arange(2) + 2 * number)


def test_on_the_cpu_batches_come_as_they_are_read() -> None:
    step = 0

    def counted() -> Iterator[Batch]:
        nonlocal step
        for batch in batches(3):
            step += 1
            yield batch

    for number, fed in enumerate(feed(counted(), CPU, lambda: {"step": step})):
        assert fed.images.shape == (2, 4, 4, 3)
        assert (fed.images == number).all()
        assert (fed.labels == number).all()
        assert fed.ordinals.tolist() == [2 * number, 2 * number + 1]
        assert fed.place == {"step": number + 1}
        assert step == number + 1  # nothing is read ahead that would be lost
        assert fed.waited >= 0
    assert number == 2
    assert pin_for(CPU) is None


class Diary(list[str]):
    """What the host does, in order."""


class Event:
    """An event of a GPU that is done only when the host waits for it."""

    diary: Diary
    count = 0

    def __init__(self, **_: object) -> None:
        Event.count += 1
        self.number = Event.count

    def record(self, *_: object) -> None:
        self.diary.append(f"record {self.number}")

    def synchronize(self) -> None:
        self.diary.append(f"wait {self.number}")

    def elapsed_time(self, other: "Event") -> float:
        return 1000.0 * (other.number - self.number)


class Stream:
    """A stream that notes whose copies it waits for."""

    def __init__(self, diary: Diary) -> None:
        self.diary = diary

    def wait_event(self, event: Event) -> None:
        self.diary.append(f"stream waits {event.number}")


@pytest.fixture
def diary(monkeypatch: pytest.MonkeyPatch) -> Diary:
    """torch.cuda, played; tensors stay on the CPU."""
    book = Diary()
    feeding._stream_of_copies.cache_clear()
    monkeypatch.setattr(Event, "diary", book, raising=False)
    monkeypatch.setattr(Event, "count", 0)
    stream = Stream(book)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: torch.no_grad())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: None)
    real = torch.Tensor.to

    def to(tensor: torch.Tensor, target: Any, **_: object) -> torch.Tensor:
        return real(tensor, CPU).clone()

    monkeypatch.setattr(torch.Tensor, "to", to)
    return book


def test_a_copy_is_under_way_before_the_batch_ahead_is_used(diary: Diary) -> None:
    read = 0

    def counted() -> Iterator[Batch]:
        nonlocal read
        for batch in batches(4):
            read += 1
            yield batch

    found: list[Fed] = []
    for fed in feed(counted(), GPU, lambda: {"step": read}):
        found.append(fed)
        diary.append(f"step {fed.place['step']}")
        assert read == min(4, fed.place["step"] + 1)  # one ahead, and the place is the batch's own
    assert [int(fed.images[0, 0, 0, 0]) for fed in found] == [0, 1, 2, 3]
    copied = [line for line in diary if line.startswith("stream waits")]
    # Events 1, 2, 4, 6 are of copies, 3, 5, 7, 8 of steps that begin.
    assert copied == ["stream waits 1", "stream waits 2", "stream waits 4", "stream waits 6"]
    assert diary.index("record 2") < diary.index("step 1")
    assert diary.index("stream waits 2") < diary.index("step 2")


def test_the_host_is_a_few_steps_ahead_at_most_and_holds_what_is_copied(diary: Diary) -> None:
    for fed in feed(batches(6), GPU):
        diary.append("step")
        assert fed.images.shape == (2, 4, 4, 3)
    waits = [place for place, line in enumerate(diary) if line.startswith("wait ")]
    # Before the copy for step k begins, step k - 1 - STEPS_BEHIND has begun on the GPU.
    assert len(waits) == 6 - 1 - STEPS_BEHIND
    assert diary[: waits[0]].count("step") == STEPS_BEHIND


def holds(entries: Iterable[tuple[Any, Any]], batch: Batch) -> bool:
    return any(held[0] is batch for _, held in entries)


def test_a_rank_may_have_nothing_to_do(diary: Diary) -> None:
    assert list(feed(batches(0), GPU)) == list(feed(batches(0), CPU)) == []
    assert not diary


def test_pinned_memory_is_held_until_its_step_begins(diary: Diary) -> None:
    copies = feeding._Copies(GPU)
    for number, batch in enumerate(batches(3)):
        images, labels = copies.start(batch)
        assert holds(copies._coming, batch), number
        copies.arrived(Fed(images, labels, batch.ordinals))
        assert holds(copies._begun, batch), number


def test_the_clock_counts_what_lies_between_steps(diary: Diary) -> None:
    clock = IdleClock(GPU)
    for _ in range(3):
        clock.step_begins()
        clock.step_ends()
    assert clock.seconds() == 2.0  # two gaps of one event each
    assert clock.seconds() == 0.0
    clock.step_begins()
    assert clock.seconds() == 1.0
    still = IdleClock(CPU)
    still.step_begins()
    still.step_ends()
    assert still.seconds() == 0.0


@pytest.mark.parametrize("status", [0, 1])
def test_memory_is_locked_where_that_is_allowed(monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    calls: list[tuple[object, ...]] = []

    class Runtime:
        def cudaHostRegister(self, *arguments: int) -> int:  # noqa: N802 (CUDA's name)
            calls.append(("lock", *arguments))
            return status

        def cudaHostUnregister(self, *arguments: int) -> None:  # noqa: N802
            calls.append(("unlock", *arguments))

    monkeypatch.setattr(torch.cuda, "cudart", Runtime)
    pin = pin_for(torch.device("cuda"))
    assert pin is not None
    pin(4096, 8192)()
    assert calls == [("lock", 4096, 8192, 0), ("unlock", 4096)][: 2 - status]
