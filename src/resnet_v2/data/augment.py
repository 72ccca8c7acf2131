"""Augmentation and evaluation preprocessing: decoded pixels -> one slot of a batch.

What is drawn for an image depends on (seed, epoch, ordinal) alone. The levels are those of the 2016 reproduction, the
operations those of MXNet's ImageRecordIter in its order, fused: scale, aspect, rotation, shear and crop are one warp.
Beside them stands the random resized crop of later recipes (Szegedy et al., arXiv 1409.4842, section 6), one resize.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import cv2
import numpy as np

from resnet_v2.data.jpeg import Image, scratch
from resnet_v2.data.rows import Box
from resnet_v2.errors import ResnetError

FILL = 127  # grey around the image, as the 2016 script sets it

Matrix = tuple[tuple[float, float, float], tuple[float, float, float]]

# OpenCV's 8-bit HLS: hue 0-180, lightness and saturation 0-255.
HLS_LIMITS = (180, 255, 255)

# How pixels between pixels are computed, and how many more pixels than bilinear it reads on either side. In a warp
# OpenCV takes `area` for `bilinear`.
INTERPOLATIONS = {
    "nearest": (cv2.INTER_NEAREST, 0),
    "bilinear": (cv2.INTER_LINEAR, 0),
    "bicubic": (cv2.INTER_CUBIC, 1),
    "lanczos": (cv2.INTER_LANCZOS4, 3),
    "area": (cv2.INTER_AREA, 0),
}

RESIZED_AREA = (0.08, 1.0)  # shares of the image
RESIZED_ASPECT = (3 / 4, 4 / 3)
RESIZED_TRIES = 10


@dataclass(frozen=True)
class Augmentation:
    """The ranges of one level. Sides and `pad` in pixels, angles in degrees, colours in steps of OpenCV's 8-bit HLS.

    With `resized` it is a random resized crop and mirror, and the other ranges have no meaning. `interpolation` is one
    of INTERPOLATIONS. `mirror`: every second image is mirrored.
    """

    size: int
    pad: int = 0
    scale: tuple[float, float] = (1.0, 1.0)
    aspect: float = 0.0
    hue: int = 0
    saturation: int = 0
    lightness: int = 0
    rotation: int = 0
    shear: float = 0.0
    resized: bool = False
    interpolation: str = "bilinear"
    mirror: bool = True

    def warps(self) -> bool:
        """Whether more happens to the geometry than crop and mirror."""
        return self.scale != (1.0, 1.0) or bool(self.aspect or self.rotation or self.shear)

    def scaled(self, size: int) -> "Augmentation":
        """The same for a crop of another size that sees as much of the image: scale and padding change with it."""
        share = size / self.size
        smallest, largest = self.scale
        return replace(self, size=size, pad=round(self.pad * share), scale=(smallest * share, largest * share))


@dataclass(frozen=True)
class Draw:
    """What is done to one image.

    The image goes through `matrix` (2 x 3, source to canvas; None: it is its own canvas) onto a canvas of
    `canvas` = (height, width) pixels. The crop's upper left corner is at row `top`, column `left` of the canvas and may
    lie outside of it. `hls` are offsets for hue, lightness, saturation. With `source` none of this happens before the
    colours: the box `source` of the image is resized to the crop.
    """

    canvas: tuple[int, int]
    matrix: Matrix | None
    top: int
    left: int
    hls: tuple[int, int, int]
    mirror: bool
    source: Box | None = None

    def within(self, box: Box) -> "Draw":
        """The same for an image of which only a box is there."""
        if self.source is not None:
            return replace(self, source=self.source.within(box))
        if self.matrix is None:
            canvas = (box.bottom - box.top, box.right - box.left)
            return replace(self, canvas=canvas, top=self.top - box.top, left=self.left - box.left)
        (a, b, right), (c, d, down) = self.matrix
        right, down = right + a * box.left + b * box.top, down + c * box.left + d * box.top
        return replace(self, matrix=((a, b, right), (c, d, down)))


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


def random_resized_crop(size: int) -> Augmentation:
    """A box of 8 to 100 % of the image's area and an aspect of 3:4 to 4:3, resized to the crop, and mirror."""
    return Augmentation(size, resized=True)


def generator(seed: int, epoch: int, ordinal: int) -> np.random.Generator:
    """The random numbers of one image in one epoch: streams of different triples never meet (Philox, keyed)."""
    counter = np.array([0, 0, 0, ordinal], np.uint64)
    return np.random.Generator(np.random.Philox(key=np.array([seed, epoch], np.uint64), counter=counter))


