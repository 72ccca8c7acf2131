"""Collections of faces in InsightFace's form: the images and their identities, and what does not go together."""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from conftest import Run
from resnet_v2.data import faces
from resnet_v2.data.faces import Ranges, ranges, without_image
from resnet_v2.data.index import index_path
from resnet_v2.data.jpeg import encode
from resnet_v2.data.record_set import open_records
from resnet_v2.data.records import IRHeader, RecordReader, pack, writing
from resnet_v2.data.source import Source, read
from resnet_v2.networks import weights
from resnet_v2.packing.identities import check_identities
from resnet_v2.packing.walk import Piece

PEOPLE, EACH = 3, 8
IMAGES = PEOPLE * EACH


def face(number: int) -> bytes:
    noise = np.random.default_rng(number).integers(0, 60, (32, 32, 3)) + 60 * (number // EACH)
    return encode(np.clip(noise, 0, 255).astype(np.uint8), ".png", 3)


def several(labels: Sequence[float], key: int, data: bytes = b"") -> bytes:
    return pack(IRHeader(0, np.array(labels, np.float32), key, 0), data)


def records() -> dict[int, bytes]:
    """The records by key: record 0, images, identities."""
    first = IMAGES + 1
    made = {0: several([first, first + PEOPLE], 0)}
    made |= {1 + n: several([n // EACH, 0], 1 + n, face(n)) for n in range(IMAGES)}
    made |= {first + n: several([1 + n * EACH, 1 + (n + 1) * EACH], first + n) for n in range(PEOPLE)}
    return made


def write(path: Path, made: dict[int, bytes] | None = None) -> Path:
    path.parent.mkdir(exist_ok=True)
    with writing(path) as writer:
        for key, payload in (made or records()).items():
            writer.write(key, payload)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for part in ("train", "val"):
        write(tmp_path / "d" / f"f_{part}.rec")
    (tmp_path / "d" / "synset.txt").write_text("a\nb\nc\n")
    return tmp_path / "d"


def test_the_images_are_told_from_the_others(tmp_path: Path) -> None:
    reader = RecordReader(write(tmp_path / "f.rec"))
    assert without_image(reader).tolist() == [0, *range(IMAGES + 1, IMAGES + 1 + PEOPLE)]
    assert ranges(reader) == Ranges(IMAGES + 1, IMAGES + 1 + PEOPLE)
    images = open_records(tmp_path / "f.rec")
    assert [images.image(ordinal)[0].id for ordinal in range(len(images))] == [*range(1, IMAGES + 1)]
    assert [images.place(ordinal)[1] for ordinal in (0, 5)] == [1, 6]
    assert images.remarks == [
        f"{tmp_path}/f.rec: 24 images of 3 identities, which are the classes; 4 records without an image are left out"
    ]


def test_no_image_is_read_to_find_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = RecordReader(write(tmp_path / "f.rec"))
    count: list[int] = []

    def counted(source: Source, size: int, offset: int) -> bytes:
        count.append(size)
        return read(source, size, offset)

    monkeypatch.setattr(faces, "read", counted)
    without_image(reader)
    assert count == [32, 32 + 2 * 40]  # record 0, and the identities at once


def test_an_index_in_another_order(tmp_path: Path) -> None:
    reader = RecordReader(write(tmp_path / "f.rec"))
    lines = index_path(reader.path).read_text().splitlines(keepends=True)
    order = np.random.default_rng(0).permutation(len(lines))
    index_path(reader.path).write_text("".join(lines[number] for number in order))
    images = open_records(reader.path)
    wanted = [key for key in order.tolist() if 1 <= key <= IMAGES]
    assert [images.image(ordinal)[0].id for ordinal in range(len(images))] == wanted


def test_any_record_without_an_image_is_left_out_and_counted(tmp_path: Path) -> None:
    made = {key: pack(IRHeader(0, float(key), key, 0), face(key)) for key in range(6)}
    made[2] = several([1.0], 2)
    made[4] = several([1.0] * 32, 4)
    made[5] = pack(IRHeader(0, 1.0, 5, 0), b"")  # with one label it is a damaged image
    images = open_records(write(tmp_path / "a.rec", made))
    assert [images.image(ordinal)[0].id for ordinal in range(len(images))] == [0, 1, 3, 5]
    assert images.remarks == [f"2 of the 6 records of {tmp_path}/a.rec hold no image and are left out"]
    plain = {key: pack(IRHeader(0, float(key), key, 0), face(key)) for key in range(6)}
    assert not open_records(write(tmp_path / "b.rec", plain)).remarks


def test_images_alone_are_a_collection_too(tmp_path: Path) -> None:
    made = {key: payload for key, payload in records().items() if 1 <= key <= IMAGES}
    images = open_records(write(tmp_path / "f.rec", made))
    assert (len(images), images.remarks) == (IMAGES, [])


def test_without_an_index_the_keys_are_the_ids(tmp_path: Path, run: Run) -> None:
    made = records()
    turned = {0: made[0], **dict(sorted(made.items(), reverse=True))}  # record 0 first, the last image behind it
    path = write(tmp_path / "f.rec", turned)
    index_path(path).unlink()
    assert RecordReader(path).keys.tolist() == [*turned]
    status, _, err = run("index", path)
    assert status == 0, err
    assert [int(line.split("\t")[0]) for line in index_path(path).read_text().splitlines()] == [*turned]


def test_training_evaluation_and_prediction(folder: Path, tmp_path: Path, run: Run) -> None:
    words = ["train", "--data-dir", folder, "--data-type", "f", "--depth", 8, "--gpus", "", "--batch-size", 8]
    status, _, err = run(*words, "--epochs", 1, "--model-prefix", tmp_path / "m", "--lr", 0.02)
    assert status == 0, err
    assert err.count("24 images of 3 identities") == 2
    assert weights.read(tmp_path / "m-0001.safetensors")[0].architecture.classes == PEOPLE
    log = [json.loads(line) for line in (tmp_path / "m.jsonl").read_text().splitlines()]
    assert [line["images"] for line in log if line["event"] == "validation"] == [IMAGES]
    status, out, err = run(
        "evaluate", "--prefix", tmp_path / "m", "--rec", folder / "f_val.rec", "--json", "--gpus", ""
    )
    assert status == 0, err
    assert json.loads(out)["images"] == IMAGES
    status, out, err = run("predict", "--prefix", tmp_path / "m", "--img", folder / "f_val.rec", "--format", "csv")
    assert status == 0, err
    assert [line.split(",")[0] for line in out.splitlines()[1::PEOPLE]] == [
        f"{folder}/f_val.rec#{number}" for number in range(1, IMAGES + 1)
    ]


def test_a_cut_collection_is_said_to_be_one(tmp_path: Path) -> None:
    reader = RecordReader(write(tmp_path / "f.rec"))
    end = int(reader.offsets[20])
    os.truncate(reader.path, end)
    lines = index_path(reader.path).read_text().splitlines(keepends=True)[:20]
    index_path(reader.path).write_text("".join(lines))
    images = open_records(reader.path)
    assert len(images) == 19
    assert images.remarks[-1] == (
        f"warning: record 0 of {reader.path} tells of 24 images, but 19 are there; is the file or its index cut short, "
        "or another's?"
    )


def test_a_sound_collection(tmp_path: Path, run: Run) -> None:
    status, out, _ = run("verify", write(tmp_path / "f.rec"))
    assert status == 0, out
    assert "4 of 28 records hold labels and no image" in out
    assert "28 records, all sound" in out


def relabelled(made: dict[int, bytes]) -> None:
    made[3] = several([2, 0], 3, face(2))


def lost(made: dict[int, bytes]) -> None:
    del made[11]


def doubled(made: dict[int, bytes]) -> None:
    made[12] = made[11]


def swapped(made: dict[int, bytes]) -> None:
    made[IMAGES + 1] = several([9, 17], IMAGES + 1)


def without_identity(made: dict[int, bytes]) -> None:
    del made[IMAGES + 2]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            relabelled,
            ["record 3 (key 3, at byte {3}): mislabelled: its label is 2, those of its identity (record 25) are 0"],
        ),
        (
            lost,
            [
                "record 0 (key 0, at byte 0): missing: it tells of 24 images, but 23 are there",
                "record 25 (key 26, at byte {26}): missing: it names 8 images from 9 on, of which 1 is gone",
            ],
        ),
        (doubled, ["record 12 (key 11, at byte {12}): duplicated: it is the record at byte {11} once more"]),
        (
            swapped,
            [f"record {key} (key {key}, at byte {{{key}}}): unlisted: no identity names it" for key in range(1, 9)],
        ),
        (
            without_identity,
            ["record 0 (key 0, at byte 0): missing: it tells of 3 identities, but 2 are there"]
            + [f"record {key} (key {key}, at byte {{{key}}}): unlisted: no identity names it" for key in range(9, 17)],
        ),
    ],
)
def test_what_does_not_go_together(
    tmp_path: Path, run: Run, change: Callable[[dict[int, bytes]], None], said: list[str]
) -> None:
    made = records()
    change(made)
    reader = RecordReader(write(tmp_path / "f.rec", made))
    at = dict(zip(made, reader.offsets.tolist(), strict=True))
    status, out, _ = run("verify", reader.path)
    assert status == 1
    found = [line.removeprefix(f"{reader.path}: ") for line in out.splitlines() if "(key" in line]
    wanted = [text.format(*(at.get(key, 0) for key in range(30))) for text in said]
    assert set(wanted) <= set(found)
    assert change is doubled or set(wanted) == set(found)


@pytest.mark.parametrize(
    "labels",
    [[np.nan, np.nan], [np.inf, np.inf], [3e38, 3.2e38], [-1, 5], [28, 25], [25.5, 28], [0, 3], [25], [25, 28, 3]],
)
def test_numbers_that_are_no_ranges(tmp_path: Path, run: Run, labels: list[float]) -> None:
    """A file whose record 0 tells something else is no collection; its records without an image are left out."""
    made = records()
    made[0] = several(labels, 0)
    path = write(tmp_path / "f.rec", made)
    assert open_records(path).remarks == [f"4 of the 28 records of {path} hold no image and are left out"]
    status, out, _ = run("verify", path)
    assert status == 0, out
    index_path(path).unlink()
    assert run("index", path)[0] == 0
    made = records()
    made[IMAGES + 1] = several(labels, IMAGES + 1)
    status, out, _ = run("verify", write(path, made))
    assert (status, "unlisted: no identity names it" in out) == (1, True)


def test_large_collections_are_told_as_exactly_as_labels_are() -> None:
    """Float32 numbers above 2^24 are even."""
    count = (1 << 24) + 2
    its = faces.ranges_of_labels([float(np.float32(count + 1)), float(1 << 25)])
    assert its is not None
    assert [its.tells_of(images) for images in (count - 2, count, count + 4)] == [False, True, False]
    first = Piece(0, 8, True, 0, 0, (3.0, float(1 << 25)), empty=True)
    images = [Piece(8 * key, 8 * key + 8, True, 0, key, (0.0,)) for key in (1, 2)]
    assert list(check_identities([first, *images])) == []
    assert [wrong.kind for wrong in check_identities([first, images[0]])] == ["missing"]


def test_a_list_of_another_form_is_named(tmp_path: Path, run: Run) -> None:
    path = write(tmp_path / "f.rec")
    path.with_suffix(".lst").write_text("one line that is none\n")
    status, out, _ = run("verify", path)
    assert status == 1
    assert "list: " in out
    assert "28 records, 1 finding" in out


def test_damage_in_a_collection(folder: Path, tmp_path: Path, run: Run) -> None:
    """Swapped, empty and foreign files: status 2, a sentence, and nothing written."""
    rec = folder / "f_val.rec"
    words = ["evaluate", "--rec", rec, "--prefix", "cifar10-resnet-14", "--gpus", ""]
    other = write(tmp_path / "other.rec", {key: pack(IRHeader(0, 0.0, key, 0), b"x" * (999 + key)) for key in range(9)})
    shutil.copy(index_path(other), index_path(rec))
    before = sorted(path.name for path in folder.iterdir())
    status, _, err = run(*words)
    assert status == 2
    assert err.startswith(f"resnet-v2: {folder}/f_val.idx is another record's index: f_val.rec has no records where")
    index_path(rec).write_text("0\t0\n1\t99999999\n")
    status, _, err = run(*words)
    assert (status, "its index points to byte 99999999" in err) == (2, True)
    index_path(rec).unlink()
    before.remove("f_val.idx")
    rec.write_bytes(cv2.imencode(".png", np.zeros((200, 200, 3), np.uint8))[1].tobytes())
    status, _, err = run(*words)
    assert (status, "f_val.rec holds no whole record" in err) == (2, True)
    rec.write_bytes(b"")
    status, _, err = run(*words)
    assert (status, "f_val.rec holds no images; pack it again" in err) == (2, True)
    with writing(rec) as writer:
        writer.write(0, several([1, 4], 0))
    index_path(rec).unlink()
    status, _, err = run(*words)
    assert (status, "f_val.rec holds no images; pack it again" in err) == (2, True)
    assert sorted(path.name for path in folder.iterdir()) == before


CLASS_WORDS: tuple[list[str], ...] = ([], ["--renumber"], ["--faces"], ["--val-identities", "1"])


def large_faces(path: Path, exact: bool) -> Path:
    """Three identities called 2^24 - 1, 2^24 and 2^24 + 1; the last two are one float32."""
    names = [(1 << 24) - 1, 1 << 24, (1 << 24) + 1]
    made = records()
    for n in range(IMAGES):
        name = names[n // EACH]
        id2 = name if exact and name >= 1 << 24 else 0
        made[1 + n] = pack(IRHeader(0, np.array([name, 0], np.float32), 1 + n, id2), face(n))
    return write(path, made)


def test_large_identities_are_renumbered_by_their_exact_numbers(tmp_path: Path, run: Run) -> None:
    path = large_faces(tmp_path / "f.rec", exact=True)
    assert run("verify", path)[0] == 0
    status, _, err = run("convert", path, tmp_path / "n" / "f.rec", "--renumber")
    assert status == 0, err
    assert "3 classes, numbered anew: 16777215 -> 0, 16777216 -> 1, 16777217 -> 2" in err
    images = open_records(tmp_path / "n" / "f.rec")
    headers = [images.image(ordinal)[0] for ordinal in range(len(images))]
    assert [(header.label, header.id2) for header in headers] == [(float(n // EACH), 0) for n in range(IMAGES)]
    status, _, err = run("convert", path, tmp_path / "h" / "f.rec", "--faces", "--val-identities", 1)
    assert status == 0, err
    assert "labels from 16777216 on are exact to this program alone" in err
    assert [len(open_records(tmp_path / "h" / f"f_{part}.rec")) for part in ("train", "val")] == [2 * EACH, EACH]
    status, _, err = run("convert", path, tmp_path / "c" / "f.rec", "--classes", (1 << 24) + 1)
    assert status == 0, err
    assert len(open_records(tmp_path / "c" / "f.rec")) == EACH
    status, _, err = run("unpack", path, tmp_path / "out")
    assert status == 0, err
    assert sorted(folder.name for folder in (tmp_path / "out").iterdir()) == ["16777215", "16777216", "16777217"]
    assert "\t16777217.000000\t0.000000\t16777217/" in (tmp_path / "out.lst").read_text()


def test_rounded_identities_are_refused_and_found(tmp_path: Path, run: Run) -> None:
    path = large_faces(tmp_path / "f.rec", exact=False)
    rounded = "record 9 at byte {} has the label 16777216, to which others are rounded, and not the exact one as id2; "
    said = rounded.format(int(RecordReader(path).offsets[9]))
    for number, words in enumerate(CLASS_WORDS):
        status, _, err = run("convert", path, tmp_path / str(number) / "f.rec", *words)
        assert (status, said in err) == (2, True), err
        assert not (tmp_path / str(number)).exists()
    status, _, err = run("unpack", path, tmp_path / "out", "--on-error", "stop")
    assert (status, said in err) == (2, True)
    status, out, _ = run("verify", path)
    assert status == 1
    assert (
        "mislabelled: its images have the label 16777216, and so have those of the identity with key 26" in out
        and "1 finding" in out
    )


def test_unpacked_faces_become_the_same_collection_again(tmp_path: Path, run: Run) -> None:
    path, out = write(tmp_path / "f.rec"), tmp_path / "out"
    assert run("unpack", path, out)[0] == 0
    pack_again = ["pack", tmp_path / "out.lst", out]
    status, _, err = run(*pack_again, tmp_path / "first.rec", "--pass-through")
    assert status == 0
    assert f"24 lines of {tmp_path}/out.lst have several labels, of which the first is packed; `--pack-label`" in err
    status, _, err = run(*pack_again, tmp_path / "again.rec", "--pass-through", "--pack-label")
    assert (status, "several labels" in err) == (0, False), err
    assert run("convert", tmp_path / "again.rec", tmp_path / "new" / "f.rec", "--faces")[0] == 0
    assert (tmp_path / "new" / "f.rec").read_bytes() == path.read_bytes()
    assert index_path(tmp_path / "new" / "f.rec").read_text() == index_path(path).read_text()


def test_identities_of_several_collections_become_one(tmp_path: Path, run: Run) -> None:
    both = write(tmp_path / "a" / "f.rec"), write(tmp_path / "b" / "f.rec")
    status, _, err = run("convert", *both, tmp_path / "c" / "f.rec", "--faces")
    assert (status, "warning: 3 identities have the number of another file's" in err) == (0, True), err
    status, _, err = run("convert", both[0], tmp_path / "d" / "f.rec", "--faces")
    assert (status, "another file" in err) == (0, False)


@pytest.mark.parametrize("labels", [[np.nan, 5], [1, 9], [40, 50]])
def test_images_outlive_the_record_of_their_identity(tmp_path: Path, run: Run, labels: list[float]) -> None:
    made = records()
    made[IMAGES + 2] = several(labels, IMAGES + 2)
    path = write(tmp_path / "f.rec", made)
    assert run("verify", path, "--repair", tmp_path / "new" / "f.rec")[0] == 1
    new = RecordReader(tmp_path / "new" / "f.rec")
    assert {bytes(made[key]) for key in range(1, IMAGES + 1)} <= {bytes(new[n]) for n in range(len(new))}


def test_a_damaged_id_is_told(tmp_path: Path, run: Run) -> None:
    made = records()
    made[3] = several([0, 0], (1 << 64) - 1, face(2))
    status, out, err = run("verify", write(tmp_path / "f.rec", made))
    assert (status, "no identity names it" in out) == (1, True)
    assert err.startswith("next: resnet-v2 verify ")
