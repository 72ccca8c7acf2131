"""What is drawn for torchvision's recipe, and how two images and their labels are mixed, against torchvision itself.

The distributions are compared by Kolmogorov and Smirnov's test; torchvision has an environment of its own.
"""

import os
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import ks_2samp

from resnet_v2.config.training import TrainConfig
from resnet_v2.data import augment
from resnet_v2.data.augment import random_resized_crop
from resnet_v2.data.philox import Streams
from resnet_v2.training import recipes
from resnet_v2.training.mixing import BOTTOM, LEFT, RIGHT, SHARE, TOP, draw_pairs, mix

FOLDER = Path(__file__).parent
SIZE, COUNT = 176, 4000
LEAST_P = 0.001
ITS = recipes.find("imagenet-resnet-50-torchvision").settings


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, NDArray[np.float64]]:
    found = os.environ.get("RESNET_V2_TIMM_PYTHON", str(FOLDER.parents[1] / ".venv-timm/bin/python"))
    if not Path(found).is_file():
        pytest.skip(f"missing .venv-timm: make parity creates {found}, RESNET_V2_TIMM_PYTHON names another")
    out = tmp_path_factory.mktemp("draws") / "draws.npz"
    command = [found, FOLDER / "drawing_worker.py", SIZE, COUNT, ITS["mixup"], out]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with np.load(out) as arrays:
        return dict(arrays)


def assert_alike(ours: NDArray[np.float64], theirs: NDArray[np.float64], what: str) -> None:
    found = ks_2samp(ours, theirs)
    print(f"{what}: largest distance {found.statistic:.4f}, p {found.pvalue:.3f}")
    assert found.pvalue > LEAST_P, what


def pairs(**given: float) -> NDArray[np.float64]:
    return draw_pairs(TrainConfig.of(**given), 0, np.arange(0, 2 * COUNT, 2), SIZE).astype(np.float64)


def test_shares_of_mixup(theirs: Mapping[str, NDArray[np.float64]]) -> None:
    assert_alike(1 - pairs(mixup=ITS["mixup"])[:, SHARE], theirs["mixup"], "mixup")


def test_boxes_of_cutmix(theirs: Mapping[str, NDArray[np.float64]]) -> None:
    drawn = pairs(cutmix=ITS["cutmix"])
    areas = (drawn[:, BOTTOM] - drawn[:, TOP]) * (drawn[:, RIGHT] - drawn[:, LEFT]) / SIZE**2
    assert_alike(areas, theirs["cutmix"], "cutmix")
    np.testing.assert_allclose(theirs["cutmix"], theirs["cutmix_pixels"], atol=1e-5)  # the label's share is the area


def test_one_of_both_by_chance() -> None:
    both = pairs(mixup=ITS["mixup"], cutmix=ITS["cutmix"])
    assert np.mean(both[:, SHARE] > 0) == pytest.approx(0.5, abs=0.03)


def test_erased_boxes(theirs: Mapping[str, NDArray[np.float64]]) -> None:
    plan, sides = replace(random_resized_crop(SIZE), erasing=1.0), np.full(COUNT, 400)
    boxes = [one.erased for one in augment.draw(plan, sides, sides, Streams(1, 0, np.arange(COUNT)))]
    ours = np.array([(box.bottom - box.top, box.right - box.left) for box in boxes if box is not None], np.float64)
    assert_alike(ours.prod(1) / SIZE**2, theirs["erased"].prod(1) / SIZE**2, "erased areas")
    assert_alike(ours[:, 0] / ours[:, 1], theirs["erased"][:, 0] / theirs["erased"][:, 1], "erased aspects")


def test_random_resized_crops(theirs: Mapping[str, NDArray[np.float64]]) -> None:
    streams = Streams(1, 0, np.arange(COUNT))
    drawn = augment.draw(random_resized_crop(SIZE), np.full(COUNT, 400), np.full(COUNT, 500), streams)
    boxes = [one.source for one in drawn if one.source is not None]
    ours = np.array([(box.top, box.left, box.bottom - box.top, box.right - box.left) for box in boxes], np.float64)
    assert len(ours) == COUNT
    for place, what in enumerate(("tops", "lefts", "heights", "widths")):
        assert_alike(ours[:, place], theirs["crops"][:, place], what)
    assert_alike(ours[:, 2] * ours[:, 3], theirs["crops"][:, 2] * theirs["crops"][:, 3], "areas of crops")


def test_a_mixed_pair_is_theirs(theirs: Mapping[str, NDArray[np.float64]]) -> None:
    """By the same share: of two images torchvision mixes each with the other, as we do."""
    images = torch.from_numpy(theirs["pair"]).permute(0, 2, 3, 1)
    drawn = np.array([[1 - theirs["shares"][0, 0], 0, 0, 0, 0]], np.float32)
    mixed, shares = mix(images, torch.eye(2), drawn)
    np.testing.assert_allclose(mixed.permute(0, 3, 1, 2).numpy(), theirs["mixed"], atol=1e-4)
    np.testing.assert_allclose(shares.numpy(), theirs["shares"], atol=1e-6)
