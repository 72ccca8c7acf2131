"""MXNet's recordio names: streams, indexes, pickling, forks, images."""

import multiprocessing
import os
import pickle
import resource
from pathlib import Path

import numpy as np
import pytest

from conftest import picture
from resnet_v2.data import recordio
from resnet_v2.data.records import MAGIC_BYTES, RecordReader


@pytest.fixture
def paths(tmp_path: Path) -> tuple[str, str]:
    """An index and a record of ten records with keys 0, 10, 20, ..."""
    idx, rec = str(tmp_path / "a.idx"), str(tmp_path / "a.rec")
    writer = recordio.MXIndexedRecordIO(idx, rec, "w")
    for number in range(10):
        assert writer.tell() == Path(rec).stat().st_size
        writer.write_idx(10 * number, b"record %d" % number + MAGIC_BYTES * (number % 3))
    writer.close()
    return idx, rec


def test_streams_end_with_none_and_reset(paths: tuple[str, str]) -> None:
    reader = recordio.MXRecordIO(paths[1], "r")
    first = [reader.read() for _ in range(11)]
    assert first[0] == b"record 0"
    assert first[9] == b"record 9"
    assert first[10] is None
    reader.reset()
    assert reader.read() == b"record 0"
    reader.close()
    reader.close()
    reader.open()
    assert reader.read() == b"record 0"


def test_records_by_key(paths: tuple[str, str]) -> None:
    reader = recordio.MXIndexedRecordIO(*paths, "r")
    assert reader.keys == list(range(0, 100, 10))
    assert reader.read_idx(50) == b"record 5" + MAGIC_BYTES * 2
    assert reader.read() == b"record 6"
    reader.seek(20)
    assert reader.read() == b"record 2" + MAGIC_BYTES * 2
    with pytest.raises(KeyError):
        reader.read_idx(5)
    assert [bytes(RecordReader(Path(paths[1]))[ordinal]) for ordinal in (0, 5)] == [
        reader.read_idx(0),
        reader.read_idx(50),
    ]


def test_a_later_duplicate_wins_and_keys_have_a_type(paths: tuple[str, str]) -> None:
    Path(paths[0]).write_text("a\t0\nb\t16\na\t16\n")
    reader = recordio.MXIndexedRecordIO(*paths, "r", key_type=str)
    assert reader.keys == ["a", "b", "a"]
    assert reader.idx == {"a": 16, "b": 16}


def test_writing_again_empties(paths: tuple[str, str]) -> None:
    writer = recordio.MXIndexedRecordIO(*paths, "w")
    writer.write_idx(0, b"x")
    writer.reset()
    assert (writer.keys, writer.idx, writer.tell()) == ([], {}, 0)
    writer.write_idx(7, b"y")
    writer.close()
    reader = recordio.MXIndexedRecordIO(*paths, "r")
    assert (reader.keys, reader.read_idx(7), reader.read()) == ([7], b"y", None)
    reader.reset()
    assert (reader.keys, reader.read()) == ([7], b"y")


def test_wrong_use(paths: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match="Invalid flag"):
        recordio.MXRecordIO(paths[1], "a")
    reader = recordio.MXRecordIO(paths[1], "r")
    with pytest.raises(AssertionError):
        reader.write(b"x")
    os.truncate(paths[1], 10)
    with pytest.raises(ValueError, match="ends inside"):
        reader.read()


@pytest.mark.parametrize("is_open", [True, False])
def test_pickled_readers_open_anew(paths: tuple[str, str], is_open: bool) -> None:
    reader = recordio.MXIndexedRecordIO(*paths, "r")
    reader.read()
    if not is_open:
        reader.close()
    copy = pickle.loads(pickle.dumps(reader))  # noqa: S301 (MXNet users pickle their own readers)
    assert copy.is_open is is_open
    if is_open:
        assert copy.read() == b"record 0"
        assert copy.read_idx(90) == b"record 9"


def _in_child(reader: recordio.MXIndexedRecordIO, answers: "multiprocessing.SimpleQueue[object]") -> None:
    try:
        reader.read()
        answers.put("read")
    except RuntimeError as error:
        answers.put(str(error))
    answers.put(reader.read_idx(30))


def test_after_a_fork(paths: tuple[str, str]) -> None:
    reader = recordio.MXIndexedRecordIO(*paths, "r")
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    child = context.Process(target=_in_child, args=(reader, answers))
    child.start()
    child.join()
    assert answers.get() == "Forbidden operation in multiple processes"
    assert answers.get() == b"record 3"
    assert reader.read() == b"record 0"


def test_a_fork_writes_nothing_twice(tmp_path: Path) -> None:
    idx, rec = str(tmp_path / "a.idx"), str(tmp_path / "a.rec")
    writer = recordio.MXIndexedRecordIO(idx, rec, "w")
    writer.write_idx(0, b"x")
    child = multiprocessing.get_context("fork").Process(target=writer.close)
    child.start()
    child.join()
    writer.write_idx(1, b"y")
    writer.close()
    assert Path(idx).read_text() == "0\t0\n1\t12\n"
    assert Path(rec).stat().st_size == 24


def test_after_a_write_that_failed_the_next_record_stands_where_the_index_says(tmp_path: Path) -> None:
    idx, rec = str(tmp_path / "a.idx"), str(tmp_path / "a.rec")
    writer = recordio.MXIndexedRecordIO(idx, rec, "w")
    writer.write_idx(0, bytes(500))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (800, before[1]))
    try:
        with pytest.raises(OSError, match=r"a\.rec"):
            writer.write_idx(1, bytes(500))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    writer.write_idx(1, b"again")
    writer.close()
    reader = recordio.MXIndexedRecordIO(idx, rec, "r")
    assert reader.keys == [0, 1]
    assert (reader.read_idx(0), reader.read_idx(1)) == (bytes(500), b"again")


def test_headers() -> None:
    for label in (3, 2.5, np.float32(1.5)):
        header, content = recordio.unpack(recordio.pack((0, label, 5, 6), b"abc"))
        assert (header, content) == (recordio.IRHeader(0, float(label), 5, 6), b"abc")
    header, content = recordio.unpack(recordio.pack(recordio.IRHeader(9, [1, 2, 3], 5, 0), b"abc"))
    assert (header.flag, list(np.asarray(header.label)), content) == (3, [1, 2, 3], b"abc")


@pytest.mark.parametrize(("fmt", "quality"), [(".png", 3), (".PNG", 9), (".png", 95), (".PNG", 95), (".bmp", 95)])
def test_images_come_back(capfd: pytest.CaptureFixture[str], fmt: str, quality: int) -> None:
    pixels = picture(1, 30, 40)
    header, found = recordio.unpack_img(recordio.pack_img((0, 1.0, 2, 0), pixels, quality, fmt))
    assert header.label == 1.0
    assert np.array_equal(found, pixels)
    assert capfd.readouterr().err == ""  # OpenCV complains of a compression of 95, and of options unknown to a format


def test_pixels_that_cannot_be_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cv2.imencode", lambda *_: (False, np.empty(0, np.uint8)))
    with pytest.raises(ValueError, match="failed to encode image"):
        recordio.pack_img((0, 1.0, 2, 0), picture(1, 30, 40))


def test_jpeg_quality_counts() -> None:
    pixels = picture(1, 60, 60)
    assert len(recordio.pack_img((0, 1, 0, 0), pixels, 20)) < len(recordio.pack_img((0, 1, 0, 0), pixels, 95))
    assert recordio.unpack_img(recordio.pack_img((0, 1, 0, 0), pixels))[1].shape == (60, 60, 3)
