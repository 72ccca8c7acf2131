"""A loader's batches on the device: to a GPU they are copied one ahead, from pinned memory, on their own stream."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resnet_v2.data.loader import Batch
from resnet_v2.data.ring import Pin

# Steps that a GPU may be behind the processor. More would only hold memory for their batches.
STEPS_BEHIND = 2


@dataclass(frozen=True)
class Fed:
    """Images (n x H x W x 3, uint8, RGB) and labels (n, int64) on the device, and the images' ordinals in the record.

    `place`: where the loader was when the batch came; `waited`: the seconds that the processor waited for it.
    """

    images: Tensor
    labels: Tensor
    ordinals: NDArray[np.int64]
    place: Mapping[str, int] = field(default_factory=dict)
    waited: float = 0.0


def pin_for(device: torch.device) -> Pin | None:
    """What locks the memory of a loader's batches for a device: a GPU copies it by itself then."""
    return _pin if device.type == "cuda" else None


def _pin(address: int, size: int) -> Callable[[], object]:
    """Page-lock memory; where the system does not allow it, copies only take longer. Returns what unlocks it."""
    runtime = torch.cuda.cudart()  # type: ignore[no-untyped-call]
    if int(runtime.cudaHostRegister(address, size, 0)):
        return lambda: None
    return partial(runtime.cudaHostUnregister, address)


def feed(
    batches: Iterator[Batch], device: torch.device, place: Callable[[], Mapping[str, int]] = dict
) -> Iterator[Fed]:
    """The batches on the device, each on its way before the one ahead is given out; `place` is asked as they come.

    The current stream waits for a batch's copy before it may use it.
    """
    copies = _Copies(device) if device.type == "cuda" else None
    ahead: Fed | None = None
    while True:
        begun = time.perf_counter()
        batch = next(batches, None)
        waited = time.perf_counter() - begun
        if batch is None:
            break
        images, labels = on_device(batch, device) if copies is None else copies.start(batch)
        coming = Fed(images, labels, batch.ordinals, place(), waited)
        if copies is None:
            yield coming
            continue
        if ahead is not None:
            yield copies.arrived(ahead)
        ahead = coming
    if copies is not None and ahead is not None:
        yield copies.arrived(ahead)


def on_device(batch: Batch, device: torch.device) -> tuple[Tensor, Tensor]:
    """Images and labels of a batch, copied at once where the device is not the CPU."""
    return torch.from_numpy(batch.images).to(device), torch.from_numpy(batch.labels).to(device)


def to_input(images: Tensor, memory_format: str = "channels-last") -> Tensor:
    """n x H x W x 3 uint8 -> n x 3 x H x W float32 on the same device, 0-255, in this memory format."""
    pixels = images.permute(0, 3, 1, 2).float()
    return pixels.contiguous() if memory_format == "contiguous" else pixels


def array_to_input(images: NDArray[np.uint8], device: torch.device) -> Tensor:
    """n x H x W x 3 uint8 on the CPU -> n x 3 x H x W float32 on the device, 0-255, channels-last."""
    return to_input(torch.from_numpy(images).to(device))


@cache
def _stream_of_copies(device: torch.device) -> torch.cuda.Stream:
    """One for all passes: torch keeps the memory of each stream for itself."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


class _Copies:
    """The stream of copies. What is copied from is held until the step that takes the copy begins on the GPU: numpy's
    arrays do not tell torch's allocator of pinned memory that they are in use.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._stream = device, _stream_of_copies(device)
        self._coming: deque[tuple[torch.cuda.Event, object]] = deque()
        self._begun: deque[tuple[torch.cuda.Event, object]] = deque()

    def start(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Begin to copy a batch, after the processor has waited for a GPU that is too far behind."""
        while len(self._begun) >= STEPS_BEHIND:
            self._begun.popleft()[0].synchronize()
        labels = torch.from_numpy(batch.labels).pin_memory()
        with torch.cuda.stream(self._stream):
            images_there = torch.from_numpy(batch.images).to(self._device, non_blocking=True)
            labels_there = labels.to(self._device, non_blocking=True)
            copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            copied.record()
        self._coming.append((copied, (batch, labels)))
        return images_there, labels_there

    def arrived(self, fed: Fed) -> Fed:
        """Let the current stream wait for the oldest copy, whose memory stays until that stream is done with it."""
        stream = torch.cuda.current_stream(self._device)
        copied, held = self._coming.popleft()
        stream.wait_event(copied)
        # Blocking: to wait for it leaves the core to the loader.
        begun = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        begun.record(stream)
        self._begun.append((begun, held))
        fed.images.record_stream(stream)
        fed.labels.record_stream(stream)
        return fed


class IdleClock:
    """How long a GPU had nothing to do between the steps, by events on its current stream; elsewhere 0."""

    def __init__(self, device: torch.device) -> None:
        self._on = device.type == "cuda"
        self._last_end: torch.cuda.Event | None = None
        self._gaps: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def step_begins(self) -> None:
        """The next thing that the stream is given is a step."""
        if self._on:
            begin = self._event()
            if self._last_end is not None:
                self._gaps.append((self._last_end, begin))

    def step_ends(self) -> None:
        """The last thing that the stream was given was a step."""
        if self._on:
            self._last_end = self._event()

    @staticmethod
    def _event() -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def seconds(self) -> float:
        """The seconds since it was last asked; waits for the last step."""
        gaps, self._gaps = self._gaps, []
        if gaps:
            gaps[-1][1].synchronize()
        return float(sum(end.elapsed_time(begin) for end, begin in gaps)) / 1000
