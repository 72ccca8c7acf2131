"""What a person sees while something works. A terminal that is closed, or a reader who has gone, ends nothing."""

import contextlib
import os
import shlex
import sys
import time
from collections.abc import Iterable, Iterator
from typing import IO, Self, TypeVar

from tqdm import tqdm

# How long a file or a pipe is silent: at first the less, then a quarter of the time so far, never more than the other.
SHORTEST_SILENCE, LONGEST_SILENCE = 3.0, 20.0
REDRAWN = 0.1  # seconds between two looks at a bar
Unit = TypeVar("Unit")


def have_streams() -> None:
    """Where a process was started without standard input, output or error, they lead nowhere.

    Else the next files that are opened get their numbers, and what a library prints would stand in a checkpoint.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free is this one
        if getattr(sys, name) is None:
            mode = "w" if number else "r"
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", errors="surrogateescape", closefd=False))


def counted(count: int, noun: str) -> str:
    """A number and what it counts: `1 image`, `2 images`, `0 classes`, `3 identities`."""
    if count == 1:
        return f"1 {noun}"
    if noun.endswith("y"):
        return f"{count} {noun[:-1]}ies"
    return f"{count} {noun}{'es' if noun.endswith('ss') else 's'}"


def agreeing(count: int, one: str, several: str) -> str:
    """The word that goes with a number of things: `is` with one, `are` with none or several."""
    return one if count == 1 else several


def lasting(seconds: float) -> str:
    """A time as people say it: `40 s`, `12 min`, `52 h 3 min`."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def say(sentence: str) -> None:
    """A sentence beside what a command answers, on the standard error."""
    with _whoever_reads(sys.stderr) as stream:
        tqdm.write(sentence, file=stream)


def echo(line: str) -> None:
    """A line on the standard output, seen at once in a file or a pipe too."""
    with _whoever_reads(sys.stdout) as stream:
        tqdm.write(line, file=stream)


def suggest(*words: object) -> None:
    """What to do next: a command to paste, on the standard error."""
    say(f"next: {shlex.join(map(str, words))}")


def lead_nowhere(stream: IO[str]) -> None:
    """Nobody reads this stream any more: what Python still holds back, and all that comes, goes nowhere."""
    with contextlib.suppress(OSError, ValueError):  # it may be no file at all
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


@contextlib.contextmanager
def _whoever_reads(stream: IO[str]) -> Iterator[IO[str]]:
    try:
        yield stream
        stream.flush()
    except OSError:  # a pipe without a reader, a terminal that is closed, a full disk
        lead_nowhere(stream)


class Progress:
    """How far something of `total` units is (0: unknown): a bar on a terminal, elsewhere lines, seconds apart.

    Both tell the time that is left. The unit `B` is told in MB.
    """

    def __init__(self, what: str, total: int, unit: str = "img", done: int = 0, shown: bool = True) -> None:
        self._what, self._total, self._unit = what, total, unit
        self._done = self._before = done
        self._begun = self._told = time.monotonic()
        self._lines = shown and not sys.stderr.isatty()
        self._bar = tqdm(
            total=total or None,
            initial=done,
            desc=what,
            unit=unit,
            unit_scale=unit == "B",
            leave=False,
            mininterval=0.5,
            disable=self._lines or not shown,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        with _whoever_reads(sys.stderr):
            self._bar.update(self._done - self._bar.n)  # what came after the last look
            self._bar.close()

    def update(self, count: int, note: str = "") -> None:
        """So many more are done; `note` stands behind them from now on."""
        self._done += count
        now = time.monotonic()
        silence = min(LONGEST_SILENCE, max(SHORTEST_SILENCE, (now - self._begun) / 4)) if self._lines else REDRAWN
        if not note and now - self._told < silence:
            return  # millions of units are no reason to write millions of times
        if not self._lines:
            self._told = now
            self._draw(note)
        elif now - self._told >= silence:
            self._told = now
            say(self._line(now))

    def over(self, units: Iterable[Unit]) -> Iterator[Unit]:
        """The units one by one; each is done when the next one is asked for."""
        for unit in units:
            yield unit
            self.update(1)

    def _draw(self, note: str) -> None:
        with _whoever_reads(sys.stderr):
            if note:
                self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(self._done - self._bar.n)

    def _line(self, now: float) -> str:
        size, unit, digits = (1e6, "MB", ".1f") if self._unit == "B" else (1, self._unit, "d")
        done, speed = self._done / size, (self._done - self._before) / (now - self._begun) / size
        of = f" of {self._total / size if size > 1 else self._total:{digits}}" if self._total else ""
        told = f"{self._what}: {done if size > 1 else self._done:{digits}}{of} {unit}, {speed:.1f} {unit}/s"
        if not self._total or not speed or self._done >= self._total:
            return told
        return f"{told}, {tqdm.format_interval((self._total - self._done) / size / speed)} left"


def following(units: Iterable[Unit], what: str, total: int, unit: str = "img", done: int = 0) -> Iterator[Unit]:
    """The units one by one, with progress."""
    with Progress(what, total, unit, done) as progress:
        yield from progress.over(units)
