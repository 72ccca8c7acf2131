"""Run by MXNet's Python from loader.py: images per second of one epoch of ImageRecordIter, after one to warm up."""

import sys
import time

import mxnet as mx


def main() -> None:
    rec, level, threads, batch_size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    colours = {"random_h": 36, "random_s": 50, "random_l": 50} if level == 2 else {}
    geometry = {"min_random_scale": 0.533, "max_aspect_ratio": 0.25} if level == 2 else {}
    stream = mx.io.ImageRecordIter(
        path_imgrec=rec, data_shape=(3, 224, 224), batch_size=batch_size, rand_crop=True, rand_mirror=True,
        shuffle=True, preprocess_threads=threads, round_batch=False, **geometry, **colours,
    )  # fmt: skip
    for _ in range(2):
        stream.reset()
        images, started = 0, time.perf_counter()
        for batch in stream:
            batch.data[0].wait_to_read()
            images += batch_size - batch.pad
        speed = images / (time.perf_counter() - started)
    print(speed)


if __name__ == "__main__":
    main()
