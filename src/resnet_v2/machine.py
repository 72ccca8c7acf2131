"""What this process may use of its machine: a queue or a container may allow it less than there is."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from resnet_v2.errors import SettingError

# Linux's control groups, by which queues and containers set limits: version 2, and the folders of version 1.
GROUPS = Path("/sys/fs/cgroup")
OWN_GROUP = Path("/proc/self/cgroup")
PROCESSES = Path("/proc")
MEMINFO = PROCESSES / "meminfo"

UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
BYTES = re.compile(r"(\d+(?:\.\d+)?)\s*((?:[KMGT]I?)?)B?")


def processors() -> int:
    """How many processors this process may use, by its affinity and by what its group gets of their time."""
    ask = getattr(os, "sched_getaffinity", None)  # macOS and Windows have none
    allowed = len(ask(0)) if ask is not None else os.cpu_count() or 1
    shares = [_ratio(_read(group / "cpu.max").split()) for group in _groups("")]
    shares += [
        _ratio([_read(group / f"cpu.cfs_{name}_us") for name in ("quota", "period")]) for group in _groups("cpu")
    ]
    return max(1, min([allowed, *(-int(-share // 1) for share in shares if share > 0)]))


def free_memory() -> int:
    """The bytes of memory that this process may still take, at least 1; 0 where nobody tells."""
    match = re.search(r"MemAvailable:\s*(\d+) kB", _read(MEMINFO))
    free = [1024 * int(match[1])] if match else []
    for group in _groups(""):
        free += _room(group, "memory.max", "memory.current", "inactive_file")
    for group in _groups("memory"):
        free += _room(group, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    return max(1, min(free)) if free else 0


def waited_for_core(process: int) -> float:
    """Seconds that a process was ready to run while others had the cores; 0 where nobody tells (Linux does).

    Only its main thread counts.
    """
    match = re.match(r"\d+ (\d+) ", _read(PROCESSES / str(process) / "schedstat"))
    return int(match[1]) / 1e9 if match else 0.0


def _groups(controller: str) -> Iterator[Path]:
    """The folders of the process's group and of all around it; of version 1 those of a controller, such as `cpu`."""
    kind = rf"\d+:(?:[^:]*,)?{controller}(?:,[^:]*)?" if controller else "0:"
    match = re.search(rf"^{kind}:/(.*)$", _read(OWN_GROUP), re.MULTILINE)
    top = GROUPS / controller
    own = top / (match[1] if match else "")
    return (folder for folder in (own, *own.parents) if folder.is_relative_to(top))


def _room(group: Path, limit: str, taken: str, cache: str) -> list[int]:
    """What a group leaves free of its limit, if it has one; memory of files that nobody uses is given back in need."""
    numbers = [_read(group / name) for name in (limit, taken)]
    if not all(map(str.isdecimal, numbers)):
        return []
    match = re.search(rf"^{cache} (\d+)$", _read(group / "memory.stat"), re.MULTILINE)
    return [int(numbers[0]) - int(numbers[1]) + (int(match[1]) if match else 0)]


def _ratio(numbers: list[str]) -> float:
    """Quota and period -> processors; 0 where there is no limit."""
    quota, period = numbers if len(numbers) == 2 else ("", "")
    return int(quota) / int(period) if quota.isdecimal() and period.isdecimal() and int(period) else 0.0


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


def parse_bytes(text: str, name: str) -> int:
    """`"12GB"` -> 12000000000; the empty text is 0. Raises SettingError."""
    match = BYTES.fullmatch(text.strip().upper())
    if text and (match is None or not float(match[1])):
        raise SettingError(f"`{name}` {text!r} is no amount of memory; write it like 12GB or 11.5GiB.")
    return int(float(match[1]) * UNITS[match[2]]) if match else 0
