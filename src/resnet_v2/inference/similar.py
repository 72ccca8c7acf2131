"""Which pictures look alike to a network: the cosine of their features."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from resnet_v2.config.features import FeaturesConfig
from resnet_v2.console import Progress, agreeing, counted, say
from resnet_v2.errors import ResnetError, printable
from resnet_v2.inference.classifier import Classifier
from resnet_v2.inference.feature_files import refuse_other
from resnet_v2.inference.features import Places

ROWS, COLUMNS = 512, 8192  # of the cosines that are held at once
DIGITS = 6  # of a cosine; float32 has no more


@dataclass(frozen=True)
class Neighbour:
    """A picture that is like another one; `label` None: none is known, or it is no single class."""

    image: str
    label: int | None
    similarity: float


@dataclass(frozen=True)
class Neighbours:
    """The most alike of a picture, the nearest first."""

    image: str
    neighbours: tuple[Neighbour, ...]

    def __str__(self) -> str:
        """The picture, and a line for each."""
        lines = [printable(self.image)]
        for one in self.neighbours:
            label = "" if one.label is None else f"  label {one.label}"
            lines.append(f"  {one.similarity:.4f}  {printable(one.image)}{label}")
        return "\n".join(lines)


@dataclass(frozen=True)
class Duplicate:
    """A picture, and the earlier one that it is most like."""

    image: str
    like: str
    similarity: float

    def __str__(self) -> str:
        """Both on one line."""
        return f"{self.similarity:.4f}  {printable(self.image)}  is like  {printable(self.like)}"


def look_alikes(
    settings: FeaturesConfig, places: Places, load: Callable[[], Classifier]
) -> tuple[list[Neighbours] | list[Duplicate], int]:
    """Those of `places` that the settings ask for, neighbours or duplicates, and how many pictures were unreadable."""
    if settings.neighbours:
        among = Places(settings.among, load, settings.batch_size, settings.threads)
        near = neighbours(places, among, settings.neighbours)
        return near, places.unreadable + among.unreadable
    doubles = list(duplicates(places, settings.duplicates))
    least = f"a cosine of {settings.duplicates:g} or more to an earlier one"
    say(f"{len(doubles)} of {places.count} {agreeing(len(doubles), 'has', 'have')} {least}")
    return doubles, places.unreadable


def neighbours(pictures: Places, among: Places, count: int) -> list[Neighbours]:
    """Of each picture the `count` most alike, by the cosine of their features; among equals the earlier comes first.

    A picture that is among the others is its own first neighbour. Raises ResnetError where there are fewer, and for
    features of two networks.
    """
    refuse_other(pictures.origin, pictures.source, among.origin, among.source)
    _refuse_few(among.count, among, count)
    asked = pictures.whole()
    wanted = _unit(asked.features)
    best = np.empty((len(asked), 0), np.float32)
    names, labels = np.empty((len(asked), 0), object), np.empty((len(asked), 0), np.int64)
    seen = 0
    for rows in among.blocks():
        seen += len(rows)
        known = rows.label if rows.label.ndim == 1 else np.full(len(rows), -1)
        shape = (len(asked), len(rows))
        best = np.concatenate([best, np.round(wanted @ _unit(rows.features).T, DIGITS)], 1)
        names = np.concatenate([names, np.broadcast_to(rows.name.astype(object), shape)], 1)
        labels = np.concatenate([labels, np.broadcast_to(known, shape)], 1)
        order = np.argsort(-best, axis=1, kind="stable")[:, :count]
        best, names, labels = (np.take_along_axis(one, order, 1) for one in (best, names, labels))
    _refuse_few(seen, among, count)
    return [
        Neighbours(
            str(image),
            tuple(
                Neighbour(str(name), int(label) if label >= 0 else None, _told(similarity))
                for name, label, similarity in zip(*its, strict=True)
            ),
        )
        for image, *its in zip(asked.name, names, labels, best, strict=True)
    ]


def duplicates(places: Places, least: float) -> Iterator[Duplicate]:
    """Every picture whose cosine to an earlier one is `least` or more, with the earlier one that it is most like.

    Without those that are listed no two pictures are so alike.
    """
    rows = places.whole()
    features = _unit(rows.features)
    with Progress("compare", len(rows)) as progress:
        for start in range(0, len(rows), ROWS):
            similarity, earlier = _most_like(features, start)
            for row in np.flatnonzero(similarity >= least).tolist():
                yield Duplicate(str(rows.name[start + row]), str(rows.name[earlier[row]]), _told(similarity[row]))
            progress.update(len(similarity))


def _most_like(features: NDArray[np.float32], start: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """For some rows the largest cosine to a row before them (-1: there is none), and which row that is."""
    some = features[start : start + ROWS]
    best, where = np.full(len(some), -1, np.float32), np.zeros(len(some), np.int64)
    for first in range(0, start + len(some), COLUMNS):
        found = some @ features[first : min(first + COLUMNS, start + len(some))].T
        later = first + np.arange(found.shape[1]) >= start + np.arange(len(some))[:, None]
        found = np.where(later, np.float32(-2), found)
        its = found.argmax(1)
        largest = np.round(found[np.arange(len(some)), its], DIGITS)
        better = largest > best
        best[better], where[better] = largest[better], first + its[better]
    return best, where


def _unit(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Each row with length 1; one of zeros alone, which is like nothing, stays."""
    exact = features.astype(np.float64)
    lengths = np.linalg.norm(exact, axis=1, keepdims=True)
    return np.asarray(exact / np.maximum(lengths, np.finfo(np.float32).tiny), np.float32)


def _told(similarity: np.float32) -> float:
    return round(min(1.0, float(similarity)), DIGITS)


def _refuse_few(there: int, among: Places, count: int) -> None:
    if there < count:
        raise ResnetError(
            f"`neighbours` {count} are more than the {counted(there, 'picture')} of {among.name}; give fewer."
        )
