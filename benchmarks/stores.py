"""What each `--store` of `resnet-v2 pack` costs and gives: bytes per image, images per second packed and read.

    python benchmarks/stores.py --root images [--images 400] [--rounds 3]

The images below `--root` are packed at 480 pixels and read at level 2, at 256 and read at level 1 (crops of 224), and
at 32 and read at level 1 and 2 as CIFAR's are (crops of 32, in a frame of 4). Stores take turns; figures are medians,
of reading after an epoch to warm up. What the processors work for an image stands beside, which says more on a busy
machine.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pack import write_list

from resnet_v2.data.augment import augmentation
from resnet_v2.data.loader import Loader, Reading
from resnet_v2.data.records import RecordReader

STORES = ("jpeg", "png", "webp", "bmp")
WORKS = ((480, 224, (2,)), (256, 224, (1,)), (32, 32, (1, 2)))  # packed at, crop, levels
BATCH_SIZE = 50


def pack(lst: Path, root: Path, out: Path, resize: int, store: str) -> float:
    """Pack a list and give the seconds of it."""
    words = ["--resize", str(resize), "--store", store]
    started = time.perf_counter()
    command = [sys.executable, "-m", "resnet_v2", "pack", str(lst), str(root), str(out), *words]
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started


def read(rec: Path, crop: int, level: int, threads: int, images: int) -> tuple[float, float]:
    """Images per second, and milliseconds of the processor per image, through the loader."""
    plan = augmentation(level, crop, imagenet=crop > 32)
    loader = Loader(RecordReader(rec), plan, seed=0, batch_size=BATCH_SIZE, classes=100_000, reading=Reading(threads))
    sum(len(batch.labels) for batch in loader)
    wall, cpu, done = time.perf_counter(), time.process_time(), 0
    while done < images:
        done += sum(len(batch.labels) for batch in loader)
    return done / (time.perf_counter() - wall), (time.process_time() - cpu) / done * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder of class folders of images")
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print("packed at  store  bytes/image  packed/s  level  read/s  CPU ms/image")
    with tempfile.TemporaryDirectory() as folder:
        lst = Path(folder) / "images.lst"
        write_list(lst, options.root, options.images)
        for side, crop, levels in WORKS:
            recs = {store: Path(folder) / f"{side}-{store}.rec" for store in STORES}
            spent = {store: pack(lst, options.root, rec, side, store) for store, rec in recs.items()}
            for level in levels:
                rounds = [
                    {store: read(rec, crop, level, options.threads, 4 * options.images) for store, rec in recs.items()}
                    for _ in range(options.rounds)
                ]
                for store, rec in recs.items():
                    rate, cpu = (statistics.median(one[store][at] for one in rounds) for at in (0, 1))
                    size, packed = rec.stat().st_size / options.images, options.images / spent[store]
                    print(
                        f"{side:9}  {store:5}  {size:11.0f}  {packed:8.0f}  {level:5}  {rate:6.0f}  {cpu:12.3f}",
                        flush=True,
                    )
            for rec in recs.values():
                rec.unlink()


if __name__ == "__main__":
    main()
