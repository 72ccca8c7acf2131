"""Lists: labels, splits, shuffling, both dialects of `.lst`."""

import errno
import os
import re
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

from conftest import Run
from resnet_v2.config.packing import ListConfig
from resnet_v2.data import heif, lists
from resnet_v2.data.lists import ListEntry, is_sorted_by_class, read_list, read_synset, write_list, write_synset
from resnet_v2.errors import ResnetError
from resnet_v2.packing.class_folders import make_lists


def test_labels_follow_the_sorted_class_folders(class_folder: Path, tmp_path: Path) -> None:
    assert make_lists(ListConfig(class_folder, tmp_path / "out" / "a", val_per_class=2, seed=1)) == (3, 18, 6)
    train = list(read_list(tmp_path / "out" / "a_train.lst"))
    val = list(read_list(tmp_path / "out" / "a_val.lst"))
    names = read_synset(tmp_path / "out" / "synset.txt")
    assert names == ("ant", "bee", "cat")
    assert all(entry.path.split("/")[0] == names[int(entry.labels[0])] for entry in train + val)
    assert [sum(entry.labels == (label,) for entry in val) for label in range(3)] == [2, 2, 2]
    assert not {entry.path for entry in train} & {entry.path for entry in val}
    assert {entry.path for entry in train + val} == {
        path.relative_to(class_folder).as_posix() for path in class_folder.rglob("*.jpg")
    }
    assert [entry.index for entry in train] == list(range(18))


