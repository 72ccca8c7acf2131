"""What this process may use of its machine: a queue or a container may allow it less than there is."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

# Linux's control groups, by which queues and containers set limits: version 2, and the folders of version 1.
GROUPS = Path("/sys/fs/cgroup")
OWN_GROUP = Path("/proc/self/cgroup")
MEMINFO = Path("/proc/meminfo")


def processors() -> int:
    """How many processors this process may use, by its affinity and by what its group gets of their time."""
    ask = getattr(os, "sched_getaffinity", None)  # macOS and Windows have none
    allowed = len(ask(0)) if ask is not None else os.cpu_count() or 1
    shares = [_ratio(text.split()) for text in _limits("cpu.max")]
    shares.append(_ratio([_read(GROUPS / "cpu" / f"cpu.cfs_{name}_us") for name in ("quota", "period")]))
    return max(1, min([allowed, *(-int(-share // 1) for share in shares if share > 0)]))


def free_memory() -> int:
    """The bytes of memory that this process may still take; 0 where nobody tells."""
    match = re.search(r"MemAvailable:\s*(\d+) kB", _read(MEMINFO))
    free = [1024 * int(match[1])] if match else []
    pairs = list(zip(_limits("memory.max"), _limits("memory.current"), strict=False))
    pairs.append((_read(GROUPS / "memory/memory.limit_in_bytes"), _read(GROUPS / "memory/memory.usage_in_bytes")))
    # What the group's files take in memory is counted too, though it would be given back.
    free += [int(limit) - int(taken) for limit, taken in pairs if limit.isdecimal() and taken.isdecimal()]
    return max(0, min(free, default=0))


def _limits(name: str) -> Iterator[str]:
    """What a file of this name says in the process's group and in all groups around it."""
    match = re.search(r"^0::/(.*)$", _read(OWN_GROUP), re.MULTILINE)
    own = GROUPS / (match[1] if match else "")
    for folder in (own, *own.parents):
        if folder.is_relative_to(GROUPS):
            yield _read(folder / name)


def _ratio(numbers: list[str]) -> float:
    """Quota and period -> processors; 0 where there is no limit."""
    quota, period = numbers if len(numbers) == 2 else ("", "")
    return int(quota) / int(period) if quota.isdecimal() and period.isdecimal() else 0.0


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""
