"""Labels that are not one class: read, refused, trained on, evaluated, predicted and exported."""

import csv
import json
import math
import shutil
import socket
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from conftest import Run, digits_run, picture
from processes import Command
from resnet_v2.data.exact import exact_id, first_label
from resnet_v2.data.filling import Centred
from resnet_v2.data.jpeg import encode
from resnet_v2.data.labels import Labels
from resnet_v2.data.library import RecordLoader
from resnet_v2.data.loader import Reading, batches
from resnet_v2.data.records import IRHeader, RecordReader, pack, writing
from resnet_v2.errors import ResnetError
from resnet_v2.inference.classifier import load
from resnet_v2.inference.predict import TaskAnswer
from resnet_v2.inference.tally import tally_of
from resnet_v2.inference.verdicts import MultiVerdicts
from resnet_v2.networks import weights
from resnet_v2.networks.architecture import Architecture
from resnet_v2.networks.header import Header
from resnet_v2.serving.demo import Explainer
from resnet_v2.training.average_precision import average_precisions, mean_of
from resnet_v2.training.evaluation import Evaluation, MultiEvaluation, TasksEvaluation, restored, saved
from resnet_v2.training.losses import loss_of, ranks_of_truth, right_answers

MULTI, SOFT, TASKS = Labels(3, "multi"), Labels(3, "soft"), Labels(12, "tasks", (10, 2))
OF_DIGIT: dict[str, Callable[[int], Sequence[float]]] = {
    "multi": lambda digit: [float(digit % 2 == 0), float(digit < 5), float(digit % 3 == 0)],
    "soft": lambda digit: [0.91 if place == digit else 0.01 for place in range(10)],
    "tasks:10,2": lambda digit: [float(digit), float(digit % 2)],
}


def record(path: Path, labels: Sequence[float | Sequence[float]], side: int = 12) -> RecordReader:
    """Images of so many pixels a side with these labels."""
    with writing(path) as writer:
        for key, label in enumerate(labels):
            writer.write(key, pack(IRHeader(0, label, key, 0), encode(picture(key, side, side), ".png", 3)))
    return RecordReader(path)


