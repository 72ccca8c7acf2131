"""Recorded steps, with a recorder that remembers the work and does it again, as a GPU would."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from resnet_v2.config.training import TrainConfig
from resnet_v2.networks.resnet import resnet
from resnet_v2.training import gpu
from resnet_v2.training.distributed import Ranks
from resnet_v2.training.graph import STEPS_BEFORE, Graph, Recorder
from resnet_v2.training.optim import nesterov_sgd
from resnet_v2.training.step import Trainer

CPU = torch.device("cpu")


class Again:
    """Does the recorded work anew at every play, in the memory of the recording, and shows Python nothing of it."""

    def __init__(self, trainer: Trainer | None = None) -> None:
        self.plays = 0
        self._trainer = trainer
        self._work: Callable[[], None] = lambda: None
        self._gradients: list[Tensor | None] = []

    def record(self, work: Callable[[], None]) -> None:
        state = copy.deepcopy(self._state())
        work()
        self._work, self._gradients = work, [leaf.grad for leaf in self._leaves()]
        for tensor, before in zip(self._state(), state, strict=True):
            tensor.copy_(before)

    def play(self) -> None:
        self.plays += 1
        shown = [leaf.grad for leaf in self._leaves()]
        self._work()
        for leaf, own, before in zip(self._leaves(), self._gradients, shown, strict=True):
            if own is not None and leaf.grad is not None:
                own.copy_(leaf.grad)
            leaf.grad = before

    def forget(self) -> None:
        raise AssertionError("the recording did not fail")

    def _leaves(self) -> list[Tensor]:
        return [] if self._trainer is None else list(self._trainer.network.parameters())

    def _state(self) -> list[Tensor]:
        """What a step moves."""
        if self._trainer is None:
            return []
        averaged, momenta = self._trainer.averaged, self._trainer.optimizer.state.values()
        moved = [*self._trainer.network.state_dict().values(), *(one["momentum_buffer"] for one in momenta)]
        return moved + ([] if averaged is None else list(averaged.state_dict().values()))


class Refusing:
    """Cannot record."""

    forgotten = 0

    def record(self, work: Callable[[], None]) -> None:
        try:
            raise RuntimeError("operation not permitted when stream is capturing\nlines that follow")
        except RuntimeError:
            raise RuntimeError("the end of a recording that failed")  # noqa: B904

    def play(self) -> None:
        raise AssertionError("nothing was recorded")

    def forget(self) -> None:
        Refusing.forgotten += 1


def trainer(amp: str = "off", **settings: object) -> Trainer:
    """With an update in one kernel and its rate in a tensor, as on a GPU."""
    network = resnet(8, classes=10)
    optimizer = nesterov_sgd(network, 0.05, 0.9, 1e-4, fused=True)
    config = TrainConfig.of(device="cpu", **settings)
    made = Trainer.of(network, optimizer, config, Ranks(), CPU, amp)
    made.model.train()
    return made


def train(made: Trainer, sizes: list[int]) -> list[Tensor]:
    """What steps of these sizes give, with a rate that falls, and the weights and statistics after them."""
    results = []
    for number, size in enumerate(sizes):
        generator = torch.Generator().manual_seed(number)
        images = torch.randint(0, 256, (size, 8, 8, 3), dtype=torch.uint8, generator=generator)
        labels = torch.randint(0, 10, (size,), generator=generator)
        results.append(made.step(images, labels, size, 0.1 / (number + 1)))
    return [*results, *made.network.state_dict().values()]


@pytest.mark.parametrize(
    "settings",
    [{}, {"accumulate": 2, "clip_norm": 1.0}, {"amp": "fp16", "clip_norm": 1.0}, {"ema": 0.5}],
)
def test_recorded_steps_change_no_bit(settings: dict[str, Any]) -> None:
    sizes = [4, 4, 4, 4, 3, 4, 4]
    recorders: list[Again] = []

    def make() -> Recorder:
        recorders.append(Again(recorded))
        return recorders[-1]

    expected = train(gpu.with_graph(trainer(**settings), None), sizes)
    recorded = gpu.with_graph(trainer(**settings), Graph(4, make))
    found = train(recorded, sizes)
    assert all(map(torch.equal, expected, found))
    # The rate moves in a tensor as it does in a number.
    assert all(map(torch.allclose, train(trainer(**settings), sizes), found))
    assert [recorder.plays for recorder in recorders] == [sizes.count(4) - STEPS_BEFORE]


def test_images_of_another_size_are_recorded_anew() -> None:
    recorders: list[Again] = []

    def make() -> Recorder:
        recorders.append(Again())
        return recorders[-1]

    graph = Graph(4, make)
    labels = torch.zeros(4, dtype=torch.int64)
    for side in (8, 8, 8, 12, 12, 12):
        images = torch.full((4, side, side, 3), side, dtype=torch.uint8)
        result = graph(lambda pixels, labels, share: pixels.float().sum() * share, images, labels, 0.5)
        assert result == 0.5 * 4 * 3 * side**3
    assert [recorder.plays for recorder in recorders] == [1, 1]


def test_the_result_of_a_step_outlives_the_next_one() -> None:
    memory = torch.zeros(())  # a recorded step always writes its result to the same place

    def work(pixels: Tensor, labels: Tensor, share: float) -> Tensor:
        return memory.copy_(pixels.float().max())

    graph = Graph(1, Again)
    results = []
    for value in range(STEPS_BEFORE + 3):
        image, label = torch.full((1, 1, 1, 3), value, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64)
        results.append(graph(work, image, label, 1.0))
    assert torch.stack(results[STEPS_BEFORE:]).tolist() == [2, 3, 4]


def test_what_cannot_be_recorded_runs_as_ever_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = [8, 8, 8, 8]
    expected = train(gpu.with_graph(trainer(), None), sizes)
    found = train(gpu.with_graph(trainer(), Graph(8, Refusing)), sizes)
    assert all(map(torch.equal, expected, found))
    assert Refusing.forgotten == 1
    said = capsys.readouterr().err
    assert said == (
        "the training step cannot be recorded as a CUDA graph (operation not permitted when stream is capturing); "
        "it runs as ever\n"
    )
