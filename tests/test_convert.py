"""`convert`: merging, shuffling, filtering, splitting; nothing of an image changes, and no input is written."""

import errno
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from conftest import Run, picture
from resnet_v2.data import records as recordio
from resnet_v2.data.index import index_column, index_path, side_path
from resnet_v2.data.jpeg import encode
from resnet_v2.data.lists import read_synset
from resnet_v2.data.record_set import open_records
from resnet_v2.data.records import MAGIC_BYTES, IRHeader, RecordReader, pack, unpack, writing
from resnet_v2.data.sidecar import Rows, sidecar_path, write_rows
from resnet_v2.packing import output

COUNT, CLASSES = 24, 4
NAMES = ("ant", "bee", "cat", "dog")
Payloads = dict[int, bytes]


def payloads(first: int = 0, count: int = COUNT, classes: int = CLASSES) -> Payloads:
    """Records by id, their labels in turn; some of several parts, with another `id2`, with the label as an array."""
    made = {}
    for key in range(first, first + count):
        label = float(key % classes)
        image = encode(picture(key, 20, 24), ".jpg", 90) + (MAGIC_BYTES * 2 if key % 5 == 0 else b"")
        made[key] = pack(IRHeader(0, np.array([label], np.float32) if key % 7 == 6 else label, key, key % 3), image)
    return made


def write(path: Path, made: Payloads, rows: bool = True, names: Sequence[str] = NAMES) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    with writing(path) as writer:
        for key, payload in made.items():
            writer.write(key, payload)
    if rows:
        write_rows(path)
    if names:
        path.with_name("synset.txt").write_text("".join(f"{name}\n" for name in names))
    return path


def read(path: Path) -> Payloads:
    """What stands in a file under its keys, in its order; every record is the one that its `.rows` tells of."""
    reader = RecordReader(path)
    rows = Rows.of(reader)
    assert len(rows.sums()) == len(reader)
    assert index_column(path, 1).tolist() == [start for start, _ in recordio.scan(path)]
    return {key: bytes(reader[number]) for number, key in enumerate(reader.keys.tolist())}


def labels(path: Path) -> list[int]:
    return [int(np.ravel(unpack(payload)[0].label)[0]) for payload in read(path).values()]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def rec(tmp_path: Path) -> Path:
    return write(tmp_path / "in" / "a.rec", payloads())


def test_merged_files_have_the_same_bytes(rec: Path, tmp_path: Path, run: Run) -> None:
    more = write(tmp_path / "in" / "b_10.rec", payloads(200, 5), rows=False)
    last = write(tmp_path / "in" / "b_9.rec", payloads(100, 5))
    before = contents(tmp_path / "in")
    status, out, err = run("convert", rec, tmp_path / "in" / "b_*.rec", tmp_path / "out" / "all.rec")
    assert (status, out) == (0, f"{tmp_path}/out/all.rec: 34 images\n")
    assert "34 images of 3 files" in err
    assert read(tmp_path / "out" / "all.rec") == payloads() | payloads(100, 5) | payloads(200, 5)
    assert read_synset(tmp_path / "out" / "synset.txt") == NAMES
    assert contents(tmp_path / "in") == before
    assert run("verify", tmp_path / "out" / "all.rec")[0] == 0
    listed = f"{more},{last}"
    assert run("convert", listed, tmp_path / "b.rec")[0] == 0
    assert list(read(tmp_path / "b.rec")) == [*range(200, 205), *range(100, 105)]


def test_an_ending_in_capitals(rec: Path, tmp_path: Path, run: Run) -> None:
    assert run("convert", rec, tmp_path / "o" / "B.REC", "--val-per-class", 2)[0] == 0
    assert {path.name for path in (tmp_path / "o").iterdir() if path.suffix.lower() == ".rec"} == {
        "B_train.rec",
        "B_val.rec",
    }
    assert run("convert", tmp_path / "o" / "B_train.rec", tmp_path / "C.REC")[0] == 0
    assert (tmp_path / "C.REC").read_bytes() == (tmp_path / "o" / "B_train.rec").read_bytes()


