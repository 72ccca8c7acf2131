"""`inspect`: what is planted in a set is found, the page holds it, and a temperature is the same for everybody."""

import json
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

import resnet_v2
from conftest import Run, picture
from processes import PATIENCE_SECONDS
from resnet_v2.data.jpeg import decode, encode
from resnet_v2.data.records import IRHeader, RecordReader, pack, writing
from resnet_v2.errors import ResnetError
from resnet_v2.inference.classifier import load
from resnet_v2.inference.predict import Predictor
from resnet_v2.inspection import calibration
from resnet_v2.inspection.doubles import find_doubles
from resnet_v2.inspection.inspection import Inspection, _with_answers
from resnet_v2.inspection.labelled import open_labelled
from resnet_v2.inspection.looking import MEASURES, Looked, look, measured
from resnet_v2.inspection.oddities import find_odd, robust
from resnet_v2.inspection.page import _calibration, _diagram, _thumbnail
from resnet_v2.inspection.wrong_labels import Suspicions, find_wrong_labels
from resnet_v2.interchange.mxnet import read_checkpoint as read_params
from resnet_v2.networks import weights
from resnet_v2.networks.header import Header, read_header

WRONG = range(0, 100, 21)  # of all four classes
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def write_record(path: Path, images: list[tuple[float, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with writing(path) as writer:
        for key, (label, data) in enumerate(images):
            writer.write(key, pack(IRHeader(0, label, key, 0), data))
    return path


def digit_images(digits: Path, count: int) -> list[tuple[float, bytes]]:
    reader = RecordReader(digits / "digits_val.rec")
    return [(float(np.ravel(header.label)[0]), bytes(data)) for header, data in map(reader.image, range(count))]


COLOURS = np.array([[230, 40, 40], [40, 200, 60], [40, 60, 230], [240, 230, 60]])


def tinted(seed: int, label: int) -> Any:
    """A picture of its own whose colours tell its class, one of four."""
    return (0.25 * picture(seed, 32, 32) + 0.75 * COLOURS[label]).astype(np.uint8)


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 pictures of which 5 have a wrong label, a copy, a copy as JPEG, a dark one, a tiny and a broken one."""
    pixels = [tinted(number, number % 4) for number in range(300)]
    images = [
        (float((number + 2 * (number in WRONG)) % 4), encode(one, ".png", 3)) for number, one in enumerate(pixels)
    ]
    images += [images[7], (images[7][0], encode(pixels[7], ".jpg", 90)), (0.0, encode(pixels[8] // 60, ".png", 3))]
    images += [(1.0, encode(np.zeros((1, 1, 3), np.uint8), ".png", 3)), (2.0, b"no picture")]
    return write_record(tmp_path_factory.mktemp("noisy") / "noisy.rec", images)


@pytest.fixture(scope="module")
def findings(noisy: Path) -> tuple[dict[str, Any], str]:
    """The JSON of an inspection of `noisy`, and its page."""
    import contextlib
    import io

    from resnet_v2 import cli

    out, page = io.StringIO(), noisy.with_suffix(".html")
    with contextlib.redirect_stdout(out):
        words = ["inspect", noisy, "--prefix", "cifar10-resnet-14", "--gpus", "", "--out", page, "--json"]
        assert cli.main([str(word) for word in words]) == 0
    return json.loads(out.getvalue()), page.read_text(encoding="utf-8")


def of_kind(found: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [one for one in found["findings"] if one["kind"] == kind]


def test_labels_that_are_wrong(findings: tuple[dict[str, Any], str], noisy: Path) -> None:
    labels = of_kind(findings[0], "label")
    hits = [one for one in labels if one["record"] in WRONG]
    assert len(hits) >= 4
    assert len(labels) <= len(hits) + 3
    reader = RecordReader(noisy)
    for one in hits:
        assert one["file"] == str(noisy)
        assert one["label"] == reader.image(one["record"])[0].label
        assert one["suggested"] == (one["label"] + 2) % 4
        assert one["given_probability"] < 0.1 < 0.4 <= one["probability"]


def test_doubles_odd_pictures_and_unreadable_ones(findings: tuple[dict[str, Any], str]) -> None:
    found = findings[0]
    assert found["pictures"] == [304]
    (group,) = (one for one in of_kind(found, "double") if 7 in [its["record"] for its in one["pictures"]])
    assert [its["record"] for its in group["pictures"]] == [7, 300, 301]
    assert (group["exact"], group["across"]) == (False, False)
    assert 302 in [one["record"] for one in of_kind(found, "flat")]
    assert [one["record"] for one in of_kind(found, "small")] == [303]
    (broken,) = of_kind(found, "unreadable")
    assert (broken["record"], "is no readable image" in broken["problem"]) == (304, True)


def test_the_page_holds_everything_and_asks_for_nothing(findings: tuple[dict[str, Any], str]) -> None:
    found, page = findings
    for heading in ("Wrong labels", "Doubles", "Odd pictures", "Calibration", "Confusions", "Classes", "Unreadable"):
        assert re.search(rf"<h2 id=\"[^\"]+\">{heading}", page), heading
    assert len(re.findall(r'<img[^>]* alt="[^"]+" src="data:image/(?:png|jpeg);base64,', page)) == page.count("<img")
    assert "<script" not in page
    assert not re.search(r"(?:src|href)=\"(?!data:|#)", page)
    assert not re.search(r"url\(|@import", page)
    assert page.count("<li><figure>") >= len(of_kind(found, "label"))


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="missing chromium: apt-get install chromium")
def test_a_browser_shows_the_page_on_a_telephone(noisy: Path, findings: tuple[dict[str, Any], str]) -> None:
    sync_api = pytest.importorskip("playwright.sync_api", reason="missing playwright: pip install -e '.[dev]'")
    asked: list[str] = []
    patience = 1000 * PATIENCE_SECONDS
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=patience)
        page = browser.new_page(viewport={"width": 390, "height": 800})
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: asked.append(message.text))
        page.goto(noisy.with_suffix(".html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        assert page.evaluate("[...document.images].every(one => one.complete && one.naturalWidth > 0)")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "To the findings"
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        assert page.url.endswith("#labels")
        browser.close()
    assert [one for one in asked if not one.startswith(("data:", "file:"))] == []


def test_doubles_across_two_sets_and_class_folders(trained: str, class_folder: Path, tmp_path: Path, run: Run) -> None:
    held_out = tmp_path / "held_out"
    shutil.copytree(class_folder, held_out)
    cv2.imwrite(str(held_out / "bee" / "000.jpg"), picture(999, 40, 60))
    (held_out / "cat" / "001.jpg").write_bytes(b"broken")
    status, out, err = run(
        "inspect", class_folder, "--val", held_out, "--prefix", trained, "--gpus", "", "--out", tmp_path / "p.html"
    )
    assert status == 0
    assert err.startswith(f"unreadable: {held_out / 'cat' / '001.jpg'} is no readable image: ")
    assert err.endswith("warning: 1 picture cannot be read and is left out\n")
    assert "47 of 3 classes, 1 unreadable" in out
    assert f"\n              {class_folder / 'ant' / '000.jpg'}, {held_out / 'ant' / '000.jpg'}\n" in out
    assert "\n              and 19 more groups\n" in out
    assert "22 in 22 groups, 22 of them across both sets" in out
    assert "top-1 error" not in out
    assert "The network has 10 classes, and here are 3" in out or "knows other classes than these" in out
    assert "in both sets" in (tmp_path / "p.html").read_text()


def test_two_sets_of_other_classes_are_refused(trained: str, class_folder: Path, tmp_path: Path, run: Run) -> None:
    other = tmp_path / "other"
    shutil.copytree(class_folder, other)
    (other / "ant").rename(other / "ape")
    status, _, err = run("inspect", class_folder, "--val", other, "--prefix", trained, "--out", tmp_path / "p.html")
    assert status == 2
    assert "The two sets are of other classes, 'ant' and 'ape'" in err
    assert not (tmp_path / "p.html").exists()


def grey_of(label: int) -> bytes:
    return encode(np.full((9, 9, 3), 40 * label, np.uint8), ".png", 3)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        pytest.param([1] * 12, "not looked for: it takes two classes of 5 pictures or more", id="one class"),
        pytest.param([0, 1, 2], "not looked for: it takes two classes of 5 pictures or more", id="less than the folds"),
    ],
)
def test_sets_too_small_to_look_for_wrong_labels(
    labels: list[int], said: str, trained: str, tmp_path: Path, run: Run
) -> None:
    images = [(float(label), encode(picture(number, 12, 14), ".png", 3)) for number, label in enumerate(labels)]
    rec = write_record(tmp_path / "few.rec", images)
    status, out, _ = run("inspect", rec, "--prefix", trained, "--gpus", "", "--out", tmp_path / "p.html")
    assert (status, said in out) == (0, True)
    assert "Calibration takes 100 pictures" in out


@pytest.mark.parametrize(
    ("spoil", "words", "said"),
    [
        pytest.param(None, ["--out", "page.txt"], "--out page.txt must end with .html", id="ending"),
        pytest.param(None, ["--out", "file/page.html"], "file/page.html is not written", id="no folder"),
        pytest.param(None, ["--out", "mine.html"], "mine.html is there already and is no page", id="another page"),
        pytest.param(None, ["--out", "folder.html"], "folder.html is not written: it is a folder", id="a folder"),
        pytest.param(
            None, ["--calibrate", "a.pt"], "--calibrate a.pt must end with .safetensors", id="calibrate ending"
        ),
        pytest.param(None, ["--calibrate", "b.safetensors"], "b.safetensors is there already and is not", id="another"),
        pytest.param(None, ["--val", "few.rec"], "--val few.rec is what is inspected already", id="itself"),
        pytest.param([0.0, 1.0], [], "few.rec#0 has 2 labels", id="several labels"),
        pytest.param(b"", [], "No picture of 1 can be read", id="nothing to read"),
    ],
)
def test_what_is_refused(
    spoil: Any, words: list[str], said: str, trained: str, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    label, data = (spoil, grey_of(1)) if isinstance(spoil, list) else (1.0, grey_of(1) if spoil is None else b"none")
    with writing(Path("few.rec")) as writer:
        writer.write(0, pack(IRHeader(0, label, 0, 0), data))
    Path("file").touch()
    Path("folder.html").mkdir()
    for name in ("mine.html", "b.safetensors"):
        Path(name).write_text("mine")
    status, out, err = run("inspect", "few.rec", "--prefix", trained, "--gpus", "", *words)
    assert (status, out) == (2, "")
    assert said in err
    assert "Traceback" not in err
    assert Path("mine.html").read_text() == Path("b.safetensors").read_text() == "mine"


def test_without_cleanlab_the_extra_is_named(
    trained: str, noisy: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cleanlab", None)
    status, _, err = run("inspect", noisy, "--prefix", trained, "--out", tmp_path / "p.html")
    assert (status, "pip install -e '.[inspect]'" in err) == (2, True)


def test_a_network_of_several_labels_is_refused(trained: str, noisy: Path, tmp_path: Path, run: Run) -> None:
    path, header, tensors = weights.read_checkpoint(trained)
    weights.save(tmp_path / path.name, tensors, replace(header, label_kind="multi"))
    status, _, err = run("inspect", noisy, "--prefix", tmp_path / path.stem, "--out", tmp_path / "p.html")
    assert (status, "was trained with --labels multi" in err) == (2, True)


def test_the_network_that_ships_says_nothing_about_other_classes(tmp_path: Path, run: Run) -> None:
    rec = write_record(
        tmp_path / "few.rec", [(float(one % 2), encode(picture(one, 32, 32), ".png", 3)) for one in (1, 2)]
    )
    status, out, _ = run("inspect", rec, "--gpus", "", "--out", tmp_path / "p.html")
    assert (status, "No synset.txt names the classes" in out) == (0, True)
    (tmp_path / "synset.txt").write_text("red\ngreen\n")
    status, out, _ = run("inspect", rec, "--gpus", "", "--out", tmp_path / "p.html")
    assert (status, "The network that ships knows other classes than these" in out) == (0, True)
    assert "top-1 error" not in out


def test_names_of_classes_are_text(trained: str, class_folder: Path, tmp_path: Path, run: Run) -> None:
    (class_folder / "ant").rename(class_folder / "<script>alert(1)<")
    page = tmp_path / "p.html"
    assert run("inspect", class_folder, "--prefix", trained, "--gpus", "", "--out", page)[0] == 0
    assert "<script" not in page.read_text()
    assert "&lt;script&gt;alert(1)&lt;" in page.read_text()
    assert run("inspect", class_folder, "--prefix", trained, "--gpus", "", "--out", page)[0] == 0  # over its own page


def test_the_calibration_error_of_known_answers() -> None:
    """Sure by 0.75 and always right, sure by 0.55 and never: off by 0.25 and by 0.55."""
    sure = np.log(np.array([[0.75, 0.25], [0.75, 0.25], [0.55, 0.45], [0.45, 0.55]], np.float32))
    bins = calibration.reliability(sure, np.array([0, 0, 1, 0]))
    assert [one.pictures for one in bins if one.pictures] == [2, 2]
    assert calibration.calibration_error(bins) == pytest.approx((0.25 + 0.55) / 2, abs=1e-6)


def overconfident(count: int, times: float) -> tuple[calibration.Logits, calibration.Numbers]:
    """Logits whose softmax, divided by `times`, are the very probabilities that the labels are drawn by."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (count, 5)).astype(np.float32)
    noise = rng.gumbel(size=logits.shape)
    return logits * np.float32(times), (logits + noise).argmax(1)


@pytest.mark.parametrize("times", [0.5, 3.0])
def test_the_temperature_that_is_needed_is_found(times: float) -> None:
    logits, labels = overconfident(4000, times)
    its = calibration.calibrate(logits, labels, 1.0)
    assert its.temperature == pytest.approx(times, rel=0.05)
    assert its.error_after < its.error_before / 2
    assert its.loss_after < its.loss_before
    assert its.mended
    assert its.error_after < 2 * its.chance
    assert calibration.calibrate(logits, labels, its.temperature).error_before == its.error_after
    with pytest.raises(ResnetError, match="takes 100 pictures"):
        calibration.calibrate(logits[:99], labels[:99], 1.0)


@pytest.fixture
def calibrated(trained: str, tmp_path: Path) -> str:
    """The prefix of a copy of `trained` with the temperature 2.5."""
    path = tmp_path / "hot-0004.safetensors"
    calibration.write_temperature(trained, 4, 2.5, path)
    return str(tmp_path / "hot")


def test_the_temperature_is_the_same_for_everybody(
    calibrated: str, trained: str, digits: Path, tmp_path: Path, run: Run
) -> None:
    image, rec = digits / "examples" / "7.png", digits / "digits_val.rec"
    cold, hot = resnet_v2.load(trained, 4), resnet_v2.load(calibrated)
    before, after = cold.classify(image, 10), hot.classify(image, 10)
    assert [one.class_index for one in before] == [one.class_index for one in after]
    powers = np.array([one.probability for one in before]) ** (1 / 2.5)  # softmax(z / T) of softmax(z)
    assert np.allclose([one.probability for one in after], powers / powers.sum(), rtol=1e-4)
    for engine in ("torch", "onnx", "openvino"):
        answers = Predictor.open(calibrated, engine=engine).classify(image, 10)
        assert np.allclose([one.probability for one in answers], [one.probability for one in after], atol=1e-5), engine
    status, out, _ = run("predict", "--prefix", calibrated, "--img", image, "--gpus", "", "--json")
    assert (status, json.loads(out)[0]["top"][0]["probability"]) == (0, pytest.approx(after[0].probability))
    losses = [
        json.loads(run("evaluate", "--prefix", prefix, "--rec", rec, "--gpus", "", "--json", "--engine", engine)[1])
        for prefix, engine in ((calibrated, "torch"), (calibrated, "onnx"), (f"{trained}-0004", "torch"))
    ]
    assert losses[0]["top1_error"] == losses[2]["top1_error"]
    assert losses[0]["loss"] == pytest.approx(losses[1]["loss"], rel=1e-5)
    assert losses[0]["loss"] != pytest.approx(losses[2]["loss"], rel=1e-2)


@pytest.mark.parametrize("to", ["onnx", "torch", "mxnet", "safetensors"])
def test_exports_are_calibrated(to: str, calibrated: str, trained: str, tmp_path: Path, run: Run) -> None:
    """What other systems make of the logits by a softmax are our probabilities."""
    status, _, err = run("export", "--prefix", calibrated, "--to", to, "--out", tmp_path / "out")
    assert (status, err) == (0, "")
    mine = weights.load(trained, 4)[0].fc1.weight.detach().numpy() / 2.5
    if to == "onnx":
        onnx = pytest.importorskip("onnx", reason="missing onnx: pip install -e '.[onnx]'")
        model = onnx.load(str(tmp_path / "out-0004.onnx"))
        (weight,) = (onnx.numpy_helper.to_array(one) for one in model.graph.initializer if one.name == "fc1_weight")
        (told,) = (one.value for one in model.metadata_props if one.key == "resnet_v2")
        assert "temperature" not in json.loads(told)
    elif to == "torch":
        import torch

        weight = torch.export.load(tmp_path / "out-0004.pt2").state_dict["fc1.weight"].detach().numpy()
    elif to == "mxnet":
        weight = read_params(tmp_path / "out-0004.params")[1]["fc1.weight"].numpy()
    else:
        header, tensors = weights.read(tmp_path / "out-0004.safetensors")
        weight = tensors["fc1.weight"].numpy() / header.temperature
    assert np.allclose(weight, mine, rtol=1e-6)


def test_an_export_of_before_is_not_used(trained: str, tmp_path: Path, digits: Path, run: Run) -> None:
    path, image = tmp_path / "m-0004.safetensors", digits / "examples" / "7.png"
    shutil.copy(f"{trained}-0004.safetensors", path)
    assert run("export", "--prefix", tmp_path / "m", "--to", "onnx")[0] == 0
    calibration.write_temperature(str(tmp_path / "m"), None, 2.5, path)
    ours, theirs = (Predictor.open(str(tmp_path / "m"), engine=one).classify(image)[0] for one in ("torch", "onnx"))
    assert theirs.probability == pytest.approx(ours.probability, abs=1e-5)


def test_the_card_tells_the_temperature(calibrated: str, tmp_path: Path, run: Run) -> None:
    status, out, _ = run("card", "--prefix", calibrated)
    assert (status, "softmax of its logits divided by 2.5" in out) == (0, True)
    assert run("card", "--prefix", calibrated, "--out", tmp_path / "hub")[0] == 0
    assert json.loads((tmp_path / "hub" / "config.json").read_text())["temperature"] == 2.5
    assert resnet_v2.load(tmp_path / "hub").header.temperature == 2.5


def test_a_checkpoint_is_rewritten_as_it_was(calibrated: str, trained: str, run: Run) -> None:
    """Momentum and the run's position stay: a run may go on from it."""
    before, after = (weights.read(Path(f"{prefix}-0004.safetensors")) for prefix in (trained, calibrated))
    assert replace(after[0], temperature=1.0) == before[0]
    assert after[1].keys() == before[1].keys()
    assert all(bool((after[1][name] == tensor).all()) for name, tensor in before[1].items())
    assert run("verify", f"{calibrated}-0004.safetensors")[0] == 0


def test_a_network_of_other_classes_is_not_calibrated(calibrated: str) -> None:
    network = resnet_v2.load(calibrated)
    network.network.reset_classifier(3)
    assert network.header.temperature == 1


@pytest.mark.parametrize("temperature", [0, -1.5, float("nan"), float("inf"), True, "1", None])
def test_temperatures_that_cannot_be(temperature: Any) -> None:
    fields = json.loads(Header.of_epoch(resnet_v2.resnet(20, 3).architecture, 1).to_json())
    assert "temperature" not in fields
    with pytest.raises(ResnetError, match="temperature"):
        Header.from_json(json.dumps(fields | {"temperature": temperature}), Path("a"))


def test_calibrate_writes_what_was_measured(trained: str, digits: Path, tmp_path: Path, run: Run) -> None:
    """Over the checkpoint itself; a second time it finds nothing to do, and says so."""
    path = tmp_path / "m-0004.safetensors"
    header, tensors = weights.read(Path(f"{trained}-0004.safetensors"))
    tensors |= {name: 4 * tensors[name] for name in ("fc1.weight", "fc1.bias")}  # four times too certain
    weights.save(path, tensors, header)
    words = ["inspect", digits / "digits_val.rec", "--prefix", path, "--gpus", "", "--out", tmp_path / "p.html"]
    status, out, _ = run(*words, "--calibrate", path)
    assert (status, f"network       {path}, with its temperature" in out) == (0, True)
    ((told, chance),) = re.findall(r"with temperature ([\d.]+) \(chance alone: ([\d.]+)\)", out)
    assert 0 < float(chance) < 10
    assert read_header(path).temperature == pytest.approx(float(told), abs=1e-3)
    assert read_header(path).temperature > 2
    status, _, err = run(*words, "--calibrate", path)
    assert (status, "No temperature is written: on the other half" in err) == (2, True)


def test_pictures_that_the_network_was_trained_on(trained: str, digits: Path, tmp_path: Path, run: Run) -> None:
    """No temperature comes of them, and the figures are said to be theirs."""
    small = tmp_path / "m-0001.safetensors"
    header, tensors = weights.read(Path(f"{trained}-0004.safetensors"))
    rec = write_record(tmp_path / "digits_train.rec", digit_images(digits, 120))
    from resnet_v2.data.record_set import open_records
    from resnet_v2.training.ownership import fingerprint

    data = fingerprint([open_records(rec)]) | {"digits_val.rec": "0"}
    weights.save(small, tensors, replace(header, training={**header.training, "data": data}))
    words = ["inspect", rec, "--prefix", small, "--gpus", "", "--out", tmp_path / "p.html"]
    status, out, _ = run(*words)
    assert (status, "on pictures that it was trained on" in out) == (0, True)
    assert "The network was trained on these pictures" in (tmp_path / "p.html").read_text()
    status, _, err = run(*words, "--calibrate", tmp_path / "new.safetensors")
    assert (status, "give others as --val" in err) == (2, True)
    assert not (tmp_path / "new.safetensors").exists()


def measures_of(*images: Any) -> Any:
    return np.array([measured(image) for image in images], MEASURES)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda image: decode(encode(image, ".jpg", 60)).copy(), id="compressed"),
        pytest.param(lambda image: cv2.resize(image, (50, 40), interpolation=cv2.INTER_AREA), id="smaller"),
        pytest.param(lambda image: np.clip(image.astype(int) + 4, 0, 255).astype(np.uint8), id="brighter"),
    ],
)
def test_a_changed_picture_is_a_double(change: Callable[[Any], Any]) -> None:
    images = [picture(seed, 80, 100) for seed in range(30)]
    (group,) = find_doubles(measures_of(*images, change(images[3])))
    assert (group.members, group.exact) == ((3, 30), False)


