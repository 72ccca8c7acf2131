"""What glibc does with memory that tensors leave: keep it, which is fast, or give it back, which is frugal.

Both settings are for the whole process and for glibc alone; elsewhere nothing happens. `man 3 mallopt` explains them.
"""

import contextlib
import ctypes

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -2, -3, -4


def keep_freed_memory() -> None:
    """From now on freed memory stays with the process for the next step.

    By default large blocks go back to the system at once, which hands out the next ones page by page and zeroed: more
    than a third of a training step's time on the CPU.
    """
    _set((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 2**28))


def give_back_freed_memory() -> None:
    """From now on blocks from 1 MiB on leave the process when they are freed.

    By default glibc keeps freed blocks up to 32 MiB, in pieces that later tensors do not fit: 1 GB of a 12 GB budget.
    """
    _set((_M_MMAP_THRESHOLD, 2**20))


def _set(*options: tuple[int, int]) -> None:
    with contextlib.suppress(OSError, AttributeError, TypeError):  # a TypeError on Windows
        library = ctypes.CDLL(None)
        for name, value in options:
            library.mallopt(name, value)
