"""Feed damaged files to every reader of files: no crash, no hang, no wrong kind of error, bounded memory.

    python tests/fuzz.py --inputs 10000000            # all targets, by their shares
    python tests/fuzz.py --target rec --inputs 1000   # one

Valid files, made by our writers or by hand, are damaged: bits, bytes, pieces, numbers set to awkward values, tokens of
texts, values of JSON. A reader may take an input or refuse it by the errors that its docstring names. What it takes
must hold what the oracle of its target says. Time and memory of an input are bounded; memory is measured on some.

An input that fails is written to tests/corpus/TARGET/, which tests/test_fuzz.py replays.
"""

import argparse
import contextlib
import hashlib
import io
import json
import os
import random
import resource
import struct
import sys
import tarfile
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from resnet_v2.config.packing import VerifyConfig
from resnet_v2.config.training import TrainConfig
from resnet_v2.data import jpeg, rows
from resnet_v2.data.claims import claimed_size
from resnet_v2.data.index import read_index
from resnet_v2.data.lists import read_list, read_synset, write_list
from resnet_v2.data.loader import MAX_PIXELS
from resnet_v2.data.records import (
    MAGIC_BYTES,
    IRHeader,
    RecordReader,
    frame,
    pack,
    read_record,
    scan,
    unpack,
    writing,
)
from resnet_v2.data.sidecar import Rows, write_rows
from resnet_v2.errors import ResnetError
from resnet_v2.interchange import gluon
from resnet_v2.interchange.graph import last_layer, prove, read_graph
from resnet_v2.interchange.mxnet import recognise
from resnet_v2.interchange.params import parse_params
from resnet_v2.interchange.seal import is_sealed, sealed
from resnet_v2.interchange.symbol import symbol_json
from resnet_v2.logs.runlog import RunLog, read_curve
from resnet_v2.networks import weights
from resnet_v2.networks.architecture import Architecture
from resnet_v2.networks.header import Header
from resnet_v2.networks.resnet import ResNet, initialize
from resnet_v2.networks.sums import verify_checkpoint
from resnet_v2.packing.archives import Tar
from resnet_v2.packing.groundtruth import _rows as read_truth
from resnet_v2.packing.photos import read_orientation
from resnet_v2.packing.sources import _cifar_part, _read_archive, _read_idx
from resnet_v2.packing.verify import verify_record
from resnet_v2.training.checkpoint import Start
from resnet_v2.training.distributed import Ranks
from resnet_v2.training.evaluation import restored
from resnet_v2.training.meter import Meter
from resnet_v2.training.state import TrainState
from resnet_v2.training.step import Trainer

CORPUS = Path(__file__).with_name("corpus")
SECONDS_PER_INPUT = 2.0
MEASURE_EVERY = 50
FREE_BYTES = 64 << 20
PIXEL_BYTES = 3 * MAX_PIXELS + FREE_BYTES  # where pictures are decoded that claim as many as they may
NUMBERS = [0, 1, 2, 3, 7, 8, *(1 << bits for bits in (7, 8, 15, 16, 29, 30, 31, 32, 63))]
NUMBERS += [number - 1 for number in NUMBERS[6:]] + [0x112, 0xF993FAC8, 0xF993FAC9, 0xF993FACA, 0xCED7230A, 0x40000001]
TOKENS = [b"nan", b"-inf", b"1e400", b"-1", b"0", b"-0", b"1_0", b"9" * 5000, b"18446744073709551616", b"../", b"/"]
TOKENS += [
    b"\x00",
    b"\r",
    b"\n",
    b"\t",
    b" ",
    b"\x0b",
    b"\xe2\x80\xa8",
    b"\xff",
    b"\xef\xbb\xbf",
    b"{}",
    b"[",
    b"]" * 9,
    b'"',
]
VALUES: list[Any] = [None, True, -1, 0, 1, 1.5, 10**9, 10**30, -(10**400), float("nan"), float("inf"), "", "x", "1"]
VALUES += [[], {}, [[]] * 3, {"a": []}, "\x1b[31m", "\ud800", [1] * 50, ["a", "a"]]

