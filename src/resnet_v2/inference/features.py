"""Pictures -> their features: what the network sees before its last layer, and what it takes them for."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from resnet_v2.console import Progress, counted, say
from resnet_v2.data.jpeg import Image
from resnet_v2.data.labels import Labels
from resnet_v2.errors import ResnetError
from resnet_v2.inference.classifier import Classifier
from resnet_v2.inference.evaluate import NO_NUMBER
from resnet_v2.inference.feature_files import FeatureFile, Origin, Rows, is_feature_file, joined, refuse_other
from resnet_v2.inference.feature_files import writing_features as writing
from resnet_v2.inference.pictures import prepare
from resnet_v2.inference.places import Named, find_pictures
from resnet_v2.inference.predict import loaded_batches
from resnet_v2.inference.tally import probabilities
from resnet_v2.machine import free_memory, processors
from resnet_v2.networks import weights
from resnet_v2.networks.header import Header
from resnet_v2.networks.resnet import ResNet

Seen = tuple[Image, NDArray[np.float32] | None]
MEMORY_SHARE = 0.5  # of what is free, for features that are all held at once


class Places:
    """Pictures and files of features as one table of rows, read block by block; all are of one network and view.

    `count` is how many rows there are, unless pictures cannot be read: those are said, and counted in `unreadable`.
    `load` gives the network, when pictures want it; `labels` are what a record's are taken for, None: the network's;
    `find` gives the pictures of the places that are no files of features.
    Raises ResnetError where nothing is there, or of several networks.
    """

    def __init__(
        self,
        places: Sequence[str],
        load: Callable[[], Classifier],
        batch_size: int,
        threads: int,
        labels: Labels | None = None,
        find: Callable[[Sequence[str]], list[Named]] = find_pictures,
    ) -> None:
        self.name, self.unreadable, self._labels = ", ".join(places), 0, labels
        self._batch_size, self._threads = batch_size, threads or processors()
        self.files = [FeatureFile(Path(place)) for place in places if is_feature_file(place)]
        others = [place for place in places if not is_feature_file(place)]
        self._pictures = find(others) if others else []
        self.count = sum(map(len, self.files)) + len(self._pictures)
        self._classifier = load() if self._pictures else None
        sources = [(file.origin, str(file.path)) for file in self.files]
        if self._classifier is not None:
            sources.append((origin_of(self._classifier), "the network"))
        self.origin = sources[0][0]
        for origin, name in sources[1:]:
            refuse_other(self.origin, sources[0][1], origin, name)
        if not self.count:
            raise ResnetError(f"{self.name} holds no picture; give another file.")

    def blocks(self) -> Iterator[Rows]:
        """All rows, those of files first; a ResnetError where the network answers with what is no number."""
        seen = 0
        with Progress("features", self.count) as progress:
            for rows in self._all():
                seen += len(rows)
                yield rows
                progress.update(len(rows))
        if not seen:
            raise ResnetError(f"{self.name} holds no picture that can be read; give others.")

    def whole(self) -> Rows:
        """All rows at once; a ResnetError where they would not fit into memory."""
        size, free = 4 * self.count * self.origin.width, free_memory()
        if free and size > MEMORY_SHARE * free:
            raise ResnetError(
                f"The features of {counted(self.count, 'picture')} take {size >> 20} MiB, of {free >> 20} MiB that "
                "are free; give "
                "fewer."
            )
        return joined(list(self.blocks()))

    def _all(self) -> Iterator[Rows]:
        for file in self.files:
            yield from file.blocks()
        if self._classifier is None:
            return
        pictures, its, other_labels = iter(self._pictures), self._classifier, 0
        for batch in loaded_batches(pictures, self._load, self._batch_size, self._threads):
            good: list[tuple[Named, Seen]] = []
            for named, seen in batch:
                if isinstance(seen, str):
                    self.unreadable += 1
                    say(f"left out: {seen}")
                else:
                    good.append((named, seen))
            if good:
                rows, others = _rows(its, good, self._labels or its.header.labels)
                other_labels += others
                yield rows
        if other_labels:
            say(
                f"warning: the labels of {counted(other_labels, 'image')} are not what the network tells; they are "
                "left out"
            )

    def _load(self, named: Named) -> Seen | str:
        assert self._classifier is not None
        try:
            picture, labels = named.labelled()
            return prepare(picture, self._classifier.view, named.name), labels
        except ResnetError as error:
            return str(error)


def write_features(places: Places, out: Path) -> str:
    """Write all rows into a file, .parquet or .npz; returns a sentence about it."""
    if any(out.exists() and file.path.samefile(out) for file in places.files):
        raise ResnetError(f"`out` {out} is one of the files that are read; give another name.")
    count = 0
    with writing(out, places.origin) as write:
        for rows in places.blocks():
            write(rows)
            count += len(rows)
    left_out = f"; {places.unreadable} left out" if places.unreadable else ""
    return (
        f"{out}: {counted(count, 'picture')}, {places.origin.width} numbers each, of {places.origin.network}{left_out}"
    )


def origin_of(classifier: Classifier) -> Origin:
    """What tells whether two networks give a picture the same features."""
    header, width = classifier.header, classifier.network.fc1.in_features
    return Origin(header.network, fingerprint_of_body(classifier.network), header.crop, header.resize, width)


def fingerprint_of_body(network: ResNet) -> str:
    """The SHA-256 of all weights and statistics below the last layer, as 64 hexadecimal digits."""
    found = hashlib.sha256()
    for name, tensor in sorted(weights.network_tensors(network).items()):
        if not name.startswith("fc1."):
            found.update(f"{name} {tuple(tensor.shape)} ".encode())
            found.update(tensor.cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def _rows(classifier: Classifier, seen: Sequence[tuple[Named, Seen]], kind: Labels) -> tuple[Rows, int]:
    """The rows of some pictures, and of how many the labels are left out."""
    crops = np.stack([crop for _, (crop, _) in seen])
    features = classifier.features_of_crops(crops)
    with torch.inference_mode():
        last = classifier.network.fc1
        logits = torch.nn.functional.linear(torch.from_numpy(features).to(classifier.device), last.weight, last.bias)
        found = (logits / classifier.header.temperature).cpu().numpy()
    if not (np.isfinite(features).all() and np.isfinite(found).all()):
        raise ResnetError(NO_NUMBER)
    header = classifier.header
    label, others = _labels([labels for _, (_, labels) in seen], kind)
    names = np.array([named.name for named, _ in seen], np.str_)
    return Rows(names, label, *_top(probabilities(found, header.labels), header), features), others


def _labels(given: Sequence[NDArray[np.float32] | None], labels: Labels) -> tuple[NDArray[Any], int]:
    """Those of a record, as the network has them; of another kind none, and how many these are."""
    if not labels.width:
        first = np.array([np.nan if one is None or not len(one) else one[0] for one in given], np.float32)
        fits = np.isfinite(first) & (first % 1 == 0) & (first >= 0)
        wrong = sum(one is not None for one, fit in zip(given, fits, strict=True) if not fit)
        return np.where(fits, first, -1).astype(np.int64), wrong
    fitting = [one is not None and len(one) == labels.width and not labels.bad(one[None]).any() for one in given]
    found = np.full((len(given), labels.width), np.nan, np.float32)
    for row, one, fit in zip(found, given, fitting, strict=True):
        if fit:
            row[:] = one
    return found, sum(one is not None and not fit for one, fit in zip(given, fitting, strict=True))


def _top(shares: NDArray[np.float64], header: Header) -> tuple[NDArray[np.int64], NDArray[Any], NDArray[np.float64]]:
    """The most probable class of each picture, of tasks of each: number, name and probability."""
    places = header.labels.places or (slice(0, shares.shape[1]),)
    top = np.stack([shares[:, place].argmax(1) for place in places], 1)
    names = [
        [
            header.name(place.start + int(one)) if header.class_names else str(one)
            for one, place in zip(row, places, strict=True)
        ]
        for row in top
    ]
    best = np.stack([shares[:, place].max(1) for place in places], 1)
    found = top, np.array(names, np.str_), best
    return found if header.tasks else (found[0][:, 0], found[1][:, 0], found[2][:, 0])
