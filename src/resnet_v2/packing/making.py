"""An image file of a list -> a record, in threads or, where there are many, in processes of their own.

Python's lock is held for a tenth of the time that an image takes: beyond a few threads they only wait for it. Processes
are started as programs, so neither threads nor a script's main module matter; they end when this process does.
"""

import contextlib
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue

import cv2

from resnet_v2.data.exact import exact_id
from resnet_v2.data.lists import ListEntry
from resnet_v2.data.records import IRHeader, pack
from resnet_v2.errors import ResnetError
from resnet_v2.packing.archives import ImageFiles
from resnet_v2.packing.photos import check_image
from resnet_v2.packing.rows_part import note
from resnet_v2.packing.shaping import Shape
from resnet_v2.packing.stores import Store

MOST_THREADS = 4  # more of them wait for Python's lock
WORTH_A_PROCESS = 200  # images for each: fewer are made before the processes have started
END_SECONDS = 2.0
Record = tuple[bytes, bytes]  # and what is noted of it for the `.rows`


class UnreadableError(ValueError):
    """The bytes are no image that can be read."""


@dataclass(frozen=True)
class Making:
    """What becomes of an image file: pixels of a shape, stored in a form; or with `pass_through` the very same."""

    shape: Shape
    store: Store
    pass_through: bool

    def record(self, entry: ListEntry, data: bytes) -> Record:
        """The record of an entry, of its image file's bytes; ValueError says why there is none."""
        try:
            if self.pass_through:
                check_image(data)
                return record_of(entry, data)
            pixels = self.shape.read(data, entry.index)
        except ValueError as error:
            raise UnreadableError(str(error)) from None
        return record_of(entry, self.store.encode(pixels))


def record_of(entry: ListEntry, image: bytes) -> Record:
    """The record of an entry and an image file; ValueError for a label that no record holds."""
    label = entry.labels[0] if len(entry.labels) == 1 else entry.labels
    record = pack(IRHeader(0, label, entry.index, exact_id(label)), image)
    return record, note(record)


def read_and_make(files: ImageFiles, make: Callable[[ListEntry, bytes], Record], entry: ListEntry) -> Record:
    """Read an entry's image file and make the record; a ResnetError names a file that is no image."""
    data = files.read(entry.path)
    try:
        return make(entry, data)
    except UnreadableError as error:
        place = files.place(entry.path)
        raise ResnetError(f"{place} is no readable image: {error}; replace or remove it.") from None


class Processes:
    """So many processes that make records as `making` does, for as many threads; a context manager ends them.

    ChildProcessError when one has died.
    """

    def __init__(self, making: Making, count: int) -> None:
        self._free: SimpleQueue[subprocess.Popen[bytes]] = SimpleQueue()
        self._all: list[subprocess.Popen[bytes]] = []
        program = f"import sys; sys.path[:] = {sys.path!r}; from resnet_v2.packing.making import main; main()"
        for _ in range(count):
            process = subprocess.Popen(
                [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=-1
            )
            self._all.append(process)
            self._free.put(process)
        for process in self._all:
            self._send(process, making)

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._all:
            process.terminate()
        for process in self._all:
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                with contextlib.suppress(OSError):  # of what was not sent to a process that has died
                    pipe.close()
            try:
                process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    @property
    def pids(self) -> list[int]:
        """The numbers of the processes."""
        return [process.pid for process in self._all]

    def make(self, entry: ListEntry, data: bytes) -> Record:
        """What `Making.record` gives, from whichever process is free; a thread asks for one record at a time."""
        process = self._free.get()
        try:
            self._send(process, (entry, data))
            assert process.stdout is not None
            answer = pickle.load(process.stdout)  # noqa: S301 (of our own process)
        except (OSError, EOFError, pickle.UnpicklingError):
            raise ChildProcessError(
                f"A process that packs {entry.path} was ended; where memory is short, give fewer `threads`."
            ) from None
        finally:
            self._free.put(process)
        if isinstance(answer, Exception):
            raise answer
        record: Record = answer
        return record

    @staticmethod
    def _send(process: subprocess.Popen[bytes], message: object) -> None:
        assert process.stdin is not None
        pickle.dump(message, process.stdin, pickle.HIGHEST_PROTOCOL)
        process.stdin.flush()


def main() -> None:
    """What a process does: a `Making`, then entries with their files' bytes, from standard input until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever asks is interrupted too, and ends this process
    cv2.setNumThreads(0)
    asked, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    try:
        make = partial(Making.record, pickle.load(asked))  # noqa: S301 (of our own process)
        while True:
            answer: object
            try:
                answer = make(*pickle.load(asked))  # noqa: S301
            except (ValueError, MemoryError) as error:
                answer = error
            except cv2.error as error:
                answer = ValueError(str(error))
            pickle.dump(answer, answers, pickle.HIGHEST_PROTOCOL)
            answers.flush()
    except (EOFError, OSError, pickle.UnpicklingError):  # whoever asked has ended
        os._exit(0)
