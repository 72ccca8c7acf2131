"""The commands as a user types them: help, evaluate, predict, exit status, a full disk."""

import json
import os
import re
import signal
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from conftest import Run, digits_run, processor_seconds, read_image
from processes import Command
from resnet_v2 import commands
from resnet_v2.inference.pictures import View, prepare
from resnet_v2.networks import weights


def test_help_is_quick() -> None:
    """A third of a second is the promise on a free machine."""
    command = [sys.executable, "-m", "resnet_v2", "--help"]
    with_torch = processor_seconds([sys.executable, "-c", "import torch"])
    assert processor_seconds(command) < with_torch / 2


def test_who_reads_the_output_may_have_enough() -> None:
    """As `| head` does: no traceback."""
    command = [sys.executable, "-m", "resnet_v2", "plan", "--depth", "20", "--json"]
    reading, writing = os.pipe()
    os.close(reading)
    finished = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (finished.returncode, finished.stderr) == (0, b"")


def test_help_needs_no_torch(run: Run) -> None:
    code = "import sys; from resnet_v2.cli import main; main(['--help'])"
    script = f"import sys\ntry:\n    exec({code!r})\nfinally:\n    assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("command", commands.COMMANDS)
def test_every_command_has_help(command: str, run: Run) -> None:
    status, out, _ = run(command, "--help")
    assert status == 0
    assert "usage: resnet-v2" in out


def test_version(run: Run) -> None:
    assert run("--version") == (0, f"resnet-v2 {metadata.version('resnet-v2')}\n", "")


@pytest.mark.parametrize("words", [["trian"], ["pack"], ["train", "--detph", "20"], ["train", "--aug-level", "4"]])
def test_wrong_usage_is_status_2(words: list[str], run: Run) -> None:
    status, out, err = run(*words)
    assert status == 2
    assert not out
    assert "Traceback" not in err


def test_evaluate(trained: str, digits: Path, run: Run) -> None:
    rec = digits / "digits_val.rec"
    status, out, _ = run("evaluate", "--prefix", trained, "--epoch", 4, "--rec", rec, "--json", "--gpus", "")
    result = json.loads(out)
    assert status == 0
    assert set(result) == {"images", "loss", "top1_error", "top5_error"}
    assert result["images"] == 364
    assert 0 < result["top5_error"] < result["top1_error"] < 95
    best = json.loads(run("evaluate", "--prefix", trained, "--epoch", "best", "--rec", rec, "--json", "--gpus", "")[1])
    errors = [weights.load(trained, epoch)[1].errors["top1_error"] for epoch in (1, 2, 3, 4)]
    assert best["top1_error"] == pytest.approx(min(errors))
    _, text, _ = run("evaluate", "--prefix", trained, "--epoch", 4, "--rec", rec, "--gpus", "")
    assert f"{result['top1_error']:.2f} %" in text


def test_predict_images_and_folders(trained: str, digits: Path, tmp_path: Path, run: Run) -> None:
    status, out, _ = run(
        "predict",
        "--img",
        digits / "examples" / "7.png",
        digits / "examples",
        "--prefix",
        trained,
        "--epoch",
        4,
        "--top",
        3,
        "--format",
        "jsonl",
    )
    rows = [json.loads(line) for line in out.splitlines()]
    assert status == 0
    assert len(rows) == 11
    assert rows[0]["top"] == rows[8]["top"]
    assert rows[0]["image"].endswith("7.png")
    for row in rows:
        probabilities = [one["probability"] for one in row["top"]]
        assert len(probabilities) == 3
        assert probabilities == sorted(probabilities, reverse=True)
        assert all(one["name"] == str(one["class"]) for one in row["top"])


def test_predict_answers_as_evaluation_counts(trained: str, digits: Path) -> None:
    """A picture that was packed without loss goes into the network exactly as evaluation feeds it."""
    _, header = weights.load(trained, 4)
    path = digits / "examples" / "3.png"
    assert np.array_equal(prepare(path, View(header.crop, header.resize)), read_image(path))


def test_predict_takes_other_names(trained: str, digits: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "names.txt").write_text("\n".join(f"digit {number}" for number in range(10)))
    image = digits / "examples" / "0.png"
    _, out, _ = run("predict", "--img", image, "--prefix", trained, "--epoch", 4, "--synset", tmp_path / "names.txt")
    assert "digit" in out
    (tmp_path / "names.txt").write_text("one\ntwo\n")
    status, _, err = run(
        "predict", "--img", image, "--prefix", trained, "--epoch", 4, "--synset", tmp_path / "names.txt"
    )
    assert status == 2
    assert "names 2 classes, but the network has 10" in err


