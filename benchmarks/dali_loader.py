"""Run by a Python that has NVIDIA DALI from loader.py: images per second of its CPU pipeline, after some to warm up.

Level 2 is decoding of a random crop, resizing, a shift in HSV and mirroring: DALI's own fast way to about the same
pictures (its warp_affine, the same geometry, is three times slower). Level 1 is a crop and mirroring.
"""

import sys
import time
from typing import Any

from nvidia.dali import fn, pipeline_def, types

SIZE = 224
WARM_UP_BATCHES = 10


def level_2(data: Any) -> Any:
    """Random crop of a share of the image as scale 0.533 to 1 gives it, resized; colours shifted in HSV."""
    pixels = _resized(fn.decoders.image_random_crop(data, random_area=(0.17, 0.6), random_aspect_ratio=(0.75, 1.25)))
    hue, saturation, value = (fn.random.uniform(range=around) for around in ((-72.0, 72.0), (0.8, 1.2), (0.8, 1.2)))
    return fn.hsv(pixels, hue=hue, saturation=saturation, value=value)


def resized_crop(data: Any) -> Any:
    """The random resized crop."""
    return _resized(fn.decoders.image_random_crop(data, random_area=(0.08, 1.0), random_aspect_ratio=(3 / 4, 4 / 3)))


def _resized(pixels: Any) -> Any:
    return fn.resize(pixels, size=(SIZE, SIZE), interp_type=types.INTERP_LINEAR, antialias=False)


def level_1(data: Any) -> Any:
    """A random crop without resizing."""
    place = {"crop_pos_x": fn.random.uniform(range=(0.0, 1.0)), "crop_pos_y": fn.random.uniform(range=(0.0, 1.0))}
    return fn.decoders.image_crop(data, crop=(SIZE, SIZE), **place)


def main() -> None:
    rec, augmentation = sys.argv[1:3]
    threads, batch_size, images = map(int, sys.argv[3:6])
    augment = {"level-1": level_1, "level-2": level_2, "resized-crop": resized_crop}[augmentation]

    @pipeline_def(batch_size=batch_size, num_threads=threads, device_id=None)  # type: ignore[untyped-decorator]
    def pipeline() -> Any:
        data, labels = fn.readers.mxnet(path=[rec], index_path=[f"{rec[:-4]}.idx"], random_shuffle=True)
        return fn.flip(augment(data), horizontal=fn.random.coin_flip()), labels

    built = pipeline()
    built.build()
    for _ in range(WARM_UP_BATCHES):
        built.run()
    done, started = 0, time.perf_counter()
    while done < images:
        built.run()
        done += batch_size
    print(done / (time.perf_counter() - started))


if __name__ == "__main__":
    main()
