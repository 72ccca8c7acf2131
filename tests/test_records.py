"""RecordIO: bytes on disk against the format's description, damage, threads, forks."""

import contextlib
import multiprocessing
import os
import struct
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnet_v2.console import counted
from resnet_v2.data.index import index_path, read_index
from resnet_v2.data.records import (
    MAGIC_BYTES,
    IRHeader,
    RecordReader,
    frame,
    pack,
    read_record,
    scan,
    unpack,
    writing,
)
from resnet_v2.errors import ResnetError

# Payloads in which the magic number stands at multiples of 4 and elsewhere.
payloads = st.lists(st.one_of(st.just(MAGIC_BYTES), st.binary(max_size=9)), max_size=8).map(b"".join)


def write(path: Path, records: list[bytes]) -> Path:
    with writing(path) as writer:
        for key, record in enumerate(records):
            writer.write(key, record)
    return path


def test_bytes_of_a_plain_record(tmp_path: Path) -> None:
    path = write(tmp_path / "a.rec", [b"hello"])
    assert path.read_bytes() == struct.pack("<II", 0xCED7230A, 5) + b"hello\0\0\0"
    assert index_path(path).read_text() == "0\t0\n"


def test_bytes_of_a_record_with_the_magic_number_inside() -> None:
    payload = b"abcd" + MAGIC_BYTES + b"ef" + MAGIC_BYTES  # the second one is not at a multiple of 4
    expected = struct.pack("<II", 0xCED7230A, 1 << 29 | 4) + b"abcd"
    expected += struct.pack("<II", 0xCED7230A, 3 << 29 | 6) + b"ef" + MAGIC_BYTES + b"\0\0"
    assert b"".join(frame(payload)) == expected


def test_parts_may_be_empty() -> None:
    framed = b"".join(frame(MAGIC_BYTES * 3))
    lengths = [word & (2**29 - 1) for word in struct.unpack("<8I", framed)[1::2]]
    places = [word >> 29 for word in struct.unpack("<8I", framed)[1::2]]
    assert lengths == [0, 0, 0, 0]
    assert places == [1, 2, 2, 3]


@given(st.lists(payloads, min_size=1, max_size=5))
def test_any_payload_comes_back(tmp_path_factory: pytest.TempPathFactory, records: list[bytes]) -> None:
    path = write(tmp_path_factory.mktemp("rec") / "a.rec", records)
    reader = RecordReader(path)
    assert [bytes(reader[ordinal]) for ordinal in range(len(reader))] == records
    assert [start for start, _ in scan(path)] == reader.offsets.tolist()


def test_records_longer_than_what_is_read_at_once(tmp_path: Path) -> None:
    long = os.urandom(5 << 20)
    reader = RecordReader(write(tmp_path / "a.rec", [b"x", long, b"y"]))
    assert bytes(reader[1]) == long
    reader.offsets = reader.offsets[::-1].copy()  # an index in another order
    reader._ascending = False
    assert [len(reader[ordinal]) for ordinal in range(3)] == [1, len(long), 1]


def test_image_headers() -> None:
    one, data = unpack(pack(IRHeader(0, 3.0, 7, 8), b"jpeg"))
    assert (one, bytes(data)) == (IRHeader(0, 3.0, 7, 8), b"jpeg")
    many, data = unpack(pack(IRHeader(0, [1.0, 2.5], 7, 0), b"jpeg"))
    assert many.flag == 2
    assert np.array_equal(np.asarray(many.label), np.array([1.0, 2.5], np.float32))
    assert bytes(data) == b"jpeg"
    for short in (b"", b"\0" * 23, struct.pack("<IfQQ", 1000, 0, 0, 0) + b"\0" * 8):
        with pytest.raises(ValueError, match="too few"):
            unpack(short)


