"""Pictures that look alike are found and stay on one side of a split; others are not taken for alike."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from conftest import Run, picture
from resnet_v2.data.lists import read_list
from resnet_v2.packing.likeness import SIDE, groups_of, thumbnail
from resnet_v2.packing.splitting import ClassFolders, split


def test_the_same_picture_saved_otherwise_looks_alike() -> None:
    pictures = [picture(seed, 240, 320) for seed in range(12)]
    smaller = [cv2.resize(one, (160, 120), interpolation=cv2.INTER_AREA) for one in pictures]
    bright = [np.clip(one.astype(int) + 12, 0, 255).astype(np.uint8) for one in pictures]
    saved = [cv2.imdecode(cv2.imencode(".jpg", one, [cv2.IMWRITE_JPEG_QUALITY, 40])[1], 1) for one in pictures]
    groups = groups_of(np.stack([thumbnail(one) for one in (*pictures, *smaller, *bright, *saved)]))
    assert groups.tolist() == 4 * list(range(12))


def test_pictures_of_one_kind_are_not_alike() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, SIDE, SIDE), dtype=np.uint8)
    assert groups_of(noise).tolist() == list(range(300))
    grey = np.full((3, SIDE, SIDE), 90, np.uint8)
    grey[2] = 200
    assert groups_of(grey).tolist() == [0, 0, 0]  # brightness alone does not tell pictures apart


def test_a_chain_of_alike_pictures_is_one_group() -> None:
    start, end = (np.tile(np.linspace(*ends, SIDE), (SIDE, 1)) for ends in ((0, 200), (60, 140)))
    chain = np.stack([start + (end - start) * share for share in np.linspace(0, 1, 9)]).round().astype(np.uint8)
    assert groups_of(chain).tolist() == 9 * [0]
    assert groups_of(chain[[0, 8]]).tolist() == [0, 1]


def test_groups_are_on_one_side() -> None:
    classes = ClassFolders({"a": np.arange(10, dtype=np.uint32), "b": np.arange(10, 20, dtype=np.uint32)}, str)
    groups = np.arange(20)
    assert_same = [split(classes, lambda count: count // 5, 3, one) for one in (None, groups)]
    for one, other in zip(*assert_same, strict=True):
        assert (one.images == other.images).all()
    groups[[1, 2, 3, 15]] = 0  # across the classes
    groups[[7, 18]] = 7
    for seed in range(20):
        train, validation = split(classes, lambda count: count // 5, seed, groups)
        assert not np.isin(groups[validation.images], groups[train.images]).any()
        assert 0 not in validation.images  # a group of four is more than the two that are held out
        assert len(train) + len(validation) == 20
        assert (np.bincount(validation.labels, minlength=2) == 2).all()


def test_copies_stay_on_one_side_of_data(class_folder: Path, tmp_path: Path, run: Run) -> None:
    for path in sorted(class_folder.glob("*/00?.jpg")):
        pixels = cv2.imread(str(path))
        assert pixels is not None
        assert cv2.imwrite(str(path.with_name(f"copy-{path.name}")), pixels, [cv2.IMWRITE_JPEG_QUALITY, 70])
    status, _, err = run("data", class_folder, "--out", tmp_path / "d", "--val-ratio", 0.3)
    assert status == 0, err
    assert "they stay on one side of the split" in err
    sides = [
        {entry.path.replace("copy-", "") for entry in read_list(tmp_path / "d" / f"d_{part}.lst")}
        for part in ("train", "val")
    ]
    assert sides[1]
    assert not sides[0] & sides[1]


@pytest.mark.parametrize("kept", [True, False])
def test_too_many_are_not_compared(
    class_folder: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, kept: bool
) -> None:
    monkeypatch.setattr("resnet_v2.packing.survey.MOST_COMPARED", 24 if kept else 23)
    err = run("data", class_folder, "--out", tmp_path / "d")[2]
    assert ("24 pictures are too many" in err) != kept
