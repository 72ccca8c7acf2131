"""Random numbers of many images at once: NumPy's Philox4x64-10, keyed for each image, as array arithmetic.

A generator for each image costs more than all that is done with its numbers. Salmon et al., "Parallel random numbers:
as easy as 1, 2, 3" (2011), section 3.3; the numbers are those of `numpy.random.Philox`.
"""

from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]

MULTIPLIERS = np.array([[0xD2E7470EE14C6C93], [0xCA5A826395121157]], np.uint64)
WEYL = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
ROUNDS = 10
WORDS = 4  # of a counter, and of what one gives
HALF, LOW = np.uint64(32), np.uint64(0xFFFFFFFF)
HIGH_HALVES, LOW_HALVES = MULTIPLIERS >> HALF, MULTIPLIERS & LOW


@dataclass(frozen=True)
class Streams:
    """The random numbers of some images in one epoch; streams of different (seed, epoch, ordinal) never meet."""

    seed: int
    epoch: int
    ordinals: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ordinals)

    def of(self, places: NDArray[np.intp]) -> "Streams":
        """Those of some of the images."""
        return Streams(self.seed, self.epoch, self.ordinals[places])

    def uniform(self, count: int, first: int = 0) -> NDArray[np.float64]:
        """n x `count` numbers from 0 to below 1, from each stream's number `first` on, a multiple of 4."""
        blocks = -(-count // WORDS)
        words = _blocks((self.seed, self.epoch), self.ordinals, first // WORDS, blocks)
        return cast(NDArray[np.float64], (words[:, :count] >> np.uint64(11)) * 2.0**-53)


def _blocks(key: tuple[int, int], ordinals: NDArray[np.int64], first: int, blocks: int) -> Words:
    """n x 4 `blocks` random words: the counters are (block, 0, 0, ordinal), the first block being 1."""
    counts = np.broadcast_to(np.arange(1 + first, 1 + first + blocks, dtype=np.uint64), (len(ordinals), blocks))
    # Words 0 and 2, which are multiplied, and words 1 and 3: 2 x n * blocks each.
    even = np.stack([counts.ravel(), np.zeros(counts.size, np.uint64)])
    odd = np.stack([np.zeros(counts.size, np.uint64), ordinals.astype(np.uint64).repeat(blocks)])
    keys = np.array([[key[0]], [key[1]]], np.uint64)
    step = np.array([[WEYL[0]], [WEYL[1]]], np.uint64)
    for _ in range(ROUNDS):
        high, low = _product(even)
        even, odd = high[::-1] ^ odd ^ keys, low[::-1]
        keys = keys + step
    return np.stack([even[0], odd[0], even[1], odd[1]], axis=1).reshape(len(ordinals), WORDS * blocks)


def _product(words: Words) -> tuple[Words, Words]:
    """The high and the low 64 bits of each word times its multiplier."""
    low, high = words & LOW, words >> HALF
    below = LOW_HALVES * low
    middle = HIGH_HALVES * low + (below >> HALF)
    other = LOW_HALVES * high + (middle & LOW)
    return HIGH_HALVES * high + (middle >> HALF) + (other >> HALF), words * MULTIPLIERS
