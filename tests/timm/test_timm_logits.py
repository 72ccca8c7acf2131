"""Logits of timm's networks in our code against timm's own, from random weights; timm has an environment of its own."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from resnet_v2.inference.predict import Predictor
from resnet_v2.interchange import published
from resnet_v2.networks.weights import load

FOLDER = Path(__file__).parent
LARGEST_DIFFERENCE = 1e-4


@pytest.fixture(scope="module")
def python() -> str:
    found = os.environ.get("RESNET_V2_TIMM_PYTHON", str(FOLDER.parents[1] / ".venv-timm/bin/python"))
    if not Path(found).is_file():
        pytest.skip(f"missing .venv-timm: make parity creates {found}, RESNET_V2_TIMM_PYTHON names another")
    return found


@pytest.mark.parametrize(("depth", "size"), [(50, 224), (101, 224), (50, 288)])
def test_logits(depth: int, size: int, python: str, tmp_path: Path) -> None:
    coarse = np.random.default_rng(depth).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    images = coarse.repeat(size // 8, axis=1).repeat(size // 8, axis=2)
    files = [tmp_path / name for name in ("images.npy", "model.safetensors", "logits.npy")]
    np.save(files[0], images)
    command = [python, FOLDER / "timm_worker.py", f"resnetv2_{depth}", *files]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    path = published.fetch(f"timm/resnetv2_{depth}.a1h_in1k", files[1], str(tmp_path / "ours"), None)
    theirs = np.load(files[2])
    header = load(str(path))[1]
    assert (header.architecture.depth, header.architecture.stem, header.crop) == (depth, "timm", 224)
    found = float(np.abs(Predictor.open(str(path)).engine.logits(images) - theirs).max())
    print(f"resnetv2_{depth} at {size}: logits up to {np.abs(theirs).max():.3g} differ by {found:.1e}")
    assert np.abs(theirs).max() > 1
    assert found < LARGEST_DIFFERENCE
