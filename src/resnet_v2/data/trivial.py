"""TrivialAugment: one operation on each image, of a random strength (Müller and Hutter, arXiv 2103.10158, "wide").

The operations and their strengths are those of torchvision's TrivialAugmentWide.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]  # H x W x 3, RGB
Table = NDArray[np.uint8]  # what becomes of each value, 256, or of each value of a channel, 256 x 3

CHANCES = 3  # random numbers of an image
STEPS = 31  # strengths of each operation
SHARPENED = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13
VALUES = np.arange(256, dtype=np.float32)


class Change(NamedTuple):
    """An operation, and how strong it is; what that counts is the operation's own."""

    operation: str
    strength: float = 0.0


def draw_changes(chances: NDArray[np.float64]) -> list[Change]:
    """What is done to n images; `chances` are n x CHANCES numbers from 0 to below 1."""
    operations, steps, signs = (chances * (len(STRENGTHS), STEPS, 2)).astype(np.int64).T.tolist()
    names = tuple(STRENGTHS)
    return [_change(names[which], step, sign) for which, step, sign in zip(operations, steps, signs, strict=True)]


def _change(operation: str, step: int, sign: int) -> Change:
    first, last, signed = STRENGTHS[operation]
    strength = first + (last - first) * step / (STEPS - 1)
    return Change(operation, -strength if signed and sign else strength)


def vary(pixels: Image, change: Change, method: int, fill: int) -> None:
    """Do it to an image in place. `method` is OpenCV's of interpolation; what comes from outside is `fill`."""
    operation, strength = change
    if operation in MATRICES:
        height, width = pixels.shape[:2]
        matrix = MATRICES[operation](strength, height, width)
        flags = method | cv2.WARP_INVERSE_MAP  # the matrix leads from the result to the image
        size, border = (width, height), (fill, fill, fill)
        cv2.warpAffine(pixels.copy(), matrix, size, pixels, flags, cv2.BORDER_CONSTANT, border)
    elif operation in TABLES:
        cv2.LUT(pixels, TABLES[operation](pixels, strength).reshape(256, 1, -1), dst=pixels)
    elif operation in OTHERS:
        cv2.addWeighted(pixels, 1 + strength, OTHERS[operation](pixels), -strength, 0, dst=pixels)


def _turned(degrees: float, height: int, width: int) -> NDArray[np.float64]:
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    x, y = (width - 1) / 2, (height - 1) / 2
    return np.array([[cosine, -sine, x - cosine * x + sine * y], [sine, cosine, y - sine * x - cosine * y]])


def _brighter(pixels: Image, strength: float) -> Table:
    return _clipped((1 + strength) * VALUES)


def _contrast(pixels: Image, strength: float) -> Table:
    mean = float(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).mean())
    return _clipped((1 + strength) * VALUES - strength * mean)


def _posterized(pixels: Image, strength: float) -> Table:
    """Of 8 bits the upper ones."""
    return (VALUES.astype(np.int64) & -(1 << 8 - round(strength))).astype(np.uint8)


def _solarized(pixels: Image, strength: float) -> Table:
    return _clipped(np.where(strength <= VALUES, 255 - VALUES, VALUES))


def _stretched(pixels: Image, strength: float) -> Table:
    """Each channel from 0 to 255; one of a single value stays."""
    least, most = np.array([cv2.minMaxLoc(channel)[:2] for channel in cv2.split(pixels)], np.float32).T
    wide = most > least
    scale = np.where(wide, 255 / np.maximum(most - least, 1), 1)
    return _clipped((VALUES[:, None] - np.where(wide, least, 0)) * scale)


def _equalized(pixels: Image, strength: float) -> Table:
    """Each channel so that its values come about equally often."""
    counts = [cv2.calcHist([pixels], [channel], None, [256], [0, 256]) for channel in range(3)]
    return np.stack([_equal(each.ravel().astype(np.int64)) for each in counts], 1)


def _equal(counts: NDArray[np.int64]) -> Table:
    there = counts[counts > 0]
    step = int(there[:-1].sum()) // 255
    if not step:
        return VALUES.astype(np.uint8)
    before = np.cumsum(counts) - counts
    return _clipped((before + step // 2) // step)


def _clipped(values: NDArray[np.floating | np.integer]) -> Table:
    """Whole values from 0 to 255, rounded down."""
    table: Table = np.clip(values, 0, 255).astype(np.uint8)
    return table


def _grey(pixels: Image) -> Image:
    return cv2.cvtColor(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB).astype(np.uint8, copy=False)


def _blurred(pixels: Image) -> Image:
    """Smoothed, but for the border."""
    blurred, inside = pixels.copy(), (slice(1, -1), slice(1, -1))
    blurred[inside] = cv2.filter2D(pixels, -1, SHARPENED)[inside]
    return blurred


# First and last strength, and whether it may be negative.
STRENGTHS = {
    "identity": (0.0, 0.0, False),
    "shear-x": (0.0, 0.99, True),
    "shear-y": (0.0, 0.99, True),
    "translate-x": (0.0, 32.0, True),  # pixels, whatever the image's size
    "translate-y": (0.0, 32.0, True),
    "rotate": (0.0, 135.0, True),  # degrees
    "brightness": (0.0, 0.99, True),
    "color": (0.0, 0.99, True),
    "contrast": (0.0, 0.99, True),
    "sharpness": (0.0, 0.99, True),
    "posterize": (8.0, 2.0, False),  # bits that are kept
    "solarize": (255.0, 0.0, False),  # the least value that is turned round
    "autocontrast": (0.0, 0.0, False),
    "equalize": (0.0, 0.0, False),
}
Matrix = Callable[[float, int, int], NDArray[np.float64]]
# From the result to the image. Shears are about the outer corner of the first pixel, half a pixel before its centre.
MATRICES: dict[str, Matrix] = {
    "shear-x": lambda strength, height, width: np.array([[1, strength, strength / 2], [0, 1, 0]]),
    "shear-y": lambda strength, height, width: np.array([[1, 0, 0], [strength, 1, strength / 2]]),
    "translate-x": lambda strength, height, width: np.array([[1, 0, -int(strength)], [0, 1, 0]], np.float64),
    "translate-y": lambda strength, height, width: np.array([[1, 0, 0], [0, 1, -int(strength)]], np.float64),
    "rotate": _turned,
}
TABLES: dict[str, Callable[[Image, float], Table]] = {
    "brightness": _brighter,
    "contrast": _contrast,
    "posterize": _posterized,
    "solarize": _solarized,
    "autocontrast": _stretched,
    "equalize": _equalized,
}
# What an image is mixed with, or moved away from.
OTHERS = {"color": _grey, "sharpness": _blurred}
