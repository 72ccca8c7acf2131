"""A disk that fails at any call, and power that goes at any instant: `make endure`.

    python tests/disk.py --every --faults 300 --cuts 200 --seed 1

Commands run under `faulty_disk.c`, which lets single calls to the system fail or writes down every change of the disk.

Faults: a full disk, a damaged one, a read-only one, a quota, signals amid a call, short reads and writes, at each call
in turn. The command ends with status 2 and a sentence, or as if nothing had been; a file under its final name is the
old one or the new one; the next try, on a sound disk, makes the right files.

Power cuts: a file system may lose whatever was not flushed. After a cut at a change of the disk, of each file the data
that no fsync followed may be missing, or a part of it, or be zeros; of each folder the changes of names that no fsync
of the folder followed may have happened or not, in any order, except that changes of one name keep theirs. That is what
POSIX allows, and what was seen of ext4, XFS and Btrfs (Pillai et al., "All File Systems Are Not Created Equal", OSDI
2014). From what is left the same command goes on.
"""

import argparse
import contextlib
import errno
import json
import os
import random
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from endure import Scene, contents, look_at_data_set, make_damaged, photos, small_data, training
from processes import Command, perform
from resnet_v2.data.recordio import MXIndexedRecordIO
from resnet_v2.networks.sums import verify_checkpoint

LIBRARY = "RESNET_V2_FAULTY_DISK"
HEAD = struct.Struct("<6Q")
EARLIER = re.compile(r"-earlier-\d+/")
# What fails, how (0: only a part is done), and whether only once, or from there on, as a full or a read-only disk does.
Fault = tuple[str, int, bool]
FAULTS: tuple[Fault, ...] = (
    ("change", errno.ENOSPC, True),
    ("change", errno.EDQUOT, True),
    ("change", errno.EIO, False),
    ("change", errno.EIO, True),
    ("change", errno.EROFS, True),
    ("change", errno.EINTR, False),
    ("change", 0, False),
    ("read", errno.EIO, False),
    ("read", errno.EINTR, False),
    ("read", 0, True),
)
FULL, DAMAGED = FAULTS[0], FAULTS[2]
LOGS = (".log", ".jsonl")


@dataclass
class Work:
    """A command, what it starts from, its exit status, how it is run, whether its files are compared byte for byte, and
    whether they appear whole."""

    words: list[str]
    prepare: Callable[[Scene, Path], None]
    status: int = 0
    work: Callable[[list[str]], int] | None = None
    exact: bool = True
    atomic: bool = True


def perform_writer(words: list[str]) -> int:
    """Write records with the Python API of MXNet's name."""
    from resnet_v2.errors import ResnetError

    try:
        record = MXIndexedRecordIO(f"{words[0]}.idx", f"{words[0]}.rec", "w")
        for key in range(20):
            record.write_idx(key, bytes([key]) * 5000)
        record.close()
    except (OSError, ResnetError) as error:
        with contextlib.suppress(OSError, UnboundLocalError):
            record.close()
        print(f"resnet-v2: {words[0]}: {error}")
        return 2
    return 0


def perform_over(words: list[str]) -> int:
    """A new run in the place of another one; where it has begun already it goes on."""
    status = perform([*words, "--resume", "no"])
    return perform([*words, "--resume", "auto"]) if status == 2 else status


def nothing(scene: Scene, folder: Path) -> None:
    """An empty folder."""
    folder.mkdir()


def old_and_new_photos(scene: Scene, folder: Path) -> None:
    """Folders of photos, and the data set and the record of the older one."""
    photos(folder / "old", ["bee", "cow"])
    photos(folder / "new", ["ant", "bee", "cow"])
    for words in (
        ["data", "old", "--out", "set/d"],
        ["list", "old", "lists/old"],
        ["pack", "lists/old_train.lst", "old", "p.rec"],
        ["list", "new", "new-lists/new"],
    ):
        scene.ended(Command(words, folder).finish())


def damaged_record(scene: Scene, folder: Path) -> None:
    """A record with a flipped byte, and a repaired one of before."""
    folder.mkdir()
    make_damaged(scene.data, folder / "bad.rec")
    shutil.copy(folder / "bad.rec", folder / "good.rec")
    shutil.copy(folder / "bad.idx", folder / "good.idx")


def trained(scene: Scene, folder: Path) -> None:
    """A run of one epoch."""
    scene.ended(Command(training(scene, epochs=1), folder).finish())


def trained_otherwise(scene: Scene, folder: Path) -> None:
    """A finished run of the same prefix with other settings."""
    scene.ended(Command(training(scene, epochs=2, depth=14, milestones="1"), folder).finish())


