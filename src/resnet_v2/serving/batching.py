"""Pictures that come one by one -> batches for the network."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from resnet_v2.data.jpeg import Image
from resnet_v2.inference.engines import Images

Row: TypeAlias = NDArray[np.float64]
Work = Callable[[Images], NDArray[np.float64]]


def batch_sizes(most: int) -> list[int]:
    """1, 2, 4 and so on, and `most`: few, because engines prepare themselves for each size anew."""
    return sorted({2**power for power in range(most.bit_length())} | {most})


class Batcher:
    """What `work` makes of crops, given to it as many at a time as are there, in one thread.

    While it works on some, others gather. A crop that comes alone waits `wait_seconds` for others. `seen` is told the
    size of each batch.
    """

    def __init__(self, work: Work, most: int, wait_seconds: float, seen: Callable[[int], None]) -> None:
        self._work, self._sizes, self._wait_seconds, self._seen = work, batch_sizes(most), wait_seconds, seen
        self._waiting: list[tuple[Image, asyncio.Future[Row]]] = []
        self._news = asyncio.Event()

    async def row(self, crop: Image) -> Row:
        """What `work` makes of one crop; whatever it raises is raised here."""
        future: asyncio.Future[Row] = asyncio.get_running_loop().create_future()
        self._waiting.append((crop, future))
        self._news.set()
        return await future

    async def run(self) -> None:
        """Work until it is cancelled."""
        with ThreadPoolExecutor(1, thread_name_prefix="network") as thread:
            while True:
                await self._news.wait()
                if len(self._waiting) < self._sizes[-1]:
                    await asyncio.sleep(self._wait_seconds)
                await self._answer_some(thread)

    async def _answer_some(self, thread: ThreadPoolExecutor) -> None:
        waiting = [one for one in self._waiting if not one[1].done()]  # the others have gone
        size = max([size for size in self._sizes if size <= len(waiting)], default=0)
        batch, self._waiting = waiting[:size], waiting[size:]
        if not self._waiting:
            self._news.clear()
        if not batch:
            return
        self._seen(size)
        crops, futures = zip(*batch, strict=True)
        try:
            rows = await asyncio.get_running_loop().run_in_executor(thread, self._work, np.stack(crops))
        except Exception as error:  # each of those who wait is told
            outcomes: list[Row | Exception] = [error] * size
        else:
            outcomes = list(rows)
        for future, outcome in zip(futures, outcomes, strict=True):
            if future.done():
                continue
            if isinstance(outcome, Exception):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)
