"""What steps add up to: losses, right answers, speed and waits, and the loss that is no number."""

import json
import types
from typing import cast

import numpy as np
import pytest
import torch

from resnet_v2.errors import ResnetError
from resnet_v2.training.distributed import Ranks
from resnet_v2.training.meter import Meter, Watch, peak_memory_mib
from resnet_v2.training.state import TrainState
from resnet_v2.training.step import Trainer

CPU = torch.device("cpu")


def test_a_meter_goes_on_where_another_stopped() -> None:
    first = Meter()
    first.add(torch.tensor([1 / 3, 2]), 4, 0.25)
    second = Meter(json.loads(json.dumps(first.state())))
    for meter in (first, second):
        meter.add(torch.tensor([0.7, 1]), 4, 0.25)
    ours, theirs = first.read(Ranks(), CPU), second.read(Ranks(), CPU)
    assert (ours["loss"], ours["accuracy"]) == (theirs["loss"], theirs["accuracy"])
    assert ours["accuracy"] == 3 / 8
    assert ours["loss"] == pytest.approx((1 / 3 + 0.7) / 8)
    assert theirs["memory_mib"] > 10


def test_a_loss_that_is_no_number_is_named() -> None:
    watch = Watch("m", Ranks())
    watch.add(7, np.arange(3), torch.tensor([1.0, 0]))
    watch.check(2)
    watch.add(8, np.arange(20), torch.tensor([2.0, 0]))
    watch.add(9, np.arange(20, 40), torch.tensor([float("nan"), 0]))
    with pytest.raises(ResnetError, match=r"The loss is nan in epoch 2, batch 9 \(records 20, 21, .*27, \.\.\.\)"):
        watch.check(2)


class Clock:
    """The time that a meter sees, in seconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 50.0
        monkeypatch.setattr("time.perf_counter", lambda: self.now)


def test_speed_and_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    meter = Meter()
    for _ in range(4):
        clock.now += 0.5
        meter.add(torch.tensor([2.0, 3]), 8, 0.05)
    found = meter.read(Ranks(), CPU)
    assert {name: found[name] for name in ("seconds", "samples_per_second", "step_ms", "data_wait")} == {
        "seconds": 2.0,
        "samples_per_second": 16.0,
        "step_ms": 500.0,
        "data_wait": 0.1,
    }
    assert (found["loss"], found["accuracy"]) == (8 / 32, 12 / 32)
    assert "gpu_idle" not in found
    # It goes on from its own state: the seconds in between are nobody's.
    state, times = meter.state(), meter.clock()
    clock.now += 100
    later = Meter(state)
    later.set_clock(times)
    clock.now += 2
    later.add(torch.tensor([2.0, 3]), 8, 0.15)
    found = later.read(Ranks(), CPU)
    assert (found["seconds"], found["samples_per_second"], found["step_ms"]) == (4.0, 10.0, 800.0)
    assert found["data_wait"] == pytest.approx(0.35 / 4, abs=1e-4)


def test_a_new_meter_has_measured_nothing() -> None:
    meter = Meter()
    assert (meter.images, meter.steps, meter.waited, meter.idle) == (0, 0, 0, 0)
    assert meter.state() == {"loss": 0, "correct": 0, "images": 0, "steps": 0}
    assert meter.clock() | {"seconds": 0} == {"waited": 0, "idle": 0, "seconds": 0}


def test_a_new_run_has_taken_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch)
    nothing = {"seconds": 0, "waited": 0, "idle": 0}
    state = TrainState(cast(Trainer, None), epoch=0)
    assert state.clock() == {"seconds": 0, "waited": 0, "whole": nothing, "recent": nothing}


def test_a_gpu_also_tells_how_long_it_was_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: 3 * 2**20)
    meter = Meter()
    meter.set_clock({"seconds": 0.0, "waited": 0.0, "idle": 0.5})
    clock.now += 4
    meter.idle += 0.5
    meter.add(torch.tensor([2.0, 3]), 8, 0.0)
    found = meter.read(Ranks(), torch.device("cuda", 0))
    assert (found["gpu_idle"], found["memory_mib"]) == (0.25, 3.0)
    assert meter.clock()["idle"] == 1.0


def test_figures_are_rounded_to_what_a_log_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    meter = Meter()
    for _ in range(3):
        clock.now += 1 / 3000
        meter.add(torch.tensor([2.0, 3]), 1, 1 / 9000)
    clock.now += 1 / 3
    found = meter.read(Ranks(), CPU)
    told = [found[name] for name in ("seconds", "samples_per_second", "step_ms", "data_wait")]
    assert told == [0.334, 8.97, 111.44, 0.001]


@pytest.mark.parametrize(("platform", "told"), [("linux", 3 * 1024), ("darwin", 3 * 2**20)])
def test_the_memory_of_the_process(platform: str, told: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux tells KiB, macOS bytes, Windows nothing."""
    monkeypatch.setattr("resource.getrusage", lambda who: types.SimpleNamespace(ru_maxrss=told))
    monkeypatch.setattr("sys.platform", platform)
    assert peak_memory_mib(CPU) == 3
    monkeypatch.setattr("sys.platform", "win32")
    assert peak_memory_mib(CPU) == 0


class TwoRanks(Ranks):
    """This rank and another that has the same numbers, and that sees what `other_is_bad` says."""

    other_is_bad = False

    def total(self, numbers: object) -> list[float]:
        """Both ranks' sums."""
        return [2 * number for number in numbers]  # type: ignore[attr-defined]

    def any(self, flag: bool) -> bool:
        """Either's flag."""
        return flag or self.other_is_bad


def test_losses_and_speed_are_those_of_all_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    meter = Meter()
    clock.now += 2
    meter.add(torch.tensor([2.0, 3]), 8, 0.5)
    found = meter.read(TwoRanks(0, 2), CPU)
    assert (found["loss"], found["accuracy"]) == (2 / 8, 3 / 8)
    assert (found["samples_per_second"], found["step_ms"], found["data_wait"]) == (8.0, 2000.0, 0.25)


def test_a_loss_that_is_no_number_on_another_rank_stops_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Watch("m", TwoRanks(0, 2))
    watch.add(1, np.arange(3), torch.tensor([1.0, 0]))
    watch.check(0)
    monkeypatch.setattr(TwoRanks, "other_is_bad", True)
    with pytest.raises(ResnetError, match="Rank 0 stops: the loss of another rank is no number"):
        watch.check(0)


def test_the_first_bad_step_is_named_with_all_its_few_records() -> None:
    watch = Watch("m", Ranks())
    watch.add(1, np.arange(8), torch.tensor([float("inf"), 0]))
    watch.add(2, np.arange(8, 16), torch.tensor([float("nan"), 0]))
    with pytest.raises(ResnetError, match=r"The loss is inf in epoch 0, batch 1 \(records 0, 1, 2, 3, 4, 5, 6, 7\)"):
        watch.check(0)
    watch.check(0)  # it is told once
