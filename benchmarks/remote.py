"""Images per second of a shuffled epoch: from the disk, from an S3 server of this machine whose every answer takes 20
ms more (without a block at the start), and from the blocks that are then on the disk.

python benchmarks/remote.py --rec train_480_q90.rec [--megabytes 512] [--rounds 3] [--block KIB] [--cache 9GB]

The server is a process of its own, on the same cores. A record that is too small is written several times into one.
"""

import argparse
import http.server
import json
import multiprocessing
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from resnet_v2.data import remote
from resnet_v2.data.augment import augmentation
from resnet_v2.data.loader import Loader, Reading
from resnet_v2.data.records import RecordReader, writing
from resnet_v2.data.sidecar import write_rows
from resnet_v2.data.workers import workers
from resnet_v2.storage import as_path

AFTER_BYTES = 64_000_000  # the rate of the rest is what counts: by then the first blocks are there
BATCH = 128


class Objects(http.server.BaseHTTPRequestHandler):
    """GET and HEAD of S3, for the files of a folder, each answer later than need be."""

    protocol_version = "HTTP/1.1"
    folder, delay = Path(), 0.0

    def do_HEAD(self) -> None:
        """The size and the ETag."""
        path = self.folder / Path(self.path).name
        time.sleep(self.delay)
        if not path.is_file():
            self.send_response_only(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        size = path.stat().st_size
        begin, end = 0, size
        if wanted := self.headers.get("Range"):
            first, last = wanted.removeprefix("bytes=").split("-")
            begin, end = int(first), min(size, int(last) + 1)
            self.send_response_only(206)
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{size}")
        else:
            self.send_response_only(200)
        self.send_header("Content-Length", str(end - begin))
        self.send_header("ETag", f'"{size}"')
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        self.end_headers()
        if self.command == "GET":
            with path.open("rb") as file:
                self.connection.sendfile(file, begin, end - begin)

    do_GET = do_HEAD  # noqa: N815 (the names of the library)

    def log_message(self, *words: object) -> None:
        """Nothing."""


def serve(folder: Path, delay: float, port: Any) -> None:
    """Serve a folder until the process is ended."""
    Objects.folder, Objects.delay = folder, delay
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Objects)
    port.send(server.server_port)
    server.serve_forever()


def enlarge(rec: Path, out: Path, size: int) -> None:
    """Write the records of a file again and again, until they are so many bytes."""
    reader, number, written = RecordReader(rec), 0, 0
    with writing(out) as writer:
        while written < size:
            payload = reader[number % len(reader)]
            writer.write(number, payload)
            number, written = number + 1, written + len(payload)
    write_rows(out)


def rates(path: Path, count: int) -> tuple[float, float]:
    """Images per second over the first bytes, and over the rest."""
    reader = RecordReader(path)
    loader = Loader(
        reader, augmentation(2, 224, imagenet=True), seed=1, batch_size=BATCH, classes=10**6, reading=Reading(count)
    )
    seen, images, began = 0, [0, 0], time.perf_counter()
    ends = [began, began]
    for batch in loader:
        part = int(seen >= AFTER_BYTES)
        seen += int(reader.lengths(batch.ordinals).sum())
        images[part] += len(batch.labels)
        ends[part] = time.perf_counter()
    return images[0] / (ends[0] - began), images[1] / (ends[1] - ends[0])


def main() -> None:
    """Print the rates of each round and the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rec", type=Path, required=True)
    parser.add_argument("--megabytes", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--block", type=int, default=remote.LARGE_BLOCK >> 10, help="KiB of a block")
    parser.add_argument("--cache", default="1TB", help="how much the blocks may take")
    parser.add_argument("--delay", type=float, default=0.02)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, cache = Path(name), Path(name) / "cache"
        rec = folder / "a.rec"
        enlarge(options.rec, rec, options.megabytes * 10**6)
        ours, theirs = multiprocessing.Pipe()
        server = multiprocessing.Process(target=serve, args=(folder, options.delay, theirs), daemon=True)
        server.start()
        os.environ |= {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{ours.recv()}", "AWS_SKIP_SIGNATURE": "true"}
        os.environ |= {"RESNET_V2_CACHE": str(cache), "RESNET_V2_CACHE_SIZE": options.cache, "AWS_REGION": "us-east-1"}
        remote.LARGE_BLOCK = options.block << 10
        workers(options.workers)  # their start is no part of what is measured
        rates(rec, options.workers)
        found: dict[str, list[tuple[float, float]]] = {"disk": [], "storage": [], "blocks": []}
        for _ in range(options.rounds):
            shutil.rmtree(cache, ignore_errors=True)
            for system, path in (("disk", rec), ("storage", as_path("s3://bucket/a.rec")), ("blocks", None)):
                found[system].append(rates(path or as_path("s3://bucket/a.rec"), options.workers))
        server.kill()
    rows = []
    for number, part in enumerate((f"first {AFTER_BYTES // 10**6} MB", "the rest")):
        for system, pairs in found.items():
            ratios = [pair[number] / disk[number] for pair, disk in zip(pairs, found["disk"], strict=True)]
            value, ratio = statistics.median(pair[number] for pair in pairs), statistics.median(ratios)
            rows.append({"work": part, "system": system, "value": round(value, 1), "ratio": round(ratio, 3)})
    if options.json:
        print(json.dumps(rows))
    for row in rows if not options.json else ():
        print(f"{row['work']:12}  {row['system']:8}  {row['value']:8} img/s  {row['ratio']:.3f} of disk")


if __name__ == "__main__":
    main()
