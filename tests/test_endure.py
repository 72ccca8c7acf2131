"""A few kills of each kind; `make endure` makes a thousand."""

from pathlib import Path

import pytest

import endure

FEW = {"train": 2, "data": 6, "pack": 6, "fetch": 3}
MORE = {
    "ranks": 6,
    "changing-ranks": 6,
    "launched": 2,
    "clock": 4,
    "train": 20,
    "records": 8,
    "rewrite": 4,
    "signals": 4,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return endure.small_data(tmp_path_factory.mktemp("data") / "digits")


@pytest.mark.parametrize("kind", FEW)
def test_killed_at_random_nothing_is_lost(kind: str, data: Path) -> None:
    scene = endure.endure(kind, FEW[kind], data, seed=1)
    assert not scene.faults
    assert scene.kills >= FEW[kind]


@pytest.mark.slow
@pytest.mark.parametrize("kind", MORE)
def test_killed_more_often_nothing_is_lost(kind: str, data: Path) -> None:
    scene = endure.endure(kind, MORE[kind], data, seed=2)
    assert not scene.faults
    assert scene.kills >= MORE[kind]


def test_all_kinds_are_tried() -> None:
    assert FEW.keys() | MORE.keys() == endure.KINDS.keys()
