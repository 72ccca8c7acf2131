"""Colour, centre crop and interpolation as MXNet's im2rec has them: an image file -> the pixels that go into a record.

The steps and their order are those of im2rec.cc and im2rec.py, so the pixels are theirs too.
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from resnet_v2.data.claims import JPEG_START, check_claim
from resnet_v2.data.jpeg import Image, decode
from resnet_v2.data.loader import MAX_PIXELS
from resnet_v2.packing.photos import read_orientation, read_upright, size_of_shorter_side, upright, usual_method

AUTO, RANDOM = 9, 10  # among im2rec's numbers of interpolations; 0 to 4 are OpenCV's own
ORDER = {3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGBA}


@dataclass(frozen=True)
class Shape:
    """What becomes of an image; the fields are the settings of `pack` by the same names."""

    resize: int
    color: int
    center_crop: bool
    inter_method: int | None

    def read(self, data: bytes, index: int) -> Image:
        """An image file -> pixels: H x W x 3, RGB; H x W where grey is wanted; what the file has with `color` -1.

        `index`, the image's in its list, chooses a random interpolation. The array may be overwritten by the thread's
        next call. Raises ValueError as `read_upright` does.
        """
        if self.color == 1 and not self.center_crop and self.inter_method is None:
            return read_upright(data, self.resize)
        pixels = _decode(data, self.color)
        if self.center_crop:
            pixels = _centre(pixels)
        height, width = pixels.shape[:2]
        if not self.resize or min(height, width) == self.resize:
            return np.ascontiguousarray(pixels)
        new_size = size_of_shorter_side(height, width, self.resize)
        resized: Any = cv2.resize(pixels, new_size, interpolation=self._method(height, width, new_size, index))
        return resized  # type: ignore[no-any-return]

    def _method(self, height: int, width: int, new_size: tuple[int, int], index: int) -> int:
        if self.inter_method is None:
            return usual_method(height, width, self.resize)
        if self.inter_method == RANDOM:
            return int(np.random.default_rng(index).integers(5))
        if self.inter_method != AUTO:
            return self.inter_method
        if new_size[0] > width and new_size[1] > height:
            return cv2.INTER_CUBIC
        return cv2.INTER_AREA if new_size[0] < width and new_size[1] < height else cv2.INTER_LINEAR


def _decode(data: bytes, color: int) -> Image:
    """Pixels of the whole image: upright in colour or grey, or as the file has them."""
    check_claim(data, MAX_PIXELS)  # before memory is taken
    is_jpeg = data[:2] == JPEG_START
    in_colour = decode(data, turn=not is_jpeg)  # refuses what is damaged, where OpenCV fills up with grey
    if color == 1:
        return upright(in_colour, read_orientation(data)) if is_jpeg else in_colour
    flag = cv2.IMREAD_UNCHANGED if color == -1 else cv2.IMREAD_GRAYSCALE
    pixels: Any = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
    if pixels is None:
        raise ValueError("this is no image that OpenCV decodes")
    if pixels.dtype not in (np.uint8, np.uint16) or (pixels.ndim == 3 and pixels.shape[2] not in ORDER):
        raise ValueError(f"no record keeps {pixels.shape[2:] or 1} channels of {pixels.dtype}")
    found: Image = pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, ORDER[pixels.shape[2]])
    return found


def _centre(pixels: Image) -> Image:
    """The square in the middle; of two middles the upper or left one."""
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return pixels[top : top + side, left : left + side]
