"""Several files as one set: the names that mean them, and the order, labels and pixels that one file would give."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import Run, digits_run, picture
from resnet_v2.data.augment import augmentation
from resnet_v2.data.filling import Centred
from resnet_v2.data.index import index_path
from resnet_v2.data.jpeg import encode
from resnet_v2.data.loader import Batch, Loader, Reading, batches
from resnet_v2.data.order import split
from resnet_v2.data.record_names import names_records, record_paths
from resnet_v2.data.record_set import Records, RecordSet, all_sums, open_records
from resnet_v2.data.records import IRHeader, RecordReader, pack, writing
from resnet_v2.data.sidecar import Rows, sidecar_path, write_rows
from resnet_v2.errors import ResnetError
from resnet_v2.networks import weights
from resnet_v2.training import ownership

COUNT = 30
SIZES = (7, 2, 10, 11)  # images of each file


def image(number: int, side: int = 70) -> bytes:
    return pack(IRHeader(0, float(number % 5), number, 0), encode(picture(number, side, side + number % 3), ".jpg", 90))


def write(path: Path, numbers: range, rows: bool = True, side: int = 70) -> Path:
    path.parent.mkdir(exist_ok=True)
    with writing(path) as writer:
        for number in numbers:
            writer.write(number, image(number, side))
    if rows:
        write_rows(path)
    return path


@pytest.fixture(params=[70, 40])  # those of 40 are kept decoded
def files(tmp_path: Path, request: pytest.FixtureRequest) -> tuple[RecordReader, Path]:
    """One file of all images, and a pattern of four that hold the same, one of them without `.rows`."""
    whole = write(tmp_path / "whole.rec", range(COUNT), side=request.param)
    first = 0
    for number, size in zip((2, 9, 10, 11), SIZES, strict=True):
        folder = tmp_path / ("left" if number % 2 else "right")
        write(folder / f"part_{number}.rec", range(first, first + size), rows=number != 10, side=request.param)
        first += size
    return RecordReader(whole), tmp_path / "*" / "part_*.rec"


def load(records: Records, workers: int, level: int = 3) -> list[Batch]:
    plan = augmentation(level, 32, imagenet=False)
    return list(Loader(records, plan, seed=7, batch_size=8, classes=5, reading=Reading(workers)))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("level", [1, 3])
def test_a_set_gives_what_one_file_gives(files: tuple[RecordReader, Path], workers: int, level: int) -> None:
    records = open_records(files[1])
    assert len(records) == COUNT
    for one, other in zip(load(files[0], 0, level), load(records, workers, level), strict=True):
        assert np.array_equal(one.ordinals, other.ordinals)
        assert np.array_equal(one.labels, other.labels)
        assert np.array_equal(one.images, other.images)


def test_ordinals_run_on_from_file_to_file(files: tuple[RecordReader, Path]) -> None:
    records = open_records(files[1])
    assert [reader.name for reader in records.readers] == [f"part_{number}.rec" for number in (2, 9, 10, 11)]
    assert [records.image(ordinal)[0].id for ordinal in range(COUNT)] == [*range(COUNT)]
    assert [bytes(records[ordinal]) for ordinal in (6, 7, 18, 19)] == [bytes(files[0][n]) for n in (6, 7, 18, 19)]
    places = {(reader.name, number) for reader, number in map(records.place, (6, 7, 9, 19))}
    assert places == {("part_2.rec", 6), ("part_9.rec", 0), ("part_10.rec", 0), ("part_11.rec", 0)}
    assert records.lengths(np.arange(COUNT)).tolist() == files[0].lengths(np.arange(COUNT)).tolist()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_record_is_named_by_its_file(files: tuple[RecordReader, Path], workers: int) -> None:
    records = open_records(files[1])
    reader, number = records.place(20)
    with reader.path.open("rb+") as file:
        file.seek(int(reader.offsets[number]) + 32)
        file.write(b"no image")
    steps = split(np.arange(COUNT), 8)
    with pytest.raises(ResnetError, match=r"left/part_11\.rec: the image of record 1 cannot be decoded"):
        list(batches(records, steps, Centred(32), (32, 32, 3), 5, Reading(workers)))


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_records_are_left_out(files: tuple[RecordReader, Path], workers: int) -> None:
    records, said = open_records(files[1]), list[str]()
    for ordinal in (0, 9, 10, 29):
        reader, number = records.place(ordinal)
        with reader.path.open("rb+") as file:
            file.seek(int(reader.offsets[number]) + 32)
            file.write(b"no image")
    reading = Reading(workers, on_skip=said.append, leave_out=True)
    found = list(batches(records, split(np.arange(COUNT), 8), Centred(32), (32, 32, 3), 5, reading))
    assert [len(batch.labels) for batch in found] == [7, 6, 8, 5]
    good = [ordinal for ordinal in range(COUNT) if ordinal not in (0, 9, 10, 29)]
    assert np.concatenate([batch.ordinals for batch in found]).tolist() == good
    assert len(said) == 4
    whole = list(batches(files[0], split(np.array(good), 26), Centred(32), (32, 32, 3), 5, Reading()))
    assert np.array_equal(np.concatenate([batch.images for batch in found]), whole[0].images)
    assert np.array_equal(np.concatenate([batch.labels for batch in found]), whole[0].labels)


@pytest.mark.parametrize("workers", [0, 2])
def test_what_an_index_leaves_out_is_said_once_while_images_are_read(
    files: tuple[RecordReader, Path], workers: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the third file, in workers and here, of images that are kept decoded and of others."""
    third = record_paths(str(files[1]))[2]
    lines = index_path(third).read_text().splitlines(keepends=True)
    sidecar_path(third).unlink(missing_ok=True)
    index_path(third).write_text("".join(lines[:4] + lines[6:]))
    records = open_records(str(files[1]))
    assert len(records) == COUNT - 2
    plan = augmentation(1, 32, imagenet=False)
    assert not capsys.readouterr().err
    for epoch in range(2):
        list(Loader(records, plan, seed=7, batch_size=8, classes=5, epoch=epoch, reading=Reading(workers)))
    assert capsys.readouterr().err == (
        f"warning: {index_path(third)} leaves out records, such as the 2 records from byte {lines[4].split()[1]} on; "
        f"they are not read. `resnet-v2 index {third}` makes a whole one\n"
    )