@pytest.fixture(scope="module")
def several(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of the digits with several labels each, by the setting; 96 to train on, 40 to validate on."""
    folders = {}
    for kind, labels in OF_DIGIT.items():
        folder = folders[kind] = tmp_path_factory.mktemp("several")
        for part, count in (("train", 96), ("val", 40)):
            reader = RecordReader(digits / f"digits_{part}.rec")
            with writing(folder / f"digits_{part}.rec") as writer:
                for ordinal in range(count):
                    header, image = reader.image(ordinal)
                    digit = int(np.ravel(header.label)[0])
                    writer.write(ordinal, pack(IRHeader(0, labels(digit), ordinal, 0), bytes(image)))
    return folders


def run_of(several: dict[str, Path], kind: str, prefix: Path, **changes: object) -> list[str]:
    settings: dict[str, object] = {
        "labels": kind,
        "num_classes": {"multi": 3, "soft": 10}.get(kind, 0),
        "gpus": "",
        "epochs": 2,
        "batch_size": 16,
        "frequent": 2,
        "workers": 0,
        "model_prefix": str(prefix),
    }
    return digits_run(several[kind], **(settings | changes))


@pytest.fixture(scope="module")
def networks(several: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The prefixes of a network for each kind, trained for two epochs."""
    from resnet_v2 import cli

    prefixes = {}
    for kind in several:
        prefixes[kind] = str(tmp_path_factory.mktemp("model") / "a")
        assert cli.main(run_of(several, kind, Path(prefixes[kind]))) == 0
    return prefixes


# --- reading


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("side", [12, 80])  # small images are kept decoded, others are read each time
@pytest.mark.parametrize(
    ("labels", "rows", "kind"),
    [
        (MULTI, [[0, 1, 1], [1, 0, 0], [0, 0, 0]], np.float32),
        (SOFT, [[0.5, 0.25, 0.25], [1, 0, 0], [0.2, 0.2, 0.6]], np.float32),
        (TASKS, [[9, 1], [0, 0], [3, 1]], np.int64),
        (Labels(1, "multi"), [[1], [0], [1]], np.float32),
        (Labels(2, "numbers"), [[-3.5, 7], [1e6, 0], [0, 0]], np.float32),
    ],
)
def test_batches_have_all_labels(
    tmp_path: Path, workers: int, side: int, labels: Labels, rows: list[list[float]], kind: type
) -> None:
    reader = record(tmp_path / "a.rec", rows, side)
    order = np.array([2, 0, 1, 0])
    (batch,) = batches(reader, [order], Centred(12), (12, 12, 3), labels, Reading(workers))
    assert batch.labels.dtype == kind
    assert np.array_equal(batch.labels, np.array(rows, np.float32)[order].astype(kind))


def test_labels_of_a_batch_stay_when_others_come(tmp_path: Path) -> None:
    reader = record(tmp_path / "a.rec", [[number % 2, 1, 0] for number in range(12)])
    found = list(batches(reader, list(np.arange(12)[:, None]), Centred(12), (12, 12, 3), MULTI, Reading()))
    assert [int(batch.labels[0, 0]) for batch in found] == [0, 1] * 6


def test_one_label_without_an_array_is_one_label(tmp_path: Path) -> None:
    reader = record(tmp_path / "a.rec", [1.0, 0.0])
    (batch,) = batches(reader, [np.arange(2)], Centred(12), (12, 12, 3), Labels(1, "multi"), Reading())
    assert batch.labels.tolist() == [[1], [0]]


def test_of_several_labels_the_first_is_the_class(tmp_path: Path) -> None:
    reader = record(tmp_path / "a.rec", [[2, 7], [0, 9, 9]])
    (batch,) = batches(reader, [np.arange(2)], Centred(12), (12, 12, 3), 3, Reading())
    assert batch.labels.tolist() == [2, 0]


@pytest.mark.parametrize("side", [12, 80])
@pytest.mark.parametrize(
    ("labels", "row", "said"),
    [
        (MULTI, [1, 0], "has 2 labels, but `labels` multi wants 3"),
        (MULTI, 1.0, "has 1 label, but `labels` multi wants 3"),
        (MULTI, [1, 0, -1], "has the number -1 as label 2, but `labels` multi wants 0 or 1"),
        (MULTI, [1, 0.5, 0], "has the number 0.5 as label 1, but `labels` multi wants 0 or 1"),
        (MULTI, [1, math.nan, 0], "has the number nan as label 1, but `labels` multi"),
        (SOFT, [0.5, 0.2, 0.2], "add up to 0.9, but `labels` soft"),
        (SOFT, [1.5, -0.5, 0], "has the number 1.5 as label 0, but `labels` soft"),
        (SOFT, [math.inf, 0, 0], "has the number inf as label 0, but `labels` soft"),
        (SOFT, [math.nan, 0, 0], "has the number nan as label 0, but `labels` soft"),
        (TASKS, [9, 2], "has the number 2 as label 1, but the classes of task 1 are 0 to 1"),
        (TASKS, [0.5, 1], "has the number 0.5 as label 0, but the classes of task 0 are 0 to 9"),
        (TASKS, [-1, 1], "has the number -1 as label 0, but the classes of task 0"),
        (TASKS, [1, 1, 1], "has 3 labels, but `labels` tasks:10,2 wants 2"),
        (Labels(4, "numbers"), [1, 1, 1], "has 3 labels, but `label_width` wants 4"),
        (Labels(2, "numbers"), [1, math.nan], "has the number nan as label 1"),
    ],
)
def test_labels_that_cannot_be(tmp_path: Path, side: int, labels: Labels, row: float | list[float], said: str) -> None:
    goods: dict[str, list[float]] = {"multi": [0, 1, 0], "soft": [0, 1, 0], "tasks": [0, 1]}
    good = goods.get(labels.kind, [0.0] * labels.classes)
    rows: list[float | Sequence[float]] = [good, row, good]
    reader = record(tmp_path / "a.rec", rows, side)
    stream = batches(reader, [np.arange(3)], Centred(12), (12, 12, 3), labels, Reading())
    with pytest.raises(ResnetError, match=r"a\.rec: record 1 ") as error:
        next(stream)
    assert said in str(error.value)


def test_a_bad_label_is_skipped_like_a_bad_image(tmp_path: Path) -> None:
    reader = record(tmp_path / "a.rec", [[0, 1, 0], [0, 9, 0], [1, 1, 0]])
    said: list[str] = []
    reading = Reading(on_skip=said.append)
    (batch,) = batches(reader, [np.arange(3)], Centred(12), (12, 12, 3), MULTI, reading)
    assert batch.ordinals.tolist() == [0, 2, 2]
    assert batch.labels.tolist() == [[0, 1, 0], [1, 1, 0], [1, 1, 0]]
    assert "record 1 has the number 9" in said[0]


def test_other_training_loops_have_mxnets_label_width(tmp_path: Path) -> None:
    record(tmp_path / "a.rec", [[-1, 0.5], [3, 4]])
    loader = RecordLoader(tmp_path / "a.rec", batch_size=2, size=12, augment="centre", label_width=2, workers=0)
    assert [labels.tolist() for _, labels in loader] == [[[-1, 0.5], [3, 4]]]
    for width, classes, said in ((0, 0, "`label_width` must be 1 or more"), (2, 9, "`classes` checks one label")):
        with pytest.raises(ResnetError, match=said):
            RecordLoader(tmp_path / "a.rec", batch_size=2, classes=classes, label_width=width, workers=0)


# --- labels above 2^24


def test_large_labels_are_exact(tmp_path: Path, run: Run) -> None:
    labels = [(1 << 24) + 1, 1 << 24, 5, (1 << 40) + 1]
    for number in range(len(labels)):
        assert cv2.imwrite(str(tmp_path / f"{number}.png"), picture(number, 12, 12))
    lst, rec = tmp_path / "a.lst", tmp_path / "a.rec"
    lst.write_text("".join(f"{number}\t{label}\t{number}.png\n" for number, label in enumerate(labels)))
    assert run("pack", lst, tmp_path, rec)[0] == 0
    reader = RecordReader(rec)
    headers = [reader.image(ordinal)[0] for ordinal in range(4)]
    assert [header.id2 for header in headers] == [labels[0], labels[1], 0, labels[3]]
    assert [header.flag for header in headers] == [0] * 4
    for side in (12, 8):
        loader = RecordLoader(rec, batch_size=4, size=side, augment="centre", workers=0)
        assert [found.tolist() for _, found in loader] == [labels]
    assert run("verify", rec, "--decode")[0] == 0
    lst.write_text(lst.read_text().replace(str(labels[0]), str(labels[1])))
    status, out, _ = run("verify", rec)
    assert status == 1
    assert f"its label is {labels[0]}, the .lst says {labels[1]}" in out


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("1\t16777217", "16777217 would be rounded, and only the first label may be that large"),
        ("9007199254740993", "would be rounded; give whole numbers from 0 to 9007199254740991"),
        ("-16777217", "-16777217 would be rounded"),
        ("16777216.5", "16777216.5 would be rounded"),
    ],
)
def test_labels_that_would_be_rounded_are_refused(tmp_path: Path, run: Run, line: str, said: str) -> None:
    assert cv2.imwrite(str(tmp_path / "0.png"), picture(0, 12, 12))
    (tmp_path / "a.lst").write_text(f"0\t{line}\t0.png\n")
    words = "pack", tmp_path / "a.lst", tmp_path, tmp_path / "a.rec", "--pack-label", "--on-error", "stop"
    status, _, err = run(*words)
    assert status == 2
    assert said in err
    assert not (tmp_path / "a.rec").exists()


