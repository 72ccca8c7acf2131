"""Feed damaged files to the parsers of MXNet's files: no crash, no hang, no memory beyond twice the file.

    python tests/fuzz.py --inputs 1000000

Valid `.params` and `.rec` files are mutated (bits, bytes, 32-bit words set to awkward values, pieces cut out, doubled
or appended) and parsed; only ResnetError and ValueError may come out. Memory is measured on every tenth input.
"""

import argparse
import io
import os
import struct
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
from tqdm import tqdm

from resnet_v2.data.records import MAGIC_BYTES, IRHeader, frame, pack, read_record, scan, unpack
from resnet_v2.errors import ResnetError
from resnet_v2.interchange.mxnet import parse_params

SECONDS_PER_INPUT = 2.0
MEASURE_EVERY = 10
# Python's own objects (names, exceptions, a scan's read buffer of 64 KiB) cost something however small the file is.
FREE_BYTES = 1 << 18
AWKWARD = (0, 1, 2, 3, 4, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x112, 0xF993FAC8, 0xF993FAC9, 0xF993FACA, 0xCED7230A)


def params_files() -> list[bytes]:
    """Small valid `.params` files: legacy, V1, V2 and V3 arrays of several types."""
    files = []
    values = np.arange(6, dtype="<f4").tobytes()
    for version in (None, 0xF993FAC8, 0xF993FAC9, 0xF993FACA):
        shape = struct.pack("<III", 2, 2, 3) if version is None else struct.pack("<iqq", 2, 2, 3)
        storage = struct.pack("<i", 0) if version in (0xF993FAC9, 0xF993FACA) else b""
        start = b"" if version is None else struct.pack("<I", version)
        array = start + storage + shape + struct.pack("<iii", 1, 0, 0) + values
        names = b"".join(struct.pack("<Q", len(name)) + name for name in (b"arg:a_weight", b"aux:a_moving_mean"))
        files.append(struct.pack("<QQQ", 0x112, 0, 2) + array + array + struct.pack("<Q", 2) + names)
    return files


def record_files() -> list[bytes]:
    """Small valid `.rec` files: plain, with the magic number inside, with several labels."""
    payloads = [
        b"hello",
        b"",
        MAGIC_BYTES * 3,
        b"abcd" + MAGIC_BYTES + b"efgh",
        pack(IRHeader(0, 3.0, 1, 0), b"\xff\xd8image"),
        pack(IRHeader(0, [1.0, 2.0, 3.0], 1, 0), b"image"),
    ]
    return [b"".join(piece for payload in some for piece in frame(payload)) for some in (payloads, payloads[::-1])]


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """A copy with one to four pieces of damage."""
    damaged = bytearray(data)
    for _ in range(int(rng.integers(1, 5))):
        at = int(rng.integers(0, len(damaged) + 1))
        kind = int(rng.integers(0, 6))
        if kind == 0 and at < len(damaged):
            damaged[at] ^= 1 << int(rng.integers(0, 8))
        elif kind == 1:
            damaged[at : at + 1] = rng.bytes(1)
        elif kind == 2:
            at &= ~3
            damaged[at : at + 4] = struct.pack("<I", AWKWARD[int(rng.integers(0, len(AWKWARD)))])
        elif kind == 3:
            del damaged[at : at + int(rng.integers(1, 40))]
        elif kind == 4:
            damaged[at:at] = damaged[at : at + int(rng.integers(1, 40))]
        else:
            damaged += rng.bytes(int(rng.integers(0, 16)))
    return bytes(damaged)


def read_params(data: bytes) -> None:
    """Parse a `.params` file in memory."""
    parse_params(io.BytesIO(data), len(data), "fuzz.params")


class RecordFile:
    """A file in memory that the record parsers read by its descriptor and path."""

    def __init__(self) -> None:
        self.descriptor = os.memfd_create("fuzz")
        self.path = Path(f"/proc/self/fd/{self.descriptor}")

    def read(self, data: bytes) -> None:
        """Read the first record, scan the whole file, and look into every record that is found."""
        os.ftruncate(self.descriptor, 0)
        os.pwrite(self.descriptor, data, 0)
        for start, _ in scan(self.path):
            payload, _ = read_record(self.descriptor, start, len(data))
            try:
                unpack(payload)
            except ValueError:
                continue
        read_record(self.descriptor, 0)


def check(parse: Callable[[bytes], None], data: bytes, measure: bool) -> bool:
    """Parse one input; returns whether it was accepted. Raises AssertionError for what must not happen."""
    accepted = True
    started = time.process_time()
    if measure:
        tracemalloc.start()
    try:
        parse(data)
    except (ResnetError, ValueError):
        accepted = False
    if measure:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak <= 2 * len(data) + FREE_BYTES, f"{peak} bytes for a file of {len(data)}"
    seconds = time.process_time() - started
    assert seconds < SECONDS_PER_INPUT, f"{seconds:.1f} s"
    return accepted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--parser", choices=["params", "records", "both"], default="both")
    options = parser.parse_args()
    parsers: list[tuple[Callable[[bytes], None], list[bytes]]] = []
    if options.parser != "records":
        parsers.append((read_params, params_files()))
    if options.parser != "params":
        parsers.append((RecordFile().read, record_files()))
    rng = np.random.default_rng(options.seed)
    accepted = 0
    for number in tqdm(range(options.inputs), unit="input", mininterval=1):
        parse, files = parsers[number % len(parsers)]
        data = mutated(files[int(rng.integers(0, len(files)))], rng)
        try:
            accepted += check(parse, data, measure=number // len(parsers) % MEASURE_EVERY == 0)
        except BaseException:
            print(f"input {number} of seed {options.seed}: {data.hex()}", file=sys.stderr)
            raise
    print(f"{options.inputs} inputs, {accepted} accepted, {options.inputs - accepted} refused, 0 failures")


if __name__ == "__main__":
    main()