def test_pictures_of_one_colour_are_doubles_of_their_like_alone() -> None:
    flat = [np.full((20, 20, 3), value, np.uint8) for value in (0, 0, 120, 255)]
    (group,) = find_doubles(measures_of(*flat))
    assert (group.members, group.exact) == ((0, 1), True)
    assert find_doubles(measures_of(flat[0])) == []


def test_odd_pictures_of_every_kind() -> None:
    rng = np.random.default_rng(0)
    texture = rng.integers(-30, 31, (60, 70, 1))
    images = [np.clip(picture(seed, 60, 70) + texture, 0, 255).astype(np.uint8) for seed in range(60)]
    blurred = cv2.GaussianBlur(images[0], (0, 0), 12)
    images += [blurred, np.zeros_like(blurred), picture(99, 60, 900), images[5].mean(2, keepdims=True).repeat(3, 2)]
    images[-1] = images[-1].astype(np.uint8)
    features = rng.normal(size=(len(images), 8)).astype(np.float32)
    features[10] += 40
    odd = {(one.kind, one.index) for one in find_odd(measures_of(*images), features)}
    assert {("blurred", 60), ("flat", 61), ("narrow", 62), ("large", 62), ("grey", 63), ("unlike", 10)} <= odd
    assert all(index >= 60 or kind in ("dark", "bright", "unlike") for kind, index in odd)
    assert find_odd(measures_of(images[0]), features[:1]) == []
    assert robust(np.array([5.0, 5, 5, 5, 9])).argmax() == 4


