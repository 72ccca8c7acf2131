"""Packing: order, sizes, threads, bad images, index repair; im2rec's words."""

import io
import os
import threading
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from conftest import Run, picture
from resnet_v2.config.packing import PackConfig
from resnet_v2.data.index import index_path, read_index
from resnet_v2.data.jpeg import decode
from resnet_v2.data.lists import read_list
from resnet_v2.data.records import RecordReader
from resnet_v2.data.sidecar import Rows, sidecar_path
from resnet_v2.errors import ResnetError
from resnet_v2.packing import resume
from resnet_v2.packing.pack import pack_list


@pytest.fixture
def lists(class_folder: Path, tmp_path: Path, run: Run) -> Path:
    assert run("list", class_folder, tmp_path / "a", "--val-per-class", 1)[0] == 0
    return tmp_path


def test_records_follow_the_list(lists: Path, class_folder: Path, run: Run) -> None:
    status, out, _ = run("pack", lists / "a_train.lst", class_folder, lists / "a.rec", "--store", "png")
    assert status == 0
    assert "21 images packed, 0 skipped" in out
    reader = RecordReader(lists / "a.rec")
    entries = list(read_list(lists / "a_train.lst"))
    assert reader.keys.tolist() == [entry.index for entry in entries]
    for ordinal, entry in enumerate(entries):
        header, data = reader.image(ordinal)
        assert (header.label, header.id, header.flag) == (entry.labels[0], entry.index, 0)
        assert np.array_equal(decode(data), decode((class_folder / entry.path).read_bytes()))


def test_bytes_do_not_depend_on_the_threads(lists: Path, class_folder: Path, run: Run) -> None:
    for threads in (1, 4):
        out = lists / f"{threads}.rec"
        assert run("pack", lists / "a_train.lst", class_folder, out, "--resize", 30, "--threads", threads)[0] == 0
    assert (lists / "1.rec").read_bytes() == (lists / "4.rec").read_bytes()


def test_im2rec_words(lists: Path, class_folder: Path, run: Run) -> None:
    assert run("pack", lists / "a_train.lst", class_folder, lists / "a.rec", "resize=30", "quality=50")[0] == 0
    assert run("pack", lists / "a_train.lst", class_folder, lists / "b.rec", "--resize", 30, "--quality", 95)[0] == 0
    _, small = RecordReader(lists / "a.rec").image(0)
    _, large = RecordReader(lists / "b.rec").image(0)
    assert min(decode(small).shape[:2]) == min(decode(large).shape[:2]) == 30
    assert PIL.Image.open(io.BytesIO(small)).format == "JPEG"
    assert len(small) < len(large)


@pytest.mark.parametrize(
    ("words", "flag", "labels"),
    [
        ([], 0, [1]),
        (["label_width=2"], 0, [1]),
        (["label_width=2", "pack_label=1"], 2, [1, 0.25]),
        (["--pack-label"], 2, [1, 0.25]),
        (["--pack-label", "1"], 2, [1, 0.25]),
        (["--label-width", "2", "pack_label=0"], 0, [1]),
    ],
)
def test_of_several_labels_the_first_is_packed_unless_all_are_wanted(
    class_folder: Path, tmp_path: Path, run: Run, words: list[str], flag: int, labels: list[float]
) -> None:
    (tmp_path / "a.lst").write_text("0\t1\t0.25\tant/000.jpg\n")
    assert run("pack", tmp_path / "a.lst", class_folder, tmp_path / "a.rec", *words)[0] == 0
    header, _ = RecordReader(tmp_path / "a.rec").image(0)
    assert (header.flag, np.ravel(header.label).tolist()) == (flag, labels)
    (tmp_path / "a.lst").rename(tmp_path / "b.lst")  # the .lst beside it says no other labels
    assert run("verify", tmp_path / "a.rec")[0] == 0
    (tmp_path / "b.lst").rename(tmp_path / "a.lst")
    assert run("verify", tmp_path / "a.rec")[0] == 0


def test_bad_images_are_named_counted_and_skipped(lists: Path, class_folder: Path, run: Run) -> None:
    entries = list(read_list(lists / "a_train.lst"))
    bad = class_folder / entries[5].path
    bad.write_bytes(bad.read_bytes()[:300])
    status, out, err = run("pack", lists / "a_train.lst", class_folder, lists / "a.rec")
    assert status == 0
    assert "20 images packed, 1 skipped" in out
    assert str(bad) in err
    assert 5 not in RecordReader(lists / "a.rec").keys


def test_bad_images_can_stop_the_run(lists: Path, class_folder: Path, run: Run) -> None:
    (class_folder / next(read_list(lists / "a_train.lst")).path).unlink()
    status, _, err = run("pack", lists / "a_train.lst", class_folder, lists / "a.rec", "--on-error", "stop")
    assert status == 2
    assert "cannot be read" in err.strip().splitlines()[-1]
    assert not list(lists.glob("*.rec*")) + list(lists.glob(".*tmp"))


