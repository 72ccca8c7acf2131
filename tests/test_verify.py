"""`resnet-v2 verify`: exactly the damaged records are named, and a repair keeps all others."""

import errno
import itertools
import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from conftest import Run
from resnet_v2 import portable
from resnet_v2.config.packing import VerifyConfig
from resnet_v2.data.jpeg import encode
from resnet_v2.data.lists import ListEntry, read_list, write_list, write_synset
from resnet_v2.data.records import (
    LAST,
    LENGTH_BITS,
    MAX_RECORD_BYTES,
    WHOLE,
    IRHeader,
    RecordReader,
    frame,
    pack,
    writing,
)
from resnet_v2.data.sidecar import FIRST_HEADER, FIRST_MAGIC, SIDECAR_HEADER, Rows, sidecar_path, write_rows
from resnet_v2.networks import weights
from resnet_v2.networks.architecture import Architecture
from resnet_v2.networks.header import Header
from resnet_v2.packing import walk
from resnet_v2.packing.verify import verify_record

COUNT, CLASSES = 40, 5
MAGIC = struct.pack("<I", 0xCED7230A)


def picture(seed: int, side: int = 40) -> bytes:
    """Every seventh makes a record of five parts: the magic number stands behind its end, at a multiple of 4."""
    noise = np.random.default_rng(seed).integers(0, 255, (5, 6, 3)).astype(np.uint8)
    data = encode(cv2.resize(noise, (side + seed % 7, side)).astype(np.uint8), ".jpg", 90)
    return data + bytes(-len(data) % 4) + MAGIC * 4 + bytes(5000) if seed % 7 == 6 else data


def make(folder: Path, images: dict[int, bytes] | None = None, labels: dict[int, float] | None = None) -> Path:
    """A record of COUNT images with all that lies beside it; the list tells the right labels."""
    folder.mkdir(parents=True, exist_ok=True)
    rec = folder / "a.rec"
    with writing(rec) as writer:
        for key in range(COUNT):
            label = (labels or {}).get(key, float(key % CLASSES))
            writer.write(key, pack(IRHeader(0, label, key, 0), (images or {}).get(key) or picture(key)))
    write_rows(rec)
    write_list(rec.with_suffix(".lst"), (ListEntry(k, (float(k % CLASSES),), f"{k}.jpg") for k in range(COUNT)))
    write_synset(folder / "synset.txt", [f"class{number}" for number in range(CLASSES)])
    return rec


def verify(run: Run, *arguments: object) -> tuple[int, list[dict[str, Any]]]:
    status, out, err = run("verify", *arguments, "--json")
    assert status in (0, 1), err
    return status, json.loads(out)


def named(run: Run, *arguments: object) -> list[tuple[int | None, str]]:
    return sorted((found["record"], found["kind"]) for found in verify(run, *arguments)[1][0]["findings"])


def starts(rec: Path) -> list[int]:
    return [int(line.split("\t")[1]) for line in rec.with_suffix(".idx").read_text().splitlines()]


def put(rec: Path, at: int, data: bytes) -> None:
    with rec.open("rb+") as file:
        file.seek(at)
        file.write(data)


def flip(rec: Path, at: int) -> None:
    put(rec, at, bytes([rec.read_bytes()[at] ^ 0x20]))


def relabel(rec: Path, record: int, label: float) -> None:
    put(rec, starts(rec)[record] + 12, struct.pack("<f", label))


def copy_over(rec: Path, source: int, target: int) -> None:
    """Put a record in the place of another one, with the index of what the file is then."""
    data, offsets = rec.read_bytes(), [*starts(rec), rec.stat().st_size]
    pieces = [data[one:other] for one, other in itertools.pairwise(offsets)]
    pieces[target] = pieces[source]
    rec.write_bytes(b"".join(pieces))
    at = np.cumsum([0, *map(len, pieces)])
    rec.with_suffix(".idx").write_text("".join(f"{key}\t{at[key]}\n" for key in range(len(pieces))))


def edit_index(rec: Path, edit: Callable[[list[str]], object]) -> None:
    lines = rec.with_suffix(".idx").read_text().splitlines(keepends=True)
    edit(lines)
    rec.with_suffix(".idx").write_text("".join(lines))


