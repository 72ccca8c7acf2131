"""Labels from 2^24 on, of which a float32, as records hold labels, has only some: the exact one stands in `id2`.

MXNet's readers pass over `id2`, and its writers leave it 0.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Label = float | Sequence[float] | NDArray[np.float32]

# From here on whole numbers are missing: of float32, as labels are stored, and of Python's, as lists are read.
EXACT_LABELS, LARGEST_EXACT = 1 << 24, 1 << 53


def exact_id(label: float | Sequence[float]) -> int:
    """What `id2` is to tell of a record's label or labels: the first one from 2^24 on, else nothing, 0.

    Raises ValueError for a large label that a record cannot hold as it is.
    """
    first, *others = (label,) if isinstance(label, int | float) else label
    for value in others:
        if abs(value) >= EXACT_LABELS and not (abs(value) < LARGEST_EXACT and float(np.float32(value)) == value):
            raise ValueError(f"its label {value:.17g} would be rounded, and only the first label may be that large")
    if abs(first) < EXACT_LABELS:
        return 0
    if not (first.is_integer() and 0 <= first < LARGEST_EXACT):
        raise ValueError(f"its label {first:.17g} would be rounded; give whole numbers from 0 to {LARGEST_EXACT - 1}")
    return int(first)


def first_label(label: Label, id2: int) -> float:
    """The first label of a record; from 2^24 on the one that `id2` tells, and not a number where it tells another."""
    first = label if isinstance(label, float) else float(np.ravel(label)[0])
    if not abs(first) >= EXACT_LABELS:
        return first
    return float(id2) if id2 < LARGEST_EXACT and float(np.float32(id2)) == first else math.nan


def shown(label: float) -> str:
    """A label as people write it."""
    return f"{label:.0f}" if label.is_integer() and abs(label) < LARGEST_EXACT else f"{label:g}"
