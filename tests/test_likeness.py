"""Pictures that look alike are found and stay on one side of a split; others are not taken for alike."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from conftest import Run, picture
from resnet_v2.data.jpeg import decode, encode
from resnet_v2.data.lists import read_list
from resnet_v2.packing.likeness import SIDE, groups_of, thumbnail
from resnet_v2.packing.splitting import ClassFolders, split


def changed(image: Any, how: str) -> Any:
    """A picture as somebody may have saved it again."""
    height, width = image.shape[:2]
    match how:
        case "compressed":
            return decode(encode(image, ".jpg", 40)).copy()
        case "smaller":
            return cv2.resize(image, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
        case "cut":
            return np.ascontiguousarray(image[height // 50 : -height // 50, width // 50 : -width // 50])
        case "grey":
            return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return np.clip(image.astype(int) + 12, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("how", ["compressed", "smaller", "cut", "grey", "brighter"])
def test_the_same_picture_saved_otherwise_looks_alike(how: str) -> None:
    pictures = [picture(seed, 240, 320) for seed in range(12)]
    again = [changed(one, how) for one in pictures]
    groups = groups_of(np.stack([thumbnail(one) for one in (*again, *pictures)]))
    assert groups.tolist() == 2 * list(range(12))


def test_pictures_of_one_kind_are_not_alike() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, SIDE, SIDE, 3), dtype=np.uint8)
    assert groups_of(noise).tolist() == list(range(300))


def test_plain_pictures_are_alike_where_they_are_the_same() -> None:
    plain = np.full((5, SIDE, SIDE, 3), 90, np.uint8)
    plain[2], plain[3, ..., 0] = 200, 120
    plain[4] += np.random.default_rng(0).integers(0, 3, (SIDE, SIDE, 1), dtype=np.uint8)
    assert groups_of(plain).tolist() == [0, 0, 2, 3, 4]


def test_another_colour_makes_another_picture() -> None:
    """A red thing and a green one on white, of the same shape and lightness."""
    things = np.full((3, SIDE, SIDE, 3), 255, np.uint8)
    things[:2, 4:12, 2:14], things[2, 4:12, 2:14] = (200, 0, 0), (0, 102, 0)
    things[1, 0, 0] = 250
    assert groups_of(things).tolist() == [0, 0, 2]


def test_a_chain_of_alike_pictures_is_one_group() -> None:
    start, end = (cv2.resize(picture(seed, 64, 64), (SIDE, SIDE)).astype(float) for seed in (1, 2))
    chain = np.stack([start + (end - start) * share for share in np.linspace(0, 1, 41)]).round().astype(np.uint8)
    assert groups_of(chain).tolist() == 41 * [0]
    assert groups_of(chain[::-1]).tolist() == 41 * [0]
    assert groups_of(chain[[0, 40]]).tolist() == [0, 1]


def test_groups_do_not_depend_on_how_many_are_compared_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    some = np.stack([thumbnail(picture(seed, 64, 64)) for seed in range(60)])[rng.integers(0, 60, 150)]
    some = np.clip(some.astype(int) + rng.integers(-3, 4, some.shape), 0, 255).astype(np.uint8)
    at_once = groups_of(some)
    assert len(np.unique(at_once)) < 70
    monkeypatch.setattr("resnet_v2.packing.likeness.ROWS", 8)
    monkeypatch.setattr("resnet_v2.packing.likeness.COLUMNS", 16)
    assert (groups_of(some) == at_once).all()


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