def works(scene: Scene) -> dict[str, Work]:
    """Everything that writes."""
    one = ["--prefix", "m", "--epoch", "1"]
    run = training(scene, epochs=2, milestones="1", num_examples=31, keep=1)
    over = training(scene, epochs=2, milestones="1", num_examples=31, keep=1, resume="no")
    over = [word for word in over if word not in ("--resume", "no", "--resume=no")]
    return {
        "train": Work(run, nothing, exact=False),
        "train-over": Work(over, trained_otherwise, work=perform_over, exact=False),
        "data": Work(["data", "new", "--out", "set/d"], old_and_new_photos),
        "pack": Work(["pack", "new-lists/new_train.lst", "new", "p.rec"], old_and_new_photos),
        "list": Work(["list", "new", "lists/old"], old_and_new_photos),
        "index": Work(["index", "bad.rec"], damaged_record),
        "repair": Work(["verify", "bad.rec", "--repair", "good.rec"], damaged_record, 1),
        "mxnet": Work(["export", *one, "--to", "mxnet", "--out", "x"], trained),
        "onnx": Work(["export", *one, "--to", "onnx", "--out", "x"], trained),
        "torch": Work(["export", *one, "--to", "torch", "--out", "x"], trained, exact=False),
        "card": Work(["card", *one, "--out", "card"], trained, exact=False),
        "plot": Work(["plot", "--logs", "m.log", "--out", "curve.png"], trained, exact=False),
        "page": Work(["plot", "--logs", "m.log", "--out", "curve.html"], trained, exact=False),
        "recordio": Work(["r"], nothing, work=perform_writer, atomic=False),
    }


@dataclass
class Tried:
    """A work with what it starts from, what it makes, and how often it changes and reads the disk."""

    work: Work
    template: Path
    right: dict[str, bytes]
    changes: int
    log: list["Change"]


@dataclass(frozen=True)
class Change:
    """A change of the disk. `kind`: c create, w write, t truncate, f flush a file, F flush a folder, r rename, l link,
    u unlink, m make a folder, d remove one. `inode` is that of a file, `number` an offset or a size in bytes."""

    kind: str
    inode: int
    number: int
    path: str
    other: str
    data: bytes


def changes_of(log: Path, root: Path) -> list[Change]:
    """What the library has written down, with paths below `root`."""
    content, at, found = log.read_bytes(), 0, []
    while at < len(content):
        kind, inode, number, *sizes = HEAD.unpack_from(content, at)
        at += HEAD.size
        pieces = []
        for size in sizes:
            pieces.append(content[at : at + size])
            at += size
        names = [os.path.relpath(piece.decode(), root) if piece else "" for piece in pieces[:2]]
        found.append(Change(chr(kind), inode, number, names[0], names[1], pieces[2]))
    return found


def tried(scene: Scene, name: str, work: Work) -> Tried:
    """Prepare a work and do it once, undisturbed and written down."""
    template, folder, log = (scene.folder / f"{name}-{what}" for what in ("before", "whole", "changes"))
    work.prepare(scene, template)
    shutil.copytree(template, folder, symlinks=True)
    run = Command(work.words, folder, work.work, DISK_ROOT=str(folder.resolve()), DISK_LOG=str(log))
    scene.ended(run.finish(), work.status)
    found = changes_of(log, folder.resolve())
    return Tried(work, template, contents(folder), len(found), found)


def fault_at(scene: Scene, name: str, one: Tried, number: int, fault: Fault) -> None:
    """Do a work on a disk where a call fails."""
    what, code, lasting = fault
    last = 1 << 40 if lasting else number
    title = f"{name}, {what} {number}{' and on' if lasting else ''}: {errno.errorcode.get(code, 'short')}"
    folder = scene.folder / "tried"
    shutil.copytree(one.template, folder, symlinks=True)
    place = {"DISK_ROOT": str(folder.resolve()), "DISK_FAULT": f"{what} {number} {last} {code}"}
    status, output = Command(one.work.words, folder, one.work.work, **place).finish()
    scene.kills += 1
    words = output.strip().splitlines()
    before = contents(one.template)
    names = {part for file in (*before, *one.right, str(folder)) for part in Path(file).parts if part != "/"}
    names |= {".m.lock", *(f"m-{epoch:04d}.safetensors" for epoch in range(10))}  # of the prefix m
    said = bool(words) and "resnet-v2: " in words[-1] and bool(names & set(re.split(r"[\s/:;,']+", words[-1])))
    fine = status == one.work.status or (status == 2 and said)
    scene.expect(fine and "Traceback" not in output, f"{title}: status {status}: {output[-1500:]}")
    for file, content in contents(folder).items():
        if one.work.exact and not Path(file).name.startswith(".") and "/.records.part/" not in f"/{file}":
            known = content in (before.get(file), one.right.get(file))
            scene.expect(known or not one.work.atomic, f"{title}: {file} is neither the old one nor the new one")
    kept = {Path(file).name for file in contents(folder)}
    lost = [file for file in before if file.endswith(".rec") and Path(file).name not in kept]
    scene.expect(not lost, f"{title}: {lost} are gone, the old ones and the new ones")
    if status == one.work.status:
        compare(scene, title, one, folder, may_leave=code in (errno.EIO, errno.EROFS) and what == "change")
    scene.ended(Command(one.work.words, folder, one.work.work).finish(), one.work.status)
    compare(scene, f"{title}, then again", one, folder)
    shutil.rmtree(folder)


