"""What the `.rows` tells of where records came from: list, folder, settings and version, and no time."""

import hashlib
import json
import time
from pathlib import Path

import pytest

from conftest import Run
from resnet_v2 import __version__
from resnet_v2.data.records import RecordReader
from resnet_v2.data.sidecar import MOST_ORIGIN_BYTES, SECOND_HEADER, SECOND_MAGIC, SIDECAR_HEADER, Rows, sidecar_path
from resnet_v2.errors import ResnetError
from resnet_v2.files import sha256
from resnet_v2.packing.origin import origin_of, sentence
from test_convert import payloads, write


@pytest.fixture
def packed(class_folder: Path, tmp_path: Path, run: Run) -> Path:
    run("list", class_folder, tmp_path / "a")
    assert (
        run("pack", tmp_path / "a_train.lst", class_folder, tmp_path / "a.rec", "--resize", 30, "--threads", 2)[0] == 0
    )
    return tmp_path / "a.rec"


def test_pack_notes_list_folder_and_settings(packed: Path, class_folder: Path, tmp_path: Path, run: Run) -> None:
    lst = tmp_path / "a_train.lst"
    assert json.loads(origin_of(packed)) == {
        "command": "pack",
        "list": str(lst),
        "list_sha256": sha256(lst),
        "root": str(class_folder),
        "flags": {"resize": 30},
        "version": __version__,
    }
    said = (
        f"packed from {lst} (SHA-256 {sha256(lst)}), images below {class_folder}, resize 30, by resnet-v2 {__version__}"
    )
    assert sentence(origin_of(packed)) == said
    assert f"{packed}: {said}\n" in run("verify", packed)[1]
    assert said in json.loads(run("verify", packed, "--json")[1])[0]["notes"]


def test_words_that_are_said_or_not() -> None:
    flags = {"faces": True, "pass_through": False, "resize": 30}
    text = json.dumps({"command": "convert", "files": ["a.rec"], "flags": flags, "version": "1"})
    assert sentence(text) == "converted from a.rec, faces, no pass_through, resize 30, by resnet-v2 1"


def test_the_same_command_gives_the_same_bytes(
    packed: Path, class_folder: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sidecar_path(packed).read_bytes()
    packed.unlink()
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 1e8)
    words = [tmp_path / "a_train.lst", class_folder, packed, "--resize", 30]
    assert run("pack", *words)[0] == 0
    assert sidecar_path(packed).read_bytes() == before


def test_an_index_that_is_made_again_keeps_it(packed: Path, run: Run) -> None:
    before = sidecar_path(packed).read_bytes()
    assert run("index", packed)[0] == 0
    assert sidecar_path(packed).read_bytes() == before
    another = write(packed.with_name("b.rec"), payloads())
    packed.write_bytes(another.read_bytes())  # the text of another record is not kept
    assert run("index", packed)[0] == 0
    assert origin_of(packed) == ""


def test_convert_and_repair_tell_what_was_before(packed: Path, tmp_path: Path, run: Run) -> None:
    out, good = tmp_path / "b.rec", tmp_path / "c.rec"
    assert run("convert", packed, out, "--shuffle", "--seed", 4)[0] == 0
    told = json.loads(origin_of(out))
    assert (told["command"], told["files"], told["flags"]) == ("convert", [str(packed)], {"shuffle": True, "seed": 4})
    assert told["from"] == [json.loads(origin_of(packed))]
    assert run("verify", out, "--repair", good)[0] == 0
    said = sentence(origin_of(good))
    assert said.startswith(f"repaired from {out}, by resnet-v2 {__version__}; before that converted from {packed}, ")
    assert f"; before that packed from {tmp_path}/a_train.lst" in said


def test_data_notes_its_source(digits: Path, class_folder: Path, tmp_path: Path, run: Run) -> None:
    assert sentence(origin_of(digits / "digits_val.rec")) == f"made from digits, by resnet-v2 {__version__}"
    assert run("data", class_folder, "--out", tmp_path / "d", "--resize", 20)[0] == 0
    said = f"made from {class_folder}, resize 20, by resnet-v2 {__version__}"
    assert sentence(origin_of(tmp_path / "d" / "d_train.rec")) == said


def test_rows_of_the_second_version_are_read(packed: Path) -> None:
    new = Rows.of(RecordReader(packed))
    sums, origin, segments = (
        new.sums().tolist(),
        new.origin(),
        [new.segments(n).tolist() for n in range(len(new.sums()))],
    )
    data = sidecar_path(packed).read_bytes()
    _, count, size, text_bytes, _ = SIDECAR_HEADER.unpack_from(data)
    body = data[SIDECAR_HEADER.size : len(data) - text_bytes]
    total = int.from_bytes(hashlib.sha256(body).digest()[:8], "little")
    sidecar_path(packed).write_bytes(SECOND_HEADER.pack(SECOND_MAGIC, count, size, total) + body)
    old = Rows.of(RecordReader(packed))
    assert old.sums().tolist() == sums
    assert old.origin() == "" != origin
    assert [old.segments(n).tolist() for n in range(count)] == segments
    assert all(segments)


@pytest.mark.parametrize("change", ["cut", "byte", "length", "huge"])
def test_a_damaged_text_is_noticed(packed: Path, change: str) -> None:
    rows = sidecar_path(packed)
    data = bytearray(rows.read_bytes())
    if change == "cut":
        del data[-1]
    elif change == "byte":
        data[-3] ^= 1
    else:
        data[24:32] = (MOST_ORIGIN_BYTES + 1 if change == "huge" else 4).to_bytes(8, "little")
    rows.write_bytes(data)
    with pytest.raises(ResnetError, match=r"a\.rows is damaged; make it again with `resnet-v2 index"):
        Rows.of(RecordReader(packed)).sums()


@pytest.mark.parametrize(
    "text",
    ["", "no JSON", "[]", "null", "{}", '{"command": "pack"}', '{"command": "convert", "files": 3}', "[" * 5000],
)
def test_an_unknown_text_tells_nothing(text: str) -> None:
    assert sentence(text) == ""


def test_a_long_or_deep_history_is_told_in_part() -> None:
    told: dict[str, object] = {"command": "data", "source": "a\x1b[31m"}
    for _ in range(200):
        told = {"command": "convert", "files": ["a.rec"], "from": [told, 3, "x"], "version": "1"}
    said = sentence(json.dumps(told))
    assert said.count("converted from a.rec") == 6
    assert "\x1b" not in sentence(json.dumps({"command": "data", "source": "a\x1b[31m"}))
