"""`unpack`: the exact files of a record in class folders or a tar, and a list that packs the same again."""

import errno
import os
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from conftest import Run, picture
from resnet_v2.data.index import index_column, index_path
from resnet_v2.data.lists import read_list
from resnet_v2.data.records import IRHeader, pack, unpack, writing
from resnet_v2.data.sidecar import sidecar_path, write_rows
from test_convert import contents, faces, payloads, read, write

KINDS = (".jpg", ".png", ".webp", ".bmp")


def image(number: int, ending: str = ".jpg") -> bytes:
    done, data = cv2.imencode(ending, picture(number, 20, 24))
    assert done
    return data.tobytes()


@pytest.fixture
def rec(tmp_path: Path) -> Path:
    """Four kinds of images of three classes, without a list."""
    made = {n: pack(IRHeader(0, float(n % 3), n, 0), image(n, KINDS[n % 4])) for n in range(12)}
    return write(tmp_path / "in" / "a.rec", made, names=("ant", "bee/queen", "cat"))


def test_class_folders_hold_the_exact_bytes(rec: Path, tmp_path: Path, run: Run) -> None:
    out = tmp_path / "new" / "images"
    before = contents(rec.parent)
    status, said, _ = run("unpack", rec, out)
    assert (status, said) == (0, f"{out}: 12 images, 0 skipped; {out}.lst names them\n")
    names = ("ant", "bee/queen", "cat")
    assert contents(out) == {f"{names[n % 3]}/{n}{KINDS[n % 4]}": image(n, KINDS[n % 4]) for n in range(12)}
    assert sorted(path.name for path in out.parent.iterdir()) == ["images", "images.lst"]
    assert contents(rec.parent) == before
    status, _, _ = run("pack", f"{out}.lst", out, tmp_path / "again.rec", "--pass-through")
    assert status == 0
    assert (tmp_path / "again.rec").read_bytes() == rec.read_bytes()
    assert index_path(tmp_path / "again.rec").read_bytes() == index_path(rec).read_bytes()


def test_a_tar_of_the_same(rec: Path, tmp_path: Path, run: Run) -> None:
    for name in ("b.tar", "c.TAR"):
        assert run("unpack", rec, tmp_path / name)[0] == 0
    assert (tmp_path / "b.tar").read_bytes() == (tmp_path / "c.TAR").read_bytes()
    assert (tmp_path / "b.lst").read_bytes() == (tmp_path / "c.lst").read_bytes()
    with tarfile.open(tmp_path / "b.tar") as archive:
        assert [member.name for member in archive][:3] == ["ant/0.jpg", "bee/queen/1.png", "cat/2.webp"]
        stored = archive.extractfile("bee/queen/1.png")
        assert stored is not None and stored.read() == image(1, ".png")
    status, _, _ = run("pack", tmp_path / "b.lst", tmp_path / "b.tar", tmp_path / "again.rec", "--pass-through")
    assert status == 0
    assert (tmp_path / "again.rec").read_bytes() == rec.read_bytes()


def test_names_come_from_the_list(class_folder: Path, tmp_path: Path, run: Run) -> None:
    run("list", class_folder, tmp_path / "a")
    assert run("pack", tmp_path / "a_train.lst", class_folder, tmp_path / "a_train.rec", "--pass-through")[0] == 0
    assert run("unpack", tmp_path / "a_train.rec", tmp_path / "out")[0] == 0
    assert contents(tmp_path / "out") == contents(class_folder)
    assert (tmp_path / "out.lst").read_bytes() == (tmp_path / "a_train.lst").read_bytes()


def test_another_list_gives_no_names(rec: Path, tmp_path: Path, run: Run) -> None:
    rec.with_suffix(".lst").write_text("".join(f"{n}\t{(n + 1) % 3}.0\tx/{n}.jpg\n" for n in range(12)))
    status, _, err = run("unpack", rec, tmp_path / "out")
    assert (status, "a.lst does not name the images of a.rec; their files are named by their ids" in err) == (0, True)
    assert (tmp_path / "out" / "ant" / "0.jpg").is_file()


