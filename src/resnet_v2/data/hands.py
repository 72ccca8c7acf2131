"""Who makes the images of tasks: worker processes, or this process itself when it waits for them."""

import contextlib
import mmap
import os
import queue
import sys
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import cv2
import numpy as np

from resnet_v2.data.filling import NOTHING, Filler, Job, Task
from resnet_v2.data.kept import KeptFiller, kept_for
from resnet_v2.data.record_set import Records, SetRows
from resnet_v2.data.ring import Layout, Pin, Ring, Slots
from resnet_v2.data.workers import Done, Workers, workers
from resnet_v2.machine import free_memory, processors
from resnet_v2.portable import unnamed_file

WORKER_BYTES = 150 << 20  # what a worker takes when it reads large photographs
WORKERS_SHARE = 0.25  # of the memory that is free


def usual_workers(sharers: int, computes: bool) -> int:
    """How many workers are usually fastest for each of `sharers` processes, which may compute on these cores too."""
    cores = max(1, processors() // sharers)
    room = int(WORKERS_SHARE * free_memory() / sharers / WORKER_BYTES) or cores
    # A network on a CPU takes far longer than its images; one on a GPU wants a core that gives it its work.
    return max(1, min(cores // 2 if computes else cores - (cores > 4), room))


class Hands(Protocol):
    """Takes tasks and tells which are done."""

    def submit(self, task: Task) -> None:
        """Give a task to do."""

    def collect(self) -> list[Done]:
        """Tasks that are done, at least one of those that were given; waits for it."""


class _Own:
    """This process: a task is done when it is asked for."""

    def __init__(self, filler: Filler | KeptFiller) -> None:
        self._filler = filler
        self._tasks: deque[Task] = deque()

    def submit(self, task: Task) -> None:
        self._tasks.append(task)

    def collect(self) -> list[Done]:
        task = self._tasks.popleft()
        return [Done(task, self._filler.fill(task))]


class _Threads:
    """Threads of this process, where no files can be given to others (Windows)."""

    def __init__(self, filler: Filler, pool: ThreadPoolExecutor) -> None:
        self._filler, self._pool = filler, pool
        self._done: queue.SimpleQueue[Done | BaseException] = queue.SimpleQueue()

    def submit(self, task: Task) -> None:
        self._pool.submit(self._fill, task)

    def _fill(self, task: Task) -> None:
        try:
            self._done.put(Done(task, self._filler.fill(task)))
        except BaseException as error:
            self._done.put(error)

    def collect(self) -> list[Done]:
        found = self._done.get()
        if isinstance(found, BaseException):
            raise found
        return [found]


class _Processes:
    """Worker processes, which have the job under a number."""

    def __init__(self, pool: Workers, job: int) -> None:
        self._pool, self._job = pool, job

    def submit(self, task: Task) -> None:
        self._pool.submit(self._job, task)

    def collect(self) -> list[Done]:
        return self._pool.collect(self._job)


@contextlib.contextmanager
def hands(
    job: Job, reader: Records, rows: SetRows, layout: Layout, pin: Pin | None, count: int, sharers: int
) -> Iterator[tuple[Hands, Ring]]:
    """`count` workers for a job, 0: this process, and the ring that they fill.

    Small images that are only cropped and mirrored, which cost next to nothing, are this process's own in any case.
    `sharers`: how many processes do the same on this machine.
    """
    images = kept_for(job, reader, sharers)
    if images is not None or not count or sys.platform == "win32":
        cv2.setNumThreads(0)  # an image is too little work for several threads
        memory = mmap.mmap(-1, layout.bytes)
        progress = np.full(2, NOTHING)
        filler = Filler(job, [one.source for one in reader.readers], rows.sources, Slots(layout, memory), progress)
        if images is not None:
            yield _Own(KeptFiller(images, filler)), Ring(layout, memory, pin)
            return
        if not count:
            yield _Own(filler), Ring(layout, memory, pin)
            return
        pool = ThreadPoolExecutor(count, thread_name_prefix="loader")
        try:
            yield _Threads(filler, pool), Ring(layout, memory, pin)
        finally:
            # Nothing waits for them: the garbage collector may come here, amid what holds a lock that they need.
            pool.shutdown(wait=False, cancel_futures=True)
        return
    pool_of_processes = workers(count)
    shared = unnamed_file(layout.bytes)
    try:
        ring = Ring(layout, mmap.mmap(shared, layout.bytes), pin)
        sources = [one.source if isinstance(one.source, int) else None for one in reader.readers]
        number = pool_of_processes.begin(job, layout, shared, sources, rows.sources)
    finally:
        os.close(shared)
    try:
        yield _Processes(pool_of_processes, number), ring
    finally:
        pool_of_processes.end(number)
