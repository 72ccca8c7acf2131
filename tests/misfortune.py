"""What can befall a worker process amid its work, for tests; it imports nothing that a worker would not."""

import os
import signal
import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from resnet_v2.data.filling import Crops, Look, Whole
from resnet_v2.data.jpeg import Image
from resnet_v2.data.loader import Batch, Reading, batches
from resnet_v2.data.order import split
from resnet_v2.data.records import RecordReader
from resnet_v2.data.rows import Box

SIDE = 70  # pixels of the images: more than what is kept decoded


class Misfortune(NamedTuple):
    box: Box
    ordinal: int
    kind: str
    reduction: int = 1
    channels: int = 4

    def finish(self, pixels: Image, out: Image) -> None:
        out[:] = pixels[:, :, :3]
        if self.ordinal == 17 and self.kind == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if self.ordinal == 17 and self.kind == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.ordinal == 17 and self.kind == "hang":
            time.sleep(60)
        if self.ordinal == 17 and self.kind == "stopped":
            os.kill(os.getpid(), signal.SIGSTOP)
        if self.ordinal == 17 and self.kind == "memory":
            raise MemoryError
        if self.ordinal == 17 and self.kind == "exit":
            os._exit(3)
        if self.ordinal == 17 and self.kind == "error":
            raise OSError(5, "Input/output error", "a.rec")


@dataclass(frozen=True)
class Whole17:
    """The whole image; at record 17 something happens."""

    kind: str = ""

    def crops(self, ordinals: Whole, height: int, width: int) -> Crops | None:
        return None

    def looks(self, ordinals: Whole, heights: Whole, widths: Whole) -> list[Look]:
        return [Misfortune(Box(0, SIDE, 0, SIDE), ordinal, self.kind) for ordinal in ordinals.tolist()]


def stream(reader: RecordReader, kind: str = "", count: int = 2, batch_size: int = 4) -> Generator[Batch]:
    """Whole images in their order, made by `count` workers."""
    steps = split(np.arange(len(reader)), batch_size)
    return batches(reader, steps, Whole17(kind), (SIDE, SIDE, 3), 1, Reading(count))
