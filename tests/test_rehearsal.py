"""A run on ImageNet, rehearsed: every phase of its 120 epochs on tiny pictures, its hours by a clock that is moved."""

import contextlib
import itertools
import json
import os
import shutil
import signal
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import pytest
from torch import Tensor

from conftest import Run, picture
from processes import Command
from resnet_v2 import console
from resnet_v2.cli import main
from resnet_v2.config.training import arguments_of
from resnet_v2.data.augment import Augmentation, augmentation
from resnet_v2.data.loader import Loader
from resnet_v2.data.order import epoch_order, split
from resnet_v2.logs import runlog
from resnet_v2.networks.header import read_header
from resnet_v2.training import checkpoint, epoch, feed, fit, meter
from resnet_v2.training.step import Trainer
from test_ranks import children

EPOCHS, SIZE = 120, 32
IMAGES, BATCH = 20, 12  # of an epoch and of a step: steps of 12 and 8
SWITCH = 95  # from this epoch, counted from 0, level 1 of the small record


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ImageNet's three records, of 24 and 15 tiny pictures, packed by the commands of README.md."""
    folder = tmp_path_factory.mktemp("imagenet")
    for part, count in (("train", 8), ("val", 5)):
        for label, number in itertools.product(range(3), range(count)):
            path = folder / "images" / part / f"n0000000{label}" / f"{part}_{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            assert cv2.imwrite(str(path), picture(1000 * (part == "val") + 100 * label + number, 64, 80))
    pictures = folder / "images"
    assert main(["list", str(pictures), str(folder / "all")]) == 0
    for name, part, side in (
        ("train_480_q90", "train", 60),
        ("train_256_q90", "train", 37),
        ("val_256_q90", "val", 37),
    ):
        lst, record = folder / f"all_{part}.lst", folder / f"{name}.rec"
        assert main(["pack", str(lst), str(pictures), str(record), f"resize={side}", "quality=90"]) == 0
    return folder


class Clock:
    """Time that goes on only when a test says so; it stands in for the module `time`."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        """Seconds since whenever."""
        return self.now

    time = perf_counter = monotonic


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """What the run and its messages take for the time."""
    moved = Clock()
    for module in (console, feed, fit, meter, runlog):
        monkeypatch.setattr(module, "time", moved)
    return moved


def events(path: Path, kind: str) -> list[dict[str, Any]]:
    """The events of a kind that a log tells of."""
    return [event for event in map(json.loads, path.read_text().splitlines()) if event["event"] == kind]


def rate_of(number: int, base: float, drops: Iterable[int]) -> float:
    """The learning rate of an epoch, counted from 0: a tenth at each drop."""
    return base * 0.1 ** sum(number >= drop for drop in drops)


def test_every_epoch_of_the_recipe(
    imagenet: Path, tmp_path: Path, run: Run, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds, step = 300.0, Trainer.step
    read: list[tuple[int, str, Augmentation]] = []
    trained: Counter[int] = Counter()

    def slow_step(self: Trainer, images: Tensor, labels: Tensor, images_of_step: int, learning_rate: float) -> Tensor:
        clock.now += seconds
        trained[read[-1][0]] += len(images)
        return step(self, images, labels, images_of_step, learning_rate)

    def noted(reader: Any, plan: Any, **values: Any) -> Any:
        read.append((values["epoch"], reader.path.name, plan))
        return Loader(reader, plan, **values)

    monkeypatch.setattr(Trainer, "step", slow_step)
    monkeypatch.setattr(epoch, "Loader", noted)
    prefix = tmp_path / "m"
    settings = {"recipe": "imagenet-resnet-50", "data_dir": imagenet, "epochs": EPOCHS, "num_classes": 0}
    settings |= {"depth": 8, "stem": "pooled", "image_size": SIZE, "batch_size": BATCH, "num_examples": IMAGES}
    settings |= {"lr": 0.05, "device": "cpu", "workers": 0, "frequent": 2, "keep": 3, "model_prefix": prefix}
    status, out, err = run("train", *arguments_of(settings))
    assert status == 0, err

    levels = {level: replace(augmentation(level, SIZE, imagenet=False), pad=4) for level in (1, 2)}
    expected = [(number, "train_480_q90.rec", levels[2]) for number in range(SWITCH)]
    assert read == expected + [(number, "train_256_q90.rec", levels[1]) for number in range(SWITCH, EPOCHS)]
    assert trained == dict.fromkeys(range(EPOCHS), IMAGES)

    log = tmp_path / "m.jsonl"
    told = events(log, "train")
    assert [event["epoch"] for event in told] == list(range(EPOCHS))
    assert [event["learning_rate"] for event in told] == pytest.approx(
        [rate_of(number, 0.05, (30, 60, 90)) for number in range(EPOCHS)]
    )
    assert {event["images"] for event in events(log, "validation")} == {15}
    names = [
        checkpoint.latest_path(str(prefix)).name,
        "m-best.safetensors",
        *(f"m-0{n}.safetensors" for n in (118, 119, 120)),
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*names, "m.jsonl", "m.log"])

    # The clock: two steps of 300 seconds an epoch, 20 hours in all.
    assert {event["seconds"] for event in told} == {600.0}
    assert "epoch 96/120: 12 of 20 img, 0.0 img/s, 03:20 left\nepoch 96/120: 20 of 20 img, 0.0 img/s\n" in err
    assert "Epoch[95] Time cost=600.000" in out
    left = [line for line in err.splitlines() if " left, about " in line]
    assert left[0] == "119 epochs left, about 19 h 50 min"
    assert left[-2:] == ["2 epochs left, about 20 min", "1 epoch left, about 10 min"]
    assert "Finished after 72000 s (20 h 0 min) of training, of which 0.0% were spent waiting for data" in out


def recipe_of(folder: Path, **changes: object) -> list[str]:
    """ResNet-18's recipe on two ranks, but for the size of everything, and a rate that suits few pictures."""
    settings = {"recipe": "imagenet-resnet-18", "data_dir": folder, "num_classes": 0, "num_examples": IMAGES}
    settings |= {"image_size": SIZE, "batch_size": BATCH, "lr": 0.01, "nproc": 2, "device": "cpu", "workers": 0}
    settings |= {"keep": 3, "profile_data": True, "model_prefix": "m"}
    return ["train", *arguments_of(settings | changes)]


