"""A record, its index, its fingerprints and its list, held against one another: which records are not what they were.

`packing/walk.py` reads the file; here every piece of it gets at most one finding.
"""

import bisect
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from resnet_v2.config.packing import VerifyConfig
from resnet_v2.console import agreeing, counted
from resnet_v2.data.index import index_path, is_record, side_path
from resnet_v2.data.lists import ListEntry, read_lines, read_synset
from resnet_v2.data.record_names import record_paths
from resnet_v2.data.remote import local_copy
from resnet_v2.data.sidecar import Rows, sidecar_path
from resnet_v2.errors import ResnetError, naming
from resnet_v2.packing.findings import Finding, Report
from resnet_v2.packing.identities import check_identities
from resnet_v2.packing.label_checks import tell_of_labels, wrong_label
from resnet_v2.packing.origin import sentence
from resnet_v2.packing.walk import Piece, walk
from resnet_v2.storage import Address, as_path, look


@dataclass(frozen=True)
class Line:
    """A line of the index: its place among those with text, which is the record's ordinal, its key and byte offset."""

    number: int
    key: int
    offset: int


def files_to_verify(settings: VerifyConfig) -> list[Path]:
    """Checkpoints, and every file of the sets of records, in the order in which they are named.

    Raises OSError or ResnetError, before the first of them is read, for one that cannot be.
    """
    named = ([as_path(name)] if name.endswith(".safetensors") else record_paths(name) for name in settings.files)
    paths = [path for several in named for path in several]
    if settings.repair is not None and len(paths) != 1:
        raise ResnetError(f"`repair` takes one .rec, but {len(paths)} are named; give a single one.")
    for path in paths:
        _check_readable(path)
    return paths


def _check_readable(path: Path) -> None:
    if isinstance(path, Address) and is_record(path):
        look(path)
        return
    with path.open("rb"):
        pass


def verify_record(rec: Path, settings: VerifyConfig) -> Report:
    """Read a `.rec` with what lies beside it; a ResnetError when it holds no whole record."""
    report = Report(rec, file_bytes=rec.stat().st_size)
    lines, places = _lines(rec, report)
    sums = _sums(rec, report)
    pieces = list(walk(rec, frozenset(sums), settings.decode, settings.threads))
    pieces = _joined(pieces, {line.offset for line in lines})
    whole = [piece for piece in pieces if piece.whole]
    if not whole:
        raise ResnetError(f"{rec} holds no whole record; it is damaged or no RecordIO file.")
    report.count = len(whole)
    if empty := sum(piece.empty for piece in whole):
        report.notes.append(
            f"{empty} of {counted(len(whole), 'record')} {agreeing(empty, 'holds', 'hold')} labels and no image"
        )
    report.notes += tell_of_labels(whole)
    known = set(sums)
    if sums and 2 * sum(piece.sum in known for piece in whole) < len(whole):
        words = f"{sidecar_path(rec)} belongs to another record; make it again with `resnet-v2 index {rec}`"
        report.findings.append(Finding("side", words))
        sums, known = [], set()
    aligned = sums if lines and len(sums) == places else []
    of_start, strays = _assigned(pieces, lines, aligned)
    if 2 * sum(line.offset < report.file_bytes for line in strays) > len(lines):
        words = f"{index_path(rec)} is another record's; make it again with `resnet-v2 index {rec}`"
        report.findings.append(Finding("index", words))
        lines, aligned, of_start, strays = [], [], {}, []
    judge = _Judge(report, pieces, of_start, strays, aligned)
    judge.contents(known, *_list_and_classes(rec, whole, report))
    judge.identities()
    judge.duplicates()
    judge.index(bool(lines))
    judge.missing(sums)
    report.findings = report.findings[: judge.first] + sorted(report.findings[judge.first :], key=_place)
    report.sound = judge.sound()
    return report


def _place(finding: Finding) -> tuple[bool, int, int]:
    return finding.byte is None, finding.byte or 0, finding.record or 0


def _lines(rec: Path, report: Report) -> tuple[list[Line], int]:
    """The lines of the index that are whole, and how many places there are, with those of lines that are not."""
    idx = index_path(rec)
    if not idx.is_file():
        report.findings.append(Finding("index", f"{idx} is missing; make it with `resnet-v2 index {rec}`"))
        return [], 0
    lines: list[Line] = []
    place = 0
    with naming(idx):
        texts = local_copy(idx).read_text(encoding="ascii", errors="replace").splitlines()
    for number, text in enumerate(texts):
        try:
            key, offset = map(int, text.split("\t"))
            lines.append(Line(place, key, offset))
        except ValueError:
            words = f"line {number + 1} of {idx} is not a key, a tab and an offset"
            report.findings.append(Finding("index", words))
        place += bool(text.strip())  # a blank line is nobody's
    return lines, place


