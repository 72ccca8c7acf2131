"""Labels that are most likely wrong: what a classifier thinks of pictures that it was not trained on."""

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from resnet_v2.console import Progress
from resnet_v2.interchange.optional import package

FOLDS = 5
# A label is wrong where the classifier gives it less than the first and another class more than the second. Where many
# pictures of that other class have the same wrong label, the classifier learns it: there, no more than half of its
# pictures get is little too.
LEAST_GIVEN, LEAST_SUGGESTED = 0.02, 0.4
LEAST_C, C_PICTURES = (
    0.01,
    80,
)  # how far the logistic regression may go: C is the second over the pictures, or the first
MOST_STEPS = 500
Shares = NDArray[np.float64]


@dataclass(frozen=True)
class WrongLabel:
    """A picture by its place, the class it is said to have, the one it most likely has, and the shares of both."""

    index: int
    given: int
    suggested: int
    given_probability: float
    probability: float


@dataclass(frozen=True)
class Suspicions:
    """What was found; `problem` says why nothing could be looked for, `left_out` which classes have too few pictures.

    `accuracy` is the share of pictures of which the classifier, which had not seen them, says what their label says.
    """

    found: tuple[WrongLabel, ...] = ()
    accuracy: float = 0.0
    left_out: tuple[int, ...] = ()
    problem: str = ""


def find_wrong_labels(features: NDArray[np.float32], labels: NDArray[np.int64]) -> Suspicions:
    """The labels (n) that are most likely wrong, the most certain first, by a network's features (n x filters).

    Northcutt et al., "Confident Learning", arXiv 1911.00068: out-of-fold probabilities, here of a logistic regression
    in 5 folds. The most certain is the one whose suggested class has the highest probability.
    """
    classes, counts = np.unique(labels, return_counts=True)
    enough, few = classes[counts >= FOLDS], tuple(classes[counts < FOLDS].tolist())
    if len(enough) < 2:
        return Suspicions(left_out=few, problem=f"it takes two classes of {FOLDS} pictures or more")
    kept = np.flatnonzero(np.isin(labels, enough))
    places = np.searchsorted(enough, labels[kept])
    shares = out_of_fold(features[kept], places, len(enough))
    accuracy = float((shares.argmax(1) == places).mean())
    issues = package("cleanlab.filter", "inspect").find_label_issues(
        places, shares, filter_by="predicted_neq_given", return_indices_ranked_by="self_confidence", n_jobs=1
    )
    little = np.maximum(LEAST_GIVEN, typical(shares, places))
    certain = [
        _wrong(int(kept[one]), enough, int(places[one]), shares[one])
        for one in issues
        if shares[one, places[one]] <= little[shares[one].argmax(), places[one]]
        and shares[one].max() >= LEAST_SUGGESTED
    ]
    return Suspicions(tuple(sorted(certain, key=lambda one: (-one.probability, one.index))), accuracy, few)


def typical(shares: Shares, labels: NDArray[np.int64]) -> Shares:
    """classes x classes: what the pictures of a class (row), rightly told, get for another (column), in the median."""
    right = shares.argmax(1) == labels
    rows = [shares[right & (labels == label)] for label in range(shares.shape[1])]
    return np.stack([np.median(row, axis=0) if len(row) else np.zeros(shares.shape[1]) for row in rows])


def _wrong(index: int, classes: NDArray[np.int64], given: int, shares: Shares) -> WrongLabel:
    suggested = int(shares.argmax())
    return WrongLabel(
        index, int(classes[given]), int(classes[suggested]), float(shares[given]), float(shares[suggested])
    )


def out_of_fold(features: NDArray[np.float32], labels: NDArray[np.int64], classes: int) -> Shares:
    """n x classes probabilities, each picture's by a logistic regression that was trained on the other folds."""
    linear, folding = package("sklearn.linear_model", "inspect"), package("sklearn.model_selection", "inspect")
    # Threads of a matrix product this small wait for each other most of the time, on a busy machine ten times as long.
    limit = package("threadpoolctl", "inspect").threadpool_limits
    shares = np.zeros((len(labels), classes))
    with limit(1), warnings.catch_warnings(), Progress("wrong labels", FOLDS, "fold") as told:
        warnings.filterwarnings("ignore", message="lbfgs failed to converge")  # near enough, for an order
        for train, held_out in folding.StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(features, labels):
            mean, deviation = features[train].mean(0), features[train].std(0)
            deviation = np.where(deviation > 0, deviation, 1)
            its = linear.LogisticRegression(C=max(LEAST_C, C_PICTURES / len(train)), max_iter=MOST_STEPS)
            its.fit((features[train] - mean) / deviation, labels[train])
            shares[held_out] = its.predict_proba((features[held_out] - mean) / deviation)
            told.update(1)
    return shares
