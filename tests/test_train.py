"""Training: it learns, it goes on from an epoch to the last bit, and it says what is wrong before it starts."""

import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import torch
from tqdm import tqdm

from conftest import Run, digits_run
from resnet_v2.config.training import arguments_of
from resnet_v2.data.jpeg import decode, encode
from resnet_v2.data.records import IRHeader, RecordReader, pack, writing
from resnet_v2.errors import ResnetError
from resnet_v2.logs.runlog import read_curve
from resnet_v2.networks import weights
from resnet_v2.networks.finding import checkpoint_path, saved_epochs
from resnet_v2.training import gpu
from resnet_v2.training.evaluate import evaluate
from resnet_v2.training.fit import fit
from resnet_v2.training.losses import rank_of_label


def small(digits: Path, prefix: Path, **changes: object) -> dict[str, object]:
    """A run of two seconds: ResNet-8, 96 digits per epoch."""
    settings: dict[str, object] = {
        "data_dir": digits,
        "data_type": "digits",
        "depth": 8,
        "gpus": "",
        "epochs": 4,
        "milestones": "3",
        "batch_size": 32,
        "num_examples": 96,
        "frequent": 2,
        "model_prefix": str(prefix),
        "workers": 0,
    }
    return settings | changes


def tensors(prefix: Path, epoch: int) -> dict[str, torch.Tensor]:
    return weights.read(checkpoint_path(str(prefix), epoch))[1]


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture
def damaged_digits(few_digits: Path, tmp_path: Path) -> Path:
    """The digits; record 11 of those to validate on is no picture."""
    folder = tmp_path / "damaged"
    shutil.copytree(few_digits, folder)
    reader = RecordReader(few_digits / "digits_val.rec")
    with writing(folder / "digits_val.rec") as writer:
        for number in range(len(reader)):
            writer.write(number, pack(reader.image(number)[0], b"none") if number == 11 else reader[number])
    return folder


TWO_RANKS = {"workers": 0, "nproc": 2, "device": "cpu"}


