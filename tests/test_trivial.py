"""TrivialAugment's operations against torchvision's and Pillow's, and how they are drawn."""

import os
import subprocess
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps

from conftest import picture
from resnet_v2.data.augment import FILL
from resnet_v2.data.trivial import CHANCES, MATRICES, STEPS, STRENGTHS, Change, draw_changes, vary

Pixels = NDArray[np.uint8]
THEIRS = {
    "identity": "Identity",
    "shear-x": "ShearX",
    "shear-y": "ShearY",
    "translate-x": "TranslateX",
    "translate-y": "TranslateY",
    "rotate": "Rotate",
    "brightness": "Brightness",
    "color": "Color",
    "contrast": "Contrast",
    "sharpness": "Sharpness",
    "posterize": "Posterize",
    "solarize": "Solarize",
    "autocontrast": "AutoContrast",
    "equalize": "Equalize",
}


def changed(pixels: Pixels, change: Change, method: int = cv2.INTER_NEAREST) -> Pixels:
    out = pixels.copy()
    vary(out, change, method, FILL)
    return out


def all_changes() -> list[Change]:
    """Every operation, of several strengths."""
    chances = [
        ((which + 0.5) / len(STRENGTHS), (step + 0.5) / STEPS, sign)
        for which in range(len(STRENGTHS))
        for step in (0, 1, 7, 15, 22, 30)
        for sign in (0.25, 0.75)
    ]
    return sorted(set(draw_changes(np.array(chances))))


@pytest.mark.slow
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
def test_operations_are_torchvisions(interpolation: str, tmp_path: Path) -> None:
    """Warps differ where a place lies between two pixels, tables nowhere, and mixtures by rounding."""
    usual = Path(__file__).parents[1] / ".venv-torchvision/bin/python"
    python = os.environ.get("RESNET_V2_TORCHVISION_PYTHON", str(usual))
    if not Path(python).is_file():
        pytest.skip(f"missing .venv-torchvision: make bench-peers, or RESNET_V2_TORCHVISION_PYTHON names {python}")
    pixels = picture(3, 96, 96) // 2 + 40
    np.save(tmp_path / "image.npy", pixels)
    changes = all_changes()
    strengths = [round(one.strength) if one.operation == "posterize" else one.strength for one in changes]
    lines = [f"{THEIRS[one.operation]} {its} {interpolation}" for one, its in zip(changes, strengths, strict=True)]
    worker = Path(__file__).with_name("torchvision_worker.py")
    command = [python, str(worker), str(tmp_path / "image.npy"), str(tmp_path), str(FILL)]
    done = subprocess.run(command, input="\n".join(lines), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    method = {"nearest": cv2.INTER_NEAREST, "bilinear": cv2.INTER_LINEAR}[interpolation]
    for number, change in enumerate(changes):
        apart = np.abs(changed(pixels, change, method).astype(int) - np.load(tmp_path / f"{number}.npy"))
        if change.operation in MATRICES:
            assert (apart > 8).mean() < 0.02, change
        else:
            assert apart.max() <= (2 if change.operation in ("color", "sharpness", "contrast") else 0), change


@pytest.mark.parametrize("strength", [-0.99, -0.33, 0.33, 0.99])
def test_mixtures_are_pillows(strength: float) -> None:
    pixels = picture(4, 60, 70)
    theirs = Image.fromarray(pixels)
    kinds = {
        "brightness": ImageEnhance.Brightness,
        "contrast": ImageEnhance.Contrast,
        "color": ImageEnhance.Color,
        "sharpness": ImageEnhance.Sharpness,
    }
    for operation, kind in kinds.items():
        wanted = np.asarray(kind(theirs).enhance(1 + strength)).astype(int)
        found = changed(pixels, Change(operation, strength))
        assert np.abs(found - wanted).max() <= 2, operation
        assert not np.array_equal(found, pixels)


def test_tables_are_pillows() -> None:
    pixels = picture(5, 60, 70) // 2 + 30
    theirs = Image.fromarray(pixels)
    for bits in range(2, 9):
        assert np.array_equal(changed(pixels, Change("posterize", bits)), np.asarray(ImageOps.posterize(theirs, bits)))
    for least in (0, 51, 127.5, 255):
        wanted = np.asarray(ImageOps.solarize(theirs, int(np.ceil(least))))
        assert np.array_equal(changed(pixels, Change("solarize", least)), wanted)
    stretched = np.asarray(ImageOps.autocontrast(theirs)).astype(int)
    assert np.abs(changed(pixels, Change("autocontrast")) - stretched).max() <= 1
    assert np.array_equal(changed(pixels, Change("equalize")), np.asarray(ImageOps.equalize(theirs)))


def test_warps() -> None:
    pixels = picture(6, 40, 40)
    right = changed(pixels, Change("translate-x", 7.5))
    assert np.array_equal(right[:, 7:], pixels[:, :-7])
    assert (right[:, :7] == FILL).all()
    up = changed(pixels, Change("translate-y", -3))
    assert np.array_equal(up[:-3], pixels[3:])
    assert np.array_equal(changed(pixels, Change("rotate", 90)), np.rot90(pixels))
    sheared = changed(pixels, Change("shear-x", 0.5))
    assert np.array_equal(sheared[20, :20], pixels[20, 10:30])


@pytest.mark.parametrize("value", [0, 77, 255])
@pytest.mark.parametrize("side", [1, 2, 9])
def test_images_of_one_colour_and_tiny_ones(value: int, side: int) -> None:
    pixels = np.full((side, side, 3), value, np.uint8)
    for change in all_changes():
        found = changed(pixels, change)
        if change.operation in ("autocontrast", "equalize", "identity", "color", "sharpness"):
            assert np.array_equal(found, pixels), change


def test_draws() -> None:
    chances = np.random.default_rng(0).random((14000, CHANCES))
    changes = draw_changes(chances)
    counts = Counter(change.operation for change in changes)
    assert counts.keys() == STRENGTHS.keys()
    assert max(counts.values()) < 1.2 * min(counts.values())
    for operation, (first, last, signed) in STRENGTHS.items():
        strengths = [change.strength for change in changes if change.operation == operation]
        least, most = min(first, last), max(first, last)
        assert (min(strengths), max(strengths)) == pytest.approx((-most if signed else least, most))
        assert len(set(map(abs, strengths))) == (1 if first == last else STEPS)
    assert draw_changes(chances[:3]) == changes[:3]
    assert [change.operation for change in draw_changes(np.zeros((1, CHANCES)))] == ["identity"]