def test_wrong_labels_with_a_class_of_few_pictures() -> None:
    """Two clear classes, one label of which is wrong, and a class of two pictures, which is left out."""
    rng = np.random.default_rng(0)
    labels = np.array([2] * 40 + [5] * 40 + [0] * 2)
    features = (rng.normal(0, 0.3, (82, 6)) + labels[:, None]).astype(np.float32)
    labels[5] = 5
    its = find_wrong_labels(features, labels)
    assert [(one.index, one.given, one.suggested) for one in its.found] == [(5, 5, 2)]
    assert its.left_out == (0,)
    assert its.accuracy == pytest.approx(79 / 80)


def test_many_labels_of_one_class_that_are_wrong_in_the_same_way() -> None:
    """A tenth of a class is called another one, which the classifier learns; some are found all the same."""
    rng = np.random.default_rng(0)
    truth = np.repeat([0, 1, 2], 100)
    features = (rng.normal(0, 0.5, (300, 4)) + 3 * np.eye(4)[truth]).astype(np.float32)
    labels = truth.copy()
    labels[:10] = 1
    found = {one.index for one in find_wrong_labels(features, labels).found}
    assert len(found & set(range(10))) >= 3
    assert len(found - set(range(10))) <= 1


def test_a_strip_has_a_thumbnail() -> None:
    assert _thumbnail(picture(1, 4, 3000))[1].startswith("data:image/jpeg")
    assert _thumbnail(np.zeros((1, 1, 3), np.uint8))[0]


