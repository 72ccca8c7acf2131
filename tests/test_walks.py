"""Whole ways of people who have never met the program, command by command, as docs/using.md tells and times them."""

import contextlib
import json
import re
import shutil
import socket
import urllib.request
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import documents
import resnet_v2
from conftest import Run
from processes import Command
from resnet_v2.data.index import index_path
from resnet_v2.data.records import RecordReader, unpack
from test_export import needs_onnx

COLOURS = {
    "amber": (255, 191, 0),
    "blue": (0, 0, 255),
    "coral": (255, 100, 100),
    "jade": (0, 168, 107),
    "plum": (100, 0, 100),
}
# Of five classes one guess in five is right: a network that has learned nothing has errors of 80 %.
LEARNED = 20


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Five classes of pictures of one colour each, of many sizes."""
    generator = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(20):
            height, width = generator.integers(60, 200, 2)
            noise = generator.normal(0, 30, (height // 8, width // 8, 3)) + colour
            image = cv2.resize(np.clip(noise, 0, 255).astype(np.uint8), (int(width), int(height)))
            assert cv2.imwrite(str(tmp_path / "photos" / name / f"{number}.jpg"), image[..., ::-1])
    return tmp_path / "photos"


def share_wrong(names: list[str], photos: list[Path]) -> float:
    """Percent of photos whose folder is not what they were called."""
    wrong = [name != photo.parent.name for name, photo in zip(names, photos, strict=True)]
    return 100 * sum(wrong) / len(wrong)


def posted(port: int, photo: Path) -> list[dict[str, object]]:
    """The classes that a server names for a photo, the most probable first."""
    asked = urllib.request.Request(
        f"http://127.0.0.1:{port}/predict", photo.read_bytes(), {"Content-Type": "image/jpeg"}
    )
    with urllib.request.urlopen(asked, timeout=60) as answer:
        top: list[dict[str, object]] = json.loads(answer.read())[0]["top"]
    return top


@pytest.mark.slow
def test_a_folder_of_photos_comes_to_a_served_network(
    photos: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three commands; the second one is the linear head on frozen features."""
    pytest.importorskip("fastapi", reason="missing fastapi: pip install -e '.[serve]'")
    monkeypatch.chdir(tmp_path)
    status, _, err = run("train", "photos", "--gpus", "")
    assert status == 0, err
    told = re.search(r"best epoch (\d+): error ([\d.]+) % of the 20 photos held out; (\S+)", err)
    assert told is not None, err
    assert told[3] == "model/resnet-photos-14-best.safetensors"
    best = ("--prefix", "model/resnet-photos-14", "--epoch", "best")
    for command in ("predict", "serve"):
        assert f"resnet-v2 {command} {' '.join(best)}" in err
    records = "model/photos-records/photos"
    status, _, err = run(
        "head", f"{records}_train.rec", "--val", f"{records}_val.rec", "--out", "model/head", "--gpus", ""
    )
    assert status == 0, err
    for network in (best, ("--prefix", "model/head")):
        judged = json.loads(run("evaluate", *network, "--rec", f"{records}_val.rec", "--gpus", "", "--json")[1])
        assert judged["images"] == 20
        assert judged["top1_error"] <= LEARNED, network
        assert network != best or judged["top1_error"] == pytest.approx(float(told[2]), abs=0.05)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = Command(["serve", *best, "--port", port, "--gpus", ""], tmp_path)
    several = sorted(photos.glob("*/1*.jpg"))
    try:
        server.wait_for(lambda: "answers at" in server.output, "the server", 0.1)
        served = [posted(port, photo) for photo in several]
    finally:
        with contextlib.suppress(ValueError):
            server.kill()
    assert share_wrong([str(top[0]["name"]) for top in served], several) <= LEARNED
    predicted = json.loads(run("predict", *best, "--img", *several, "--gpus", "", "--json")[1])
    for top, one in zip(served, predicted, strict=True):
        assert [answer["name"] for answer in top] == [answer["name"] for answer in one["top"]]
        # Pictures alone and in a batch are rounded otherwise.
        alone, together = ([answer["probability"] for answer in answers] for answers in (top, one["top"]))
        assert alone == pytest.approx(together, abs=1e-5)
    assert all({one["name"] for one in top} == {*COLOURS} for top in served)


