"""Augmentation and evaluation preprocessing: decoded pixels -> one slot of a batch.

What is drawn for an image depends on (seed, epoch, ordinal) alone. The levels are those of the 2016 reproduction, the
operations those of MXNet's ImageRecordIter in its order, fused: scale, aspect, rotation, shear and crop are one warp.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import cv2
import numpy as np

from resnet_v2.data.jpeg import Image
from resnet_v2.data.rows import Box
from resnet_v2.files import ResnetError

FILL = 127  # grey around the image, as the 2016 script sets it

Matrix = tuple[tuple[float, float, float], tuple[float, float, float]]

# OpenCV's 8-bit HLS: hue 0-180, lightness and saturation 0-255.
HLS_LIMITS = (180, 255, 255)


@dataclass(frozen=True)
class Augmentation:
    """The ranges of one level. Sides and `pad` in pixels, angles in degrees, colours in steps of OpenCV's 8-bit HLS."""

    size: int
    pad: int = 0
    scale: tuple[float, float] = (1.0, 1.0)
    aspect: float = 0.0
    hue: int = 0
    saturation: int = 0
    lightness: int = 0
    rotation: int = 0
    shear: float = 0.0

    def warps(self) -> bool:
        """Whether more happens to the geometry than crop and mirror."""
        return self.scale != (1.0, 1.0) or bool(self.aspect or self.rotation or self.shear)


@dataclass(frozen=True)
class Draw:
    """What is done to one image.

    The image goes through `matrix` (2 x 3, source to canvas; None: it is its own canvas) onto a canvas of
    `canvas` = (height, width) pixels. The crop's upper left corner is at row `top`, column `left` of the canvas and may
    lie outside of it. `hls` are offsets for hue, lightness, saturation.
    """

    canvas: tuple[int, int]
    matrix: Matrix | None
    top: int
    left: int
    hls: tuple[int, int, int]
    mirror: bool


def augmentation(level: int, size: int, imagenet: bool) -> Augmentation:
    """The ranges of level 1 (crop, mirror), 2 (and scale, aspect, colour) or 3 (and rotation, shear).

    Small images (CIFAR) have no pixels to spare: they are padded by 4 and keep their scale.
    """
    if level not in (1, 2, 3):
        raise ResnetError(f"There is no augmentation level {level}; levels are 1, 2 and 3.")
    plan = Augmentation(size, pad=0 if imagenet else 4)
    if level >= 2:
        scale = (0.533, 1.0) if imagenet else (1.0, 1.0)
        plan = replace(plan, scale=scale, aspect=0.25, hue=36, saturation=50, lightness=50)
    return replace(plan, rotation=10, shear=0.1) if level == 3 else plan


def generator(seed: int, epoch: int, ordinal: int) -> np.random.Generator:
    """The random numbers of one image in one epoch: streams of different triples never meet (Philox, keyed)."""
    counter = np.array([0, 0, 0, ordinal], np.uint64)
    return np.random.Generator(np.random.Philox(key=np.array([seed, epoch], np.uint64), counter=counter))


def draw(plan: Augmentation, height: int, width: int, rng: np.random.Generator) -> Draw:
    """Draw the parameters for an image of height x width pixels."""
    # All random numbers at once, and plain floats from there on: this runs for every image of every epoch.
    chance = iter(rng.random(10).tolist())
    shear = _within(plan.shear, chance)
    angle = _up_to(2 * plan.rotation, chance) - plan.rotation
    scale = plan.scale[0] + (plan.scale[1] - plan.scale[0]) * next(chance)
    ratio = 1 + _within(plan.aspect, chance)
    # An image too small for the crop is enlarged until it fits (MXNet 1.x; an error in 2016).
    smallest = plan.size - 2 * plan.pad
    canvas = (int(scale * height), int(scale * width))
    matrix = None
    if min(canvas) < smallest:
        scale = smallest / min(height, width)
        canvas = (round(max(scale * height, smallest)), round(max(scale * width, smallest)))
    if plan.warps() or canvas != (height, width):
        matrix = _warp_matrix(scale, ratio, angle, shear, (height, width), canvas)
    top = _up_to(canvas[0] - smallest, chance) - plan.pad
    left = _up_to(canvas[1] - smallest, chance) - plan.pad
    hue, saturation, lightness = (int(_within(limit, chance)) for limit in (plan.hue, plan.saturation, plan.lightness))
    return Draw(canvas, matrix, top, left, (hue, lightness, saturation), next(chance) < 0.5)