def test_a_rounded_label_without_the_exact_one_is_no_class(tmp_path: Path) -> None:
    record(tmp_path / "a.rec", [float(1 << 24)])
    with pytest.raises(ResnetError, match="record 0 has the label 16777216, to which others are rounded"):
        list(RecordLoader(tmp_path / "a.rec", batch_size=1, size=12, augment="centre", workers=0))
    assert math.isnan(first_label(float(1 << 24), 3))
    assert exact_id(7.0) == 0


# --- losses and figures


def test_losses_are_torchs() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 12, generator=generator)
    multi = (torch.rand(5, 12, generator=generator) > 0.5).float()
    soft = torch.rand(5, 12, generator=generator).softmax(1)
    tasks = torch.stack([torch.arange(5), torch.arange(5) % 2], 1)
    classes = torch.arange(5)
    assert loss_of(Labels(12), logits, classes, 0.1) == F.cross_entropy(
        logits, classes, label_smoothing=0.1, reduction="sum"
    )
    assert loss_of(Labels(12, "multi"), logits, multi) / 5 == pytest.approx(
        float(torch.nn.BCEWithLogitsLoss()(logits, multi))
    )
    assert loss_of(Labels(12, "soft"), logits, soft) / 5 == pytest.approx(
        float(torch.nn.CrossEntropyLoss()(logits, soft))
    )
    wanted = F.cross_entropy(logits[:, :10], tasks[:, 0]) + F.cross_entropy(logits[:, 10:], tasks[:, 1])
    assert loss_of(TASKS, logits, tasks) / 5 == pytest.approx(float(wanted))
    smoothed = [
        F.cross_entropy(logits[:, place], tasks[:, task], label_smoothing=0.1, reduction="sum")
        for task, place in enumerate(TASKS.places)
    ]
    assert loss_of(TASKS, logits, tasks, 0.1) == sum(smoothed)