def test_classes_without_names_are_numbers(tmp_path: Path, run: Run) -> None:
    made = {n: pack(IRHeader(0, float(label), n, 0), image(n)) for n, label in enumerate((3, 0, 117))}
    assert run("unpack", write(tmp_path / "a.rec", made, names=()), tmp_path / "out")[0] == 0
    assert set(contents(tmp_path / "out")) == {"003/0.jpg", "000/1.jpg", "117/2.jpg"}


def test_two_images_of_one_name(tmp_path: Path, run: Run) -> None:
    for name in ("a", "b"):
        made = {n: pack(IRHeader(0, 0.0, n, 0), image(n + 50 * (name == "b"))) for n in range(3)}
        write(tmp_path / f"{name}.rec", made, names=("same", "Same"))
    status, _, err = run("unpack", tmp_path / "*.rec", tmp_path / "out")
    assert (
        status,
        "some records have the same id, or a larger one than a list holds: the list numbers all anew from 0" in err,
    ) == (0, True)
    found = contents(tmp_path / "out")
    assert sorted(found) == sorted(f"same_0/{name}.jpg" for name in ("0", "1", "2", "0_3", "1_4", "2_5"))
    assert found["same_0/1_4.jpg"] == image(51)
    assert [entry.index for entry in read_list(tmp_path / "out.lst")] == list(range(6))


def test_faces_are_unpacked_by_identity(tmp_path: Path, run: Run) -> None:
    status, _, _ = run("unpack", write(tmp_path / "f.rec", faces(), names=()), tmp_path / "out")
    assert status == 0
    assert len(contents(tmp_path / "out")) == 20
    assert [entry.labels for entry in read_list(tmp_path / "out.lst")][5] == (1.0, 0.0)


def test_what_no_list_holds_is_said(tmp_path: Path, run: Run) -> None:
    status, _, err = run("unpack", write(tmp_path / "a.rec", payloads()), tmp_path / "out")
    assert status == 0
    assert "images are whole, but their headers have an id2, or one label as an array, which no list holds" in err


@pytest.mark.parametrize("taken", ["out", "out/x", "out.lst", "out.tar"])
def test_nothing_is_replaced(rec: Path, tmp_path: Path, run: Run, taken: str) -> None:
    (tmp_path / taken).parent.mkdir(exist_ok=True)
    (tmp_path / taken).write_text("mine")
    before = contents(tmp_path)
    status, out, err = run("unpack", rec, tmp_path / ("out.tar" if taken == "out.tar" else "out"))
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "is there already, it is not written; give another name, or remove it" in err
    assert contents(tmp_path) == before


def test_an_empty_folder_is_filled(rec: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "out").mkdir()
    assert run("unpack", rec, tmp_path / "out")[0] == 0
    assert len(contents(tmp_path / "out")) == 12


def damage(rec: Path, number: int, byte: int) -> None:
    data = bytearray(rec.read_bytes())
    data[int(index_column(rec, 1)[number]) + byte] ^= 0xFF
    rec.write_bytes(data)


@pytest.mark.parametrize("byte", [0, 8, 15, 70], ids=["magic", "flag", "label", "image"])
@pytest.mark.parametrize("form", ["folder", "tar"])
def test_damaged_records_are_left_out_by_name(rec: Path, tmp_path: Path, run: Run, byte: int, form: str) -> None:
    damage(rec, 4, byte)
    out = tmp_path / ("out" if form == "folder" else "out.tar")
    before = contents(tmp_path)
    status, said, err = run("unpack", rec, out, "--on-error", "stop")
    assert (status, said, err.count("\n")) == (2, "", 1)
    assert f"{rec}: record 4" in err
    assert contents(tmp_path) == before
    status, said, err = run("unpack", rec, out)
    assert (status, said) == (0, f"{out}: 11 images, 1 skipped; {tmp_path}/out.lst names them\n")
    assert f"skipped: {rec}: record 4" in err
    assert [entry.index for entry in read_list(tmp_path / "out.lst")] == [n for n in range(12) if n != 4]


def test_without_fingerprints_what_is_no_image_is_left_out(rec: Path, tmp_path: Path, run: Run) -> None:
    sidecar_path(rec).unlink()
    damage(rec, 4, 32)
    status, said, err = run("unpack", rec, tmp_path / "out")
    assert (status, "11 images, 1 skipped" in said) == (0, True)
    assert "record 4" in err and "holds no image of a known kind" in err


