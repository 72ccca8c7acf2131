"""A queue or a container allows less than the machine has."""

import os
import re
from pathlib import Path

import pytest

from resnet_v2 import machine


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of this process's group, in another one, on a machine of 8 processors and 4 GiB of free memory."""
    groups, own, meminfo = tmp_path / "cgroup", tmp_path / "own", tmp_path / "meminfo"
    (groups / "job" / "step").mkdir(parents=True)
    own.write_text("0::/job/step\n")
    meminfo.write_text("MemTotal: 9 kB\nMemAvailable:    4194304 kB\n")
    monkeypatch.setattr(machine, "GROUPS", groups)
    monkeypatch.setattr(machine, "OWN_GROUP", own)
    monkeypatch.setattr(machine, "MEMINFO", meminfo)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    return groups / "job" / "step"


def test_without_limits(group: Path) -> None:
    assert (machine.processors(), machine.free_memory()) == (8, 4 << 30)
    (group / "cpu.max").write_text("max 100000\n")
    (group / "memory.max").write_text("max\n")
    (group / "memory.current").write_text("1000\n")
    assert (machine.processors(), machine.free_memory()) == (8, 4 << 30)


def test_the_smallest_limit_counts(group: Path) -> None:
    (group / "cpu.max").write_text("500000 100000\n")
    (group.parent / "cpu.max").write_text("250000 100000\n")  # two and a half: three threads use it up
    assert machine.processors() == 3
    for name, value in (("memory.max", 3 << 30), ("memory.current", 1 << 30)):
        (group.parent / name).write_text(f"{value}\n")
    assert machine.free_memory() == 2 << 30


def test_version_1_of_groups(group: Path) -> None:
    (machine.GROUPS / "cpu").mkdir()
    (machine.GROUPS / "memory").mkdir()
    (machine.GROUPS / "cpu/cpu.cfs_quota_us").write_text("150000\n")
    (machine.GROUPS / "cpu/cpu.cfs_period_us").write_text("100000\n")
    (machine.GROUPS / "memory/memory.limit_in_bytes").write_text(f"{1 << 30}\n")
    (machine.GROUPS / "memory/memory.usage_in_bytes").write_text("24\n")
    assert (machine.processors(), machine.free_memory()) == (2, (1 << 30) - 24)


def test_the_group_of_version_1_that_a_queue_made(group: Path) -> None:
    machine.OWN_GROUP.write_text("5:cpuset:/\n4:cpu,cpuacct:/job/step\n3:memory:/job/step\n0::/other\n")
    for name, value in (
        ("cpu/job/cpu.cfs_quota_us", "300000"),
        ("cpu/job/cpu.cfs_period_us", "100000"),
        ("memory/job/step/memory.limit_in_bytes", str(3 << 30)),
        ("memory/job/step/memory.usage_in_bytes", str(1 << 30)),
        ("memory/job/step/memory.stat", f"inactive_file 7\ntotal_inactive_file {1 << 20}\n"),
    ):
        (machine.GROUPS / name).parent.mkdir(parents=True, exist_ok=True)
        (machine.GROUPS / name).write_text(f"{value}\n")
    assert (machine.processors(), machine.free_memory()) == (3, (2 << 30) + (1 << 20))


def test_files_in_memory_are_given_back_in_need(group: Path) -> None:
    """A group that has read many records is at its limit, and yet has room; one that is full is not without a limit."""
    for name, value in (("memory.max", 1 << 30), ("memory.current", 1 << 30)):
        (group / name).write_text(f"{value}\n")
    assert machine.free_memory() == 1
    (group / "memory.stat").write_text(f"anon 5\nactive_file 9\ninactive_file {1 << 29}\nslab 1\n")
    assert machine.free_memory() == 1 << 29


def test_a_limit_that_is_none(group: Path) -> None:
    (group / "cpu.max").write_text("100000 0\n")
    assert machine.processors() == 8


def test_nobody_tells(group: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "MEMINFO", group / "missing")
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert (machine.processors(), machine.free_memory()) == (1, 0)


def test_how_long_a_process_waited_for_a_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.waited_for_core(os.getpid()) >= 0
    monkeypatch.setattr(machine, "PROCESSES", tmp_path)
    assert machine.waited_for_core(7) == 0
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "schedstat").write_text("106958577 2500000000 260\n")
    assert machine.waited_for_core(7) == 2.5


def test_nobody_else_counts_processors() -> None:
    package = Path(machine.__file__).parent
    asking = [
        path for path in package.rglob("*.py") if re.search("cpu_count|sched_getaffinity", path.read_text("utf-8"))
    ]
    assert asking == [Path(machine.__file__)]