def test_a_folder_calibrates_nothing(class_folder: Path, tmp_path: Path, run: Run) -> None:
    """A network may have been trained on its pictures, and no checkpoint tells of files."""
    out = tmp_path / "c.safetensors"
    status, _, err = run("inspect", class_folder, "--out", tmp_path / "p.html", "--calibrate", out)
    assert (status, err.count("\n"), "is a folder, and the network may have been trained on its" in err) == (2, 1, True)
    assert not out.exists()


def test_labels_are_told_by_how_sure_the_other_class_is(findings: tuple[dict[str, Any], str]) -> None:
    sure = [one["probability"] for one in of_kind(findings[0], "label")]
    assert len(sure) > 2
    assert sure == sorted(sure, reverse=True)
    shown = re.findall(r"([\d.]+)\u00a0%, <span>", findings[1])
    assert shown == [f"{100 * one:.1f}" for one in sure]


def test_pictures_are_named_by_the_list_that_they_were_packed_from(
    class_folder: Path, trained: str, tmp_path: Path, run: Run
) -> None:
    """A list of other pictures, or none, names nothing."""
    assert run("data", class_folder, "--out", tmp_path / "d")[0] == 0
    rec, page = tmp_path / "d" / "d_train.rec", tmp_path / "p.html"
    words = ["inspect", rec, "--prefix", trained, "--gpus", "", "--out", page]
    at, lst = open_labelled(rec).at, rec.with_suffix(".lst")
    lines = lst.read_text().splitlines()
    assert [at(number).short for number in range(len(lines))] == [line.split("\t")[2] for line in lines]
    assert run(*words)[0] == 0
    assert "d_train.rec#" not in page.read_text()
    for others in (lines[1:], lines[::-1], ["no list"] * len(lines)):
        lst.write_text("\n".join(others) + "\n")
        assert open_labelled(rec).at(0) == (rec, 0, "")
    lst.unlink()
    assert open_labelled(rec).at(0).short == "d_train.rec#0"