def compare(scene: Scene, title: str, one: Tried, folder: Path, may_leave: bool = False) -> None:
    """The files are those of a work that nobody disturbed; `may_leave`: and such as it could not remove."""
    # What was amid moving away from an earlier run may lie in two folders.
    found = {EARLIER.sub("-earlier-1/", name): content for name, content in contents(folder).items()}
    names = sorted(one.right.keys() - found.keys() if may_leave else one.right.keys() ^ found.keys())
    scene.expect(not names, f"{title}: {names} are too many or too few")
    for file, content in found.items():
        if file.endswith(".safetensors") or (one.work.exact and not file.endswith(LOGS)):
            scene.expect(content == one.right.get(file), f"{title}: {file} has other bytes")


@dataclass
class Disk:
    """A model of a file system: what is on the disk for sure, and what may be.

    `files` holds the bytes of each file that are on the disk, `later` the changes of it that are not yet; `names` says
    which file (None: a folder) a path is, `moves` the changes of names that may be on the disk.
    """

    files: dict[int, bytearray] = field(default_factory=dict)
    later: dict[int, list[Change]] = field(default_factory=dict)
    names: dict[str, int | None] = field(default_factory=dict)
    moves: list[tuple[Change, int]] = field(default_factory=list)
    inodes: dict[int, int] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path) -> "Disk":
        """What a folder holds is on the disk."""
        disk = cls()
        for path in folder.rglob("*"):
            name = str(path.relative_to(folder))
            if path.is_dir():
                disk.names[name] = None
            else:
                number = disk._numbered(path.stat().st_ino)
                disk.files[number] = bytearray(path.read_bytes())
                disk.names[name] = number
        return disk

    def _numbered(self, inode: int, new: bool = False) -> int:
        # The numbers of removed files are given again.
        if new or inode not in self.inodes:
            self.inodes[inode] = len(self.files)
            self.files[self.inodes[inode]] = bytearray()
            self.later[self.inodes[inode]] = []
        return self.inodes[inode]

    def apply(self, change: Change) -> None:
        """A change happens; it is on the disk when it is flushed."""
        if change.kind == "c":
            self.moves.append((change, self._numbered(change.inode, new=True)))
        elif change.kind in "wt":
            self.later[self._numbered(change.inode)].append(change)
        elif change.kind == "f":
            number = self._numbered(change.inode)
            for one in self.later[number]:
                write(self.files[number], one)
            self.later[number] = []
        elif change.kind == "F":
            here = [move for move in self.moves if change.path in (folder_of(move[0].path), folder_of(move[0].other))]
            for move in self._with_earlier(here):
                self._move(self.names, *move)
                self.moves.remove(move)
        else:
            self.moves.append((change, -1))

    def _with_earlier(self, some: list[tuple[Change, int]]) -> list[tuple[Change, int]]:
        """These changes of names with the earlier ones that they need: of the same names, in their order."""
        wanted: list[tuple[Change, int]] = []
        touched: set[str] = set()
        for move in reversed(self.moves):
            names = {name for name in (move[0].path, move[0].other) if name}
            names_above = {folder for name in names for folder in folders_of(name)}
            if move in some or names & touched:
                wanted.append(move)
                touched |= names | names_above
        return wanted[::-1]

    @staticmethod
    def _move(names: dict[str, int | None], change: Change, number: int) -> None:
        if change.kind == "c":
            names[change.path] = number
        elif change.kind == "m":
            names[change.path] = None
        elif change.kind in "ud":
            names.pop(change.path, None)
        elif change.kind == "l":
            names[change.other] = names.get(change.path)
        elif change.kind == "r" and change.path in names:
            for name in [one for one in names if one == change.path or one.startswith(f"{change.path}/")]:
                names[change.other + name[len(change.path) :]] = names.pop(name)

    def after_a_cut(self, chance: random.Random, folder: Path) -> None:
        """Build one of the folders that may be found when the power goes now."""
        share = chance.choice([0.0, 0.1, 0.5, 0.9, 1.0])
        names = dict(self.names)
        for move in self._with_earlier([move for move in self.moves if chance.random() < share]):
            self._move(names, *move)
        folder.mkdir()
        for name in sorted(name for name, number in names.items() if number is None):
            (folder / name).mkdir(parents=True, exist_ok=True)
        made: dict[int, Path] = {}
        for name, number in names.items():
            if number is None:
                continue
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            if number in made:
                os.link(made[number], folder / name)
                continue
            (folder / name).write_bytes(survived(chance, self.files[number], self.later[number]))
            made[number] = folder / name