def test_ids_that_meet_are_numbered_anew(rec: Path, tmp_path: Path, run: Run) -> None:
    write(tmp_path / "in" / "b.rec", payloads(count=3))
    status, _, err = run("convert", rec, tmp_path / "in" / "b.rec", tmp_path / "c.rec", "--val-per-class", 1)
    assert status == 0
    assert "some records have the same id: all are numbered anew from 0, in their order" in err
    train, val = read(tmp_path / "c_train.rec"), read(tmp_path / "c_val.rec")
    assert [*train, *val] == list(range(27))
    for key, payload in (train | val).items():
        header, image = unpack(payload)
        assert header.id == key
        assert any(
            bytes(image) == bytes(unpack(old)[1]) and np.array_equal(header.label, unpack(old)[0].label)
            for old in payloads().values()
        )


def test_an_id_that_no_index_holds(tmp_path: Path, run: Run) -> None:
    image = encode(picture(0, 20, 24), ".jpg", 90)
    one = write(
        tmp_path / "a.rec", {3: pack(IRHeader(0, 1.0, 1 << 63, 0), image), 4: pack(IRHeader(0, 1.0, 4, 0), image)}
    )
    status, _, err = run("convert", one, tmp_path / "b.rec")
    assert (status, f"a record has the id {1 << 63}, which is larger than an index holds: all are" in err) == (0, True)
    assert list(read(tmp_path / "b.rec")) == [0, 1]


def test_shuffled_by_the_seed(rec: Path, tmp_path: Path, run: Run) -> None:
    for name, seed in (("b", 1), ("c", 1), ("d", 2)):
        assert run("convert", rec, tmp_path / f"{name}.rec", "--shuffle", "--seed", seed)[0] == 0
    orders = {name: list(read(tmp_path / f"{name}.rec")) for name in "bcd"}
    assert orders["b"] == orders["c"] != orders["d"]
    assert sorted(orders["b"]) == sorted(orders["d"]) == list(payloads()) != orders["b"]
    assert read(tmp_path / "b.rec") == payloads()
    for ending in (".rec", ".idx", ".rows"):
        assert (tmp_path / f"b{ending}").read_bytes() == (tmp_path / f"c{ending}").read_bytes()


def test_a_subset_is_the_first_or_a_random_one(rec: Path, tmp_path: Path, run: Run) -> None:
    assert run("convert", rec, tmp_path / "b.rec", "--subset", 5)[0] == 0
    assert run("convert", rec, tmp_path / "c.rec", "--subset", 5, "--shuffle")[0] == 0
    assert list(read(tmp_path / "b.rec")) == list(range(5))
    assert len(read(tmp_path / "c.rec").keys() - set(range(5))) > 1
    status, _, err = run("convert", rec, tmp_path / "d.rec", "--subset", 25)
    assert (status, err.count("\n")) == (2, 1)
    assert "--subset 25 is more than the 24 images there; give fewer" in err


def test_classes_are_kept_under_their_numbers_or_numbered_anew(rec: Path, tmp_path: Path, run: Run) -> None:
    status, _, err = run("convert", rec, tmp_path / "in" / "b.rec", "--classes", "3,bee")
    assert status == 0
    assert "2 of 4 classes are kept, under the old numbers; `--renumber` closes the gaps" in err
    assert read(tmp_path / "in" / "b.rec") == {key: one for key, one in payloads().items() if key % 4 in (1, 3)}
    status, _, err = run("convert", rec, tmp_path / "out" / "c.rec", "--classes", "dog,1", "--renumber")
    assert status == 0
    assert "2 classes, numbered anew: 3 -> 0" in err
    assert read_synset(tmp_path / "out" / "synset.txt") == ("dog", "bee")
    made = read(tmp_path / "out" / "c.rec")
    for key, payload in made.items():
        header, image = unpack(payload)
        old, old_image = unpack(payloads()[key])
        assert (np.ravel(header.label)[0], header.flag, header.id2) == ({3: 0, 1: 1}[key % 4], old.flag, old.id2)
        assert bytes(image) == bytes(old_image)
    (tmp_path / "wanted.txt").write_text("cat\n0\n")
    assert run("convert", rec, tmp_path / "o2" / "d.rec", "--classes", tmp_path / "wanted.txt", "--renumber")[0] == 0
    assert read_synset(tmp_path / "o2" / "synset.txt") == ("cat", "ant")
    assert set(labels(tmp_path / "o2" / "d.rec")) == {0, 1}


