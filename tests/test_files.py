"""What is read is a file of a bounded size, what is written appears whole, and what a name says is escaped."""

import errno
import gzip
import io
import os
import resource
import types
from pathlib import Path
from typing import ClassVar

import pytest

from resnet_v2 import files
from resnet_v2.errors import ResnetError, printable
from resnet_v2.files import download, gunzip, parse_json, read_bytes, write_text
from resnet_v2.interchange.seal import is_sealed, sealed
from resnet_v2.portable import kept


def test_only_regular_files_of_a_bounded_size_are_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    assert read_bytes(tmp_path / "a", 5) == b"12345"
    with pytest.raises(OSError, match="it has 5 bytes"):
        read_bytes(tmp_path / "a", 4)
    with pytest.raises(IsADirectoryError):
        read_bytes(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_pipes_and_devices_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(OSError, match="a pipe or a device"):
            read_bytes(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_what_is_no_file_is_not_replaced(tmp_path: Path) -> None:
    """As root a rename would put a file in the place of /dev/null."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "link", "folder"):
        with pytest.raises(ResnetError, match=f"{name} is not written: it is a folder, a pipe or a device"):
            write_text(tmp_path / name, "text")
    assert (tmp_path / "pipe").is_fifo()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "link", "pipe"]


def test_gzip_unpacks_to_a_bounded_size() -> None:
    assert gunzip(gzip.compress(bytes(100)), 100) == bytes(100)
    with pytest.raises(OSError, match="more than 100 bytes"):
        gunzip(gzip.compress(bytes(101)), 100)


def test_json_that_is_nested_too_deep_is_a_wrong_value() -> None:
    assert parse_json("[1]") == [1]
    with pytest.raises(ValueError, match="too deep"):
        parse_json("[" * 100_000)


@pytest.mark.parametrize("address", ["file:///etc/hostname", "ftp://127.0.0.1/x", "data:,x", "nothing"])
def test_only_the_web_is_fetched(tmp_path: Path, address: str) -> None:
    with pytest.raises(ResnetError, match="copy it"):
        download(address, tmp_path / "x", "copy it")
    assert not list(tmp_path.iterdir())


def test_what_the_disk_says_of_a_folder_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="error") as caught:
        files.flush_folder(tmp_path)
    assert caught.value.filename == str(tmp_path)


def test_a_disk_that_fails_at_the_end_hides_no_error(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        with pytest.raises(ResnetError, match="what went wrong"), kept(tmp_path / "lock") as file:
            assert file is not None
            file.write(b"x")  # which stays in memory, and cannot be written when the file is closed
            raise ResnetError("what went wrong")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_names_do_not_speak_to_terminals() -> None:
    assert printable("grün 猫\u3000x") == "grün 猫\u3000x"
    assert printable("\x1b[2J\a\n\u202e\udcff\u2028") == r"\x1b[2J\x07\n\u202e\udcff\u2028"
    assert str(ResnetError("a\x1b.png is bad.")) == r"a\x1b.png is bad."


def test_a_sealed_model_is_known() -> None:
    data = sealed(b"model")
    assert is_sealed(data)
    for other in (b"", b"model", data[:-1], b"other" + data[5:]):
        assert not is_sealed(other)


@pytest.mark.skipif(os.name == "nt", reason="missing locks of files that can be renamed: not on Windows")
def test_what_a_killed_writer_left_goes_and_what_another_one_writes_stays(tmp_path: Path) -> None:
    left, others = tmp_path / ".a.rec.0123abcd.tmp", tmp_path / ".b.rec.0123abcd.tmp"
    left.write_text("half")
    others.write_text("half")
    with files.replacing(tmp_path / "a.rec") as first:
        assert not left.exists()
        with files.replacing(tmp_path / "a.rec") as second:
            assert first.exists()
            second.write_text("second")
        first.write_text("first")
        (first.parent / "note.tmp").write_text("mine")
    assert sorted(path.name for path in tmp_path.iterdir()) == [others.name, "a.rec", "note.tmp"]
    assert (tmp_path / "a.rec").read_text() == "first"


def test_a_connection_that_breaks_is_no_fault_of_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Answer(io.BytesIO):
        headers: ClassVar[dict[str, str]] = {}

        def read(self, count: int | None = -1) -> bytes:
            if self.tell():
                raise ConnectionResetError(104, "Connection reset by peer")
            return super().read(5)

    monkeypatch.setattr(files, "_HTTP", types.SimpleNamespace(open=lambda *_, **__: Answer(b"0123456789")))
    with pytest.raises(ResnetError, match=r"^http://a/b cannot be downloaded \(.*reset by peer.*\); ask\.$"):
        download("http://a/b", tmp_path / "b", "ask")
    assert not list(tmp_path.iterdir())
