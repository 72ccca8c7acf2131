"""Runs of `pack` that are really killed, at every awkward moment, and started again."""

import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import Run
from processes import wait_until
from resnet_v2.data.index import index_path
from resnet_v2.data.lists import read_list
from resnet_v2.data.records import frame
from resnet_v2.data.sidecar import Rows, sidecar_path, write_rows
from resnet_v2.packing import resume

# `pack` in a process that notes its progress often and kills itself at the given call of write, checkpoint or replace,
# or hangs behind a byte of the record until it is killed.
KILLED = """
import os, pathlib, signal, sys, time
from resnet_v2.packing import resume
from resnet_v2.cli import main

place, count = sys.argv[1].split(":")
calls = 0

def counted(function):
    def call(*arguments, **options):
        global calls
        calls += 1
        if place == "hang" and arguments[0]._rec.tell() > int(count):
            time.sleep(10**6)
        if place != "hang" and calls == int(count):
            if place == "write":  # half a record, and an index line without an end
                arguments[0]._rec.write(arguments[2][: len(arguments[2]) // 2])
                arguments[0]._rec.flush()
                arguments[0]._idx.write(b"12")
                arguments[0]._idx.flush()
                arguments[0]._rows.write(b"123")
                arguments[0]._rows.flush()
            if place == "checkpoint":
                arguments[0]._journal.write(b'{"entries": 1')
                arguments[0]._journal.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)
    return call

resume.CHECKPOINT_SECONDS = 0.0
owner = {"write": resume.PartWriter, "checkpoint": resume.PartWriter, "replace": pathlib.Path, "unlink": pathlib.Path}
name = "write" if place == "hang" else place
setattr(owner[name], name, counted(getattr(owner[name], name)))
sys.exit(main(sys.argv[2:]))
"""


@pytest.fixture
def command(class_folder: Path, tmp_path: Path, run: Run) -> list[str]:
    """The words of a `pack` of 24 images, of which one is bad, without the .rec."""
    assert run("list", class_folder, tmp_path / "a")[0] == 0
    bad = list(read_list(tmp_path / "a_train.lst"))[4].path
    (class_folder / bad).write_bytes(b"no image")
    return ["pack", str(tmp_path / "a_train.lst"), str(class_folder), "--resize=30", "--threads=2"]


def killed(place: str, command: list[str], out: Path) -> None:
    process = subprocess.run([sys.executable, "-c", KILLED, place, *command, str(out)], capture_output=True)
    assert process.returncode == -signal.SIGKILL, process.stderr.decode()


def files_of(out: Path) -> list[bytes]:
    assert not [path for path in out.parent.iterdir() if path.name.startswith(f".{out.stem}")]
    return [path.read_bytes() for path in (out, index_path(out), sidecar_path(out))]


@pytest.mark.parametrize(
    "places",
    [
        ["write:1"],
        ["write:20"],
        ["checkpoint:1"],
        ["checkpoint:9"],
        ["checkpoint:25"],
        ["replace:1"],
        ["replace:2"],
        ["replace:3"],
        ["unlink:1"],
        ["unlink:2"],
        ["write:3", "write:5", "checkpoint:2", "replace:2"],
    ],
)
def test_a_killed_run_goes_on_to_the_same_bytes(
    command: list[str], tmp_path: Path, run: Run, places: list[str]
) -> None:
    assert run(*command, tmp_path / "whole.rec")[0] == 0
    out = tmp_path / "out.rec"
    for place in places:
        killed(place, command, out)
        assert place.startswith(("replace:2", "replace:3", "unlink")) or not out.exists()
    status, printed, _ = run(*command, out)
    assert status == 0
    assert "23 images packed, 1 skipped" in printed
    assert files_of(out) == files_of(tmp_path / "whole.rec")


@pytest.mark.parametrize("left", ["whole", "torn", "short", "none"])
def test_the_rows_are_made_of_what_is_left_of_their_notes(
    command: list[str], tmp_path: Path, run: Run, left: str
) -> None:
    out, notes = tmp_path / "out.rec", tmp_path / ".out.rows.part"
    killed("replace:3", command, out)  # the record has its name, and no .rows yet
    assert notes.stat().st_size and not sidecar_path(out).exists()
    if left in ("torn", "short"):
        os.truncate(notes, notes.stat().st_size - (3 if left == "torn" else 4))
    elif left == "none":
        notes.unlink()
    status, _, said = run(*command, out)
    assert (status, "going on after 24 images" in said) == (0, True)  # no image is packed again
    packed = files_of(out)
    write_rows(out, Rows(out).origin())
    assert files_of(out) == packed