def test_threads_and_forks_share_a_reader(tmp_path: Path) -> None:
    records = [bytes([value]) * (100 + value) for value in range(200)]
    reader = RecordReader(write(tmp_path / "a.rec", records))
    with ThreadPoolExecutor(8) as pool:
        assert [bytes(view) for view in pool.map(reader.__getitem__, range(200))] == records
    with multiprocessing.get_context("fork").Pool(2) as processes:
        lengths = processes.starmap(_length, [(reader.path, ordinal) for ordinal in range(200)])
    assert lengths == [len(record) for record in records]


def _length(path: Path, ordinal: int) -> int:
    return len(RecordReader(path)[ordinal])


def test_nothing_appears_when_writing_fails(tmp_path: Path) -> None:
    path = write(tmp_path / "a.rec", [b"old"])
    with pytest.raises(KeyError), writing(path) as writer:
        writer.write(0, b"new")
        raise KeyError
    assert bytes(RecordReader(path)[0]) == b"old"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.idx", "a.rec"]


def test_missing_files_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ResnetError, match=r"a\.rec is missing"):
        RecordReader(tmp_path / "a.rec")
    with pytest.raises(ResnetError, match=r"is a folder; give a \.rec, such as `resnet-v2 data` makes of it"):
        RecordReader(tmp_path)
    path = write(tmp_path / "a.rec", [b"x"])
    index_path(path).unlink()
    (remark,) = RecordReader(path).remarks
    advice = f"`resnet-v2 index {path}` saves that time"
    assert remark == f"{index_path(path)} is missing: a.rec was read to find its 1 record; {advice}"
    path.unlink()
    with pytest.raises(ResnetError, match=r"a\.rec is missing"):
        RecordReader(path)


@pytest.mark.parametrize("lines", [None, 0, 1, 13, 20])
def test_records_that_the_index_lacks_are_found(tmp_path: Path, lines: int | None) -> None:
    """The headers of some lie side by side, those of others far apart, and of some in several parts."""
    payloads = [MAGIC_BYTES * (key % 3) + bytes([key]) * (1 if key % 4 else 9000) for key in range(20)]
    path = write(tmp_path / "a.rec", payloads)
    whole = RecordReader(path)
    assert not whole.remarks
    text = index_path(path).read_text().splitlines(keepends=True)
    index_path(path).unlink()
    if lines is not None:
        index_path(path).write_text("".join(text[:lines]))
    before = sorted(file.name for file in tmp_path.iterdir())
    reader = RecordReader(path)
    assert reader.offsets.tolist() == whole.offsets.tolist()
    assert [bytes(reader[ordinal]) for ordinal in range(20)] == payloads
    said = " ".join(reader.remarks)
    if lines == 20:
        assert not said
    elif lines:
        assert f"a.idx ends early: it lists {counted(lines, 'record')}, and {20 - lines} more stand behind " in said
    else:
        assert f"a.idx is {'missing' if lines is None else 'empty'}: a.rec was read to find its 20 records" in said
    assert sorted(file.name for file in tmp_path.iterdir()) == before


@pytest.mark.parametrize(("bytes_left", "left"), [(0, 5), (-1, 5), (-2, 4), (-3, 4), (-9, 3)])
def test_an_index_that_is_cut_amid_a_line(tmp_path: Path, bytes_left: int, left: int) -> None:
    path = write(tmp_path / "a.rec", [bytes([key]) * 1000 for key in range(5)])
    offsets = RecordReader(path).offsets.tolist()
    os.truncate(index_path(path), index_path(path).stat().st_size + bytes_left)
    reader = RecordReader(path)
    assert reader.offsets.tolist() == offsets
    assert [f"lists {left} records" in remark for remark in reader.remarks] == ([True] if left < 5 else [])


def test_the_index_of_another_record_is_told_from_a_damaged_record(tmp_path: Path) -> None:
    path = write(tmp_path / "a.rec", [bytes([key]) * 1000 for key in range(40)])
    write(tmp_path / "b.rec", [bytes([key]) * 996 for key in range(40)])
    before = index_path(path).read_bytes()
    (tmp_path / "b.idx").replace(index_path(path))
    with pytest.raises(
        ResnetError, match=r"a\.idx is another record's index: a\.rec has no records where it says; make"
    ):
        RecordReader(path)
    index_path(path).write_bytes(before)
    with path.open("rb+") as file:
        file.seek(39 * 1008)
        file.write(b"none")
    with pytest.raises(ResnetError, match=r"a\.rec: record 39 at byte 39312 is damaged"):
        RecordReader(path)