def test_where_only_some_are_shown_it_is_said(class_folder: Path, trained: str, tmp_path: Path, run: Run) -> None:
    page = tmp_path / "p.html"
    for number in range(7):
        shutil.copy(class_folder / "ant" / "000.jpg", class_folder / "bee" / f"again-{number}.jpg")
    status, out, _ = run("inspect", class_folder, "--prefix", trained, "--gpus", "", "--out", page)
    assert (status, " and 6 more\n" in out) == (0, True)
    assert "Group 1: the first 6 of 8 pictures, the same pixels, in several classes" in page.read_text()


def test_no_word_of_python_is_told(class_folder: Path, tmp_path: Path, run: Run) -> None:
    page = tmp_path / "p.html"
    status, out, _ = run("inspect", class_folder, "--gpus", "", "--out", page)
    assert (status, "give --prefix of one that was trained on them" in out) == (0, True)
    assert "`" not in out + page.read_text()


def test_the_error_that_chance_makes() -> None:
    """Of one bin of n answers of certainty p the mean distance is sqrt(2 p (1 - p) / (pi n))."""
    for count in (100, 10_000):
        expected = np.sqrt(2 * 0.7 * 0.3 / np.pi / count)
        assert calibration.error_by_chance(np.full(count, 0.7)) == pytest.approx(expected, rel=0.4)
    assert calibration.error_by_chance(np.ones(100)) == 0


