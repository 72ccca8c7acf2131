"""Images per second from a record to a batch: this loader, and MXNet's ImageRecordIter where its environment is there.

    python benchmarks/loader.py --train-480 data/imagenet/train_480_q90.rec --train-256 data/imagenet/train_256_q90.rec

Systems take turns; every figure is the median of `--rounds` rounds over the whole record, the first round left out.
"""

import argparse
import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from resnet_v2.data.augment import augmentation
from resnet_v2.data.loader import augmented, batches, epoch_order
from resnet_v2.data.records import RecordReader

MXNET_PYTHON = os.environ.get("RESNET_V2_MXNET_PYTHON", ".venv-mxnet/bin/python")
BATCH_SIZE = 64


def ours(rec: Path, level: int, threads: int, epoch: int) -> float:
    """Images per second of one epoch through our loader."""
    reader = RecordReader(rec)
    preprocess = augmented(augmentation(level, 224, imagenet=True), 0, epoch)
    order = epoch_order(len(reader), 0, epoch)
    started = time.perf_counter()
    stream = batches(reader, order, preprocess, batch_size=BATCH_SIZE, size=224, classes=100_000, threads=threads)
    images = sum(len(batch.labels) for batch in stream)
    return images / (time.perf_counter() - started)


def mxnets(rec: Path, level: int, threads: int, epoch: int) -> float:
    """Images per second of one epoch through ImageRecordIter with the parameters of the 2016 script."""
    script = Path(__file__).with_name("mxnet_loader.py")
    command = [MXNET_PYTHON, str(script), str(rec), str(level), str(threads), str(BATCH_SIZE)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train-480", type=Path, required=True, help="record packed at 480 pixels, read at level 2")
    parser.add_argument("--train-256", type=Path, required=True, help="record packed at 256 pixels, read at level 1")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    systems: dict[str, Callable[[Path, int, int, int], float]] = {"resnet-v2": ours}
    if Path(MXNET_PYTHON).is_file():
        systems["mxnet"] = mxnets
    rows = []
    for work, rec, level in (("level 2 from 480", options.train_480, 2), ("level 1 from 256", options.train_256, 1)):
        measure = {name: partial(system, rec, level, options.threads) for name, system in systems.items()}
        rounds = [{name: one(epoch) for name, one in measure.items()} for epoch in range(options.rounds + 1)][1:]
        for name in systems:
            speed = statistics.median(one[name] for one in rounds)
            rows.append({"work": work, "system": name, "value": round(speed, 1), "unit": "images/s"})
    if options.json:
        print(json.dumps(rows))
    else:
        for row in rows:
            print(f"{row['work']:20} {row['system']:12} {row['value']:9.1f} {row['unit']}")


if __name__ == "__main__":
    main()
