"""Records of object detection are refused by name wherever classes are meant."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from conftest import Run
from resnet_v2.data.boxes import has_boxes
from resnet_v2.data.records import IRHeader, pack
from test_convert import read, write

BOX = (2, 5, 1, 0.25, 0, 0.5, 1)


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (BOX, True),
        ((*BOX, 0, 0.5, 0.5, 0.75, 0.625), True),
        ((4, 6, 640, 480, 3, 0.25, 0.25, 0.5, 0.5, 1), True),
        ((2, 5, 1, 0, 1, 0, 1), False),
        ((2, 5, 7, 1, 3, 4, 9), False),
        ((2, 5, 1.5, 0.25, 0, 0.5, 1), False),
        ((*BOX, 1), False),
        ((2, 5), False),
        ((7, 5, 1, 0.25, 0, 0.5, 1), False),
        ((2, 5, np.nan, 0.25, 0, 0.5, 1), False),
        ((0, 1, 0, 0, 1, 0, 0), False),
    ],
)
def test_boxes_are_told_from_other_labels(labels: Sequence[float], told: bool) -> None:
    assert has_boxes(IRHeader(len(labels), np.array(labels, np.float32), 0, 0)) == told


def test_a_single_label_is_no_box() -> None:
    assert not has_boxes(IRHeader(0, 2.0, 0, 0))


@pytest.fixture
def rec(tmp_path: Path) -> Path:
    made = {n: pack(IRHeader(0, np.array(BOX, np.float32), n, 0), b"image" * 50) for n in range(6)}
    return write(tmp_path / "d" / "d_train.rec", made, names=("a", "b", "c"))


def test_they_are_refused_by_name(rec: Path, trained: str, tmp_path: Path, run: Run) -> None:
    write(rec.with_name("d_val.rec"), read(rec))
    for words in (
        ["train", "--data-dir", rec.parent, "--data-type", "d", "--depth", 8, "--gpus", ""],
        ["evaluate", "--prefix", trained, "--rec", rec, "--gpus", ""],
        ["unpack", rec, tmp_path / "out"],
        ["convert", rec, tmp_path / "b.rec", "--val-per-class", 1],
    ):
        status, _, err = run(*words)
        assert status == 2, words
        assert "holds records of object detection (boxes among the labels), which have no class; " in err, words
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d"]


def test_they_are_merged_and_shuffled(rec: Path, tmp_path: Path, run: Run) -> None:
    assert run("convert", rec, tmp_path / "b.rec", "--shuffle")[0] == 0
    assert read(tmp_path / "b.rec") == read(rec)


def test_they_are_refused_where_the_first_record_is_damaged(rec: Path, tmp_path: Path, run: Run) -> None:
    """A reader that skips it would take the header of boxes for a class."""
    data = bytearray(rec.read_bytes())
    data[0] ^= 1
    rec.write_bytes(data)
    status, _, err = run("predict", "--prefix", "cifar10-resnet-14", "--img", rec)
    assert (status, "holds records of object detection" in err) == (2, True)
