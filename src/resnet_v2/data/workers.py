"""Worker processes: their start, their tasks, and what is said when one dies or hangs.

A task is 24 bytes in a pipe that all workers read, an answer 24 bytes in a worker's own: no image and no lock passes
between processes. They are started as programs of their own, so neither threads nor a script's main module matter, and
their memory has no name that could stay behind. Windows cannot give open files away; there `hands.py` takes threads.
"""

import atexit
import itertools
import mmap
import os
import pickle
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from resnet_v2.data import stages
from resnet_v2.data.filling import FILE_BITS, IMAGES, NOTHING, PLACE, Failure, Job, Task
from resnet_v2.data.ring import Layout
from resnet_v2.data.worker import BEATS, DONE, FILES, LETTER, SECONDS, TASK, WATCHED, Letter
from resnet_v2.errors import ResnetError
from resnet_v2.machine import waited_for_core
from resnet_v2.portable import unnamed_file

LOOK_SECONDS = 0.5  # between two looks at workers that are waited for
HANGING_SECONDS = 8.0  # without a beat, or within one image, and not for want of a core: then a worker hangs
END_SECONDS = 2.0
MORE = b"+"  # goes with files for which a message has no room


class Done(NamedTuple):
    """A task that is done, and what of it failed."""

    task: Task
    failures: list[Failure]


