"""`train FOLDER`: what is chosen, said and refused, and records that are used again."""

import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from conftest import Run, picture
from resnet_v2.data import heif
from resnet_v2.errors import ResnetError
from resnet_v2.networks import weights
from resnet_v2.networks.architecture import Architecture
from resnet_v2.packing.photo_folder import look_at
from resnet_v2.packing.photos import read_upright
from resnet_v2.recompute.budget import Workload
from resnet_v2.training import photos
from resnet_v2.training.photos import held_out
from resnet_v2.training.plan import decide

OTHERS = [  # what a folder may hold, and what is said of it
    ("nothing", "has no class folders with images"),
    ("strays", "holds 1 image and no class folders; put those of each class into a folder of its own there, such as"),
    ("one class", "has one class, ant, and a network tells at least two apart"),
    ("one each", "no class with two photos that differ"),
    ("none readable", "no picture that can be read"),
    ("records", "holds records and no photos; give --data-dir"),
    ("missing", "is no folder"),
]


@pytest.fixture
def here(class_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder is that above the class folders `images`."""
    monkeypatch.chdir(class_folder.parent)
    monkeypatch.setattr(photos, "FEWEST_EPOCHS", 1)
    monkeypatch.setattr(photos, "MOST_EPOCHS", 1)
    return class_folder.parent


@pytest.mark.slow
def test_photos_become_a_network(here: Path, run: Run) -> None:
    status, _, err = run("train", "images/", "--gpus", "")
    assert status == 0, err
    assert "19 photos of 3 classes are trained on, 5 are held out" in err
    assert "network: cifar10-resnet-14" in err
    assert "images of 32 pixels: the network learned at that size" in err
    assert "batches of 16: 2 steps" in err
    assert "1 epoch: about" in err
    header = weights.checkpoint_header("model/resnet-images-14", "best")
    assert (header.crop, header.resize, header.class_names) == (32, 32, ("ant", "bee", "cat"))
    assert f"best epoch 1: error {header.errors['top1_error']:.1f} % of the 5 photos held out" in err
    for line in err.split("next: ")[1].splitlines()[:2]:
        words = line.split()[1:] if line.strip().startswith("resnet-v2") else line.split()
        assert run(*words)[0] == 0, line
    made = Path("model/images-records/images_train.rec").stat().st_mtime_ns
    assert run("train", "images", "--gpus", "")[0] == 0
    assert Path("model/images-records/images_train.rec").stat().st_mtime_ns == made
    assert run("train", "--resume", "images", "--gpus", "")[0] == 0
    assert cv2.imwrite("images/ant/new.jpg", picture(999, 40, 40))
    assert (
        "19 photos of 3 classes are trained on, 6 are held out" in run("train", "images", "--gpus", "", "--dry-run")[2]
    )


def test_a_dry_run_says_what_is_chosen(here: Path, run: Run) -> None:
    status, _, err = run("train", "images/", "--gpus", "", "--dry-run")
    assert status == 0, err
    for said in ("19 photos of 3 classes are trained on, 5", "network: cifar10-resnet-14", "images of 32 pixels"):
        assert said in err
    made = Path("model/images-records/images_train.rec").stat().st_mtime_ns
    assert run("train", "images", "--gpus", "", "--dry-run")[0] == 0
    assert Path("model/images-records/images_train.rec").stat().st_mtime_ns == made
    assert run("train", "images", "--gpus", "", "--dry-run", "--image-size", "40")[0] == 0
    assert Path("model/images-records/images_train.rec").stat().st_mtime_ns != made


def test_what_was_left_out_is_said_by_every_run(here: Path, run: Run) -> None:
    Path("images/ant/none.jpg").write_text("none")
    assert cv2.imwrite("images/bee/dot.png", np.zeros((1, 1, 3), np.uint8))
    for looked in (True, False):
        status, _, err = run("train", "images", "--gpus", "", "--dry-run")
        assert status == 0, err
        assert ("ant/none.jpg is no readable image" in err) is looked
        assert "their records lie in model/images-records; 2 photos could not be used and are left out" in err


def test_nothing_to_train_on_is_told_with_both_ways(here: Path, run: Run) -> None:
    both = "There is nothing to train on; give a folder of photos (`resnet-v2 train FOLDER`), or records by --data-dir"
    assert run("train")[2].startswith(f"resnet-v2: {both} and --data-type")
    assert both in run("train", "--epochs", 3, "--finetune", "cifar10-resnet-14")[2]
    assert "is missing, so there is no run to go on with" in run("train", "--resume", "--model-prefix", "none")[2]
    assert run("train", "--explain")[0] == 0
    Path("data/imagenet").mkdir(parents=True)  # where the script of 2016 had its records
    assert "data/imagenet/val_256_q90.rec is missing" in run("train")[2]


def test_records_that_were_not_finished_are_made_again(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = decide({"folder": "images"})[0]
    assert plan.photos is not None
    plan.photos.make(32)
    with monkeypatch.context() as patch:
        patch.setattr(photos, "write", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            plan.photos.make(40)
    before = Path("model/images-records/images_train.rec").stat().st_mtime_ns
    again = decide({"folder": "images"})[0].photos
    assert again is not None
    assert again.found is not None
    again.make(32)
    assert Path("model/images-records/images_train.rec").stat().st_mtime_ns != before
    assert decide({"folder": "images"})[0].photos.found is None  # type: ignore[union-attr]


def test_what_is_typed_wins(here: Path) -> None:
    plan = decide({"folder": "images", "image_size": 48, "batch_size": 4, "lr": 0.5, "epochs": 7})[0]
    assert (plan.image_size, plan.batch_size, plan.schedule.base, plan.epochs) == (48, 4, 0.5, 7)
    assert plan.config.network.finetune == "cifar10-resnet-14"
    assert plan.sources["finetune"] == "photos images"
    assert plan.sources["lr"] == "given"
    assert plan.class_names == ("ant", "bee", "cat")
    assert not Path("model").exists()  # a decision writes nothing
    new = decide({"folder": "images", "depth": 8})[0]
    assert (new.config.network.finetune, new.architecture.depth, new.schedule.base) == ("", 8, 0.1)
    assert "finetune" in plan.saved()["given"]  # so that a run goes on with what was chosen


def test_epochs_and_batches_suit_the_number_of_photos() -> None:
    work = Workload(Architecture(14, 5, "cifar", "v2", 3), 32)
    assert [photos._batch_size(count, work) for count in (10, 400, 1000, 100_000)] == [16, 16, 32, 64]
    facts = [photos.Facts(("a", "b"), count, count // 5, 32) for count in (100, 1000, 10_000, 10**6)]
    assert [photos._epochs(one, work)[0] for one in facts] == [15, 6, 5, 5]
    assert [held_out(count) for count in (1, 2, 3, 10, 100, 400, 5000)] == [0, 1, 1, 2, 20, 50, 500]


def test_memory_makes_batches_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    work = Workload(Architecture(14, 5, "cifar", "v2", 3), 32)
    monkeypatch.setattr(photos, "free_memory", lambda: 2 * (work.fixed_bytes + 5 * work.plain().forecast.peak_bytes))
    assert photos._batch_size(10_000, work) == 4


@pytest.mark.parametrize(("kind", "said"), OTHERS)
def test_folders_that_nothing_can_be_trained_on(here: Path, run: Run, kind: str, said: str) -> None:
    folder = here / "odd"
    if kind != "missing":
        folder.mkdir()
    if kind == "strays":
        shutil.copy("images/ant/000.jpg", folder)
    if kind == "one class":
        shutil.copytree("images/ant", folder / "ant")
    if kind in ("one each", "none readable"):
        for name in ("ant", "bee"):
            (folder / name).mkdir()
            shutil.copy(f"images/{name}/000.jpg", folder / name)
            if kind == "none readable":
                (folder / name / "000.jpg").write_text("none")
    if kind == "records":
        (folder / "x_train.rec").touch()
    status, _, err = run("train", folder)
    assert status == 2
    assert said in err.splitlines()[-1]
    assert not Path("model").exists()


def test_settings_that_the_folder_decides_are_refused(here: Path, run: Run) -> None:
    for flag, value in (("--data-dir", "data"), ("--data-type", "x"), ("--num-classes", 3), ("--labels", "multi")):
        status, _, err = run("train", "images", flag, value)
        assert (status, f"{flag} does not go with a folder of photos" in err) == (2, True), err


def test_records_of_others_stay(here: Path, run: Run) -> None:
    other = here / "model" / "images-records" / "images_train.rec"
    other.parent.mkdir(parents=True)
    other.write_bytes(b"mine")
    status, _, err = run("train", "images")
    assert (status, "were not made of a folder of photos" in err) == (2, True), err
    assert other.read_bytes() == b"mine"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="missing pipes with names: a POSIX system")
def test_what_cannot_be_read_is_left_out_and_counted(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.jpg", "b.png", "c.jpg"):
        (here / "images/ant" / name).write_text("none")
    os.mkfifo(here / "images/bee/pipe.jpg")
    (here / "images/cat/away.jpg").symlink_to(here / "nowhere")
    with (here / "images/cat/huge.jpg").open("wb") as file:
        file.truncate(2 << 30)
    assert cv2.imwrite("images/cat/dot.png", np.zeros((1, 1, 3), np.uint8))
    assert cv2.imwrite("images/cat/line.png", np.zeros((1, 3000, 3), np.uint8))
    (here / "images/dog").mkdir()
    (here / "images/dog/a.gif").write_text("none")
    found = look_at(here / "images", held_out, 0)
    err = capsys.readouterr().err
    assert (len(found.train), len(found.validation), list(found.classes.images_of)) == (19, 5, ["ant", "bee", "cat"])
    assert "7 pictures of" in err
    assert "cannot be read and are left out (5 .jpg, 1 .png, 1 .gif)" in err
    assert "2 pictures of" in err
    assert "have fewer than 8 rows or columns" in err
    assert "1 class has no picture left and is none any more, such as dog" in err


def test_a_copy_across_a_split_that_lies_there_is_told(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for part in ("Train", "VAL"):
        shutil.copytree("images", f"ready/{part}")
    for path in Path("ready").rglob("*.jpg"):
        if (int(path.stem) % 2 == 0) == (path.parts[1] == "VAL"):
            path.unlink()
    found = look_at(Path("ready"), held_out, 0)
    assert (len(found.train), len(found.validation)) == (12, 12)
    assert "look like" not in capsys.readouterr().err
    shutil.copy("images/ant/000.jpg", "ready/VAL/ant/again.jpg")
    look_at(Path("ready"), held_out, 0)
    err = capsys.readouterr().err
    assert "1 of those to validate with looks like one to train on: the errors on it say little; remove it" in err
    assert "alike: VAL/ant/again.jpg and Train/ant/000.jpg" in err


@pytest.mark.parametrize("orientation", [1, 6])
def test_heic_is_read_upright(orientation: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if not heif.available():
        pytest.skip("missing pillow-heif: pip install -e '.[photos]'")
    import pillow_heif
    from PIL import Image

    pillow_heif.register_heif_opener()
    pixels, exif = picture(1, 48, 64), Image.Exif()
    exif[0x112] = orientation
    Image.fromarray(pixels).save(tmp_path / "a.heic", exif=exif.tobytes(), quality=95)
    data = (tmp_path / "a.heic").read_bytes()
    found, wanted = read_upright(data, 0), pixels if orientation == 1 else np.rot90(pixels, -1)
    assert found.shape == wanted.shape
    assert np.abs(found.astype(int) - wanted).mean() < 6
    with pytest.raises(ValueError, match="pixels, more than"):
        monkeypatch.setattr("resnet_v2.packing.photos.MAX_PIXELS", 1000)
        read_upright(data, 0)
    for end in (30, len(data) // 2):
        with pytest.raises(ValueError, match=r"\w"):
            read_upright(data[:end], 0)


def test_heic_without_its_reader_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)
    with pytest.raises(ValueError, match=r"pip install -e '\.\[photos\]'"):
        read_upright(b"\0\0\0\x18ftypheic" + bytes(100), 0)


def test_notes_that_cannot_be_read_are_none(tmp_path: Path) -> None:
    for text in ("", "[]", "{}", "null", json.dumps({"version": 1, "facts": []}), json.dumps({"version": 0})):
        (tmp_path / photos.NOTES).write_text(text)
        assert photos._read_notes(tmp_path) == {}


def test_a_folder_that_cannot_be_written_is_told(here: Path, run: Run) -> None:
    Path("model").write_text("a file")
    status, _, err = run("train", "images")
    assert status == 2, err
    assert isinstance(ResnetError(err), ResnetError)
