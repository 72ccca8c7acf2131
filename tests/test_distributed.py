"""Ranks and devices as far as one process shows them: what the launcher's variables and the flags mean."""

from collections.abc import Callable

import pytest
import torch

from resnet_v2.errors import ResnetError
from resnet_v2.training.distributed import Ranks, choose_device, launched, restarted


def test_a_process_alone_is_all_ranks() -> None:
    ranks = Ranks()
    assert (ranks.rank, ranks.world_size, ranks.main, ranks.machines) == (0, 1, True, 1)
    assert ranks.total([1.0, 2.5]) == [1.0, 2.5]
    assert (ranks.any(True), ranks.any(False)) == (True, False)
    assert ranks.gathered({"a": 1.0}) == [{"a": 1.0}]


def test_places() -> None:
    assert not Ranks(1, 4, 1, 2).main
    assert Ranks(0, 4, 0, 2).main
    assert Ranks(1, 6, 1, 2).machines == 3


@pytest.mark.parametrize(
    ("variable", "asked", "values"),
    [
        ("WORLD_SIZE", launched, {None: False, "1": False, "2": True}),
        ("TORCHELASTIC_RESTART_COUNT", restarted, {None: False, "0": False, "1": True}),
    ],
)
def test_what_the_launcher_says(
    variable: str, asked: Callable[[], bool], values: dict[str | None, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    for value, answer in values.items():
        if value is None:
            monkeypatch.delenv(variable, raising=False)
        else:
            monkeypatch.setenv(variable, value)
        assert asked() is answer


@pytest.fixture
def four_gpus(monkeypatch: pytest.MonkeyPatch) -> list[torch.device]:
    """A machine with four GPUs that take tensors of nothing; gives the devices that were made current."""
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch, "empty", lambda *_, **__: None)
    return chosen


@pytest.mark.parametrize(
    ("local_rank", "gpus", "device", "chosen"),
    [(0, "2,3", "", 2), (1, "2,3", "", 3), (0, " 1 ,", "", 1), (1, "", "cuda", 1), (1, "0,1", "cuda:3", 3)],
)
def test_every_rank_takes_its_own_gpu(
    four_gpus: list[torch.device], monkeypatch: pytest.MonkeyPatch, local_rank: int, gpus: str, device: str, chosen: int
) -> None:
    monkeypatch.setenv("LOCAL_RANK", str(local_rank))
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert choose_device(gpus, device) == torch.device("cuda", chosen)
    assert four_gpus == [torch.device("cuda", chosen)]


@pytest.mark.parametrize(
    ("local_rank", "gpus", "words"),
    [
        (2, "0,1", "names 2 GPUs for more ranks than that"),
        (0, "4", "names GPU 4, but there are 4 here"),
        (0, "x", "is no list of GPU numbers"),
        (0, "-1", "is no list of GPU numbers"),
    ],
)
def test_gpus_that_no_rank_can_take(
    four_gpus: list[torch.device], monkeypatch: pytest.MonkeyPatch, local_rank: int, gpus: str, words: str
) -> None:
    monkeypatch.setenv("LOCAL_RANK", str(local_rank))
    with pytest.raises(ResnetError, match=words):
        choose_device(gpus)
    assert not four_gpus


def test_the_last_gpu_can_be_named(four_gpus: list[torch.device]) -> None:
    assert choose_device("3") == torch.device("cuda", 3)


def test_only_the_first_rank_says_that_there_is_no_gpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for local_rank, told in ((0, True), (1, False)):
        monkeypatch.setenv("LOCAL_RANK", str(local_rank))
        assert choose_device("0,1") == torch.device("cpu")
        assert ("no GPU is available" in capsys.readouterr().err) is told


def test_nothing_is_chosen_for_a_cpu(four_gpus: list[torch.device]) -> None:
    assert choose_device("") == choose_device("0,1", "cpu") == torch.device("cpu")
    assert not four_gpus