def test_a_stopped_run_leaves_no_thread_behind(lists: Path, class_folder: Path) -> None:
    # A pool that the garbage collector had to close joined its threads inside the start of another, and hung there.
    (class_folder / next(read_list(lists / "a_train.lst")).path).unlink()
    with pytest.raises(ResnetError, match="cannot be read") as refused:
        pack_list(PackConfig(lists / "a_train.lst", class_folder, lists / "a.rec", on_error="stop"))
    assert refused.tb is not None  # the traceback, and with it every frame of the run, is alive
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("pack")]


def test_a_stopped_run_goes_on_when_the_image_is_mended(lists: Path, class_folder: Path, run: Run) -> None:
    bad = class_folder / list(read_list(lists / "a_train.lst"))[9].path
    command = ("pack", lists / "a_train.lst", class_folder)
    run(*command, lists / "whole.rec")
    data = bad.read_bytes()
    bad.write_bytes(b"no image")
    status, _, err = run(*command, lists / "a.rec", "--on-error", "stop")
    assert status == 2
    assert "9 images are done; the same command goes on there" in err
    assert not (lists / "a.rec").exists()
    bad.write_bytes(data)
    status, out, err = run(*command, lists / "a.rec", "--on-error", "stop")
    assert status == 0
    assert "going on after 9 images" in err
    assert "21 images packed" in out
    assert (lists / "a.rec").read_bytes() == (lists / "whole.rec").read_bytes()


def test_nothing_readable_is_an_error(lists: Path, tmp_path: Path, run: Run) -> None:
    status, _, err = run("pack", lists / "a_train.lst", tmp_path / "elsewhere", lists / "a.rec")
    assert status == 2
    assert "None of 21 images could be read" in err
    assert not list(lists.glob("*a.rec*")) + list(lists.glob("*.idx*"))


@pytest.mark.parametrize(("text", "warning"), [("sorted", "sorted by class"), ("same", "all 24 labels")])
def test_lists_that_ruin_training_are_warned_of(
    class_folder: Path, tmp_path: Path, run: Run, text: str, warning: str
) -> None:
    paths = sorted(path.relative_to(class_folder).as_posix() for path in class_folder.rglob("*.jpg"))
    labels = [("ant", "bee", "cat").index(path[:3]) if text == "sorted" else 0 for path in paths]
    lines = [f"{index}\t{label}\t{path}\n" for index, (label, path) in enumerate(zip(labels, paths, strict=True))]
    (tmp_path / "train.lst").write_text("".join(lines))
    status, _, err = run("pack", tmp_path / "train.lst", class_folder, tmp_path / "a.rec")
    assert status == 0
    assert warning in err


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_a_pipe_is_not_replaced(lists: Path, class_folder: Path, tmp_path: Path, run: Run) -> None:
    os.mkfifo(tmp_path / "pipe.rec")
    before = sorted(tmp_path.iterdir())
    status, _, err = run("pack", lists / "a_train.lst", class_folder, tmp_path / "pipe.rec")
    assert (status, "pipe.rec is not written: it is a folder, a pipe or a device" in err) == (2, True), err
    assert (tmp_path / "pipe.rec").is_fifo()
    assert sorted(tmp_path.iterdir()) == before


def test_empty_list(class_folder: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "a.lst").write_text("")
    status, _, err = run("pack", tmp_path / "a.lst", class_folder, tmp_path / "a.rec")
    assert status == 2
    assert "is empty" in err


def test_index_is_made_again(lists: Path, class_folder: Path, run: Run) -> None:
    run("pack", lists / "a_train.lst", class_folder, lists / "a.rec")
    before = read_index(lists / "a.rec").tolist()
    index_path(lists / "a.rec").unlink()
    assert run("index", lists / "a.rec")[0] == 0
    assert read_index(lists / "a.rec").tolist() == before
    with (lists / "a.rec").open("rb+") as file:
        file.seek(before[3])
        file.write(b"\0\0\0\0")
    status, out, _ = run("index", lists / "a.rec")
    assert status == 0
    assert "20 records" in out
    assert "bytes are damaged" in out
    assert read_index(lists / "a.rec").tolist() == before[:3] + before[4:]