def survived(chance: random.Random, on_disk: bytearray, later: list[Change]) -> bytes:
    """Bytes of a file of which some changes were not flushed."""
    content, how = bytearray(on_disk), chance.choice(["none", "some", "all", "zeros"])
    if how == "none":
        return bytes(content)
    for change in later[: chance.randint(0, len(later))] if how == "some" else later:
        write(content, change)
    if how == "zeros" and len(content) > len(on_disk):
        content[len(on_disk) :] = bytes(len(content) - len(on_disk))
    if how == "some" and len(content) > len(on_disk):
        del content[chance.randint(len(on_disk), len(content)) :]
    return bytes(content)


def write(content: bytearray, change: Change) -> None:
    """A write, or another size."""
    if change.kind == "t":
        del content[change.number :]
        content.extend(bytes(change.number - len(content)))
    else:
        content.extend(bytes(max(0, change.number - len(content))))
        content[change.number : change.number + len(change.data)] = change.data


def folder_of(name: str) -> str:
    """The folder that a path lies in."""
    return str(Path(name).parent)


def folders_of(name: str) -> Iterator[str]:
    """The folders above a path."""
    yield from (str(folder) for folder in Path(name).parents if folder != Path())


def cut_power(scene: Scene, name: str, one: Tried) -> None:
    """Power goes at one of the changes of a work; the work is done again from what is left."""
    disk = Disk.of(scene.folder / f"{name}-traced-before")
    at = scene.chance.randint(0, len(one.log))
    renamed = [number for number, change in enumerate(one.log, start=1) if change.kind in "rF"]
    if scene.chance.random() < 0.5 and renamed:  # just when a file has its name what is not flushed does harm
        at = scene.chance.choice(renamed)
    for change in one.log[:at]:
        disk.apply(change)
    folder = scene.folder / "cut"
    disk.after_a_cut(scene.chance, folder)
    scene.kills += 1
    title = f"{name}, power cut at change {at} of {len(one.log)}"
    look_at_what_is_left(scene, title, one, one.log[:at], folder)
    status, output = Command(one.work.words, folder, one.work.work).finish()
    fine = status == one.work.status and "Traceback" not in output
    scene.expect(fine, f"{title}: then status {status}: {output[-1500:]}")
    compare(scene, title, one, folder)
    shutil.rmtree(folder)


def look_at_what_is_left(scene: Scene, title: str, one: Tried, done: list[Change], folder: Path) -> None:
    """Files under final names are whole, what was said to be saved is there, and sets are not mixed."""
    before = contents(one.template)
    for file, content in contents(folder).items():
        path = folder / file
        if path.name.startswith(".") or ".records.part" in file or file.endswith(LOGS) or not one.work.atomic:
            continue
        if path.suffix == ".safetensors":
            scene.expect(not verify_checkpoint(path).findings, f"{title}: {file} is damaged")
        elif one.work.exact:
            known = content in (before.get(file), one.right.get(file))
            scene.expect(known, f"{title}: {file} is neither the old one nor the new one")
    for change in done:
        if change.kind == "w" and change.path == "m.jsonl" and b'"event": "saved"' in change.data:
            saved = [json.loads(line)["path"] for line in change.data.splitlines() if b'"saved"' in line]
            kept = [path for path in saved if path in one.right]  # `keep` removes others
            scene.expect(all((folder / path).is_file() for path in kept), f"{title}: {saved} was said to be saved")
    if (folder / "set" / "d").is_dir() and (folder / "set" / "d" / "synset.txt").is_file():
        look_at_data_set(scene, folder / "set" / "d")
    for record in folder.glob("*.rec"):
        if record.with_suffix(".idx").is_file() and one.work.atomic:
            names = (record.name, f"{record.stem}.idx")
            pairs = [tuple(side.get(name) for name in names) for side in (before, one.right)]
            found = tuple((folder / name).read_bytes() for name in names)
            scene.expect(found in pairs, f"{title}: {names} do not belong together")


