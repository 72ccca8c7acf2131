"""Mixup and CutMix: what is drawn, what becomes of images and labels, and the same on any number of ranks."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from conftest import Run, digits_run
from processes import Command
from resnet_v2.config.training import TrainConfig
from resnet_v2.data.augment import augmentation
from resnet_v2.data.filling import Centred
from resnet_v2.data.labels import Labels
from resnet_v2.data.loader import Batch, Loader, Reading, batches
from resnet_v2.data.order import split
from resnet_v2.data.record_set import RecordSet, open_records
from resnet_v2.errors import SettingError
from resnet_v2.networks import weights
from resnet_v2.training.feed import Fed
from resnet_v2.training.losses import loss_of, right_answers
from resnet_v2.training.mixing import draw_pairs, kept_together, mix, mixed
from resnet_v2.training.plan import decide
from resnet_v2.training.step import Trainer

BOTH = TrainConfig.of(mixup=0.4, cutmix=1.0)
LABELS = Labels(10)


def run_of(digits: Path, prefix: Path, **changes: object) -> list[str]:
    settings: dict[str, object] = {
        "device": "cpu",
        "epochs": 2,
        "batch_size": 15,
        "num_examples": 50,
        "workers": 0,
        "checkpoint_steps": 1,
        "model_prefix": prefix,
        "mixup": 0.4,
        "cutmix": 1.0,
        "random_erasing": 0.5,
        "trivial_augment": True,
    }
    return digits_run(digits, **(settings | changes))


def fed(batch: Batch) -> Fed:
    return Fed(torch.from_numpy(batch.images), torch.from_numpy(batch.labels), batch.ordinals)


def of_ranks(reader: RecordSet, world_size: int) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """The mixed images and labels of every step, those of all ranks together."""
    ranks = [
        Loader(
            reader,
            augmentation(1, 32, imagenet=False),
            seed=0,
            batch_size=15,
            classes=10,
            epoch=3,
            count=40,
            rank=rank,
            world_size=world_size,
            together=kept_together(BOTH),
        )
        for rank in range(world_size)
    ]
    parts = [[mixed(BOTH, LABELS, 3, fed(batch)) for batch in rank] for rank in ranks]
    return [
        (np.concatenate([part[step][0] for part in parts]), np.concatenate([part[step][1] for part in parts]))
        for step in range(3)
    ]


def test_the_same_pairs_on_any_number_of_ranks(digits: Path) -> None:
    reader = open_records(digits / "digits_train.rec")
    alone = of_ranks(reader, 1)
    assert [len(images) for images, _ in alone] == [15, 15, 10]
    for world_size in (2, 3, 5, 9):
        for (images, labels), (its_images, its_labels) in zip(alone, of_ranks(reader, world_size), strict=True):
            assert np.array_equal(images, its_images)
            assert np.array_equal(labels, its_labels)


@pytest.mark.parametrize(("count", "world_size", "together"), [(17, 3, 2), (1, 4, 2), (8, 5, 2), (9, 2, 4), (7, 5, 1)])
def test_groups_stay_on_one_rank(count: int, world_size: int, together: int) -> None:
    order = np.arange(100, 100 + count)
    parts = [next(split(order, count, rank, world_size, together=together)) for rank in range(world_size)]
    assert np.array_equal(np.concatenate(parts), order)
    assert all((part[0] - 100) % together == 0 for part in parts if len(part))
    groups = [-(-len(part) // together) for part in parts]
    assert max(groups) - min(groups) <= 1


def test_a_later_part_may_be_the_larger_one(digits: Path) -> None:
    """Of 8 images the middle one of 5 ranks takes one, of 7 it takes two."""
    reader = open_records(digits / "digits_train.rec")
    steps = list(split(np.arange(15), 8, 2, 5))
    assert [len(step) for step in steps] == [1, 2]
    found = list(batches(reader, steps, Centred(32), (32, 32, 3), 10, Reading()))
    assert [batch.ordinals.tolist() for batch in found] == [[3], [10, 11]]


def test_mixup_is_its_formula() -> None:
    images = torch.randint(0, 256, (5, 4, 4, 3), dtype=torch.uint8)
    truth = torch.eye(5)
    before = images.clone(), truth.clone()
    drawn = np.array([[0.25, 0, 0, 0, 0], [1, 0, 0, 0, 0]], np.float32)
    pixels, shares = mix(images, truth, drawn)
    assert torch.equal(images, before[0])
    assert torch.equal(truth, before[1])
    whole = images.float()
    assert torch.allclose(pixels[0], 0.75 * whole[0] + 0.25 * whole[1])
    assert torch.allclose(pixels[1], 0.25 * whole[0] + 0.75 * whole[1])
    assert torch.equal(pixels[2], whole[3])
    assert torch.equal(pixels[4], whole[4])  # it has no partner
    assert shares[:2].tolist() == [[0.75, 0.25, 0, 0, 0], [0.25, 0.75, 0, 0, 0]]
    assert torch.equal(shares.sum(1), torch.ones(5))


def test_cutmix_exchanges_a_box_and_its_share_of_the_labels() -> None:
    images = torch.randint(0, 256, (4, 8, 8, 3), dtype=torch.uint8)
    drawn = np.array([[0, 1, 5, 2, 4], [0, 3, 3, 0, 8]], np.float32)  # 4 x 2 pixels, and none
    pixels, shares = mix(images, torch.eye(4), drawn)
    wanted = images.float()
    wanted[0, 1:5, 2:4], wanted[1, 1:5, 2:4] = images[1, 1:5, 2:4].float(), images[0, 1:5, 2:4].float()
    assert torch.equal(pixels, wanted)
    assert shares[0].tolist() == [1 - 8 / 64, 8 / 64, 0, 0]
    assert torch.equal(shares[2:], torch.eye(4)[2:])


def test_draws_fill_their_ranges() -> None:
    firsts = np.arange(4000)
    shares = draw_pairs(TrainConfig.of(mixup=0.4), 1, firsts, 32)
    assert not shares[:, 1:].any()
    assert (shares[:, 0].mean(), shares[:, 0].var()) == pytest.approx((0.5, 1 / 4 / (2 * 0.4 + 1)), abs=0.02)
    boxes = draw_pairs(TrainConfig.of(cutmix=1.0), 1, firsts, 32)
    assert not boxes[:, 0].any()
    tall, wide = boxes[:, 2] - boxes[:, 1], boxes[:, 4] - boxes[:, 3]
    assert (boxes.min(), boxes.max()) == (0, 32)
    assert ((tall >= 0) & (wide >= 0)).all()
    assert 0.25 < (tall * wide / 32**2).mean() < 0.45  # half of the area, less what lies beyond the edges
    both = draw_pairs(BOTH, 1, firsts, 32)
    assert 0.45 < (both[:, 0] > 0).mean() < 0.55
    assert np.array_equal(draw_pairs(BOTH, 1, firsts[70:80], 32), both[70:80])
    assert not np.array_equal(draw_pairs(BOTH, 2, firsts[70:80], 32), both[70:80])
    other = TrainConfig.of(mixup=0.4, cutmix=1.0, seed=1)
    assert not np.array_equal(draw_pairs(other, 1, firsts[70:80], 32), both[70:80])
    assert draw_pairs(BOTH, 1, firsts[:0], 32).shape == (0, 5)


def test_without_it_nothing_is_touched() -> None:
    batch = Fed(torch.zeros(2, 4, 4, 3, dtype=torch.uint8), torch.tensor([1, 2]), np.arange(2))
    images, labels = mixed(TrainConfig(), LABELS, 0, batch)
    assert images is batch.images
    assert labels is batch.labels
    assert kept_together(TrainConfig()) == 1


def test_losses_and_answers_of_shares() -> None:
    logits = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    first, second, share = torch.tensor([0, 1, 2]), torch.tensor([3, 2, 2]), torch.tensor([0.7, 0.4, 1.0])
    truth = share[:, None] * F.one_hot(first, 4) + (1 - share)[:, None] * F.one_hot(second, 4)
    each = [F.cross_entropy(logits, one, reduction="none", label_smoothing=0.1) for one in (first, second)]
    wanted = (share * each[0] + (1 - share) * each[1]).sum()
    assert float(loss_of(Labels(4), logits, truth, 0.1)) == pytest.approx(float(wanted))
    certain = torch.eye(4)[[0, 1, 2]]
    assert int(right_answers(Labels(4), certain, truth)) == 2
    assert int(right_answers(Labels(4, "multi"), certain, truth)) == 2


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"mixup": 0.2, "labels": "tasks:5,5"}, "do not go with `labels` tasks"),
        ({"cutmix": 0.2, "batch_size": 1}, "mix two images of a step"),
        ({"cutmix": -1.0}, "`cutmix` must be 0 to 1000"),
        ({"random_erasing": 1.5}, "`random_erasing` must be 0 to 1"),
    ],
)
def test_what_cannot_be(given: dict[str, Any], words: str, digits: Path) -> None:
    with pytest.raises(SettingError, match=words):
        decide({"data_dir": digits, "data_type": "digits", "num_classes": 10, "gpus": ""} | given)


class CrashError(Exception):
    pass


def test_a_run_goes_on_to_the_last_bit(
    few_digits: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    status, _, err = run(*run_of(few_digits, tmp_path / "whole"))
    assert status == 0, err
    assert "of each the class with the larger share counts for Train-accuracy" in err
    steps, step = itertools.count(1), Trainer.step

    def crash(*arguments: Any) -> Any:
        if next(steps) == 6:
            raise CrashError
        return step(*arguments)

    words = run_of(few_digits, tmp_path / "a")
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", crash)
        with pytest.raises(CrashError):
            run(*words)
    assert weights.checkpoint_header(tmp_path / "a", "latest").training["position"]["step"] == 1
    assert run(*words, "--resume", "--workers", "2")[0] == 0
    whole, other = (weights.read_checkpoint(tmp_path / name, 2)[2] for name in ("whole", "a"))
    assert all(torch.equal(whole[name], other[name]) for name in whole)
    plain = run_of(few_digits, tmp_path / "plain", mixup=0.0, cutmix=0.0)
    assert run(*plain)[0] == 0
    assert not torch.equal(weights.read_checkpoint(tmp_path / "plain", 2)[2]["fc1.weight"], whole["fc1.weight"])


@pytest.mark.slow
def test_two_ranks_train_as_one(few_digits: Path, tmp_path: Path) -> None:
    for name, changes in (("one", {}), ("two", {"nproc": 2})):
        words = run_of(few_digits, tmp_path / name, epochs=1, batch_size=18, num_examples=17, sync_bn=True, **changes)
        status, output = Command(words, tmp_path).finish()
        assert status == 0, output
    one, two = (weights.read_checkpoint(tmp_path / name, 1)[2] for name in ("one", "two"))
    for name in one:
        assert float((one[name] - two[name]).abs().max()) < 1e-3 * (1 + float(one[name].abs().max())), name


def test_soft_and_multi_labels_are_mixed_as_they_are() -> None:
    images, ordinals = torch.zeros(2, 4, 4, 3, dtype=torch.uint8), np.array([3, 4])
    truth = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
    config = TrainConfig.of(mixup=1.0)
    share = float(draw_pairs(config, 0, ordinals[:1], 4)[0, 0])
    _, found = mixed(config, Labels(3, "soft"), 0, Fed(images, truth, ordinals))
    assert found[0].tolist() == pytest.approx([0.5 - share / 2, 0.5 - share / 2, share])
    assert torch.equal(truth[1], torch.tensor([0.0, 0.0, 1.0]))
