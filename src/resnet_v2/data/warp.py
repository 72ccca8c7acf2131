"""Pixels of an image -> its place in a batch: warp, crop, colour and mirror; and the centre crop of evaluation."""

import time

import cv2
import numpy as np

from resnet_v2.data import stages
from resnet_v2.data.augment import FILL, Draw
from resnet_v2.data.jpeg import Image, scratch
from resnet_v2.data.rows import Box
from resnet_v2.data.trivial import vary

METHODS = {
    "nearest": cv2.INTER_NEAREST,
    "bilinear": cv2.INTER_LINEAR,
    "bicubic": cv2.INTER_CUBIC,
    "lanczos": cv2.INTER_LANCZOS4,
    "area": cv2.INTER_AREA,
}
HIGHEST_HUE = 180  # OpenCV's 8-bit HLS: hue 0-180, lightness and saturation 0-255


def apply(pixels: Image, drawn: Draw, out: Image, interpolation: str = "bilinear") -> None:
    """Warp, crop, colour, mirror, change and erase an image (3 or 4 channels, RGB first) straight into `out` (size x
    size x 3, a view into the batch).
    """
    started = time.perf_counter()
    height, width = out.shape[:2]
    # The part of the crop that lies on the canvas, in rows and columns of the crop; the rest is fill.
    first_row, first_column = max(0, -drawn.top), max(0, -drawn.left)
    last_row = min(height, drawn.canvas[0] - drawn.top)
    last_column = min(width, drawn.canvas[1] - drawn.left)
    whole = (first_row, first_column, last_row, last_column) == (0, 0, height, width)
    place = (drawn.top + first_row, drawn.left + first_column, last_row - first_row, last_column - first_column)
    crop = _crop(pixels, drawn, place, METHODS[interpolation])
    if not whole:
        out.fill(FILL)
    coloured = any(drawn.hls)
    if not (whole and coloured):
        _to_three_channels(crop, out[first_row:last_row, first_column:last_column])
    warped = stages.lap(stages.WARP, started)
    if coloured:
        _shift_colours(crop if whole else out, drawn.hls, out)
    if drawn.mirror:
        cv2.flip(out, 1, dst=out)
    if drawn.change is not None:
        vary(out, drawn.change, METHODS[interpolation], FILL)
    if drawn.erased is not None:
        drawn.erased.of(out)[:] = FILL
    stages.lap(stages.COLOUR, warped)


def _crop(pixels: Image, drawn: Draw, place: tuple[int, int, int, int], method: int) -> Image:
    """The pixels at `place` (top, left, height, width) of the canvas."""
    top, left, height, width = place
    if drawn.source is not None:
        box = drawn.source.of(pixels)
        if method == cv2.INTER_AREA and (box.shape[0] < height or box.shape[1] < width):
            method = cv2.INTER_LINEAR  # areas are for shrinking
        crop = scratch("crop", height, width, pixels.shape[2])
        return cv2.resize(box, (width, height), dst=crop, interpolation=method).astype(np.uint8, copy=False)
    if drawn.matrix is None:
        return pixels[top : top + height, left : left + width]
    crop = scratch("crop", height, width, pixels.shape[2])
    (a, b, right), (c, d, down) = drawn.matrix
    return cv2.warpAffine(
        pixels,
        np.array([[a, b, right - left], [c, d, down - top]]),
        (width, height),
        dst=crop,
        flags=method,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=(FILL, FILL, FILL, FILL),
    ).astype(np.uint8, copy=False)


def _to_three_channels(pixels: Image, out: Image) -> None:
    if pixels.shape[2] == 3:
        out[:] = pixels
    else:
        cv2.cvtColor(pixels, cv2.COLOR_RGBA2RGB, dst=out)


def _shift_colours(pixels: Image, offsets: tuple[int, int, int], out: Image) -> None:
    hls = scratch("hls", *out.shape)
    cv2.cvtColor(pixels, cv2.COLOR_RGB2HLS, dst=hls)
    # Adding and subtracting saturate at 0 and 255, so only the upper limit of the hue is left to be clamped. OpenCV
    # takes five times as long for a scalar that has a negative number in it.
    if any(offset > 0 for offset in offsets):
        cv2.add(hls, (*(max(offset, 0) for offset in offsets), 0), dst=hls)  # type: ignore[call-overload]
    if any(offset < 0 for offset in offsets):
        cv2.subtract(hls, (*(max(-offset, 0) for offset in offsets), 0), dst=hls)  # type: ignore[call-overload]
    if offsets[0] > 0:
        cv2.min(hls, (HIGHEST_HUE, 255, 255, 0), dst=hls)  # type: ignore[call-overload]
    cv2.cvtColor(hls, cv2.COLOR_HLS2RGB, dst=out)


def centre_box(size: int, height: int, width: int) -> Box:
    """The pixels that `centre_crop` reads of a height x width image."""
    if min(height, width) < size:
        return Box(0, height, 0, width)
    top, left = (height - size) // 2, (width - size) // 2
    return Box(top, top + size, left, left + size)


def centre_crop(pixels: Image, out: Image) -> None:
    """Evaluation preprocessing: the centre (rounded down) of an image (3 or 4 channels, RGB first).

    It is enlarged first, bilinearly, when it is too small.
    """
    size = out.shape[0]
    height, width = pixels.shape[:2]
    if min(height, width) < size:
        scale = size / min(height, width)
        height, width = max(size, round(height * scale)), max(size, round(width * scale))
        pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR).astype(np.uint8, copy=False)
    top, left = (height - size) // 2, (width - size) // 2
    _to_three_channels(pixels[top : top + size, left : left + size], out)