def draw(plan: Augmentation, height: int, width: int, rng: np.random.Generator) -> Draw:
    """Draw the parameters for an image of height x width pixels."""
    if plan.resized:
        box, mirror = _draw_box(height, width, rng)
        return Draw((plan.size, plan.size), None, 0, 0, (0, 0, 0), mirror and plan.mirror, box)
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
    mirror = next(chance) < 0.5
    return Draw(canvas, matrix, top, left, (hue, lightness, saturation), mirror and plan.mirror)


def _draw_box(height: int, width: int, rng: np.random.Generator) -> tuple[Box, bool]:
    """A box of random area and aspect that fits, after some tries the largest in the middle; and whether to mirror."""
    chance = iter(rng.random(1 + 4 * RESIZED_TRIES).tolist())
    mirror = next(chance) < 0.5
    (least, most), (narrow, wide) = RESIZED_AREA, RESIZED_ASPECT
    for _ in range(RESIZED_TRIES):
        area = height * width * (least + (most - least) * next(chance))
        aspect = narrow * (wide / narrow) ** next(chance)
        rows, columns = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        top, left = next(chance), next(chance)
        if 0 < rows <= height and 0 < columns <= width:
            first, start = int((height - rows + 1) * top), int((width - columns + 1) * left)
            return Box(first, first + rows, start, start + columns), mirror
    rows, columns = min(height, max(1, round(width / narrow))), min(width, max(1, round(height * wide)))
    first, start = (height - rows) // 2, (width - columns) // 2
    return Box(first, first + rows, start, start + columns), mirror


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


def needed_box(drawn: Draw, plan: Augmentation, height: int, width: int) -> Box:
    """The pixels of a height x width image that its crop reads."""
    if drawn.source is not None:
        return drawn.source
    top, bottom = max(drawn.top, 0), min(drawn.top + plan.size, drawn.canvas[0])
    left, right = max(drawn.left, 0), min(drawn.left + plan.size, drawn.canvas[1])
    if drawn.matrix is not None:
        (a, b, right_shift), (c, d, down_shift) = drawn.matrix
        determinant = a * d - b * c
        corners = [(x - right_shift, y - down_shift) for x in (left, right) for y in (top, bottom)]
        columns = [(d * x - b * y) / determinant for x, y in corners]
        rows = [(a * y - c * x) / determinant for x, y in corners]
        # Bilinear reads a pixel further on either side.
        around = 2 + INTERPOLATIONS[plan.interpolation][1]
        top, bottom = int(min(rows)) - around, int(max(rows)) + around + 1
        left, right = int(min(columns)) - around, int(max(columns)) + around + 1
    top, left = min(max(top, 0), height - 1), min(max(left, 0), width - 1)
    return Box(top, min(max(bottom, top + 1), height), left, min(max(right, left + 1), width))


def apply(pixels: Image, drawn: Draw, out: Image, interpolation: str = "bilinear") -> None:
    """Warp, crop, colour and mirror an image (3 or 4 channels, RGB first) straight into `out` (size x size x 3, a view
    into the batch).
    """
    height, width = out.shape[:2]
    # The part of the crop that lies on the canvas, in rows and columns of the crop; the rest is fill.
    first_row, first_column = max(0, -drawn.top), max(0, -drawn.left)
    last_row = min(height, drawn.canvas[0] - drawn.top)
    last_column = min(width, drawn.canvas[1] - drawn.left)
    whole = (first_row, first_column, last_row, last_column) == (0, 0, height, width)
    place = (drawn.top + first_row, drawn.left + first_column, last_row - first_row, last_column - first_column)
    crop = _crop(pixels, drawn, place, INTERPOLATIONS[interpolation][0])
    if not whole:
        out.fill(FILL)
    if not (whole and any(drawn.hls)):
        _to_three_channels(crop, out[first_row:last_row, first_column:last_column])
    if any(drawn.hls):
        _shift_colours(crop if whole else out, drawn.hls, out)
    if drawn.mirror:
        cv2.flip(out, 1, dst=out)


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
    # Adding saturates at 0 and 255, so only the upper limit of the hue is left to be clamped.
    cv2.add(hls, (*offsets, 0), dst=hls)  # type: ignore[call-overload]
    if offsets[0] > 0:
        cv2.min(hls, (*HLS_LIMITS, 0), dst=hls)  # type: ignore[call-overload]
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
