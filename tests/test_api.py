"""The Python API: its names, and one picture in all its forms."""

import io
import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
import torch

import resnet_v2
from conftest import Run, picture, read_image
from resnet_v2.data.record_set import open_records
from resnet_v2.data.records import RecordReader
from resnet_v2.inference.evaluate import tell_of_other_classes
from resnet_v2.inference.pictures import View, prepare
from resnet_v2.networks import weights
from resnet_v2.networks.header import Header
from resnet_v2.serving.demo import Explainer
from resnet_v2.training.evaluate import evaluate


def test_the_public_names() -> None:
    names = ["Answer", "Answers", "Classifier", "ResnetError", "Results", "__version__", "fit", "load", "resnet"]
    assert resnet_v2.__all__ == names
    assert all(hasattr(resnet_v2, name) for name in resnet_v2.__all__)
    assert dir(resnet_v2) == sorted(resnet_v2.__all__)
    with pytest.raises(AttributeError, match="no attribute 'train'"):
        _ = resnet_v2.train


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, resnet_v2; assert 'torch' not in sys.modules; resnet_v2.resnet; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def saved(folder: Path, name: str, image: PIL.Image.Image, turned: bool = False) -> Path:
    """A picture as a file; `turned`: whose EXIF orientation says that the right side is the top."""
    exif = PIL.Image.Exif()
    if turned:
        exif[0x0112] = 6
    image.save(folder / name, exif=exif, lossless=True)
    return folder / name


def opened(path: Path) -> PIL.Image.Image:
    return PIL.Image.open(io.BytesIO(path.read_bytes()))


def all_kinds(folder: Path) -> list[Path]:
    """Files of every kind that people have, smaller and larger than a crop of 32 pixels, upright and turned."""
    noise = np.random.default_rng(0).integers(0, 256, (57, 70, 4), dtype=np.uint8)
    large, small = (PIL.Image.fromarray(picture(seed, *size)) for seed, size in ((3, (330, 441)), (4, (20, 31))))
    some = PIL.Image.fromarray(picture(5, 70, 60))
    sixteen = PIL.Image.fromarray(np.random.default_rng(1).integers(0, 65536, (40, 50), dtype=np.uint16))
    files = {
        **{"large.jpg": large, "small.jpg": small, "grey.jpg": large.convert("L"), "cmyk.jpg": large.convert("CMYK")},
        **{
            "alpha.png": PIL.Image.fromarray(noise),
            "grey-alpha.png": some.convert("LA"),
            "grey.png": some.convert("L"),
        },
        **{"palette.png": some.quantize(64), "bits.png": some.convert("1"), "16.png": sixteen, "16.tif": sixteen},
        **{"alpha.tif": PIL.Image.fromarray(noise), "cmyk.tif": large.convert("CMYK")},
        **{"a.gif": some.quantize(64), "a.bmp": some, "a.tif": some, "a.webp": some},
    }
    turned = {"turned.jpg": large, "turned-cmyk.jpg": large.convert("CMYK"), "turned.png": some, "turned.webp": some}
    paths = [saved(folder, name, image) for name, image in files.items()]
    return paths + [saved(folder, name, image, turned=True) for name, image in turned.items()]


def test_a_picture_is_the_same_in_all_its_forms(tmp_path: Path) -> None:
    view = View(crop=32, resize=40)
    for path in all_kinds(tmp_path):
        data, seen = path.read_bytes(), prepare(path, view)
        upright = PIL.ImageOps.exif_transpose(opened(path))
        forms: list[Any] = [str(path), data, bytearray(data), memoryview(data), opened(path), upright]
        if upright.mode not in ("CMYK", "I;16"):  # whose way to RGB is not Pillow's
            forms.append(np.asarray(upright.convert("RGB")))
        for form in forms:
            assert np.array_equal(prepare(form, view), seen), (path.name, type(form))


