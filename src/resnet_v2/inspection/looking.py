"""Every picture of one or two sets, read once: what can be measured of it, and what a network makes of it."""

import struct
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from resnet_v2.console import Progress
from resnet_v2.data.jpeg import Image, resize_shorter_side
from resnet_v2.errors import ResnetError
from resnet_v2.files import fingerprint
from resnet_v2.inference.classifier import Classifier
from resnet_v2.inference.evaluate import NO_NUMBER
from resnet_v2.inference.pictures import View, prepare
from resnet_v2.inspection.labelled import At, Labelled
from resnet_v2.machine import processors
from resnet_v2.packing.likeness import SIDE, thumbnail

BATCH = 64
MEASURED_SIDE = 224  # pixels of the shorter side, at most: sharpness depends on the size at which it is measured

# What is measured of a picture: height and width in pixels; the variance of the Laplacian of its grey values; their
# mean and deviation; how far its colours are from grey; a fingerprint of all pixels; the thumbnail by which pictures
# that look alike are found.
MEASURES = np.dtype(
    [
        *(("height", "<i4"), ("width", "<i4"), ("sharpness", "<f8"), ("brightness", "<f8"), ("contrast", "<f8")),
        *(("colour", "<f8"), ("sum", "<u8"), ("thumbnail", "u1", (SIDE, SIDE, 3))),
    ]
)


class _Seen(NamedTuple):
    label: int
    measures: np.void
    crop: Image


@dataclass(frozen=True)
class Looked:
    """What is known of the n pictures that could be read, those of the first set first.

    `parts` (n) says of which set each is, `numbers` (n) which of its pictures; `labels` (n) are the classes; `measures`
    (n, `MEASURES`); `features` (n x filters, float32) and `logits` (n x classes, float32) are the network's.
    `unreadable` are the pictures that could not be read, each with its set and a sentence.
    """

    sets: tuple[Labelled, ...]
    parts: NDArray[np.int64]
    numbers: NDArray[np.int64]
    labels: NDArray[np.int64]
    measures: NDArray[np.void]
    features: NDArray[np.float32]
    logits: NDArray[np.float32]
    unreadable: tuple[tuple[int, At, str], ...]

    def __len__(self) -> int:
        return len(self.labels)

    def at(self, index: int) -> At:
        """Where a picture is."""
        return self.sets[int(self.parts[index])].at(int(self.numbers[index]))

    def pixels(self, index: int) -> Image:
        """The picture itself, read again."""
        return self.sets[int(self.parts[index])].read(int(self.numbers[index]))[1]


def look(sets: Sequence[Labelled], network: Classifier) -> Looked:
    """Read every picture of the sets; ResnetError where none can be read, and where the network answers with no number.

    A network sees a picture as prediction does: the shorter side resized to that of its header, the centre cut out.
    """
    places = [(part, number) for part, its in enumerate(sets) for number in range(len(its))]
    kept: list[tuple[int, int]] = []
    labels: list[int] = []
    measures, features = (
        np.zeros(len(places), MEASURES),
        np.empty((len(places), network.network.fc1.in_features), np.float32),
    )
    unreadable: list[tuple[int, At, str]] = []
    view = network.view

    def one(place: tuple[int, int]) -> _Seen | str:
        try:
            return _look_at(*sets[place[0]].read(place[1]), view)
        except ResnetError as error:
            return str(error)

    cv2.setNumThreads(0)  # the threads are ours; OpenCV's own would only fight with them
    with ThreadPoolExecutor(processors(), thread_name_prefix="looking") as pool, Progress("look", len(places)) as told:
        for start in range(0, len(places), BATCH):
            some = places[start : start + BATCH]
            seen = [(place, found) for place, found in zip(some, pool.map(one, some), strict=True)]
            good = [(place, found) for place, found in seen if not isinstance(found, str)]
            for place, found in seen:
                if isinstance(found, str):
                    unreadable.append((place[0], sets[place[0]].at(place[1]), found))
            if good:
                rows = slice(len(kept), len(kept) + len(good))
                measures[rows] = [found.measures for _, found in good]
                features[rows] = network.features(np.stack([found.crop for _, found in good]))
                labels += [found.label for _, found in good]
                kept += [place for place, _ in good]
            told.update(len(some))
    if not kept:
        raise ResnetError(f"No picture of {len(places)} can be read, the first: {unreadable[0][2]}")
    features = features[: len(kept)]
    logits = _logits(network, features)
    if not np.isfinite(features).all() or not np.isfinite(logits).all():
        raise ResnetError(NO_NUMBER)
    where, truth = np.array(kept, np.int64), np.array(labels, np.int64)
    return Looked(
        tuple(sets), where[:, 0], where[:, 1], truth, measures[: len(kept)], features, logits, tuple(unreadable)
    )


def _logits(network: Classifier, features: NDArray[np.float32]) -> NDArray[np.float32]:
    """The logits of pooled features (n x filters), before they are divided by the temperature."""
    weight, bias = (
        one.detach().float().cpu().numpy() for one in (network.network.fc1.weight, network.network.fc1.bias)
    )
    logits: NDArray[np.float32] = features @ weight.T + bias
    return logits


def _look_at(label: int, pixels: Image, view: View) -> _Seen:
    return _Seen(label, measured(pixels), prepare(pixels, view))


def measured(pixels: Image) -> np.void:
    """`MEASURES` of a picture (H x W x 3, uint8, RGB)."""
    height, width = pixels.shape[:2]
    pixels = np.ascontiguousarray(pixels[:, :, :3])
    smaller = resize_shorter_side(pixels, MEASURED_SIDE) if min(height, width) > MEASURED_SIDE else pixels
    grey = cv2.cvtColor(smaller, cv2.COLOR_RGB2GRAY)
    found = np.zeros((), MEASURES)
    found["height"], found["width"] = height, width
    found["sharpness"] = cv2.Laplacian(grey, cv2.CV_64F).var()
    found["brightness"], found["contrast"] = grey.mean(), grey.std()
    found["colour"] = (smaller.max(2) - smaller.min(2)).mean()
    found["sum"] = fingerprint(struct.pack("<II", height, width) + pixels.tobytes())
    found["thumbnail"] = thumbnail(smaller)
    return cast(np.void, found[()])