def test_without_a_word_the_order_of_classes_is_that_of_their_numbers(rec: Path, tmp_path: Path, run: Run) -> None:
    odd = write(tmp_path / "odd.rec", {key: one for key, one in payloads().items() if key % 4 in (1, 3)}, names=())
    assert run("convert", odd, tmp_path / "b.rec", "--renumber")[0] == 0
    assert labels(tmp_path / "b.rec") == [0, 1] * 6


def test_images_are_held_out_of_every_class(rec: Path, tmp_path: Path, run: Run) -> None:
    for name in ("b", "c"):
        status, out, _ = run("convert", rec, tmp_path / f"{name}.rec", "--val-per-class", 2, "--seed", 5)
        assert status == 0
        assert out == f"{tmp_path}/{name}_train.rec: 16 images\n{tmp_path}/{name}_val.rec: 8 images\n"
    val = labels(tmp_path / "b_val.rec")
    assert [val.count(label) for label in range(4)] == [2] * 4
    assert read(tmp_path / "b_train.rec") | read(tmp_path / "b_val.rec") == payloads()
    assert (tmp_path / "b_val.rec").read_bytes() == (tmp_path / "c_val.rec").read_bytes()
    assert run("convert", rec, tmp_path / "d.rec", "--val-ratio", 0.5)[0] == 0
    assert sorted(labels(tmp_path / "d_val.rec")) == sorted([*range(4)] * 3)
    status, _, err = run("convert", rec, tmp_path / "e.rec", "--val-per-class", 6)
    assert (status, "Class 0 (ant) has 6 images, too few to hold out 6" in err) == (2, True)
    status, _, err = run("convert", rec, tmp_path / "e.rec", "--val-ratio", 0.05)
    assert (status, "--val-ratio 0.05 holds out no image of any class; give a larger share." in err) == (2, True)
    assert not list(tmp_path.glob("e*"))


def test_identities_are_held_out_whole(rec: Path, tmp_path: Path, run: Run) -> None:
    assert run("convert", rec, tmp_path / "b.rec", "--val-identities", 1, "--seed", 3)[0] == 0
    train, val = set(labels(tmp_path / "b_train.rec")), set(labels(tmp_path / "b_val.rec"))
    assert (len(train), len(val), train & val) == (3, 1, set())
    status, _, err = run("convert", rec, tmp_path / "c.rec", "--val-identities", 4)
    assert (status, "--val-identities 4 leaves nothing to train on" in err) == (2, True)


def test_parts_are_one_set(rec: Path, tmp_path: Path, run: Run) -> None:
    status, out, _ = run("convert", rec, tmp_path / "p.rec", "--parts", 5)
    assert (status, out.count("\n")) == (0, 5)
    parts = [tmp_path / f"p.rec.part{number:03d}" for number in range(5)]
    assert [len(read(part)) for part in parts] == [5, 5, 5, 5, 4]
    assert all(side_path(part, ending).is_file() for part in parts for ending in (".idx", ".rows"))
    records = open_records(tmp_path / "p.rec")
    assert [bytes(records[number]) for number in range(COUNT)] == [*payloads().values()]
    assert run("convert", tmp_path / "p.rec", tmp_path / "whole.rec")[0] == 0
    assert (tmp_path / "whole.rec").read_bytes() == rec.read_bytes()
    parts[0].unlink()
    status, _, err = run("convert", rec, tmp_path / "p.rec", "--parts", 1)
    assert (status, f"{parts[1]} is there already, part of another set" in err) == (2, True)
    assert not parts[0].exists()
    status, _, err = run("convert", rec, tmp_path / "q.rec", "--parts", 25)
    assert (status, "--parts 25 is more than the 24 images" in err) == (2, True)


def test_the_same_command_gives_the_same_bytes(rec: Path, tmp_path: Path, run: Run) -> None:
    words = ["--shuffle", "--val-ratio", 0.25, "--classes", "0,2", "--renumber"]
    for folder in ("one", "two"):
        assert run("convert", rec, tmp_path / folder / "b.rec", *words)[0] == 0
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert len(contents(tmp_path / "one")) == 7


@pytest.mark.parametrize("how", ["name", "hard", "symbolic", "index", "folder"])
def test_an_input_is_never_written(rec: Path, tmp_path: Path, run: Run, how: str) -> None:
    out = {"name": rec, "folder": tmp_path / "link" / "a.rec"}.get(how, tmp_path / "b.rec")
    if how == "hard":
        os.link(rec, out)
    elif how == "symbolic":
        out.symlink_to(rec)
    elif how == "folder":
        (tmp_path / "link").symlink_to(rec.parent)
    elif how == "index":
        os.link(index_path(rec), index_path(out))
    before = contents(tmp_path)
    status, _, err = run("convert", rec, out)
    assert (status, err.count("\n")) == (2, 1)
    assert "is read from, it is not written; give another name" in err
    assert contents(tmp_path) == before


