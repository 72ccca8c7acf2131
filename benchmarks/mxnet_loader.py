"""Run by MXNet's Python from loader.py: images per second of ImageRecordIter, after one epoch to warm up."""

import sys
import time
from typing import Any

import mxnet as mx


def _epoch(stream: Any, batch_size: int) -> int:
    stream.reset()
    images = 0
    for batch in stream:
        batch.data[0].wait_to_read()
        images += batch_size - batch.pad
    return images


def main() -> None:
    rec, level, threads, batch_size, wanted = sys.argv[1], *map(int, sys.argv[2:6])
    colours = {"random_h": 36, "random_s": 50, "random_l": 50} if level == 2 else {}
    geometry = {"min_random_scale": 0.533, "max_aspect_ratio": 0.25} if level == 2 else {}
    stream = mx.io.ImageRecordIter(
        path_imgrec=rec, data_shape=(3, 224, 224), batch_size=batch_size, rand_crop=True, rand_mirror=True,
        shuffle=True, preprocess_threads=threads, round_batch=False, **geometry, **colours,
    )  # fmt: skip
    _epoch(stream, batch_size)
    images, started = 0, time.perf_counter()
    while images < wanted:
        images += _epoch(stream, batch_size)
    speed = images / (time.perf_counter() - started)
    print(speed)


if __name__ == "__main__":
    main()