@pytest.mark.parametrize("more", [{"workers": 0}, pytest.param(TWO_RANKS, marks=pytest.mark.slow)])
def test_an_unreadable_record_of_the_validation_loses_no_epoch(
    damaged_digits: Path, tmp_path: Path, run: Run, more: dict[str, object]
) -> None:
    """The epoch is saved, the record named; the run goes on with the validation, and skipping counts one less."""
    settings = small(damaged_digits, tmp_path / "m", epochs=1) | more
    if "nproc" in more:
        del settings["gpus"]
    command = [str(word) for word in ("train", *arguments_of(settings))]
    done = subprocess.run([sys.executable, "-m", "resnet_v2", *command], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "the image of record 11 cannot be decoded" in done.stderr
    assert (
        f"the epoch is saved in {tmp_path}/m-latest.safetensors: mend the record, or give --on-error skip"
        in done.stderr
    )
    assert not (tmp_path / "m-0001.safetensors").exists()
    command += ["--resume", "--force", "--on-error", "skip"]
    done = subprocess.run([sys.executable, "-m", "resnet_v2", *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in (tmp_path / "m.jsonl").read_text().splitlines()]
    assert [event["images"] for event in events if event["event"] == "validation"] == [39]
    assert "the image of record 11 cannot be decoded" in done.stderr + done.stdout + (tmp_path / "m.log").read_text()
    other = small(damaged_digits, tmp_path / "other", epochs=1, on_error="skip")
    assert run("train", *arguments_of(other))[0] == 0
    if "nproc" not in more:  # from the start, the weights are the same
        assert equal(tensors(tmp_path / "m", 1), tensors(tmp_path / "other", 1))


def test_it_learns_and_logs(trained: str) -> None:
    curve = read_curve(Path(f"{trained}.log"))
    assert sorted(curve.top1) == [0, 1, 2, 3]
    assert curve.train_top1[3] < curve.train_top1[0] - 10
    text = Path(f"{trained}.log").read_text()
    assert re.search(r"Epoch\[0\] Batch \[4\]\tSpeed: [\d.]+ samples/sec\tTrain-accuracy=0\.\d{6}\tLoss: \d", text)
    assert f'Saved checkpoint to "{trained}-0004.safetensors"' in text
    events = [json.loads(line) for line in Path(f"{trained}.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events[:4]] == ["start", "batch", "batch", "train"]
    assert 0 <= events[1]["data_wait"] <= 1
    assert saved_epochs(trained) == [1, 2, 3, 4]


def test_the_header_says_what_the_network_is(trained: str, digits: Path) -> None:
    network, header = weights.load(trained, 4)
    assert (header.epoch, header.resize, header.crop) == (4, 32, 32)
    assert header.class_names == tuple("0123456789")
    reader = RecordReader(digits / "digits_val.rec")
    again = evaluate(network, reader, size=header.crop, batch_size=50, device=torch.device("cpu"))
    assert again.top1_error == pytest.approx(header.errors["top1_error"])


# Of the run below: the mean loss of every batch, and the loss and top-1 error of both validations.
GOLDEN_LOSSES = [2.49375, 2.12856, 2.48927, 2.17899, 2.37494, 2.41415, 2.28026, 2.57940]
GOLDEN_VALIDATIONS = [(4.00537, 89.835), (2.59745, 81.319)]


def test_a_golden_run(digits: Path, tmp_path: Path, run: Run) -> None:
    """Every number that a run makes: order, draws, rates, smoothing, decay, the small last batch, the average."""
    words = digits_run(
        digits,
        device="cpu",
        batch_size=32,
        num_examples=100,
        epochs=2,
        frequent=1,
        schedule="linear",
        warmup_epochs=0.5,
        lr=0.05,
        wd=0.01,
        label_smoothing=0.1,
        ema=0.8,
        aug_level=3,
    )
    assert run(*words, "--model-prefix", tmp_path / "m")[0] == 0
    told = [json.loads(line) for line in (tmp_path / "m.jsonl").read_text().splitlines()]
    batches = [event for event in told if event["event"] == "batch"]
    # A step's rate is that of its middle: a straight line up to 0.05 at half an epoch, then down to 0 at 2.
    middles = [epoch + (step + 0.5) / 4 for epoch in range(2) for step in range(4)]
    rates = [0.05 * (middle / 0.5 if middle < 0.5 else (2 - middle) / 1.5) for middle in middles]
    assert [event["learning_rate"] for event in batches] == pytest.approx(rates)
    losses = [event["loss"] for event in batches]
    assert losses[:4] == pytest.approx(GOLDEN_LOSSES[:4], rel=1e-3)
    assert losses == pytest.approx(GOLDEN_LOSSES, rel=0.01)  # more threads round otherwise, and steps amplify it
    whole = [event for event in told if event["event"] == "train"]
    images = (32, 32, 32, 4)
    for epoch in range(2):
        some = batches[4 * epoch : 4 * epoch + 4]
        for name in ("loss", "train_accuracy"):
            mean = sum(event[name] * count for event, count in zip(some, images, strict=True)) / 100
            assert whole[epoch][name] == pytest.approx(mean)
    found = [(event["loss"], event["top1_error"]) for event in told if event["event"] == "validation"]
    for (loss, error), (golden_loss, golden_error) in zip(found, GOLDEN_VALIDATIONS, strict=True):
        assert loss == pytest.approx(golden_loss, rel=5e-3)
        assert error == pytest.approx(golden_error, abs=0.6)  # two images of 364


def test_the_first_of_equal_epochs_stays_the_best_also_in_a_run_that_goes_on(digits: Path, tmp_path: Path) -> None:
    """One validation image under a label that no network of this run answers: every epoch errs in all of it."""
    data = tmp_path / "data"
    shutil.copytree(digits, data)
    reader = RecordReader(digits / "digits_val.rec")
    answers = set(range(10))
    fit(small(digits, tmp_path / "first", epochs=3))
    for epoch in (1, 2, 3):
        network, _ = weights.load(str(tmp_path / "first"), epoch)
        shown = torch.from_numpy(decode(reader.image(0)[1])).permute(2, 0, 1)[None].float()
        answers.discard(int(network.eval()(shown).argmax()))
    with writing(data / "digits_val.rec") as writer:
        writer.write(0, pack(IRHeader(0, float(min(answers)), 0, 0), bytes(reader.image(0)[1])))
    run, best = small(data, tmp_path / "m", epochs=2), tmp_path / "m-best.safetensors"
    fit(run)
    assert weights.read(best)[0].epoch == 1
    result = fit(run | {"epochs": 3, "resume": "yes", "force": True})
    assert result is not None
    assert result.top1_error == 100
    assert saved_epochs(str(tmp_path / "m")) == [1, 2, 3]
    assert weights.read(best)[0].epoch == 1


def test_the_bar_counts_epochs_from_one_and_images(
    few_digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = []

    class Bar(tqdm):  # type: ignore[misc]
        def __init__(self, **settings: Any) -> None:
            super().__init__(**settings | {"disable": False, "file": io.StringIO()})

        def close(self) -> None:
            shown.append((self.desc, self.n, self.total))
            super().close()

    monkeypatch.setattr("resnet_v2.console.tqdm", Bar)
    fit(small(few_digits, tmp_path / "m", epochs=2, milestones="1"))
    assert {"epoch 1/2", "epoch 2/2"} <= {what for what, _, _ in shown}
    assert all(done == total for _, done, total in shown)


def test_the_same_seed_gives_the_same_bits(few_digits: Path, tmp_path: Path) -> None:
    for name, seed, workers in (("a", 1, 0), ("b", 1, 2), ("c", 2, 0)):
        fit(small(few_digits, tmp_path / name, epochs=1, seed=seed, workers=workers))
    assert equal(tensors(tmp_path / "a", 1), tensors(tmp_path / "b", 1))
    assert not equal(tensors(tmp_path / "a", 1), tensors(tmp_path / "c", 1))


@pytest.mark.parametrize("schedule", ["step", "cosine"])
def test_retraining_ends_with_the_bits_of_the_whole_run(few_digits: Path, tmp_path: Path, schedule: str) -> None:
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    fit(small(few_digits, whole, schedule=schedule, lr=0.05, wd=0.001))
    shutil.copy(f"{whole}-0002.safetensors", f"{resumed}-0002.safetensors")
    fit(small(few_digits, resumed, schedule=schedule, retrain=True, model_load_epoch=2))
    assert equal(tensors(whole, 4), tensors(resumed, 4))
    assert any(name.startswith("momentum.") for name in tensors(whole, 4))


def test_retraining_takes_a_new_rate_and_decay(few_digits: Path, tmp_path: Path) -> None:
    prefix = tmp_path / "run"
    fit(small(few_digits, prefix))
    fit(small(few_digits, prefix, retrain=True, model_load_epoch=2, lr=0.0005, wd=0.01))
    events = [json.loads(line) for line in Path(f"{prefix}.jsonl").read_text().splitlines()]
    rates = [event["learning_rate"] for event in events if event["event"] == "train"]
    assert rates == pytest.approx([0.1, 0.1, 0.1, 0.01, 0.0005, 0.00005])
    header, _ = weights.read(checkpoint_path(str(prefix), 4))
    assert header.training["weight_decay"] == 0.01
    assert len(read_curve(Path(f"{prefix}.log")).top1) == 4


def test_plans_and_fused_updates_change_no_bit(few_digits: Path, tmp_path: Path) -> None:
    settings: dict[str, dict[str, object]] = {
        "plain": {},
        "memonger": {"memonger": True},
        "budget": {"memory_budget": "436MB"},
        "fused": {"fused_backward": True},
        "both": {"memory_budget": "436MB", "fused_backward": True},
    }
    for name, changes in settings.items():
        fit(small(few_digits, tmp_path / name, epochs=2, **changes))
        assert equal(tensors(tmp_path / "plain", 2), tensors(tmp_path / name, 2)), name
    shutil.copy(tmp_path / "plain-0001.safetensors", tmp_path / "resumed-0001.safetensors")
    fit(small(few_digits, tmp_path / "resumed", epochs=2, retrain=True, model_load_epoch=1, **settings["both"]))
    assert equal(tensors(tmp_path / "plain", 2), tensors(tmp_path / "resumed", 2))


def test_a_budget_that_is_too_small_says_so_at_once(digits: Path, tmp_path: Path) -> None:
    with pytest.raises(ResnetError, match="No plan trains ResNet-8 at batch size 32"):
        fit(small(digits, tmp_path / "run", memory_budget="425MB"))
    with pytest.raises(ResnetError, match="write it like 12GB"):
        fit(small(digits, tmp_path / "run", memory_budget="much"))
    assert not list(tmp_path.glob("run*"))


def test_v1_has_its_own_files(few_digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fit(small(few_digits, Path(), epochs=1, version="v1", model_prefix="", label_smoothing=0.1, warmup_epochs=0.5))
    assert (tmp_path / "model" / "resnet-v1-digits-8-0001.safetensors").is_file()


def test_a_run_that_diverges_stops(few_digits: Path, tmp_path: Path) -> None:
    with pytest.raises(ResnetError, match="the run has diverged"):
        fit(small(few_digits, tmp_path / "run", lr=1e9))
    assert not saved_epochs(str(tmp_path / "run"))


def test_an_epoch_trains_at_its_own_size(few_digits: Path, tmp_path: Path) -> None:
    for name, sizes in (("small", "0:16"), ("grows", "0:16,1:32")):
        fit(small(few_digits, tmp_path / name, epochs=2, size_schedule=sizes))
    assert equal(tensors(tmp_path / "small", 1), tensors(tmp_path / "grows", 1))
    assert not equal(tensors(tmp_path / "small", 2), tensors(tmp_path / "grows", 2))


def test_what_cannot_be_trained_is_said_at_once(digits: Path, tmp_path: Path, run: Run) -> None:
    train = ["train", "--data-dir", digits, "--data-type", "digits", "--gpus", "", "--model-prefix", tmp_path / "m"]
    for flags, words in (
        (["--depth", 21], "depths are"),
        (["--depth", 8, "--data-dir", tmp_path], "number of classes is unknown"),
        (["--depth", 8, "--data-dir", tmp_path, "--num-classes", 10], r"digits_val\.rec is missing"),
        (["--depth", 8, "--num-classes", 7], "synset.txt names 10"),
        (["--depth", 8, "--epochs", 0], "must be 1 to 1000000, not 0"),
        (["--depth", 8, "--model-load-epoch", 3], "without --retrain"),
        (["--depth", 8, "--retrain", "--model-load-epoch", 3], r"m-0003\.safetensors is missing"),
        (["--depth", 8, "--retrain"], "goes on from the epoch of --model-load-epoch; give it too"),
        (["--depth", 8, "--num-examples", 5000], "fewer than --num-examples"),
        (["--depth", 8, "--milestones", "a"], "is not a list of numbers"),
        (["--depth", 8, "--device", "tpu9"], "cannot be used"),
        (["--depth", 8, "--gpus", "a"], "no list of GPU numbers"),
    ):
        status, _, err = run(*train, *flags)
        assert status == 2, flags
        assert re.search(words, err), (flags, err)
        assert len(err.strip().splitlines()) == 1, err
        assert not list(tmp_path.glob("m*"))


def test_a_label_outside_the_classes_stops_the_run(digits: Path, tmp_path: Path, run: Run) -> None:
    status, _, err = run(
        "train",
        "--data-dir",
        digits,
        "--list-dir",
        tmp_path,
        "--data-type",
        "digits",
        "--gpus",
        "",
        "--depth",
        8,
        "--num-classes",
        5,
        "--model-prefix",
        tmp_path / "m",
    )
    assert status == 2
    assert re.search(r"record \d+ has the label [5-9], but the classes are 0 to 4", err)


def test_damaged_records_stop_the_run_or_are_skipped(few_digits: Path, tmp_path: Path, run: Run) -> None:
    data = tmp_path / "data"
    shutil.copytree(few_digits, data)
    reader = RecordReader(data / "digits_train.rec")
    with (data / "digits_train.rec").open("rb+") as file:
        file.seek(int(reader.offsets[40]) + 32)
        file.write(b"no image")
    train = ["train", "--data-dir", data, "--data-type", "digits", "--gpus", "", "--depth", 8, "--epochs", 1]
    status, _, err = run(*train, "--model-prefix", tmp_path / "a")
    assert status == 2
    assert "the image of record 40 cannot be decoded" in err
    assert run(*train, "--model-prefix", tmp_path / "b", "--on-error", "skip")[0] == 0
    assert "skipped: " in (tmp_path / "b.log").read_text()
    assert "record 40" in (tmp_path / "b.log").read_text()


def test_a_checkpoint_of_another_network_is_refused(digits: Path, trained: str, run: Run) -> None:
    status, _, err = run(
        "train",
        "--data-dir",
        digits,
        "--data-type",
        "digits",
        "--gpus",
        "",
        "--depth",
        14,
        "--model-prefix",
        trained,
        "--retrain",
        "--model-load-epoch",
        2,
    )
    assert status == 2
    assert "but the settings ask for" in err


def test_evaluation_counts_every_image_once(trained: str, digits: Path) -> None:
    network, _ = weights.load(trained, 4)
    reader = RecordReader(digits / "digits_val.rec")
    results = [evaluate(network, reader, size=32, batch_size=size, device=torch.device("cpu")) for size in (7, 364)]
    assert results[0].images == results[1].images == len(reader)
    assert results[0].top1_error == results[1].top1_error
    assert results[0].loss == pytest.approx(results[1].loss, rel=1e-5)
    assert results[0].top5_error < results[0].top1_error


def test_ranks_of_labels() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0], [1.0, 1.0, 1.0], [1.0, 1.0, 1.0], [0.0, 1.0, 5.0]])
    assert rank_of_label(logits, torch.tensor([0, 0, 2, 2])).tolist() == [2, 0, 2, 0]


def test_logits_that_are_no_numbers_are_errors(trained: str, digits: Path) -> None:
    network, _ = weights.load(trained, 4)
    torch.nn.init.constant_(network.fc1.bias, float("nan"))
    result = evaluate(
        network, RecordReader(digits / "digits_val.rec"), size=32, batch_size=64, device=torch.device("cpu")
    )
    assert (result.top1_error, result.top5_error) == (100, 100)


def test_a_resumed_run_has_the_loss_scale_of_the_whole_one(
    few_digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "refuse_on_cpu", lambda amp: None)
    changes: dict[str, object] = {"batch_size": 4, "num_examples": 8, "amp": "fp16", "milestones": "1"}
    fit(small(few_digits, tmp_path / "whole", epochs=2, **changes))
    fit(small(few_digits, tmp_path / "parts", epochs=1, **changes))
    fit(small(few_digits, tmp_path / "parts", epochs=2, resume="yes", force=True, **changes))
    whole, parts = (
        weights.read(checkpoint_path(str(tmp_path / name), 2))[0].training["scaler"] for name in ("whole", "parts")
    )
    assert whole == parts
    assert whole["_growth_tracker"] == 4  # steps since the scale last moved


def test_every_imagenet_stem_run_reads_the_records_of_its_level(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, side, count in (("train_480_q90", 480, 4), ("train_256_q90", 256, 2), ("val_256_q90", 256, 4)):
        with writing(tmp_path / f"{name}.rec") as writer:
            for key in range(count):
                image = encode(rng.integers(0, 256, (side, side, 3), dtype=np.uint8), ".jpg", 90)
                writer.write(key, pack(IRHeader(0, float(key % 2), key, 0), image))
    settings = {"data_dir": tmp_path, "depth": 18, "num_classes": 2, "gpus": "", "epochs": 2, "batch_size": 2}
    result = fit(settings | {"frequent": 1, "aug_schedule": "0:3,1:1", "model_prefix": str(tmp_path / "m")})
    assert result is not None
    assert result.images == 4
    told = [json.loads(line) for line in (tmp_path / "m.jsonl").read_text().splitlines()]
    assert [event["epoch"] for event in told if event["event"] == "batch"] == [0, 0, 1]
    with safetensors.safe_open(tmp_path / "m-0002.safetensors", framework="pt") as file:
        assert file.get_tensor("conv0.weight").shape == (64, 3, 7, 7)
