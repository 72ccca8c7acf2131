"""Pictures that look alike: the same photo saved twice, at another size, quality or brightness, or cut a little.

A picture is known by its thumbnail, 16 x 16 pixels. The lowest 8 x 8 frequencies of its grey values are a vector, and
pictures whose vectors point the same way are alike, unless their colours are others. All pairs are compared, as a
product of matrices.
"""

from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from resnet_v2.console import Progress
from resnet_v2.data.jpeg import Image

SIDE, FIELDS = 16, 4  # of a thumbnail: pixels, and fields of colours
WAVES = 8  # frequencies, in each direction
LEAST_COSINE = 0.97  # of pictures that are alike; docs/inspect.md has what it finds
MOST_COLOURS_APART = 64  # levels, of 255, between the fields of pictures that are alike, in the root mean square
LEAST_CONTRAST = 2.0  # levels; what has less is plain, and alike only where the whole thumbnail is the same
STEPS = 2048
ROWS, COLUMNS = 256, 2048  # of pairs at once, which stay in the processor's cache
SHOWN_FROM = 10_000  # pictures that take longer than a second or two

Thumbnails = NDArray[np.uint8]  # n x SIDE x SIDE x 3, RGB
Groups = NDArray[np.int64]
Vectors = NDArray[np.float32]


def thumbnail(pixels: Image) -> Thumbnails:
    """A picture (H x W x 3, uint8, RGB) on SIDE x SIDE pixels."""
    return cv2.resize(pixels, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)


def groups_of(thumbnails: Thumbnails) -> Groups:
    """For each of n pictures the number of the first one that it looks like, its own where that is none before it.

    What looks like the same third picture is of one group.
    """
    flat = np.ascontiguousarray(thumbnails.reshape(len(thumbnails), -1))
    _, first, of_unique = np.unique(flat.view(f"V{flat.shape[1]}")[:, 0], return_index=True, return_inverse=True)
    order = np.argsort(first)
    unique = thumbnails[first[order]]
    groups = np.arange(len(unique))
    for picture, others in _alike(_waves(unique), _colours(unique), groups):
        its = np.unique(groups[np.append(others, picture)])
        groups[np.isin(groups, its[1:])] = its[0]
    found: Groups = first[order][groups][np.argsort(order)][of_unique.reshape(-1)]
    return found


def _waves(thumbnails: Thumbnails) -> Vectors:
    """n x 64 unit vectors: cosine transforms, each frequency times its square root, as photos have less of the higher.

    The vector of a plain picture is 0. Their numbers are whole steps, so that products are exact in any order.
    """
    grey = thumbnails @ np.array([0.299, 0.587, 0.114], np.float32)
    number = np.arange(WAVES)
    basis = np.cos(np.pi / SIDE * number[:, None] * (np.arange(SIDE) + 0.5)).astype(np.float32)
    basis[0] /= np.sqrt(2)
    waves = basis @ grey @ basis.T * np.hypot(number[:, None], number).astype(np.float32) ** 0.5
    vectors = waves.reshape(len(waves), -1)
    length = np.linalg.norm(vectors, axis=1)
    length[grey.std((1, 2)) < LEAST_CONTRAST] = np.inf
    steps: Vectors = np.round(vectors / np.maximum(length, 1)[:, None] * STEPS)
    return steps / np.float32(STEPS)


def _colours(thumbnails: Thumbnails) -> Vectors:
    """n x 32: how far red and blue are above green in 4 x 4 fields, in whole levels."""
    red, green, blue = (thumbnails[..., channel].astype(np.int16) for channel in range(3))
    above = np.stack([red - green, blue - green], -1)
    side = SIDE // FIELDS
    fields = above.reshape(len(above), FIELDS, side, FIELDS, side, 2).mean((2, 4), dtype=np.float32)
    levels: Vectors = np.round(fields).reshape(len(above), -1)
    return levels


def _alike(waves: Vectors, colours: Vectors, groups: Groups) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """A picture, and those behind it that look like it and are not of its group yet, as `groups` is by then."""
    count = len(waves)
    with Progress("compare", count, shown=count >= SHOWN_FROM) as told:
        for start in range(0, count, ROWS):
            for column in range(start, count, COLUMNS):
                if not np.ptp(groups[np.r_[start : start + ROWS, column : column + COLUMNS].clip(max=count - 1)]):
                    continue  # a film's pictures are of one group soon
                cosines = waves[start : start + ROWS] @ waves[column : column + COLUMNS].T
                rows = np.flatnonzero(cosines.max(1) >= LEAST_COSINE)
                columns = np.flatnonzero(cosines[rows].max(0, initial=0) >= LEAST_COSINE)
                near = cosines[np.ix_(rows, columns)] >= LEAST_COSINE
                rows, columns = rows + start, columns + column
                near &= _agree(colours[rows], colours[columns])
                for row, its in zip(rows.tolist(), near, strict=True):
                    others = columns[its]
                    others = others[groups[others] != groups[row]]
                    if len(others):
                        yield row, others
            told.update(min(ROWS, count - start))


def _agree(some: Vectors, others: Vectors) -> NDArray[np.bool_]:
    """For all pairs whether their colours agree; a picture in grey, which has none, agrees with all."""
    squares = (some**2).sum(1)[:, None] + (others**2).sum(1) - 2 * some @ others.T
    agree: NDArray[np.bool_] = squares <= some.shape[1] * MOST_COLOURS_APART**2
    agree[~some.any(1)] = True
    agree[:, ~others.any(1)] = True
    return agree