def _sums(rec: Path, report: Report) -> list[int]:
    """The fingerprints of the `.rows`, by ordinal; none where there are none that can be trusted."""
    path = sidecar_path(rec)
    if not path.is_file():
        report.notes.append("no .rows: every image is decoded")
        return []
    try:
        rows = Rows(rec)
        sums = [int(total) for total in rows.sums()]
    except ResnetError as error:
        report.findings.append(Finding("side", str(error)))
        return []
    if said := sentence(rows.origin()):
        report.notes.append(said)
    if not rows.has_sums:
        report.notes.append(f"{path.name} is of an earlier version, without fingerprints: every image is decoded")
    return sums


def _list_and_classes(
    rec: Path, whole: Sequence[Piece], report: Report
) -> tuple[dict[int, tuple[float, ...]] | None, int | None]:
    """The labels of the `.lst` by index and the number of classes, each None where there is no such file."""
    lst, synset = side_path(rec, ".lst"), rec.with_name("synset.txt")
    classes = len(read_synset(synset)) if synset.is_file() else None
    if not lst.is_file():
        report.notes.append(f"no {lst.name} beside it: labels are compared with the number of classes alone")
        return None, classes
    try:
        entries = [entry for entry in read_lines(lst) if isinstance(entry, ListEntry)]  # the others are in no record
    except ResnetError as error:
        report.findings.append(Finding("list", str(error)))
        return None, classes
    labels = {entry.index: entry.labels for entry in entries}
    if 2 * sum(piece.key in labels for piece in whole) < len(whole):
        report.findings.append(Finding("list", f"{lst} is another record's list"))
        return None, classes
    return labels, classes


def _joined(pieces: Iterable[Piece], offsets: set[int]) -> list[Piece]:
    """Bytes that are no record, at which no line points, belong to the damaged record before them."""
    joined: list[Piece] = []
    for piece in pieces:
        before = joined[-1] if joined else None
        if before is not None and not piece.whole and piece.start not in offsets and before.kind:
            if before.whole:
                before = before._replace(kind="damaged", problem="its header gives a wrong length")
            joined[-1] = before._replace(end=piece.end)
        else:
            joined.append(piece)
    return [
        piece._replace(
            problem=f"{counted(piece.end - piece.start, 'byte')} {agreeing(piece.end - piece.start, 'is', 'are')} no "
            "record"
        )
        if piece.kind and not piece.problem
        else piece
        for piece in joined
    ]


def _assigned(
    pieces: Sequence[Piece], lines: Sequence[Line], aligned: Sequence[int]
) -> tuple[dict[int, Line], list[Line]]:
    """The line of every piece, by its start, and the lines that point elsewhere."""
    at: dict[int, list[Line]] = defaultdict(list)
    for line in lines:
        at[line.offset].append(line)
    of_start = {}
    for piece in pieces:
        if its := at.pop(piece.start, None):
            own = [line for line in its if aligned and aligned[line.number] == piece.sum]
            best = (own or [line for line in its if line.key == piece.key] or its)[0]
            of_start[piece.start] = best
            if len(its) > 1:
                at[piece.start] = [line for line in its if line != best]
    return of_start, sorted((line for left in at.values() for line in left), key=lambda line: line.number)


