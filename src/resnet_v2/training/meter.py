"""What the steps of a run add up to: the sums that log lines are made of, and the loss that is no number."""

import math
import sys
import time
from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from resnet_v2.errors import ResnetError
from resnet_v2.training.distributed import Ranks

NAMED_RECORDS = 8  # of a step whose loss is no number


class Meter:
    """Sums over some steps of this rank; what a step gave stays on the device until it is read, so that no step waits.

    The sums are made on the host, in float64, which Apple's GPUs do not have. They start at 0 or where `state` of an
    earlier meter left off; the times start at 0 or where `set_clock` says.
    """

    def __init__(self, state: Mapping[str, float] | None = None) -> None:
        state = state or {}
        self._loss, self._correct = state.get("loss", 0.0), int(state.get("correct", 0))
        self.images, self.steps = int(state.get("images", 0)), int(state.get("steps", 0))
        self.waited = self.idle = 0.0
        self._unread: list[Tensor] = []
        self._started = time.perf_counter()

    def add(self, result: Tensor, images: int, waited: float) -> None:
        """Count a step of so many images that waited so many seconds for them; `result` is what `Trainer.step` gave."""
        self._unread.append(result)
        self.images += images
        self.steps += 1
        self.waited += waited

    def _sums(self) -> tuple[float, int]:
        unread, self._unread = self._unread, []
        for loss, correct in torch.stack(unread).tolist() if unread else []:
            self._loss += loss
            self._correct += int(correct)
        return self._loss, self._correct

    def state(self) -> dict[str, float]:
        """The sums, from which another meter goes on, as JSON holds them without loss."""
        loss, correct = self._sums()
        return {"loss": loss, "correct": correct, "images": self.images, "steps": self.steps}

    def clock(self) -> dict[str, float]:
        """The times in seconds: in all, waiting for data, and of a GPU that had nothing to do."""
        return {"seconds": time.perf_counter() - self._started, "waited": self.waited, "idle": self.idle}

    def set_clock(self, clock: Mapping[str, float]) -> None:
        """Go on from what `clock` of an earlier meter gave."""
        self._started = time.perf_counter() - clock["seconds"]
        self.waited, self.idle = clock["waited"], clock["idle"]

    def read(self, ranks: Ranks, device: torch.device, answers: int = 1) -> dict[str, float]:
        """Over all ranks: mean loss, accuracy (a share of all `answers` about each image) and images per second. Of
        this one: seconds, milliseconds per step, the share of time spent waiting for data and the most memory so far in
        MiB (of the GPU, if there is one); of a GPU also the share of time in which it had nothing to do.
        """
        mine = self._sums()
        loss, correct, images = ranks.total([mine[0], float(mine[1]), float(self.images)])
        seconds = time.perf_counter() - self._started
        measured = {
            "loss": loss / images,
            "accuracy": correct / (images * answers),
            "seconds": round(seconds, 3),
            "samples_per_second": round(images / seconds, 2),
            "step_ms": round(1000 * seconds / max(1, self.steps), 2),
            "data_wait": round(self.waited / seconds, 4),
            "memory_mib": round(peak_memory_mib(device), 1),
        }
        return measured | ({"gpu_idle": round(self.idle / seconds, 4)} if device.type == "cuda" else {})


def peak_memory_mib(device: torch.device) -> float:
    """The most memory taken so far: of a GPU by torch's allocator, else of the process; 0 where that is not told."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_reserved(device) / 2**20)
    if sys.platform == "win32":
        return 0.0
    try:
        import resource
    except ImportError:
        return 0.0
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


class Watch:
    """Remembers the loss of every step until `check`, which tells of one that is no number."""

    def __init__(self, prefix: str, ranks: Ranks) -> None:
        self._prefix, self._ranks = prefix, ranks
        self._steps: list[tuple[int, NDArray[Any], Tensor]] = []

    def add(self, step: int, ordinals: NDArray[Any], result: Tensor) -> None:
        """Remember a step, counted from 1, the records it took and what `Trainer.step` gave."""
        self._steps.append((step, ordinals, result))

    def check(self, epoch: int) -> None:
        """Raise ResnetError on all ranks when a loss was not finite on any, naming the step and its first records."""
        steps, self._steps = self._steps, []
        losses = torch.stack([result[0] for _, _, result in steps]).tolist() if steps else []
        bad = next((number for number, loss in enumerate(losses) if not math.isfinite(loss)), None)
        if not self._ranks.any(bad is not None):
            return
        if bad is None:
            raise ResnetError(f"Rank {self._ranks.rank} stops: the loss of another rank is no number.")
        step, ordinals, _ = steps[bad]
        records = ", ".join(map(str, ordinals[:NAMED_RECORDS])) + (", ..." if len(ordinals) > NAMED_RECORDS else "")
        raise ResnetError(
            f"The loss is {losses[bad]} in epoch {epoch}, batch {step} (records {records}): the run has diverged; go "
            f"on from the last checkpoint of {self._prefix} with a lower `lr`, or with `clip_norm` 1."
        )