def test_an_index_elsewhere(lists: Path, class_folder: Path, tmp_path: Path, run: Run) -> None:
    run("pack", lists / "a_train.lst", class_folder, lists / "a.rec")
    whole = index_path(lists / "a.rec").read_bytes()
    for path in (index_path(lists / "a.rec"), lists / "a.rows"):
        path.unlink()
    before = sorted(lists.iterdir())
    status, out, _ = run("index", lists / "a.rec", "--out", tmp_path / "other" / "b.idx")
    assert (status, out) == (0, f"{tmp_path}/other/b.idx: 21 records\n")
    assert (tmp_path / "other" / "b.idx").read_bytes() == whole
    (tmp_path / "other" / "b.idx").unlink()
    (tmp_path / "other").rmdir()
    assert sorted(lists.iterdir()) == before
    for other, words in (
        ("a.rec", "a.rec must end with .idx."),
        ("a_train.lst", "a_train.lst must end with .idx"),
        ("x/", "x must end with .idx."),
    ):
        status, _, err = run("index", lists / "a.rec", "--out", f"{tmp_path}/{other}")
        assert (status, words in " ".join(err.replace("│", "").split())) == (2, True), err


def test_index_of_something_else(tmp_path: Path, run: Run) -> None:
    (tmp_path / "a.rec").write_bytes(bytes(1000))
    status, _, err = run("index", tmp_path / "a.rec")
    assert status == 2
    assert "holds no whole record" in err
    assert not (tmp_path / "a.idx").exists()


def test_large_images_shrink_without_skipping_pixels(tmp_path: Path, run: Run) -> None:
    lines = np.zeros((800, 800, 3), np.uint8)
    lines[::8] = 255  # bilinear sampling at 1/8 would see all or none of them
    (tmp_path / "x").mkdir()
    PIL.Image.fromarray(lines).save(tmp_path / "x" / "a.png")
    (tmp_path / "a.lst").write_text("0\t0\tx/a.png\n")
    run("pack", tmp_path / "a.lst", tmp_path, tmp_path / "a.rec", "--resize", 100, "--store", "png")
    pixels = decode(RecordReader(tmp_path / "a.rec").image(0)[1])
    assert abs(pixels.mean() - 255 / 8) < 2


def test_pass_through_keeps_the_files(lists: Path, class_folder: Path, run: Run) -> None:
    entries = list(read_list(lists / "a_train.lst"))
    PIL.Image.fromarray(picture(1, 30, 40)).save(class_folder / entries[1].path, "PNG")
    PIL.Image.fromarray(picture(1, 30, 40)).convert("CMYK").save(class_folder / entries[2].path, "JPEG")
    (class_folder / entries[3].path).write_bytes(b"\xff\xd8\xff no image")
    status, out, err = run("pack", lists / "a_train.lst", class_folder, lists / "a.rec", "--pass-through")
    assert status == 0
    assert "20 images packed, 1 skipped" in out
    assert str(class_folder / entries[3].path) in err
    reader = RecordReader(lists / "a.rec")
    del entries[3]
    for ordinal, entry in enumerate(entries):
        assert reader.image(ordinal)[1] == (class_folder / entry.path).read_bytes()
    status, _, err = run("pack", lists / "a_train.lst", class_folder, lists / "a.rec", "--pass-through", "resize=30")
    assert status == 2
    assert "without --resize" in err


def test_packed_images_are_sliceable(lists: Path, class_folder: Path, run: Run) -> None:
    rec = lists / "a.rec"
    assert run("pack", lists / "a_train.lst", class_folder, rec, "--resize", 64)[0] == 0
    before = sidecar_path(rec).read_bytes()
    rows = Rows.of(RecordReader(rec))
    assert all(rows.segments(ordinal).size for ordinal in range(21))
    assert run("index", rec)[0] == 0
    assert sidecar_path(rec).read_bytes() == before
    sidecar_path(rec).unlink()
    assert run("index", rec)[0] == 0
    again = Rows.of(RecordReader(rec))
    assert again.stored_sums().tolist() == rows.stored_sums().tolist()
    assert all(np.array_equal(again.segments(ordinal), rows.segments(ordinal)) for ordinal in range(21))
    assert (again.origin(), rows.origin() != "") == ("", True)
    assert run("pack", lists / "a_train.lst", class_folder, rec, "--store", "png")[0] == 0
    assert not Rows.of(RecordReader(rec)).segments(0).size


def test_an_old_rows_never_stands_beside_a_new_record(
    lists: Path, class_folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    rec, command = lists / "a.rec", ("pack", lists / "a_train.lst", class_folder, lists / "a.rec")
    assert run(*command)[0] == 0
    with monkeypatch.context() as patch:
        patch.setattr(resume, "finish_rows", lambda *_: pytest.fail("stopped"))
        with pytest.raises(pytest.fail.Exception):
            run(*command, "--quality", 30)
    assert rec.exists() and not sidecar_path(rec).exists()
    assert run(*command, "--quality", 30)[0] == 0  # goes on with what was left to do
    assert Rows.of(RecordReader(rec)).has_sums