def damage(rec: Path) -> dict[int, str]:
    """Damage records in ten ways; what each must be called. Copying comes first, cutting and the index last."""
    copy_over(rec, 2, 30)
    at = starts(rec)
    flip(rec, at[3] + 8 + 24 + 700)
    flip(rec, at[5])
    put(rec, at[7] + 4, struct.pack("<I", 100_000))
    put(rec, at[9] + 4, struct.pack("<I", 64))
    relabel(rec, 11, 2.0)
    relabel(rec, 12, 1.0)
    relabel(rec, 14, 77.0)
    put(rec, at[16] + 8 + 24, b"no image at all")
    put(rec, at[18] + 4, struct.pack("<I", 7 << 29))
    with rec.open("rb+") as file:
        file.truncate(rec.stat().st_size - 300)
    edit_index(rec, lambda lines: lines.__setitem__(20, f"20\t{at[22]}\n"))
    edit_index(rec, lambda lines: lines.__setitem__(24, f"24\t{at[24] + 8}\n"))
    return {
        **dict.fromkeys((3, 5, 7, 9, 18), "damaged"),
        **dict.fromkeys((11, 12, 14), "mislabelled"),
        16: "unreadable",
        30: "duplicated",
        COUNT - 1: "cut",
        **dict.fromkeys((20, 24), "index"),
    }


def without_fingerprints(rec: Path) -> None:
    sidecar_path(rec).unlink()


def of_the_first_version(rec: Path) -> None:
    data = sidecar_path(rec).read_bytes()
    _, count, size, *_ = SIDECAR_HEADER.unpack_from(data)
    tables = SIDECAR_HEADER.size + 8 * (count + 1)
    kept = data[SIDECAR_HEADER.size : tables] + data[tables + 8 * count :]
    sidecar_path(rec).write_bytes(FIRST_HEADER.pack(FIRST_MAGIC, count, size) + kept)


@pytest.mark.parametrize("prepare", [None, without_fingerprints, of_the_first_version])
@pytest.mark.parametrize("block_bytes", [1 << 23, 4096])
def test_exactly_the_damaged_records_are_named(
    tmp_path: Path, run: Run, prepare: Callable[[Path], None] | None, block_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walk, "BLOCK_BYTES", block_bytes)
    rec = make(tmp_path / "d")
    good = {key: bytes(RecordReader(rec)[key]) for key in range(COUNT)}
    if prepare is not None:
        prepare(rec)
    assert verify(run, rec)[0] == 0
    wanted = damage(rec)
    if prepare is not None:
        del wanted[3]  # a flipped byte that still decodes: only a fingerprint tells
    assert named(run, rec) == sorted(wanted.items())
    out = tmp_path / "new" / "b.rec"
    assert run("verify", rec, "--repair", out)[0] == 1
    reader = RecordReader(out)
    kept = [key for key in range(COUNT) if wanted.get(key, "index") == "index"]
    assert reader.keys.tolist() == kept
    if prepare is None:
        assert all(bytes(reader[ordinal]) == good[key] for ordinal, key in enumerate(kept))
    assert [entry.index for entry in read_list(out.with_suffix(".lst"))] == kept
    shutil.copy(rec.with_name("synset.txt"), out.parent)
    assert verify(run, out) == (0, [{**verify(run, out)[1][0], "findings": [], "sound": len(kept)}])


def test_a_record_without_its_line_and_one_behind_the_last(tmp_path: Path, run: Run) -> None:
    rec = make(tmp_path)
    edit_index(rec, lambda lines: lines.pop(6))
    with rec.open("ab") as file:
        file.write(b"".join(frame(bytes(RecordReader(rec)[2]))))
    found = verify(run, rec)[1][0]["findings"]
    assert [(one["record"], one["key"], one["kind"]) for one in found] == [(None, 6, "index"), (None, 2, "duplicated")]


def test_of_two_equal_records_the_one_in_its_place_stays(tmp_path: Path, run: Run) -> None:
    rec = make(tmp_path)
    copy_over(rec, 30, 2)
    assert named(run, rec) == [(2, "duplicated")]
    sidecar_path(rec).unlink()
    assert named(run, rec) == [(2, "duplicated")]


@pytest.mark.parametrize("part", range(5))
def test_a_damaged_part_costs_one_record(tmp_path: Path, run: Run, part: int) -> None:
    rec = make(tmp_path)
    data = rec.read_bytes()
    at = starts(rec)[6]
    for _ in range(part):
        at = data.index(MAGIC, at + 4)
    assert at < starts(rec)[7]
    flip(rec, at)
    assert named(run, rec) == [(6, "damaged")]


def test_a_part_that_calls_itself_a_record_does_not_end_the_one_before(tmp_path: Path, run: Run) -> None:
    rec = make(tmp_path)
    data, at = rec.read_bytes(), starts(rec)[6]
    while struct.unpack_from("<I", data, at + 4)[0] >> LENGTH_BITS != LAST:
        at = data.index(MAGIC, at + 4)
    with rec.open("rb+") as file:
        file.seek(at + 4)
        file.write(struct.pack("<I", struct.unpack_from("<I", data, at + 4)[0] & MAX_RECORD_BYTES | WHOLE))
    findings = verify(run, rec)[1][0]["findings"]
    assert (6, "damaged") in [(found["record"], found["kind"]) for found in findings]