def test_a_damaged_record_is_nothing_that_the_index_leaves_out(
    files: tuple[RecordReader, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither where it is the first one of its slot, nor where that slot tells of an earlier record."""
    records, said = open_records(files[1]), list[str]()
    for ordinal in (20, 28):
        reader, number = records.place(ordinal)
        with reader.path.open("rb+") as file:
            file.seek(int(reader.offsets[number]))
            file.write(b"no record")
    reading = Reading(on_skip=said.append, leave_out=True)
    list(batches(records, split(np.arange(19, COUNT), 1), Centred(32), (32, 32, 3), 5, reading))
    assert len(said) == 2
    assert not capsys.readouterr().err


def test_more_files_than_one_message_takes(tmp_path: Path) -> None:
    """Linux passes 253 open files at once."""
    (tmp_path / "many").mkdir()
    for number in range(300):
        with writing(tmp_path / "many" / f"{number}.rec") as writer:
            writer.write(0, image(number))
    records = open_records(tmp_path / "many" / "*.rec")
    found = load(records, workers=2)
    ordinals = np.concatenate([batch.ordinals for batch in found])
    assert np.array_equal(np.concatenate([batch.labels for batch in found]), ordinals % 5)


def opened(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def test_workers_close_the_files_of_what_they_have_done(files: tuple[RecordReader, Path]) -> None:
    from resnet_v2.data.workers import workers

    records = open_records(files[1])
    load(records, 2)
    before = [opened(pid) for pid in workers(2).pids]
    for _ in range(3):
        load(records, 2)
    if before and records.readers[0].offsets[1] > 2500:  # small images are kept: no worker reads them
        assert all(after <= was + 5 for was, after in zip(before, map(opened, workers(2).pids), strict=True))


def test_sums_and_fingerprints_are_of_all_files(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.rec", range(9))
    for number in range(3):
        write(tmp_path / f"p{number}.rec", range(3 * number, 3 * number + 3))
    records = open_records(tmp_path / "p*.rec")
    assert all_sums(records).tolist() == Rows(whole).stored_sums().tolist()
    before = ownership.fingerprint([records])
    assert [*before] == ["p*.rec"]
    shutil.copy(tmp_path / "p0.rec", tmp_path / "p3.rec")
    (tmp_path / "p3.idx").write_text((tmp_path / "p0.idx").read_text())
    after = ownership.fingerprint([open_records(tmp_path / "p*.rec")])
    assert ownership.is_another(before["p*.rec"], after["p*.rec"])
    turned = ownership.fingerprint([open_records(f"{tmp_path}/p1.rec,{tmp_path}/p0.rec")])
    straight = ownership.fingerprint([open_records(f"{tmp_path}/p0.rec,{tmp_path}/p1.rec")])
    assert not turned.keys() & straight.keys()
    same = RecordReader(tmp_path / "p0.rec")
    assert [*ownership.fingerprint([same, RecordReader(tmp_path / "p0.rec")])] == ["p0.rec", "p0.rec (2)"]


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()


def names(folder: Path, text: str) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in record_paths(text)]


def test_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "t_1.rec", "t_10.rec", "t_9.rec", "t_1.idx", "t_1.lst", "t_10.rows", "with,comma.rec", "t_[1].rec")
    touch(tmp_path, "b/v.rec", "a/v.rec", "b/u.rec")
    touch(tmp_path, *(f"s.rec.part{number:03d}" for number in range(12)), "s.rec.part.idx", "s.rec.part000.idx")
    parts = [f"s.rec.part{number:03d}" for number in range(12)]
    assert names(tmp_path, f"{tmp_path}/t_*") == ["t_1.rec", "t_9.rec", "t_10.rec", "t_[1].rec"]
    assert names(tmp_path, f"{tmp_path}/t_[1].rec") == ["t_[1].rec"]
    assert names(tmp_path, f"{tmp_path}/t_9.rec,{tmp_path}/t_1.rec") == ["t_9.rec", "t_1.rec"]
    assert names(tmp_path, f"{tmp_path}/with,comma.rec") == ["with,comma.rec"]
    assert names(tmp_path, f"{tmp_path}/?/*.rec") == ["b/u.rec", "a/v.rec", "b/v.rec"]
    assert names(tmp_path, f"{tmp_path}/s.rec") == names(tmp_path, f"{tmp_path}/s.rec.part*") == parts
    monkeypatch.chdir(tmp_path)
    assert [str(path) for path in record_paths("t_?.rec")] == ["t_1.rec", "t_9.rec"]
    touch(tmp_path, "s.rec")
    assert names(tmp_path, f"{tmp_path}/s.rec") == ["s.rec"]  # the whole file comes first
    listed = record_paths(str(Path("t_1.rec,s3://bucket/a.rec, gs://bucket/b")))  # a path makes one slash of two
    assert [str(path) for path in listed] == ["t_1.rec", "s3://bucket/a.rec", "gs://bucket/b"]
    assert [str(path) for path in record_paths("s3://b/x,1.rec,https://h/b.rec")] == [
        "s3://b/x,1.rec",
        "https://h/b.rec",
    ]


def test_what_names_records() -> None:
    for text in ("a.rec", "d/a.rec.part003", "a.rec,b.rec", "d/*.rec", "a.rec.part*", "s3://b/a.rec"):
        assert names_records(text), text
    for text in ("a.jpg", "d/*.jpg", "a.rec,b.jpg", "a.rec.part", "folder", "-"):
        assert not names_records(text), text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x_*.rec", r"No record is named like .*x_\*\.rec; check the pattern"),
        ("a.rec,a.rec", r"names .*a\.rec twice .*; name every file once"),
        ("a.rec,l.rec", r"names .*l\.rec twice \(as .*a\.rec\); name every file once"),
        ("?.rec", r"names .*l\.rec twice \(as .*a\.rec\)"),
        ("a.rec,", r"empty name; write it like a\.rec,b\.rec"),
        ("s.rec", r"s\.rec\.part001 is missing, but s\.rec\.part003 is there; copy it too"),
        ("s.rec.part*", r"s\.rec\.part001 is missing"),
        ("a.rec,none.rec", r"none\.rec is missing; make it with"),
        ("a.rec,empty.rec", r"empty\.rec holds no images; copy it again, or leave it out of a\.rec,empty\.rec"),
        ("s3://bucket/a*.rec", r"is a pattern, which no storage takes; give the addresses, separated by commas"),
    ],
)
def test_what_no_set_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("a.rec"), range(2), rows=False)
    touch(tmp_path, "s.rec.part000", "s.rec.part002", "s.rec.part003", "empty.rec")
    Path("l.rec").symlink_to("a.rec")
    with pytest.raises(ResnetError, match=said):
        open_records(text)


def test_a_set_is_indexed_file_by_file(tmp_path: Path, run: Run) -> None:
    touch(tmp_path, "s.rec.part000", "s.rec.part001")
    for name in ("s.rec", "s.rec.part*"):
        status, _, err = run("index", tmp_path / name)
        said = f"names a set of records; index its files one by one, {tmp_path}/s.rec.part000 the first.\n"
        assert (status, err.endswith(f"{tmp_path / name} {said}")) == (2, True)


@pytest.fixture
def digits_parts(few_digits: Path, tmp_path: Path) -> Path:
    """The digits, their training part as im2rec writes it in three, on two disks; the names as before."""
    folder = tmp_path / "parts"
    folder.mkdir()
    shutil.copy(few_digits / "synset.txt", folder)
    for ending in (".rec", ".idx", ".rows"):
        if (few_digits / f"digits_val{ending}").exists():
            shutil.copy(few_digits / f"digits_val{ending}", folder)
    reader = RecordReader(few_digits / "digits_train.rec")
    for part, numbers in enumerate(np.array_split(np.arange(len(reader)), 3)):
        path = folder / f"digits_train.rec.part{part:03d}"
        with writing(path) as writer:
            for number in numbers.tolist():
                writer.write(number, reader[number])
        if path.with_suffix(".idx").exists():  # one index for all parts: each is found by reading
            path.with_suffix(".idx").unlink()
    return folder


def weights_of(prefix: Path) -> dict[str, Any]:
    return {name: tensor.tolist() for name, tensor in weights.read(Path(f"{prefix}-0001.safetensors"))[1].items()}


def test_training_on_parts_is_training_on_the_whole(
    few_digits: Path, digits_parts: Path, tmp_path: Path, run: Run
) -> None:
    same = {"epochs": 1, "num_examples": 96, "batch_size": 32, "workers": 0, "gpus": ""}
    whole, parts, listed = (tmp_path / name for name in ("whole", "in-parts", "listed"))
    assert run(*digits_run(few_digits, **same, model_prefix=whole))[0] == 0
    status, _, err = run(*digits_run(digits_parts, **same, model_prefix=parts))
    assert status == 0, err
    assert "1433 images of 3 files" in err
    text = ",".join(str(digits_parts / f"digits_train.rec.part{part:03d}") for part in range(3))
    words = digits_run(few_digits, **same, model_prefix=listed, data_train=text, data_val=few_digits / "digits_val.rec")
    status, _, err = run(*words)
    assert status == 0, err
    assert weights_of(whole) == weights_of(parts) == weights_of(listed)


def test_class_names_lie_with_the_records_that_are_named(digits_parts: Path, tmp_path: Path, run: Run) -> None:
    train, val = digits_parts / "digits_train.rec", digits_parts / "digits_val.rec"
    words = [
        "train",
        "--data-type=digits",
        "--depth=8",
        "--epochs=1",
        "--num-examples=32",
        "--batch-size=32",
        "--gpus=",
    ]
    status, _, err = run(*words, f"--data-train={train}", f"--data-val={val}", f"--model-prefix={tmp_path}/m")
    assert status == 0, err
    assert weights.read(tmp_path / "m-0001.safetensors")[0].class_names == tuple(map(str, range(10)))


def test_evaluation_prediction_and_verification_of_a_set(tmp_path: Path, trained: str, digits: Path, run: Run) -> None:
    reader = RecordReader(digits / "digits_val.rec")
    for part, numbers in enumerate((range(100), range(100, len(reader)))):
        with writing(tmp_path / f"v{part}.rec") as writer:
            for number in numbers:
                writer.write(number, reader[number])
    words = ["evaluate", "--prefix", trained, "--json", "--gpus", "", "--rec"]
    whole = json.loads(run(*words, digits / "digits_val.rec")[1])
    status, out, err = run(*words, tmp_path / "v*.rec")
    assert status == 0, err
    assert json.loads(out) == whole
    assert run("evaluate", "--rec", f"{tmp_path}/v1.rec,{tmp_path}/v0.rec", *words[1:-1])[0] == 0
    status, out, err = run("predict", "--prefix", trained, "--img", tmp_path / "v?.rec", "--format", "csv", "--top", 1)
    assert status == 0, err
    lines = out.splitlines()
    assert len(lines) == 1 + len(reader)
    assert lines[1].startswith(f"{tmp_path}/v0.rec#0,")
    assert lines[-1].startswith(f"{tmp_path}/v1.rec#{len(reader) - 101},")
    status, out, err = run("verify", tmp_path / "v*.rec", "--json")
    assert status == 0, out
    assert [report["count"] for report in json.loads(out)] == [100, len(reader) - 100]
    status, _, err = run("verify", tmp_path / "v*.rec", "--repair", tmp_path / "r.rec")
    assert status == 2
    assert "2 are named; give a single one" in err


def test_commands_say_what_an_index_leaves_out(tmp_path: Path, trained: str, digits: Path, run: Run) -> None:
    rec = shutil.copy(digits / "digits_val.rec", tmp_path / "v.rec")
    lines = index_path(digits / "digits_val.rec").read_text().splitlines(keepends=True)
    (tmp_path / "v.idx").write_text("".join(lines[:5] + lines[6:]))
    said = f"v.idx leaves out records, such as the record at byte {lines[5].split()[1]} on; they are not read."
    network = ("--prefix", trained, "--gpus", "")
    for words in (("evaluate", *network, "--rec", rec), ("predict", *network, "--img", rec, "--format", "csv")):
        status, _, err = run(*words)
        assert status == 0, err
        assert err.count(said) == 1
    data = ("--data-train", rec, "--data-val", digits / "digits_val.rec", "--num-examples", 64, "--num-classes", 10)
    status, _, err = run(
        "train",
        "--data-type",
        "digits",
        "--depth",
        8,
        *data,
        "--epochs",
        1,
        "--gpus",
        "",
        "--model-prefix",
        tmp_path / "m",
    )
    assert status == 0, err
    assert err.count(said) == 1


def test_a_set_closes_its_files(tmp_path: Path) -> None:
    records = RecordSet([RecordReader(write(tmp_path / "a.rec", range(2), rows=False))], tmp_path / "a.rec")
    assert not records.is_replaced()
    shutil.copy(tmp_path / "a.rec", tmp_path / "b.rec")
    (tmp_path / "b.rec").replace(tmp_path / "a.rec")
    assert records.is_replaced()
    records.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        records[0]
    assert not sidecar_path(tmp_path / "a.rec").exists()


def test_parts_beside_the_record_that_is_read_are_told(tmp_path: Path) -> None:
    for name in ("s.rec.part000", "s.rec.part001"):
        write(tmp_path / name, range(3))
    assert len(open_records(tmp_path / "s.rec")) == 6
    records = open_records(write(tmp_path / "s.rec", range(2)))
    assert len(records) == 2
    assert f"warning: {tmp_path}/s.rec is read, and not {tmp_path}/s.rec.part000" in records.remarks[-1]
    assert not open_records(tmp_path / "s.rec.part000").remarks


def test_parts_of_one_name_in_two_folders_are_two_sets(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        write(tmp_path / folder / "s.rec.part000", range(2))
    write(tmp_path / "b" / "s.rec.part002", range(2))
    with pytest.raises(
        ResnetError, match=rf"^{tmp_path}/b/s\.rec\.part001 is missing, but {tmp_path}/b/s\.rec\.part002"
    ):
        record_paths(f"{tmp_path}/*/s.rec.part*")


def test_a_record_to_train_on_wants_one_to_validate_on(few_digits: Path, tmp_path: Path, run: Run) -> None:
    words = ["train", "--data-train", few_digits / "digits_train.rec", "--data-dir", tmp_path, "--device", "cpu"]
    status, _, err = run(*words, "--model-prefix", tmp_path / "m")
    assert status == 2
    said = f"--data-train is given without --data-val, and {tmp_path}/val_256_q90.rec is missing; give --data-val."
    assert said in err.splitlines()[-1]


def test_what_lies_beside_a_record_is_none(tmp_path: Path) -> None:
    for name, what in (
        ("a.idx", "the index of a record"),
        ("a.lst", "a list of images"),
        ("a.rows", "what lies beside"),
    ):
        (tmp_path / name).write_text("0\t0\n")
        with pytest.raises(ResnetError, match=rf"{name} is {what}.* no record; give the .rec, such as \S+a.rec\."):
            open_records(tmp_path / name)
