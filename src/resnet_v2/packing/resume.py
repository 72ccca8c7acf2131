"""Packing that survives a kill: unfinished files under names of their own, and a journal of what is in them.

`OUT.rec` is written as `.OUT.rec.part`, `OUT.idx` as `.OUT.idx.part`, and what `OUT.rows` will be made of as
`.OUT.rows.part`. Every few seconds all are flushed to the disk and a line is added to `.OUT.rec.journal`: how many
entries of the list are dealt with, and how many bytes each file has then. A new run with the same settings cuts the
files to the last line's sizes and goes on from there; what came after it, a torn record among it, is made again. At the
end the files are renamed, `OUT.rows` is made and the journal is removed.
"""

import contextlib
import errno
import itertools
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from resnet_v2.console import agreeing, counted, say
from resnet_v2.data.index import index_path
from resnet_v2.data.records import frame
from resnet_v2.data.sidecar import sidecar_path
from resnet_v2.errors import ResnetError
from resnet_v2.files import flush_folder, make_folder, not_written, parse_json, refuse_no_file, remove
from resnet_v2.packing.rows_part import finish_rows
from resnet_v2.portable import kept

CHECKPOINT_SECONDS = 5.0


@dataclass
class Progress:
    """How far a list is packed: entries dealt with, images written, a sentence for each one skipped, and the bytes of
    each unfinished file (`.rec`, `.idx`, `.rows`)."""

    entries: int = 0
    images: int = 0
    skipped: list[str] = field(default_factory=list)
    file_bytes: tuple[int, ...] = (0, 0, 0)
    complete: bool = False


class PartWriter:
    """Appends records to the unfinished files, one call per entry of the list, in the list's order; see `resuming`."""

    def __init__(self, files: Sequence[BinaryIO], journal: BinaryIO, progress: Progress) -> None:
        self.progress = progress
        self._rec, self._idx, self._rows = files
        self._journal = journal
        self._noted_skips, self._noted_at = len(progress.skipped), time.monotonic()

    def write(self, key: int, payload: bytes | memoryview, rows: bytes) -> None:
        """Append the record of the next entry under an integer key, and what `rows_part.note` says of it."""
        pieces, (start, index_bytes, rows_bytes) = frame(payload), self.progress.file_bytes
        line = f"{key}\t{start}\n".encode("ascii")
        self._rec.writelines(pieces)
        self._idx.write(line)
        self._rows.write(rows)
        # Only now: what a failed or interrupted write leaves behind these is cut off when a run goes on.
        self.progress.file_bytes = (
            start + sum(map(len, pieces)),
            index_bytes + len(line),
            rows_bytes + len(rows),
        )
        self.progress.images += 1
        self._entry_done()

    def skip(self, sentence: str) -> None:
        """Leave the next entry out; the sentence says why."""
        self.progress.skipped.append(sentence)
        self._entry_done()

    def _entry_done(self) -> None:
        self.progress.entries += 1
        if time.monotonic() - self._noted_at >= CHECKPOINT_SECONDS:
            self.checkpoint()

    def checkpoint(self, complete: bool = False) -> None:
        """Bring all that is written to the disk, then note in the journal that it is there."""
        for file in (self._rec, self._idx, self._rows):
            _flush(file)
        line = {
            "entries": self.progress.entries,
            "images": self.progress.images,
            "skipped": self.progress.skipped[self._noted_skips :],
            "file_bytes": self.progress.file_bytes,
            "complete": complete,
        }
        self._journal.write(json.dumps(line).encode() + b"\n")
        _flush(self._journal)
        self._noted_skips, self._noted_at = len(self.progress.skipped), time.monotonic()


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


@contextlib.contextmanager
def resuming(out: Path, settings: Mapping[str, object] | None, origin: str = "") -> Iterator[PartWriter]:
    """A writer of `out`, its `.idx` and its `.rows` that goes on where a run with equal settings was stopped.

    `settings` holds, as JSON, everything that the bytes depend on. None: nothing is kept for another run. `origin` is
    the text about the records' making that the `.rows` holds. The files
    appear under their names only when the `with` block ends well; until then old ones stay. `writer.progress.entries`
    of the list are done already. Raises ResnetError when another run is packing the same file, when the disk is full,
    and when every entry was skipped.
    """
    finals = (out, index_path(out), sidecar_path(out))
    for path in finals:
        refuse_no_file(path)
    parts = [path.with_name(f".{path.name}.part") for path in finals]
    make_folder(out.parent)
    journal_path = out.with_name(f".{out.name}.journal")
    # What is left to do when the journal is closed: Windows removes no open file.
    with _told_of(out), contextlib.ExitStack() as afterwards, kept(journal_path) as journal:
        if journal is None:
            raise ResnetError(f"{out} is being packed by another run; wait for its end or stop it.")
        progress = Progress()
        try:
            progress = _resumed(journal, parts, finals, settings)
            if not progress.complete:
                with contextlib.ExitStack() as opened:
                    files = [opened.enter_context(part.open("ab")) for part in parts]
                    writer = PartWriter(files, journal, progress)
                    with _kept_if_stopped(writer, out, settings is not None):
                        yield writer
                    if progress.entries and not progress.images:
                        settings = None  # a mended list or folder must start anew
                        raise ResnetError(
                            f"None of {counted(progress.entries, 'image')} could be read, {out} is not written: "
                            f"{progress.skipped[0]}"
                        )
                    writer.checkpoint(complete=True)
            else:  # only the renaming was left to do
                yield PartWriter([journal] * 3, journal, progress)
            if parts[0].exists():  # the old record's index and .rows never stand beside the new one
                remove(*finals[1:])
            for part, final in zip(parts[:2], finals[:2], strict=True):
                if part.exists():
                    part.replace(final)
                    flush_folder(out.parent)
            finish_rows(out, parts[2], progress.images, progress.file_bytes[0], origin)
            afterwards.callback(_remove, journal_path)
        finally:
            if settings is None or not progress.entries:
                with contextlib.suppress(OSError):  # what went wrong before is said
                    remove(*parts)
                afterwards.callback(_remove, journal_path)


