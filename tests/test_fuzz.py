"""Every input that ever failed, and some new ones for each reader; `make fuzz` makes ten million."""

import time
from pathlib import Path

import pytest

import fuzz

TARGETS = {target.name: target for target in fuzz.TARGETS}
KEPT = [path for path in sorted(fuzz.CORPUS.glob("*/*")) if path.is_file()]


@pytest.mark.parametrize("name", sorted({path.parent.name for path in KEPT}))
def test_what_once_failed_does_not(name: str) -> None:
    target = TARGETS[name]
    with fuzz.Place() as place:
        parse = target.parse(place)
        for path in (path for path in KEPT if path.parent.name == name):
            fuzz.check(target, parse, path.read_bytes(), measure=True)


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_files_are_taken_or_refused(name: str) -> None:
    inputs = 100 + 2 * TARGETS[name].share
    result = fuzz.run(TARGETS[name], inputs, seed=1, keep=False)
    assert (result.inputs, result.findings) == (inputs, 0)
    assert result.mebibytes < 200


def test_a_reader_that_fails_is_found() -> None:
    """By a wrong kind of error, an error without a word, memory, time, and an oracle."""
    started = time.process_time()

    def careless(data: bytes) -> None:
        if data == b"type":
            raise TypeError
        if data == b"word":
            raise ValueError
        if data == b"memory":
            bytes(100 << 20)
        while data == b"slow" and time.process_time() < started + 2.5:
            pass
        assert data != b"oracle"

    target = fuzz.Target("careless", 1, lambda: [b"x"], fuzz.damage_bytes, lambda place: careless, (ValueError,))
    assert fuzz.check(target, careless, b"x", measure=True)
    for data in (b"type", b"word", b"memory", b"oracle", b"slow"):
        with pytest.raises((TypeError, AssertionError)):
            fuzz.check(target, careless, data, measure=data != b"slow")


def test_the_corpus_is_there() -> None:
    assert len(KEPT) > 20
    assert all(isinstance(path, Path) and path.stat().st_size < 1 << 16 for path in KEPT)
