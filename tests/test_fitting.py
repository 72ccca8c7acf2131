"""Training from Python, and what `load` takes of a run."""

import shutil
from pathlib import Path
from typing import Any

import pytest

import resnet_v2
from resnet_v2.inference import fitting
from resnet_v2.networks import weights
from resnet_v2.training.interruption import Stopped


def test_a_folder_of_records_becomes_a_network(
    few_digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given: dict[str, Any] = {"depth": 8, "epochs": 2, "num_examples": 64, "batch_size": 32, "gpus": "", "workers": 0}
    network = resnet_v2.fit(few_digits, **given)
    assert isinstance(network, resnet_v2.Classifier)
    best = weights.checkpoint_header("model/resnet-digits-8", "best")
    assert network.header == best and network.class_names == tuple("0123456789")
    result = network.evaluate(few_digits / "digits_val.rec")
    assert result.top1_error == pytest.approx(best.errors["top1_error"]) and result.images == 40
    assert network.classify(few_digits / "examples" / "7.png")[0].name in network.class_names
    shutil.move("model/resnet-digits-8-best.safetensors", "best")
    assert resnet_v2.fit(str(few_digits), **given, resume="yes").header.epoch == 2  # it is at its end already
    # What `load` takes.
    prefix, last = "model/resnet-digits-8", "model/resnet-digits-8-0002.safetensors"
    epochs = [resnet_v2.load(prefix, one).header.epoch for one in (1, 2, "latest", None)]
    epochs += [resnet_v2.load(one).header.epoch for one in (last, Path(last), last.removesuffix(".safetensors"))]
    assert epochs == [1, 2, 2, 2, 2, 2, 2]
    with pytest.raises(
        resnet_v2.ResnetError, match=r"resnet-digits-8-best\.safetensors is missing: saved epochs are 1, 2, the last"
    ):
        resnet_v2.load(prefix, "best")
    with pytest.raises(resnet_v2.ResnetError, match="There is no epoch 'first'; give the number"):
        resnet_v2.load(prefix, "first")  # type: ignore[arg-type]
    shipped = resnet_v2.load()
    assert repr(shipped) == repr(resnet_v2.load("cifar10-resnet-14")) and shipped.class_names[3] == "cat"


def test_which_records_are_meant(tmp_path: Path) -> None:
    for name in ("a_train.rec", "a_val.rec", "b_train.rec", "b_val.rec", "c_train.rec"):
        (tmp_path / name).touch()
    with pytest.raises(resnet_v2.ResnetError, match="holds the records of a, b; give one of them as `data_type`"):
        resnet_v2.fit(tmp_path)
    (tmp_path / "b_val.rec").unlink()
    assert fitting._data(tmp_path, {}) == {"data_dir": tmp_path, "data_type": "a"}
    assert fitting._data(tmp_path, {"data_type": "c"}) == {"data_dir": tmp_path}
    (tmp_path / "val_256_q90.rec").touch()
    assert fitting._data(tmp_path, {}) == {"data_dir": tmp_path, "data_type": "imagenet"}


@pytest.mark.parametrize(
    ("data", "settings", "told"),
    [
        (".", {}, r"\. has no class folders with images"),
        ("none", {}, "none is no folder; give one that holds a folder of photos for each class, or NAME_train.rec"),
        (".", {"dry_run": True}, "`dry_run` trains no network; leave it out"),
        (".", {"data_type": "x", "learning_rate": 1}, "There is no setting `learning_rate`"),
        (".", {"data_type": "x", "depth": 20.5}, "`depth` 20.5 is not a whole number"),
    ],
)
def test_what_cannot_be_trained(
    data: str, settings: dict[str, Any], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(resnet_v2.ResnetError, match=told):
        resnet_v2.fit(data, **settings)
    assert not list(tmp_path.iterdir())


def test_a_run_that_is_stopped(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number, raised in ((2, KeyboardInterrupt), (15, SystemExit)):

        def stop(given: Any, number: int = number) -> None:
            raise Stopped(number, "stopped, and saved")

        monkeypatch.setattr(fitting, "train", stop)
        with pytest.raises(raised):
            resnet_v2.fit(digits, depth=8, epochs=1)