def test_probabilities_of_one_to_all_digits_still_have_an_order() -> None:
    tally = tally_of(Labels(1, "multi"), 2)
    tally.add(np.arange(2), [np.array([[40.0], [50.0]], np.float32)], np.array([[0], [1]]))
    found = tally.verdicts()
    assert isinstance(found, MultiVerdicts)
    assert found.mean_average_precision == 100


def test_right_answers() -> None:
    logits = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [0.0, 0.0, 0.0]])
    multi = torch.tensor([[0.0, 1.0, 1.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    assert int(right_answers(MULTI, logits, multi)) == 1
    assert ranks_of_truth(MULTI, logits, multi)[0].tolist() == [1, 5, 0]
    best_of_two = ranks_of_truth(MULTI, torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[1.0, 0.0, 1.0]]))
    assert best_of_two[0].tolist() == [0]
    soft = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0], [0.2, 0.3, 0.5]])
    assert int(right_answers(SOFT, logits, soft)) == 1
    assert ranks_of_truth(SOFT, logits, soft)[0].tolist() == [0, 2, 2]
    its, truth = Labels(3, "tasks", (2, 1)), torch.tensor([[1, 0], [0, 0], [0, 0]])
    assert int(right_answers(its, logits, truth)) == 5
    assert [ranks.tolist() for ranks in ranks_of_truth(its, logits, truth)] == [[1, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize("seed", range(20))
def test_average_precision_is_scikit_learns(seed: int) -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="missing scikit-learn: pip install -e '.[digits]'")
    rng = np.random.default_rng(seed)
    truth = (rng.random((60, 8)) < rng.random(8)).astype(np.float32)
    truth[0] = 1  # a class without images has no average precision
    scores = rng.integers(0, 8, (60, 8)).astype(np.float32) if seed % 2 else rng.normal(size=(60, 8))
    wanted = [metrics.average_precision_score(truth[:, place], scores[:, place]) for place in range(8)]
    assert average_precisions(truth, scores) == pytest.approx(np.array(wanted), abs=1e-12)


def test_classes_without_images_have_no_average_precision() -> None:
    found = average_precisions(np.array([[1, 0], [0, 0]]), np.array([[0.0, 1.0], [1.0, 0.0]]))
    assert found[0] == 0.5
    assert math.isnan(found[1])
    assert mean_of(found) == 0.5
    assert mean_of(found[1:]) == 0


@pytest.mark.parametrize(
    "result",
    [
        Evaluation(4, 0.5, 25.0, 0.0),
        TasksEvaluation(4, 0.5, 25.0, 0.0, (0.0, 50.0)),
        MultiEvaluation(4, 0.5, 25.0, 0.0, 90.5, (90.5, None)),
    ],
)
def test_a_result_goes_through_json(result: Evaluation) -> None:
    assert restored(json.loads(json.dumps(saved(result)))) == result


# --- headers


@pytest.mark.parametrize("labels", [Labels(12), Labels(12, "multi"), Labels(12, "soft"), TASKS])
def test_headers_tell_the_labels(labels: Labels, tmp_path: Path) -> None:
    header = Header.of_epoch(Architecture(8, 12, "cifar"), 3, labels=labels)
    assert Header.from_json(header.to_json(), tmp_path) == header
    assert header.labels == labels
    # Older programs read what they know, and refuse what they do not.
    assert ("label_kind" in json.loads(header.to_json())) == (labels.kind != "class")


@pytest.mark.parametrize(
    "wrong",
    [{"label_kind": "other"}, {"label_kind": "tasks"}, {"tasks": [6, 6]}, {"label_kind": "tasks", "tasks": [6, 5]},
     {"label_kind": "tasks", "tasks": [12, 0]}, {"label_kind": "tasks", "tasks": [6, "6"]}, {"tasks": 3},
     {"label_kind": "numbers"}],
)  # fmt: skip
def test_headers_that_cannot_be(wrong: dict[str, object], tmp_path: Path) -> None:
    fields = json.loads(Header.of_epoch(Architecture(8, 12, "cifar"), 3).to_json()) | wrong
    with pytest.raises(ResnetError, match="has a header that cannot be read"):
        Header.from_json(json.dumps(fields), tmp_path)


# --- a run


@pytest.mark.parametrize("kind", list(OF_DIGIT))
def test_evaluate_finds_what_validation_found(
    several: dict[str, Path], networks: dict[str, str], run: Run, kind: str
) -> None:
    rec = several[kind] / "digits_val.rec"
    header = weights.checkpoint_header(networks[kind], 2)
    status, out, _ = run("evaluate", "--rec", rec, "--prefix", networks[kind], "--gpus", "", "--json", "--per-class")
    assert status == 0
    found, kept = json.loads(out), header.training["evaluation"]
    assert found["loss"] == pytest.approx(kept["loss"], rel=1e-4)
    assert [found[f"top{top}_error"] for top in (1, 5)] == pytest.approx([kept["top1_error"], kept["top5_error"]])
    log = Path(f"{networks[kind]}.log").read_text()
    assert "Epoch[1] Validation-accuracy=" in log
    if kind == "multi":
        assert found["mean_average_precision"] == pytest.approx(kept["mean_average_precision"])
        assert header.errors["mean_average_precision"] == kept["mean_average_precision"]
        each = [one["average_precision"] for one in found["classes"]]
        assert each == pytest.approx(kept["average_precision"])
        assert found["mean_average_precision"] == pytest.approx(np.mean(each))
        assert f"Epoch[1] Validation-mAP={kept['mean_average_precision'] / 100:f}" in log
        assert all(0 < one["images"] < 40 for one in found["classes"])
    if kind == "tasks:10,2":
        assert [task["top1_error"] for task in found["tasks"]] == pytest.approx(kept["task_errors"])
        assert found["top1_error"] == pytest.approx(np.mean(kept["task_errors"]))
        assert "Epoch[1] Validation-task1-accuracy=" in log


def test_training_accuracy_counts_every_task(networks: dict[str, str]) -> None:
    events = [json.loads(line) for line in Path(f"{networks['tasks:10,2']}.jsonl").read_text().splitlines()]
    shares = [event["train_accuracy"] for event in events if event["event"] == "train"]
    assert all(0 < share < 1 for share in shares)
    assert all(share * 96 * 2 == pytest.approx(round(share * 96 * 2)) for share in shares)


def test_tables(several: dict[str, Path], networks: dict[str, str], run: Run, tmp_path: Path) -> None:
    words = ["evaluate", "--gpus", "", "--rec"]
    status, out, _ = run(*words, several["multi"] / "digits_val.rec", "--prefix", networks["multi"], "--per-class")
    assert status == 0
    assert "\nmAP          " in out
    assert "| class | images | average precision |" in out
    status, out, _ = run(*words, several["multi"] / "digits_val.rec", "--prefix", networks["multi"], "--table")
    assert "| network | crop-size | top-1 | top-5 | mAP |" in out
    picture_path = tmp_path / "confusion.png"
    asked = ["--prefix", networks["multi"], "--confusion", picture_path]
    status, _, err = run(*words, several["multi"] / "digits_val.rec", *asked)
    assert (status, picture_path.exists()) == (2, False)
    assert "--confusion is of one class; of --labels multi none is taken for another" in err
    tasks = several["tasks:10,2"] / "digits_val.rec"
    status, out, _ = run(*words, tasks, "--prefix", networks["tasks:10,2"], "--per-class")
    assert "\ntask 1: top-1 error" in out
    assert "| task 1: 0 |" in out
    _, padded, _ = run(*words, tasks, "--prefix", networks["tasks:10,2"], "--mxnet-count", "32")
    _, found, _ = run(*words, tasks, "--prefix", networks["tasks:10,2"], "--mxnet-count", "32", "--json")
    assert f"\ntask 1: top-1 error {json.loads(found)['tasks'][1]['top1_error']:.2f} %" in padded
    assert padded.splitlines()[-1] != out.splitlines()[5]
    assert run(*words, tasks, "--prefix", networks["tasks:10,2"], "--confusion", picture_path)[0] == 0
    one = networks["tasks:10,2"]
    status, _, err = run("compare", one, one, "--rec", tasks, "--gpus", "")
    assert status == 2
    assert "the sign test is for one answer" in err


def test_ten_crops_are_averaged(several: dict[str, Path], networks: dict[str, str]) -> None:
    for kind, folder in several.items():
        network = load(networks[kind])
        found = network.evaluate(folder / "digits_val.rec", ten_crop=True, crop=28)
        assert math.isfinite(found.loss)
        assert 0 <= found.top1_error <= 100


def test_predictions(digits: Path, networks: dict[str, str], run: Run) -> None:
    image = digits / "examples" / "3.png"
    words = ["predict", "--img", image, "--gpus", "", "--top", "2"]
    logits = {}
    for kind, prefix in networks.items():
        network = load(prefix)
        pixels = network.features(image)
        layer = network.network.fc1
        with torch.inference_mode():
            logits[kind] = layer(torch.from_numpy(pixels)[None])[0].double()
    status, out, _ = run(*words, "--prefix", networks["multi"], "--json")
    top = json.loads(out)[0]["top"]
    shares = logits["multi"].sigmoid()
    assert status == 0
    assert {one["class"] for one in top} == set(np.flatnonzero(shares.numpy() >= 0.5).tolist())
    assert all(one["probability"] == pytest.approx(float(shares[one["class"]]), abs=1e-4) for one in top)
    _, out, _ = run(*words, "--prefix", networks["tasks:10,2"], "--json")
    tasks = json.loads(out)[0]["tasks"]
    assert [len(its) for its in tasks] == [2, 2]
    second = logits["tasks:10,2"][10:].softmax(0)
    assert [one["class"] for one in tasks[1]] == second.argsort(descending=True).tolist()
    assert tasks[1][0]["probability"] == pytest.approx(float(second.max()), abs=1e-4)
    _, out, _ = run(*words, "--prefix", networks["tasks:10,2"], "--format", "csv")
    rows = list(csv.DictReader(out.splitlines()))
    assert [(row["task"], row["rank"]) for row in rows] == [("0", "1"), ("0", "2"), ("1", "1"), ("1", "2")]
    _, out, _ = run(*words, "--prefix", networks["tasks:10,2"])
    assert out.splitlines()[1] == "  task 0"
    answers = load(networks["tasks:10,2"]).classify(image, top=1)
    its = [(one.task, one.class_index) for one in answers if isinstance(one, TaskAnswer)]
    assert its == [(0, tasks[0][0]["class"]), (1, tasks[1][0]["class"])]


def test_a_picture_may_have_no_class(digits: Path, networks: dict[str, str], run: Run, tmp_path: Path) -> None:
    _, header, tensors = weights.read_checkpoint(networks["multi"])
    tensors["fc1.weight"].zero_()
    tensors["fc1.bias"].copy_(torch.tensor([-1.0, -2.0, -3.0]))
    weights.save(tmp_path / "none-0001.safetensors", tensors, header)
    words = ["predict", "--img", digits / "examples" / "3.png", "--gpus", "", "--prefix", tmp_path / "none"]
    assert "none of the classes" in run(*words)[1]
    assert json.loads(run(*words, "--json")[1])[0]["top"] == []
    assert run(*words, "--format", "csv")[1] == "image,rank,class,name,probability\n"
    tensors["fc1.bias"].copy_(torch.tensor([0.0, 9.0, 0.0]))
    weights.save(tmp_path / "none-0001.safetensors", tensors, header)
    top = json.loads(run(*words, "--top", 1, "--json")[1])[0]["top"]
    assert [one["class"] for one in top] == [1, 0, 2]  # every class of 0.5 or more, whatever --top says


def test_the_page_shows_classes_and_no_tasks(networks: dict[str, str], run: Run, tmp_path: Path, digits: Path) -> None:
    _, header, tensors = weights.read_checkpoint(networks["multi"])
    tensors["fc1.weight"].zero_()
    tensors["fc1.bias"].copy_(torch.tensor([-1.0, 3.0, -3.0]))
    explainer = Explainer(weights.build(tmp_path, header, tensors), header, torch.device("cpu"))
    answers = explainer.explain(digits / "examples" / "3.png").answers
    assert [one.class_index for one in answers] == [1, 0, 2]  # those below 0.5 too
    assert answers[1].probability == pytest.approx(1 / (1 + math.e))
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    status, _, err = run("demo", "--prefix", networks["tasks:10,2"], "--port", port)
    assert status == 2
    assert "answers several tasks, and the page shows one" in err


def test_other_classes_of_ones_own_are_one_for_an_image(networks: dict[str, str], digits: Path) -> None:
    network = load(networks["tasks:10,2"])
    network.network.reset_classifier(4)
    assert network.header.labels == Labels(4)
    assert sum(one.probability for one in network.classify(digits / "examples" / "3.png")) == pytest.approx(1)


@pytest.mark.parametrize("kind", ["multi", "tasks:10,2"])
@pytest.mark.parametrize("to", ["mxnet", "safetensors", "onnx"])
def test_exports_say_what_the_logits_are(
    several: dict[str, Path], networks: dict[str, str], run: Run, tmp_path: Path, kind: str, to: str
) -> None:
    if to == "onnx":
        pytest.importorskip("onnxruntime", reason="missing onnxruntime: pip install -e '.[onnx]'")
        words = ["--prefix", networks[kind], "--engine", "onnx"]
    else:
        assert run("export", "--prefix", networks[kind], "--to", to, "--out", tmp_path / "b")[0] == 0
        words = ["--prefix", str(tmp_path / "b")]
        assert weights.checkpoint_header(tmp_path / "b").labels == weights.checkpoint_header(networks[kind]).labels
    evaluate = ["evaluate", "--rec", several[kind] / "digits_val.rec", "--gpus", "", "--json"]
    ours, theirs = (json.loads(run(*evaluate, *asked)[1]) for asked in (["--prefix", networks[kind]], words))
    assert theirs.pop("loss") == pytest.approx(ours.pop("loss"), rel=1e-4)
    assert theirs == ours


def test_a_symbol_that_is_mended_is_no_other_network(networks: dict[str, str], run: Run, tmp_path: Path) -> None:
    assert run("export", "--prefix", networks["tasks:10,2"], "--to", "mxnet", "--out", tmp_path / "b")[0] == 0
    symbol = tmp_path / "b-symbol.json"
    whole = symbol.read_text()
    symbol.write_text(whole.replace('"begin": "10"', '"begin": "9"'))
    with pytest.raises(ResnetError, match=r"b-symbol\.json is not our ResNet-8"):
        weights.read_checkpoint(tmp_path / "b")
    graph = json.loads(whole)
    graph["heads"] = graph["heads"][::-1]
    symbol.write_text(json.dumps(graph))
    with pytest.raises(ResnetError, match=r"b-symbol\.json is not our ResNet-8"):
        weights.read_checkpoint(tmp_path / "b")


def test_the_card_tells_the_precision(networks: dict[str, str], run: Run) -> None:
    status, out, _ = run("card", "--prefix", networks["multi"])
    assert status == 0
    assert "Mean average precision " in out
    assert "3 classes, any number of them in an image" in out
    assert '| labels | "multi" |' in out
    precision = weights.checkpoint_header(networks["multi"], 2).errors["mean_average_precision"]
    assert f"      name: mean average precision\n      value: {precision / 100:.4f}\n" in out


@pytest.mark.parametrize("kind", list(OF_DIGIT))
def test_a_run_goes_on_to_the_last_bit(
    several: dict[str, Path], networks: dict[str, str], tmp_path: Path, run: Run, kind: str
) -> None:
    whole = Path(networks[kind] + "-0002.safetensors").read_bytes()
    status, _, err = run(*run_of(several, kind, tmp_path / "b", checkpoint_steps=2))
    assert status == 0, err
    assert Path(f"{tmp_path / 'b'}-0002.safetensors").read_bytes() == whole
    # As a run that was killed after its first epoch: everything of the second is gone.
    shutil.copy(tmp_path / "b-0001.safetensors", tmp_path / "b-latest.safetensors")
    (tmp_path / "b-0002.safetensors").unlink()
    status, _, err = run("train", "--resume", "--model-prefix", tmp_path / "b", "--gpus", "", "--workers", "0")
    assert status == 0, err
    assert Path(f"{tmp_path / 'b'}-0002.safetensors").read_bytes() == whole


@pytest.mark.parametrize(("first", "then"), [("soft", "tasks:10,2"), ("tasks:10,2", "multi"), ("multi", "class")])
def test_a_network_of_any_kind_is_fine_tuned_to_any_other(
    several: dict[str, Path], networks: dict[str, str], tmp_path: Path, run: Run, first: str, then: str
) -> None:
    folder = "multi" if then == "class" else then
    words = run_of(several, folder, tmp_path / "b", labels=then, finetune=networks[first], epochs=1)
    words = [word for word in words if not word.startswith(("--depth", "--num-classes"))]
    status, _, err = run(*words, *([] if ":" in then else ["--num-classes", "3"]))
    assert status == 0, err
    assert str(weights.checkpoint_header(tmp_path / "b", 1).labels) == then


def test_the_best_epoch_has_the_highest_precision(networks: dict[str, str], tmp_path: Path, run: Run) -> None:
    _, header, tensors = weights.read_checkpoint(networks["multi"])
    errors = {"top1_error": 10.0, "top5_error": 0.0}
    for name, precision, epoch in (("a-0003", 80.0, 3), ("a-best", 90.5, 2)):
        found = replace(header, epoch=epoch, errors={**errors, "mean_average_precision": precision})
        weights.save(tmp_path / f"{name}.safetensors", tensors, found)
    _, _, err = run("card", "--prefix", tmp_path / "a")
    assert "of 80.00 % mean average precision; epoch 2 had 90.50 %: epoch best is" in err
    trained = weights.checkpoint_header(networks["multi"], "best")
    each = [weights.checkpoint_header(networks["multi"], epoch).errors["mean_average_precision"] for epoch in (1, 2)]
    assert trained.errors["mean_average_precision"] == max(each)


@pytest.mark.parametrize("kind", ["multi", "tasks:10,2"])
@pytest.mark.slow
def test_ranks_count_each_image_once(several: dict[str, Path], tmp_path: Path, run: Run, kind: str) -> None:
    prefix = tmp_path / "a"
    words = run_of(several, kind, prefix, epochs=1, device="cpu", nproc=2)
    status, output = Command(words, tmp_path).finish()
    assert status == 0, output
    kept = weights.checkpoint_header(prefix, 1).training["evaluation"]
    rec = several[kind] / "digits_val.rec"
    found = json.loads(run("evaluate", "--rec", rec, "--prefix", prefix, "--gpus", "", "--json")[1])
    assert kept["images"] == 40
    assert found["top1_error"] == pytest.approx(kept["top1_error"])
    if kind == "multi":
        assert found["mean_average_precision"] == pytest.approx(kept["mean_average_precision"], rel=1e-6)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"labels": "tasks"}, "is not class, multi, soft or tasks"),
        ({"labels": "both"}, "is not class, multi, soft or tasks"),
        ({"labels": "tasks:10,0"}, "that is not from 1"),
        ({"labels": "tasks:10,2", "num_classes": 10}, "has 12 classes in all, but --num-classes says 10"),
        ({"labels": "multi", "label_smoothing": 0.1}, "--label-smoothing does not go with --labels multi"),
        ({"labels": "multi", "num_classes": 4}, "digits_train.rec: record 0 has 3 labels, but --labels multi wants 4"),
        ({"labels": "class", "num_classes": 0}, "The number of classes is unknown"),
    ],
)
def test_settings_that_cannot_be(
    several: dict[str, Path], tmp_path: Path, run: Run, changes: dict[str, object], said: str
) -> None:
    status, _, err = run(*run_of(several, "multi", tmp_path / "a", **changes))
    assert status == 2
    assert said in err
    assert "Traceback" not in err


def test_a_run_goes_on_with_its_labels_alone(several: dict[str, Path], networks: dict[str, str], run: Run) -> None:
    words = run_of(several, "multi", Path(networks["multi"]), labels="soft", epochs=3, retrain=True, model_load_epoch=2)
    status, _, err = run(*words, "--num-classes=3", "--dry-run")
    assert status == 2
    assert "was trained with --labels multi, but the settings ask for soft" in err


def test_a_class_of_several_labels_is_told(several: dict[str, Path], tmp_path: Path, run: Run) -> None:
    status, _, err = run(*run_of(several, "multi", tmp_path / "a", labels="class", num_classes=2), "--dry-run")
    assert status == 0
    assert "digits_train.rec has up to 3 labels a record, of which --labels class takes the first" in err
