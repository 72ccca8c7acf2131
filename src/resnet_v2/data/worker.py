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
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from resnet_v2.data import stages
from resnet_v2.data.filling import NOTHING, PLACE, Failure, Filler, Job, Task
from resnet_v2.data.ring import Layout, Slots
from resnet_v2.data.source import Source

TASK = struct.Struct("<QIIII")  # job, slot, first row, count, nothing
DONE = struct.Struct("<QIIII")  # job, slot, first row, count, bytes of what follows
LETTER = struct.Struct("<QII")  # job, bytes of what follows, files sent with it
FILES = 250  # at most in one message: Linux takes 253

# Of each worker in the shared memory that the parent watches, 8 bytes each: `Filler.progress`, beats, and the seconds
# of each stage, which are float64.
BEATS, SECONDS = 2, 3
WATCHED = SECONDS + len(stages.NAMES)
BEAT_SECONDS = 0.5


class Letter(NamedTuple):
    """A job, and which of the files that come with it are the records and the segments of each file of the set.

    File 0 is the memory, and as a number: none.
    """

    job: Job
    layout: Layout
    records: list[int]
    segments: list[int]


def main(tasks: int, letters: int, done: int, watched: int, number: int, parent: int) -> None:
    """Serve tasks until there will be no more: four file descriptors, the worker's number and the parent's."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which ends this
    cv2.setNumThreads(0)  # there are as many workers as cores; OpenCV's own threads would only be in their way
    memory = mmap.mmap(watched, 0)
    mine: NDArray[np.int64] = np.frombuffer(memory, np.int64).reshape(-1, WATCHED)[number]
    mine[PLACE] = NOTHING
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
    files: dict[int, list[int]] = {}  # that a job keeps open
    newest = 0
    selector = selectors.DefaultSelector()
    for source in (tasks, letters):
        selector.register(source, selectors.EVENT_READ)
    while True:
        clock = time.perf_counter()
        ready = [key.fileobj for key, _ in selector.select()]
        if letters in ready:
            newest = max(newest, _take_letter(letters, fillers, files, mine))
            continue
        try:
            data = os.read(tasks, TASK.size)  # whole or nothing: so many bytes are written at once
        except BlockingIOError:
            continue  # another worker was faster
        if not data:
            return
        job, *rows, _ = TASK.unpack(data)
        while job > newest:  # its letter was sent before its tasks
            newest = max(newest, _take_letter(letters, fillers, files, mine))
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


def _take_letter(
    letters: socket.socket, fillers: dict[int, Filler], open_files: dict[int, list[int]], mine: NDArray[np.int64]
) -> int:
    """Begin a job, or end it when nothing follows; returns its number."""
    head, files = _receive(letters, LETTER.size)
    if len(head) < LETTER.size:
        raise EOFError
    job, size, count = LETTER.unpack(head)
    if not size:
        fillers.pop(job, None)
        for file in open_files.pop(job, []):
            os.close(file)
        return int(job)
    while len(files) < count:
        head, more_files = _receive(letters, 1)
        if not head:
            raise EOFError
        files += more_files
    text = b""
    while len(text) < size:
        more = letters.recv(size - len(text))
        if not more:
            raise EOFError
        text += more
    fillers[job] = _filler(Letter(*pickle.loads(text)), files, mine)  # noqa: S301 (of the parent)
    open_files[job] = files[1:]
    return int(job)


def _receive(letters: socket.socket, size: int) -> tuple[bytes, list[int]]:
    head, files, _, _ = socket.recv_fds(letters, size, FILES, socket.MSG_WAITALL)  # type: ignore[attr-defined, unused-ignore]
    return head, list(files)


def _filler(letter: Letter, files: list[int], mine: NDArray[np.int64]) -> Filler:
    memory = mmap.mmap(files[0], letter.layout.bytes)
    os.close(files[0])
    records: list[Source] = []
    for number, remote in zip(letter.records, letter.job.remotes, strict=True):
        records.append(files[number] if remote is None else remote)
    segments = [files[number] if number else None for number in letter.segments]
    return Filler(letter.job, records, segments, Slots(letter.layout, memory), mine[:BEATS])


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
