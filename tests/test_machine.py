"""A queue or a container allows less than the machine has."""

import os
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


def test_nobody_tells(group: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "MEMINFO", group / "missing")
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert (machine.processors(), machine.free_memory()) == (1, 0)
