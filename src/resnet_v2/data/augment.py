"""Augmentation and evaluation preprocessing: decoded pixels -> one slot of a batch.

What is drawn for an image depends on (seed, epoch, ordinal) alone. The levels are those of the 2016 reproduction, the
operations those of MXNet's ImageRecordIter in its order, fused: scale, aspect, rotation, shear and crop are one warp.
"""

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from resnet_v2.data.jpeg import Image
from resnet_v2.files import ResnetError

FILL = 127  # grey around the image, as the 2016 script sets it

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
    matrix: NDArray[np.float64] | None
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
    shear = rng.uniform(-plan.shear, plan.shear)
    angle = int(rng.integers(-plan.rotation, plan.rotation + 1))
    scale = rng.uniform(*plan.scale)
    ratio = 1 + rng.uniform(-plan.aspect, plan.aspect)
    # An image too small for the crop is enlarged until it fits (MXNet 1.x; an error in 2016).
    needed = (plan.size - 2 * plan.pad) / min(height, width)
    canvas = (int(scale * height), int(scale * width))
    matrix = None
    if plan.warps() or needed > 1:
        if min(canvas) + 2 * plan.pad < plan.size:
            scale = needed
            canvas = (round(max(scale * height, plan.size - 2 * plan.pad)),
                      round(max(scale * width, plan.size - 2 * plan.pad)))  # fmt: skip
        matrix = _warp_matrix(scale, ratio, angle, shear, (height, width), canvas)
    top = int(rng.integers(0, canvas[0] + 2 * plan.pad - plan.size + 1)) - plan.pad
    left = int(rng.integers(0, canvas[1] + 2 * plan.pad - plan.size + 1)) - plan.pad
    hue, saturation, lightness = (int(rng.uniform(-r, r)) for r in (plan.hue, plan.saturation, plan.lightness))
    return Draw(canvas, matrix, top, left, (hue, lightness, saturation), bool(rng.random() < 0.5))


def _warp_matrix(
    scale: float, ratio: float, angle: int, shear: float, source: tuple[int, int], canvas: tuple[int, int]
) -> NDArray[np.float64]:
    """MXNet's affine matrix: scale, aspect, shear and rotation about the centres. Sizes are (height, width).

    The canvas does not know the aspect, so one axis is cut and the other gets bars of fill: MXNet's quirk, kept.
    """
    horizontal = 2 * scale / (1 + ratio)
    vertical = ratio * horizontal
    cosine, sine = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    matrix = np.array(
        [
            [horizontal * cosine - shear * sine * vertical, horizontal * sine + shear * cosine * vertical, 0],
            [-sine * vertical, cosine * vertical, 0],
        ]
    )
    height, width = source
    matrix[:, 2] = (np.array([canvas[1], canvas[0]]) - matrix[:, :2] @ [width, height]) / 2
    return matrix


def needed_rows(drawn: Draw, size: int, height: int) -> tuple[int, int]:
    """The rows of an image of `height` pixels that its crop of `size` x `size` reads: first, and behind the last."""
    first, last = max(drawn.top, 0), min(drawn.top + size, drawn.canvas[0])
    if drawn.matrix is not None:
        left, right = max(drawn.left, 0), min(drawn.left + size, drawn.canvas[1])
        corners = np.array([[left, right, left, right], [first, first, last, last], [1, 1, 1, 1]])
        rows = (cv2.invertAffineTransform(drawn.matrix) @ corners)[1]
        first, last = int(rows.min()) - 2, int(rows.max()) + 3  # bilinear reads a row further on either side
    first = min(max(first, 0), height - 1)
    return first, min(max(last, first + 1), height)


def apply(pixels: Image, drawn: Draw, out: Image) -> None:
    """Warp, crop, colour and mirror an image straight into `out` (size x size x 3, a view into the batch)."""
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
        inside[:] = pixels[top : top + inside.shape[0], left : left + inside.shape[1]]
    else:
        matrix = drawn.matrix - [[0, 0, left], [0, 0, top]]
        inside[:] = cv2.warpAffine(
            pixels, matrix, inside.shape[1::-1], flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT,
            borderValue=(FILL, FILL, FILL),
        )  # fmt: skip
    if any(drawn.hls):
        _shift_colours(out, drawn.hls)
    if drawn.mirror:
        out[:] = cv2.flip(out, 1)


def _shift_colours(pixels: Image, offsets: tuple[int, int, int]) -> None:
    hls = cv2.cvtColor(pixels, cv2.COLOR_RGB2HLS)
    # Adding saturates at 0 and 255, so only the upper limit of the hue is left to be clamped.
    cv2.add(hls, (*offsets, 0), dst=hls)  # type: ignore[call-overload]
    cv2.min(hls, (*HLS_LIMITS, 0), dst=hls)  # type: ignore[call-overload]
    pixels[:] = cv2.cvtColor(hls, cv2.COLOR_HLS2RGB)


def centre_rows(size: int, height: int, width: int) -> tuple[int, int]:
    """The rows that `centre_crop` reads: first, and behind the last."""
    if min(height, width) < size:
        return 0, height
    top = (height - size) // 2
    return top, top + size


def centre_crop(pixels: Image, out: Image) -> None:
    """Evaluation preprocessing: the centre (rounded down) of an image, which is enlarged first when it is too small."""
    size = out.shape[0]
    height, width = pixels.shape[:2]
    if min(height, width) < size:
        enlarged = (
            max(size, round(width * size / min(height, width))),
            max(size, round(height * size / min(height, width))),
        )
        pixels = cv2.resize(pixels, enlarged, interpolation=cv2.INTER_LINEAR).astype(np.uint8, copy=False)
        width, height = enlarged
    top, left = (height - size) // 2, (width - size) // 2
    out[:] = pixels[top : top + size, left : left + size]
