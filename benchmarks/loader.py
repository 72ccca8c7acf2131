"""Images per second from a record to a batch: this loader, MXNet's ImageRecordIter, NVIDIA DALI and torchvision.

    python benchmarks/loader.py --train-480 train_480_q90.rec --train-256 train_256_q90.rec
        --plain-480 mxnet_480_q90.rec --bmp-480 bmp_480.rec --bmp-256 bmp_256.rec --small cifar10_train.rec

Any may be left out. `--plain-480` is a record whose JPEGs have no restart markers, as MXNet packs them; the `--bmp`
ones are what `resnet-v2 pack --store bmp` makes of the same list, which peers read as JPEG; `--small` is CIFAR-10.
`make bench-peers` gives the peers environments of their own, which RESNET_V2_MXNET_PYTHON, RESNET_V2_DALI_PYTHON and
RESNET_V2_TORCHVISION_PYTHON replace; peers without one are left out. Systems take turns; a figure is the median of
`--rounds` rounds of at least `--images` images.
"""

import argparse
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import figures

from resnet_v2.data.augment import augmentation, random_resized_crop
from resnet_v2.data.loader import Loader, Reading
from resnet_v2.data.records import RecordReader
from resnet_v2.machine import processors

PEERS = ("mxnet", "dali", "torchvision")
PLANS = {
    "level-1": augmentation(1, 224, imagenet=True),
    "level-2": augmentation(2, 224, imagenet=True),
    "resized-crop": random_resized_crop(224),
    "small": augmentation(1, 32, imagenet=False),
}
BATCH_SIZE = 64


@dataclass(frozen=True)
class Work:
    """What is measured: a record read with an augmentation."""

    name: str
    rec: Path
    augmentation: str
    theirs: Path | None = None  # the record that peers read instead


def ours(work: Work, workers: int, images: int, fast: bool = False) -> float:
    """Images per second through our loader, over as many epochs as it takes, after one to warm up."""
    reading = Reading(workers, fast=fast)
    loader = Loader(
        RecordReader(work.rec),
        PLANS[work.augmentation],
        seed=0,
        batch_size=BATCH_SIZE,
        classes=100_000,
        reading=reading,
    )
    sum(len(batch.labels) for batch in loader)
    started, done = time.perf_counter(), 0
    while done < images:
        done += sum(len(batch.labels) for batch in loader)
    return done / (time.perf_counter() - started)


def peer_python(name: str) -> Path:
    """The Python of a peer's environment."""
    return Path(os.environ.get(f"RESNET_V2_{name.upper()}_PYTHON", f".venv-{name}/bin/python"))


def peer(name: str, work: Work, workers: int, images: int) -> float:
    """Images per second that the script NAME_loader.py prints, run by the peer's Python."""
    script = Path(__file__).with_name(f"{name}_loader.py")
    command = [peer_python(name), script, work.theirs or work.rec, work.augmentation, workers, BATCH_SIZE, images]
    words = [str(word) for word in command]
    return float(subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train-480", type=Path, help="record packed at 480 pixels")
    parser.add_argument("--train-256", type=Path, help="record packed at 256 pixels")
    parser.add_argument("--plain-480", type=Path, help="record packed at 480 pixels without restart markers")
    parser.add_argument("--bmp-480", type=Path, help="record of BMP packed at 480 pixels")
    parser.add_argument("--bmp-256", type=Path, help="record of BMP packed at 256 pixels")
    parser.add_argument("--small", type=Path, help="record of CIFAR-10")
    parser.add_argument("--workers", type=int, default=processors())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=2000, help="images of one round")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    works = [
        Work("level 2 from 480", options.train_480, "level-2"),
        Work("random resized crop from 480", options.train_480, "resized-crop"),
        Work("level 1 from 256", options.train_256, "level-1"),
        Work("level 2 from 480 without markers", options.plain_480, "level-2"),
        Work("level 1 from BMP of 256", options.bmp_256, "level-1", options.train_256),
        Work("level 2 from BMP of 480", options.bmp_480, "level-2", options.train_480),
    ]
    systems: dict[str, Callable[[Work, int, int], float]] = {
        "resnet-v2": ours,
        "resnet-v2 --fast-decode": partial(ours, fast=True),
    }
    systems |= {name: partial(peer, name) for name in PEERS if peer_python(name).is_file()}
    found = []
    for work in works:
        if work.rec is None:
            continue
        rounds = [
            {name: system(work, options.workers, options.images) for name, system in systems.items()}
            for _ in range(options.rounds)
        ]
        found += figures.rows(work.name, rounds, "resnet-v2")
    for work in works[:1]:  # how much a second worker adds
        if work.rec is not None:
            rounds = [
                {f"{n} workers": ours(work, n, options.images) for n in sorted({1, options.workers})}
                for _ in range(options.rounds)
            ]
            found += figures.rows(work.name, rounds, "1 workers")
    if options.small is not None:
        work = Work("CIFAR-10, one core", options.small, "small")
        rounds = [{"resnet-v2": ours(work, 0, 50 * options.images)} for _ in range(options.rounds)]
        found += figures.rows(work.name, rounds, "resnet-v2")
    figures.show(found, options.json)


if __name__ == "__main__":
    main()
