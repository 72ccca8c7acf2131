"""In which order images come, and which of them are a rank's."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

# No ordinal: the stream of an epoch's order is none of the images'.
ORDER = 1 << 63


def epoch_order(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The order of an epoch: a permutation of all ordinals that depends on (seed, epoch) alone."""
    key, counter = np.array([seed, epoch], np.uint64), np.array([0, 0, 0, ORDER], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter)).permutation(count)


def split(
    order: NDArray[np.int64],
    batch_size: int,
    rank: int = 0,
    world_size: int = 1,
    first_step: int = 0,
    together: int = 1,
) -> Iterator[NDArray[np.int64]]:
    """A rank's part of every step of `batch_size` ordinals, from a step on; parts differ by one ordinal at most.

    So many ordinals as are `together`, from the beginning of the step, stay on one rank; parts differ by as many.
    """
    for start in range(first_step * batch_size, len(order), batch_size):
        step = order[start : start + batch_size]
        groups = -(-len(step) // together)
        first, last = (together * (groups * one // world_size) for one in (rank, rank + 1))
        yield step[first:last]