def test_what_one_temperature_does_not_mend() -> None:
    """Half of the answers are too certain, the other half not certain enough."""
    logits, labels = overconfident(8000, 1.0)
    logits[::2] *= 3
    logits[1::2] *= 0.4
    its = calibration.calibrate(logits, labels, 1.0)
    assert not its.mended
    assert its.chance < its.error_after / 2


def answered(logits: Any, labels: Any, parts: Any, temperature: float = 1.0) -> Inspection:
    """What a network with these logits is told about the set held out."""
    count = len(labels)
    its: Any = SimpleNamespace(was_trained_on=lambda data: False)
    looked = Looked(
        (its, its),
        np.array(parts),
        np.arange(count),
        np.array(labels),
        np.zeros(count, MEASURES),
        np.zeros((count, 1), np.float32),
        np.array(logits, np.float32),
        (),
    )
    header = replace(Header.of_epoch(resnet_v2.resnet(20, 3).architecture, 1), temperature=temperature)
    return _with_answers(Inspection(header, looked, (), np.zeros((2, 3), np.int64), (), Suspicions(), (), 1))


def test_confusions_are_of_the_set_held_out() -> None:
    """The most frequent first, and of each the most certain picture first, by the temperature of the network."""
    logits = [[9, 0, 0], [0, 2, 0], [0, 3, 0], [0, 0, 4], [0, 5, 0], [8, 0, 0]]
    found = answered(logits, [1, 0, 0, 0, 1, 0], [0, 1, 1, 1, 1, 1], temperature=2.0)
    assert [(one.given, one.taken, [index for index, _ in one.pictures]) for one in found.confusions] == [
        (0, 1, [2, 1]),
        (0, 2, [3]),
    ]
    assert found.confusions[0].pictures[0][1] == pytest.approx(np.exp(1.5) / (np.exp(1.5) + 2))
    assert found.error == pytest.approx(60)