def _keep_lines(path: Path, numbers: list[int]) -> None:
    lines = index_path(path).read_text().splitlines(keepends=True)
    index_path(path).write_text("".join(lines[number] for number in numbers))


@pytest.mark.parametrize(
    ("kept", "before", "records"),
    [
        ([0, 1, 3, 4], 1, "the record at byte 2016 on"),
        ([0, 4, 2, 3], 0, "the record at byte 1008 on"),
        ([4, 0], 1, "the 3 records from byte 1008 on"),
    ],
)
def test_what_the_index_leaves_out_is_said_when_the_record_before_it_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kept: list[int], before: int, records: str
) -> None:
    path = write(tmp_path / "a.rec", [bytes([key]) * 1000 for key in range(5)])
    _keep_lines(path, kept)
    reader = RecordReader(path)
    assert not reader.remarks
    for number in range(len(kept)):
        if number != before:
            assert reader[number][0] == kept[number]
    assert not capsys.readouterr().err
    assert reader[before][0] == kept[before]
    assert capsys.readouterr().err == (
        f"warning: {index_path(path)} leaves out records, such as {records}; they are not read. "
        f"`resnet-v2 index {path}` makes a whole one\n"
    )
    _ = reader[before]
    assert not capsys.readouterr().err


def test_what_the_index_leaves_out_before_its_first_record_is_said(tmp_path: Path) -> None:
    path = write(tmp_path / "a.rec", [bytes([key]) * 1000 for key in range(5)])
    _keep_lines(path, [2, 3, 4])
    (remark,) = RecordReader(path).remarks
    assert "a.idx leaves out records, such as the 2 records from byte 0 on; they are not read. `resnet" in remark


def test_damaged_bytes_between_two_records_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "a.rec", [bytes([key]) * 1000 for key in range(3)])
    with path.open("rb+") as file:
        file.seek(1008)
        file.write(b"none")
    _keep_lines(path, [0, 2])  # as `index` makes it
    reader = RecordReader(path)
    _ = reader[1], reader[0]
    said = (
        f"warning: 1008 bytes from byte 1008 of {path} on are in no whole record; `resnet-v2 verify {path}` tells more"
    )
    assert capsys.readouterr().err == f"{said}\n"


@pytest.mark.parametrize(("kept", "lines"), [([0, 1, 1, 2], 1), ([2, 1, 0, 2, 1], 2)])
def test_records_that_the_index_names_again_are_said(tmp_path: Path, kept: list[int], lines: int) -> None:
    path = write(tmp_path / "a.rec", [bytes([key]) * 1000 for key in range(3)])
    _keep_lines(path, kept)
    reader = RecordReader(path)
    (remark,) = reader.remarks
    names = "it names" if lines == 1 else "they name"
    said = f"a.idx has {counted(lines, 'line')} too many: {names} a record again, first that at byte 1008, and it is"
    assert said in remark
    assert [reader[number][0] for number in range(len(kept))] == kept
    assert reader.lengths(np.arange(len(kept))).tolist() == [1008] * len(kept)


def test_bytes_behind_the_last_record_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "a.rec", [b"x" * 1000] * 3)
    with path.open("ab") as file:
        file.write(MAGIC_BYTES + b"\1" * 30)
    reader = RecordReader(path)
    _ = reader[2]
    assert not capsys.readouterr().err
    (remark,) = reader.remarks
    assert remark == f"warning: the last 34 bytes of {path} are no whole record; `resnet-v2 verify {path}` tells more"


def test_what_holds_no_record_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.rec").write_bytes(b"no record" * 1000)
    with pytest.raises(ResnetError, match=r"a\.rec holds no whole record; it is damaged or no RecordIO file"):
        RecordReader(tmp_path / "a.rec")
    (tmp_path / "a.rec").write_bytes(b"")
    assert len(RecordReader(tmp_path / "a.rec")) == 0


