"""Run by MXNet's Python from loader.py: images per second of ImageRecordIter, after one epoch to warm up."""

import sys
import time
from typing import Any

import mxnet as mx

AUGMENTATIONS: dict[str, dict[str, Any]] = {
    "level-1": {"rand_crop": True},
    "level-2": {
        "rand_crop": True,
        "random_h": 36,
        "random_s": 50,
        "random_l": 50,
        "min_random_scale": 0.533,
        "max_aspect_ratio": 0.25,
    },
    "resized-crop": {
        "random_resized_crop": True,
        "min_random_area": 0.08,
        "max_random_area": 1.0,
        "min_aspect_ratio": 3 / 4,
        "max_aspect_ratio": 4 / 3,
    },
}


def _epoch(stream: Any, batch_size: int) -> int:
    stream.reset()
    images = 0
    for batch in stream:
        batch.data[0].wait_to_read()
        images += batch_size - batch.pad
    return images


def main() -> None:
    rec, augmentation = sys.argv[1:3]
    threads, batch_size, wanted = map(int, sys.argv[3:6])
    stream = mx.io.ImageRecordIter(
        path_imgrec=rec,
        data_shape=(3, 224, 224),
        batch_size=batch_size,
        rand_mirror=True,
        shuffle=True,
        preprocess_threads=threads,
        round_batch=False,
        **AUGMENTATIONS[augmentation],
    )
    _epoch(stream, batch_size)
    images, started = 0, time.perf_counter()
    while images < wanted:
        images += _epoch(stream, batch_size)
    speed = images / (time.perf_counter() - started)
    print(speed)


if __name__ == "__main__":
    main()
