"""Augmentation: ranges, and what is drawn from them for many images at once.

What is drawn for an image depends on (seed, epoch, ordinal) alone. The levels are those of the 2016 reproduction, the
operations those of MXNet's ImageRecordIter in its order, fused: scale, aspect, rotation, shear and crop are one warp.
Beside them stands the random resized crop of later recipes (Szegedy et al., arXiv 1409.4842, section 6), one resize.
"""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from resnet_v2.data.philox import Streams
from resnet_v2.data.rows import Box
from resnet_v2.data.trivial import CHANCES as TRIVIAL_CHANCES
from resnet_v2.data.trivial import Change, draw_changes
from resnet_v2.errors import ResnetError

Matrix = tuple[tuple[float, float, float], tuple[float, float, float]]
Numbers: TypeAlias = NDArray[np.float64]
Whole: TypeAlias = NDArray[np.int64]

FILL = 127  # grey around the image, as the 2016 script sets it
# How many more pixels than bilinear an interpolation reads on either side. `area` averages where a resize shrinks; in a
# warp OpenCV takes it for `bilinear`.
INTERPOLATIONS = {"nearest": 0, "bilinear": 0, "bicubic": 1, "lanczos": 3, "area": 0}

CHANCES = 10  # random numbers of an image; a random resized crop takes one, and four for each try
MIRROR = 9  # which of them says whether an image is mirrored; of a random resized crop the first
RESIZED_AREA = (0.08, 1.0)  # shares of the image
RESIZED_ASPECT = (3 / 4, 4 / 3)
RESIZED_TRIES = 10
FIRST_TRIES = 2  # most images need no more

AFTERWARDS = 64  # the number of an image's stream from which on is drawn what happens to the crop
ERASED_AREA = (0.02, 0.33)  # shares of the crop
ERASED_ASPECT = (0.3, 3.3)
ERASED_TRIES = 10