def test_a_list_of_one_class_is_made_and_told_of(
    class_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_lists(ListConfig(class_folder, tmp_path / "all"))
    assert "one class" not in capsys.readouterr().err
    for name in ("bee", "cat"):
        shutil.rmtree(class_folder / name)
    assert make_lists(ListConfig(class_folder, tmp_path / "one" / "a"))[0] == 1
    assert f"warning: {class_folder} has one class, ant, and a network tells at least two" in capsys.readouterr().err


def test_lists_are_shuffled_by_the_seed(class_folder: Path, tmp_path: Path) -> None:
    texts = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        make_lists(ListConfig(class_folder, tmp_path / name, val_ratio=0.25, seed=seed))
        texts.append((tmp_path / f"{name}_train.lst").read_text())
    assert texts[0] == texts[1] != texts[2]
    labels = np.array([entry.labels[0] for entry in read_list(tmp_path / "a_train.lst")])
    assert not is_sorted_by_class(labels)


def test_without_options_nothing_is_held_out(class_folder: Path, tmp_path: Path) -> None:
    assert make_lists(ListConfig(class_folder, tmp_path / "a")) == (3, 24, 0)
    assert not (tmp_path / "a_val.lst").exists()


def test_train_and_test_folders_are_the_split(class_folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    class_folder.rename(root / "train")
    (root / "test" / "bee").mkdir(parents=True)
    (root / "train" / "bee" / "000.jpg").rename(root / "test" / "bee" / "000.jpg")
    assert make_lists(ListConfig(root, tmp_path / "a")) == (3, 23, 1)
    assert list(read_list(tmp_path / "a_val.lst")) == [ListEntry(0, (1.0,), "test/bee/000.jpg")]
    with pytest.raises(ResnetError, match="is split already, into train and test"):
        make_lists(ListConfig(root, tmp_path / "a", val_ratio=0.1))


@pytest.mark.parametrize(
    ("names", "lists"), [("Train Val", "Val"), ("training validation", "validation"), ("train val test", "val")]
)
def test_a_split_is_known_by_its_folders(
    class_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], names: str, lists: str
) -> None:
    for name in names.split():
        shutil.copytree(class_folder, tmp_path / "root" / name)
    (tmp_path / "root" / "notes").mkdir()
    assert make_lists(ListConfig(tmp_path / "root", tmp_path / "a"), unless_split=0.25) == (3, 24, 24)
    assert {entry.path.split("/")[0] for entry in read_list(tmp_path / "a_val.lst")} == {lists}
    assert ("test is left out" in capsys.readouterr().err) == ("test" in names)


def test_a_folder_beside_a_split_is_refused(class_folder: Path, tmp_path: Path) -> None:
    for name in ("train", "val", "more"):
        shutil.copytree(class_folder, tmp_path / "root" / name)
    with pytest.raises(ResnetError, match="a split into two, and more beside them"):
        make_lists(ListConfig(tmp_path / "root", tmp_path / "a"))
    for name, animal in (("train", "ant"), ("val", "bee")):  # classes of these names hold images, not folders
        shutil.rmtree(tmp_path / "root" / name)
        (class_folder / animal).rename(tmp_path / "root" / name)
    assert make_lists(ListConfig(tmp_path / "root", tmp_path / "a"))[0] == 5


@pytest.mark.parametrize(
    ("names", "given"),
    [("train dev", ""), ("Train_set Test_set", ""), ("a/train a/val", "a"), ("b/c/training b/c/x", "b/c")],
)
def test_a_split_that_is_none_by_its_names_is_no_classes(
    class_folder: Path, tmp_path: Path, names: str, given: str
) -> None:
    for name in names.split():
        shutil.copytree(class_folder, tmp_path / "root" / name)
    call = "" if given == "a" else "call its folders train and val"
    give = f"give {re.escape(str(tmp_path / 'root' / given))} in place of" if given else ""
    wanted = " and ".join(part for part in (call, give) if part)
    with pytest.raises(ResnetError, match=f"looks like a split; {wanted}"):
        make_lists(ListConfig(tmp_path / "root", tmp_path / "a"), unless_split=0.25)
    assert not list(tmp_path.glob("a*"))
    for name in names.split():
        shutil.rmtree(tmp_path / "root" / name)
    for name in ("trains", "trainers"):
        shutil.copytree(class_folder, tmp_path / "root" / name)
    assert make_lists(ListConfig(tmp_path / "root", tmp_path / "a"))[0] == 6


def test_the_same_classes_in_folders_that_are_no_split(class_folder: Path, tmp_path: Path) -> None:
    for name in ("left", "right"):
        shutil.copytree(class_folder, tmp_path / "root" / name)
    shutil.copytree(class_folder / "ant", tmp_path / "root" / "trains" / "old")
    assert make_lists(ListConfig(tmp_path / "root", tmp_path / "a"))[0] == 7


@pytest.mark.parametrize("names", [("caf\u00e9", "cafe\u0301"), ("Cat", "cat")])
def test_one_name_in_two_spellings_is_told(
    class_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], names: tuple[str, str]
) -> None:
    shutil.rmtree(class_folder / "cat")
    assert make_lists(ListConfig(class_folder, tmp_path / "a"))[0] == 2
    assert "two classes" not in capsys.readouterr().err
    for name in names:
        shutil.copytree(class_folder / "ant", class_folder / name)
    if len(list(class_folder.iterdir())) < 4:
        pytest.skip("missing two names that differ in spelling: a file system that tells them apart")
    assert make_lists(ListConfig(class_folder, tmp_path / "a"))[0] == 4
    first, second = sorted(names)
    assert f"{first!a} and {second!a} are taken for two classes" in capsys.readouterr().err


