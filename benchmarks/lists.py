"""Seconds and memory to make the lists of ImageNet-11K from the archive of all of ImageNet, which is not there.

python benchmarks/lists.py [--images 14197122] [--classes 21841] [--json]

The archive is a tar of one tar per class, as fall11_whole.tar is, of which this script tells the members one by one, as
`archives.Tar` reads them; their headers are not parsed (tarfile keeps none of them). Classes have 1 to 1,299 images, so
that `--min-images 500` leaves some out.
"""

import argparse
import hashlib
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from resnet_v2.config.packing import ListConfig
from resnet_v2.packing import archives
from resnet_v2.packing.class_folders import make_lists

BLOCK, IMAGE_BYTES, END_BYTES = 512, 1024, 1024  # an image is a header and a block


def class_sizes(images: int, classes: int) -> list[int]:
    """How many images each class has, `images` in all."""
    shares = 1 + np.arange(classes) * 617 % 1299
    sizes = np.maximum(shares * images // shares.sum(), 1)
    sizes[-1] += images - sizes.sum()
    return [int(size) for size in sizes]


class WholeArchive:
    """A tar of one tar per class; `members` gives what `archives._members` does of it or of a tar inside it."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self._sizes, self._number = sizes, 0

    def members(self, window: object, place: str, left_out: list[str]) -> Iterator[tuple[str, int, int]]:
        if place.endswith(".tar") and ": " in place:
            for image in range(self._sizes[self._number]):
                yield f"n{self._number:08d}_{image}.JPEG", BLOCK + IMAGE_BYTES * image, BLOCK
            return
        offset = BLOCK
        for number, images in enumerate(self._sizes):
            self._number = number
            size = IMAGE_BYTES * images + END_BYTES
            yield f"n{self._number:08d}.tar", offset, size
            offset += size + BLOCK


def peak_bytes() -> int:
    """The most memory that this process has had so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=14_197_122)
    parser.add_argument("--classes", type=int, default=21_841)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    sizes = class_sizes(options.images, options.classes)
    vars(archives)["_members"] = WholeArchive(sizes).members
    with tempfile.TemporaryDirectory() as folder:
        tar = Path(folder) / "whole.tar"
        tar.touch()
        os.truncate(tar, sum(IMAGE_BYTES * size + END_BYTES + BLOCK for size in sizes))
        started = time.perf_counter()
        settings = ListConfig(tar, Path(folder) / "11k", val_per_class=50, min_images=500)
        classes, train, validation = make_lists(settings)
        seconds, peak = time.perf_counter() - started, peak_bytes()
        with (Path(folder) / "11k_val.lst").open("rb") as lst:
            digest = hashlib.file_digest(lst, "sha256").hexdigest()[:16]
    print(f"{classes} classes, {train} images to train on, {validation} for validation ({digest})", file=sys.stderr)
    work = f"lists of a tar of {options.images} images"
    rows = [
        {"work": work, "system": "resnet-v2", "value": round(seconds), "unit": "s"},
        {"work": work, "system": "resnet-v2", "value": round(peak / (1 << 20)), "unit": "MiB peak"},
    ]
    print(
        json.dumps(rows) if options.json else "\n".join(f"{row['work']}: {row['value']} {row['unit']}" for row in rows)
    )


if __name__ == "__main__":
    main()