def trace(scene: Scene, name: str, one: Tried) -> None:
    """Do a work once more, written down, in a folder whose files' numbers are known."""
    folder, before, log = (scene.folder / f"{name}-{what}" for what in ("traced", "traced-before", "trace"))
    shutil.copytree(one.template, folder, symlinks=True)
    start = Disk.of(folder)
    run = Command(one.work.words, folder, one.work.work, DISK_ROOT=str(folder.resolve()), DISK_LOG=str(log))
    scene.ended(run.finish(), one.work.status)
    one.log = changes_of(log, folder.resolve())
    shutil.copytree(one.template, before, symlinks=True)
    # The copy's files have other numbers than those that were written down.
    numbers = {path: number for path, number in start.names.items() if number is not None}
    traced = {number: inode for inode, number in start.inodes.items()}
    again = {str(path.relative_to(before)): path.stat().st_ino for path in before.rglob("*") if path.is_file()}
    known = {traced[number]: again[path] for path, number in numbers.items()}
    fresh = max(again.values(), default=0) + max(known, default=0) + 1
    one.log = [Change(c.kind, known.get(c.inode, c.inode + fresh), c.number, c.path, c.other, c.data) for c in one.log]


def make_faults(scene: Scene, count: int, every: bool, names: list[str]) -> None:
    """Let calls fail, work after work: so many at random, and `every` change on a full and on a damaged disk."""
    for name in names:
        one = tried(scene, name, works(scene)[name])
        started, before = time.monotonic(), len(scene.faults)
        calls = [(number, fault) for number in range(one.changes) for fault in (FULL, DAMAGED) if every]
        for _ in range(-(-count // len(names))):
            calls.append((scene.chance.randrange(one.changes), scene.chance.choice(FAULTS)))
        for number, fault in calls:
            fault_at(scene, name, one, number, fault)
        print(
            f"{name:10s} {one.changes:4d} changes, {len(calls):4d} failed calls, "
            f"{len(scene.faults) - before} faults, {time.monotonic() - started:.0f} s",
            flush=True,
        )


def make_cuts(scene: Scene, count: int, names: list[str]) -> None:
    """Cut the power so often, work after work."""
    for name in names:
        one = tried(scene, name, works(scene)[name])
        trace(scene, name, one)
        started, before = time.monotonic(), len(scene.faults)
        times = -(-count // len(names))  # not fewer than were asked for in all
        for _ in range(times):
            cut_power(scene, name, one)
        print(
            f"{name:10s} {len(one.log):4d} changes, {times:4d} power cuts, "
            f"{len(scene.faults) - before} faults, {time.monotonic() - started:.0f} s",
            flush=True,
        )


CUT_WORKS = ["train", "train-over", "data", "pack", "repair", "mxnet", "onnx"]


def main() -> int:
    """Try faults and cuts; the exit status is 1 when a fault of ours was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", action="store_true", help="each change once on a full and once on a damaged disk")
    parser.add_argument("--faults", type=int, default=300, help="calls that fail at random")
    parser.add_argument("--cuts", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", help="one of the works, such as train or data")
    options = parser.parse_args()
    if LIBRARY not in os.environ:
        return with_library(sys.argv[1:])
    faults = 0
    with tempfile.TemporaryDirectory(prefix="disk-data-") as name:
        data = small_data(Path(name) / "digits")
        names = [one for one in works(Scene(data, Path(name), random.Random())) if one in (options.only or [one])]
        with tempfile.TemporaryDirectory(prefix="disk-") as folder:
            scene = Scene(data, Path(folder), random.Random(options.seed))
            if options.every or options.faults:
                make_faults(scene, options.faults, options.every, names)
            faults += len(scene.faults)
        with tempfile.TemporaryDirectory(prefix="disk-") as folder:
            scene = Scene(data, Path(folder), random.Random(options.seed))
            if options.cuts:
                make_cuts(scene, options.cuts, [one for one in names if one in CUT_WORKS])
            faults += len(scene.faults)
    return min(faults, 1)


def with_library(words: list[str]) -> int:
    """Build the library and start again with it, so that every process from here on has it."""
    with tempfile.TemporaryDirectory(prefix="disk-library-") as folder:
        library = Path(folder) / "faulty_disk.so"
        source = Path(__file__).with_name("faulty_disk.c")
        subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl", "-lpthread"], check=True)
        environment = os.environ | {"LD_PRELOAD": str(library), LIBRARY: str(library)}
        return subprocess.run([sys.executable, __file__, *words], env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
