"""Evaluation by the papers' rules: exact counts, crops, ten crops, tables, and MXNet's count."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from conftest import Run, picture
from resnet_v2.data.jpeg import Encoded, encode
from resnet_v2.data.records import IRHeader, RecordReader, pack, writing
from resnet_v2.data.rows import Box
from resnet_v2.errors import ResnetError
from resnet_v2.inference import comparisons, report
from resnet_v2.inference.evaluate import judge
from resnet_v2.inference.pictures import View
from resnet_v2.inference.predict import Predictor
from resnet_v2.inference.tally import log_probabilities, probabilities
from resnet_v2.inference.verdicts import Verdicts
from resnet_v2.networks import weights
from resnet_v2.networks.architecture import Architecture
from resnet_v2.networks.header import Header
from resnet_v2.training.evaluate import evaluate


class Recorder:
    """An engine of 3 classes that keeps the images it is shown; class 1 is as probable as their first red is bright."""

    where = "nowhere"

    def __init__(self) -> None:
        self.seen: list[NDArray[np.uint8]] = []

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.seen.append(images.copy())
        bright = images[:, 0, 0, 0].astype(np.float32) / 255
        return np.log(np.stack([1 - 0.9 * bright, 0.1 + 0.8 * bright, 0.0 * bright + 0.001], axis=1))


@pytest.fixture
def rec(tmp_path: Path) -> Path:
    """Five PNGs of 40 x 60 pixels, labels 0, 1, 2, 0, 1."""
    path = tmp_path / "five.rec"
    with writing(path) as writer:
        for key in range(5):
            data = encode(picture(key, 40, 60), ".png", 3)
            writer.write(key, pack(IRHeader(0, float(key % 3), key, 0), data))
    return path


@pytest.mark.parametrize(("side", "said"), [(32, ""), (40, "warning"), (64, "refused")])
def test_images_stored_larger_than_the_network_sees_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], side: int, said: str
) -> None:
    path = tmp_path / "large.rec"
    with writing(path) as writer:
        writer.write(0, pack(IRHeader(0, 0.0, 0, 0), encode(picture(0, side, 2 * side), ".jpg", 90)))
    predictor = Predictor(Recorder(), Header.of_epoch(Architecture(8, 3, "cifar"), 1))
    reader = RecordReader(path)
    predictor.judge(reader, View(32, 32))  # what was asked for is nobody's mistake
    assert not capsys.readouterr().err
    if said == "refused":
        with pytest.raises(ResnetError, match=r"has images of 64 pixels .* give `resize` 32"):
            predictor.judge(reader, View(32))
        return
    predictor.judge(reader, View(32))
    assert capsys.readouterr().err.startswith(f"{said}: {path} has images of 40" if said else "")
    assert bool(said) == (side != 32)


def verdicts(ranks: list[int], labels: list[int], predictions: list[int], classes: int = 3) -> Verdicts:
    return Verdicts(np.array(labels), np.array(predictions), np.array(ranks), 0.5, classes)


def test_it_counts_as_training_does(trained: str, digits: Path) -> None:
    reader = RecordReader(digits / "digits_val.rec")
    network, header = weights.load(trained, 4)
    wanted = evaluate(network, reader, size=header.crop, batch_size=50, device=torch.device("cpu"))
    predictor = Predictor.open(trained, 4)
    for size in (7, 364):
        found = predictor.judge(reader, View.of(header), size)
        assert len(found.labels) == wanted.images
        assert found.error(1) == pytest.approx(wanted.top1_error)
        assert found.error(5) == pytest.approx(wanted.top5_error)
        assert found.loss == pytest.approx(wanted.loss, rel=1e-5)


def test_views(rec: Path) -> None:
    engine, reader = Recorder(), RecordReader(rec)
    judge(engine, reader, View(32), 3, batch_size=5)
    assert np.array_equal(engine.seen[0][2], picture(2, 40, 60)[4:36, 14:46])
    judge(engine, reader, View(16, resize=20), 3, batch_size=5)
    assert engine.seen[1].shape == (5, 16, 16, 3)
    judge(engine, reader, View(48), 3, batch_size=5)
    assert engine.seen[2].shape == (5, 48, 48, 3)


def test_a_view_is_resized_and_then_cropped(rec: Path) -> None:
    """Five images of 40 x 60 become 20 x 30; the crop of 15 begins at rows 2 and columns 7, both rounded down."""
    engine, reader = Recorder(), RecordReader(rec)
    judge(engine, reader, View(15, resize=20), 3, batch_size=5)
    for number in range(5):
        small = cv2.resize(picture(number, 40, 60), (30, 20), interpolation=cv2.INTER_AREA)
        assert np.abs(engine.seen[0][number].astype(int) - small[2:17, 7:22]).max() <= 1


class Constant(torch.nn.Module):
    """Logits that fall from class to class, whatever is shown."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.architecture = Architecture(20, classes, "cifar")
        self.logits = -0.5 * torch.arange(classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        assert not self.training
        return self.logits.repeat(len(images), 1)


def test_training_counts_what_a_hand_counts(tmp_path: Path) -> None:
    """Logits 0, -0.5, -1, ... rank the label k at k."""
    labels = [0, 0, 4, 5, 9, 1, 0]
    with writing(tmp_path / "seven.rec") as writer:
        for key, label in enumerate(labels):
            writer.write(key, pack(IRHeader(0, float(label), key, 0), encode(picture(key, 32, 32), ".png", 3)))
    network = Constant(10)
    reader = RecordReader(tmp_path / "seven.rec")
    found = evaluate(network, reader, size=32, batch_size=3, device=torch.device("cpu"))  # type: ignore[arg-type]
    assert found.images == 7
    assert found.top1_error == pytest.approx(100 * 4 / 7)
    assert found.top5_error == pytest.approx(100 * 2 / 7)
    normaliser = np.log(np.exp(-0.5 * np.arange(10)).sum())
    assert found.loss == pytest.approx(np.mean([normaliser + 0.5 * label for label in labels]), rel=1e-6)
    assert network.training


@pytest.mark.parametrize("count", [1, 2])
def test_the_loss_is_the_mean_of_few_images_too(tmp_path: Path, count: int) -> None:
    with writing(tmp_path / "few.rec") as writer:
        for key in range(count):
            writer.write(key, pack(IRHeader(0, 1.0, key, 0), encode(picture(key, 32, 32), ".png", 3)))
    found = judge(Recorder(), RecordReader(tmp_path / "few.rec"), View(32), 3, batch_size=5)
    bright = [float(picture(key, 32, 32)[0, 0, 0]) / 255 for key in range(count)]
    losses = [-np.log((0.1 + 0.8 * one) / (1.101 - 0.1 * one)) for one in bright]
    assert found.loss == pytest.approx(sum(losses) / count, rel=1e-5)


def test_ten_crops(rec: Path) -> None:
    engine, reader = Recorder(), RecordReader(rec)
    found = judge(engine, reader, View(32, ten_crop=True), 3, batch_size=2)
    batches = [np.stack(engine.seen[start : start + 10]) for start in (0, 10, 20)]
    assert [batch.shape[:2] for batch in batches] == [(10, 2), (10, 2), (10, 1)]
    shown = np.concatenate(batches, axis=1)
    whole = picture(3, 40, 60)
    corners = [whole[:32, :32], whole[:32, 28:], whole[8:, :32], whole[8:, 28:], whole[4:36, 14:46]]
    for number, corner in enumerate(corners):
        assert np.array_equal(shown[number][3], corner)
        assert np.array_equal(shown[number + 5][3], corner[:, ::-1])
    # The mean of the probabilities decides, not that of the logits.
    brightness = shown[:, :, 0, 0, 0].astype(np.float64) / 255
    scores = np.stack([1 - 0.9 * brightness, 0.1 + 0.8 * brightness, np.full_like(brightness, 0.001)])
    mean = (scores / scores.sum(axis=0)).mean(axis=1)
    assert found.predictions.tolist() == mean.argmax(axis=0).tolist()
    assert found.loss == pytest.approx(-np.log(mean[[0, 1, 2, 0, 1], range(5)]).mean(), rel=1e-5)


def test_ten_crops_come_from_one_decode(rec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of images that are too small: they are enlarged once, and the five others mirror the five."""
    decoded: list[Box] = []
    decode = Encoded.decode

    def counted(self: Encoded, wanted: Box, *rest: Any) -> NDArray[np.uint8]:
        decoded.append(wanted)
        return decode(self, wanted, *rest)

    monkeypatch.setattr(Encoded, "decode", counted)
    engine = Recorder()
    judge(engine, RecordReader(rec), View(48, ten_crop=True), 3, batch_size=5)
    assert decoded == [Box(0, 40, 0, 60)] * 5
    shown = np.stack(engine.seen)
    assert shown.shape == (10, 5, 48, 48, 3)
    assert np.array_equal(shown[:5], shown[5:, :, :, ::-1])
    large = cv2.resize(picture(3, 40, 60), (72, 48), interpolation=cv2.INTER_LINEAR)
    for crop, left in ((0, 0), (1, 24), (4, 12)):
        assert np.array_equal(shown[crop, 3], large[:, left : left + 48])


@pytest.mark.parametrize("batch", [1, 3, 4, 5, 7, 128])
def test_mxnet_count_is_that_of_the_filled_up_record(batch: int) -> None:
    ranks = [0, 1, 0, 5, 0]
    found = verdicts(ranks, [0] * 5, ranks)
    filled = np.resize(ranks, 5 + -5 % batch)
    for top in (1, 5):
        assert found.error(top, mxnet_batch=batch) == pytest.approx(100 * (filled >= top).mean(), rel=1e-12)
    assert found.error(1, mxnet_batch=10**12) == pytest.approx(40)


def test_nothing_is_evaluated_before_all_networks_are_found(
    trained: str, digits: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Predictor, "judge", lambda *_: pytest.fail("one was evaluated"))
    rec = digits / "digits_val.rec"
    for words in (("evaluate", "--prefix", trained, "nowhere"), ("compare", trained, "nowhere")):
        status, _, err = run(*words, "--rec", rec, "--gpus", "")
        assert (status, "There is no checkpoint nowhere" in err) == (2, True), err


def test_a_picture_of_no_known_kind_is_refused_before_the_work(run: Run, digits: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(Predictor, "open", lambda *_: pytest.fail("a network was opened"))
    status, _, err = run("evaluate", "--rec", digits / "digits_val.rec", "--gpus", "", "--confusion", "c.gif")
    assert (status, err) == (
        2,
        "resnet-v2: --confusion c.gif has no ending of a picture; name it .png, .svg or .pdf.\n",
    )


def test_mxnet_counts_the_first_images_twice() -> None:
    found = verdicts([0, 1, 0, 0, 0], [0] * 5, [0, 1, 0, 0, 0])
    assert found.error(1) == pytest.approx(20)
    assert found.error(1, mxnet_batch=4) == pytest.approx(100 * 2 / 8)
    assert found.error(1, mxnet_batch=5) == pytest.approx(20)


def test_classes_and_confusion() -> None:
    found = verdicts([0, 1, 2, 0], [0, 0, 0, 1], [0, 1, 1, 1])
    images, errors = found.class_errors()
    assert images.tolist() == [3, 1, 0]
    assert errors[:2] == pytest.approx([200 / 3, 0])
    assert np.isnan(errors[2])
    assert found.confusion().tolist() == [[1, 2, 0], [0, 1, 0], [0, 0, 0]]
    row = report.Row(Header(Architecture(20, 3, "cifar"), 1, 32, 32, ("ant", "bee", "cat")), View(32), found)
    assert report.class_table(row).splitlines()[2:] == ["| ant | 3 | 66.67 | bee (2) |", "| bee | 1 | 0.00 |  |"]
    barred = replace(row, header=replace(row.header, class_names=("a|nt", "b|ee", "cat")))
    assert report.class_table(barred).splitlines()[2] == r"| a\|nt | 3 | 66.67 | b\|ee (2) |"
    lost = replace(row, verdicts=replace(row.verdicts, loss=math.nan))
    assert lost.as_json()["loss"] is None


def test_answers_that_are_no_numbers_are_no_errors(rec: Path) -> None:
    class Damaged(Recorder):
        def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
            return super().logits(images) * np.float32(np.nan)

    with pytest.raises(ResnetError, match=r"answers with what is no number: its weights are damaged"):
        judge(Damaged(), RecordReader(rec), View(32), 3, 2)


def test_welchs_test_is_scipys() -> None:
    stats = pytest.importorskip("scipy.stats", reason="missing scipy: pip install scikit-learn")
    generator = np.random.default_rng(0)
    for apart in (0, 0.3, 3, 30):
        ones, others = generator.normal(apart, 1, 3).tolist(), generator.normal(0, 5, 7).tolist()
        wanted = stats.ttest_ind(ones, others, equal_var=False).pvalue
        assert comparisons.welch_test(ones, others) == pytest.approx(wanted, rel=1e-9)
    assert comparisons.welch_test([1, 1], [1, 1]) == 1
    assert comparisons.welch_test([1, 1], [2, 2]) == 0


def test_the_sign_test() -> None:
    assert comparisons.sign_test(0, 0) == 1
    assert comparisons.sign_test(5, 5) == 1
    assert comparisons.sign_test(0, 10) == pytest.approx(2 / 2**10)
    assert comparisons.sign_test(10, 0) == comparisons.sign_test(0, 10)
    assert comparisons.sign_test(1, 9) == pytest.approx(2 * 11 / 2**10)
    # As many as ImageNet has; the normal distribution comes near.
    assert comparisons.sign_test(2500, 2700) == pytest.approx(2 * NormalDist().cdf(-199 / 5200**0.5), rel=1e-3)
    assert comparisons.sign_test(0, 50_000) == 0


@pytest.mark.parametrize(("only_second", "told"), [(6, "p = 0.031"), (5000, "p < 1e-16")])
def test_a_comparison_never_says_that_chance_is_0(only_second: int, told: str) -> None:
    header, view = Header(Architecture(20, 3, "cifar"), 1, 32, 32), View(32)
    rows = []
    for rank in (1, 0):
        ranks = np.full(only_second, rank)
        rows.append(report.Row(header, view, Verdicts(ranks, ranks, ranks, 0.0, 10)))
    assert comparisons.comparison(*rows).endswith(f"more than chance explains (sign test, {told}).")


def test_tables(trained: str, digits: Path, tmp_path: Path, run: Run) -> None:
    evaluate = ["evaluate", "--rec", digits / "digits_val.rec", "--gpus", ""]
    status, out, _ = run(*evaluate, "--prefix", f"{trained}-0002", trained, "--crop", "32,24", "--resize", "32")
    lines = out.splitlines()
    assert status == 0
    assert lines[:2] == ["| network | crop-size | top-1 | top-5 |", "|---|---|---|---|"]
    assert [line.split(" | ")[1] for line in lines[2:]] == ["32x32", "24x24"] * 2
    error = weights.load(trained, 4)[1].errors["top1_error"]
    assert lines[4] == f"| ResNet-8-v2, {trained} | 32x32 | {error:.2f} | {lines[4].split(' | ')[3]}"
    status, out, _ = run(*evaluate, "--prefix", trained, "--per-class", "--confusion", tmp_path / "c.png", "--json")
    result = json.loads(out)
    assert status == 0
    assert sum(one["images"] for one in result["classes"]) == 364
    assert (tmp_path / "c.png").stat().st_size > 5000
    out = run(*evaluate, "--prefix", trained, "--mxnet-count", 256, "--per-class")[1]
    assert "(MXNet's count in batches of 256)" in out
    assert out.count("\n| ") == 11


@pytest.mark.parametrize("workers", [0, 2])
def test_records_that_cannot_be_read_are_left_out(
    tmp_path: Path, trained: str, digits: Path, run: Run, workers: int
) -> None:
    """The figures are those of the others alone; more than one in a hundred end it."""
    reader = RecordReader(digits / "digits_val.rec")
    good = [number for number in range(len(reader)) if number not in (5, 6, 130)]
    bad = tmp_path / "bad.rec"
    for path, numbers in ((tmp_path / "good.rec", good), (bad, range(len(reader)))):
        with writing(path) as writer:
            for number in numbers:
                damage = path == bad and number not in good
                writer.write(number, pack(reader.image(number)[0], b"none") if damage else reader[number])
    words = ["evaluate", "--prefix", trained, "--json", "--per-class", "--gpus", "", "--workers", workers, "--rec"]
    wanted = json.loads(run(*words, tmp_path / "good.rec")[1])
    status, _, err = run(*words, bad)
    assert (status, "the image of record 5 cannot be decoded" in err) == (2, True)
    status, out, err = run(*words, bad, "--on-error", "skip", "--batch-size", 2)
    assert status == 0, err
    found = json.loads(out)
    assert found.pop("loss") == pytest.approx(wanted.pop("loss"), rel=1e-6)
    assert found == wanted
    assert found["images"] == len(good)
    assert [f"left out: {bad}: the image of record {number} cannot" in err for number in (5, 6, 130, 7)] == [1, 1, 1, 0]
    with writing(bad) as writer:
        for number in range(len(reader)):
            writer.write(number, pack(reader.image(number)[0], b"none") if number < 5 else reader[number])
    status, _, err = run(*words, bad, "--on-error", "skip")
    assert (status, "more than one record in a hundred is bad, the last: " in err) == (2, True)
    with writing(bad) as writer:
        writer.write(0, pack(reader.image(0)[0], b"none"))
    status, _, err = run(*words, bad, "--on-error", "skip")
    assert (status, "bad.rec holds no image that can be read" in err) == (2, True)


def test_comparing_two_networks(trained: str, digits: Path, run: Run) -> None:
    rec = digits / "digits_val.rec"
    status, out, _ = run("compare", f"{trained}-0001", trained, "--rec", rec, "--gpus", "")
    lines = out.splitlines()
    assert status == 0
    assert len(lines) == 6
    assert "of top-1 error. Of 364 images" in lines[-1]
    assert "more than chance explains" in lines[-1]
    assert lines[2].startswith(f"| ResNet-8-v2, {trained}-0001 | ")
    assert lines[3].startswith(f"| ResNet-8-v2, {trained} | ")
    assert lines[-1].startswith(f"ResNet-8-v2, {trained} against ResNet-8-v2, {trained}-0001, ")
    firsts, seconds = f"{trained}-0001,{trained}-0002", f"{trained}-0003,{trained}"
    seeds = run("compare", firsts, seconds, "--rec", rec, "--gpus", "")[1].splitlines()
    errors = [float(line.split("|")[3]) for line in seeds[2:6]]
    said = re.fullmatch(
        r"Top-1 error of 2 networks each, 32x32, mean \+- standard deviation: the first (.*) \+- (.*) %, the second "
        r"(.*) \+- (.*) %, .* \(Welch's t-test, p = 0.*\)\.",
        seeds[-1],
    )
    assert said is not None, seeds[-1]
    pairs = (errors[::2], errors[1::2])
    wanted = [figure for one, other in pairs for figure in ((one + other) / 2, abs(one - other) / 2**0.5)]
    assert [float(figure) for figure in said.groups()] == pytest.approx(wanted, abs=0.011)
    same = run("compare", trained, trained, "--rec", rec, "--gpus", "")[1]
    assert same.splitlines()[2].startswith("| ResNet-8-v2 | ")
    assert "+0.00 points" in same
    assert "the first alone is right on 0, the second alone on 0, which chance explains" in same
    status, _, err = run("compare", f"{trained},{trained}", trained, "--rec", rec)
    assert status == 2
    assert "give as many of each" in err


def test_views_that_make_no_sense(trained: str, digits: Path, run: Run) -> None:
    evaluate = ["evaluate", "--rec", digits / "digits_val.rec", "--gpus", "", "--prefix", trained]
    for flags, words in (
        (["--crop", "32", "--resize", "24"], "does not fit"),
        (["--crop", "a"], "is not a list of numbers"),
        (["--crop", "32,24", "--resize", "32,32,32"], "3 sizes for 2 crops"),
        (["--confusion", "c.txt"], "has no ending of a picture"),
    ):
        status, _, err = run(*evaluate, *flags)
        assert status == 2
        assert words in err
    with pytest.raises(ResnetError, match="does not fit"):
        View.of(Header(Architecture(20, 3, "cifar"), 1, 32, 32), 32, 16)


def test_a_loss_beyond_what_probabilities_hold() -> None:
    logs = log_probabilities(np.array([[0.0, 2000.0]], np.float32))
    assert logs.tolist() == [[-2000.0, 0.0]]
    assert probabilities(np.array([[0.0, 2000.0]], np.float32)).tolist() == [[0.0, 1.0]]
