"""Where the time of loading goes, in seconds by stage."""

import time

NAMES = ("read", "prepare", "decode", "warp", "colour", "idle")
READ, PREPARE, DECODE, WARP, COLOUR, IDLE = range(len(NAMES))

seconds = [0.0] * len(NAMES)  # of this process, since it began


def lap(stage: int, since: float) -> float:
    """Count the seconds since a time of `time.perf_counter` for a stage; gives that of now."""
    now = time.perf_counter()
    seconds[stage] += now - since
    return now