@pytest.mark.slow
def test_a_notebook_comes_from_photos_to_a_table(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pandas", reason="missing pandas: pip install -e '.[features]'")
    monkeypatch.chdir(tmp_path)
    network = resnet_v2.fit("photos", epochs=3, gpus="")
    assert network.class_names == tuple(COLOURS)
    judged = network.evaluate("model/photos-records/photos_val.rec")
    assert judged.images == 20
    assert judged.top1_error <= LEARNED
    pictures = sorted(photos.glob("*/*.jpg"))
    frame = network.classify(pictures, top=3).to_frame()
    assert list(frame.columns) == ["image", "rank", "class", "name", "probability"]
    assert list(frame["image"]) == [str(picture) for picture in pictures for _ in range(3)]
    firsts = frame[frame["rank"] == 1]
    assert share_wrong(list(firsts["name"]), pictures) <= LEARNED
    assert [network.class_names[number] for number in frame["class"]] == list(frame["name"])
    again = resnet_v2.load("model/resnet-photos-14", "best").classify(pictures, top=3).to_frame()
    assert again.equals(frame)


def test_six_lines_come_from_pictures_to_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they stand in docs/api.md, with the network that ships."""
    pytest.importorskip("pandas", reason="missing pandas: pip install -e '.[features]'")
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    for name in ("cat.jpg", "a.jpg"):
        pixels = cv2.resize(generator.integers(0, 256, (4, 4, 3), dtype=np.uint8), (32, 32))
        assert cv2.imwrite(name, pixels, [cv2.IMWRITE_JPEG_QUALITY, 100])
    page = (documents.ROOT / "docs" / "api.md").read_text()
    (lines,) = (one for one in documents.commands("api.md", page) if one.python and "to_frame" in one.text)
    names: dict[str, Any] = {}
    exec(compile(lines.text, lines.place, "exec"), names)
    frame, network = names["frame"], names["network"]
    for name in ("cat.jpg", "a.jpg"):
        planes = np.asarray(Image.open(name)).transpose(2, 0, 1).astype(np.float32)
        with torch.inference_mode():
            shares = network.network.eval()(torch.from_numpy(planes)[None]).softmax(1)[0]
        wanted = [(int(one), network.class_names[one], float(shares[one])) for one in shares.argsort(descending=True)]
        rows = frame[frame["image"] == name]
        assert list(rows["rank"]) == [1, 2, 3]
        assert [*zip(rows["class"], rows["name"], strict=True)] == [one[:2] for one in wanted[:3]]
        np.testing.assert_allclose(rows["probability"], [one[2] for one in wanted[:3]], atol=1e-5)


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


def errors_of(log: str) -> dict[str, list[float]]:
    """Top-1 errors in percent, by epoch, of training and of validation in a text log."""
    found = {part: re.findall(rf"\] {part}-accuracy=([\d.]+)", log) for part in ("Train", "Validation")}
    return {part: [100 - 100 * float(one) for one in texts] for part, texts in found.items()}


def heights_of(svg: str) -> dict[str, list[float]]:
    """Heights, above the axis of the epochs, of the dashed and of the thick line in a picture of curves."""
    path = r'<path d="([^"]*)" clip-path="[^"]*" style="fill: none; {}'
    styles = {"Train": "stroke-dasharray", "Validation": "stroke: #1f77b4; stroke-width: 2"}
    frame = re.search(r'<g id="patch_2">\s*<path d="M [\d.]+ ([\d.]+)', svg)
    assert frame is not None
    lines = {part: re.search(path.format(style), svg) for part, style in styles.items()}
    return {
        part: [float(frame[1]) - float(y) for y in re.findall(r"[ML] [\d.]+ ([\d.]+)", line[1])]
        for part, line in lines.items()
        if line is not None
    }


@needs_onnx
def test_a_veteran_comes_to_curves_evaluation_and_onnx(
    folder_of_2016: Path, trained: str, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in folder_of_2016.iterdir()}
    monkeypatch.chdir(folder_of_2016)
    errors = errors_of(Path("resnet-8.log").read_text())
    best = min(range(4), key=errors["Validation"].__getitem__)
    for ending, start in ((".png", b"\x89PNG"), (".svg", b"<?xml")):
        curves = tmp_path / f"curves{ending}"
        status, out, _ = run("plot", "--logs", "resnet-8.log", "--out", curves)
        assert (status, curves.read_bytes()[: len(start)]) == (0, start)
        assert out.split("\n")[1].split()[:5] == [
            "resnet-8",
            "4",
            str(best),
            str(best + 1),
            f"{min(errors['Validation']):.2f}",
        ]
    heights = heights_of(curves.read_text())
    assert {part: len(line) for part, line in heights.items()} == {"Train": 4, "Validation": 4}
    scale = heights["Train"][0] / errors["Train"][0]
    for part, line in heights.items():
        np.testing.assert_allclose(np.array(line) / scale, errors[part], atol=0.01)

    judge = ("evaluate", "--rec", "digits_val.rec", "--gpus", "", "--json", "--epoch", 4, "--prefix")
    judged, own = (json.loads(run(*judge, prefix)[1]) for prefix in ("resnet-8", trained))
    assert judged["top1_error"] == own["top1_error"] == pytest.approx(errors["Validation"][3], abs=0.01)
    assert judged["top1_error"] <= 80  # of ten classes: 90 % is chance
    assert judged["images"] == len(RecordReader(Path("digits_val.rec"))) == 364

    status, out, _ = run("export", "--prefix", "resnet-8", "--epoch", 4, "--to", "onnx")
    assert (status, "resnet-8-0004.onnx" in out) == (0, True)
    after = {path.name: path.read_bytes() for path in folder_of_2016.iterdir()}
    assert after.pop("resnet-8-0004.onnx")
    assert after == before
    shares, labels = answers_of(Path("resnet-8-0004.onnx"), Path("digits_val.rec"))
    assert 100 * float(np.mean(shares.argmax(1) != labels)) == pytest.approx(judged["top1_error"])
    classes = Path("synset.txt").read_text().split()
    words = ("--img", "digits_val.rec", "--json", "--synset", "synset.txt", "--top", 10, "--epoch", 4, "--prefix")
    for engine in ("torch", "onnx", "openvino"):
        answers = json.loads(run("predict", *words, "resnet-8", "--engine", engine)[1])
        named = [{one["name"]: one["probability"] for one in answer["top"]} for answer in answers]
        np.testing.assert_allclose([[one[name] for name in classes] for one in named], shares, atol=1e-4)
        assert [answer["top"][0]["name"] for answer in answers] == [classes[number] for number in shares.argmax(1)]


def answers_of(model: Path, rec: Path) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """What ONNX Runtime alone makes of a file's images: their classes' probabilities, and their labels."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    reader = RecordReader(rec)
    records = [unpack(reader[ordinal]) for ordinal in range(len(reader))]
    decoded = (cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR_RGB) for _, image in records)
    images = np.stack([image for image in decoded if image is not None])
    logits = session.run(None, {"images": images.transpose(0, 3, 1, 2).astype(np.float32)})[0]
    shares = np.exp(logits - logits.max(1, keepdims=True))
    return shares / shares.sum(1, keepdims=True), np.array([int(np.ravel(header.label)[0]) for header, _ in records])