@dataclass(frozen=True)
class Augmentation:
    """The ranges of one level. Sides and `pad` in pixels, angles in degrees, colours in steps of OpenCV's 8-bit HLS.

    With `resized` it is a random resized crop and mirror, and the other ranges have no meaning. `interpolation` is one
    of INTERPOLATIONS. `mirror`: every second image is mirrored; with `in_turns` each image in every second epoch, so
    that two epochs in a row show both sides (Jordan, arXiv 2404.00498). `trivial`: one operation of TrivialAugment is
    done to the crop. `erasing` is the share of crops of which a random box is made grey (Zhong et al., arXiv
    1708.04896).
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
    in_turns: bool = False
    trivial: bool = False
    erasing: float = 0.0

    def warps(self) -> bool:
        """Whether more happens to the geometry than crop and mirror."""
        return self.scale != (1.0, 1.0) or bool(self.aspect or self.rotation or self.shear)

    def scaled(self, size: int) -> "Augmentation":
        """The same for a crop of another size that sees as much of the image: scale and padding change with it."""
        share = size / self.size
        smallest, largest = self.scale
        return replace(self, size=size, pad=round(self.pad * share), scale=(smallest * share, largest * share))


class Draw(NamedTuple):
    """What is done to one image.

    The image goes through `matrix` (2 x 3, source to canvas; None: it is its own canvas) onto a canvas of
    `canvas` = (height, width) pixels. The crop's upper left corner is at row `top`, column `left` of the canvas and may
    lie outside of it. `hls` are offsets for hue, lightness, saturation. With `source` none of this happens before the
    colours: the box `source` of the image is resized to the crop. The crop reads the pixels of `box` alone. At last
    comes `change`, and the box `erased` of the crop is made grey.
    """

    canvas: tuple[int, int]
    matrix: Matrix | None
    top: int
    left: int
    hls: tuple[int, int, int]
    mirror: bool
    box: Box
    source: Box | None = None
    change: Change | None = None
    erased: Box | None = None

    def within_box(self) -> "Draw":
        """The same for an image of which only the pixels of `box` are there."""
        box = self.box
        there = Box(0, box.bottom - box.top, 0, box.right - box.left)
        if self.source is not None:
            return self._replace(box=there, source=self.source.within(box))
        if self.matrix is None:
            return self._replace(canvas=there[1::2], top=self.top - box.top, left=self.left - box.left, box=there)
        (a, b, right), (c, d, down) = self.matrix
        right, down = right + a * box.left + b * box.top, down + c * box.left + d * box.top
        return self._replace(matrix=((a, b, right), (c, d, down)), box=there)


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


def crops_alone(plan: Augmentation, height: int, width: int) -> bool:
    """Whether images of this size in pixels are cropped and mirrored, and nothing else."""
    coloured = plan.hue or plan.saturation or plan.lightness
    afterwards = plan.trivial or plan.erasing
    return (
        not (plan.resized or plan.warps() or coloured or afterwards) and min(height, width) >= plan.size - 2 * plan.pad
    )


def draw_crops(
    plan: Augmentation, height: int, width: int, streams: Streams
) -> tuple[Whole, Whole, int, NDArray[np.bool_]]:
    """For n images of one size that are only cropped and mirrored what `draw` gives: tops, lefts, side and mirror."""
    chances = streams.uniform(CHANCES).T
    return *_corner(plan, height, width, chances), plan.size, _mirrored(plan, streams, chances[MIRROR])


def _corner(plan: Augmentation, height: int | Whole, width: int | Whole, chances: Numbers) -> tuple[Whole, Whole]:
    """The rows and columns of canvases of height x width pixels where crops begin."""
    smallest = plan.size - 2 * plan.pad
    return _up_to(height - smallest, chances[4]) - plan.pad, _up_to(width - smallest, chances[5]) - plan.pad


def _mirrored(plan: Augmentation, streams: Streams, chance: Numbers) -> NDArray[np.bool_]:
    """Which images are mirrored: by their number of this epoch, or in turns by that of epoch 0."""
    odd = False
    if plan.in_turns:
        chance = Streams(streams.seed, 0, streams.ordinals).uniform(CHANCES)[:, MIRROR]
        odd = bool(streams.epoch % 2)
    mirrored: NDArray[np.bool_] = ((chance < 0.5) ^ odd) & plan.mirror
    return mirrored


def draw(plan: Augmentation, heights: Whole, widths: Whole, streams: Streams) -> list[Draw]:
    """Draw the parameters for n images of `heights` x `widths` pixels (n each, int64)."""
    drawing = _draw_boxes if plan.resized else _draw_warps
    drawn = drawing(plan, heights, widths, streams)
    if plan.trivial:
        changes = draw_changes(streams.uniform(TRIVIAL_CHANCES, AFTERWARDS))
        drawn = [one._replace(change=change) for one, change in zip(drawn, changes, strict=True)]
    if plan.erasing:
        boxes = _draw_erased(plan, streams)
        drawn = [one._replace(erased=box) for one, box in zip(drawn, boxes, strict=True)]
    return drawn


def _draw_erased(plan: Augmentation, streams: Streams) -> list[Box | None]:
    """A box of random area and aspect somewhere in the crop, or none."""
    chances = streams.uniform(4 + 4 * ERASED_TRIES, AFTERWARDS)[:, TRIVIAL_CHANCES:]
    sides = np.full(len(streams), plan.size)
    boxes = _first_fitting(sides, sides, chances[:, 1:], ERASED_AREA, ERASED_ASPECT)
    return [box if one else None for box, one in zip(boxes, (chances[:, 0] < plan.erasing).tolist(), strict=True)]


def _draw_warps(plan: Augmentation, heights: Whole, widths: Whole, streams: Streams) -> list[Draw]:
    chances = streams.uniform(CHANCES).T
    shear = _within(plan.shear, chances[0])
    angle = _up_to(2 * plan.rotation, chances[1]) - plan.rotation
    scale = plan.scale[0] + (plan.scale[1] - plan.scale[0]) * chances[2]
    ratio = 1 + _within(plan.aspect, chances[3])
    canvas, scale = _canvas(plan, scale, heights, widths)
    top, left = _corner(plan, *canvas, chances)
    limits = ((plan.hue, 6), (plan.lightness, 8), (plan.saturation, 7))
    colours = zip(*(_within(limit, chances[place]).astype(np.int64).tolist() for limit, place in limits), strict=True)
    bottom, right = np.minimum(top + plan.size, canvas[0]), np.minimum(left + plan.size, canvas[1])
    corners: tuple[Whole, ...] = np.maximum(top, 0), bottom, np.maximum(left, 0), right
    matrices: list[Matrix | None] = [None] * len(streams)
    warped = np.full(len(streams), plan.warps()) | (canvas[0] != heights) | (canvas[1] != widths)
    if warped.any():
        matrix = _matrices(scale, ratio, angle, shear, (heights, widths), canvas)
        read = _read(matrix, corners, plan)
        corners = tuple(np.where(warped, one, other) for one, other in zip(read, corners, strict=True))
        rows = zip(*(part.tolist() for part in matrix), strict=True)
        matrices = [(row[:3], row[3:]) if one else None for one, row in zip(warped.tolist(), rows, strict=True)]
    boxes = _inside(corners, heights, widths)
    sizes = zip(canvas[0].tolist(), canvas[1].tolist(), strict=True)
    mirror = _mirrored(plan, streams, chances[MIRROR])
    places = sizes, matrices, top.tolist(), left.tolist(), colours, mirror.tolist(), boxes
    return [Draw(*parts) for parts in zip(*places, strict=True)]


def _canvas(plan: Augmentation, scale: Numbers, heights: Whole, widths: Whole) -> tuple[tuple[Whole, Whole], Numbers]:
    """Height and width of each canvas, and the scale; an image too small for the crop is enlarged until it fits.

    So MXNet 1.x does; in 2016 it was an error.
    """
    smallest = plan.size - 2 * plan.pad
    canvas = [(scale * side).astype(np.int64) for side in (heights, widths)]
    small = np.minimum(*canvas) < smallest
    if small.any():
        scale = np.where(small, smallest / np.minimum(heights, widths), scale)
        enlarged = [np.rint(np.maximum(scale * side, smallest)).astype(np.int64) for side in (heights, widths)]
        canvas = [np.where(small, large, side) for large, side in zip(enlarged, canvas, strict=True)]
    return (canvas[0], canvas[1]), scale


def _within(limit: float, chances: Numbers) -> Numbers:
    return limit * (2 * chances - 1)


def _up_to(last: int | Whole, chances: Numbers) -> Whole:
    return cast(Whole, ((last + 1) * chances).astype(np.int64))


def _matrices(
    scale: Numbers,
    ratio: Numbers,
    angle: Whole,
    shear: Numbers,
    source: tuple[Whole, Whole],
    canvas: tuple[Whole, Whole],
) -> tuple[Numbers, ...]:
    """MXNet's affine matrices, row by row: scale, aspect, shear and rotation about the centres.

    The canvas does not know the aspect, so one axis is cut and the other gets bars of fill: MXNet's quirk, kept.
    """
    horizontal = 2 * scale / (1 + ratio)
    vertical = ratio * horizontal
    # Not NumPy's sine and cosine: the last bit of those depends on the processor.
    cosine, sine = np.array([(math.cos(math.radians(one)), math.sin(math.radians(one))) for one in angle.tolist()]).T
    a, b = horizontal * cosine - shear * sine * vertical, horizontal * sine + shear * cosine * vertical
    c, d = -sine * vertical, cosine * vertical
    (height, width), (canvas_height, canvas_width) = source, canvas
    return a, b, (canvas_width - a * width - b * height) / 2, c, d, (canvas_height - c * width - d * height) / 2


def _read(matrix: tuple[Numbers, ...], corners: tuple[Whole, ...], plan: Augmentation) -> tuple[Whole, ...]:
    """First and last rows and columns of images that crops read, whose edges on the canvas are `corners`."""
    a, b, right_shift, c, d, down_shift = matrix
    top, bottom, left, right = corners
    x = np.stack([left, left, right, right]) - right_shift
    y = np.stack([top, bottom, top, bottom]) - down_shift
    determinant = a * d - b * c
    columns, rows = (d * x - b * y) / determinant, (a * y - c * x) / determinant
    around = 2 + INTERPOLATIONS[plan.interpolation]  # bilinear reads a pixel further on either side
    first, last = (np.stack([rows.min(0), columns.min(0)]), np.stack([rows.max(0), columns.max(0)]))
    first, last = first.astype(np.int64) - around, last.astype(np.int64) + around + 1
    return first[0], last[0], first[1], last[1]


def _inside(corners: tuple[Whole, ...], heights: Whole, widths: Whole) -> list[Box]:
    """Boxes that lie inside of their images and hold a pixel."""
    top, bottom, left, right = corners
    top, left = np.minimum(np.maximum(top, 0), heights - 1), np.minimum(np.maximum(left, 0), widths - 1)
    bottom, right = np.minimum(np.maximum(bottom, top + 1), heights), np.minimum(np.maximum(right, left + 1), widths)
    return [Box(*edges) for edges in zip(top.tolist(), bottom.tolist(), left.tolist(), right.tolist(), strict=True)]


def _draw_boxes(plan: Augmentation, heights: Whole, widths: Whole, streams: Streams) -> list[Draw]:
    """A box of random area and aspect that fits, after some tries the largest in the middle; and whether to mirror."""
    chances = streams.uniform(1 + 4 * FIRST_TRIES)
    mirror = _mirrored(plan, streams, chances[:, 0])
    boxes = _first_fitting(heights, widths, chances[:, 1:], RESIZED_AREA, RESIZED_ASPECT)
    left_over = np.array([place for place, box in enumerate(boxes) if box is None], np.intp)
    if left_over.size:
        sizes = heights[left_over], widths[left_over]
        more = streams.of(left_over).uniform(1 + 4 * RESIZED_TRIES)[:, 1 + 4 * FIRST_TRIES :]
        later = _first_fitting(*sizes, more, RESIZED_AREA, RESIZED_ASPECT)
        for place, box in zip(left_over.tolist(), later, strict=True):
            boxes[place] = box or _middle(int(heights[place]), int(widths[place]))
    size = (plan.size, plan.size)
    drawn = zip(cast(list[Box], boxes), mirror.tolist(), strict=True)
    return [Draw(size, None, 0, 0, (0, 0, 0), turned, box, box) for box, turned in drawn]


def _first_fitting(
    heights: Whole, widths: Whole, chances: Numbers, areas: tuple[float, float], aspects: tuple[float, float]
) -> list[Box | None]:
    """The first box of each image that fits it, of as many as there are four numbers for; None where none does."""
    (least, most), (narrow, wide) = areas, aspects
    area_chance, aspect_chance, top_chance, left_chance = (chances[:, part::4] for part in range(4))
    height, width = heights[:, None], widths[:, None]
    area = height * width * (least + (most - least) * area_chance)
    # Not NumPy's power: its last bit depends on the processor.
    powers = [(wide / narrow) ** chance for chance in aspect_chance.ravel().tolist()]
    aspect = narrow * np.array(powers).reshape(aspect_chance.shape)
    rows, columns = (np.rint(np.sqrt(one)).astype(np.int64) for one in (area / aspect, area * aspect))
    top, left = _up_to(height - rows, top_chance), _up_to(width - columns, left_chance)
    fits = (rows > 0) & (rows <= height) & (columns > 0) & (columns <= width)
    first = fits.argmax(1)[:, None]
    edges = (np.take_along_axis(edge, first, 1)[:, 0].tolist() for edge in (top, top + rows, left, left + columns))
    boxes = [Box(*four) for four in zip(*edges, strict=True)]
    any_fits: list[bool] = np.logical_or.reduce(fits, axis=1).tolist()
    return [box if fitting else None for box, fitting in zip(boxes, any_fits, strict=True)]


def _middle(height: int, width: int) -> Box:
    """The largest box of such an aspect in the middle of an image."""
    narrow, wide = RESIZED_ASPECT
    rows, columns = min(height, max(1, round(width / narrow))), min(width, max(1, round(height * wide)))
    first, start = (height - rows) // 2, (width - columns) // 2
    return Box(first, first + rows, start, start + columns)