@pytest.mark.parametrize("taken", ["b_train.rec", "b_val.idx", "b_train.rows"])
def test_what_is_there_is_not_replaced(rec: Path, tmp_path: Path, run: Run, taken: str) -> None:
    (tmp_path / taken).write_text("mine")
    status, _, err = run("convert", rec, tmp_path / "b.rec", "--val-per-class", 1)
    assert (status, err.count("\n")) == (2, 1)
    assert f"{taken} is there already, it is not written; remove it, or give another name" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == [taken, "in"]
    assert (tmp_path / taken).read_text() == "mine"


def test_names_of_classes_never_mean_two_things(rec: Path, tmp_path: Path, run: Run) -> None:
    other = write(tmp_path / "other" / "b.rec", payloads(100), names=("ant", "bee", "cow", "dog"))
    status, _, err = run("convert", rec, other, tmp_path / "c.rec")
    assert (status, err.count("\n")) == (2, 1)
    assert f"{rec.parent}/synset.txt and {other.parent}/synset.txt name other classes" in err
    status, _, err = run("convert", rec, rec.with_name("c.rec"), "--classes", "dog", "--renumber")
    assert (status, err.count("\n")) == (2, 1)
    assert "names other classes than the new records have; write them into another folder" in err
    status, _, err = run("convert", rec, rec.with_name("c.rec"), "--classes", "cow")
    assert (status, "--classes: 'cow' is no number of a class, and synset.txt beside the first .rec" in err) == (
        2,
        True,
    )
    status, _, err = run("convert", rec, rec.with_name("c.rec"), "--classes", "7")
    assert (status, "No record is of class 7; mend --classes" in err) == (2, True)
    status, _, err = run("convert", rec, rec.with_name("c.rec"), "--classes", "1,bee")
    assert (status, "--classes names class 1 twice" in err) == (2, True)
    same = write(tmp_path / "same" / "a.rec", payloads(), names=("ant", "bee", "ant", "dog"))
    status, _, err = run("convert", same, tmp_path / "d.rec", "--classes", "ant")
    assert (status, "Several classes are called ant in synset.txt; give --classes by number." in err) == (2, True)
    assert run("convert", same, tmp_path / "d.rec", "--classes", "2,bee")[0] == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--val-ratio", 0.5, "--val-per-class", 1], "--val-per-class and --val-ratio are two ways to split"),
        (["--parts", 2, "--val-ratio", 0.5], "--parts does not go with --val-ratio"),
        (["--faces", "--shuffle"], "--faces keeps the images of an identity together; give it without --shuffle"),
    ],
)
def test_what_does_not_go_together(rec: Path, tmp_path: Path, run: Run, words: list[object], says: str) -> None:
    status, _, err = run("convert", rec, tmp_path / "b.rec", *words)
    assert (status, err.count("\n"), says in err) == (2, 1, True)


def cut(rec: Path) -> None:
    os.truncate(rec, rec.stat().st_size - 40)


def changed(rec: Path) -> None:
    data = bytearray(rec.read_bytes())
    data[index_column(rec, 1)[3] + 60] ^= 1
    rec.write_bytes(data)


def changed_header(rec: Path) -> None:
    data = bytearray(rec.read_bytes())
    data[index_column(rec, 1)[3]] ^= 1
    rec.write_bytes(data)


def doubled(rec: Path) -> None:
    lines = index_path(rec).read_text().splitlines(keepends=True)
    index_path(rec).write_text("".join([*lines, lines[3]]))
    sidecar_path(rec).unlink()


def left_out(rec: Path) -> None:
    lines = index_path(rec).read_text().splitlines(keepends=True)
    index_path(rec).write_text("".join(lines[:3] + lines[4:]))
    sidecar_path(rec).unlink()


def empty(rec: Path) -> None:
    rec.write_bytes(b"")


def text(rec: Path) -> None:
    rec.write_text("no record at all\n" * 100)


def foreign_index(rec: Path) -> None:
    write(rec.with_name("z.rec"), payloads(500, 9))
    index_path(rec).write_bytes(index_path(rec.with_name("z.rec")).read_bytes())


