"""Where the time of loading goes, in seconds by stage."""

import contextlib
import time
from collections.abc import Iterator

NAMES = ("read", "prepare", "decode", "warp", "colour", "idle")
READ, PREPARE, DECODE, WARP, COLOUR, IDLE = range(len(NAMES))

seconds = [0.0] * len(NAMES)  # of this process, since it began


@contextlib.contextmanager
def prepared() -> Iterator[None]:
    """Count as preparing what of a block's time goes to no other stage."""
    started, counted = time.perf_counter(), sum(seconds)
    try:
        yield
    finally:
        seconds[PREPARE] += time.perf_counter() - started - (sum(seconds) - counted)


def lap(stage: int, since: float) -> float:
    """Count the seconds since a time of `time.perf_counter` for a stage; gives that of now."""
    now = time.perf_counter()
    seconds[stage] += now - since
    return now
