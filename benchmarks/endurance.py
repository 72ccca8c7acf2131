"""Resident memory of the loader over many reads: exit status 1 when it grows after the first tenth.

python benchmarks/endurance.py --rec data/imagenet/train_256_q90.rec [--reads 1000000]
"""

import argparse
import json
import sys
from pathlib import Path

from resnet_v2.data.augment import augmentation
from resnet_v2.data.loader import Loader, Reading
from resnet_v2.data.records import RecordReader
from resnet_v2.data.workers import Workers, workers

MOST_GROWTH = 0.02


def resident_mib(workers: Workers) -> float:
    """Memory of this process and its workers that is in RAM, what they share counted once, programs' own files not
    (Linux).
    """
    total = 0
    for process in ("self", *map(str, workers.pids)):
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        total += sum(int(line.split()[1]) for line in lines if line.startswith(("Pss_Anon:", "Pss_Shmem:")))
    return total / 2**10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rec", type=Path, required=True)
    parser.add_argument("--level", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--reads", type=int, default=1_000_000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    plan = augmentation(options.level, 224, imagenet=True)
    reading = Reading(options.workers)
    loader = Loader(RecordReader(options.rec), plan, seed=0, batch_size=64, classes=100_000, reading=reading)
    reads = 0
    measured: list[float] = []
    while reads < options.reads:
        for batch in loader:
            reads += len(batch.labels)
            if reads >= (len(measured) + 1) * options.reads / 10:
                measured.append(resident_mib(workers(options.workers)))
    growth = max(measured[1:]) / measured[0] - 1
    if options.json:
        print(json.dumps([{"work": f"{reads} reads", "value": round(max(measured), 1), "unit": "MiB"}]))
    else:
        print(f"{reads} reads; MiB at every tenth: {', '.join(f'{one:.0f}' for one in measured)}; grown {growth:.1%}")
    sys.exit(growth > MOST_GROWTH)


if __name__ == "__main__":
    main()
