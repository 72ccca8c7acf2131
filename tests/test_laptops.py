"""Other people's laptops: what Windows lacks is not needed, and what it does in another way does no harm.

None of this runs on Windows itself: its lacks are put on top of this machine, which finds a function that is missing
there, not one that behaves differently.
"""

import ast
import errno
import os
import subprocess
import sys
import types
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from conftest import Run
from resnet_v2 import portable
from resnet_v2.data import records, source
from resnet_v2.data.records import RecordReader, writing
from resnet_v2.errors import ResnetError
from resnet_v2.files import open_regular
from resnet_v2.packing.resume import resuming
from resnet_v2.packing.rows_part import note
from resnet_v2.recompute.budget import free_bytes

SOURCES = Path(__file__).parents[1] / "src" / "resnet_v2"

# The libraries come first: their builds for Linux may count on what is taken away. At the end: Windows neither removes
# nor replaces a file that is open or mapped.
HIDING = """
import ctypes, os, signal, sys
import cv2, matplotlib.pyplot, safetensors.torch, sklearn.datasets, torch, tqdm, tyro

for name in ("fork", "getpgid", "geteuid", "killpg", "pread", "preadv", "pwrite", "sched_getaffinity", "sysconf",
             "sysconf_names"):
    delattr(os, name)
for name in ("SIGHUP", "SIGKILL", "SIGQUIT", "SIGUSR1"):
    delattr(signal, name)
for name in ("fcntl", "pwd", "resource", "termios"):
    sys.modules[name] = None

class Library(ctypes.CDLL):
    def __init__(self, name, *rest, **options):
        if name is None:
            raise TypeError("argument of type 'NoneType' is not iterable")
        super().__init__(name, *rest, **options)

ctypes.CDLL = Library

def refusing(function):
    def call(*paths, **options):
        wanted = {os.path.realpath(path) for path in paths}
        opened = {os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")}
        with open("/proc/self/maps", encoding="utf-8") as maps:
            opened |= {line.split(None, 5)[-1].strip() for line in maps}
        if wanted & opened:
            raise PermissionError(13, "The process cannot access the file because it is being used", *wanted & opened)
        return function(*paths, **options)
    return call

for name in ("remove", "rename", "replace", "unlink"):
    setattr(os, name, refusing(getattr(os, name)))
"""

# What `make demo` does, smaller, and a run that goes on.
DEMO = (
    "data digits --out digits",
    "train --data-dir digits --data-type digits --depth 8 --batch-size 16 --epochs 1 --num-examples 64 --device cpu "
    "--model-prefix model/m",
    "train --data-dir digits --data-type digits --depth 8 --batch-size 16 --epochs 2 --num-examples 64 --device cpu "
    "--model-prefix model/m --resume --force --keep 1",
    "evaluate --prefix model/m --epoch 2 --rec digits/digits_val.rec --device cpu --json",
    "plot --logs model/m.log --out curve.png",
    "predict --img digits/examples/7.png --prefix model/m --epoch 2 --top 2",
)


@pytest.mark.slow
def test_the_demo_needs_nothing_that_windows_lacks(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    usual, without = tmp_path / "usual", tmp_path / "without"
    for folder in (usual, without):
        folder.mkdir()
    program = f"{HIDING}\nfrom resnet_v2.cli import main\nfor words in {DEMO}:\n    assert main(words.split()) == 0\n"
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [sys.executable, "-c", program]
    finished = subprocess.run(command, cwd=without, env=environment, capture_output=True, check=False)
    assert finished.returncode == 0, finished.stderr.decode()
    monkeypatch.chdir(usual)
    done = [run(*words.split()) for words in DEMO]
    assert [status for status, _, _ in done] == [0] * len(DEMO)
    answers = "".join(out for _, out, _ in done[3:])
    assert answers.startswith('{"images"')
    assert finished.stdout.decode().endswith(answers)
    for name in ("digits_train.rec", "digits_train.idx", "digits_train.lst", "digits_val.rec", "synset.txt"):
        assert (usual / "digits" / name).read_bytes() == (without / "digits" / name).read_bytes()
    one, other = (safetensors.torch.load_file(folder / "model" / "m-0002.safetensors") for folder in (usual, without))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert (without / "curve.png").stat().st_size > 10_000


@pytest.mark.parametrize("read", [portable.read_at, portable.seek_and_read])
def test_threads_read_at_their_own_places(tmp_path: Path, read: Callable[[int, int, int], bytes]) -> None:
    data = np.random.default_rng(0).bytes(100_000)
    (tmp_path / "a").write_bytes(data)
    descriptor = open_regular(tmp_path / "a")
    places = np.random.default_rng(1).integers(0, len(data), 4000).tolist()
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda place: read(descriptor, 500, place), places)) == [
            data[place : place + 500] for place in places
        ]
    assert read(descriptor, 500, len(data) - 2) == data[-2:]
    assert read(descriptor, 500, len(data) + 2) == b""
    os.truncate(tmp_path / "a", 10)
    assert read(descriptor, 500, 4) == data[4:10]
    os.close(descriptor)
    with pytest.raises(OSError, match="Bad file descriptor"):
        read(descriptor, 1, 0)