def test_what_is_seen_of_a_photo(tmp_path: Path) -> None:
    """The whole photo upright, its shorter side resized by area, the centre of that."""
    path = saved(tmp_path, "a.jpg", PIL.Image.fromarray(picture(3, 330, 441)), turned=True)
    upright = np.asarray(PIL.ImageOps.exif_transpose(opened(path)))
    assert upright.shape == (441, 330, 3)
    small = cv2.resize(upright, (40, 53), interpolation=cv2.INTER_AREA)
    assert np.array_equal(prepare(path, View(crop=32, resize=40)), small[10:42, 4:36])
    sixteen = np.arange(0, 65536, 41, dtype=np.uint16)[:1296].reshape(36, 36)
    seen = prepare(PIL.Image.fromarray(sixteen), View(crop=36))
    assert np.array_equal(seen, np.stack([sixteen >> 8] * 3, axis=2))


def test_answers_do_not_depend_on_the_form_nor_on_the_way(trained: str, digits: Path, run: Run) -> None:
    network = resnet_v2.load(trained, 4)
    path = digits / "examples" / "7.png"
    pixels = read_image(path)
    forms: list[Any] = [path, path.read_bytes(), pixels, opened(path), np.dstack([pixels, pixels[:, :, :1]])]
    answers = [*network.classify(forms, top=3), *(network.classify(form, top=3) for form in forms)]
    told = json.loads(run("predict", "--img", path, "--prefix", trained, "--epoch", 4, "--top", 3, "--json")[1])
    answers.append([resnet_v2.Answer(one["class"], one["name"], one["probability"]) for one in told[0]["top"]])
    answers.append(list(Explainer(network.network, network.header, network.device).explain(path).answers[:3]))
    for answer in answers:
        assert [one.name for one in answer] == [one.name for one in answers[0]]
        assert [one.probability for one in answer] == pytest.approx([one.probability for one in answers[0]], rel=1e-5)
    assert [answer.name for answer in answers[0]] == [str(answer.class_index) for answer in answers[0]]
    assert network.class_names == tuple("0123456789")
    assert network.classify(form for form in forms) == network.classify(forms)
    assert network.features(iter(forms[:2])).shape == (2, network.features(path).size)
    assert network.classify([]) == network.classify(np.empty((0, 32, 32, 3), np.uint8)) == []
    grey = network.classify(pixels[:, :, 0], top=3)
    assert [answer.class_index for answer in grey] == [answer.class_index for answer in answers[0]]


def modes(network: torch.nn.Module) -> list[bool]:
    return [module.training for module in network.modules()]


