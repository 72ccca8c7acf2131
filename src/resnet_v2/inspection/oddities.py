"""Pictures that are not like the others of their set: blurred, dark, narrow, grey, or of other things."""

from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from resnet_v2.interchange.optional import package

# Deviations from the median beyond which a value is odd (Iglewicz and Hoaglin, "How to Detect and Handle Outliers").
ODD = 3.5
GREY = 2.0  # of 255: the mean distance of a picture's channels below which it has no colours
MOST_GREY = 0.05  # the share of grey pictures from which on they are no oddity
NEIGHBOURS, REFERENCES = 10, 10_000
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Odd:
    """A picture by its place, why it is odd, in one word, and by how many deviations (grey: 0)."""

    index: int
    kind: str
    score: float


def find_odd(measures: NDArray[np.void], features: NDArray[np.float32]) -> list[Odd]:
    """The odd pictures of a set by `looking.MEASURES` and the network's features; the oddest of each kind first."""
    area = np.log(measures["height"].astype(np.float64) * measures["width"])
    shape = np.log(measures["width"] / measures["height"])
    sharp, contrast = robust(np.log1p(measures["sharpness"])), robust(np.log1p(measures["contrast"]))
    light, size = robust(measures["brightness"]), robust(area)
    scores = {
        "blurred": -sharp,
        "flat": -contrast,
        "dark": -light,
        "bright": light,
        "small": -size,
        "large": size,
        "narrow": np.abs(robust(shape)),
        "unlike": robust(distances(features)),
    }
    found = [
        Odd(int(index), kind, float(its[index]))
        for kind, its in scores.items()
        for index in np.argsort(-its, kind="stable")[: int((its > ODD).sum())]
    ]
    grey = np.flatnonzero(measures["colour"] < GREY)
    return found + ([Odd(int(index), "grey", 0.0) for index in grey] if len(grey) <= MOST_GREY * len(measures) else [])


def robust(values: Values) -> Values:
    """How many deviations each value is from the median, the deviation told by the median of all distances from it.

    Where more than half of the values are the same, their mean distance tells it.
    """
    apart = values - np.median(values)
    deviation = 1.4826 * float(np.median(np.abs(apart))) or 1.2533 * float(np.abs(apart).mean())
    return apart / deviation if deviation else np.zeros(len(values))


def distances(features: NDArray[np.float32]) -> Values:
    """How far the features (n x filters) of each picture are from those of the 10 nearest others, as a logarithm.

    The others are 10,000 of them, drawn at random, or all.
    """
    if len(features) < 2:
        return np.zeros(len(features))
    deviations = features.std(0)
    scaled = (features - features.mean(0)) / np.where(deviations > 0, deviations, 1)
    drawn = np.random.default_rng(0).permutation(len(features))[:REFERENCES]
    nearest = package("sklearn.neighbors", "inspect").NearestNeighbors(
        n_neighbors=min(NEIGHBOURS + 1, len(drawn)), algorithm="brute"
    )
    apart, _ = nearest.fit(scaled[drawn]).kneighbors(scaled)
    # A picture that was drawn finds itself at a distance of 0; the farthest of those found is a neighbour in any case.
    return cast(Values, np.log1p(apart[:, 1:].mean(1, dtype=np.float64)))
