"""A worker process: takes tasks from a pipe that all workers read, makes their images in shared memory, says so.

It ends when its parent has ended, however that came. `workers.py` starts it, with its arguments as numbers.
"""

import contextlib
import mmap
import os
import pickle
import selectors
import signal
import socket
import struct
import sys
import threading
import time

import cv2
import numpy as np
from numpy.typing import NDArray

from resnet_v2.data import stages
from resnet_v2.data.filling import NOTHING, ORDINAL, Failure, Filler, Job, Task
from resnet_v2.data.ring import Layout, Slots

TASK = struct.Struct("<QIIII")  # job, slot, first row, count, nothing
DONE = struct.Struct("<QIIII")  # job, slot, first row, count, bytes of what follows
LETTER = struct.Struct("<QII")  # job, bytes of what follows, files sent with it
FILES = 3  # at most: the memory, the records unless they are remote, their segments

# Of each worker in the shared memory that the parent watches, 8 bytes each: `Filler.progress`, beats, and the seconds
# of each stage, which are float64.
BEATS, SECONDS = 2, 3
WATCHED = SECONDS + len(stages.NAMES)
BEAT_SECONDS = 0.5


def main(tasks: int, letters: int, done: int, watched: int, number: int, parent: int) -> None:
    """Serve tasks until there will be no more: four file descriptors, the worker's number and the parent's."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which ends this
    cv2.setNumThreads(0)  # there are as many workers as cores; OpenCV's own threads would only be in their way
    memory = mmap.mmap(watched, 0)
    mine: NDArray[np.int64] = np.frombuffer(memory, np.int64).reshape(-1, WATCHED)[number]
    mine[ORDINAL] = NOTHING
    threading.Thread(target=_beat, args=(mine, parent), daemon=True).start()
    with contextlib.suppress(BrokenPipeError, ConnectionError, EOFError):
        _serve(tasks, socket.socket(fileno=letters), done, mine)


def _beat(mine: NDArray[np.int64], parent: int) -> None:
    while os.getppid() == parent:
        mine[BEATS] += 1
        time.sleep(BEAT_SECONDS)
    os._exit(0)


def _serve(tasks: int, letters: socket.socket, done: int, mine: NDArray[np.int64]) -> None:
    fillers: dict[int, Filler] = {}
    newest = 0
    selector = selectors.DefaultSelector()
    for source in (tasks, letters):
        selector.register(source, selectors.EVENT_READ)
    while True:
        clock = time.perf_counter()
        ready = [key.fileobj for key, _ in selector.select()]
        if letters in ready:
            newest = max(newest, _take_letter(letters, fillers, mine))
            continue
        try:
            data = os.read(tasks, TASK.size)  # whole or nothing: so many bytes are written at once
        except BlockingIOError:
            continue  # another worker was faster
        if not data:
            return
        job, *rows, _ = TASK.unpack(data)
        while job > newest:  # its letter was sent before its tasks
            newest = max(newest, _take_letter(letters, fillers, mine))
        if job not in fillers:
            continue  # it has been ended
        stages.lap(stages.IDLE, clock)
        found = _answer(fillers[job], Task(*rows))
        mine[SECONDS:].view(np.float64)[:] = stages.seconds
        text = pickle.dumps(found) if found else b""
        os.write(done, DONE.pack(job, *rows, len(text)) + text)


def _answer(filler: Filler, task: Task) -> list[Failure] | Exception:
    try:
        return filler.fill(task)
    except Exception as error:  # the parent raises it
        return error


def _take_letter(letters: socket.socket, fillers: dict[int, Filler], mine: NDArray[np.int64]) -> int:
    """Begin a job, or end it when nothing follows; returns its number."""
    head, files, _, _ = socket.recv_fds(letters, LETTER.size, FILES, socket.MSG_WAITALL)  # type: ignore[attr-defined, unused-ignore]
    if len(head) < LETTER.size:
        raise EOFError
    job, size, _ = LETTER.unpack(head)
    if not size:
        fillers.pop(job, None)
        return int(job)
    text = b""
    while len(text) < size:
        more = letters.recv(size - len(text))
        if not more:
            raise EOFError
        text += more
    what, layout = pickle.loads(text)  # noqa: S301 (of the parent)
    fillers[job] = _filler(what, layout, files, mine)
    return int(job)


def _filler(job: Job, layout: Layout, files: list[int], mine: NDArray[np.int64]) -> Filler:
    memory = mmap.mmap(files[0], layout.bytes)
    os.close(files[0])
    records = files.pop(1) if job.remote is None else job.remote
    return Filler(job, records, files[1] if len(files) > 1 else None, Slots(layout, memory), mine[:BEATS])


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