class Workers:
    """So many worker processes, which serve several jobs, one after the other or at once, until `close`."""

    def __init__(self, count: int) -> None:
        self._jobs = itertools.count(1)
        self._paths: dict[int, Job] = {}
        self._done: dict[int, list[Done]] = defaultdict(list)
        self._turn = threading.RLock()
        self._owner = os.getpid()
        self._watched_file = unnamed_file(8 * WATCHED * count)
        watched = mmap.mmap(self._watched_file, 0)
        self._watched = np.frombuffer(watched, np.int64).reshape(count, WATCHED)
        self._watched[:, PLACE] = NOTHING
        self._stuck = np.zeros(count)  # seconds without progress
        self._waited = np.zeros(count)  # seconds for which others had the cores
        self._seen = self._watched[:, : BEATS + 1].copy()
        read_end, self._tasks = os.pipe()
        os.set_blocking(read_end, False)  # type: ignore[attr-defined, unused-ignore]
        self._selector = selectors.DefaultSelector()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._letters: list[socket.socket] = []
        try:
            for number in range(count):
                self._start(number, read_end)
        finally:
            os.close(read_end)
        atexit.register(self.close)

    def _start(self, number: int, tasks: int) -> None:
        ours, theirs = socket.socketpair()
        answers, done = os.pipe()
        files = (tasks, theirs.fileno(), done, self._watched_file)
        arguments = [*map(str, files), str(number), str(os.getpid())]
        # The child looks for packages where this process does, also where a notebook or a test has changed that.
        program = f"import sys; sys.path[:] = {sys.path!r}; from resnet_v2.data.worker import main; "
        program += "main(*map(int, sys.argv[1:]))"
        process = subprocess.Popen(
            [sys.executable, "-c", program, *arguments], stdin=subprocess.DEVNULL, pass_fds=files
        )
        theirs.close()
        os.close(done)
        self._processes.append(process)
        self._letters.append(ours)
        self._selector.register(answers, selectors.EVENT_READ, number)

    def __len__(self) -> int:
        return len(self._processes)

    @property
    def closed(self) -> bool:
        """Whether they are no more, or are those of a process that forked this one."""
        return not self._processes or self._owner != os.getpid()

    @property
    def pids(self) -> list[int]:
        """The numbers of the processes."""
        return [process.pid for process in self._processes]

    def begin(
        self, job: Job, layout: Layout, memory: int, records: Sequence[int | None], segments: Sequence[int | None]
    ) -> int:
        """Make a job known, with the open files of its memory, of its records (None: it is remote) and segments (None:
        there are none).

        Returns its number.
        """
        files = [memory, *(file for file in (*records, *segments) if file is not None)]
        numbers = itertools.count(1)
        places = [[0 if file is None else next(numbers) for file in some] for some in (records, segments)]
        with self._turn:
            number = next(self._jobs)
            self._paths[number] = job
            text = pickle.dumps(tuple(Letter(job, layout, *places)))
            self._send(LETTER.pack(number, len(text), len(files)), files, text)
            return number

    def end(self, number: int) -> None:
        """Forget a job."""
        with self._turn:
            self._paths.pop(number, None)
            self._done.pop(number, None)
            if not self.closed:
                self._send(LETTER.pack(number, 0, 0), (), b"")

    def _send(self, head: bytes, files: Sequence[int], text: bytes) -> None:
        for number, letters in enumerate(self._letters):
            try:
                socket.send_fds(letters, [head], files[:FILES])  # type: ignore[attr-defined, unused-ignore]
                for start in range(FILES, len(files), FILES):
                    socket.send_fds(letters, [MORE], files[start : start + FILES])  # type: ignore[attr-defined, unused-ignore]
                letters.sendall(text)
            except OSError:
                raise self._ended(number) from None

    def submit(self, number: int, task: Task) -> None:
        """Give a task of a job to whichever worker is free first."""
        os.write(self._tasks, TASK.pack(number, *task, 0))

    def collect(self, number: int) -> list[Done]:
        """The tasks of a job that are done, at least one; a ResnetError for a worker that has died or hangs."""
        with self._turn:
            while not self._done[number]:
                ready = self._selector.select(LOOK_SECONDS)
                for key, _ in ready:
                    self._take(key.fd, key.data)
                if not ready:
                    self._look()
            done, self._done[number] = self._done[number], []
            self._stuck[:] = 0
            return done

    def _take(self, answers: int, worker: int) -> None:
        head = _read(answers, DONE.size)
        if len(head) < DONE.size:
            raise self._ended(worker)
        job, slot, first, count, size = DONE.unpack(head)
        text = _read(answers, size)
        if len(text) < size:
            raise self._ended(worker)
        found = pickle.loads(text) if size else []  # noqa: S301 (of our own worker)
        if isinstance(found, MemoryError):
            raise self._failed(f"a worker that reads {self._path(job)} has no memory left; give fewer `workers`.")
        if isinstance(found, Exception):
            raise found
        if job in self._paths:
            self._done[job].append(Done(Task(slot, first, count), found))

    def _look(self) -> None:
        """Count for how long each worker was seen without a beat, or amid the same image, though it had a core."""
        now = self._watched[:, : BEATS + 1].copy()
        beating = now[:, BEATS] != self._seen[:, BEATS]
        going_on = (now[:, IMAGES] != self._seen[:, IMAGES]) | (now[:, PLACE] == NOTHING)
        waited = np.array([waited_for_core(pid) for pid in self.pids])
        its_own = np.clip(LOOK_SECONDS - (waited - self._waited), 0, LOOK_SECONDS)
        self._waited = waited
        self._stuck = np.where(beating & going_on, 0, self._stuck + its_own)
        # Beats come as often as looks; one that is missed now and then is no sign.
        self._seen = np.where((beating & going_on)[:, None], now, self._seen)
        for worker in np.flatnonzero(self._stuck > HANGING_SECONDS).tolist():
            raise self._failed(f"a worker that reads {self._place(worker)} hangs; {self._advice()}")

    def _ended(self, worker: int) -> ResnetError:
        process = self._processes[worker]
        try:
            status = process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            status = 0
        place = self._place(worker)
        if status == -signal.SIGKILL:  # type: ignore[attr-defined, unused-ignore]
            return self._failed(f"a worker that reads {place} was killed; where memory is short, give fewer `workers`.")
        if status < 0:
            return self._failed(f"a worker that reads {place} was ended by {_name(-status)}; {self._advice()}")
        return self._failed(f"a worker that reads {place} ended with status {status}; what it printed says why.")

    def _place(self, worker: int) -> str:
        place, job = int(self._watched[worker, PLACE]), self._paths.get(max(self._paths, default=0))
        if place == NOTHING or job is None:
            return self._path(max(self._paths, default=0))
        return f"record {place & (1 << FILE_BITS) - 1} of {job.paths[place >> FILE_BITS]}"

    def _path(self, job: int) -> str:
        return str(self._paths[job].path) if job in self._paths else "records"

    def _advice(self) -> str:
        return f"`resnet-v2 verify --decode` tells whether {self._path(max(self._paths, default=0))} is sound."

    def _failed(self, sentence: str) -> ResnetError:
        self.close(at_once=True)
        return ResnetError(sentence[0].upper() + sentence[1:])

    def seconds(self) -> dict[str, float]:
        """The seconds of all workers by stage, since they began."""
        sums = self._watched[:, SECONDS:].view(np.float64).sum(0).tolist()
        return dict(zip(stages.NAMES, sums, strict=True))

    def close(self, at_once: bool = False) -> None:
        """End the processes; tasks that were begun are ended, others not."""
        if self.closed:
            return
        atexit.unregister(self.close)
        os.close(self._tasks)
        for letters in self._letters:
            letters.close()
        until = time.monotonic() + (0 if at_once else END_SECONDS)
        for process in self._processes:
            try:
                process.wait(max(0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for key in [*self._selector.get_map().values()]:
            os.close(key.fd)
        self._selector.close()
        os.close(self._watched_file)
        self._processes = []


def _read(answers: int, size: int) -> bytes:
    data = b""
    while len(data) < size and (more := os.read(answers, size - len(data))):
        data += more
    return data


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


_running: dict[int, Workers] = {}


def running(count: int) -> Workers | None:
    """The `count` workers of this process, if there are any."""
    return _running.get(count)


def workers(count: int) -> Workers:
    """The `count` workers of this process, which all its loaders use; they are started when there are none yet."""
    found = _running.get(count)
    if found is None or found.closed:
        found = _running[count] = Workers(count)
    return found