@contextlib.contextmanager
def _told_of(out: Path) -> Iterator[None]:
    """What the system says of the unfinished files, whose names nobody knows, is said of the file to be."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ResnetError(
                f"{out} is not finished: the disk is full; free some space and run the same command again, it goes "
                "on from here."
            ) from None
        if error.filename is None or Path(error.filename).name.startswith(f".{out.stem}."):
            raise not_written(out, error) from None
        raise


def _remove(journal: Path) -> None:
    with contextlib.suppress(PermissionError):  # on Windows: another run has opened it, whose it is now
        journal.unlink(missing_ok=True)


@contextlib.contextmanager
def _kept_if_stopped(writer: PartWriter, out: Path, resumable: bool) -> Iterator[None]:
    try:
        yield
    except BaseException:
        if resumable and writer.progress.entries:
            writer.checkpoint()
            say(
                f"{out}: {counted(writer.progress.entries, 'image')} "
                f"{agreeing(writer.progress.entries, 'is', 'are')} done; the same command goes on there."
            )
        raise


def _resumed(
    journal: BinaryIO, parts: Sequence[Path], finals: Sequence[Path], settings: Mapping[str, object] | None
) -> Progress:
    """What is done already, with the journal and the unfinished files cut to it; or nothing, with them empty."""
    out = finals[0]
    journal.seek(0)
    lines = journal.read().split(b"\n")[:-1]  # what follows the last line's end was cut off in writing
    wanted = json.loads(json.dumps(settings))
    found = _parsed(lines[0]) if lines else None
    if found is not None and settings is not None and found == wanted:
        progress, kept = _last_progress(lines[1:], parts, finals)
        journal.truncate(sum(len(line) + 1 for line in lines[: 1 + kept]))
        if progress.entries:
            say(f"{out}: going on after {counted(progress.entries, 'image')}, {len(progress.skipped)} skipped")
    else:
        if found is not None and settings is not None:
            changed = ", ".join(sorted(name for name in wanted if found.get(name) != wanted[name]))
            say(f"{out}: an unfinished run had other settings ({changed}); it is started anew")
        progress = Progress()
        journal.truncate(0)
        journal.write(json.dumps(settings).encode() + b"\n")
        journal.flush()
    if not progress.complete:
        for part, size in zip(parts, progress.file_bytes, strict=True):
            with part.open("ab") as file:
                file.truncate(size)
    return progress


def _last_progress(lines: Sequence[bytes], parts: Sequence[Path], finals: Sequence[Path]) -> tuple[Progress, int]:
    """The last line of a journal that the files live up to, and how many lines lead to it."""
    sizes = [part.stat().st_size if part.exists() else 0 for part in parts]
    found = [one for one in itertools.takewhile(_is_line, map(_parsed, lines)) if one is not None]
    only_names_left = bool(found) and found[-1]["complete"] and _are_whole(found[-1]["file_bytes"], parts, finals)
    progress, kept = Progress(), 0
    for one in found:
        file_bytes = tuple(one["file_bytes"])
        large_enough = all(size >= wanted for size, wanted in zip(sizes, file_bytes, strict=True))
        if not (large_enough or only_names_left):
            break
        skipped = progress.skipped + one["skipped"]
        progress = Progress(one["entries"], one["images"], skipped, file_bytes, one["complete"])
        kept += 1
    return progress, kept


def _is_line(found: dict[str, Any] | None) -> bool:
    """Whether a line of the journal is one, and not of an earlier version, which kept two files."""
    return found is not None and len(found["file_bytes"]) == len(Progress().file_bytes)


def _are_whole(file_bytes: Sequence[int], parts: Sequence[Path], finals: Sequence[Path]) -> bool:
    """Whether record and index have their sizes, under whichever name; the `.rows` can be made of the record."""
    there = [part if part.exists() else final for part, final in zip(parts[:2], finals[:2], strict=True)]
    return all(path.exists() and path.stat().st_size == size for path, size in zip(there, file_bytes[:2], strict=True))


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        found = parse_json(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
