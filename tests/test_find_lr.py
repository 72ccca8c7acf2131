"""The learning-rate range test: what it suggests, and that it leaves everything else as it is."""

import math
import signal
from pathlib import Path

import pytest
import torch

from conftest import Run, digits_run
from resnet_v2.errors import ResnetError
from resnet_v2.training import find_lr
from resnet_v2.training.find_lr import HIGHEST, LOWEST, STEPS, Tried, suggested
from resnet_v2.training.step import Trainer


def test_a_tenth_of_the_rate_of_the_lowest_loss() -> None:
    tried = [Tried(10 ** (number / 10 - 4), abs(number - 40.0) if number > 1 else 0.0) for number in range(60)]
    assert suggested(tried) == pytest.approx(0.1)
    with pytest.raises(ResnetError, match="falls at no learning rate"):
        suggested([Tried(10.0**number, number) for number in range(30)])
    with pytest.raises(ResnetError, match="falls at no learning rate"):
        suggested([])


def test_rates_grow_evenly() -> None:
    rates = [find_lr._rate(number) for number in range(STEPS)]
    assert (rates[0], rates[-1]) == pytest.approx((LOWEST, HIGHEST))
    assert rates[11] / rates[10] == pytest.approx(rates[151] / rates[150])


def test_it_names_a_rate_draws_it_and_writes_nothing_else(
    few_digits: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of steps that would have their lowest loss at a rate of 1."""

    def step(self: Trainer, images: torch.Tensor, labels: torch.Tensor, count: int, rate: float) -> torch.Tensor:
        assert images.shape[1:] == (32, 32, 3)
        assert labels.shape == (len(images), 10)  # they are mixed
        assert count == 16
        return torch.tensor([len(images) * (3 + abs(math.log10(rate))), 0.0])

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Trainer, "step", step)
    monkeypatch.setattr(find_lr, "STEPS", 60)
    monkeypatch.setattr(find_lr, "KEPT", 0.8)
    settings = {"device": "cpu", "batch_size": 16, "num_examples": 48, "workers": 0, "model_prefix": "model/m"}
    words = [*digits_run(few_digits, **settings, mixup=0.2, class_weights="balanced"), "--find-lr"]
    Path("model").mkdir()
    Path("model/m-latest.safetensors").write_bytes(b"another's")
    status, out, err = run(*words)
    assert (status, out) == (0, ""), err
    said = next(line for line in err.splitlines() if line.startswith("learning rate "))
    rate = said.split()[2]
    assert 0.1 < float(rate) < 0.3  # smoothed losses come behind
    assert f"model/m-find-lr.png shows it, and nothing else was written; train with --lr {rate}" in said
    assert sorted(path.name for path in Path("model").iterdir()) == ["m-find-lr.png", "m-latest.safetensors"]
    assert Path("model/m-latest.safetensors").read_bytes() == b"another's"
    assert Path("model/m-find-lr.png").read_bytes().startswith(b"\x89PNG")


def test_told_to_stop_it_says_so(few_digits: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def step(*arguments: object) -> torch.Tensor:
        signal.raise_signal(signal.SIGTERM)
        return torch.ones(2)

    monkeypatch.setattr(Trainer, "step", step)
    words = digits_run(few_digits, device="cpu", workers=0, model_prefix=tmp_path / "model/m")
    status, _, err = run(*words, "--find-lr")
    assert (status, "stopped while it was looking for a learning rate" in err) == (0, True), err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_of_digits_it_names_a_rate_that_suits(few_digits: Path, tmp_path: Path, run: Run) -> None:
    words = digits_run(few_digits, device="cpu", batch_size=32, num_examples=640, model_prefix=tmp_path / "m")
    said = run(*words, "--find-lr")[2]
    rate = next(line for line in said.splitlines() if line.startswith("learning rate ")).split()[2]
    assert 0.01 < float(rate) < 1


@pytest.mark.parametrize("more", ["--dry-run", "--resume"])
def test_what_it_does_not_go_with(few_digits: Path, tmp_path: Path, run: Run, more: str) -> None:
    words = digits_run(few_digits, model_prefix=tmp_path / "m", gpus="")
    status, _, err = run(*words, "--find-lr", more)
    assert (status, "--find-lr tries the rates of a new run" in err) == (2, True)
    assert not list(tmp_path.glob("m*"))