@pytest.mark.parametrize("read", [portable.read_at, portable.seek_and_read])
def test_records_that_became_shorter_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[int, int, int], bytes]
) -> None:
    monkeypatch.setattr(source, "read_at", read)
    with writing(tmp_path / "a.rec") as writer:
        for key in range(100):
            writer.write(key, bytes([key]) * 1000)
    reader = RecordReader(tmp_path / "a.rec")
    with ThreadPoolExecutor(8) as pool:
        assert [bytes(record) for record in pool.map(reader.__getitem__, range(100))] == [
            bytes([key]) * 1000 for key in range(100)
        ]
    os.truncate(tmp_path / "a.rec", 50_000)
    assert bytes(reader[0]) == bytes(1000)
    with pytest.raises(ResnetError, match="record 99 at byte 99792 is damaged"):
        reader[99]
    reader.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        reader[0]


def test_an_empty_record_is_read(tmp_path: Path) -> None:
    with writing(tmp_path / "a.rec"):
        pass
    assert len(RecordReader(tmp_path / "a.rec")) == 0
    assert list(records.scan(tmp_path / "a.rec")) == []


def test_memory_that_cannot_be_asked_for_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sysconf")
    monkeypatch.delattr(os, "sysconf_names")
    monkeypatch.setattr("resnet_v2.machine._read", lambda _: "")  # no /proc
    with pytest.raises(ResnetError, match="give `memory_budget`"):
        free_bytes(torch.device("cpu"))


def test_names_that_the_output_cannot_hold_are_escaped(trained: str, digits: Path, tmp_path: Path) -> None:
    """As on Windows, where a pipe or a file takes 256 letters."""
    (tmp_path / "names.txt").write_text("\n".join("狗é" for _ in range(10)), encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "resnet_v2",
        "predict",
        "--img",
        digits / "examples" / "7.png",
        "--prefix",
        trained,
        "--epoch",
        "4",
        "--synset",
        tmp_path / "names.txt",
        "--device",
        "cpu",
    ]
    environment = os.environ | {"PYTHONIOENCODING": "cp1252"}
    finished = subprocess.run([str(word) for word in command], env=environment, capture_output=True, check=False)
    assert finished.returncode == 0, finished.stderr.decode()
    assert "\\u72d7é" in finished.stdout.decode("cp1252")


def test_text_files_name_their_encoding() -> None:
    pytest.importorskip("ruff", reason="missing ruff: pip install ruff")
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--preview", "--select=PLW1514", str(SOURCES)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout


def test_text_files_are_written_with_line_feeds_alone() -> None:
    for path in SOURCES.rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute):
                given = {keyword.arg for keyword in call.keywords}
                reads = call.func.attr == "open" and not call.args
                if call.func.attr in ("open", "write_text") and "encoding" in given and not reads:
                    assert "newline" in given, f"{path}, line {call.lineno} writes other bytes on Windows"


def test_a_lock_of_windows_keeps_two_runs_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "msvcrt", imitated_msvcrt())
    monkeypatch.setattr(sys, "platform", "win32")
    out = tmp_path / "a.rec"
    with resuming(out, {"a": 1}) as writer:
        writer.write(0, b"one", note(b"one"))
        with pytest.raises(ResnetError, match="is being packed by another run"), resuming(out, {"a": 1}):
            pass
        writer.write(1, b"two", note(b"two"))
    assert [bytes(RecordReader(out)[ordinal]) for ordinal in range(2)] == [b"one", b"two"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.idx", "a.rec", "a.rows"]


def imitated_msvcrt() -> types.ModuleType:
    fcntl = pytest.importorskip("fcntl", reason="missing fcntl: this system has none")
    module = types.ModuleType("msvcrt")

    def locking(descriptor: int, mode: int, count: int) -> None:
        assert (os.lseek(descriptor, 0, os.SEEK_CUR), mode, count) == (1 << 30, 2, 1)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PermissionError(errno.EACCES, "Permission denied") from None

    module.__dict__.update(locking=locking, LK_NBLCK=2)
    return module