def test_classes_without_images_for_validation_are_told(
    class_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert make_lists(ListConfig(class_folder, tmp_path / "a", val_ratio=0.1)) == (3, 22, 2)  # 1 of 12, 1 of 8, 0 of 4
    assert "1 of 3 classes has no image for validation, such as cat" in capsys.readouterr().err
    for settings in (
        ListConfig(class_folder, tmp_path / "a", val_ratio=0.25),
        ListConfig(class_folder, tmp_path / "a"),
    ):
        make_lists(settings)
        assert "for validation" not in capsys.readouterr().err


def test_hidden_folders_are_no_classes(class_folder: Path, tmp_path: Path) -> None:
    for name in (".git", "ant/.thumbnails", "__MACOSX/ant"):
        (class_folder / name).mkdir(parents=True)
        shutil.copy(class_folder / "ant" / "000.jpg", class_folder / name / "x.jpg")
    shutil.copy(class_folder / "ant" / "000.jpg", class_folder / "ant" / "._000.jpg")
    assert make_lists(ListConfig(class_folder, tmp_path / "a")) == (3, 24, 0)
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(class_folder, ".")
    assert make_lists(ListConfig(tmp_path / "a.tar", tmp_path / "b")) == (3, 24, 0)
    assert (tmp_path / "a_train.lst").read_bytes() == (tmp_path / "b_train.lst").read_bytes()


def test_what_is_left_out_is_told(
    class_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heif, "available", lambda: False)
    for name in ("a.JFIF", "b.Tiff", "c.GIF", "d.heic", "e.heic", "f"):
        (class_folder / "ant" / name).touch()
    (class_folder / "none").mkdir()
    (class_folder / "stray.jpg").touch()
    assert make_lists(ListConfig(class_folder, tmp_path / "a")) == (3, 27, 0)
    err = capsys.readouterr().err
    assert "3 files that are not taken for images (2 .heic, 1 without an ending)" in err
    assert f"{class_folder / 'none'} holds no images" in err
    assert f"1 image in {class_folder} itself is in no class and left out" in err
    assert "install it with pip install -e '.[photos]'" in err
    monkeypatch.setattr(heif, "available", lambda: True)
    assert make_lists(ListConfig(class_folder, tmp_path / "b")) == (3, 29, 0)
    err = capsys.readouterr().err
    assert f"{class_folder} holds a file that is not taken for an image (1 without an ending)" in err


def test_the_order_of_im2rec_is_told(class_folder: Path, tmp_path: Path, run: Run) -> None:
    status, _, err = run("list", "--list", "--recursive", tmp_path / "a", class_folder)
    assert (status, err.count("\n")) == (2, 1)
    assert f"{tmp_path}/a is not there, and {class_folder} is a folder: give the folder first, then the prefix." in err


@pytest.mark.parametrize("name", ["b\u2028c", "b\x85c", "b\x0cc", "\u3000", "b\udcff", "b\nc", "b\rc", "b\tc", " b"])
def test_names_that_fit_no_list_are_refused(class_folder: Path, tmp_path: Path, name: str) -> None:
    (class_folder / "bee").rename(class_folder / name)
    with pytest.raises(ResnetError, match=r"rename it|rename its folder"):
        make_lists(ListConfig(class_folder, tmp_path / "out" / "a"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["b\u2028c.jpg", "b\x85c.jpg", "b\nc.jpg", "b\rc.jpg", "b\tc.jpg", " b.jpg"])
def test_files_whose_names_fit_no_list_are_refused(class_folder: Path, tmp_path: Path, name: str) -> None:
    (class_folder / "bee" / "000.jpg").rename(class_folder / "bee" / name)
    with pytest.raises(ResnetError, match="rename it"):
        make_lists(ListConfig(class_folder, tmp_path / "out" / "a"))
    assert not (tmp_path / "out").exists()


def test_small_classes_can_be_left_out(class_folder: Path, tmp_path: Path) -> None:
    assert make_lists(ListConfig(class_folder, tmp_path / "a", min_images=8)) == (2, 20, 0)
    assert read_synset(tmp_path / "synset.txt") == ("ant", "bee")
    with pytest.raises(ResnetError, match="largest has 12"):
        make_lists(ListConfig(class_folder, tmp_path / "a", min_images=13))


def test_a_class_keeps_an_image_to_train_on(class_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ResnetError, match="Class cat has 4 images, too few to hold out 4"):
        make_lists(ListConfig(class_folder, tmp_path / "a", val_per_class=4))
    with pytest.raises(ResnetError, match="too few to hold out"):
        make_lists(ListConfig(class_folder, tmp_path / "a", val_ratio=0.99))


def test_both_dialects_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.lst"
    path.write_text("5\t1.000000\tdir/with space.jpg\n\n6 2 other dir/b.jpg\r\n7\t1\t0.5\tc.jpg\n")
    assert list(read_list(path)) == [
        ListEntry(5, (1.0,), "dir/with space.jpg"),
        ListEntry(6, (2.0,), "other dir/b.jpg"),
        ListEntry(7, (1.0, 0.5), "c.jpg"),
    ]


def test_class_names_come_back(tmp_path: Path) -> None:
    (tmp_path / "synset.txt").write_bytes("a\u2028b\r\nc\x0bd\r\n".encode())
    assert read_synset(tmp_path / "synset.txt") == ("a\u2028b", "c\x0bd")
    with pytest.raises(ResnetError, match="rename"):
        write_synset(tmp_path / "synset.txt", ["a\u2028b"])


def test_lists_come_back(tmp_path: Path) -> None:
    entries = [ListEntry(3, (1.0,), "é ü/a.jpg"), ListEntry(4, (0.0, 2.0), "b.jpg")]
    write_list(tmp_path / "a.lst", entries)
    assert list(read_list(tmp_path / "a.lst")) == entries


@pytest.mark.parametrize(
    "line",
    [
        *("1\ta.jpg", "x\t1\ta.jpg", "1\tone\ta.jpg", "a.jpg", "-1\t1\ta.jpg", f"{1 << 64}\t1\ta.jpg"),
        *("1\t1e39\ta.jpg", "1\t0\t-3.5e38\ta.jpg", f"{'9' * 5000}\t1\ta.jpg"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "a.lst").write_text(f"0\t0\tok.jpg\n{line}\n")
    with pytest.raises(ResnetError, match=r"a\.lst, line 2"):
        list(read_list(tmp_path / "a.lst"))


def test_missing_and_empty_places(tmp_path: Path) -> None:
    with pytest.raises(ResnetError, match="is no folder"):
        make_lists(ListConfig(tmp_path / "none", tmp_path / "a"))
    (tmp_path / "empty" / "cat").mkdir(parents=True)
    with pytest.raises(ResnetError, match="no class folders"):
        make_lists(ListConfig(tmp_path / "empty", tmp_path / "a"))
    (tmp_path / "synset.txt").write_text("\n")
    with pytest.raises(ResnetError, match="is empty"):
        read_synset(tmp_path / "synset.txt")
    (tmp_path / "synset.txt").write_bytes(b"\x89PNG\0\0")
    with pytest.raises(ResnetError, match=r"synset\.txt is no text"):
        read_synset(tmp_path / "synset.txt")
    (tmp_path / "synset.txt").write_text("a\n" * 2_000_001)
    with pytest.raises(ResnetError, match="more than a network can have classes"):
        read_synset(tmp_path / "synset.txt")


def test_sorted_lists_are_recognised() -> None:
    assert is_sorted_by_class(np.repeat(np.arange(10), 20))
    assert not is_sorted_by_class(np.random.default_rng(0).permutation(np.repeat(np.arange(10), 20)))
    assert not is_sorted_by_class(np.zeros(20))
    assert not is_sorted_by_class(np.arange(20))


def test_a_line_without_an_end_is_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lists, "LONGEST_LINE", 100)
    path = tmp_path / "a.lst"
    path.write_text("0\t1\ta.jpg\n1\t1\t" + 96 * "b" + "\n")
    with pytest.raises(ResnetError, match="line 2 is longer than any line of a list"):
        list(read_list(path))
    path.write_text("0\t1\t" + 95 * "b" + "\n1\t1\ta.jpg\n")  # 100 characters with its end
    assert [len(entry.path) for entry in read_list(path)] == [95, 5]


@pytest.mark.parametrize("line", ["-5\t0\ta.jpg", f"{10**25}\t0\ta.jpg", "0\tnan\ta.jpg", "0\t0\t1e400\ta.jpg"])
def test_numbers_that_no_record_holds_are_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "a.lst").write_text(line + "\n")
    with pytest.raises(ResnetError, match="line 1"):
        list(read_list(tmp_path / "a.lst"))


def test_links_that_lead_back_are_followed_once(
    class_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, *_ = sorted(path.name for path in class_folder.iterdir())
    plain = make_lists(ListConfig(class_folder, tmp_path / "plain"))
    (class_folder / first / "up").symlink_to("..")
    (class_folder / second / "self").symlink_to(".")
    assert make_lists(ListConfig(class_folder, tmp_path / "linked")) == plain
    assert capsys.readouterr().err.count("leads back to a folder above it") == 2


def test_a_folder_that_cannot_be_read_is_refused(
    class_folder: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    scandir = os.scandir

    def refuse_bee(path: str) -> object:
        if str(path).endswith("bee"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse_bee)  # root reads whatever it wants
    status, _, err = run("list", class_folder, tmp_path / "a")
    assert status == 2
    assert "bee cannot be read (Permission denied); mend that, or take the folder away." in err
