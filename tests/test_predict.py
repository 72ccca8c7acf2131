"""Prediction: whatever pictures come from, what is printed, and what happens to the unreadable ones."""

import csv
import io
import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import Run
from resnet_v2.interchange import weights


def names_of(out: str) -> list[str]:
    return [json.loads(line)["image"] for line in out.splitlines()]


Piped = Callable[..., tuple[int, str, str]]


@pytest.fixture
def piped(run: Run, monkeypatch: pytest.MonkeyPatch) -> Piped:
    """Predict what comes through a pipe."""

    def call(data: bytes, *words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        return run("predict", "--img", "-", "--format", "jsonl", *words)

    return call


def test_files_folders_and_records(trained: str, digits: Path, run: Run) -> None:
    model = ["--prefix", trained, "--epoch", 4, "--format", "jsonl"]
    places = [digits / "examples" / "7.png", digits / "examples", digits / "digits_val.rec"]
    status, out, err = run("predict", "--img", *places, *model, "--batch-size", 50)
    names = names_of(out)
    assert (status, re.sub(r"no GPU is available.*\n", "", err)) == (0, "")
    assert len(names) == 1 + 10 + 364
    assert names[:2] == [str(digits / "examples" / "7.png"), str(digits / "examples" / "0.png")]
    assert names[-1] == f"{digits / 'digits_val.rec'}#363"
    assert out == run("predict", "--img", *places, *model, "--batch-size", 50, "--threads", 1)[1]


def test_standard_input_is_an_image_or_a_list(trained: str, digits: Path, run: Run, piped: Piped) -> None:
    image = digits / "examples" / "7.png"
    model = ["--prefix", trained, "--epoch", 4, "--gpus", ""]
    direct = json.loads(run("predict", "--img", image, *model, "--format", "jsonl")[1])
    status, out, _ = piped(image.read_bytes(), *model)
    assert status == 0
    assert json.loads(out) == direct | {"image": "-"}
    status, out, err = piped(f"{image}\n\n{digits}/none.png\n{image}\n".encode(), *model)
    assert status == 1
    assert names_of(out) == [str(image)] * 2
    assert "none.png cannot be read" in err
    status, out, err = piped(image.read_bytes()[:60], *model)
    assert (status, out) == (1, "")
    assert "Standard input is no readable image" in err
    status, _, err = piped(b"", *model)
    assert status == 2
    assert "No image is named" in err


def test_json_is_one_list(trained: str, digits: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "none.png").write_text("no image")
    words = ["predict", "--img", digits / "examples", tmp_path / "none.png", "--prefix", trained, "--top", 2]
    status, out, err = run(*words, "--gpus", "", "--json")
    assert (status, "none.png is no readable image" in err) == (1, True)
    lines = run(*words, "--gpu", "", "--format", "jsonl")[1].splitlines()
    assert json.loads(out) == [json.loads(line) for line in lines]
    assert len(lines) == 10
    assert json.loads(run(*words[:2], digits / "examples" / "7.png", "--json", "--format", "csv")[1])[0]["top"]


def test_flags_that_make_no_sense(trained: str, digits: Path, tmp_path: Path, run: Run) -> None:
    image, rec = digits / "examples" / "7.png", digits / "digits_val.rec"
    predict, evaluate = ["predict", "--prefix", trained, "--img"], ["evaluate", "--prefix", trained, "--rec", rec]
    for name in ("empty.rec", "empty.idx"):
        (tmp_path / name).touch()
    for words, sentence in (
        ([*predict, image, "--top", 0, "--format", "csv"], "top is 0; give a whole number of 1 or more."),
        ([*predict, image, "--batch-size", 0], "batch_size is 0; give"),
        ([*predict, image, "--threads", -1], "threads is -1; give"),
        ([*predict, ""], "An empty path names no image"),
        ([*predict, tmp_path / "empty.rec"], "No image is named"),
        ([*predict, image, "--epoch", -1], "There is no epoch -1"),
        ([*predict, image, "--epoch", 10**12], "is missing: saved epochs are 1, 2, 3, 4"),
        ([*evaluate, "--batch-size", -1], "batch_size is -1; give"),
        ([*evaluate, "--threads", -1], "threads is -1; give"),
        ([*evaluate, "--crop", -1], "crop is -1; give a whole number of 0 or more."),
        ([*evaluate, "--resize", 10**12], "longer than any image"),
        ([*evaluate, "--mxnet-count", -1], "mxnet_count is -1; give"),
        (["evaluate", "--prefix", trained, "--rec", tmp_path / "empty.rec"], "holds no records"),
    ):
        status, out, err = run(*words, "--gpus", "")
        assert (status, out, err.startswith("resnet-v2: "), err.count("\n")) == (2, "", True, 1), words
        assert sentence in err


def test_answers_that_are_no_numbers(trained: str, digits: Path, tmp_path: Path, run: Run) -> None:
    header, tensors = weights.read(Path(f"{trained}-0004.safetensors"))
    tensors["fc1.bias"][3] = math.nan
    weights.save(tmp_path / "damaged.safetensors", tensors, header)
    status, out, err = run("predict", "--img", digits / "examples", "--prefix", tmp_path / "damaged", "--json")
    assert (status, out) == (2, "")
    assert "its weights are damaged" in err


def test_unreadable_images_are_reported_and_skipped(trained: str, digits: Path, tmp_path: Path, run: Run) -> None:
    shutil.copytree(digits / "examples", tmp_path / "images")
    (tmp_path / "images" / "4.png").write_text("no image")
    (tmp_path / "images" / "5.png").write_bytes((digits / "examples" / "5.png").read_bytes()[:60])
    model = ["--prefix", trained, "--epoch", 4, "--format", "jsonl"]
    for size in (1, 3, 32):
        status, out, err = run("predict", "--img", tmp_path / "images", *model, "--batch-size", size)
        assert status == 1
        assert [Path(name).stem for name in names_of(out)] == list("01236789")
        assert sum("is no readable image" in line for line in err.splitlines()) == 2
        assert "Traceback" not in err


def test_forms(trained: str, digits: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "names.txt").write_text("\n".join(f'digit {number}, "{number}"' for number in range(10)))
    image = digits / "examples" / "7.png"
    words = ["predict", "--img", image, image, "--prefix", trained, "--epoch", 4, "--top", 2, "--synset",
             tmp_path / "names.txt"]  # fmt: skip
    _, text, _ = run(*words)
    assert len(text.splitlines()) == 6
    assert text.splitlines()[0] == str(image)
    rows = list(csv.DictReader(io.StringIO(run(*words, "--format", "csv")[1])))
    lines = [json.loads(line) for line in run(*words, "--format", "jsonl")[1].splitlines()]
    assert [row["rank"] for row in rows] == ["1", "2", "1", "2"]
    assert [row["name"] for row in rows] == [one["name"] for line in lines for one in line["top"]]
    assert rows[0]["name"].startswith("digit ") and rows[0]["name"].endswith('"')
    assert float(rows[0]["probability"]) == pytest.approx(lines[0]["top"][0]["probability"], abs=1e-6)


def test_a_cold_prediction_takes_less_than_a_few_seconds(trained: str, digits: Path) -> None:
    """The promise is 2.5 s on a free machine; the processor's own seconds do not depend on who else keeps it busy."""
    command = [sys.executable, "-m", "resnet_v2", "predict", "--img", "-", "--format", "jsonl", "--prefix", trained]
    image, before = (digits / "examples" / "7.png").read_bytes(), os.times()
    done = subprocess.run(command, input=image, capture_output=True, check=True, env=dict(os.environ))
    after = os.times()
    assert names_of(done.stdout.decode()) == ["-"]
    assert after.children_user - before.children_user + after.children_system - before.children_system < 6