def test_calibration_is_of_the_set_held_out() -> None:
    """Half of it fits the temperature, the other half judges it."""
    logits, labels = overconfident(4000, 3.0)
    others = np.zeros((1000, 5), np.float32)
    found = answered(np.concatenate([others, logits]), np.concatenate([labels[:1000], labels]), [0] * 1000 + [1] * 4000)
    assert found.calibration == calibration.calibrate(logits, labels, 1.0)
    order = np.random.default_rng(0).permutation(4000)[:2000]
    assert found.calibration is not None
    assert found.calibration.temperature == calibration.fit_temperature(logits[order], labels[order])


def test_the_diagram_shows_how_right_and_how_certain() -> None:
    """Right 0.9 of the time is 180 of 200 high, certain by 0.6 is 80 below the top."""
    svg = _diagram([calibration.Bin(0.0, 1.0, 5, 0.6, 0.9)], "now")
    assert re.search(r'class="right"[^>]* y="20.0" [^>]*height="180.0"', svg)
    assert re.search(r'class="certain"[^>]* y1="80.0"[^>]* y2="80.0"', svg)
    found = answered(*overconfident(400, 3.0), [1] * 400)
    assert found.calibration is not None
    section = _calibration(found)[3]
    now, later = (_diagram(bins, "") for bins in (found.calibration.bins_before, found.calibration.bins_after))
    bars = [re.findall("<rect[^>]*>", one)[-1] for one in (now, later)]
    assert bars[0] != bars[1]
    assert section.index(bars[0]) < section.index("With the temperature") < section.index(bars[1])


