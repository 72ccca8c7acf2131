"""Prediction: whatever pictures come from, what is printed, and what happens to the unreadable ones."""

import csv
import io
import json
import re
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import PIL.Image
import pytest

import resnet_v2
from conftest import Run, processor_seconds
from resnet_v2 import commands, console
from resnet_v2.config.using import PredictConfig
from resnet_v2.data.records import IRHeader, RecordReader, pack, writing
from resnet_v2.errors import ResnetError
from resnet_v2.inference import output
from resnet_v2.inference.pictures import View
from resnet_v2.inference.places import Named
from resnet_v2.inference.predict import Prediction, loaded_batches


def names_of(out: str) -> list[str]:
    return [json.loads(line)["image"] for line in out.splitlines()]


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


def test_standard_input_is_an_image_or_a_list(
    trained: str, digits: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def piped(data: bytes) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))
        return run("predict", "--img", "-", "--format", "jsonl", *model)

    image = digits / "examples" / "7.png"
    model = ["--prefix", trained, "--epoch", 4, "--gpus", ""]
    direct = json.loads(run("predict", "--img", image, *model, "--format", "jsonl")[1])
    status, out, _ = piped(image.read_bytes())
    assert (status, json.loads(out)) == (0, direct | {"image": "-"})
    status, out, err = piped(f"{image}\n\n{digits}/none.png\n{image}\n".encode())
    assert (status, names_of(out)) == (1, [str(image)] * 2)
    assert "none.png cannot be read" in err
    status, _, err = piped(b"")
    assert (status, "No image is named" in err) == (2, True)


def test_a_record_is_seen_as_evaluation_sees_it(trained: str, digits: Path, tmp_path: Path, run: Run) -> None:
    """By its stored pixels: an EXIF orientation in a record turns nothing, in prediction as in training."""
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    for number in (2, 4, 5, 7):
        image = PIL.Image.open(digits / "examples" / f"{number}.png")
        image.save(tmp_path / f"{number}.jpg", exif=exif, quality=95)
    with writing(tmp_path / "a.rec") as writer:
        for ordinal, number in enumerate((2, 4, 5, 7)):
            data = (tmp_path / f"{number}.jpg").read_bytes()
            writer.write(ordinal, pack(IRHeader(0, float(number), ordinal, 0), data))
    found = run("predict", "--img", tmp_path / "a.rec", "--prefix", trained, "--top", 1, "--json", "--gpus", "")[1]
    taken = [answer["top"][0]["class"] for answer in json.loads(found)]
    judged = resnet_v2.load(trained).judge(RecordReader(tmp_path / "a.rec"), View(32))
    assert judged.predictions.tolist() == taken


def test_a_damaged_image_of_a_record_is_named(trained: str, tmp_path: Path, run: Run) -> None:
    with writing(tmp_path / "a.rec") as writer:
        writer.write(0, pack(IRHeader(0, 1.0, 0, 0), b"no image"))
    status, out, err = run("predict", "--img", tmp_path / "a.rec", "--prefix", trained, "--gpus", "")
    assert (status, out) == (1, "")
    assert f"{tmp_path / 'a.rec'}#0 is no readable image" in err


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
    status, _, err = run("predict", "--img", "https://127.0.0.1:1/a.jpg", *model)
    assert (status, err.count("\n"), "the address of no .rec; download it, and give its path" in err) == (2, 1, True)


def test_pictures_too_small_for_an_answer_are_told_in_one_sentence(trained: str, tmp_path: Path, run: Run) -> None:
    sizes = {"a": (1, 1), "b": (9, 7), "c": (8, 8), "d": (3, 40)}
    for name, size in sizes.items():
        PIL.Image.new("RGB", size, (7, 8, 9)).save(tmp_path / f"{name}.png")
    few = "pixels show too little for an answer to mean much"
    model = ["--prefix", trained, "--gpus", ""]
    status, out, err = run("predict", "--img", tmp_path, *model, "--json")
    first = f"warning: {tmp_path / 'a.png'}: 1 x 1 {few}"
    assert (status, err) == (0, f"{first}; the same holds for 2 other pictures.\n")
    found = [one.get("warning", "") for one in json.loads(out)]
    assert found == [f"1 x 1 {few}", f"9 x 7 {few}", "", f"3 x 40 {few}"]
    assert run("predict", "--img", tmp_path / "a.png", *model)[2] == f"{first}.\n"
    assert run("predict", "--img", tmp_path / "c.png", *model)[2] == ""
    assert run("predict", "--img", tmp_path / "a.png", tmp_path / "d.png", *model)[2].endswith("1 other picture.\n")
    with writing(tmp_path / "a.rec") as writer:
        writer.write(0, pack(IRHeader(0, 1.0, 0, 0), (tmp_path / "a.png").read_bytes()))
    assert f"a.rec#0: 1 x 1 {few}.\n" in run("predict", "--img", tmp_path / "a.rec", *model)[2]


