"""Damage records of every form, and read them as users do: each fault is named or skipped as asked, nothing is changed.

    python tests/damaged.py --records 10000 --seed 0
    python tests/damaged.py --form plain --only 17 --seed 0     # one of them again

Of each form there is a small sound folder. One record or file of it is damaged, and then it is loaded, with stop and
with skip, evaluated, verified, repaired, indexed, converted and unpacked. An image that was not damaged has the pixels
and labels that it had, or a sentence names the file. There is no other error than a ResnetError of one line, no hang,
no change of what is read, and nothing is left where a command has refused.

Bytes of a record that are damaged and still are an image of a known class cannot be told by a reader; `silent` counts
them. Where a `.rows` has fingerprints, `verify` names them.
"""

import argparse
import contextlib
import hashlib
import io
import os
import random
import re
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from fuzz import damage_bytes, damage_text
from resnet_v2.config.converting import ConvertConfig, UnpackConfig
from resnet_v2.config.packing import VerifyConfig
from resnet_v2.data.augment import augmentation
from resnet_v2.data.claims import PNG_START
from resnet_v2.data.filling import Centred
from resnet_v2.data.jpeg import encode
from resnet_v2.data.labels import Labels
from resnet_v2.data.loader import Loader, Reading, batches
from resnet_v2.data.order import split
from resnet_v2.data.record_names import record_paths
from resnet_v2.data.record_set import open_records
from resnet_v2.data.records import IRHeader, RecordReader, frame, pack, read_record, scan, unpack, writing
from resnet_v2.data.sidecar import write_rows
from resnet_v2.errors import ResnetError
from resnet_v2.files import told
from resnet_v2.inference.evaluate import judge
from resnet_v2.inference.pictures import View
from resnet_v2.inference.places import find_pictures
from resnet_v2.packing.convert import convert
from resnet_v2.packing.pack import write_index
from resnet_v2.packing.repair import repair
from resnet_v2.packing.unpack import unpack as unpack_images
from resnet_v2.packing.verify import verify_record

COUNT = 12  # images of a file
SECONDS = 60  # of the processor, in which all commands together end
LARGE = (1 << 24) + 1  # labels from here on are rounded
EVERYTHING = -1  # in place of the number of a record: any of them may be another one now
WITHOUT_SUMS = b"RSNROWS1"
Files = dict[str, bytes]
Seen = tuple[tuple[float, ...], bytes]  # labels of an image, and what its pixels are known by


@dataclass(frozen=True)
class Form:
    """Sound files, the name that means their records, and how their labels are to be read. `side`: of the crop."""

    files: Files
    name: str
    labels: Labels = field(default_factory=lambda: Labels(5))
    side: int = 56
    boxes: bool = False

    @property
    def records(self) -> list[str]:
        """The names of its records."""
        return [name for name in self.files if ".rec" in name]


@dataclass
class Damage:
    """What was done: the files that it was done to, and the numbers of the records, in their file, that may be others.

    `listed`: lines of an index were changed, so that records may be missing, twice, or in another order. `plain`: the
    record that is damaged is where it was, and its neighbours are whole.
    """

    how: str
    files: set[str]
    touched: set[tuple[str, int]] = field(default_factory=set)
    everything: bool = False
    listed: bool = False
    plain: bool = False
    foreign: Files = field(default_factory=dict)


class FaultError(AssertionError):
    """What must not be."""


def expect(right: bool, what: str) -> None:
    """Raise a FaultError."""
    if not right:
        raise FaultError(what)


# --- sound records of every form ---


def picture(seed: int, side: int = 66) -> NDArray[np.uint8]:
    """A smooth colour picture."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return cv2.resize(coarse, (side + 2 * (side > 32), side), interpolation=cv2.INTER_CUBIC).astype(np.uint8)


def plain_jpeg(pixels: NDArray[np.uint8]) -> bytes:
    """A JPEG as OpenCV writes it, that cannot be cut."""
    return cv2.imencode(".jpg", pixels[..., ::-1])[1].tobytes()


Encode = Callable[[NDArray[np.uint8]], bytes]


def in_kind(ending: str, quality: int) -> Encode:
    """An encoder of `pack`."""
    return lambda pixels: encode(pixels, ending, quality)


def images(
    count: int, label: Callable[[int], Any], make: Encode = plain_jpeg, side: int = 66, first: int = 0
) -> dict[int, bytes]:
    """Payloads by key."""
    return {
        key: pack(
            IRHeader(0, label(key), key, int(label(key)) if np.ndim(label(key)) == 0 else 0), make(picture(key, side))
        )
        for key in range(first, first + count)
    }


def of_class(key: int) -> float:
    """A label."""
    return float(key % 5)


def made(folder: Path, payloads: dict[int, bytes], name: str = "a.rec", rows: int = 0) -> None:
    """Write a record and its index; `rows` is the version of a `.rows` beside it."""
    with writing(folder / name) as writer:
        for key, payload in payloads.items():
            writer.write(key, payload)
    if not rows:
        return
    write_rows(folder / name)
    path = (folder / name).with_suffix(".rows")
    data = path.read_bytes()
    count = int.from_bytes(data[8:16], "little")
    if rows == 2:
        path.write_bytes(b"RSNROWS2" + data[8:24] + data[32:40] + data[40:])
    if rows == 1:
        path.write_bytes(WITHOUT_SUMS + data[8:24] + data[40 : 40 + 8 * (count + 1)] + data[40 + 8 * (2 * count + 1) :])


def form(
    make: Callable[[Path], object],
    name: str = "a.rec",
    labels: Labels | None = None,
    side: int = 56,
    boxes: bool = False,
) -> Form:
    """A form from what writes it into a folder."""
    with tempfile.TemporaryDirectory() as place:
        make(Path(place))
        return Form(contents(Path(place)), name, labels or Labels(5), side, boxes)


def contents(folder: Path) -> Files:
    """The files of a folder, with their paths below it."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def one(label: Callable[[int], Any] = of_class, make: Encode = plain_jpeg, side: int = 66, rows: int = 0) -> Any:
    """What writes one record."""
    return lambda folder: made(folder, images(COUNT, label, make, side), rows=rows)


