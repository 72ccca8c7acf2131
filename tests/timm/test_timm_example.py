"""examples/train_timm.py: a network of timm trains with this project's loader, and goes on where it was stopped."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from resnet_v2.data.jpeg import encode
from resnet_v2.data.records import IRHeader, pack, writing

ROOT = Path(__file__).parents[2]


@pytest.fixture
def rec(tmp_path: Path) -> Path:
    """Twenty pictures of two classes, plain ones of two colours."""
    with writing(tmp_path / "a.rec") as writer:
        for key in range(20):
            pixels = np.random.default_rng(key).integers(0, 90, (150, 130, 3)).astype(np.uint8)
            pixels[..., key % 2] += 160
            writer.write(key, pack(IRHeader(0, float(key % 2), key, 0), encode(pixels, ".jpg", 90)))
    return tmp_path / "a.rec"


def train(rec: Path, steps: int) -> list[str]:
    python = os.environ.get("RESNET_V2_TIMM_PYTHON", str(ROOT / ".venv-timm/bin/python"))
    if not Path(python).is_file():
        pytest.skip(f"missing .venv-timm: make parity creates {python}, RESNET_V2_TIMM_PYTHON names another")
    command = [python, ROOT / "examples/train_timm.py", rec, "--classes", 2, "--size", 96, "--batch-size", 4]
    command += ["--steps", steps, "--lr", 0.01, "--state", rec.with_name("state.pt")]
    done = subprocess.run(
        [str(word) for word in command],
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_it_trains_and_goes_on(rec: Path) -> None:
    whole = train(rec, 7)
    rec.with_name("state.pt").unlink()
    parts = train(rec, 3) + train(rec, 4)
    assert [line.split(",")[0] for line in whole] == ["epoch 0"] * 5 + ["epoch 1"] * 2
    found = [[float(line.split()[-1]) for line in lines] for lines in (whole, parts)]
    assert found[0] == pytest.approx(found[1], rel=1e-3)
