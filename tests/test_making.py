"""Packing in processes: the same bytes as in threads, what is said of one that dies, and nothing left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conftest import Run
from processes import PATIENCE_SECONDS
from resnet_v2.packing import making, pack
from resnet_v2.packing.making import Making, Processes
from resnet_v2.packing.shaping import Shape
from resnet_v2.packing.stores import store_of

MAKING = Making(Shape(30, 1, False, None), store_of("jpeg", 90), pass_through=False)


@pytest.fixture
def lists(class_folder: Path, tmp_path: Path, run: Run) -> Path:
    assert run("list", class_folder, tmp_path / "a", "--val-per-class", 1)[0] == 0
    return tmp_path


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch) -> list[Processes]:
    """Processes are taken for two threads and one image already; here are those that were."""
    monkeypatch.setattr(pack, "MOST_THREADS", 1)
    monkeypatch.setattr(pack, "WORTH_A_PROCESS", 0)
    taken: list[Processes] = []

    class Watched(Processes):
        def __init__(self, making: Making, count: int) -> None:
            super().__init__(making, count)
            taken.append(self)

    monkeypatch.setattr(pack, "Processes", Watched)
    return taken


def words(lists: Path, root: Path, name: str, *more: object) -> tuple[object, ...]:
    return "pack", lists / "a_train.lst", root, lists / name, *more


@pytest.mark.parametrize("more", [("--resize", 30), ("--resize", 30, "--store", "png"), ("--pass-through",)])
def test_bytes_are_those_of_threads(
    lists: Path, class_folder: Path, run: Run, many: list[Processes], more: tuple[object, ...]
) -> None:
    (class_folder / "ant" / "000.jpg").write_bytes(b"no image")
    ends = [run(*words(lists, class_folder, f"{threads}.rec", *more, "--threads", threads)) for threads in (1, 2)]
    for ending in (".rec", ".idx"):
        assert (lists / f"1{ending}").read_bytes() == (lists / f"2{ending}").read_bytes()
    assert [status for status, *_ in ends] == [0, 0]
    named = [line for line in ends[1][2].splitlines() if "000.jpg is no readable image" in line]
    assert named == [line for line in ends[0][2].splitlines() if "000.jpg is no readable image" in line] != []
    assert len(many) == 1
    assert not any(map(alive, many[0].pids))


def test_a_process_that_dies_ends_the_run_and_the_others(
    lists: Path, class_folder: Path, run: Run, many: list[Processes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed_first(self: Processes, *given: object) -> making.Record:
        os.kill(self.pids[0], signal.SIGKILL)
        return make(self, *given)  # type: ignore[arg-type]

    make = Processes.make
    monkeypatch.setattr(Processes, "make", killed_first)
    status, _, err = run(*words(lists, class_folder, "2.rec", "--threads", 2, "--on-error", "skip"))
    assert status == 2
    last = err.splitlines()[-1]
    assert last.startswith("resnet-v2: A process that packs ")
    assert last.endswith(" was ended; where memory is short, give fewer --threads.")
    assert not (lists / "2.rec").exists()
    assert not any(map(alive, many[0].pids))


def test_processes_end_with_whoever_started_them() -> None:
    program = (
        "import sys; sys.path[:] = " + repr(sys.path) + "\n"
        "from test_making import MAKING; from resnet_v2.packing.making import Processes\n"
        "crew = Processes(MAKING, 2); print(*crew.pids, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2
        assert all(map(alive, pids))
        parent.kill()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while any(map(alive, pids)):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