def place(folder: Path) -> tuple[int, int]:
    """Epoch and step of the last saving; (0, 0) where there is none yet."""
    path = folder / "m-latest.safetensors"
    position = read_header(path).training["position"] if path.is_file() else {"epoch": 0, "step": 0}
    return position["epoch"], position["step"]


def photograph(run: Command, folder: Path, copy: Path) -> None:
    """Copy the folder of a run as a machine that loses its power would leave it: all of its processes stand still."""
    processes = [run.pid, *children(run.pid)]
    for process in processes:
        os.kill(process, signal.SIGSTOP)
    shutil.copytree(folder, copy)
    for process in processes:
        os.kill(process, signal.SIGCONT)


@pytest.mark.slow
def test_two_ranks_stopped_by_force_resumed_and_retrained(imagenet: Path, tmp_path: Path, run: Run) -> None:
    """120 epochs on two ranks; the same from epoch 93 on, where power was lost, within a memory budget and killed again
    at epoch 100; then from epoch 118 with another rate.
    """
    data, whole, cut = tmp_path / "data", tmp_path / "whole", tmp_path / "cut"
    shutil.copytree(imagenet, data)
    first = Command(recipe_of(data), whole)
    first.wait_for(lambda: place(whole) >= (93, 0), "epoch 93")
    photograph(first, whole, cut)
    status, output = first.finish()
    assert status == 0, output
    log = whole / "m.jsonl"
    told = events(log, "train")
    assert [event["learning_rate"] for event in told] == pytest.approx(
        [rate_of(number, 0.01, (60, 75, 90)) for number in range(EPOCHS)]
    )
    of_rank_0 = sum(len(part) for part in split(epoch_order(IMAGES, 0, 0), BATCH, rank=0, world_size=2))
    assert [event["images"] for event in events(log, "data") if "images" in event] == [of_rank_0] * EPOCHS
    assert [event["images"] for event in events(log, "validation")] == [15] * EPOCHS
    kept = [
        "m-0118.safetensors",
        "m-0119.safetensors",
        "m-0120.safetensors",
        "m-best.safetensors",
        "m-latest.safetensors",
    ]
    assert sorted(path.name for path in whole.iterdir()) == [*kept, "m.jsonl", "m.log"]

    # Power came back, on a machine with less memory; it is killed amid an epoch of the small record and goes on.
    assert (93, 0) <= place(cut) < (SWITCH, 0)
    again = recipe_of(data, resume="auto", memory_budget="1500MB")
    second = Command([*again, "--checkpoint-steps", "1"], cut)
    second.wait_for(lambda: place(cut) >= (100, 1), "epoch 100")
    ranks = list(children(second.pid))
    second.kill()
    for rank in ranks:  # a machine leaves none
        with contextlib.suppress(ProcessLookupError):
            os.kill(rank, signal.SIGKILL)
    assert (100, 0) < place(cut) < (EPOCHS, 0)
    for path in data.glob("train_480_q90.*"):  # no epoch needs it any more
        path.unlink()
    status, output = Command(again, cut).finish()
    assert status == 0, output
    assert sorted(path.name for path in cut.iterdir()) == [*kept, "m.jsonl", "m.log"]
    for name in kept:
        assert (cut / name).read_bytes() == (whole / name).read_bytes(), name
    for kind in ("train", "validation"):
        numbers = ("epoch", "loss", "learning_rate", "train_accuracy", "top1_error", "images")
        both = [
            [[event.get(name) for name in numbers] for event in events(one / "m.jsonl", kind)] for one in (cut, whole)
        ]
        assert both[0] == both[1], kind

    # The end is used as any network is.
    prefix, record = cut / "m", data / "val_256_q90.rec"
    status, out, _ = run("evaluate", "--prefix", prefix, "--epoch", EPOCHS, "--rec", record, "--json")
    assert status == 0
    result = json.loads(out)
    last = events(log, "validation")[-1]
    assert (result["images"], result["top1_error"]) == (15, pytest.approx(last["top1_error"]))
    assert run("export", "--prefix", prefix, "--epoch", EPOCHS, "--to", "mxnet", "--out", tmp_path / "x")[0] == 0
    assert (tmp_path / "x-symbol.json").is_file()
    status, out, _ = run("plot", "--logs", cut / "m.log", "--out", tmp_path / "curve.png")
    assert (status, " 120 " in out) == (0, True)

    # Two epochs again with a lower rate; what they replace is kept aside.
    status, output = Command(recipe_of(data, retrain=True, model_load_epoch=118, lr=0.0002), cut).finish()
    assert status == 0, output
    assert [event["learning_rate"] for event in events(cut / "m.jsonl", "train")[-2:]] == [0.0002, 0.0002]
    assert "what an earlier run left at m is now in m-earlier-1: m-0119.safetensors, m-0120.safetensors" in output
    assert (cut / "m-0120.safetensors").read_bytes() != (whole / "m-0120.safetensors").read_bytes()