def test_records_are_found_by_their_headers_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "a.rec", [bytes(100_000)] * 30)
    found = read_bytes_of(lambda: list(scan(path)))
    assert found < 30 * 5000


def read_bytes_of(work: Callable[[], object]) -> int:
    """The bytes that something reads of files."""

    def read() -> int:
        return int(Path("/proc/self/io").read_text().split()[1])

    before = read()
    work()
    return read() - before


@pytest.mark.parametrize("text", ["0\tx\n", "0\n", "0\t-5\n", "0\t-1\n", "0\t0\t0\n", "\xff", "0\t#\n", "0\t0#\n"])
def test_damaged_index(tmp_path: Path, text: str) -> None:
    path = write(tmp_path / "a.rec", [b"x"])
    index_path(path).write_text(text, encoding="latin-1")
    with pytest.raises(ResnetError, match=r"a\.idx (is damaged|has a negative offset)"):
        RecordReader(path)


def test_a_flipped_bit_hides_no_line_of_an_index(tmp_path: Path) -> None:
    path = write(tmp_path / "a.rec", [b"x"] * 4)
    text = index_path(path).read_text()
    index_path(path).write_text(text.replace("3\t", "#\t"))  # 0x33 and 0x23
    reader = RecordReader(path)
    assert len(reader) == 4
    with pytest.raises(ResnetError, match=r"a\.idx is damaged"):
        _ = reader.keys


def test_keys_are_those_of_the_index(tmp_path: Path) -> None:
    with writing(tmp_path / "a.rec") as writer:
        for key in (7, 3, 11):
            writer.write(key, b"x")
    assert RecordReader(tmp_path / "a.rec").keys.tolist() == [7, 3, 11]


def test_truncated_file_is_noticed_on_opening(tmp_path: Path) -> None:
    path = write(tmp_path / "a.rec", [b"x" * 1000] * 3)
    os.truncate(path, 2 * 1008 + 500)
    with pytest.raises(ResnetError, match=r"a\.rec: record 2 at byte 2016 is damaged \(the file ends inside it\)"):
        RecordReader(path)
    os.truncate(path, 1500)
    with pytest.raises(ResnetError, match="cut short"):
        RecordReader(path)


def test_damaged_record_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.rec", [b"x" * 1000, b"y" * 1000, b"z" * 1000])
    with path.open("rb+") as file:
        file.seek(1008)
        file.write(b"\0\0\0\0")
    reader = RecordReader(path)
    assert bytes(reader[0]) == b"x" * 1000
    assert bytes(reader[2]) == b"z" * 1000
    with pytest.raises(ResnetError, match="record 1 at byte 1008 is damaged"):
        reader[1]
    assert list(scan(path)) == [(0, 1008), (2016, 3024)]


@pytest.mark.parametrize("length", [(1 << 16) - 12, (1 << 16) - 8, 1 << 16, 200_000, 200_001])
def test_the_next_record_is_found_behind_a_long_damaged_one(tmp_path: Path, length: int) -> None:
    """Its magic number may be one of the last words of what is read at once."""
    path = write(tmp_path / "a.rec", [b"x" * length, b"good", b"z"])
    with path.open("rb+") as file:
        file.write(b"\0\0\0\0")
    start = 8 + length + -length % 4
    assert list(scan(path)) == [(start, start + 12), (start + 12, start + 24)]


def test_a_reader_that_is_gone_has_closed_its_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.rec", [b"x"])

    def opened() -> int:
        return sum(os.path.realpath(one) == str(path) for one in Path("/proc/self/fd").iterdir())

    reader = RecordReader(path)
    assert opened() == 1
    del reader
    assert opened() == 0


def test_a_reader_closes_its_file_once(tmp_path: Path) -> None:
    """The number of a closed file may by then be another file's."""
    path = write(tmp_path / "a.rec", [b"x"])
    reader = RecordReader(path)
    reader.close()
    with path.open("rb") as other:
        del reader
        assert other.read(1) == MAGIC_BYTES[:1]