def test_a_long_prediction_into_a_file_is_not_silent(
    trained: str, digits: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "LONGEST_SILENCE", 0.0)
    status, out, err = run("predict", "--prefix", trained, "--img", digits / "examples", "--batch-size", 4, "--json")
    assert (status, len(json.loads(out))) == (0, 10)
    assert "predict: 1 of 10 img" in err
    assert "predict: 10 of 10 img" in err
    assert "predict:" not in run("predict", "--prefix", trained, "--img", digits / "examples", "--json")[2]


def test_forms(trained: str, digits: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "names.txt").write_text("\n".join(f'digit {number}, "{number}"' for number in range(10)))
    image = digits / "examples" / "7.png"
    words = [
        "predict",
        "--img",
        image,
        image,
        "--prefix",
        trained,
        "--epoch",
        4,
        "--top",
        2,
        "--synset",
        tmp_path / "names.txt",
    ]
    _, text, _ = run(*words)
    assert len(text.splitlines()) == 6
    assert text.splitlines()[0] == str(image)
    rows = list(csv.DictReader(io.StringIO(run(*words, "--format", "csv")[1])))
    lines = [json.loads(line) for line in run(*words, "--format", "jsonl")[1].splitlines()]
    assert [row["rank"] for row in rows] == ["1", "2", "1", "2"]
    assert [row["name"] for row in rows] == [one["name"] for line in lines for one in line["top"]]
    assert rows[0]["name"].startswith("digit ") and rows[0]["name"].endswith('"')
    assert float(rows[0]["probability"]) == pytest.approx(lines[0]["top"][0]["probability"], abs=1e-6)


def test_a_cold_prediction_takes_little_more_than_torch(trained: str, digits: Path) -> None:
    """The promise is 2.5 s on a free machine, of which most goes into the import of torch."""
    words = ["predict", "--img", digits / "examples" / "7.png", "--prefix", trained]
    with_torch = processor_seconds([sys.executable, "-c", "import torch"])
    assert processor_seconds([sys.executable, "-m", "resnet_v2", *words]) < 2.5 * with_torch


def threads_left(name: str, seconds: float = 5) -> list[str]:
    """The threads of a name that do not end by themselves."""
    found = [thread for thread in threading.enumerate() if thread.name.startswith(name)]
    for thread in found:
        thread.join(seconds)
    return [thread.name for thread in found if thread.is_alive()]


def test_a_run_that_stops_amid_pictures_leaves_no_thread_behind(
    trained: str, digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(predictions: Iterator[Prediction], form: str, tasks: bool) -> int:
        next(predictions)
        raise ResnetError("Nobody reads.")

    monkeypatch.setattr(output, "print_all", fail)
    with pytest.raises(ResnetError, match="Nobody reads") as stopped:
        commands.predict(PredictConfig((str(digits / "examples"),), trained, 4, gpus="", batch_size=2))
    assert stopped.tb is not None  # the traceback, and with it every frame of the run, is alive
    assert not threads_left("pictures", 1)


def test_pictures_that_nobody_asks_for_are_not_waited_for() -> None:
    """The garbage collector closes what was left amid its pictures, and may stop whom the threads wait for."""
    gate, patient = threading.Event(), []

    def load(named: Named) -> int:
        if named.name != "0":
            patient.append(gate.wait(5))
        return 0

    pictures = (Named(str(number), bytes) for number in range(3))
    coming = loaded_batches(pictures, load, 1, 1)
    next(coming)
    coming.close()
    assert not patient  # still reading
    gate.set()
    assert not threads_left("pictures")