class _Judge:
    """Gives every piece at most one finding; the first rule that has something to say counts."""

    def __init__(
        self,
        report: Report,
        pieces: Sequence[Piece],
        of_start: dict[int, Line],
        strays: list[Line],
        aligned: Sequence[int],
    ) -> None:
        self._report, self._pieces, self._lines, self._strays = report, pieces, of_start, strays
        self._aligned, self.first = aligned, len(report.findings)
        self._bad: set[int] = set()  # the starts of pieces that a repair leaves out

    def _add(self, piece: Piece, kind: str, message: str, bad: bool = True) -> None:
        line = self._lines.get(piece.start)
        number = None if line is None else line.number
        key = piece.key if piece.key >= 0 else None if line is None else line.key
        self._report.findings.append(Finding(kind, message, number, key, piece.start))
        if bad:
            self._bad.add(piece.start)

    def contents(self, known: set[int], listed: dict[int, tuple[float, ...]] | None, classes: int | None) -> None:
        """Pieces that are no records, images that do not decode, wrong labels, other bytes than were packed."""
        self._listed, changed = listed, "its bytes are not those that were packed"
        for piece in self._pieces:
            if piece.kind:
                self._add(piece, piece.kind, piece.problem)
            elif not piece.empty and (words := wrong_label(piece, listed, classes)):
                self._add(piece, "mislabelled", words)
            elif known and piece.sum not in known:
                self._add(piece, "damaged", changed)
            elif listed is not None and not piece.empty and piece.key not in listed:
                self._add(piece, "unlisted", "the .lst does not name it")
            elif -piece.end % 4:
                self._add(
                    piece,
                    "padding",
                    f"{counted(-piece.end % 4, 'byte')} behind it {agreeing(-piece.end % 4, 'is', 'are')} missing; "
                    "MXNet refuses it",
                    bad=False,
                )

    def identities(self) -> None:
        """Of a collection of faces: what does not go with the ranges that its own records tell."""
        for piece, kind, words, bad in check_identities(self._pieces):
            if piece.start not in self._bad:
                self._add(piece, kind, words, bad)

    def duplicates(self) -> None:
        """All but one of the records with equal bytes: the one in its own place stays."""
        same: dict[int, list[Piece]] = defaultdict(list)
        for piece in self._pieces:
            if piece.whole and piece.start not in self._bad:
                same[piece.sum].append(piece)
        for copies in same.values():
            original = max(copies, key=self._in_its_place) if len(copies) > 1 else None
            for piece in copies:
                if original is not None and piece != original:
                    self._add(piece, "duplicated", f"it is the record at byte {original.start} once more")

    def _in_its_place(self, piece: Piece) -> tuple[bool, bool, int]:
        line = self._lines.get(piece.start)
        own = line is not None and bool(self._aligned) and self._aligned[line.number] == piece.sum
        return own, line is not None and line.key == piece.key, -piece.start

    def index(self, given: bool) -> None:
        """Lines that point elsewhere, and records at which none points."""
        without = {self._name(piece): piece for piece in self._pieces if piece.whole and piece.start not in self._lines}
        ends = [piece.end for piece in self._pieces]
        for line in self._strays:
            own = without.pop(self._aligned[line.number] if self._aligned else line.key, None)
            at = bisect.bisect_right(ends, line.offset)
            if own is not None:
                self._lines[own.start] = line
                if own.start not in self._bad:
                    self._add(own, "index", f"its line of the .idx points to byte {line.offset}", bad=False)
            elif at < len(ends) and not self._pieces[at].whole:
                self._report.findings.append(
                    Finding("damaged", "its bytes are no record", line.number, line.key, line.offset)
                )
            else:
                cut = line.offset >= self._report.file_bytes
                words = "the file ends before it" if cut else f"no record of its own begins at byte {line.offset}"
                self._report.findings.append(Finding("cut" if cut else "index", words, line.number, line.key, None))
        for piece in without.values() if given else ():
            if piece.start not in self._bad:
                self._add(piece, "index", "no line of the .idx points to it", bad=False)
        for piece in self._pieces if self._aligned else ():
            its = self._lines.get(piece.start)
            if its is not None and piece.start not in self._bad and self._aligned[its.number] != piece.sum:
                self._add(piece, "index", "its line of the .idx is another record's", bad=False)

    def _name(self, piece: Piece) -> int:
        return piece.sum if self._aligned else piece.key

    def missing(self, sums: Sequence[int]) -> None:
        """What was packed, or stands in the list, and is there no more."""
        named = {finding.key for finding in self._report.findings if finding.key is not None}
        named |= {self._lines[start].key for start in self._bad if start in self._lines}
        there = {piece.key for piece in self._pieces if piece.whole and piece.start not in self._bad}
        gone = sorted((self._listed or {}).keys() - there - named)
        if sums:
            found = {piece.sum for piece in self._pieces}
            lost = sum(total not in found for total in set(sums))
            lost -= sum(
                finding.kind not in ("index", "padding", "duplicated")
                for finding in self._report.findings[self.first :]
            )
            if lost > 0 and not self._aligned:
                self._report.findings.append(
                    Finding(
                        "missing",
                        f"{counted(lost, 'record')} that {agreeing(lost, 'was packed is', 'were packed are')} gone",
                    )
                )
            if gone:
                self._report.notes.append(
                    f"{counted(len(gone), 'image')} of the .lst {agreeing(len(gone), 'was', 'were')} left out when "
                    "it was packed"
                )
        else:
            for key in gone:
                self._report.findings.append(Finding("missing", "the .lst names it, but no record has it", key=key))

    def sound(self) -> list[tuple[int, int, int]]:
        """Key, id and start of the good records in the order of the index; one without a line follows its neighbour."""
        placed, place = [], -1
        for piece in self._pieces:
            line = self._lines.get(piece.start)
            place = place if line is None else line.number
            if piece.whole and piece.start not in self._bad:
                placed.append((place, piece.start, piece.key if line is None else line.key, piece.key))
        return [(key, identity, start) for _, start, key, identity in sorted(placed)]