def foreign_rows(rec: Path) -> None:
    write(rec.with_name("z.rec"), payloads(500, COUNT))
    sidecar_path(rec).write_bytes(sidecar_path(rec.with_name("z.rec")).read_bytes())


def rows_gone(rec: Path) -> None:
    changed_header(rec)
    sidecar_path(rec).unlink()


BAD = [cut, changed, changed_header, doubled, left_out, empty, text, foreign_index, foreign_rows, rows_gone]


@pytest.mark.parametrize("damage", BAD, ids=lambda damage: damage.__name__)
def test_bad_records_are_refused_in_a_sentence(rec: Path, tmp_path: Path, run: Run, damage: object) -> None:
    assert callable(damage)
    damage(rec)
    before = contents(tmp_path)
    status, out, err = run("convert", rec, tmp_path / "out" / "b.rec", "--shuffle")
    assert (status, out) == (2, "")
    assert err.splitlines()[-1].startswith("resnet-v2: ")
    assert str(rec) in err.splitlines()[-1] or str(index_path(rec)) in err.splitlines()[-1]
    assert "Traceback" not in err
    assert contents(tmp_path) == before


def test_a_file_that_is_named_twice(rec: Path, tmp_path: Path, run: Run) -> None:
    status, _, err = run("convert", rec, rec.parent / "*.rec", tmp_path / "b.rec")
    assert (status, "is given twice; give every .rec once" in err) == (2, True)
    status, _, err = run("convert", tmp_path / "none.rec", tmp_path / "b.rec")
    assert (status, f"{tmp_path}/none.rec is missing" in err) == (2, True)
    status, _, err = run("convert", rec, tmp_path / "b.txt")
    assert (status, "must end with .rec" in err) == (2, True)
    status, _, err = run("convert", rec)
    assert (status, "Give the .rec files to read, and behind them the one to write" in err) == (2, True)


def test_records_without_index_or_rows(rec: Path, tmp_path: Path, run: Run) -> None:
    for path in (index_path(rec), sidecar_path(rec)):
        path.unlink()
    status, _, err = run("convert", rec, tmp_path / "b.rec")
    assert (status, f"{index_path(rec)} is missing" in err) == (0, True)
    assert read(tmp_path / "b.rec") == payloads()


def test_several_labels_are_said(rec: Path, tmp_path: Path, run: Run) -> None:
    made = {key: pack(IRHeader(0, np.array([key % 2, 1, 0], np.float32), key, 0), b"image") for key in range(6)}
    several = write(tmp_path / "m.rec", made)
    status, _, err = run("convert", several, tmp_path / "b.rec", "--classes", "1")
    assert (status, "6 images have several labels" in err, "the first is taken for the class" in err) == (0, True, True)
    assert read(tmp_path / "b.rec") == {key: one for key, one in made.items() if key % 2}
    status, _, err = run("convert", several, tmp_path / "c.rec", "--shuffle")
    assert (status, "several labels" in err) == (0, False)
    assert sorted(read(tmp_path / "c.rec").values()) == sorted(made.values())
    status, _, err = run("convert", several, tmp_path / "new" / "d.rec", "--classes", "1", "--renumber")
    assert (status, "1 -> 0" in err, "the first is taken for the class" in err) == (0, True, True)
    soft = {key: pack(IRHeader(0, np.array([0.25, 0.75], np.float32), key, 0), b"image") for key in range(6)}
    path = write(tmp_path / "s.rec", soft)
    assert run("convert", path, tmp_path / "t.rec")[0] == 0
    assert read(tmp_path / "t.rec") == soft
    for number, words in enumerate((["--renumber"], ["--val-per-class", "1"], ["--faces"], ["--classes", "0"])):
        status, _, err = run("convert", path, tmp_path / f"u{number}.rec", *words)
        assert (status, "record 0 at byte 0 has the label 0.25, which is no number of a class" in err) == (2, True)
    box = np.array([2, 5, 1, 0.1, 0, 0.5, 1], np.float32)
    boxes = {key: pack(IRHeader(0, box, key, 0), b"image") for key in range(6)}
    status, _, err = run("convert", write(tmp_path / "d.rec", boxes), tmp_path / "e.rec", "--classes", "1")
    assert (status, "holds records of object detection (boxes among the labels)" in err) == (2, True)
    fractions = {key: pack(IRHeader(0, key / 2, key, 0), b"image") for key in range(6)}
    status, _, err = run("convert", write(tmp_path / "f.rec", fractions), tmp_path / "g.rec", "--val-per-class", 1)
    assert (status, "record 1 at byte 40 has the label 0.5, which is no number of a class" in err) == (2, True)