def test_a_network_stays_in_the_mode_it_is_in(digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fine-tuning in Python: between the steps pictures are classified; here one BatchNorm is frozen."""
    network, rec = resnet_v2.resnet(8, classes=10).train(), digits / "digits_val.rec"
    network.get_submodule("bn1").eval()
    before, crop = modes(network), np.zeros((32, 32, 3), np.uint8)
    assert len(set(before)) == 2
    classifier = resnet_v2.Classifier(network, Header.of_epoch(network.architecture, 1), torch.device("cpu"))
    seen: list[bool] = []
    network.register_forward_pre_hook(lambda module, _: seen.append(module.training))
    explainer = Explainer(network, classifier.header, classifier.device)
    doing = (
        lambda: classifier.classify(crop),
        lambda: classifier.features(crop),
        lambda: classifier.evaluate(rec),
        lambda: explainer.explain(crop),
        lambda: evaluate(network, RecordReader(rec), size=32, batch_size=200, device=classifier.device),
    )
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    for do in doing:
        do()
        assert modes(network) == before
    assert not any(seen)
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())
    monkeypatch.setattr(type(network), "_units_of", lambda *_: 1 / 0)
    for do in doing:
        with pytest.raises(ZeroDivisionError):
            do()
        assert modes(network) == before


def test_wrong_numbers_are_refused_by_name(trained: str, digits: Path) -> None:
    network, rec, image = resnet_v2.load(trained, 4), digits / "digits_val.rec", np.zeros((32, 32, 3), np.uint8)
    doing: list[tuple[str, int, Callable[[Any], object]]] = [
        ("top", 1, lambda wrong: network.classify(image, top=wrong)),
        ("top", 1, lambda wrong: network.predict([], top=wrong)),
        ("batch_size", 1, lambda wrong: network.evaluate(rec, batch_size=wrong)),
        ("batch_size", 1, lambda wrong: network.predict([], batch_size=wrong)),
        ("threads", 0, lambda wrong: network.predict([], threads=wrong)),
        ("crop", 0, lambda wrong: network.evaluate(rec, crop=wrong)),
        ("resize", 0, lambda wrong: network.evaluate(rec, resize=wrong)),
    ]
    for name, least, do in doing:
        for wrong in (least - 1, -7, math.nan, 2.5, "5", None):
            words = f"^`{name}` (must be {least} |'?{wrong}'? is not a whole number)"
            with pytest.raises(resnet_v2.ResnetError, match=words):
                do(wrong)
    with pytest.raises(resnet_v2.ResnetError, match="`crop` must be 0 to 65535"):
        network.evaluate(rec, crop=10**12)
    assert len(network.classify(image, top=10**6)) == 10


def test_objects_say_what_they_are(trained: str) -> None:
    classifier = resnet_v2.load(trained, 4)
    assert repr(classifier) == (
        "Classifier(ResNet-8-v2, classes 10, stem cifar, width 1, epoch 4, crop 32 of 32, torch on cpu)"
    )
    assert "settings" not in repr(classifier.header) and "epoch=4" in repr(classifier.header)
    assert re.fullmatch(r"ResNet\(.*depth=8.*, 78,\d{3} parameters, in evaluation mode\)", repr(classifier.network))


def test_features_are_what_the_last_layer_sees(trained: str, digits: Path) -> None:
    network = resnet_v2.load(trained, 4)
    images = np.stack([read_image(digits / "examples" / f"{number}.png") for number in range(4)] * 10)
    features = network.features(images)
    assert features.shape == (40, 64)
    assert network.features(images[0]).shape == (64,)
    logits = network.network.fc1(torch.from_numpy(features))
    best = [answers[0].class_index for answers in network.classify(images)]
    assert logits.argmax(1).tolist() == best


def test_evaluate_is_that_of_the_header(trained: str, digits: Path) -> None:
    network = resnet_v2.load(trained)
    result = network.evaluate(digits / "digits_val.rec")
    assert result.images == 364
    assert result.top1_error == pytest.approx(network.header.errors["top1_error"])


def test_what_is_no_picture(trained: str, tmp_path: Path) -> None:
    network = resnet_v2.load(trained, 4)
    (tmp_path / "text.jpg").write_text("no image")
    jpeg = saved(tmp_path, "a.jpg", PIL.Image.fromarray(picture(3, 90, 80)))
    (tmp_path / "short.jpg").write_bytes(jpeg.read_bytes()[:1000])
    wrong: Any
    for wrong, words in (
        (np.zeros((8, 8, 3)), r"shape \(8, 8, 3\) and type float64 is no picture; give H x W x 3 uint8"),
        (np.zeros((8, 8), bool), "type bool is no picture"),
        (torch.zeros(8, 8, 3, requires_grad=True), "Tensor gives no array .*requires grad"),
        (torch.zeros(8, 8, 3, dtype=torch.bfloat16), "Tensor gives no array .*BFloat16"),
        (torch.zeros(8, 8, 3, dtype=torch.uint8, device="meta"), "Tensor gives no array .*meta"),
        (np.zeros((8, 8, 2), np.uint8), "no picture"),
        (np.zeros((0, 8, 3), np.uint8), "no picture"),
        (np.zeros((1, 1, 8, 8, 3), np.uint8), "no picture"),
        (np.uint8(3), "no picture"),
        (np.zeros((1, 1_000_000, 3), np.uint8), "The image is no readable image: 1000000 x 1 pixels are too narrow"),
        (None, "NoneType is no picture; give a path, the bytes"),
        (3, "int is no picture"),
        ([[1, 2]], "list is no picture|int is no picture"),
        (b"text", "The image is no readable image"),
        (b"", "The image is no readable image"),
        ("", "An empty path cannot be read"),
        ("a\0b", "no readable image: embedded null byte"),
        (tmp_path, "is a folder; give a list of its pictures"),
        ("https://example.org/a.jpg", "https://example.org/a.jpg is an address; download it"),
        (Path("https://example.org/a.jpg"), "example.org/a.jpg is an address; download it"),
        (tmp_path / "a.rec", "a.rec names records; `evaluate` and `resnet-v2 predict --img` take them"),
        (io.BytesIO(b"text"), "BytesIO is no picture"),
        (tmp_path / "text.jpg", "text.jpg is no readable image"),
        (tmp_path / "none.jpg", "none.jpg cannot be read"),
        (opened(tmp_path / "short.jpg"), "The image is no readable image: image file is truncated"),
        (PIL.Image.new("F", (9, 9)), "mode F does not say which number is white"),
        (PIL.Image.new("I", (9, 9)), "mode I does not say which number is white"),
        (PIL.Image.new("La", (9, 9)), "no readable image: conversion from La"),
        (b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR" + b"\0\1\0\0" * 2, "claims 65536 x 65536 pixels"),
    ):
        with pytest.raises(resnet_v2.ResnetError, match=words):
            network.classify([wrong])
        with pytest.raises(resnet_v2.ResnetError, match=words):
            network.features(wrong)


def test_a_name_that_means_nothing(tmp_path: Path, run: Run) -> None:
    with pytest.raises(resnet_v2.ResnetError, match="There is no checkpoint nothing"):
        resnet_v2.load("nothing")


def test_other_classes_have_no_old_names(trained: str, tmp_path: Path) -> None:
    image = np.zeros((32, 32, 3), np.uint8)
    for classes in (3, 10, 12):
        classifier = resnet_v2.load(trained)
        classifier.network.reset_classifier(classes)
        header = classifier.header
        assert (header.class_names, header.errors, header.architecture.classes) == ((), {}, classes)
        answers = classifier.classify(image, top=classes)
        assert sorted(answer.name for answer in answers) == sorted(map(str, range(classes)))
        # A loaded network lies channels-last in memory; the file holds it all the same.
        weights.save(tmp_path / "own.safetensors", classifier.network.state_dict(), header)
        assert resnet_v2.load(tmp_path / "own").classify(image, top=classes) == answers
        classifier.header = replace(header, class_names=tuple("abcdefghijkl"[:classes]))
        assert classifier.classify(image)[0].name in "abcdefghijkl"


def test_a_record_of_other_classes_is_spoken_of(
    trained: str, few_digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], run: Run
) -> None:
    resnet_v2.load(trained, 4).evaluate(few_digits / "digits_val.rec")
    assert capsys.readouterr().err == ""
    for name in ("digits_val.rec", "digits_val.idx"):
        (tmp_path / name).write_bytes((few_digits / name).read_bytes())
    synset = tmp_path / "synset.txt"
    synset.write_text("".join(f"animal{number}\n" for number in range(10)))
    told = f"warning: class 0 is 'animal0' in {synset} and '0' to the network"
    resnet_v2.load(trained, 4).evaluate(tmp_path / "digits_val.rec")
    assert told in capsys.readouterr().err
    fewer = replace(resnet_v2.load(trained, 4).header, class_names=("animal0",))
    tell_of_other_classes(open_records(tmp_path / "digits_val.rec"), fewer)
    assert f"class 1 is 'animal1' in {synset} and no class to the network" in capsys.readouterr().err
    status, _, err = run("evaluate", "--prefix", trained, "--epoch", 4, "--rec", tmp_path / "digits_val.rec")
    assert (status, told in err) == (0, True)


def test_a_run_whose_last_epoch_is_not_its_best(
    trained: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, header, tensors = weights.read_checkpoint(trained, 4)
    for name, epoch, error in (("m-0004", 4, 90.0), ("m-best", 2, 10.0)):
        told = replace(header, epoch=epoch, errors={"top1_error": error, "top5_error": 0.0})
        weights.save(tmp_path / f"{name}.safetensors", tensors, told)
    assert resnet_v2.load(tmp_path / "m").header.epoch == 4
    sentence = "m is its last epoch, 4, of 90.00 % top-1 error; epoch 2 had 10.00 %"
    assert sentence in capsys.readouterr().err
    resnet_v2.load(tmp_path / "m", 4)
    resnet_v2.load(tmp_path / "m-0004.safetensors")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("one", ["a.jpg", Path("a.jpg"), b"a"])
def test_predict_refuses_one_picture(one: Any) -> None:
    """A path would be taken letter by letter."""
    with pytest.raises(resnet_v2.ResnetError, match="`pictures` is one picture; `classify` answers it"):
        resnet_v2.load().predict(one)
