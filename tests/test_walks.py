"""Whole ways of people who have never met the program, command by command, as docs/using.md tells and times them."""

import contextlib
import json
import re
import shutil
import socket
import urllib.request
from pathlib import Path

import cv2
import numpy as np
import pytest

import resnet_v2
from conftest import Run
from processes import Command
from resnet_v2.data.index import index_path
from resnet_v2.data.records import RecordReader
from test_export import needs_onnx

# In percent. Of five classes a network that has learnt nothing has 80.
MOST_WRONG = 20


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Five classes of pictures of one colour each, of many sizes."""
    generator = np.random.default_rng(0)
    for number, name in enumerate(("amber", "blue", "coral", "jade", "plum")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        colour = generator.integers(0, 256, 3)
        for picture in range(20):
            height, width = generator.integers(60, 200, 2)
            noise = generator.normal(0, 30, (height // 8, width // 8, 3)) + colour
            image = cv2.resize(np.clip(noise, 0, 255).astype(np.uint8), (int(width), int(height)))
            assert cv2.imwrite(str(tmp_path / "photos" / name / f"{number}-{picture}.jpg"), image)
    return tmp_path / "photos"


@pytest.mark.slow
def test_a_folder_of_photos_comes_to_a_served_network(
    photos: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three commands; the second one is the linear head on frozen features."""
    pytest.importorskip("fastapi", reason="missing fastapi: pip install 'resnet-v2[serve]'")
    monkeypatch.chdir(tmp_path)
    status, _, err = run("train", "photos", "--gpus", "")
    assert status == 0, err
    told = re.search(r"best epoch (\d+): error ([\d.]+) % of the 20 photos held out; (\S+)", err)
    assert told is not None, err
    assert float(told[2]) <= MOST_WRONG
    assert Path(told[3]).is_file()
    assert "next: resnet-v2 predict --prefix model/resnet-photos-14 --epoch best --img photos" in err
    records = "model/photos-records/photos"
    status, _, err = run(
        "head", f"{records}_train.rec", "--val", f"{records}_val.rec", "--out", "model/head", "--gpus", ""
    )
    assert status == 0, err
    assert Path("model/head-0000.safetensors").is_file()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ("--prefix", "model/resnet-photos-14", "--epoch", "best", "--port", port, "--gpus", "")
    server = Command(["serve", *words], tmp_path)
    try:
        server.wait_for(lambda: "answers at" in server.output, "the server", 0.1)
        image = next((photos / "blue").iterdir())
        asked = urllib.request.Request(
            f"http://127.0.0.1:{port}/predict", image.read_bytes(), {"Content-Type": "image/jpeg"}
        )
        with urllib.request.urlopen(asked, timeout=60) as answer:
            served = json.loads(answer.read())[0]["top"]
    finally:
        with contextlib.suppress(ValueError):
            server.kill()
    predicted = json.loads(run("predict", *words[:4], "--img", image, "--gpus", "", "--json")[1])[0]["top"]
    assert served == predicted
    assert served[0]["name"] == "blue"
    assert {one["name"] for one in served} == {path.name for path in photos.iterdir()}


@pytest.mark.slow
def test_python_trains_on_a_folder_of_photos(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    network = resnet_v2.fit("photos", epochs=6, gpus="")
    assert network.class_names == ("amber", "blue", "coral", "jade", "plum")
    found = network.evaluate("model/photos-records/photos_val.rec")
    assert found.images == 20
    assert found.top1_error <= MOST_WRONG


@pytest.fixture
def folder_of_2016(trained: str, digits: Path, tmp_path: Path, run: Run) -> Path:
    """What is left of a project of the MXNet years: records with their lists, a model, its log, the classes' names."""
    folder = tmp_path / "2016"
    folder.mkdir()
    for part in ("train", "val"):
        for ending in (".rec", ".lst"):
            shutil.copy(digits / f"digits_{part}{ending}", folder / f"digits_{part}{ending}")
        shutil.copy(index_path(digits / f"digits_{part}.rec"), folder)
    shutil.copy(digits / "synset.txt", folder)
    shutil.copy(f"{trained}.log", folder / "resnet-8.log")
    assert run("export", "--prefix", trained, "--epoch", 4, "--to", "mxnet", "--out", folder / "resnet-8")[0] == 0
    return folder


@needs_onnx
def test_a_veteran_comes_to_curves_evaluation_and_onnx(
    folder_of_2016: Path, trained: str, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in folder_of_2016.iterdir()}
    monkeypatch.chdir(folder_of_2016)
    status, out, _ = run("plot", "--logs", "resnet-8.log", "--out", tmp_path / "curves.png")
    assert (status, (tmp_path / "curves.png").read_bytes()[:4]) == (0, b"\x89PNG")
    assert "resnet-8" in out
    status, out, _ = run(
        "evaluate", "--prefix", "resnet-8", "--epoch", 4, "--rec", "digits_val.rec", "--gpus", "", "--json"
    )
    assert status == 0
    own = run("evaluate", "--prefix", trained, "--epoch", 4, "--rec", "digits_val.rec", "--gpus", "", "--json")[1]
    assert json.loads(out)["top1_error"] == json.loads(own)["top1_error"]
    assert {path.name: path.read_bytes() for path in folder_of_2016.iterdir()} == before
    status, out, _ = run("export", "--prefix", "resnet-8", "--epoch", 4, "--to", "onnx")
    assert (status, "resnet-8-0004.onnx" in out) == (0, True)
    words = (
        "predict",
        "--prefix",
        "resnet-8",
        "--epoch",
        4,
        "--img",
        "digits_val.rec",
        "--json",
        "--synset",
        "synset.txt",
    )
    by_torch, by_onnx = (json.loads(run(*words, "--engine", engine)[1]) for engine in ("torch", "onnx"))
    assert len(by_torch) == len(RecordReader(Path("digits_val.rec"))) == 364
    firsts = [[one["top"][0]["probability"] for one in answers] for answers in (by_torch, by_onnx)]
    np.testing.assert_allclose(firsts[0], firsts[1], atol=1e-4)
    assert by_onnx[0]["top"][0]["name"] in Path("synset.txt").read_text().split("\n")
