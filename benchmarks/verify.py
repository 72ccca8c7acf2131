"""Damage among many records: how fast `resnet-v2 verify` reads them, and whether it names exactly the damaged ones.

    python benchmarks/verify.py [--records 10000] [--damaged 100] [--side 256] [--mxnet .venv-mxnet/bin/python]

Makes records of noisy pictures, damages some in ten ways, verifies (with the file out of the memory of the system,
where that can be asked for, and within it), repairs, and reads what is left with this package and, if given, MXNet.
"""

import argparse
import itertools
import json
import os
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from resnet_v2.data.jpeg import decode, encode
from resnet_v2.data.lists import ListEntry, write_list, write_synset
from resnet_v2.data.records import IRHeader, RecordReader, pack, writing
from resnet_v2.data.sidecar import write_rows

CLASSES = 100
COUNT_WITH_MXNET = """
import sys, mxnet
rec = sys.argv[1]
file = mxnet.recordio.MXIndexedRecordIO(rec[:-3] + "idx", rec, "r")
total = sum(mxnet.recordio.unpack_img(file.read_idx(key))[1].size for key in file.keys)
print(len(file.keys), total)
"""


def word(at: int, value: int) -> Callable[[bytearray], object]:
    """A damage that writes a word (u32) into a record."""
    return lambda piece: struct.pack_into("<I", piece, at, value)


def flip(at: int) -> Callable[[bytearray], object]:
    """A damage that changes one bit."""
    return lambda piece: piece.__setitem__(at, piece[at] ^ 1)


def relabel(value: float) -> Callable[[bytearray], object]:
    """A damage that changes the label."""
    return lambda piece: struct.pack_into("<f", piece, 12, value)


def zero(start: int, end: int) -> Callable[[bytearray], object]:
    """A damage that a lost block of a disk leaves."""
    return lambda piece: piece.__setitem__(slice(start, end), bytes(end - start))


WAYS: list[Callable[[bytearray], object]] = [
    flip(5000),
    flip(0),
    word(4, 1 << 28),
    word(4, 64),
    word(4, 7 << 29),
    relabel(CLASSES + 1.0),
    relabel(0.5),
    zero(32, 4128),
    zero(0, 4096),
]


def make(rec: Path, records: int, side: int) -> None:
    """Records of `side` x `side` pixels with all that lies beside them."""
    noise = np.random.default_rng(0)
    with writing(rec) as writer:
        for key in range(records):
            small = noise.integers(0, 255, (side // 4, side // 4, 3)).astype(np.uint8)
            image = cv2.resize(small, (side, side)).astype(np.uint8)
            writer.write(key, pack(IRHeader(0, float(key % CLASSES), key, 0), encode(image, ".jpg", 90)))
    write_rows(rec)
    write_list(rec.with_suffix(".lst"), (ListEntry(k, (float(k % CLASSES),), f"{k}.jpg") for k in range(records)))
    write_synset(rec.with_name("synset.txt"), map(str, range(CLASSES)))


def damage(rec: Path, count: int) -> set[int]:
    """Damage some records, the last by cutting the file, every tenth of the others by a copy of its neighbour."""
    data, offsets = rec.read_bytes(), [*RecordReader(rec).offsets.tolist(), rec.stat().st_size]
    pieces = [bytearray(data[start:end]) for start, end in itertools.pairwise(offsets)]
    chosen = np.random.default_rng(1).choice(np.arange(1, len(pieces) - 1, 2), count - 1, replace=False).tolist()
    for number, ordinal in enumerate(chosen):
        if number % 10 < len(WAYS):
            WAYS[number % 10](pieces[ordinal])
        else:
            pieces[ordinal] = pieces[ordinal - 1]
    del pieces[-1][-1000:]
    rec.write_bytes(b"".join(pieces))
    at = np.cumsum([0, *map(len, pieces)]).tolist()
    rec.with_suffix(".idx").write_text("".join(f"{key}\t{at[key]}\n" for key in range(len(pieces))))
    return {*chosen, len(pieces) - 1}


def verify(rec: Path, *flags: object) -> tuple[float, set[int]]:
    """Seconds of the command, with its start, and the records that it names."""
    command = [sys.executable, "-m", "resnet_v2", "verify", str(rec), "--json", *map(str, flags)]
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    if done.returncode not in (0, 1):
        sys.exit(done.stderr)
    return seconds, {finding["record"] for finding in json.loads(done.stdout)[0]["findings"]}


def forget(rec: Path) -> None:
    """Ask the system to read the file from the disk again."""
    if hasattr(os, "posix_fadvise"):
        with rec.open("rb+") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_time(rec: Path) -> float:
    """Seconds that reading the bytes alone takes."""
    start = time.perf_counter()
    with rec.open("rb", buffering=0) as file:
        while file.read(1 << 23):
            pass
    return time.perf_counter() - start


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=10_000)
    parser.add_argument("--damaged", type=int, default=100)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--mxnet", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rec, out = Path(folder) / "a.rec", Path(folder) / "out.rec"
        make(rec, given.records, given.side)
        wanted, megabytes = damage(rec, given.damaged), rec.stat().st_size / 1e6
        print(f"{given.records} records, {megabytes:.0f} MB, {len(wanted)} of them damaged")
        for name, fresh, flags in (
            ("disk", 1, ()),
            ("memory", 0, ()),
            ("memory, every image decoded", 0, ("--decode",)),
        ):
            if fresh:
                forget(rec)
            reading = read_time(rec)
            if fresh:
                forget(rec)
            seconds, named = verify(rec, *flags)
            speed = f"{seconds:.2f} s, {megabytes / seconds:.0f} MB/s (bytes alone {megabytes / reading:.0f} MB/s)"
            print(f"from {name}: {speed}; {len(named & wanted)} named, {len(named - wanted)} wrongly")
        verify(rec, "--repair", out)
        reader = RecordReader(out)
        kept = [reader.image(ordinal) for ordinal in range(len(reader))]
        sizes = sum(decode(data).size for _, data in kept)
        right = {header.id for header, _ in kept} == set(range(given.records)) - wanted
        print(f"repaired: {len(reader)} records, {'exactly the others' if right else 'NOT the others'}, {sizes} values")
        if given.mxnet is not None:
            command = [str(given.mxnet), "-c", COUNT_WITH_MXNET, str(out)]
            print("MXNet reads:", subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())


if __name__ == "__main__":
    main()