def unindexed(folder: Path, lines: int) -> None:
    """A record of whose index so many lines are left, 0: no file."""
    one()(folder)
    kept = (folder / "a.idx").read_text().splitlines(keepends=True)[:lines]
    (folder / "a.idx").write_text("".join(kept))
    if not lines:
        (folder / "a.idx").unlink()


def faces(folder: Path) -> None:
    """InsightFace's form: three people with four images each."""
    first = COUNT + 1
    payloads = {0: pack(IRHeader(0, [first, first + 3], 0, 0), b"")}
    for key in range(1, first):
        payloads[key] = pack(IRHeader(0, [float((key - 1) // 4), 0.0], key, 0), plain_jpeg(picture(key)))
    for person in range(3):
        payloads[first + person] = pack(IRHeader(0, [1 + 4 * person, 5 + 4 * person], first + person, 0), b"")
    made(folder, payloads)


def several_files(*names: str, rows: int = 0) -> Callable[[Path], None]:
    """Files with so many images each."""

    def write(folder: Path) -> None:
        for number, name in enumerate(names):
            payloads = images(
                COUNT // 2, of_class, in_kind(".jpg", 90) if rows else plain_jpeg, 66, number * COUNT // 2
            )
            made(folder, payloads, name, rows)

    return write


def listed(folder: Path) -> None:
    """A record with its list and the names of its classes."""
    one()(folder)
    (folder / "a.lst").write_text("".join(f"{key}\t{of_class(key):.6f}\tp{key}.jpg\n" for key in range(COUNT)))
    (folder / "synset.txt").write_text("ant\nbee\ncow\ndog\nelk\n")


def in_parts(pixels: NDArray[np.uint8]) -> bytes:
    """A BMP that holds the magic number of RecordIO, so that its record has several parts."""
    data = bytearray(encode(pixels, ".bmp", 0))
    data[404:408] = frame(b"")[0][:4]
    return bytes(data)


def with_boxes(folder: Path) -> None:
    """Records of object detection."""
    one(lambda key: [2, 5, key % 3, 0.1, 0.1, 0.5, 0.75])(folder)


def forms() -> dict[str, Form]:
    """Every form of docs/records.md; the payloads and side files that it may have."""
    jpg = in_kind(".jpg", 90)
    return {
        "plain": form(one()),
        "array": form(one(lambda key: [of_class(key)], side=28), side=24),
        "several": form(one(lambda key: [of_class(key), 0.5])),
        "numbers": form(one(lambda key: [of_class(key), 0.5, -1.0]), labels=Labels(3, "numbers")),
        "multi": form(one(lambda key: [float(key % 2), 1.0, 0.0], side=28), side=24, labels=Labels(3, "multi")),
        "soft": form(one(lambda key: [0.25, 0.75]), labels=Labels(2, "soft")),
        "tasks": form(one(lambda key: [of_class(key), float(key % 2)]), labels=Labels(7, "tasks", (5, 2))),
        "large": form(one(lambda key: float(LARGE + 2 * key)), labels=Labels(1 << 25)),
        "faces": form(faces, labels=Labels(3)),
        "im2rec-parts": form(several_files("a.rec.part000", "a.rec.part001")),
        "set": form(several_files("b.rec", "c.rec"), "b.rec,c.rec"),
        "pattern": form(several_files("t_1.rec", "t_2.rec", rows=3), "t_*.rec"),
        "no-index": form(lambda folder: unindexed(folder, 0)),
        "short-index": form(lambda folder: unindexed(folder, 5)),
        "rows": form(one(make=jpg, rows=3)),
        "rows-2": form(one(make=jpg, rows=2)),
        "rows-1": form(one(make=jpg, rows=1)),
        "png": form(one(make=in_kind(".png", 3), rows=3)),
        "bmp": form(one(make=in_kind(".bmp", 0))),
        "webp": form(one(make=in_kind(".webp", 101), rows=3)),
        "split": form(one(make=in_parts, rows=3)),
        "kept": form(one(make=in_kind(".png", 3), side=28), side=24),
        "list": form(listed),
        "boxes": form(with_boxes, boxes=True),
    }


# --- damage ---


@dataclass(frozen=True)
class Place:
    """A record in a file: its number, and its bytes from `start` to `end`."""

    name: str
    number: int
    start: int
    end: int


def places(files: Files) -> list[Place]:
    """All records, by file."""
    found = []
    with tempfile.TemporaryDirectory(dir=memory()) as folder:
        for name in files:
            if ".rec" in name:
                path = Path(folder) / "x.rec"
                path.write_bytes(files[name])
                found += [Place(name, number, *both) for number, both in enumerate(scan(path))]
    return found


def memory() -> Path | None:
    """A folder in memory, where there is one."""
    shared = Path("/dev/shm")
    return shared if shared.is_dir() and os.access(shared, os.W_OK) else None


def damage(files: Files, all_places: Sequence[Place], foreign: Files, chance: random.Random) -> Damage:
    """Do one kind of damage to files, which are changed."""
    kind = chance.choice(KINDS)
    return kind(files, all_places, foreign, chance)


def flip(files: Files, all_places: Sequence[Place], foreign: Files, chance: random.Random) -> Damage:
    """One to four bytes of one record: of its frame, of its header and labels, of its image."""
    place = chance.choice(all_places)
    part = chance.choice(["frame", "header", "image", "image's head"])
    lengths = {"frame": (0, 8), "header": (8, 40), "image": (32, place.end - place.start), "image's head": (32, 80)}
    low, high = (min(at, place.end - place.start - 1) for at in lengths[part])
    data = bytearray(files[place.name])
    for _ in range(chance.randint(1, 4)):
        data[place.start + chance.randint(low, max(low, high - 1))] ^= chance.choice(
            [1, 128, 255, 1 << chance.randrange(8)]
        )
    files[place.name] = bytes(data)
    return Damage(
        f"flip in {part} of {place.name} {place.number}", {place.name}, {(place.name, place.number)}, plain=True
    )


def zero(files: Files, all_places: Sequence[Place], foreign: Files, chance: random.Random) -> Damage:
    """A range of one record is zeros, ones or noise."""
    place = chance.choice(all_places)
    start = chance.randint(place.start, place.end - 1)
    end = min(place.end, start + chance.choice([1, 4, 16, 64, 512, 1 << 20]))
    what = chance.choice([bytes(end - start), b"\xff" * (end - start), chance.randbytes(end - start)])
    files[place.name] = files[place.name][:start] + what + files[place.name][end:]
    where = f"bytes {start - place.start} to {end - place.start} of {place.name} {place.number}"
    return Damage(f"overwrite {where}", {place.name}, {(place.name, place.number)}, plain=True)


def shorten(files: Files, all_places: Sequence[Place], foreign: Files, chance: random.Random) -> Damage:
    """A record whose payload is cut, in a frame that says so; the record keeps its place by bytes behind it."""
    place = chance.choice(all_places)
    data = files[place.name][place.start : place.end]
    length = int.from_bytes(data[4:8], "little") & ((1 << 29) - 1)
    kept = chance.choice([0, 3, 8, 24, 28, chance.randint(0, length)])
    piece = b"".join(frame(data[8 : 8 + min(kept, length)]))
    filler = place.end - place.start - len(piece)
    whole = chance.random() < 0.5 and filler >= 8
    piece += b"".join(frame(bytes(filler - 8)))[:filler] if whole else bytes(max(0, filler))
    files[place.name] = (
        files[place.name][: place.start] + piece[: place.end - place.start] + files[place.name][place.end :]
    )
    how = f"payload of {place.name} {place.number} cut to {kept} bytes"
    return Damage(how, {place.name}, {(place.name, place.number)}, listed=whole)


def cut(files: Files, all_places: Sequence[Place], foreign: Files, chance: random.Random) -> Damage:
    """A file ends early: anywhere, or between two records."""
    name = chance.choice(sorted({place.name for place in all_places}))
    borders = [place.end for place in all_places if place.name == name]
    at = chance.choice(
        [0, chance.randint(0, len(files[name])), chance.choice(borders), borders[-1] - chance.randint(1, 9)]
    )
    files[name] = files[name][:at]
    gone = {(name, place.number) for place in all_places if place.name == name and place.end > at}
    return Damage(f"{name} cut to {at} bytes", {name}, gone)


def grow(files: Files, all_places: Sequence[Place], foreign: Files, chance: random.Random) -> Damage:
    """Bytes behind the end: zeros, noise, half a record, another form's records."""
    name = chance.choice(sorted({place.name for place in all_places}))
    half = files[name][all_places[0].start : all_places[0].end // 2]
    more = chance.choice([bytes(chance.randint(1, 64)), chance.randbytes(chance.randint(1, 200)), half])
    files[name] += more
    return Damage(f"{len(more)} bytes behind {name}", {name})


def swap(files: Files, all_places: Sequence[Place], foreign: Files, chance: random.Random) -> Damage:
    """Two records of a file in each other's place; those between move."""
    first = chance.choice(all_places)
    second = chance.choice([place for place in all_places if place.name == first.name])
    first, second = sorted((first, second), key=lambda place: place.start)
    data, name = files[first.name], first.name
    if first != second:
        middle = data[first.end : second.start]
        ends = data[second.start : second.end], data[first.start : first.end]
        files[name] = data[: first.start] + ends[0] + middle + ends[1] + data[second.end :]
    return Damage(f"{name}: {first.number} and {second.number} exchanged", {name})


def double(files: Files, all_places: Sequence[Place], foreign: Files, chance: random.Random) -> Damage:
    """A record once more: behind itself, at the end, or over another one."""
    place = chance.choice(all_places)
    data, name = files[place.name], place.name
    piece, how = data[place.start : place.end], chance.choice(["behind itself", "at the end", "over another", "gone"])
    others = [other for other in all_places if other.name == name]
    touched = {(name, place.number)}
    if how == "over another":
        other = chance.choice(others)
        files[name] = data[: other.start] + piece + data[other.end :]
        touched = {(name, other.number), (name, place.number)}
    elif how == "gone":
        files[name] = data[: place.start] + data[place.end :]
    else:
        at = place.end if how == "behind itself" else len(data)
        files[name] = data[:at] + piece + data[at:]
    return Damage(f"{name} {place.number} {how}", {name}, touched, listed=True)


def replace_file(files: Files, all_places: Sequence[Place], foreign: Files, chance: random.Random) -> Damage:
    """A file is another one: another record, its index, a picture, a text, zeros, nothing, gone."""
    name = chance.choice(sorted(files))
    ending = name.partition(".")[2].partition(".")[0]
    like = [data for other, data in foreign.items() if other.partition(".")[2].partition(".")[0] == ending]
    what = chance.choice(["like it", "any", "picture", "text", "zeros", "empty", "gone", "noise"])
    data = {
        "like it": chance.choice(like or [b""]),
        "any": chance.choice([*foreign.values(), *files.values()]),
        "picture": plain_jpeg(picture(1)),
        "text": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n",
        "zeros": bytes(len(files[name])),
        "noise": chance.randbytes(200),
    }.get(what, b"")
    files[name] = data
    if what == "gone":
        files.pop(name)
    is_record = ".rec" in name
    return Damage(f"{name} replaced: {what}", {name}, everything=is_record, listed=True, foreign=foreign)


def side(files: Files, all_places: Sequence[Place], foreign: Files, chance: random.Random) -> Damage:
    """Damage to a side file: an index, a `.rows`, a list, the names of classes."""
    name = chance.choice([name for name in sorted(files) if ".rec" not in name] or sorted(files))
    if ".rec" in name:
        return flip(files, all_places, foreign, chance)
    text = not name.endswith(".rows")
    how = chance.choice(["cut", "damaged", "damaged", "lines"])
    data = files[name]
    if how == "cut":
        files[name] = data[: chance.randint(0, len(data))]
    elif how == "lines" and text:
        lines = data.splitlines(keepends=True)
        first, second = chance.randrange(len(lines)), chance.randrange(len(lines))
        lines[first] = chance.choice([b"", lines[second], lines[first] * 2, b"\n" + lines[first]])
        files[name] = b"".join(lines)
    else:
        files[name] = (damage_text if text else damage_bytes)(data, chance)
    return Damage(f"{name} {how}", {name}, listed=True)


def exchange(files: Files, all_places: Sequence[Place], foreign: Files, chance: random.Random) -> Damage:
    """Two files of one ending have each other's name; where there is one alone, it gets another's."""
    name = chance.choice(sorted(files))
    ending = re.search(r"\.[a-z]+", name)
    others = [other for other in sorted(files) if other != name and ending and ending[0] in other]
    if not others:
        return replace_file(files, all_places, foreign, chance)
    other = chance.choice(others)
    files[name], files[other] = files[other], files[name]
    return Damage(f"{name} and {other} exchanged", {name, other}, listed=True)


Kind = Callable[[Files, Sequence[Place], Files, random.Random], Damage]
KINDS: list[Kind] = [
    flip,
    flip,
    flip,
    zero,
    zero,
    shorten,
    cut,
    cut,
    grow,
    swap,
    double,
    replace_file,
    side,
    side,
    exchange,
]


# --- reading, as users do ---


@dataclass
class Heard:
    """What a command said: its sentences, whether it refused, and what was read."""

    said: list[str]
    refused: bool = False
    value: Any = None

    @property
    def text(self) -> str:
        """All sentences."""
        return "\n".join(self.said)


class Fixed:
    """An engine that always answers the same."""

    where = "here"

    def __init__(self, classes: int) -> None:
        self.classes = classes

    def logits(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Zeros."""
        return np.zeros((len(batch), self.classes), np.float32)


@contextlib.contextmanager
def in_time() -> Iterator[None]:
    """Raise a FaultError where it takes too long."""

    def late(number: int, frame: FrameType | None) -> None:
        raise FaultError(f"no end after {SECONDS} seconds of the processor")

    if not hasattr(signal, "setitimer"):  # on Windows
        yield
        return
    before = signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def hear(work: Callable[[list[str]], Any]) -> Heard:
    """Do some work; a refusal must be one line."""
    said: list[str] = []
    heard = Heard(said)
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        try:
            heard.value = work(said)
        except ResnetError as error:
            heard.refused = True
            said.append(str(error))
            expect("\n" not in str(error) and len(str(error)) > 20, f"no sentence: {error!r}")
        except OSError as error:
            sentence = told(error)
            expect(bool(sentence), f"an error of the system without a file: {error!r}")
            heard.refused = True
            said.append(str(sentence))
    said += [line.split("\r")[-1] for line in errors.getvalue().splitlines()]
    return heard


def seen_of(batch: Any) -> list[Seen]:
    """What is known of the images of a batch."""
    labels = [tuple(np.ravel(label).tolist()) for label in batch.labels]
    return [
        (label, hashlib.sha256(image.tobytes()).digest()) for label, image in zip(labels, batch.images, strict=True)
    ]


def load(one: Form, folder: Path, said: list[str], skip: bool) -> list[Seen]:
    """Every image in the order of the record, centre crop."""
    records = open_records(folder_name(one, folder))
    said += records.remarks
    reading = Reading(on_skip=said.append if skip else None, leave_out=True)
    steps, shape = split(np.arange(len(records)), 5), (one.side, one.side, 3)
    found = batches(records, steps, Centred(one.side), shape, one.labels, reading)
    return [seen for batch in found for seen in seen_of(batch)]


def train(one: Form, folder: Path, said: list[str]) -> None:
    """An epoch as `train --on-error skip` reads it."""
    records = open_records(folder_name(one, folder))
    reading = Reading(on_skip=said.append)
    plan = augmentation(3, one.side, imagenet=False)
    for _ in Loader(records, plan, seed=0, batch_size=5, classes=one.labels, reading=reading):
        pass


def evaluate(one: Form, folder: Path, said: list[str], skip: bool) -> object:
    """`evaluate --on-error`."""
    records = open_records(folder_name(one, folder))
    said += records.remarks
    engine = Fixed(one.labels.classes)
    return judge(engine, records, View(one.side), one.labels, 5, 0, "skip" if skip else "stop")


def pictures(one: Form, folder: Path) -> None:
    """The images as `predict` finds and reads them; a picture that cannot be read is named in its line."""
    for named in find_pictures([folder_name(one, folder)]):
        with contextlib.suppress(ResnetError):
            named.read()


def folder_name(one: Form, folder: Path) -> str:
    """The name of its records."""
    return ",".join(str(folder / part) for part in one.name.split(","))


def verify(one: Form, folder: Path, out: Path) -> tuple[list[Any], list[str]]:
    """The reports on all files, and the sentences of repairs."""
    reports, said = [], []
    for number, path in enumerate(record_paths(folder_name(one, folder))):
        settings = VerifyConfig((str(path),), threads=1)
        report = verify_record(path, settings)
        reports.append(report)
        str(report), report.as_json()
        out.mkdir(parents=True, exist_ok=True)
        said.append(repair(report, out / f"r{number}.rec"))
    return reports, said


def index(one: Form, folder: Path, out: Path) -> list[tuple[int, int]]:
    """`index --out` of all files."""
    out.mkdir(parents=True)
    paths = record_paths(folder_name(one, folder))
    return [write_index(path, out / f"i{number}.idx") for number, path in enumerate(paths)]


# --- what must hold ---


@dataclass
class Truth:
    """What the sound files give: images as they are loaded, by file and number of their record, and their bytes."""

    seen: dict[tuple[str, int], Seen]
    data: dict[tuple[str, int], bytes]
    payloads: dict[tuple[str, int], bytes]
    remarks: frozenset[str] = frozenset()  # what is said of sound files too
    checked: bool = False  # whether a decoder sees every change of an image


def truth_of(one: Form) -> Truth:
    """Read the sound files."""
    with tempfile.TemporaryDirectory(dir=memory()) as place:
        folder = put(one.files, Path(place))
        data, payloads = {}, {}
        for name in one.records:
            for number, (start, _) in enumerate(scan(folder / name)):
                with (folder / name).open("rb") as file:
                    payloads[name, number] = bytes(read_record(file.fileno(), start)[0])
                data[name, number] = bytes(unpack(payloads[name, number])[1])
        if one.boxes:
            return Truth({}, data, payloads)
        checked = all(image.startswith(PNG_START) for image in data.values())
        records = open_records(folder_name(one, folder))
        said: list[str] = []
        found = load(one, folder, said, skip=False)
        expect(len(found) == COUNT, f"{len(found)} images in sound files")
        at = [records.place(ordinal) for ordinal in range(len(records))]
        seen = {(reader.path.name, number): one for (reader, number), one in zip(at, found, strict=True)}
        return Truth(seen, data, payloads, frozenset(map(without_folders, said)), checked)


def without_folders(sentence: str) -> str:
    """A sentence about files, wherever they are."""
    return re.sub(r"/[^ ,:;`]*/", "", sentence)


def put(files: Files, folder: Path) -> Path:
    """Write files."""
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def check_loaded(heard: Heard, truth: Truth, harm: Damage, foreign: set[Seen], whole: bool) -> int:
    """Images that no sentence speaks of are those that were packed. Returns how many are others, unsaid.

    `whole`: all were read that were not named.
    """
    left = Counter(truth.seen.values())
    left.subtract(heard.value)
    strange = [
        seen for seen, count in left.items() if count < 0 and seen not in truth.seen.values() and seen not in foreign
    ]
    sums_of_pixels = [pixels for _, pixels in (*truth.seen.values(), *foreign)]
    others = [seen for seen in strange if seen[1] not in sums_of_pixels]
    expect(not others or not truth.checked, "other pixels, and a PNG has checksums")
    twice = [seen for seen, count in left.items() if count < 0 and seen in truth.seen.values()]
    most = len(truth.seen) if harm.everything else len(harm.touched)
    expect(len(strange) <= most, f"{len(strange)} images are none that were packed, and {most} were damaged")
    named = any(without_folders(sentence) not in truth.remarks for sentence in heard.said)
    expect(not twice or named or harm.listed, f"{len(twice)} images come twice, and nobody says so")
    missing = sum(count for count in left.values() if count > 0)
    untouched = [seen for place, seen in truth.seen.items() if place not in harm.touched and left[seen] > 0]
    expect(not missing or named or harm.listed or missing <= most, f"{missing} images are missing, and nobody says so")
    if harm.plain and whole:
        expect(not untouched, f"{len(untouched)} images that nobody damaged are missing or others: {heard.text[:300]}")
    return len(strange)


def check_named(heard: Heard, harm: Damage, one: Form, what: str) -> None:
    """A refusal names a file that is there or was, and the one record that is damaged."""
    if not heard.refused:
        return
    sentence = heard.said[0] if len(heard.said) == 1 else heard.text
    stems = {name.split(".")[0] for name in one.files}
    expect(
        any(f"/{stem}." in sentence or f" {stem}.txt" in sentence or "t_*.rec" in sentence for stem in stems),
        f"{what}: no file is named: {sentence}",
    )


def numbers_named(text: str) -> set[int]:
    """The numbers of records in sentences."""
    return {int(number) for number in re.findall(r"record (\d+)(?! records)", text)}


def check_record_named(heard: Heard, harm: Damage, one: Form, what: str) -> None:
    """Where one record alone is damaged, no other record is called so."""
    if harm.plain and not {"no-index", "short-index"} & {one.name}:
        wrong = numbers_named(heard.text) - {number for _, number in harm.touched}
        # Sentences on the form of a collection speak of its record 0.
        expect(not wrong - {0}, f"{what}: another record is named: {heard.text[:400]}")


@dataclass
class Tally:
    """What came of the records of a form."""

    records: int = 0
    named: int = 0
    skipped: int = 0
    unharmed: int = 0
    silent: int = 0
    faults: list[str] = field(default_factory=list)


def try_one(one: Form, truth: Truth, foreign: Files, others: set[Seen], chance: random.Random, tally: Tally) -> str:
    """Damage files in one way and read them in all; returns how they were damaged. Raises FaultError."""
    files = dict(one.files)
    harm = damage(files, places(one.files), foreign, chance)
    tally.records += 1
    try:
        with tempfile.TemporaryDirectory(dir=memory()) as place, in_time():
            folder = Path(place) / "in"
            folder.mkdir()
            put(files, folder)
            _read_all(one, truth, harm, others, folder, Path(place) / "out", tally)
            expect(contents(folder) == files, "an input was changed")
    except FaultError as error:
        raise FaultError(f"{harm.how}: {error}") from None
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        said = f"{type(error).__name__}: {error} at {Path(where.filename).name}:{where.lineno}"
        raise FaultError(f"{harm.how}: {said[:400]}") from error
    return harm.how


def _read_all(one: Form, truth: Truth, harm: Damage, others: set[Seen], folder: Path, out: Path, tally: Tally) -> None:
    stop = hear(lambda said: load(one, folder, said, skip=False))
    skip = hear(lambda said: load(one, folder, said, skip=True))
    silent = 0
    for heard, what in ((stop, "stop"), (skip, "skip")):
        check_named(heard, harm, one, what)
        check_record_named(heard, harm, one, what)
        if not heard.refused:
            silent = check_loaded(heard, truth, harm, others, whole=True)
    expect(not one.boxes or stop.refused or harm.everything or bool(harm.touched) or harm.listed, "boxes are taken")
    _count(stop, skip, silent, truth, tally)
    _others(one, harm, folder)
    _verified(one, truth, harm, folder, out / "verify", stop)
    _written(one, truth, harm, folder, out)


def _count(stop: Heard, skip: Heard, silent: int, truth: Truth, tally: Tally) -> None:
    if stop.refused and not skip.refused:
        tally.skipped += 1
    elif stop.refused or any(without_folders(sentence) not in truth.remarks for sentence in stop.said):
        tally.named += 1
    elif silent:
        tally.silent += 1
    else:
        tally.unharmed += 1


def _others(one: Form, harm: Damage, folder: Path) -> None:
    works: dict[str, Callable[[list[str]], object]] = {
        "train": lambda said: train(one, folder, said),
        "predict": lambda said: pictures(one, folder),
    }
    if one.labels.classes < 1000 and one.labels.kind != "numbers":
        works["evaluate"] = lambda said: evaluate(one, folder, said, skip=False)
        works["evaluate --on-error skip"] = lambda said: evaluate(one, folder, said, skip=True)
    for what, work in works.items():
        check_named(hear(work), harm, one, what)


def _verified(one: Form, truth: Truth, harm: Damage, folder: Path, out: Path, stop: Heard) -> None:
    """`verify` names what was changed; what it repairs is sound."""
    heard = hear(lambda said: verify(one, folder, out))
    check_named(heard, harm, one, "verify")
    if heard.refused:
        return
    reports, _ = heard.value
    findings = [finding for report in reports for finding in report.findings]
    is_record = any(".rec" in name for name in harm.files)
    changed = any((folder / name).read_bytes() != one.files[name] for name in one.files if (folder / name).is_file())
    if is_record and changed and not harm.everything and _has_sums(one) and harm.touched and harm.plain:
        same = _payloads(folder, one) == truth.payloads
        expect(bool(findings) or same, "verify finds nothing, and a record is another one")
        numbers = {finding.record for finding in findings if finding.byte is not None} - {None}
        wrong = numbers - {number for _, number in harm.touched}
        expect(not wrong, f"verify names records {sorted(wrong)}: {[str(f) for f in findings][:4]}")
    text = stop.text
    if stop.refused and ("is damaged" in text or "cannot be decoded" in text or "is not an image record" in text):
        expect(bool(findings), f"verify finds nothing, and a reader does: {text[:300]}")
    _repaired(one, truth, harm, out, len(reports))


def _repaired(one: Form, truth: Truth, harm: Damage, out: Path, count: int) -> None:
    """Repaired records are read without a sentence of damage, and hold all that was not damaged."""
    found: list[bytes] = []
    for number in range(count):
        path = out / f"r{number}.rec"
        again = hear(lambda said, path=path: verify_record(path, VerifyConfig((str(path),), threads=1)))  # type: ignore[misc]
        expect(not again.refused, f"a repaired record is refused: {again.text}")
        odd = [
            finding for finding in again.value.findings if finding.kind not in ("missing", "unlisted", "list", "faces")
        ]
        if not {"faces"} & {odd_one.kind for odd_one in odd} and "images of" not in again.text:
            expect(not odd, f"a repaired record is not sound: {[str(finding) for finding in odd][:3]}")
        reader = RecordReader(path)
        found += [bytes(reader[ordinal]) for ordinal in range(len(reader))]
    if harm.plain:
        lost = [
            place for place, payload in truth.payloads.items() if place not in harm.touched and payload not in found
        ]
        expect(not lost, f"a repair loses {lost[:5]}, which nobody damaged")
    most = len(truth.payloads) if harm.everything else len(harm.touched)
    strange = [payload for payload in found if payload not in truth.payloads.values()]
    expect(harm.everything or len(strange) <= most, f"a repair has {len(strange)} records of which {most} were damaged")


def _has_sums(one: Form) -> bool:
    rows = [data for name, data in one.files.items() if name.endswith(".rows")]
    return len(rows) == len(one.records) and all(data[:8] != WITHOUT_SUMS for data in rows)


def _payloads(folder: Path, one: Form) -> dict[tuple[str, int], bytes]:
    found = {}
    for name in one.records:
        with (folder / name).open("rb") as file:
            for number, (start, _) in enumerate(scan(folder / name)):
                found[name, number] = bytes(read_record(file.fileno(), start)[0])
    return found


def _written(one: Form, truth: Truth, harm: Damage, folder: Path, out: Path) -> None:
    """What index, convert and unpack write; nothing where they refuse."""
    name = folder_name(one, folder)
    new = out / "convert" / "n.rec"
    faces = one.labels.classes == 3 and one.labels.kind == "class"
    works: dict[str, tuple[Callable[[list[str]], object], Path]] = {
        "index": (lambda said: index(one, folder, out / "index"), out / "index"),
        "convert": (lambda said: convert(ConvertConfig((name, str(new)))), out / "convert"),
        "unpack": (lambda said: unpack_images(UnpackConfig(name, out / "unpack" / "u")), out / "unpack"),
        "unpack --on-error stop": (
            lambda said: unpack_images(UnpackConfig(name, out / "stop" / "u.tar", "stop")),
            out / "stop",
        ),
    }
    if faces:
        other = out / "faces" / "f.rec"
        works["convert --faces"] = (lambda said: convert(ConvertConfig((name, str(other)), faces=True)), out / "faces")
    for what, (work, folder_of_work) in works.items():
        heard = hear(work)
        check_named(heard, harm, one, what)
        there = contents(folder_of_work) if folder_of_work.is_dir() else {}
        if heard.refused:
            expect(
                not there or (what == "index" and len(one.records) > 1), f"{what} refuses and leaves {sorted(there)}"
            )
        elif what.startswith("unpack"):
            _unpacked(there, truth, harm, heard)
        elif what == "convert":
            _converted(new, truth, harm)


def _unpacked(there: Files, truth: Truth, harm: Damage, heard: Heard) -> None:
    files = [data for name, data in there.items() if not name.endswith((".lst", ".tar"))]
    strange = [data for data in files if data not in truth.data.values()]
    expect(harm.everything or len(strange) <= len(harm.touched), f"unpack writes {len(strange)} other images")


def _converted(new: Path, truth: Truth, harm: Damage) -> None:
    reader = RecordReader(new)
    found = [bytes(reader.image(ordinal)[1]) for ordinal in range(len(reader))]
    strange = [data for data in found if data not in truth.data.values()]
    most = len(harm.touched) + harm.listed  # a record may be two now
    expect(harm.everything or len(strange) <= most, f"convert writes {len(strange)} other images")
    if harm.plain:
        there = {data for place, data in truth.data.items() if place not in harm.touched}
        expect(there - {b""} <= set(found), "convert leaves out images, and nobody says so")


def run(
    every: dict[str, Form], name: str, records: int, seed: int, only: int | None = None, say: bool = False
) -> Tally:
    """Damage so many records of a form; what must not be is printed with what makes it again."""
    one, tally = every[name], Tally()
    foreign = {
        other: data for form in (every["rows"], every["kept"], every["list"]) for other, data in form.files.items()
    }
    others = {seen for form in every.values() if form.labels == one.labels for seen in foreign_seen(form, one)}
    truth, started = truth_of(one), time.monotonic()
    for number in range(records) if only is None else [only]:
        try:
            how = try_one(one, truth, foreign, others, random.Random(f"{name} {seed} {number}"), tally)
            if only is not None:
                print(how)
        except FaultError as error:
            tally.faults.append(str(error))
            print(f"FAULT: --form {name} --only {number} --seed {seed}: {error}", flush=True)
            if only is not None:
                traceback.print_exc()
        if say and time.monotonic() - started > 30:
            started = time.monotonic()
            print(f"{name}: {number + 1} of {records}", flush=True)
    return tally


def foreign_seen(other: Form, one: Form) -> list[Seen]:
    """What another form's images look like in the crop of this one."""
    if other.boxes or other.side != one.side:
        return []
    return list(truth_of(other).seen.values())


def main() -> int:
    """Damage records of all forms, or of one; the exit status is 1 when something was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    every = forms()
    parser.add_argument("--form", choices=every)
    parser.add_argument("--only", type=int, help="the number of one record of a form")
    options = parser.parse_args()
    names = [name for name in every if options.form in (None, name)]
    total, started = Tally(), time.monotonic()
    for name in names:
        tally = run(every, name, -(-options.records // len(names)), options.seed, options.only, say=True)
        line = f"{tally.records:5d} records, {tally.named:5d} named, {tally.skipped:5d} skipped, "
        line += f"{tally.unharmed:5d} unharmed, {tally.silent:4d} silent, {len(tally.faults):3d} faults"
        print(f"{name:13s} {line}", flush=True)
        for what in ("records", "named", "skipped", "unharmed", "silent", "faults"):
            setattr(total, what, getattr(total, what) + getattr(tally, what))
    print(
        f"{total.records} damaged records of {len(names)} forms: {total.named} named, {total.skipped} skipped, "
        f"{total.unharmed} unharmed, {total.silent} silent, {len(total.faults)} faults, "
        f"{time.monotonic() - started:.0f} s"
    )
    return min(1, len(total.faults))


if __name__ == "__main__":
    sys.exit(main())
