"""Some damaged records of every form; `tests/damaged.py --records 10000` makes more."""

import random
from typing import Any

import pytest

import damaged
from resnet_v2.errors import ResnetError
from resnet_v2.packing import verify

FORMS = damaged.forms()
EACH = 3


@pytest.mark.parametrize("name", FORMS)
def test_damage_is_named_or_skipped(name: str) -> None:
    tally = damaged.run(FORMS, name, EACH, seed=1)
    assert (tally.records, tally.faults) == (EACH, [])


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMS)
def test_more_damage_is_named_or_skipped(name: str) -> None:
    tally = damaged.run(FORMS, name, 40, seed=2)
    assert (tally.records, tally.faults) == (40, [])


def test_a_reader_that_fails_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """By another error, two lines, no name of a file, and a finding that is missing."""
    heard = damaged.hear(lambda said: said.append("a sentence"))
    assert (heard.said, heard.refused) == (["a sentence"], False)

    def careless(error: Exception) -> Any:
        def work(said: list[str]) -> None:
            raise error

        return work

    with pytest.raises(damaged.FaultError, match="no sentence"):
        damaged.hear(careless(ResnetError("two lines\nare one too many for a sentence")))
    with pytest.raises(damaged.FaultError, match="without a file"):
        damaged.hear(careless(OSError(22, "Invalid argument")))
    with pytest.raises(ZeroDivisionError):
        damaged.hear(careless(ZeroDivisionError()))
    monkeypatch.setattr(verify._Judge, "contents", lambda self, *_: setattr(self, "_listed", None))
    assert damaged.run(FORMS, "plain", 12, seed=0).faults


def test_every_kind_of_damage_changes_files() -> None:
    form = FORMS["pattern"]
    at = damaged.places(form.files)
    foreign = FORMS["list"].files
    for kind in damaged.KINDS:
        changed = 0
        for seed in range(10):
            files = dict(form.files)
            assert kind(files, at, foreign, random.Random(seed)).files
            changed += files != form.files
        assert changed > 5, kind
