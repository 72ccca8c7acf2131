"""Random numbers of many images are those of NumPy's own generator for each."""

import numpy as np
import pytest

from resnet_v2.data.philox import Streams


def numpys(seed: int, epoch: int, ordinal: int) -> np.random.Generator:
    key, counter = np.array([seed, epoch], np.uint64), np.array([0, 0, 0, ordinal], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


@pytest.mark.parametrize(("seed", "epoch"), [(0, 0), (5, 6), (2**63 - 1, 10**6)])
def test_numbers_are_numpys(seed: int, epoch: int) -> None:
    ordinals = np.array([0, 1, 7, 1 << 31, 1 << 32, (1 << 63) - 1])
    found = Streams(seed, epoch, ordinals).uniform(41)
    for numbers, ordinal in zip(found, ordinals.tolist(), strict=True):
        assert np.array_equal(numbers, numpys(seed, epoch, ordinal).random(41))


def test_a_stream_can_begin_later_and_for_some() -> None:
    streams = Streams(1, 2, np.arange(20))
    whole = streams.uniform(24)
    assert np.array_equal(streams.uniform(9, first=8), whole[:, 8:17])
    assert np.array_equal(streams.of(np.array([3, 11])).uniform(24), whole[[3, 11]])
    assert streams.of(np.array([], np.intp)).uniform(4).shape == (0, 4)


def test_streams_differ_by_seed_epoch_and_ordinal() -> None:
    keys = [(seed, epoch) for seed in range(3) for epoch in range(3)]
    found = {tuple(numbers) for key in keys for numbers in Streams(*key, np.arange(3)).uniform(4).tolist()}
    assert len(found) == 27
