"""What `features` and `head` take: images per second and memory by the number of pictures, and which doubles are found.

The pictures are the test images of CIFAR-10 as class folders (test/CLASS/*.jpg). Each count runs in a process of its
own, whose largest memory is told. A double is a picture that was encoded anew at JPEG quality 50 (the folder's are at
75).

    OMP_NUM_THREADS=1 python benchmarks/features.py --root cifar10/test --images 4000
"""

import argparse
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2

from resnet_v2 import cli
from resnet_v2.config.packing import ListConfig, PackConfig
from resnet_v2.inference import similar
from resnet_v2.inference.classifier import open_once
from resnet_v2.inference.features import Places
from resnet_v2.packing.class_folders import make_lists
from resnet_v2.packing.pack import pack_list

THRESHOLDS = (0.9999, 0.999, 0.998, 0.995, 0.99)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--one", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        tell_one(options.one)
        return
    with tempfile.TemporaryDirectory() as name:
        measure(options.root, options.images, Path(name))


def measure(root: Path, images: int, folder: Path) -> None:
    lists = ListConfig(root, folder / "a", val_ratio=0.2)
    make_lists(lists)
    for part in ("train", "val"):
        lines = (folder / f"a_{part}.lst").read_text().splitlines(keepends=True)
        for count in (images // 4, images) if part == "train" else (images // 4,):
            lst = folder / f"{part}-{count}.lst"
            lst.write_text("".join(lines[:count]))
            pack_list(PackConfig(lst, root, folder / f"{part}-{count}.rec", threads=1))
    quarter, whole = (folder / f"train-{count}" for count in (images // 4, images))
    for ending in ("npz", "parquet"):
        for stem in (quarter, whole):
            one(root, "features", f"{stem}.rec", "--out", f"{stem}.{ending}")
    val = folder / f"val-{images // 4}"
    one(root, "features", f"{val}.rec", "--out", f"{val}.npz")
    one(root, "head", f"{whole}.npz", "--val", f"{val}.npz", "--out", str(folder / "head"))
    doubles(root, [line.rstrip("\n").split("\t")[2] for line in lines_of(quarter)], Path(f"{whole}.npz"), folder)


def lines_of(stem: Path) -> list[str]:
    return Path(f"{stem}.lst").read_text().splitlines()


def one(root: Path, *words: str) -> None:
    command = [sys.executable, __file__, "--root", str(root), "--one", *words, "--device", "cpu"]
    subprocess.run(command, check=True)


def tell_one(words: list[str]) -> None:
    begun = time.perf_counter()
    assert cli.main(words) == 0
    seconds = time.perf_counter() - begun
    print(f"  {seconds:.1f} s, {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB at most", flush=True)


def doubles(root: Path, paths: list[str], features: Path, folder: Path) -> None:
    """Some pictures of the record encoded anew: how many are found, and how many other pairs are told."""
    chosen = random.Random(0).sample(paths, min(500, len(paths)))
    for number, path in enumerate(chosen):
        pixels = cv2.imread(str(root / path))
        assert pixels is not None
        (folder / "copies").mkdir(exist_ok=True)
        copy = str(folder / "copies" / f"{number}.jpg")
        assert cv2.imwrite(copy, pixels, (cv2.IMWRITE_JPEG_QUALITY, 50))
    load = open_once("", None, "cpu", "")
    places = Places([str(features), str(folder / "copies")], load, 32, 1)
    begun = time.perf_counter()
    told = list(similar.duplicates(places, min(THRESHOLDS)))
    print(f"duplicates among {places.count}: {time.perf_counter() - begun:.1f} s")
    print("| cosine | copies found | other pictures told |\n|---|---|---|")
    for least in THRESHOLDS:
        its = [one for one in told if one.similarity >= least]
        copies = sum("copies" in one.image for one in its)
        print(f"| {least} | {100 * copies / len(chosen):.0f} % | {len(its) - copies} |")


if __name__ == "__main__":
    main()
