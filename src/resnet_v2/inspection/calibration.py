"""Whether a network is as certain as it is right, and the temperature that makes it so.

Guo et al., "On Calibration of Modern Neural Networks", arXiv 1706.04599.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resnet_v2.config.using import Epoch
from resnet_v2.console import agreeing
from resnet_v2.errors import ResnetError
from resnet_v2.files import refuse_no_file
from resnet_v2.inference.tally import log_probabilities, probabilities
from resnet_v2.interchange.optional import package
from resnet_v2.networks import weights
from resnet_v2.networks.finding import SHIPPED, find_checkpoint

BINS = 15
LEAST_PICTURES = 100
DRAWS = 20
LEAST, MOST = 0.05, 20.0  # temperatures
Numbers = NDArray[np.int64]
Logits = NDArray[np.float32]


@dataclass(frozen=True)
class Bin:
    """The pictures whose answer has a probability above `low` and up to `high`: how many, how certain, how right."""

    low: float
    high: float
    pictures: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Calibration:
    """The temperature that half of the pictures asks for, and what it does to the other half, of so many `pictures`.

    Errors are expected calibration errors, shares from 0 to 1; losses are mean cross-entropies in nats. `chance` is the
    error that a network whose certainty is right shows with so many pictures, in the mean.
    """

    temperature: float
    pictures: int
    error_before: float
    error_after: float
    loss_before: float
    loss_after: float
    bins_before: tuple[Bin, ...]
    bins_after: tuple[Bin, ...]
    chance: float

    @property
    def mended(self) -> bool:
        """Whether the temperature halves the error, or leaves no more than chance may."""
        return self.error_after <= max(self.error_before / 2, 2 * self.chance)


def calibrate(logits: Logits, labels: Numbers, now: float, seed: int = 0) -> Calibration:
    """Fit a temperature to a random half of n pictures (n x classes logits, n labels) and measure it on the other.

    `now` is the temperature by which the network answers today, `seed` draws the half. Raises ResnetError for fewer
    than 100 pictures.
    """
    if len(labels) < LEAST_PICTURES:
        there = f"{agreeing(len(labels), 'is', 'are')} {len(labels)}"
        raise ResnetError(f"Calibration takes {LEAST_PICTURES} pictures, and here {there}; give more.")
    order = np.random.default_rng(seed).permutation(len(labels))
    fitted, held_out = np.split(order, [len(order) // 2])
    temperature = fit_temperature(logits[fitted], labels[fitted])
    rest, truth = logits[held_out], labels[held_out]
    before, after = (reliability(rest / np.float32(one), truth) for one in (now, temperature))
    return Calibration(
        temperature,
        len(held_out),
        calibration_error(before),
        calibration_error(after),
        loss_of(rest / np.float32(now), truth),
        loss_of(rest / np.float32(temperature), truth),
        before,
        after,
        error_by_chance(probabilities(rest / np.float32(temperature)).max(1)),
    )


def fit_temperature(logits: Logits, labels: Numbers) -> float:
    """The temperature, 0.05 to 20, at which the labels are most probable."""
    found = package("scipy.optimize", "inspect").minimize_scalar(
        lambda log: loss_of(logits / np.float32(np.exp(log)), labels),
        bounds=(np.log(LEAST), np.log(MOST)),
        method="bounded",
    )
    return round(float(np.exp(found.x)), 4)


def loss_of(logits: Logits, labels: Numbers) -> float:
    """The mean cross-entropy in nats."""
    return -float(np.take_along_axis(log_probabilities(logits), labels[:, None], 1).mean())


def reliability(logits: Logits, labels: Numbers) -> tuple[Bin, ...]:
    """15 equal bins of the probability of the answer; empty ones are there too."""
    shares = probabilities(logits)
    return _bins(shares.max(1), shares.argmax(1) == labels)


def error_by_chance(certain: NDArray[np.float64]) -> float:
    """The mean calibration error where answers are right as often as they are certain, drawn 20 times."""
    rng = np.random.default_rng(0)
    errors = [calibration_error(_bins(certain, rng.random(len(certain)) < certain)) for _ in range(DRAWS)]
    return float(np.mean(errors))


def _bins(certain: NDArray[np.float64], right: NDArray[np.bool_]) -> tuple[Bin, ...]:
    places = np.clip(np.ceil(certain * BINS).astype(np.int64) - 1, 0, BINS - 1)
    counts, confidences, rights = (np.bincount(places, one, BINS) for one in (np.ones(len(certain)), certain, right))
    filled = np.maximum(counts, 1)
    rows = zip(counts, confidences / filled, rights / filled, strict=True)
    return tuple(
        Bin(number / BINS, (number + 1) / BINS, int(count), float(confidence), float(accuracy))
        for number, (count, confidence, accuracy) in enumerate(rows)
    )


def calibration_error(bins: tuple[Bin, ...]) -> float:
    """How far certainty and accuracy are apart, in the mean over all pictures."""
    pictures = sum(one.pictures for one in bins)
    return sum(one.pictures * abs(one.confidence - one.accuracy) for one in bins) / pictures


def refuse_to_write(prefix: str, epoch: Epoch | None, out: Path) -> None:
    """Raise ResnetError where `out` is another file than the checkpoint, or one of the package itself."""
    refuse_no_file(out)
    if out.exists() and not out.samefile(find_checkpoint(prefix, epoch)):
        raise ResnetError(f"{out} is there already and is not the checkpoint; give `calibrate` another name.")
    if out.absolute().parent.resolve() == SHIPPED.resolve():
        raise ResnetError(f"{out} is a part of resnet-v2 itself; give `calibrate` another name.")


def write_temperature(prefix: str, epoch: Epoch | None, temperature: float, out: Path) -> None:
    """Write a checkpoint with another temperature in its header: whole or not at all, also over the checkpoint."""
    _, header, tensors = weights.read_checkpoint(prefix, epoch)
    weights.save(out, tensors, replace(header, temperature=temperature), check=True)
