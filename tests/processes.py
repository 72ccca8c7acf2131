"""Commands in processes of their own, which can be interrupted and killed.

They are forked from a process that has imported torch, so one starts in a moment and not in seconds. What only a new
Python shows (`python -m resnet_v2`, launchers, what is imported) is tested with `subprocess`.
"""

import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

# Nothing takes so long unless it hangs, however busy the machine is.
PATIENCE_SECONDS = 900

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["resnet_v2.training.fit", "resnet_v2.inference.predict", "matplotlib.figure", "pytest"])


def wait_until(happened: Callable[[], Any], what: str, pause_seconds: float = 0.01) -> None:
    """Look again and again until something has happened; AssertionError, which names it, when it never does."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not happened():
        assert time.monotonic() < deadline, f"{what}: not within {PATIENCE_SECONDS} s"
        time.sleep(pause_seconds)


class Command:
    """A command line of `resnet-v2` that runs in `folder`; its output and its errors go to one file.

    `work` is what is done with its words, `perform` where it is not given.
    """

    def __init__(
        self, words: Sequence[object], folder: Path, work: Callable[[list[str]], int] | None = None, **environment: str
    ) -> None:
        with tempfile.NamedTemporaryFile(prefix="resnet-v2-output-", delete=False) as file:
            self._output = Path(file.name)
        folder.mkdir(exist_ok=True)
        arguments = (work or perform, [str(word) for word in words], folder, os.environ | environment, self._output)
        self._process = SERVER.Process(target=_begin, args=arguments, daemon=True)
        self._process.start()

    @property
    def pid(self) -> int:
        """The number of the process."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.is_alive()

    @property
    def output(self) -> str:
        """What it has printed so far."""
        return self._output.read_text(encoding="utf-8", errors="replace")

    def wait_for(self, happened: Callable[[], Any], what: str, pause_seconds: float = 0.01) -> None:
        """Wait until something has happened; AssertionError when the command ends before."""

        def happened_or_ended() -> bool:
            return bool(happened()) or not self.running

        wait_until(happened_or_ended, what, pause_seconds)
        assert happened(), f"{what}: it ended before\n{self.output}"

    def send_signal(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it, which must be what ends it."""
        self.send_signal(signal.SIGKILL)
        assert self.finish()[0] == -signal.SIGKILL

    def finish(self) -> tuple[int, str]:
        """Wait for its end: exit status and output."""
        self._process.join(PATIENCE_SECONDS)
        status = self._process.exitcode
        assert status is not None, f"it does not end\n{self.output}"
        output = self.output
        self._process.close()
        self._output.unlink()
        return status, output


def _begin(
    work: Callable[[list[str]], int], words: list[str], folder: Path, environment: Mapping[str, str], output: Path
) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    with output.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = ["resnet-v2", *words]
    sys.exit(work(words))


def perform(words: list[str]) -> int:
    """The command line."""
    from resnet_v2 import cli

    return cli.main(words)


def perform_on_a_slow_disk(words: list[str]) -> int:
    """The command line, where it takes a moment until a file has reached the disk."""
    flush = os.fsync

    def flush_slowly(descriptor: int) -> None:
        time.sleep(0.02)
        flush(descriptor)

    with mock.patch.object(os, "fsync", flush_slowly):
        return perform(words)