Parse = Callable[[bytes], None]
Damage = Callable[[bytes, random.Random], bytes]


def damage_bytes(data: bytes, chance: random.Random) -> bytes:
    """One to four pieces of damage to bytes."""
    damaged = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randint(0, len(damaged))
        kind = chance.randrange(7)
        if kind == 0 and at < len(damaged):
            damaged[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            damaged[at : at + 1] = chance.randbytes(1)
        elif kind in (2, 3):
            width = chance.choice((1, 2, 4, 8))
            order = chance.choice(("little", "big"))
            number = chance.choice(NUMBERS) & ((1 << 8 * width) - 1)
            at -= at % chance.choice((1, width))
            damaged[at : at + width] = number.to_bytes(width, order)  # type: ignore[arg-type]
        elif kind == 4:
            del damaged[at : at + chance.randint(1, 40)]
        elif kind == 5:
            damaged[at:at] = damaged[at : at + chance.randint(1, 40)]
        else:
            damaged += chance.randbytes(chance.randrange(16))
    return bytes(damaged)


def damage_text(data: bytes, chance: random.Random) -> bytes:
    """A token somewhere, lines that are gone, doubled or exchanged; or damage as to any bytes."""
    kind = chance.randrange(4)
    if kind == 0:
        return damage_bytes(data, chance)
    if kind == 1:
        lines = data.split(b"\n")
        one, other = chance.randrange(len(lines)), chance.randrange(len(lines))
        lines[one], lines[other] = chance.choice(((lines[other], lines[one]), (b"", b""), (lines[one], lines[one])))
        return b"\n".join(lines)
    at = chance.randint(0, len(data))
    return data[:at] + chance.choice(TOKENS) + data[at + chance.choice((0, 0, 1, 5)) :]


def damage_json(data: bytes, chance: random.Random) -> bytes:
    """An awkward value in the place of one of a JSON text, a key that is gone, depth; or damage as to a text."""
    kind = chance.randrange(8)
    if kind == 0:
        return damage_text(data, chance)
    if kind == 1:
        return b"[" * 3000 + data
    value = json.loads(data)
    places = list(_places(value))
    for _ in range(chance.randint(1, 3)):
        holder, key = chance.choice(places)
        with contextlib.suppress(KeyError, IndexError, TypeError):
            if kind == 2:
                del holder[key]
            elif kind == 3 and isinstance(holder, list):
                holder.append(holder[key])
            else:
                holder[key] = chance.choice(VALUES)
    return json.dumps(value).encode()


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    keys = value if isinstance(value, dict) else range(len(value))
    for key in list(keys):
        yield value, key
        if isinstance(value[key], (dict, list)):
            yield from _places(value[key])


def damage_lines_of_json(data: bytes, chance: random.Random) -> bytes:
    """Damage to one line of JSON lines, or to the text."""
    lines = data.split(b"\n")[:-1]
    if not lines or chance.randrange(4) == 0:
        return damage_text(data, chance)
    at = chance.randrange(len(lines))
    lines[at] = damage_json(lines[at], chance)
    return b"\n".join(lines) + b"\n"


def damage_safetensors(data: bytes, chance: random.Random) -> bytes:
    """Damage to the JSON of the header, with its length mended, to the header within it, or to the bytes."""
    kind = chance.randrange(4)
    if kind == 0:
        return damage_bytes(data, chance)
    size = int.from_bytes(data[:8], "little")
    text, body = data[8 : 8 + size], data[8 + size :]
    if kind == 1:
        text = damage_json(text, chance)
    else:
        header = json.loads(text)
        name = chance.choice(["resnet_v2", "resnet_v2", *header["__metadata__"]])
        if name in header["__metadata__"]:
            inner = header["__metadata__"][name].encode()
            damage = damage_json if inner.startswith(b"{") else damage_text
            header["__metadata__"][name] = damage(inner, chance).decode("utf-8", "replace")
        text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


class Place:
    """A folder in memory where inputs are written under the name that their reader expects."""

    def __init__(self) -> None:
        memory = Path("/dev/shm")
        where = memory if memory.is_dir() and os.access(memory, os.W_OK) else None
        self.held = tempfile.TemporaryDirectory(prefix="fuzz-", dir=where)
        self.path = Path(self.held.name)

    def __enter__(self) -> "Place":
        return self

    def __exit__(self, *_: object) -> None:
        self.held.cleanup()

    def put(self, name: str, data: bytes) -> Path:
        """Write an input."""
        path = self.path / name
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.write(descriptor, data)
        os.close(descriptor)
        return path


@dataclass(frozen=True)
class Target:
    """A reader: valid files, how they are damaged, and what reads them; `share` of a thousand inputs are its own.

    `parse` raises what is allowed for a file that is refused, and AssertionError where a file that is taken is not
    what it should be.
    """

    name: str
    share: int
    seeds: Callable[[], list[bytes]]
    damage: Damage
    parse: Callable[[Place], Parse]
    allowed: tuple[type[Exception], ...] = (ResnetError,)
    free_bytes: int = FREE_BYTES


def params_seeds() -> list[bytes]:
    """Small `.params` files: legacy, V1, V2 and V3 arrays."""
    files = []
    values = np.arange(6, dtype="<f4").tobytes()
    for version in (None, 0xF993FAC8, 0xF993FAC9, 0xF993FACA):
        shape = struct.pack("<III", 2, 2, 3) if version is None else struct.pack("<iqq", 2, 2, 3)
        storage = struct.pack("<i", 0) if version in (0xF993FAC9, 0xF993FACA) else b""
        start = b"" if version is None else struct.pack("<I", version)
        array = start + storage + shape + struct.pack("<iii", 1, 0, 0) + values
        names = b"".join(struct.pack("<Q", len(name)) + name for name in (b"arg:fc1_weight", b"aux:bn0_moving_mean"))
        files.append(struct.pack("<QQQ", 0x112, 0, 2) + array + array + struct.pack("<Q", 2) + names)
    return files


def params_parse(place: Place) -> Parse:
    """Read arrays, and what network they are of."""

    def parse(data: bytes) -> None:
        arrays = parse_params(io.BytesIO(data), len(data), "fuzz.params")
        assert sum(array.nbytes for array in arrays.values()) <= 2 * len(data)
        with contextlib.suppress(ResnetError):  # hardly any is a network
            recognise(arrays)
        with contextlib.suppress(ResnetError):
            gluon.recognise({name: array.shape for name, array in arrays.items()}, "fuzz.params")

    return parse


def rec_seeds() -> list[bytes]:
    """Small records: plain, with the magic number inside, of several labels."""
    payloads = [
        b"hello",
        b"",
        MAGIC_BYTES * 3,
        b"abcd" + MAGIC_BYTES + b"efgh",
        pack(IRHeader(0, 3.0, 1, 0), b"\xff\xd8image"),
        pack(IRHeader(0, [1.0, 2.0, 3.0], 1, 0), b"image"),
    ]
    return [b"".join(piece for payload in some for piece in frame(payload)) for some in (payloads, payloads[::-1])]


def rec_parse(place: Place) -> Parse:
    """Scan, read and unpack; what is found, framed again, is found again."""
    descriptor = os.memfd_create("fuzz")
    path = Path(f"/proc/self/fd/{descriptor}")

    def parse(data: bytes) -> None:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, data, 0)
        last = 0
        for start, end in scan(path):
            assert last <= start < end
            last = end
            payload, _ = read_record(descriptor, start, len(data))
            with contextlib.suppress(ValueError):
                unpack(payload)
        read_record(descriptor, 0)

    return parse


