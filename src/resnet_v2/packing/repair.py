"""The sound records of a damaged file, written anew."""

from pathlib import Path

from resnet_v2.console import counted, following
from resnet_v2.data.index import side_path
from resnet_v2.data.lists import ListEntry, read_lines, write_list
from resnet_v2.data.records import read_record, writing
from resnet_v2.data.sidecar import write_rows
from resnet_v2.data.source import close, open_source
from resnet_v2.errors import ResnetError
from resnet_v2.packing.findings import Report
from resnet_v2.packing.origin import of_repair
from resnet_v2.packing.replaced import refuse_to_replace


def repair(report: Report, out: Path) -> str:
    """Write the sound records of a verified file, their `.idx`, their lines of the `.lst` and their fingerprints.

    Keys, ids and the order of the index stay. Returns a sentence that says how many there are. A ResnetError when
    `out` is the file itself or would take the place of another file, or there is no sound record.
    """
    rec = report.path
    if out.exists() and out.samefile(rec):
        raise ResnetError(f"`repair` {out} is the damaged record itself; give another path.")
    lst, new_lst = side_path(rec, ".lst"), side_path(out, ".lst")
    refuse_to_replace(out, rec, lst)
    if lst.is_file() and new_lst.exists() and not out.exists():
        raise ResnetError(f"{new_lst} is there, and no record that it is of; give another path for `repair`.")
    if not report.sound:
        raise ResnetError(f"{rec} holds no sound record, {out} is not written.")
    source = open_source(rec)
    try:
        with writing(out) as writer:
            for key, _, start in following(report.sound, out.name, len(report.sound)):
                writer.write(key, read_record(source, start)[0])
    finally:
        close(source)
    there = {identity for _, identity, _ in report.sound}
    if lst.is_file():
        entries = (entry for entry in read_lines(lst) if isinstance(entry, ListEntry) and entry.index in there)
        write_list(new_lst, entries)
    write_rows(out, of_repair(rec))
    left_out = {finding.byte for finding in report.findings if finding.kind != "index"}
    return f"{out}: {counted(len(report.sound), 'sound record')} written, {len(left_out)} left out"