def test_two_lines_of_the_index_exchanged(tmp_path: Path, run: Run) -> None:
    rec = make(tmp_path)
    at = starts(rec)
    edit_index(rec, lambda lines: lines.__setitem__(slice(0, 2), [f"0\t{at[1]}\n", f"1\t{at[0]}\n"]))
    assert named(run, rec) == [(0, "index"), (1, "index")]


def test_a_whole_tail_that_is_gone(tmp_path: Path, run: Run) -> None:
    rec = make(tmp_path)
    with rec.open("rb+") as file:
        file.truncate(starts(rec)[35])
    assert named(run, rec) == [(number, "cut") for number in range(35, 40)]
    edit_index(rec, lambda lines: lines.__delitem__(slice(35, 40)))
    assert named(run, rec) == [(None, "missing")]
    sidecar_path(rec).unlink()
    assert [one["key"] for one in verify(run, rec)[1][0]["findings"]] == [35, 36, 37, 38, 39]


def test_a_last_record_without_its_padding(tmp_path: Path, run: Run) -> None:
    """It is whole and kept by a repair, which pads it; MXNet does not read it as it is."""
    last = picture(COUNT - 1)
    rec = make(tmp_path, images={COUNT - 1: last + bytes(-len(last) % 4 + 2)})
    whole = rec.read_bytes()
    for missing in (1, 2):
        rec.write_bytes(whole[:-missing])
        assert named(run, rec) == [(COUNT - 1, "padding")]
    out = tmp_path / "out" / "b.rec"
    out.parent.mkdir()
    assert run("verify", rec, "--repair", out)[0] == 1
    assert out.read_bytes() == whole
    rec.write_bytes(whole[:-3])
    assert named(run, rec) == [(COUNT - 1, "cut")]


def test_an_image_that_was_packed_damaged(tmp_path: Path, run: Run) -> None:
    rec = make(tmp_path, images={4: b"no image"})
    assert named(run, rec) == []
    assert named(run, rec, "--decode") == [(4, "unreadable")]
    bomb = bytearray(picture(8))
    at = bomb.index(b"\xff\xc0") + 5
    bomb[at : at + 4] = b"\xff\xff\xff\xff"
    assert named(run, make(tmp_path, images={8: bytes(bomb)}), "--decode") == [(8, "unreadable")]


def test_files_beside_that_are_others(tmp_path: Path, run: Run) -> None:
    rec, other = make(tmp_path / "a"), make(tmp_path / "b", images={key: picture(99 - key) for key in range(COUNT)})
    shutil.copy(sidecar_path(other), sidecar_path(rec))
    assert named(run, rec) == [(None, "side")]
    flip(sidecar_path(rec), 60)
    assert named(run, rec) == [(None, "side")]
    write_rows(rec)
    shutil.copy(other.with_suffix(".idx"), rec.with_suffix(".idx"))
    assert named(run, rec) == [(None, "index")]
    rec.with_suffix(".idx").unlink()
    assert named(run, rec) == [(None, "index")]
    rec.with_suffix(".idx").write_text("a\n")
    assert (None, "index") in named(run, rec)


def test_a_long_stretch_of_zeros_is_told_once_and_costs_its_length(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walk, "BLOCK_BYTES", 1 << 12)
    rec = make(tmp_path)
    data = rec.read_bytes()
    rec.write_bytes(data + bytes(1 << 20) + data)
    status, reports = verify(run, rec)
    zeros = [found["message"] for found in reports[0]["findings"] if "no record" in found["message"]]
    assert (status, len(zeros)) == (1, 1)
    assert f"{1 << 20} bytes are no record" in zeros[0]
    assert max(len(block.data) for block in walk._blocks(rec)) < 1 << 15


def test_what_cannot_be_read_at_all(tmp_path: Path, run: Run) -> None:
    (tmp_path / "a.rec").write_bytes(b"nothing" * 100)
    for path, words in (("a.rec", "no whole record"), ("b.rec", "No such file")):
        status, _, err = run("verify", tmp_path / path)
        assert status == 2
        assert words in err
    rec = make(tmp_path / "c")
    for arguments in ((rec, "--repair", rec), (rec, rec, "--repair", "x.rec"), (rec, "--repair", "x")):
        status, _, err = run("verify", *arguments)
        assert status == 2
        assert "--repair" in err


def test_words_for_people(tmp_path: Path, run: Run) -> None:
    rec = make(tmp_path)
    assert run("verify", rec)[:2] == (0, f"{rec}: 40 records, all sound\n")
    relabel(rec, 3, 4.0)
    status, out, _ = run("verify", rec)
    assert status == 1
    line = f"{rec}: record 3 (key 3, at byte {starts(rec)[3]}): mislabelled: its label is 4, the .lst says 3"
    assert out.splitlines() == [line, f"{rec}: 40 records, 1 finding"]


