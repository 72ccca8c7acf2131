"""Images per second from a record to a batch: this loader, MXNet's ImageRecordIter and NVIDIA DALI on the CPU.

    python benchmarks/loader.py --train-480 data/imagenet/train_480_q90.rec --train-256 data/imagenet/train_256_q90.rec

The peers run in the environments that RESNET_V2_MXNET_PYTHON (default: .venv-mxnet) and RESNET_V2_DALI_PYTHON name, and
are left out without. Systems take turns; a figure is the median of `--rounds` rounds of at least `--images` images.
"""

import argparse
import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from resnet_v2.data.augment import augmentation
from resnet_v2.data.loader import augmented, batches, epoch_order
from resnet_v2.data.records import RecordReader

MXNET_PYTHON = os.environ.get("RESNET_V2_MXNET_PYTHON", ".venv-mxnet/bin/python")
DALI_PYTHON = os.environ.get("RESNET_V2_DALI_PYTHON", ".venv-dali/bin/python")
BATCH_SIZE = 64


@dataclass(frozen=True)
class Work:
    """What is measured: a record read at an augmentation level."""

    name: str
    rec: Path
    level: int


def ours(work: Work, threads: int, images: int) -> float:
    """Images per second through our loader, over as many epochs as it takes."""
    reader = RecordReader(work.rec)
    epochs = -(-images // len(reader))
    order = np.concatenate([epoch_order(len(reader), 0, epoch) for epoch in range(epochs)])
    preprocess = augmented(augmentation(work.level, 224, imagenet=True), 0, 0)
    started = time.perf_counter()
    stream = batches(reader, order, preprocess, batch_size=BATCH_SIZE, size=224, classes=100_000, threads=threads)
    done = sum(len(batch.labels) for batch in stream)
    return done / (time.perf_counter() - started)


def peer(python: str, script: str, work: Work, threads: int, images: int) -> float:
    """Images per second that a script beside this one prints, run by another Python."""
    command = [python, Path(__file__).with_name(script), work.rec, work.level, threads, BATCH_SIZE, images]
    words = [str(word) for word in command]
    return float(subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train-480", type=Path, required=True, help="record packed at 480 pixels, read at level 2")
    parser.add_argument("--train-256", type=Path, required=True, help="record packed at 256 pixels, read at level 1")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=2000, help="images of one round")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    systems: dict[str, Callable[[Work, int, int], float]] = {"resnet-v2": ours}
    if Path(MXNET_PYTHON).is_file():
        systems["mxnet"] = partial(peer, MXNET_PYTHON, "mxnet_loader.py")
    if Path(DALI_PYTHON).is_file():
        systems["dali"] = partial(peer, DALI_PYTHON, "dali_loader.py")
    rows = []
    for work in (Work("level 2 from 480", options.train_480, 2), Work("level 1 from 256", options.train_256, 1)):
        rounds = [
            {name: system(work, options.threads, options.images) for name, system in systems.items()}
            for _ in range(options.rounds)
        ]
        for name in systems:
            speed = statistics.median(one[name] for one in rounds)
            rows.append({"work": work.name, "system": name, "value": round(speed, 1), "unit": "images/s"})
    if options.json:
        print(json.dumps(rows))
    else:
        for row in rows:
            print(f"{row['work']:20} {row['system']:12} {row['value']:9.1f} {row['unit']}")


if __name__ == "__main__":
    main()
