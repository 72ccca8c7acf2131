"""Lists as im2rec reads them, lists in chunks, and what `list`, `data`, `pack` and `verify --repair` may replace."""

import os
import shutil
from pathlib import Path

import pytest

from conftest import Run
from resnet_v2.data.lists import ListEntry, read_lines, read_list, read_synset
from resnet_v2.data.records import RecordReader
from resnet_v2.data.sidecar import FORMS
from resnet_v2.errors import ResnetError
from resnet_v2.packing.replaced import refuse_to_replace

TWO = [ListEntry(5, (0.0,), "ant/000.jpg"), ListEntry(6, (1.0,), "b c/x y.jpg")]


@pytest.mark.parametrize(
    "text",
    [
        "5\t0\tant/000.jpg\n6\t1\tb c/x y.jpg\n",
        "5\t0\tant/000.jpg\t\n6\t1\tb c/x y.jpg\t\n",
        "5\t0\tant/000.jpg \n6\t1\tb c/x y.jpg  \n",
        "5 0\tant/000.jpg\n6 1\tb c/x y.jpg\n",
        "5\t0 ant/000.jpg\n6\t1 b c/x y.jpg\n",
        "5 \t 0 \t ant/000.jpg\n6 \t 1 \t b c/x y.jpg\n",
        " 5  0  ant/000.jpg\n\t6  1  b c/x y.jpg\n",
        "\ufeff5\t0\tant/000.jpg\n6\t1\tb c/x y.jpg\n",
        "5\t0\tant/000.jpg\n\ufeff6\t1\tb c/x y.jpg\n",  # lists that were joined
        "5\t0\tant/000.jpg\r\n6\t1\tb c/x y.jpg\r\n",
        "5\t0\tant/000.jpg\r6\t1\tb c/x y.jpg\r",
        "5\t0\tant/000.jpg\n \t\n\n6\t1\tb c/x y.jpg",
        "5\t0.000000\tant/000.jpg\n+6\t1e0\tb c/x y.jpg\n",
    ],
)
def test_lists_that_im2rec_reads(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.lst").write_bytes(text.encode())
    assert list(read_list(tmp_path / "a.lst")) == TWO
    assert list(read_lines(tmp_path / "a.lst", label_width=1)) == TWO


@pytest.mark.parametrize("text", ["7 1 0.5 b c/x y.jpg", "7\t1\t0.5\tb c/x y.jpg", "7 1\t0.5 b c/x y.jpg"])
def test_several_labels_are_as_many_as_label_width_says(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.lst").write_text(text)
    assert list(read_lines(tmp_path / "a.lst", label_width=2)) == [ListEntry(7, (1.0, 0.5), "b c/x y.jpg")]
    one, three = (next(read_lines(tmp_path / "a.lst", label_width=width)) for width in (1, 3))
    assert isinstance(three, ResnetError)
    if "\t1\t" in text:  # white space could be in the path
        assert "line 1 has 2 labels, and `label_width` is 1; mend one of them" in str(one)


@pytest.mark.parametrize("mark", ["utf-16", "utf-16-le", "utf-16-be"])
def test_a_list_in_utf16_is_named(tmp_path: Path, class_folder: Path, run: Run, mark: str) -> None:
    text = "5\t0\tant/000.jpg\n"
    (tmp_path / "a.lst").write_bytes(("" if mark == "utf-16" else "\ufeff").encode(mark) + text.encode(mark))
    status, _, err = run("pack", tmp_path / "a.lst", class_folder, tmp_path / "a.rec")
    assert (status, err) == (2, f"resnet-v2: {tmp_path / 'a.lst'} is a text in UTF-16; save it as UTF-8.\n")


BAD_LINES = [
    *("37\tx\tbee/001.jpg", "37\tbee/001.jpg", "bee/001.jpg", "37\tnan\tbee/001.jpg", "37\tinf\tbee/001.jpg"),
    *("37\t-inf\tbee/001.jpg", "37\t1e39\tbee/001.jpg", "-3\t1\tbee/001.jpg", "3.5\t1\tbee/001.jpg", "37\t1\t\t"),
    *("37\t\t1\tbee/001.jpg", "37 nan bee/001.jpg", "9223372036854775808\t1\tbee/001.jpg"),
]


@pytest.mark.parametrize("line", BAD_LINES)
def test_a_bad_line_is_skipped_by_name(tmp_path: Path, class_folder: Path, run: Run, line: str) -> None:
    good = [f"{n}\t{n % 2}\tant/{n:03d}.jpg\n" for n in range(9)]
    (tmp_path / "a.lst").write_text("".join([*good[:4], line + "\n", *good[4:]]))
    command = ("pack", tmp_path / "a.lst", class_folder)
    status, out, err = run(*command, tmp_path / "a.rec")
    assert (status, "9 images packed, 1 skipped" in out) == (0, True), err
    assert f"skipped: {tmp_path / 'a.lst'}, line 5: " in err
    assert RecordReader(tmp_path / "a.rec").keys.tolist() == list(range(9))
    assert run("verify", tmp_path / "a.rec")[0] == 0  # the list beside it has a line that is no record's
    status, _, err = run(*command, tmp_path / "b.rec", "--on-error", "stop")
    assert (status, err.count("resnet-v2: "), "a.lst, line 5" in err) == (2, 1, True)
    assert not list(tmp_path.glob("*b.*"))


def test_a_list_of_bad_lines_is_refused(tmp_path: Path, class_folder: Path, run: Run) -> None:
    (tmp_path / "a.lst").write_text("path,label\nant/000.jpg,0\nant/001.jpg,0\n")
    status, _, err = run("pack", tmp_path / "a.lst", class_folder, tmp_path / "a.rec")
    assert (status, "a.lst, line 1: 'path,label' is not index, label and path" in err) == (2, True)
    assert not list(tmp_path.glob("*a.rec*"))


def test_lines_of_one_index_are_told(tmp_path: Path, class_folder: Path, run: Run) -> None:
    (tmp_path / "a.lst").write_text("".join(f"{n // 2}\t{n % 2}\tant/{n:03d}.jpg\n" for n in range(6)))
    status, out, err = run("pack", tmp_path / "a.lst", class_folder, tmp_path / "a.rec")
    assert (status, "6 images packed" in out) == (0, True)
    assert "3 lines of" in err and "have the index of another one" in err


def test_paths_from_the_slash_are_below_the_root(tmp_path: Path, class_folder: Path, run: Run) -> None:
    lines = f"0\t0\t/ant/000.jpg\n1\t1\t//ant/001.jpg\n2\t0\t{class_folder}/ant/002.jpg\n3\t0\tant/003.jpg\n"
    (tmp_path / "a.lst").write_text(lines)  # im2rec.cc puts the root before a path without a slash of its own
    assert run("pack", tmp_path / "a.lst", class_folder, tmp_path / "a.rec", "--on-error", "stop")[0] == 0
    assert run("pack", tmp_path / "a.lst", f"{class_folder}/", tmp_path / "b.rec", "--on-error", "stop")[0] == 0
    assert (tmp_path / "a.rec").read_bytes() == (tmp_path / "b.rec").read_bytes()


def test_chunks_are_the_list_in_pieces(class_folder: Path, tmp_path: Path, run: Run) -> None:
    words = ("list", class_folder, "--val-ratio", 0.25, "--seed", 3)
    (tmp_path / "one").mkdir()
    assert run(*words, tmp_path / "one" / "a")[0] == 0
    status, out, err = run(*words, tmp_path / "a", "--chunks", 4)
    assert (status, "warning" in err) == (0, False)
    assert f"{tmp_path}/a_0 to _3_train.lst: 18 images of 3 classes" in out
    for part in ("train", "val"):
        pieces = [list(read_list(tmp_path / f"a_{number}_{part}.lst")) for number in range(4)]
        assert max(map(len, pieces)) - min(map(len, pieces)) <= 1
        whole = list(read_list(tmp_path / "one" / f"a_{part}.lst"))
        assert [entry for piece in pieces for entry in piece] == whole
        assert [entry.index for entry in whole] == list(range(len(whole)))
    assert len(list(tmp_path.glob("*.lst"))) == 8
    status, _, err = run(*words, tmp_path / "b", "--chunks", 7)
    assert (status, "--chunks is 7, more than the 6 images of a list" in err) == (2, True)
    assert not list(tmp_path.glob("b_*"))


def test_lists_of_an_earlier_run_are_told(class_folder: Path, tmp_path: Path, run: Run) -> None:
    assert run("list", class_folder, tmp_path / "a", "--val-ratio", 0.25)[0] == 0
    shutil.copy(tmp_path / "a_val.lst", tmp_path / "ab_val.lst")
    shutil.copy(tmp_path / "a_val.lst", tmp_path / "a_3_val.lst")
    (tmp_path / "a_4_val.lst").write_text("0\t0\tanother.jpg\n")
    status, _, err = run("list", class_folder, tmp_path / "a")
    assert (status, err.count("is of an earlier run and stays")) == (0, 2)
    assert "a_val.lst is of" in err and "a_3_val.lst is of" in err


def test_a_synset_of_other_classes_stays(class_folder: Path, tmp_path: Path, run: Run) -> None:
    synset = tmp_path / "synset.txt"
    synset.write_text("dog\nhorse\n")
    status, _, err = run("list", class_folder, tmp_path / "a")
    assert (status, f"{synset} is there, and its class 0 is dog, not ant: give another folder" in err) == (2, True)
    assert (synset.read_text(), list(tmp_path.glob("*.lst"))) == ("dog\nhorse\n", [])
    synset.unlink()
    assert run("list", class_folder, tmp_path / "a")[0] == 0
    assert run("list", class_folder, tmp_path / "b")[0] == 0  # of the same classes
    shutil.copytree(class_folder / "ant", class_folder / "cow")
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.*")}
    status, _, err = run("list", class_folder, tmp_path / "a")
    assert (status, "its class 3 is nothing, not cow; b_train.lst beside it goes by it" in err) == (2, True)
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.*")} == before
    (tmp_path / "b_train.lst").unlink()
    status, _, err = run("list", class_folder, tmp_path / "a")  # all that went by it is made anew
    assert (status, "not cow; it is replaced" in err) == (0, True)
    assert read_synset(synset) == ("ant", "bee", "cat", "cow")


def test_data_keeps_a_synset_that_others_go_by(class_folder: Path, tmp_path: Path, run: Run) -> None:
    out = tmp_path / "out"
    words = ("data", class_folder, "--out", out, "--val-ratio", 0.25)
    assert run(*words)[0] == 0
    shutil.copytree(class_folder / "ant", class_folder / "cow")
    status, _, err = run(*words)
    assert (status, "class 3 is nothing, not cow; it is replaced" in err) == (0, True)
    shutil.copy(out / "out_val.rec", out / "mine.rec")
    shutil.rmtree(class_folder / "ant")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    status, _, err = run(*words)
    assert (status, "its class 0 is ant, not bee; mine.rec beside it goes by it" in err) == (2, True)
    status, _, err = run("data", "digits", "--out", out)
    assert (status, "its class 0 is ant, not 0; mine.rec beside it goes by it" in err) == (2, True)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_data_that_was_killed_goes_on_beside_its_old_classes(class_folder: Path, tmp_path: Path, run: Run) -> None:
    words = ("data", class_folder, "--out", tmp_path / "out", "--val-ratio", 0.25)
    assert run(*words)[0] == 0
    shutil.copytree(class_folder / "ant", class_folder / "cow")
    for path in (tmp_path / "out").glob("out_*"):  # what a run that is killed while it moves its files has done
        path.unlink()
    status, _, err = run(*words)
    assert (status, "not cow: give another folder, or remove synset.txt" in err) == (2, True)
    (tmp_path / "out" / ".records.part").mkdir()
    (tmp_path / "out" / ".records.part" / "out_val.lst").touch()
    status, _, err = run(*words)
    assert (status, "not cow; it is replaced" in err) == (0, True)
    assert read_synset(tmp_path / "out" / "synset.txt") == ("ant", "bee", "cat", "cow")


@pytest.fixture
def lists(class_folder: Path, tmp_path: Path, run: Run) -> Path:
    assert run("list", class_folder, tmp_path / "a")[0] == 0
    return tmp_path / "a_train.lst"


def test_a_folder_is_no_record(lists: Path, class_folder: Path, run: Run) -> None:
    (lists.parent / "d.rec").mkdir()
    (lists.parent / "e.idx").mkdir()
    before = sorted(lists.parent.iterdir())
    for name in ("d.rec", "e.rec", "images"):
        status, out, err = run("pack", lists, class_folder, lists.parent / name)
        assert (status, "is not written: it is a folder" in err, out) == (2, True, "")
        assert "img/s" not in err  # nothing is packed before
    status, _, err = run("pack", lists, class_folder, f"{lists.parent}/images/")
    assert (status, "is a folder; add a name" in err) == (2, True)
    assert sorted(lists.parent.iterdir()) == before


def test_what_is_read_is_not_written_over(lists: Path, class_folder: Path, run: Run) -> None:
    before, picture = lists.read_bytes(), class_folder / "ant" / "000.jpg"
    (lists.parent / "link.rec").symlink_to(lists)
    os.link(lists, lists.parent / "hard.rec")
    shutil.copy(lists, lists.parent / "b.idx")
    for name in ("a_train.lst", "link.rec", "hard.rec"):
        status, _, err = run("pack", lists, class_folder, lists.parent / name)
        assert (status, "would be overwritten, and it is to be read" in err) == (2, True), name
    status, _, err = run("pack", lists.parent / "b.idx", class_folder, lists.parent / "b.rec")
    assert (status, "b.idx would be overwritten, and it is to be read" in err) == (2, True)
    content = picture.read_bytes()
    status, _, err = run("pack", lists, class_folder, picture)
    assert (status, "000.jpg is there and is no record" in err) == (2, True)
    assert (lists.read_bytes(), picture.read_bytes()) == (before, content)
    assert len(list(class_folder.rglob("*.*"))) == 24


def test_other_files_of_the_names_beside_a_record_stay(lists: Path, class_folder: Path, run: Run) -> None:
    folder, command = lists.parent, ("pack", lists, class_folder)
    (folder / "a.idx").write_bytes(b"\0\0\x08\x03" * 9)  # such as Fashion-MNIST's
    (folder / "b.rows").write_text("my table")
    (folder / "c.idx").write_text("0\t0\n1\t400\n")
    (folder / "d.idx").touch()
    for name, sentence in (("a", "a.idx is there and is no index"), ("b", "b.rows is there and was not made")):
        status, _, err = run(*command, folder / f"{name}.rec")
        assert (status, sentence in err, (folder / f"{name}.rec").exists()) == (2, True, False)
    for name in ("c", "d"):  # what was left of an earlier record
        assert run(*command, folder / f"{name}.rec")[0] == 0
    assert run(*command, folder / "d.rec", "--quality", 80)[0] == 0  # and an earlier record
    if not (folder / "C.REC").exists():
        status, _, err = run(*command, folder / "c.REC")
        assert (status, f"c.idx is the index of {folder / 'c.rec'}" in err) == (2, True)
    status, _, err = run(*command, folder / "c")
    assert (status, f"c.idx is the index of {folder / 'c.rec'}" in err) == (2, True)


def test_a_repaired_record_replaces_no_other_file(lists: Path, class_folder: Path, run: Run) -> None:
    folder = lists.parent
    rec = folder / "a_train.rec"
    assert run("pack", lists, class_folder, rec)[0] == 0
    (folder / "mine.lst").write_text("mine")
    (folder / "b.rec").write_text("no record")
    (folder / "a_train.REC").touch()
    for name, sentence in (
        ("mine.rec", "mine.lst is there, and no record that it is of"),
        ("b.rec", "b.rec is there and is no record"),
    ):
        status, _, err = run("verify", rec, "--repair", folder / name)
        assert (status, sentence in err) == (2, True), err
    assert ((folder / "mine.lst").read_text(), (folder / "b.rec").read_text()) == ("mine", "no record")
    for _ in range(2):
        assert run("verify", rec, "--repair", folder / "new.rec")[0] == 0
    assert (folder / "new.lst").read_bytes() == lists.read_bytes()


@pytest.mark.parametrize("name", ["a.REC", "a.rec.part003", "a.Rec.part12"])
def test_records_of_other_endings_are_records(
    lists: Path, class_folder: Path, run: Run, trained: str, name: str
) -> None:
    rec = lists.parent / name
    assert run("pack", lists, class_folder, rec)[0] == 0
    status, out, _ = run("predict", "--img", rec, "--prefix", trained, "--gpus", "", "--format", "csv", "--top", 1)
    assert (status, out.count(f"{rec}#")) == (0, 24)
    assert run("verify", rec)[0] == 0


@pytest.mark.parametrize("magic", FORMS)
def test_side_files_of_all_versions_are_replaced_and_no_others(tmp_path: Path, magic: bytes) -> None:
    (tmp_path / "a.rows").write_bytes(magic + bytes(40))
    refuse_to_replace(tmp_path / "a.rec")
    (tmp_path / "a.rows").write_bytes(magic[::-1] + bytes(40))
    with pytest.raises(ResnetError, match=r"a\.rows is there and was not made for a record"):
        refuse_to_replace(tmp_path / "a.rec")
