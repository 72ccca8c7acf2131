"""What `verify` says of a file: its findings, as text and as JSON."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Finding:
    """What is wrong with one record, or with a file (`record`, `key` and `byte` are None then)."""

    kind: str
    message: str
    record: int | None = None
    key: int | None = None
    byte: int | None = None
    tensor: str | None = None

    def __str__(self) -> str:
        """One line: which record, and what is wrong with it."""
        if self.tensor is not None:
            return f"tensor {self.tensor}: {self.kind}: {self.message}"
        places = {"key": self.key, "at byte": self.byte}
        known = ", ".join(f"{name} {value}" for name, value in places.items() if value is not None)
        number = "" if self.record is None else f" {self.record}"
        return f"{f'record{number} ({known}): ' if known else ''}{self.kind}: {self.message}"


@dataclass
class Report:
    """What was found in a file; `sound` are the good records in the order of the index: (key, id, start)."""

    path: Path
    count: int = 0
    file_bytes: int = 0
    things: str = "records"
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    sound: list[tuple[int, int, int]] = field(default_factory=list)

    def __str__(self) -> str:
        """A line per finding and note, and one of how much was read."""
        said = [*map(str, self.findings), *self.notes]
        count = len(self.findings)
        wrong = f"{count} finding{'s' if count > 1 else ''}" if count else "all sound"
        return "\n".join(f"{self.path}: {line}" for line in [*said, f"{self.count} {self.things}, {wrong}"])

    def as_json(self) -> dict[str, Any]:
        """What `verify --json` prints of a file."""
        findings = [dataclasses.asdict(finding) for finding in self.findings]
        counts = {"count": self.count, "bytes": self.file_bytes, "sound": len(self.sound)}
        return {"file": str(self.path), **counts, "findings": findings, "notes": self.notes}
