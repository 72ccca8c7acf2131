"""Average precision: how far up the images of a class stand among all images, sorted by their scores for it."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Shares = NDArray[np.float64]


def average_precisions(truth: NDArray[Any], scores: NDArray[Any]) -> Shares:
    """n x classes of 0 or 1 and scores -> the average precision of every class, not a number where it has no images.

    It is the sum over all thresholds of the precision times the recall that is gained there, as scikit-learn's
    `average_precision_score` has it: images of equal scores count together.
    """
    with np.errstate(invalid="ignore"):
        return np.array([_one(truth[:, place] > 0, scores[:, place]) for place in range(truth.shape[1])], np.float64)


def _one(positive: NDArray[np.bool_], scores: NDArray[Any]) -> float:
    if not positive.any():
        return np.nan
    order = np.argsort(-scores, kind="stable")
    sorted_scores, hits = scores[order], np.cumsum(positive[order])
    last = np.append(np.flatnonzero(np.diff(sorted_scores)), len(scores) - 1)  # of the images with one score
    precision, recall = hits[last] / (last + 1), hits[last] / hits[-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def mean_of(precisions: Shares) -> float:
    """The mean over the classes that have images, 0 where none has."""
    known = precisions[~np.isnan(precisions)]
    return float(known.mean()) if known.size else 0.0