def in_file(name: str, read: Callable[[Path], object]) -> Callable[[Place], Parse]:
    """A reader of a path."""

    def made(place: Place) -> Parse:
        return lambda data: (read(place.put(name, data)), None)[1]

    return made


def idx_parse(place: Place) -> Parse:
    """Read an index beside a record."""
    record = place.put("a.rec", b"x")

    def parse(data: bytes) -> None:
        place.put("a.idx", data)
        offsets = read_index(record)
        assert offsets.ndim == 1
        assert not (offsets < 0).any()

    return parse


def picture(seed: int, side: int = 48, quality: int = 85) -> bytes:
    """A sliceable JPEG."""
    pixels = np.random.default_rng(seed).integers(0, 255, (side, side * 3 // 2, 3), dtype=np.uint8)
    return jpeg.encode(cv2.blur(pixels, (9, 9)).astype(np.uint8), ".jpg", quality)


def made_record(folder: Path) -> Path:
    """A record of three pictures with its index and fingerprints."""
    with writing(folder / "a.rec") as writer:
        for key in range(3):
            writer.write(key, pack(IRHeader(0, float(key), key, 0), picture(key)))
    write_rows(folder / "a.rec")
    (folder / "a.lst").write_text("".join(f"{key}\t{key}.0\tp{key}.jpg\n" for key in range(3)))
    (folder / "synset.txt").write_text("ant\nbee\ncow\n")
    return folder / "a.rec"


def rows_seeds() -> list[bytes]:
    """Side files of all versions."""
    with tempfile.TemporaryDirectory() as folder:
        data = made_record(Path(folder)).with_suffix(".rows").read_bytes()
    count = int.from_bytes(data[8:16], "little")
    second = b"RSNROWS2" + data[8:24] + data[32:40] + data[40:]
    first = b"RSNROWS1" + data[8:24] + data[40 : 40 + 8 * (count + 1)] + data[40 + 8 * (2 * count + 1) :]
    text = data[40:] + b'{"a":"b"}'
    with_text = data[:24] + (9).to_bytes(8, "little") + hashlib.sha256(text).digest()[:8] + text
    return [data, with_text, second, first]


def rows_parse(place: Place) -> Parse:
    """Open a side file, and decode a corner of every picture by it: the pixels of a whole decode, whatever it says."""
    reader = RecordReader(made_record(place.path))
    box = rows.Box(17, 30, 20, 44)
    whole = [jpeg.Encoded(reader.image(ordinal)[1], rows.NOTHING, 1 << 20).decode(box).copy() for ordinal in range(3)]

    def parse(data: bytes) -> None:
        place.put("a.rows", data)
        found = Rows.of(reader)
        for ordinal in range(3):
            image = jpeg.Encoded(reader.image(ordinal)[1], found.segments(ordinal), 1 << 20)
            pixels = image.decode(box, jpeg.cut_all([image], [box])[0])
            assert np.array_equal(pixels[..., :3], whole[ordinal][..., :3])
        found.sums()

    return parse


def list_seeds() -> list[bytes]:
    """Lists of one and of several labels, with names of all kinds."""
    return [
        b"0\t1.0\tcat/1.jpg\n1\t0.0\tdog/2 3.jpg\n",
        b"7\t1\t2\t3.5\tface.png\r\n8\t1\t2\t3.5\tb.png\r\n",
        "3\t2.000000\tbébé/ä.jpg\n".encode() * 5,
    ]


def list_parse(place: Place) -> Parse:
    """Read a list; what is read, written and read again, is the same."""

    def parse(data: bytes) -> None:
        entries = list(read_list(place.put("a.lst", data)))
        write_list(place.path / "b.lst", entries)
        again = list(read_list(place.path / "b.lst"))
        assert [(e.index, e.path) for e in again] == [(e.index, e.path) for e in entries]
        for one, other in zip(again, entries, strict=True):  # six decimals are written
            assert np.allclose(one.labels, other.labels, rtol=1e-15, atol=5.1e-7, equal_nan=True)

    return parse


SUMS = {"loss": 1.5, "correct": 3, "images": 8, "steps": 2}
RUN: dict[str, Any] = {
    "version": 2,
    "position": {"epoch": 1, "step": 2, "trained": False},
    "loader": {"epoch": 1, "step": 2, "seed": 0, "batch_size": 4, "images": 16, "records": 20},
    "meters": {"whole": [SUMS], "recent": [SUMS]},
    "best": [50.0, 1],
    "amp": "off",
    "scaler": {},
    "evaluation": {"images": 20, "loss": 1.0, "top1_error": 50.0, "top5_error": 10.0},
    "settings": {"lr": 0.1, "depth": 8},
    "given": ["depth"],
    "learning_rate": 0.1,
    "weight_decay": 0.0005,
    "epochs": 3,
    "data": {"a.rec": "0123456789abcdef"},
}


def checkpoint_seeds() -> list[bytes]:
    """A checkpoint of the smallest network, with its small tensors alone."""
    torch.manual_seed(0)
    architecture = Architecture(8, 3, "cifar")
    network = initialize(ResNet(architecture), 0)
    tensors = {name: t for name, t in weights.network_tensors(network).items() if t.numel() < 200}
    header = Header(architecture, 2, 32, 32, ("ant", "bee", "cow"), {"top1_error": 50.0}, RUN)
    with tempfile.TemporaryDirectory() as folder:
        weights.save(Path(folder) / "a.safetensors", tensors, header)
        return [(Path(folder) / "a.safetensors").read_bytes()]


def checkpoint_parse(place: Place) -> Parse:
    """The header, the tensors, the fingerprints; and a trainer goes on with what the header says of the run."""
    network = initialize(ResNet(Architecture(8, 3, "cifar")), 0)
    config = TrainConfig.of(depth=8, data_type="digits", num_classes=3)
    trainer = Trainer.of(
        network, torch.optim.SGD(network.parameters(), 0.1), config, Ranks(), torch.device("cpu"), "off"
    )
    tensors = weights.network_tensors(network)

    def parse(data: bytes) -> None:
        path = place.put("a.safetensors", data)
        header, _ = weights.read(path)
        verify_checkpoint(path)
        if "position" in header.training and header.architecture == network.architecture:
            start = Start(path, header, tensors, resumed=True)
            start.began_with(False, 0)
            with contextlib.suppress(ResnetError):  # a setting that nobody knows, or that is lost
                start.given()
            state = TrainState.from_tensors(start, trainer, start.epoch, Ranks())
            assert (state.epoch, state.step) == (start.epoch, header.training["position"]["step"])
            if header.training.get("evaluation"):
                restored(header.training["evaluation"])

    return parse


ARCHITECTURE = Architecture(20, 10, "cifar")


def symbol_parse(place: Place) -> Parse:
    """Read a symbol; it is our network's or it is refused."""
    right = prove(read_graph(symbol_json(ARCHITECTURE), "s"), ARCHITECTURE, {}).fixed_gammas

    def parse(data: bytes) -> None:
        graph = read_graph(data.decode("utf-8", "replace"), "s")
        last_layer(graph)
        found = prove(graph, ARCHITECTURE, {}).fixed_gammas
        assert isinstance(found, frozenset) and len(found) <= len(right) + 30

    return parse


def text_log() -> bytes:
    """A log in MXNet's form."""
    lines = ["INFO:root:Namespace(lr=0.1)"]
    for epoch in range(3):
        lines.append(f"INFO:root:Epoch[{epoch}] Batch [20]\tSpeed: 100.00 samples/sec\tTrain-accuracy=0.{epoch}5")
        lines.append(f"INFO:root:Epoch[{epoch}] Train-accuracy=0.4{epoch}")
        lines.append(f"INFO:root:Epoch[{epoch}] Validation-accuracy=0.5{epoch}")
        lines.append(f"INFO:root:Epoch[{epoch}] Validation-top_k_accuracy_5=0.8{epoch}")
    return ("\n".join(lines) + "\n").encode()


def json_log() -> bytes:
    """The events of a run."""
    events: list[dict[str, Any]] = [{"event": "start", "time": 1.0, "settings": {"lr": 0.1}, "device": "cpu"}]
    meter = {"seconds": 1.0, "waited": 0.1, "idle": 0.0}
    clock = {"seconds": 1.0, "waited": 0.1, "whole": meter, "recent": meter}
    for epoch in range(3):
        events.append({"event": "batch", "epoch": epoch, "batch": 2, "train_accuracy": 0.5, "loss": 1.0})
        events.append({"event": "train", "epoch": epoch, "train_accuracy": 0.5, "seconds": 1.0})
        events.append({"event": "validation", "epoch": epoch, "top1_error": 50.0, "top5_error": 10.0, "loss": 1.0})
        place = {"epoch": epoch, "step": 2}
        events.append({"event": "mark", "time": 2.0, "place": place, "text_bytes": 10, "clock": clock})
    return "".join(json.dumps(event) + "\n" for event in events).encode()


def json_log_parse(place: Place) -> Parse:
    """The curve of a log, and the place in it where a run goes on."""

    def parse(data: bytes) -> None:
        path = place.put("a.jsonl", data)
        place.put("a.log", b"x" * 100)
        log = RunLog(str(place.path / "a"), append=True, echo=lambda line: None)
        try:
            clock = log.go_back({"epoch": 1, "step": 2})
            if clock is not None:
                Meter().set_clock(clock["whole"])
                round(clock["seconds"] + clock["waited"] + clock["recent"]["idle"], 3)
        finally:
            log.close()
        curve = read_curve(path)
        assert all(np.isfinite(error) for error in curve.top1.values())

    return parse


def jpeg_seeds() -> list[bytes]:
    """Sliceable and plain JPEGs."""
    pixels = np.random.default_rng(3).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    grey = cv2.imencode(".jpg", pixels[..., 0])[1].tobytes()
    progressive = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    return [picture(1, 32), picture(2, 40, 30), grey, progressive]


def jpeg_parse(place: Place) -> Parse:
    """Find segments, decode a corner; where both ways give one, they give the same."""
    box = rows.Box(2, 9, 3, 11)

    def parse(data: bytes) -> None:
        segments = rows.find_segments(data)
        image = jpeg.Encoded(data, segments, 1 << 16)
        if box.bottom <= image.height and box.right <= image.width:
            image.decode(box, jpeg.cut_all([image], [box])[0])

    return parse


KINDS = (".png", ".bmp", ".webp", ".tiff", ".jpg", ".hdr", ".ras", ".avif", ".ppm", ".pam")


def picture_seeds() -> list[bytes]:
    """Small pictures in other formats."""
    pixels = np.random.default_rng(4).integers(0, 255, (6, 5, 3), dtype=np.uint8)
    found = [cv2.imencode(ending, pixels)[1].tobytes() for ending in KINDS]
    large = np.random.default_rng(4).integers(0, 255, (40, 40, 3), dtype=np.uint8)  # JPEG 2000 takes none so small
    found.append(cv2.imencode(".jp2", large)[1].tobytes())
    gif = b"GIF89a\x02\0\x02\0\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0\x02\0\x02\0\0\x02\x03\x44\x02\x05\0;"
    return [*found, gif]


def claims(data: bytes) -> None:
    """What a picture claims, and which side is up."""
    size = claimed_size(data)
    assert size is None or min(size) >= 0
    assert 1 <= read_orientation(data) <= 8


def exif_seeds() -> list[bytes]:
    """A JPEG with an orientation, in either byte order."""
    start, rest = picture(1, 16)[:2], picture(1, 16)[2:]
    found = []
    for order, name in (("<", b"II"), (">", b"MM")):
        tiff = name + struct.pack(f"{order}HIHHHIHH", 42, 8, 1, 0x112, 3, 1, 6, 0)
        found.append(start + b"\xff\xe1" + struct.pack(">H", 8 + len(tiff)) + b"Exif\0\0" + tiff + rest)
    return [*found, *picture_seeds()]


def tar_of(files: dict[str, bytes], kind: int = tarfile.GNU_FORMAT) -> bytes:
    """A tar."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=kind) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


def tar_seeds() -> list[bytes]:
    """Tars in three forms, and a tar of tars."""
    files = {"cat/1.jpg": b"one", "dog/" + "x" * 120 + ".jpg": b"two" * 300, "cat/ä.png": b""}
    inner = {"n01.tar": tar_of({"a.jpg": b"a"}), "n02.tar": tar_of({"b.jpg": b"b" * 600})}
    return [*(tar_of(files, kind) for kind in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)), tar_of(inner), sparse_tar()]


def sparse_tar() -> bytes:
    """A tar of a file with a map of its holes, as GNU tar writes it."""
    file, member = io.BytesIO(), tarfile.TarInfo("GNUSparseFile.0/a.jpg")
    names = {"major": "1", "minor": "0", "name": "a.jpg", "realsize": "1024"}
    member.pax_headers = {f"GNU.sparse.{name}": value for name, value in names.items()}
    data = b"1\n0\n3\n".ljust(tarfile.BLOCKSIZE, b"\0") + b"abc"
    member.size = len(data)
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


def tar_read(path: Path) -> None:
    """Index a tar, and read its members."""
    archive = Tar(path)
    for index in range(len(archive)):
        name = archive.member(index)
        with contextlib.suppress(ResnetError):
            assert len(archive.read(name)) <= path.stat().st_size


def cifar_seeds() -> list[bytes]:
    """A small archive in the form of CIFAR-10's binary version, not compressed and compressed."""
    plain = tar_of({"cifar-10-batches-bin/data_batch_1.bin": bytes(3073 * 2), "x/test_batch.bin": bytes(3073)})
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        member = tarfile.TarInfo("data_batch_1.bin")
        member.size = 3073
        archive.addfile(member, io.BytesIO(bytes(3073)))
    return [plain, packed.getvalue()]


def cifar_read(path: Path) -> None:
    """Unpack an archive of CIFAR-10."""
    members = _read_archive(path)
    images, labels = _cifar_part(path, members, "data_batch_1.bin")
    assert len(images) == len(labels)


def idx_gz_seeds() -> list[bytes]:
    """Files in the form of Fashion-MNIST's."""
    import gzip

    images = struct.pack(">IIII", 0x803, 2, 4, 4) + bytes(32)
    return [gzip.compress(images), gzip.compress(struct.pack(">II", 0x801, 2) + bytes(2)), images]


def verify_parse(place: Place) -> Parse:
    """Verify a damaged record beside its sound files: a record whose bytes changed is named."""
    record = made_record(place.path)
    settings = VerifyConfig(files=(str(record),), threads=1)

    def payloads() -> list[tuple[int, int, bytes]]:
        descriptor = os.open(record, os.O_RDONLY)
        try:
            return [(start, end, bytes(read_record(descriptor, start)[0])) for start, end in scan(record)]
        finally:
            os.close(descriptor)

    sound, size = payloads(), record.stat().st_size

    def parse(data: bytes) -> None:
        place.put("a.rec", data)
        report = verify_record(record, settings)
        assert report.findings or (payloads(), len(data)) == (sound, size)  # bytes between records mean nothing

    return parse


def sealed_parse(place: Place) -> Parse:
    """Only what was sealed is."""
    sound = sealed(b"model" * 20)

    def parse(data: bytes) -> None:
        assert not is_sealed(data) or data == sound

    return parse


TARGETS = [
    Target("rec", 150, rec_seeds, damage_bytes, rec_parse, (ResnetError, ValueError)),
    Target("params", 150, params_seeds, damage_bytes, params_parse),
    Target("claims", 80, exif_seeds, damage_bytes, lambda place: claims, (ValueError,)),
    Target("sealed", 20, lambda: [sealed(b"model" * 20)], damage_bytes, sealed_parse),
    Target("lst", 80, list_seeds, damage_text, list_parse),
    Target("synset", 40, lambda: [b"ant\nbee\n", "ä b\n".encode()], damage_text, in_file("synset.txt", read_synset)),
    Target("truth", 40, lambda: [b"1\n2\n", b"a.jpg,n01 1\n"], damage_text, in_file("t.txt", read_truth)),
    Target("log", 80, lambda: [text_log()], damage_text, in_file("a.log", read_curve)),
    Target("jsonl", 60, lambda: [json_log()], damage_lines_of_json, json_log_parse),
    Target("idx", 50, lambda: [b"0\t0\n1\t40\n2\t96\n"], damage_text, idx_parse),
    Target("idx-gz", 40, idx_gz_seeds, damage_bytes, in_file("a.gz", _read_idx)),
    Target("rows", 60, rows_seeds, damage_bytes, rows_parse),
    Target("checkpoint", 20, checkpoint_seeds, damage_safetensors, checkpoint_parse),
    Target("jpeg", 60, jpeg_seeds, damage_bytes, jpeg_parse, (ValueError,)),
    Target("tar", 30, tar_seeds, damage_bytes, in_file("a.tar", tar_read)),
    Target("symbol", 10, lambda: [symbol_json(ARCHITECTURE).encode()], damage_json, symbol_parse),
    Target("cifar", 8, cifar_seeds, damage_bytes, in_file("c.tar.gz", cifar_read)),
    Target("verify", 6, lambda: [made_bytes()], damage_bytes, verify_parse, free_bytes=PIXEL_BYTES),
]


def made_bytes() -> bytes:
    """The bytes of a small record."""
    with tempfile.TemporaryDirectory() as folder:
        return made_record(Path(folder)).read_bytes()


@dataclass
class Result:
    """What came of the inputs of a target."""

    inputs: int = 0
    accepted: int = 0
    findings: int = 0
    seconds: float = 0.0
    mebibytes: float = 0.0


def check(target: Target, parse: Parse, data: bytes, measure: bool = False) -> bool:
    """Parse one input; returns whether it was taken. Raises whatever must not happen."""
    started = time.process_time()
    if measure:
        tracemalloc.start()
    try:
        parse(data)
        accepted = True
    except target.allowed as error:
        assert str(error), "an error without a word"
        accepted = False
    finally:
        if measure:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
    if measure:
        assert peak <= 2 * len(data) + target.free_bytes, f"{peak} bytes for a file of {len(data)}"
    seconds = time.process_time() - started
    assert seconds < SECONDS_PER_INPUT, f"{seconds:.1f} s"
    return accepted


def run(target: Target, inputs: int, seed: int, keep: bool = True) -> Result:
    """Make so many inputs; what fails is written to the corpus, and printed."""
    with Place() as place:
        return _run(target, target.parse(place), inputs, seed, keep)


def _run(target: Target, parse: Parse, inputs: int, seed: int, keep: bool) -> Result:
    result, seeds = Result(), target.seeds()
    for data in seeds:
        assert check(target, parse, data) or target.name in ("params", "sealed", "cifar", "idx-gz", "rec", "checkpoint")
    chance = random.Random(f"{target.name} {seed}")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = said = time.monotonic()
    for number in range(inputs):
        data = target.damage(chance.choice(seeds), chance)
        result.inputs += 1
        try:
            result.accepted += check(target, parse, data, number % MEASURE_EVERY == 0)
        except Exception as error:
            result.findings += 1
            _tell(target, data, error, keep)
            if result.findings >= 20:
                break
        if time.monotonic() - said > 30:
            said = time.monotonic()
            print(f"{target.name}: {number + 1} of {inputs}", flush=True)
    result.seconds = time.monotonic() - started
    result.mebibytes = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return result


def _tell(target: Target, data: bytes, error: Exception, keep: bool) -> None:
    name = hashlib.sha256(data).hexdigest()[:12]
    print(f"FAULT: {target.name}, input {name}: {type(error).__name__}: {str(error)[:300]}", flush=True)
    if keep:
        (CORPUS / target.name).mkdir(parents=True, exist_ok=True)
        (CORPUS / target.name / name).write_bytes(data)


def main() -> int:
    """Try all targets, or one; the exit status is 1 when something failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=10_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", choices=[target.name for target in TARGETS])
    options = parser.parse_args()
    chosen = [target for target in TARGETS if options.target in (None, target.name)]
    findings = 0
    total = sum(target.share for target in chosen)
    for target in chosen:
        result = run(target, -(-options.inputs * target.share // total), options.seed)
        findings += result.findings
        print(
            f"{target.name:11s} {result.inputs:8d} inputs, {result.accepted / max(1, result.inputs):6.1%} taken, "
            f"{result.inputs / result.seconds:7.0f} per second, {result.mebibytes:4.0f} MiB more at the end, "
            f"{result.findings} findings",
            flush=True,
        )
    return min(findings, 1)


if __name__ == "__main__":
    sys.exit(main())