def _within(limit: float, chance: Iterator[float]) -> float:
    return limit * (2 * next(chance) - 1)


def _up_to(last: int, chance: Iterator[float]) -> int:
    return int((last + 1) * next(chance))


def _warp_matrix(
    scale: float, ratio: float, angle: int, shear: float, source: tuple[int, int], canvas: tuple[int, int]
) -> Matrix:
    """MXNet's affine matrix: scale, aspect, shear and rotation about the centres. Sizes are (height, width).

    The canvas does not know the aspect, so one axis is cut and the other gets bars of fill: MXNet's quirk, kept.
    """
    horizontal = 2 * scale / (1 + ratio)
    vertical = ratio * horizontal
    cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    a, b = horizontal * cosine - shear * sine * vertical, horizontal * sine + shear * cosine * vertical
    c, d = -sine * vertical, cosine * vertical
    (height, width), (canvas_height, canvas_width) = source, canvas
    return (a, b, (canvas_width - a * width - b * height) / 2), (c, d, (canvas_height - c * width - d * height) / 2)


def needed_box(drawn: Draw, size: int, height: int, width: int) -> Box:
    """The pixels of a height x width image that its crop of `size` x `size` reads."""
    top, bottom = max(drawn.top, 0), min(drawn.top + size, drawn.canvas[0])
    left, right = max(drawn.left, 0), min(drawn.left + size, drawn.canvas[1])
    if drawn.matrix is not None:
        (a, b, right_shift), (c, d, down_shift) = drawn.matrix
        determinant = a * d - b * c
        corners = [(x - right_shift, y - down_shift) for x in (left, right) for y in (top, bottom)]
        columns = [(d * x - b * y) / determinant for x, y in corners]
        rows = [(a * y - c * x) / determinant for x, y in corners]
        # Bilinear reads a pixel further on either side.
        top, bottom, left, right = int(min(rows)) - 2, int(max(rows)) + 3, int(min(columns)) - 2, int(max(columns)) + 3
    top, left = min(max(top, 0), height - 1), min(max(left, 0), width - 1)
    return Box(top, min(max(bottom, top + 1), height), left, min(max(right, left + 1), width))


def apply(pixels: Image, drawn: Draw, out: Image) -> None:
    """Warp, crop, colour and mirror an image (3 or 4 channels, RGB first) straight into `out` (size x size x 3, a view
    into the batch).
    """
    height, width = out.shape[:2]
    # The part of the crop that lies on the canvas, in rows and columns of the crop; the rest is fill.
    first_row, first_column = max(0, -drawn.top), max(0, -drawn.left)
    last_row = min(height, drawn.canvas[0] - drawn.top)
    last_column = min(width, drawn.canvas[1] - drawn.left)
    if (first_row, first_column, last_row, last_column) != (0, 0, height, width):
        out.fill(FILL)
    inside = out[first_row:last_row, first_column:last_column]
    top, left = drawn.top + first_row, drawn.left + first_column
    if drawn.matrix is None:
        crop = pixels[top : top + inside.shape[0], left : left + inside.shape[1]]
    else:
        (a, b, right), (c, d, down) = drawn.matrix
        crop = cv2.warpAffine(
            pixels, np.array([[a, b, right - left], [c, d, down - top]]), inside.shape[1::-1], flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_CONSTANT, borderValue=(FILL, FILL, FILL, FILL),
        ).astype(np.uint8, copy=False)  # fmt: skip
    inside[:] = _three_channels(crop)
    if any(drawn.hls):
        _shift_colours(out, drawn.hls)
    if drawn.mirror:
        out[:] = cv2.flip(out, 1)


def _three_channels(pixels: Image) -> Image:
    if pixels.shape[2] == 3:
        return pixels
    return cv2.cvtColor(pixels, cv2.COLOR_RGBA2RGB).astype(np.uint8, copy=False)


def _shift_colours(pixels: Image, offsets: tuple[int, int, int]) -> None:
    hls = cv2.cvtColor(pixels, cv2.COLOR_RGB2HLS)
    # Adding saturates at 0 and 255, so only the upper limit of the hue is left to be clamped.
    cv2.add(hls, (*offsets, 0), dst=hls)  # type: ignore[call-overload]
    cv2.min(hls, (*HLS_LIMITS, 0), dst=hls)  # type: ignore[call-overload]
    cv2.cvtColor(hls, cv2.COLOR_HLS2RGB, dst=pixels)


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
    out[:] = _three_channels(pixels[top : top + size, left : left + size])