def test_nothing_that_can_be_read_is_an_error(tmp_path: Path, run: Run) -> None:
    made = {
        n: pack(IRHeader(0, 0.0, n, 0), b"no image, but long enough to be no record of labels" * 8) for n in range(3)
    }
    before = contents(write(tmp_path / "in" / "a.rec", made, names=()).parent)
    status, _, err = run("unpack", tmp_path / "in" / "a.rec", tmp_path / "out")
    assert (status, "None of 3 images could be read" in err) == (2, True)
    assert contents(tmp_path / "in") == before
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_labels_that_are_no_classes(tmp_path: Path, run: Run) -> None:
    made = {n: pack(IRHeader(0, n + 0.5, n, 0), image(n)) for n in range(3)}
    status, _, err = run("unpack", write(tmp_path / "a.rec", made, names=()), tmp_path / "out")
    assert (status, "record 0 at byte 0 has the label 0.5, which is no number of a class" in err) == (2, True)


@pytest.mark.parametrize("name", ["..", "../x", "a//b", "/etc"])
def test_no_class_leads_out_of_the_folder(rec: Path, tmp_path: Path, run: Run, name: str) -> None:
    rec.with_name("synset.txt").write_text(f"{name}\nb\nc\n")
    status, _, err = run("unpack", rec, tmp_path / "deep" / "out")
    assert (status, err.count("\n"), "of synset.txt can be no folder; rename the class there" in err) == (2, 1, True)
    assert not (tmp_path / "deep").exists()


def test_no_listed_name_leads_out_of_the_folder(tmp_path: Path, run: Run) -> None:
    made = {n: pack(IRHeader(0, 0.0, n, 0), image(n)) for n in range(3)}
    rec = write(tmp_path / "in" / "a.rec", made, names=())
    rec.with_suffix(".lst").write_text("0\t0.0\ta/..\n1\t0.0\t/etc/passwd.jpg\n2\t0.0\tx\\y.jpg\n")
    assert run("unpack", rec, tmp_path / "out")[0] == 0
    assert set(contents(tmp_path / "out")) == {"0/0.jpg", "0/passwd.jpg", "0/2.jpg"}


def test_a_full_disk_leaves_nothing(rec: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Path.open

    def full(path: Path, mode: str = "r", *rest: object, **options: object) -> object:
        if mode == "xb" and path.name.startswith("7"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return opened(path, mode, *rest, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", full)
    status, _, err = run("unpack", rec, tmp_path / "new" / "out")
    assert (status, err.count("\n"), "the disk is full; free some space" in err) == (2, 1, True)
    assert not list((tmp_path / "new").iterdir())


def test_several_labels_go_into_the_list(tmp_path: Path, run: Run) -> None:
    made = {n: pack(IRHeader(0, np.array([n, 0.25], np.float32), n, 0), image(n)) for n in range(3)}
    rec = write(tmp_path / "a.rec", made, names=())
    status, _, err = run("unpack", rec, tmp_path / "out")
    assert status == 0
    assert "warning: 3 images have several labels: each lies in the folder of its first, the list has all\n" in err
    assert [entry.labels for entry in read_list(tmp_path / "out.lst")] == [(0, 0.25), (1, 0.25), (2, 0.25)]
    assert unpack(read(rec)[1])[0].flag == 2


def test_a_record_whose_first_image_is_far_behind(tmp_path: Path, run: Run) -> None:
    """The order of the index is the order of the list."""
    with writing(tmp_path / "a.rec") as writer:
        for n in range(3):
            writer.write(n, pack(IRHeader(0, 0.0, n, 0), image(n)))
    lines = (tmp_path / "a.idx").read_text().splitlines(keepends=True)
    (tmp_path / "a.idx").write_text("".join(reversed(lines)))
    write_rows(tmp_path / "a.rec")
    assert run("unpack", tmp_path / "a.rec", tmp_path / "out")[0] == 0
    assert [entry.index for entry in read_list(tmp_path / "out.lst")] == [2, 1, 0]
