"""Resident memory of the loader over many reads: exit status 1 when it grows after the first tenth.

python benchmarks/endurance.py --rec data/imagenet/train_256_q90.rec [--reads 200000]
"""

import argparse
import json
import sys
from pathlib import Path

from resnet_v2.data.augment import augmentation
from resnet_v2.data.loader import Loader
from resnet_v2.data.records import RecordReader

MOST_GROWTH = 0.02


def resident_mib() -> float:
    """Memory of this process that is in RAM (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rec", type=Path, required=True)
    parser.add_argument("--level", type=int, default=1)
    parser.add_argument("--reads", type=int, default=200_000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    plan = augmentation(options.level, 224, imagenet=True)
    loader = Loader(RecordReader(options.rec), plan, seed=0, batch_size=64, classes=100_000)
    reads = 0
    measured: list[float] = []
    while reads < options.reads:
        for batch in loader:
            reads += len(batch.labels)
            if reads >= (len(measured) + 1) * options.reads / 10:
                measured.append(resident_mib())
    growth = max(measured[1:]) / measured[0] - 1
    if options.json:
        print(json.dumps([{"work": f"{reads} reads", "value": round(max(measured), 1), "unit": "MiB"}]))
    else:
        print(f"{reads} reads; MiB at every tenth: {', '.join(f'{one:.0f}' for one in measured)}; grown {growth:.1%}")
    sys.exit(growth > MOST_GROWTH)


if __name__ == "__main__":
    main()