def test_mxnet_files_work_wherever_ours_do(trained: str, digits: Path, tmp_path: Path, run: Run) -> None:
    converted = tmp_path / "mx"
    assert run("export", "--prefix", trained, "--epoch", 4, "--to", "mxnet", "--out", converted)[0] == 0
    results = []
    for prefix in (trained, converted):
        rec = digits / "digits_val.rec"
        _, out, _ = run("evaluate", "--prefix", prefix, "--epoch", 4, "--rec", rec, "--json", "--gpus", "")
        results.append(json.loads(out))
    assert results[0] == results[1]
    status, out, _ = run("predict", "--img", digits / "examples" / "1.png", "--prefix", converted, "--epoch", 4)
    assert status == 0
    flags = ["--num-examples", 64, "--epochs", 5, "--lr", 0.01, "--gpus", "", "--depth", 8, "--model-prefix", converted]
    data = ["--data-dir", digits, "--data-type", "digits"]
    assert run("train", *data, *flags, "--retrain", "--model-load-epoch", 4)[0] == 0
    assert (tmp_path / "mx-0005.safetensors").is_file()


def test_errors_are_one_sentence_and_status_2(trained: str, digits: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "a.jpg").write_text("no image")
    (tmp_path / "empty").mkdir()
    predict = ["predict", "--prefix", trained, "--epoch", 4, "--img"]
    evaluate = ["evaluate", "--gpus", "", "--rec"]
    for words, sentence in (
        ([*predict, tmp_path / "b.jpg"], "does not exist"),
        ([*predict, tmp_path / "empty"], "holds no images"),
        (
            [*evaluate, digits / "digits_val.rec", "--prefix", trained, "--epoch", 9],
            "saved epochs are 1 to 4, the last in",
        ),
        ([*evaluate, tmp_path / "no.rec", "--prefix", trained, "--epoch", 4], "is missing"),
    ):
        status, _, err = run(*words)
        lines = [line for line in err.splitlines() if "no GPU" not in line]
        assert status == 2
        assert sentence in err
        assert len(lines) == 1
        assert lines[0].endswith(".")


@pytest.mark.skipif(os.geteuid() != 0, reason="missing root: it mounts a small disk")
def test_a_full_disk_leaves_no_half_file(few_digits: Path, tmp_path: Path, run: Run) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("missing the right to mount a disk")
    try:
        train = digits_run(few_digits, epochs=9, gpus="", num_examples=32, model_prefix=disk / "m")
        status, _, err = run(*train)
        assert status == 2
        assert re.search(r"m-000[2-4]\.safetensors is not written", err)
        whole = sorted(disk.glob("m-0*.safetensors"))
        assert whole
        assert all(weights.read(path)[0].epoch == number for number, path in enumerate(whole, start=1))
        assert not list(disk.glob(".*.tmp"))
        status, _, err = run("data", "digits", "--out", disk / "digits")
        assert status == 2
        assert "the disk is full" in err
        assert not (disk / "digits" / "digits_train.rec").exists()
        status, _, err = run(*train[:-1], f"--model-prefix={disk / 'n'}")
        assert status == 2
        assert "free, but a checkpoint takes" in err
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_interrupting_is_status_130(few_digits: Path, tmp_path: Path) -> None:
    words = digits_run(few_digits, num_examples=64, gpus="", model_prefix=tmp_path / "m")
    command = Command(words, tmp_path)
    command.wait_for((tmp_path / "m-0001.safetensors").is_file, "the first checkpoint")
    command.send_signal(signal.SIGINT)
    status, output = command.finish()
    assert status == 130
    assert "Traceback" not in output


@pytest.mark.parametrize("closed", [">&-", ">&- 2>&- <&-"])
def test_a_process_that_is_started_without_streams(class_folder: Path, tmp_path: Path, closed: str) -> None:
    start = f'exec "$@" {closed}'
    words = [sys.executable, "-m", "resnet_v2", "data", class_folder, "--out", tmp_path / "photos"]
    done = subprocess.run(["bash", "-c", start, "bash", *map(str, words)], stderr=subprocess.PIPE, check=False)
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False), done.stderr
    assert (tmp_path / "photos" / "photos_train.rec").exists()
