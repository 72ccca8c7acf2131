"""What a run is decided to be: from what was given, a recipe, a checkpoint, the data, and in this order."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conftest import Run
from drawing import draw, generator
from resnet_v2.errors import ResnetError, SettingError
from resnet_v2.networks import weights
from resnet_v2.networks.header import read_header
from resnet_v2.training import checkpoint
from resnet_v2.training.fit import fit
from resnet_v2.training.plan import RunPlan, decide, departures


def plan(**given: Any) -> RunPlan:
    return decide(given)[0]


def cifar(folder: Path, **given: Any) -> RunPlan:
    return plan(**({"data_type": "cifar10", "list_dir": folder, "num_classes": 10} | given))


def test_defaults_are_those_of_2016(tmp_path: Path) -> None:
    (tmp_path / "synset.txt").write_text("a\nb\n")
    imagenet = plan(list_dir=tmp_path / "none")
    assert (imagenet.architecture.depth, imagenet.architecture.classes, imagenet.batch_size) == (50, 1000, 256)
    assert (imagenet.epochs, imagenet.schedule.milestones) == (120, (30, 60, 90))
    assert str(imagenet.records_of(0)) == "data/imagenet/train_480_q90.rec"
    assert imagenet.augmentation(0).hue == 36
    assert imagenet.prefix == "model/resnet-imagenet-50"
    small = plan(data_type="cifar10", list_dir=tmp_path)
    assert (small.architecture.classes, small.batch_size, small.epochs) == (2, 128, 200)
    assert small.schedule.milestones == (120, 160)
    assert small.augmentation(0).pad == 4
    assert small.prefix == "model/resnet-cifar10-20"
    assert plan(data_type="cifar10", list_dir=tmp_path, epochs=30).schedule.milestones == (18, 24)


def test_nothing_of_a_plan_is_left_open(tmp_path: Path) -> None:
    values = cifar(tmp_path).settings()
    assert None not in values.values()
    assert values["workers"] >= 1
    assert values["list_dir"] == str(tmp_path)
    assert set(values) == set(cifar(tmp_path).sources)


def test_padding(tmp_path: Path) -> None:
    assert cifar(tmp_path, pad=2).augmentation(0).pad == 2
    assert cifar(tmp_path, augment="rrc").augmentation(0).resized
    for wrong, message in (({"pad": 16}, "give 0 to 15 pixels"), ({"pad": 2, "augment": "rrc"}, "does nothing with")):
        with pytest.raises(SettingError, match=message):
            cifar(tmp_path, **wrong)


def test_images_of_another_size(tmp_path: Path) -> None:
    assert (plan(list_dir=tmp_path).image_size, cifar(tmp_path).image_size) == (224, 32)
    larger = cifar(tmp_path, image_size=64)
    assert (larger.augmentation(0).size, larger.augmentation(0).pad) == (64, 8)
    assert cifar(tmp_path, image_size=64, pad=31).augmentation(0).pad == 31
    with pytest.raises(SettingError, match="give 0 to 31 pixels"):
        cifar(tmp_path, image_size=64, pad=32)


def test_letters_are_not_mirrored(tmp_path: Path) -> None:
    for augment in ("levels", "rrc"):
        plain, letters = cifar(tmp_path, augment=augment), cifar(tmp_path, augment=augment, mirror=False)
        for ordinal in range(40):
            drawn = draw(plain.augmentation(0), 40, 40, generator(0, 0, ordinal))
            unmirrored = draw(letters.augmentation(0), 40, 40, generator(0, 0, ordinal))
            assert unmirrored == drawn._replace(mirror=False)


def test_mirroring_in_turns_is_a_setting(tmp_path: Path) -> None:
    for augment in ("levels", "rrc"):
        assert not cifar(tmp_path, augment=augment).augmentation(1).in_turns
        assert cifar(tmp_path, augment=augment, mirror_in_turns=True).augmentation(1).in_turns


def test_size_schedule(tmp_path: Path) -> None:
    changing = cifar(tmp_path, size_schedule="0:16,2:24,4:32")
    plans = [changing.augmentation(epoch) for epoch in range(6)]
    assert [one.size for one in plans] == [16, 16, 24, 24, 32, 32]
    assert [(one.scale[1], one.pad) for one in plans[::2]] == [(0.5, 2), (0.75, 3), (1.0, 4)]
    assert plans[-1] == cifar(tmp_path).augmentation(5)
    imagenet = plan(list_dir=tmp_path, size_schedule="0:112").augmentation(0)
    assert (imagenet.size, imagenet.pad, imagenet.scale) == (112, 0, (0.533 / 2, 0.5))
    cropped = plan(list_dir=tmp_path, augment="rrc", size_schedule="0:128,2:224")
    assert [cropped.augmentation(epoch).size for epoch in (1, 2)] == [128, 224]
    for wrong in ("0:40", "0:x", "16", "0:7"):
        with pytest.raises(SettingError, match="is not pairs of an epoch and a value"):
            cifar(tmp_path, size_schedule=wrong)


def test_augmentation_schedule(tmp_path: Path) -> None:
    changing = plan(list_dir=tmp_path, aug_schedule="0:3,10:2,95:1")
    assert [changing.augmentation(epoch).rotation for epoch in (0, 9, 10)] == [10, 10, 0]
    assert changing.records_of(94).name == "train_480_q90.rec"
    assert changing.records_of(95).name == "train_256_q90.rec"
    with pytest.raises(SettingError, match="write it like 0:2,95:1"):
        plan(list_dir=tmp_path, aug_schedule="0:4")


def test_what_is_given_comes_before_the_recipe_and_the_recipe_before_the_default() -> None:
    given = {"batch_size": 256, "lr": 0.05, "data_dir": Path("/data/in"), "seed": 3}
    its = plan(recipe="imagenet-resnet-101", **given)
    values = its.settings()
    assert (values["depth"], values["batch_size"], values["lr"], values["wd"]) == (101, 256, 0.05, 0.0001)
    assert (values["milestones"], values["aug_schedule"], values["epochs"]) == ("60,90,120", "0:2,120:1", 127)
    assert (values["data_dir"], values["seed"]) == ("/data/in", 3)
    assert [its.sources[name] for name in ("depth", "lr", "mom", "keep", "list_dir")] == [
        "recipe imagenet-resnet-101",
        "given",
        "recipe imagenet-resnet-101",
        "default",
        "the data",
    ]
    told = departures(its)
    assert len(told) == 2
    assert told[0] == "`batch_size` 256 is not the recipe's: imagenet-resnet-101 has `batch_size` 480."
    assert "`lr` 0.05" in told[1]
    assert not departures(plan(recipe="imagenet-resnet-101", batch_size=480))
    assert not departures(plan(list_dir="none", depth=18))


def test_a_default_that_is_typed_out_counts(tmp_path: Path, run: Run) -> None:
    words = ["train", "--recipe", "cifar10-fast", "--data-dir", tmp_path, "--width", 1, "--schedule", "step"]
    status, out, _ = run(*words, "--no-zero-init-residual", "--label-smoothing=0", "--explain")
    assert status == 0
    told = {line.split()[0]: line.split() for line in out.splitlines()}
    assert told["width"] == ["width", "1", "given"]
    assert told["schedule"] == ["schedule", "step", "given"]
    assert told["zero_init_residual"] == ["zero_init_residual", "False", "given"]
    assert told["label_smoothing"] == ["label_smoothing", "0.0", "given"]
    assert told["optimizer"][1:] == ["muon", "recipe", "cifar10-fast"]
    assert told["keep"] == ["keep", "0", "default"]
    assert not list(tmp_path.iterdir())


def test_a_run_goes_on_with_what_it_was_given(digits: Path, tmp_path: Path) -> None:
    prefix = str(tmp_path / "m")
    given: dict[str, Any] = {"data_dir": digits, "data_type": "digits", "depth": 8, "gpus": "", "batch_size": 64}
    fit(given | {"epochs": 1, "num_examples": 64, "lr": 0.03, "model_prefix": prefix})
    again, start = decide({"model_prefix": prefix, "resume": "yes"})
    assert start is not None
    assert start.resumed
    assert again.sources["depth"] == f"checkpoint {prefix}-latest.safetensors"
    assert (again.architecture.depth, again.batch_size, again.schedule.base) == (8, 64, 0.03)
    # The checkpoint names neither where it lies nor how it was started, and says the same when it has gone on.
    saved = read_header(checkpoint.latest_path(prefix)).training
    assert saved["given"] == ["batch_size", "data_dir", "data_type", "depth", "epochs", "lr", "num_examples"]
    assert {name: saved[name] for name in again.saved()} == again.saved()
    with pytest.raises(ResnetError, match=r"made with other settings \(`depth` 14, was 8\)"):
        decide({"model_prefix": prefix, "resume": "yes", "depth": 14})
    retrained, _ = decide({"model_prefix": prefix, "retrain": True, "model_load_epoch": 1, "epochs": 3})
    assert (retrained.architecture.depth, retrained.first_epoch, retrained.schedule.base) == (8, 1, 0.03)
    slower, _ = decide({"model_prefix": prefix, "retrain": True, "model_load_epoch": 1, "epochs": 3, "lr": 0.003})
    assert slower.schedule.learning_rate(1) == pytest.approx(0.003)


def test_a_rate_with_retraining_is_that_of_the_epoch_also_when_it_goes_on(digits: Path, tmp_path: Path) -> None:
    given: dict[str, Any] = {
        "data_dir": digits,
        "data_type": "digits",
        "depth": 8,
        "gpus": "",
        "num_examples": 16,
        "milestones": "1,2",
        "model_prefix": str(tmp_path / "m"),
    }
    fit(given | {"epochs": 2})
    retraining = given | {"epochs": 3, "retrain": True, "model_load_epoch": 2}
    fit(retraining)
    saved = tmp_path / "m-latest.safetensors"
    header, tensors = weights.read(saved)
    position = {"epoch": 2, "step": 0, "trained": False}
    weights.save(saved, tensors, replace(header, training={**header.training, "position": position}))
    resumed, _ = decide(retraining | {"resume": "yes", "force": True, "lr": 0.02})
    assert resumed.schedule.learning_rate(2) == pytest.approx(0.02)
    assert resumed.schedule.base == pytest.approx(2.0)


def test_ranks_started_by_torchrun_leave_an_unfinished_run_alone(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {"data_dir": digits, "data_type": "digits", "depth": 8, "gpus": "", "num_examples": 16}
    given |= {"epochs": 1, "model_prefix": str(tmp_path / "m")}
    fit(given)
    assert checkpoint.unfinished(given["model_prefix"]) is None
    saved = tmp_path / "m-latest.safetensors"
    header, tensors = weights.read(saved)
    position = {"epoch": 0, "step": 1, "trained": False}
    weights.save(saved, tensors, replace(header, training={**header.training, "position": position}))
    for name, value in (("RANK", 0), ("WORLD_SIZE", 2), ("LOCAL_RANK", 0), ("LOCAL_WORLD_SIZE", 2)):
        monkeypatch.setenv(name, str(value))
    with pytest.raises(ResnetError, match=r"holds an unfinished run \(epoch 0 of 1\)"):
        decide(given)


def test_ranks_that_are_started_anew_do_not_take_an_earlier_run_for_theirs(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in (checkpoint.latest_path, checkpoint.best_path):
        path(str(tmp_path / "m")).write_bytes(b"of an earlier run")
    left: list[Path] = []
    monkeypatch.setattr("resnet_v2.training.fit.launch", lambda *_: left.extend(tmp_path.iterdir()))
    words: dict[str, Any] = {"data_dir": digits, "data_type": "digits", "depth": 8, "gpus": "", "nproc": 2}
    fit(words | {"force": True, "model_prefix": str(tmp_path / "m")})
    assert [path.name for path in left] == ["m-earlier-1"]


def test_retraining_keeps_the_checkpoints_rate(tmp_path: Path, digits: Path) -> None:
    prefix = str(tmp_path / "m")
    given: dict[str, Any] = {
        "recipe": "cifar10-fast",
        "data_dir": digits,
        "data_type": "digits",
        "gpus": "",
        "width": 1,
    }
    fit(given | {"epochs": 2, "lr": 0.02, "wd": 0.002, "num_examples": 16, "model_prefix": prefix})
    again, _ = decide(given | {"epochs": 2, "retrain": True, "model_load_epoch": 1, "model_prefix": prefix})
    assert (again.schedule.base, again.config.optimisation.wd) == (0.02, 0.002)
    assert again.architecture.depth == 14


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"clip_norm": 1.0}, "leave it or them out"),
        ({"accumulate": 2}, "leave it or them out"),
        ({"amp": "fp16"}, "leave it or them out"),
        ({"optimizer": "muon"}, "leave it or them out"),
        ({"nproc": 2}, "leave it or them out"),
    ],
)
def test_what_does_not_go_with_updates_inside_the_backward_pass(
    given: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(SettingError, match=words):
        cifar(tmp_path, fused_backward=True, **given)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"retrain": True}, "goes on from the epoch of `model_load_epoch`; give it too"),
        ({"model_load_epoch": 3}, "does nothing without `retrain`"),
        ({"gpus": "0,1", "nproc": 3}, "names 2 GPUs, but `nproc` says 3"),
        ({"sync_bn": True, "nproc": 2, "memonger": True}, "do not go together"),
        ({"finetune": "cifar10-resnet-14", "zero_init_residual": True}, "`finetune` takes a checkpoint's"),
        ({"finetune": "cifar10-resnet-14", "width": 1}, "has `width` 3, not 1; leave `width` out"),
        ({"finetune": "cifar10-resnet-14", "retrain": True, "model_load_epoch": 1}, "give one of them"),
    ],
)
def test_what_does_not_go_together(given: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ResnetError, match=words):
        cifar(tmp_path, **given)


def test_what_a_dawn_network_has_by_default(tmp_path: Path) -> None:
    its = cifar(tmp_path, stem="dawn")
    assert (its.architecture.depth, its.image_size, its.augmentation(0).pad, its.batch_size) == (11, 32, 4, 128)
    assert cifar(tmp_path, stem="dawn", depth=17).architecture.units == (2, 2, 2)


def test_a_network_to_tune_brings_its_architecture(tmp_path: Path) -> None:
    tuned = cifar(tmp_path, finetune="cifar10-resnet-14", num_classes=3)
    assert (tuned.architecture.depth, tuned.architecture.stem, tuned.architecture.width) == (14, "pooled", 3)
    assert tuned.architecture.classes == 3
    assert tuned.sources["width"] == "checkpoint cifar10-resnet-14"


def test_ranks_of_several_machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", 5), ("WORLD_SIZE", 8), ("LOCAL_RANK", 1), ("LOCAL_WORLD_SIZE", 4)):
        monkeypatch.setenv(name, str(value))
    with pytest.raises(SettingError, match="2 machines take part; give `kv_store` dist_sync"):
        cifar(tmp_path)
    assert cifar(tmp_path, kv_store="dist_sync").batch_size == 2 * 128


def test_how_many_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cifar(tmp_path, gpus="0,1,2,3", device="cpu").processes == 1
    assert cifar(tmp_path, gpus="", nproc=2).processes == 2
    assert cifar(tmp_path, gpus="0,1,2,3").processes == 1  # no GPU is here
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert cifar(tmp_path, gpus="0,1,2,3").processes == 4