def checkpoint(path: Path) -> dict[str, torch.Tensor]:
    tensors = {"a.weight": torch.arange(12.0).reshape(3, 4), "b": torch.ones(5, dtype=torch.bfloat16)}
    weights.save(path, tensors, Header.of_epoch(Architecture(8, 3, "cifar"), 1))
    return tensors


def test_a_checkpoint_names_its_damaged_tensors(tmp_path: Path, run: Run) -> None:
    path = tmp_path / "m-0001.safetensors"
    tensors = checkpoint(path)
    before = path.read_bytes()
    checkpoint(path)
    assert path.read_bytes() == before
    assert run("verify", path)[:2] == (0, f"{path}: 2 tensors, all sound\n")
    assert all(torch.equal(weights.read(path)[1][name], tensor) for name, tensor in tensors.items())
    path.write_bytes(before.replace(b'"shape":[3,4]', b'"shape":[4,3]'))
    assert [one["tensor"] for one in verify(run, path)[1][0]["findings"]] == ["a.weight"]
    path.write_bytes(before)
    flip(path, len(before) - 1)
    found = verify(run, path)[1][0]["findings"]
    assert [(one["tensor"], one["kind"]) for one in found] == [("b", "damaged")]
    path.write_bytes(
        before.replace(b'\\"resize\\":32', b'\\"resize\\":33').replace(b'"resize\\": 32', b'"resize\\": 33')
    )
    assert [one["kind"] for one in verify(run, path)[1][0]["findings"]] == ["header"]


def test_a_checkpoint_without_fingerprints(run: Run) -> None:
    old = Path(__file__).parent / "files" / "version-1" / "m-latest.safetensors"
    status, out, _ = run("verify", old)
    assert status == 0
    assert "holds no fingerprints" in out


def test_old_rows_are_read(tmp_path: Path) -> None:
    rec = make(tmp_path)
    rows = Rows.of(RecordReader(rec))
    new = [rows.segments(number) for number in range(COUNT)]
    of_the_first_version(rec)
    old = Rows.of(RecordReader(rec))
    assert not old.has_sums
    assert not old.sums().size
    assert new[0].size
    assert all(np.array_equal(new[number], old.segments(number)) for number in range(COUNT))


@pytest.mark.parametrize("ending", [".rec", ".idx", ".rows"])
def test_a_disk_that_cannot_read_names_the_file(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    rec = make(tmp_path)
    read_once, read_text, damaged = portable._read_once, Path.read_text, str(rec.with_suffix(ending))

    def fail(path: Path, *rest: Any, **options: Any) -> str:
        if str(path) == damaged:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read_text(path, *rest, **options)

    def fail_at(descriptor: int, count: int, offset: int) -> bytes:
        if str(Path(f"/proc/self/fd/{descriptor}").readlink()) == damaged:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read_once(descriptor, count, offset)

    monkeypatch.setattr(Path, "read_text", fail)
    monkeypatch.setattr(portable, "_read_once", fail_at)
    status, _, err = run("verify", rec)
    assert status == 2
    assert f"{damaged}: Input/output error; check the disk and the machine's limits." in err


@pytest.mark.parametrize("line", ["", "no line"])
def test_a_line_too_many_in_the_index(tmp_path: Path, run: Run, line: str) -> None:
    """A blank line has no place among the records; one that is none has, and others are known by their ids."""
    rec = make(tmp_path)
    lines = rec.with_suffix(".idx").read_text().splitlines()
    rec.with_suffix(".idx").write_text("\n".join([lines[0], line, *lines[1:], ""]))
    status, out, _ = run("verify", rec)
    assert (status, f"{COUNT} records, 1 finding" in out) == (1, True)
    assert f"line 2 of {tmp_path}/" in out


@pytest.mark.parametrize(
    ("labels", "note"),
    [
        ([[1.0], [2.0]], ""),
        ([[1.0, 0.5], [2.0, 0.5]], "2 labels a record; `train` takes the first, or `labels`"),
        ([[1.0], [2.0, 0.5, 1.0]], "1 to 3 labels a record; `train` takes the first, or `labels`"),
        ([[2, 5, 0, 0.1, 0.1, 0.5, 0.5]] * 2, "the labels are boxes, of object detection; train, evaluate, convert by"),
    ],
)
def test_several_labels_and_boxes_are_noted(tmp_path: Path, labels: list[list[float]], note: str) -> None:
    rec = tmp_path / "a.rec"
    with writing(rec) as writer:
        for number, its in enumerate(labels):
            label = np.array(its, np.float32)
            writer.write(number, pack(IRHeader(0, label, number, 0), picture(number)))
    notes = verify_record(rec, VerifyConfig(files=(str(rec),))).notes
    about = [one for one in notes if "labels a record" in one or "boxes" in one]
    assert [one[: len(note)] for one in about] == ([note] if note else [])