def test_a_full_disk_leaves_nothing(rec: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []

    def write_record(self: output.Output, key: int, payload: bytes) -> None:
        written.append(key)
        if len(written) == 20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(output.Output, "write", write_record)
    status, _, err = run("convert", rec, tmp_path / "out" / "b.rec", "--val-per-class", 2)
    assert (status, err.count("\n"), "the disk is full; free some space" in err) == (2, 1, True)
    assert not list((tmp_path / "out").iterdir())


def faces(people: int = 4, each: int = 5) -> Payloads:
    """A collection of faces as InsightFace's tools write one."""
    count, first = people * each, people * each + 1

    def ranges(key: int, begin: int, end: int) -> bytes:
        return pack(IRHeader(0, np.array([begin, end], np.float32), key, 0), b"")

    made = {0: ranges(0, first, first + people)}
    for number in range(count):
        label = np.array([number // each, 0], np.float32)
        made[1 + number] = pack(IRHeader(0, label, 1 + number, 0), encode(picture(number, 16, 16), ".jpg", 90))
    made |= {first + n: ranges(first + n, 1 + n * each, 1 + (n + 1) * each) for n in range(people)}
    return made


def test_faces_become_images_of_classes(tmp_path: Path, run: Run) -> None:
    made = faces()
    status, _, err = run("convert", write(tmp_path / "f.rec", made, names=()), tmp_path / "b.rec")
    assert status == 0
    assert "20 images of 4 identities" in err
    assert "the label of each face is its identity, as one number; `--faces` keeps InsightFace's form" in err
    found = read(tmp_path / "b.rec")
    assert list(found) == list(range(1, 21))
    for key, payload in found.items():
        header, image = unpack(payload)
        assert (header.flag, header.label, header.id) == (0, float((key - 1) // 5), key)
        assert bytes(image) == bytes(unpack(made[key])[1])


def test_faces_keep_their_form(tmp_path: Path, run: Run) -> None:
    made = write(tmp_path / "f.rec", faces(), names=())
    assert run("convert", made, tmp_path / "whole.rec", "--faces")[0] == 0
    assert (tmp_path / "whole.rec").read_bytes() == made.read_bytes()
    assert index_path(tmp_path / "whole.rec").read_bytes() == index_path(made).read_bytes()
    status, out, _ = run("convert", made, tmp_path / "b.rec", "--faces", "--val-identities", 1, "--renumber")
    assert (status, out.count(" 15 images"), out.count(" 5 images")) == (0, 1, 1)
    train, val = tmp_path / "b_train.rec", tmp_path / "b_val.rec"
    assert run("verify", train, val)[0] == 0
    header = unpack(read(train)[0])[0]
    assert np.asarray(header.label).tolist() == [16, 19]
    assert [np.asarray(unpack(read(train)[key])[0].label).tolist() for key in (16, 17, 18)] == [
        [1, 6],
        [6, 11],
        [11, 16],
    ]
    assert np.asarray(unpack(read(val)[0])[0].label).tolist() == [6, 7]
    records = open_records(train)
    assert [int(np.ravel(records.image(n)[0].label)[0]) for n in range(15)] == [n // 5 for n in range(15)]


def test_images_of_classes_become_faces(rec: Path, tmp_path: Path, run: Run) -> None:
    assert run("convert", rec, tmp_path / "b.rec", "--faces")[0] == 0
    assert run("verify", tmp_path / "b.rec")[0] == 0
    assert len(open_records(tmp_path / "b.rec")) == COUNT


def test_names_that_no_file_can_hold_are_told_with_the_file(tmp_path: Path, run: Run) -> None:
    rec = write(tmp_path / "a.rec", payloads(6), names=("a\tx", "b", "c"))
    status, _, err = run("convert", rec, tmp_path / "new" / "b.rec")
    assert (status, err.count("\n"), f"{tmp_path}/new/synset.txt cannot be written: " in err) == (2, 1, True)
    assert not (tmp_path / "new").exists() or not any((tmp_path / "new").iterdir())
