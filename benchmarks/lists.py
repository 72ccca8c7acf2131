"""Seconds and memory to make the lists of ImageNet-11K from the archive of all of ImageNet, which is not there.

python benchmarks/lists.py [--images 14197122] [--classes 21841] [--json]

The archive is a tar of one tar per class, as fall11_whole.tar is. It is a hole in the disk: whatever is read of it is
made at that moment. Classes have 1 to 1,299 images, so that `--min-images 500` leaves some out.
"""

import argparse
import contextlib
import hashlib
import json
import resource
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from resnet_v2.config.packing import ListConfig
from resnet_v2.packing import archives
from resnet_v2.packing.class_folders import make_lists

BLOCK, IMAGE_BLOCKS, END_BLOCKS = tarfile.BLOCKSIZE, 2, 2  # an image is a header and a block


def header(name: str, size: int) -> bytearray:
    """The 512 bytes before a file in a tar."""
    member = tarfile.TarInfo(name)
    member.size = size
    return bytearray(member.tobuf(tarfile.USTAR_FORMAT))


class WholeArchive:
    """The bytes of a tar of `classes` tars with `images` images in all; `size` is how many there are."""

    def __init__(self, images: int, classes: int) -> None:
        shares = 1 + np.arange(classes) * 617 % 1299
        self.counts = np.maximum(shares * images // shares.sum(), 1)
        self.counts[-1] += images - self.counts.sum()
        ends = np.cumsum(1 + IMAGE_BLOCKS * self.counts + END_BLOCKS) * BLOCK
        self._starts, self.size = np.append(0, ends), int(ends[-1]) + END_BLOCKS * BLOCK
        self._image, self._class = header("n00000000_0000000.JPEG", BLOCK), -1

    def read(self, _: int, count: int, offset: int) -> bytes:
        """Some bytes from an offset on, as `portable.read_at` gives them; no more than to the end of a block."""
        block = self._block(offset - offset % BLOCK)
        data = block[offset % BLOCK : offset % BLOCK + count]
        return data + self.read(0, count - len(data), offset + len(data)) if data and len(data) < count else data

    def _block(self, offset: int) -> bytes:
        if offset >= self._starts[-1]:
            return bytes(BLOCK) if offset < self.size else b""
        if self._class < 0 or not self._starts[self._class] <= offset < self._starts[self._class + 1]:
            self._class = int(np.searchsorted(self._starts, offset, "right")) - 1
        number, inside = self._class, (offset - int(self._starts[self._class])) // BLOCK
        images = int(self.counts[number])
        if not inside:
            return bytes(header(f"n{number:08d}.tar", (IMAGE_BLOCKS * images + END_BLOCKS) * BLOCK))
        image, part = divmod(inside - 1, IMAGE_BLOCKS)
        if image >= images or part:
            return bytes(BLOCK)
        return self._image_header(number, image)

    def _image_header(self, number: int, image: int) -> bytes:
        block = self._image
        block[:22] = f"n{number:08d}_{image:07d}.JPEG".encode()
        block[148:156] = b"        "
        block[148:156] = f"{sum(block):06o}\0 ".encode()
        return bytes(block)


@contextlib.contextmanager
def whole_archive(path: Path, images: int, classes: int) -> Iterator[WholeArchive]:
    """The archive under a path, as far as this program reads tars."""
    archive, read_at = WholeArchive(images, classes), archives.read_at
    with path.open("wb") as file:
        file.truncate(archive.size)
    archives.read_at = archive.read
    try:
        yield archive
    finally:
        archives.read_at = read_at


def peak_bytes() -> int:
    """The most memory that this process has had so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=14_197_122)
    parser.add_argument("--classes", type=int, default=21_841)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tar, before, started = Path(folder) / "whole.tar", peak_bytes(), time.perf_counter()
        with whole_archive(tar, options.images, options.classes):
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
        {
            "work": work,
            "system": "resnet-v2",
            "value": round((peak - before) / options.images, 1),
            "unit": "bytes each",
        },
    ]
    print(
        json.dumps(rows) if options.json else "\n".join(f"{row['work']}: {row['value']} {row['unit']}" for row in rows)
    )


if __name__ == "__main__":
    main()