def test_the_largest_group_of_doubles_comes_first() -> None:
    one, other = picture(1, 40, 40), picture(2, 40, 40)
    groups = find_doubles(measures_of(one, one, other, other, other))
    assert [group.members for group in groups] == [(2, 3, 4), (0, 1)]


def test_dark_and_bright_pictures_and_sets_in_grey() -> None:
    images = [np.clip(picture(seed, 40, 40) * 0.2 + 100, 0, 255).astype(np.uint8) for seed in range(40)]
    images += [images[0] // 20, 255 - images[1] // 20]
    odd = {(one.kind, one.index) for one in find_odd(measures_of(*images), np.ones((42, 2), np.float32))}
    assert {("dark", 40), ("bright", 41)} <= odd
    assert ("dark", 41) not in odd
    grey = [one.mean(2, keepdims=True).repeat(3, 2).astype(np.uint8) for one in images]
    kinds = {one.kind for one in find_odd(measures_of(*grey), np.ones((42, 2), np.float32))}
    assert "grey" not in kinds


def test_doubles_across_both_sets_come_first(class_folder: Path, trained: str, tmp_path: Path, run: Run) -> None:
    held_out, page = tmp_path / "held_out", tmp_path / "p.html"
    shutil.copytree(class_folder, held_out)
    for number, path in enumerate(sorted(held_out.glob("*/*.jpg"))):
        cv2.imwrite(str(path), picture(500 + number, 40, 60))
    for number in range(3):
        shutil.copy(class_folder / "ant" / "000.jpg", class_folder / "ant" / f"again-{number}.jpg")
    shutil.copy(class_folder / "cat" / "001.jpg", held_out / "cat" / "001.jpg")
    status, out, _ = run("inspect", class_folder, "--val", held_out, "--prefix", trained, "--gpus", "", "--out", page)
    assert status == 0
    both = f"{class_folder / 'cat' / '001.jpg'}, {held_out / 'cat' / '001.jpg'}"
    assert re.search(rf"doubles .*\n +{re.escape(both)}\n", out)
    assert "Group 1: 2 pictures, the same pixels, in both sets" in page.read_text()


def test_the_logits_are_those_of_the_network(trained: str, digits: Path, tmp_path: Path) -> None:
    path = tmp_path / "m-0001.safetensors"
    header, tensors = weights.read(Path(f"{trained}-0004.safetensors"))
    weights.save(path, tensors | {"fc1.bias": tensors["fc1.bias"] + 3 * (tensors["fc1.bias"] > 0)}, header)
    rec = write_record(tmp_path / "a.rec", digit_images(digits, 3))
    network = load(str(path))
    logits = look([open_labelled(rec)], network).logits
    for number, row in enumerate(logits):
        image = decode(RecordReader(rec).image(number)[1])
        powers = np.exp(row - row.max())
        for one in network.classify(image, 10):
            assert one.probability == pytest.approx(powers[one.class_index] / powers.sum(), abs=1e-4)


def test_one_thing_is_counted_in_the_singular(tmp_path: Path, run: Run) -> None:
    folder = tmp_path / "photos" / "ant"
    folder.mkdir(parents=True)
    for name in ("one.png", "again.png"):
        (folder / name).write_bytes(grey_of(1))
        status, out, _ = run("inspect", tmp_path / "photos", "--gpus", "", "--out", tmp_path / "p.html")
        page = (tmp_path / "p.html").read_text()
        if name == "one.png":
            assert (status, "1 of 1 class, 0 unreadable" in out) == (0, True)
            assert "<p>1 picture, seen by" in page
            assert "Of 1 class the largest has 1 picture, the smallest 1." in page
    assert "doubles       1 in 1 group\n" in out
