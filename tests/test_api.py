"""The Python API: its names, and one picture in all its forms."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

import resnet_v2
from conftest import Run, picture
from resnet_v2.packing.photos import read_image


def test_the_public_names() -> None:
    assert resnet_v2.__all__ == ["Answer", "Classifier", "ResnetError", "__version__", "load", "resnet"]
    assert all(hasattr(resnet_v2, name) for name in resnet_v2.__all__)
    assert dir(resnet_v2) == sorted(resnet_v2.__all__)
    with pytest.raises(AttributeError, match="no attribute 'train'"):
        _ = resnet_v2.train


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, resnet_v2; assert 'torch' not in sys.modules; resnet_v2.resnet; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_picture_in_all_its_forms(trained: str, digits: Path) -> None:
    network = resnet_v2.load(trained, 4)
    path = digits / "examples" / "7.png"
    pixels = read_image(path)
    forms = [path, str(path), path.read_bytes(), pixels, PIL.Image.open(path), np.dstack([pixels, pixels[:, :, :1]])]
    answers = network.classify(forms, top=3)
    assert len(answers) == len(forms)
    for answer in [*answers, network.classify(path, top=3)]:
        assert [one.name for one in answer] == [one.name for one in answers[0]]
        assert [one.probability for one in answer] == pytest.approx([one.probability for one in answers[0]], rel=1e-4)
    assert [answer.name for answer in answers[0]] == [str(answer.class_index) for answer in answers[0]]
    assert network.class_names == tuple("0123456789")
    assert network.classify([]) == []
    grey = network.classify(pixels[:, :, 0], top=3)
    assert [answer.class_index for answer in grey] == [answer.class_index for answer in answers[0]]


def test_photos_are_turned_upright_in_every_form(trained: str, tmp_path: Path) -> None:
    image = PIL.Image.fromarray(picture(3, 60, 90))
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.png", exif=exif)
    image.save(tmp_path / "turned.jpg", exif=exif, quality=95, subsampling=0)
    image.rotate(-90, expand=True).save(tmp_path / "upright.jpg", quality=95, subsampling=0)
    network = resnet_v2.load(trained, 4)
    turned, upright = (network.features(tmp_path / f"{name}.jpg") for name in ("turned", "upright"))
    pil = network.features(PIL.Image.open(tmp_path / "turned.jpg"))
    scale = np.abs(upright).max()
    assert np.abs(turned - upright).max() < 0.1 * scale
    assert np.abs(pil - upright).max() < 0.1 * scale


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
    for wrong, words in (
        (np.zeros((8, 8, 3)), "no picture"),
        (np.zeros((8, 8, 2), np.uint8), "no picture"),
        (b"text", "no readable image"),
        (tmp_path / "text.jpg", "text.jpg is no readable image"),
        (tmp_path / "none.jpg", "cannot be read"),
        (b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR" + b"\0\1\0\0" * 2, "claims 65536 x 65536 pixels"),
    ):
        with pytest.raises(resnet_v2.ResnetError, match=words):
            network.classify(wrong)


def test_a_name_that_means_nothing(tmp_path: Path, run: Run) -> None:
    with pytest.raises(resnet_v2.ResnetError, match="There is no checkpoint nothing"):
        resnet_v2.load("nothing")
