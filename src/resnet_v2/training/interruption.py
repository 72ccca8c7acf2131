"""A run that is told to stop finishes its step, saves where it is and says so.

SIGTERM and Ctrl-C tell it so, SIGHUP of a terminal that is closed, and SIGUSR1, by which a queue warns of the end.
"""

import signal
import threading
import time
from types import FrameType
from typing import Any

# A terminal and a launcher may both pass on one Ctrl-C; only a later one is meant to end the run at once.
SAME_PRESS_SECONDS = 2.0


STOPPING = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1") if hasattr(signal, name)]


class Stopped(Exception):  # noqa: N818 (nothing is wrong)
    """The run was told to stop and has saved where it is, as the sentence says; `status` is the exit status."""

    def __init__(self, received: int, sentence: str = "") -> None:
        super().__init__(sentence)
        self.status = 130 if received == signal.SIGINT else 0


class Interruption:
    """While open, what tells a run to stop is noted in `received` instead of ending the process; a second Ctrl-C ends
    it. What is ignored, as SIGHUP under nohup, stays ignored.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._at = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is not threading.main_thread():
            return self  # Python hands signals to its main thread alone
        for number in STOPPING:
            if signal.getsignal(number) != signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *raised: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.received is not None and number == signal.SIGINT and now - self._at > SAME_PRESS_SECONDS:
            raise KeyboardInterrupt
        if self.received is None:
            self.received, self._at = number, now