@given(st.binary(max_size=200))
def test_no_bytes_crash_the_reader(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("rec") / "a.rec"
    path.write_bytes(MAGIC_BYTES + data)
    with path.open("rb") as file, contextlib.suppress(ValueError):
        read_record(file.fileno(), 0)
    list(scan(path))


def test_too_long_a_record_is_refused() -> None:
    too_long = memoryview(bytearray(1 << 29))
    with pytest.raises(ValueError, match="too long"):
        frame(too_long)


def test_a_record_of_many_parts_takes_little_memory(tmp_path: Path) -> None:
    path, payload = tmp_path / "a.rec", MAGIC_BYTES * 3000 + bytes(5000)
    path.write_bytes(b"".join(frame(payload)))
    with path.open("rb") as file:
        tracemalloc.start()
        try:
            assert read_record(file.fileno(), 0)[0] == payload
            assert tracemalloc.get_traced_memory()[1] < 2_000_000
        finally:
            tracemalloc.stop()


def test_a_record_written_anew_loses_the_rows_of_the_old_one(tmp_path: Path) -> None:
    path = write(tmp_path / "a.rec", [b"one"])
    rows = path.with_suffix(".rows")
    rows.write_bytes(b"of the old record")
    write(path, [b"two"])
    assert not rows.exists()


def test_a_record_never_stands_beside_the_index_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, replace, beside = write(tmp_path / "a.rec", [b"one"]), Path.replace, list[bool]()

    def replace_and_look(source: Path, target: Path) -> Path:
        done = replace(source, target)
        beside.extend([path.with_suffix(".idx").exists()] if Path(target) == path else [])
        return done

    monkeypatch.setattr(Path, "replace", replace_and_look)
    write(path, [b"two", b"three"])
    assert beside == [False]


def test_a_record_that_cannot_be_flushed_leaves_the_earlier_one_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.rec"
    with writing(path) as writer:
        writer.write(0, b"old")
    path.with_suffix(".rows").write_bytes(b"side")
    before = {one.name: one.read_bytes() for one in tmp_path.iterdir()}

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(ResnetError, match="the disk is full"):
        patch.setattr(os, "fsync", full)
        with writing(path) as writer:
            writer.write(0, b"new")
    assert {one.name: one.read_bytes() for one in tmp_path.iterdir()} == before


@pytest.mark.parametrize("line", ["3\t4#", "#"])
def test_a_flipped_bit_makes_no_comment_of_an_index(line: str, tmp_path: Path) -> None:
    (tmp_path / "a.rec").write_bytes(b"x")
    (tmp_path / "a.idx").write_text(f"0\t0\n{line}\n2\t96\n")
    with pytest.raises(ResnetError, match=r"a\.idx is damaged"):
        read_index(tmp_path / "a.rec")


def test_an_index_with_an_endless_line_is_refused(tmp_path: Path) -> None:
    with writing(tmp_path / "a.rec") as writer:
        writer.write(0, b"abcd")
    (tmp_path / "a.idx").write_text("0\t0\n" + "1" * (1 << 18))
    with pytest.raises(ResnetError, match=r"a\.idx is damaged \(a line has more than 65536 bytes\)"):
        read_index(tmp_path / "a.rec")


@pytest.mark.parametrize("lines", [0, 2])
def test_bytes_in_no_record_are_told_where_the_file_is_read(tmp_path: Path, lines: int) -> None:
    path = write(tmp_path / "a.rec", [bytes([key]) * 100 for key in range(9)])
    text, size = index_path(path).read_text().splitlines(keepends=True), path.stat().st_size
    index_path(path).write_text("".join(text[:lines]))
    data = bytearray(path.read_bytes())
    data[4 * size // 9] ^= 1
    path.write_bytes(data[:-4])
    reader = RecordReader(path)
    assert len(reader) == 7
    assert reader.remarks[1:] == (
        f"warning: {2 * size // 9 - 4} bytes of {path} are in no whole record; `resnet-v2 verify {path}` tells more",
    )