def test_a_journal_of_an_earlier_version_starts_anew(command: list[str], tmp_path: Path, run: Run) -> None:
    """Such a run kept no notes for the `.rows`."""
    out, journal = tmp_path / "out.rec", tmp_path / ".out.rec.journal"
    killed("write:20", command, out)
    first, *lines = journal.read_text().splitlines()
    short = [json.loads(line) for line in lines]
    short = [json.dumps(line | {"file_bytes": line["file_bytes"][:2]}) for line in short]
    journal.write_text("\n".join([first, *short]) + "\n")
    status, printed, said = run(*command, out)
    assert (status, "23 images packed" in printed, "going on" in said) == (0, True, False)


def test_killed_at_any_time(command: list[str], class_folder: Path, tmp_path: Path, run: Run) -> None:
    lines = (tmp_path / "a_train.lst").read_text().splitlines() * 20
    (tmp_path / "a_train.lst").write_text("\n".join(lines) + "\n")
    assert run(*command, tmp_path / "whole.rec")[0] == 0
    out, part = tmp_path / "out.rec", tmp_path / ".out.rec.part"
    size = (tmp_path / "whole.rec").stat().st_size
    for share in (0.1, 0.4, 0.7):
        hang = f"hang:{int(0.9 * size)}"  # however late this process sees how far that one is
        process = subprocess.Popen([sys.executable, "-c", KILLED, hang, *command, str(out)], stderr=subprocess.DEVNULL)
        wait_until(lambda share=share: part.exists() and part.stat().st_size > share * size, "packing", 0.001)  # type: ignore[misc]
        process.kill()
        assert process.wait() == -signal.SIGKILL
    _, _, err = run(*command, out)
    assert "going on after" in err
    assert files_of(out) == files_of(tmp_path / "whole.rec")


def test_other_settings_start_anew(command: list[str], tmp_path: Path, run: Run) -> None:
    out = tmp_path / "out.rec"
    killed("write:20", command, out)
    _, _, err = run(*command, out, "quality=50")
    assert "other settings (quality); it is started anew" in err
    run(*command, tmp_path / "whole.rec", "quality=50")
    assert files_of(out) == files_of(tmp_path / "whole.rec")
    killed("write:20", command, out)
    lst = tmp_path / "a_train.lst"
    lst.write_text("".join(sorted(lst.read_text().splitlines(keepends=True))))
    assert "other settings (list); it is started anew" in run(*command, out)[2]


def test_a_journal_that_promises_too_much_is_not_believed(command: list[str], tmp_path: Path, run: Run) -> None:
    out, part = tmp_path / "out.rec", tmp_path / ".out.rec.part"
    killed("write:20", command, out)
    os.truncate(part, part.stat().st_size // 2)  # as after a power cut
    assert run(*command, out)[0] == 0
    run(*command, tmp_path / "whole.rec")
    assert files_of(out) == files_of(tmp_path / "whole.rec")
    killed("write:20", command, out)
    (tmp_path / ".out.rec.journal").write_bytes(b"\0" * 100 + b"\n[1]\n")
    assert run(*command, out)[0] == 0
    assert files_of(out) == files_of(tmp_path / "whole.rec")


def test_two_runs_at_once_are_refused(command: list[str], tmp_path: Path, run: Run) -> None:
    with resume.resuming(tmp_path / "out.rec", {"a": 1}):
        status, _, err = run(*command, tmp_path / "out.rec")
        assert status == 2
        assert "is being packed by another run" in err


def test_an_old_record_stays_until_the_new_one_is_whole(command: list[str], tmp_path: Path, run: Run) -> None:
    out = tmp_path / "out.rec"
    run(*command, out)
    before = files_of(out)
    killed("write:9", [*command, "--quality=30"], out)
    assert [path.read_bytes() for path in (out, index_path(out), sidecar_path(out))] == before
    journal = (tmp_path / ".out.rec.journal").read_text().splitlines()
    assert json.loads(journal[0])["quality"] == 30


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(5, "Input/output error")])
def test_a_write_that_ends_in_the_middle_is_cut_off(
    error: BaseException, command: list[str], tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record's bytes are there, and the index has no line yet."""
    assert run(*command, tmp_path / "whole.rec")[0] == 0
    write, calls = resume.PartWriter.write, itertools.count()

    def failing(writer: resume.PartWriter, key: int, payload: bytes, rows: bytes) -> None:
        if next(calls) == 7:
            writer._rec.writelines(frame(payload))
            raise error
        write(writer, key, payload, rows)

    with monkeypatch.context() as patch:
        patch.setattr(resume.PartWriter, "write", failing)
        assert run(*command, tmp_path / "a.rec")[0] in (2, 130)
    status, _, said = run(*command, tmp_path / "a.rec")
    assert (status, "going on after" in said) == (0, True)
    assert files_of(tmp_path / "a.rec") == files_of(tmp_path / "whole.rec")
