"""Weights of classes: counted over the record, in the loss of training alone, and offered where they would matter."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from conftest import Run, digits_run, picture
from resnet_v2.data.jpeg import encode
from resnet_v2.data.labels import Labels
from resnet_v2.data.record_set import RecordSet, open_records
from resnet_v2.data.records import IRHeader, pack, writing
from resnet_v2.training.class_weights import balanced, count_classes, offer
from resnet_v2.training.losses import loss_of


def record(path: Path, labels: Sequence[float | Sequence[float]]) -> RecordSet:
    images = [encode(picture(seed, 32, 32), ".jpg", 80) for seed in range(3)]
    with writing(path) as writer:
        for key, label in enumerate(labels):
            writer.write(key, pack(IRHeader(0, label, key, 0), images[key % 3]))
    return open_records(path)


def run_of(folder: Path, prefix: Path, **changes: object) -> list[str]:
    settings = {"device": "cpu", "num_classes": 3, "epochs": 1, "batch_size": 8, "workers": 0, "model_prefix": prefix}
    return digits_run(folder, **(settings | changes))


@pytest.fixture
def uneven(tmp_path: Path) -> Path:
    """A folder of records: of three classes 24, 4 and 0 images."""
    for part in ("train", "val"):
        record(tmp_path / f"digits_{part}.rec", [0.0] * 24 + [1.0] * 4)
    return tmp_path


def test_weights_are_images_over_classes_and_their_images(uneven: Path) -> None:
    counts = count_classes(open_records(uneven / "digits_train.rec"), Labels(3))
    assert counts.tolist() == [24, 4, 0]
    assert balanced(counts, Labels(3)).tolist() == pytest.approx([28 / (2 * 24), 28 / (2 * 4), 0])


def test_soft_labels_and_tasks_are_counted(tmp_path: Path) -> None:
    soft = record(tmp_path / "a.rec", [[0.5, 0.5], [1, 0], [1, 0]])
    assert count_classes(soft, Labels(2, "soft")).tolist() == [2.5, 0.5]
    tasks, labels = record(tmp_path / "b.rec", [[0, 1], [0, 2], [1, 1], [0, 1]]), Labels(5, "tasks", (2, 3))
    counts = count_classes(tasks, labels)
    assert counts.tolist() == [3, 1, 0, 3, 1]
    assert balanced(counts, labels).tolist() == pytest.approx([4 / 6, 4 / 2, 0, 4 / 6, 4 / 2])


def test_records_that_cannot_be_used_are_not_counted(tmp_path: Path) -> None:
    reader = record(tmp_path / "a.rec", [0.0, 1.0, 7.0, 1.0])
    assert count_classes(reader, Labels(2)).tolist() == [1, 2]
    with (tmp_path / "a.rec").open("r+b") as file:
        file.seek(int(reader.offsets[1]))
        file.write(b"damage")
    assert count_classes(reader, Labels(2)).tolist() == [1, 1]


def test_losses_are_torchs_with_weights() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, classes = torch.randn(5, 12, generator=generator), torch.arange(5)
    counted = torch.rand(12, generator=generator)
    assert loss_of(Labels(12), logits, classes, 0.1, counted) == F.cross_entropy(
        logits, classes, counted, label_smoothing=0.1, reduction="sum"
    )
    one_hot = F.one_hot(classes, 12).float()
    soft = float(loss_of(Labels(12), logits, one_hot, 0.1, counted))
    assert soft == pytest.approx(float(loss_of(Labels(12), logits, classes, 0.1, counted)))
    tasks = torch.stack([torch.arange(5), torch.arange(5) % 2], 1)
    wanted = F.cross_entropy(logits[:, :10], tasks[:, 0], counted[:10], reduction="sum")
    wanted += F.cross_entropy(logits[:, 10:], tasks[:, 1], counted[10:], reduction="sum")
    assert loss_of(Labels(12, "tasks", (10, 2)), logits, tasks, 0.0, counted) == pytest.approx(float(wanted))


def test_they_are_offered_where_classes_are_uneven(tmp_path: Path) -> None:
    names = ("ant", "bee", "cat")
    (said,) = offer(record(tmp_path / "a.rec", [0.0] * 6 + [2.0] * 2), Labels(3), names)
    assert "a.rec has 6 images of class 0 (ant) and 2 images of class 2 (cat): with `class_weights` balanced" in said
    assert offer(record(tmp_path / "b.rec", [0.0] * 5 + [2.0] * 2), Labels(3), names) == []
    assert offer(record(tmp_path / "c.rec", [1.0] * 5), Labels(3), ()) == []
    assert offer(record(tmp_path / "d.rec", [[0, 1]] * 5 + [[1, 0]]), Labels(2, "multi"), ()) == []


def test_a_run_with_weights(uneven: Path, tmp_path: Path, run: Run) -> None:
    status, _, err = run(*run_of(uneven, tmp_path / "plain", lr=0.0))
    assert (status, "with --class-weights balanced each class counts the same" in err) == (0, True), err
    status, _, err = run(*run_of(uneven, tmp_path / "even", lr=0.0, class_weights="balanced"))
    assert (status, "--class-weights" in err) == (0, False), err
    figures = {}
    for name in ("plain", "even"):
        events = [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        losses = {one["event"]: one["loss"] for one in events if "loss" in one}
        figures[name] = [losses["train"], losses["validation"]]
    assert figures["plain"][0] != pytest.approx(figures["even"][0], rel=1e-3)
    assert figures["plain"][1] == pytest.approx(figures["even"][1], rel=1e-6)  # a rate of 0 changes no weight
    assert np.isfinite(figures["even"]).all()


def test_they_do_not_go_with_multi_labels(uneven: Path, tmp_path: Path, run: Run) -> None:
    status, _, err = run(*run_of(uneven, tmp_path / "a", class_weights="balanced", labels="multi"))
    assert (status, "--class-weights does not go with --labels multi" in err) == (2, True)
