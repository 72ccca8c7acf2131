"""A collection of faces held against its own ranges: record 0, the identities' records, and the images' labels."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from resnet_v2.console import agreeing, counted
from resnet_v2.data.exact import shown
from resnet_v2.data.faces import EXACT, ranges_of_labels
from resnet_v2.packing.walk import Piece


class Wrong(NamedTuple):
    """What is wrong with a piece, in one word and in a sentence, and whether a repair leaves it out."""

    piece: Piece
    kind: str
    message: str
    bad: bool


def check_identities(pieces: Sequence[Piece]) -> Iterator[Wrong]:
    """What does not go together; nothing where the file is no collection of faces (see `data/faces.py`)."""
    first = pieces[0] if pieces else None
    ranges = ranges_of_labels(first.labels) if first is not None and first.empty else None
    if first is None or ranges is None:
        return
    there = (piece for piece in pieces if piece.whole and not piece.empty and piece.key >= 0)
    images = sorted(there, key=lambda piece: piece.key)
    keys = np.array([piece.key for piece in images], np.uint64)  # a damaged id may be any
    identities = [piece for piece in pieces if piece.empty and ranges.first <= piece.key < ranges.last]
    if not ranges.tells_of(len(images)):
        yield Wrong(
            first,
            "missing",
            f"it tells of {counted(ranges.first - 1, 'image')}, but {len(images)} "
            f"{agreeing(len(images), 'is', 'are')} there",
            False,
        )
    if ranges.last > EXACT:  # which images are an identity's is told too roughly
        return
    if len(identities) != ranges.last - ranges.first:
        are_there = f"{len(identities)} {agreeing(len(identities), 'is', 'are')} there"
        words = f"it tells of {counted(ranges.last - ranges.first, 'identity')}, but {are_there}"
        yield Wrong(first, "missing", words, False)
    sound = [one for one in identities if ranges_of_labels(one.labels) is not None]
    places = [np.searchsorted(keys, one.labels).tolist() for one in sound]
    named = np.zeros(len(images), np.int64)  # how often
    for low, high in places:
        named[low:high] += 1
    owner: dict[float, Piece] = {}  # the identity of each label
    for identity in identities:
        if identity not in sound:
            yield Wrong(identity, "mislabelled", "it holds no range of images", True)
    for identity, (low, high) in zip(sound, places, strict=True):
        begin, end = identity.labels
        if high - low < end - begin:
            gone = int(end - begin) - (high - low)
            words = (
                f"it names {counted(int(end - begin), 'image')} from {begin:g} on, of which {gone} "
                f"{agreeing(gone, 'is', 'are')} gone"
            )
            yield Wrong(identity, "missing", words, False)
        alone = named[low:high] == 1
        yield from _of_one(identity, images[low:high], alone)
        label = _usual_label(images[low:high])
        if label is not None and alone.all() and (other := owner.setdefault(label, identity)) is not identity:
            words = f"its images have the label {shown(label)}, and so have those of the identity with key {other.key}"
            yield Wrong(identity, "mislabelled", words, False)
    if identities:
        # Where ranges are damaged or gone, an image that none names may be theirs, and is kept.
        told = sum(end - begin for begin, end in (one.labels for one in sound))
        whole = told == ranges.first - 1 and bool((named <= 1).all())
        for number in np.flatnonzero(named == 0).tolist():
            yield Wrong(images[number], "unlisted", "no identity names it", whole)


def _of_one(identity: Piece, images: Sequence[Piece], alone: NDArray[np.bool_]) -> Iterator[Wrong]:
    """The images of an identity that have another label than most of them; those that another identity names too, whose
    range may be the right one (`alone` is False), are kept.
    """
    usual = _usual_label(images)
    for piece, its_alone in zip(images, alone.tolist(), strict=True):
        label = piece.labels[0]
        if usual is not None and label != usual:
            words = f"its label is {shown(label)}, those of its identity (record {identity.key}) are {shown(usual)}"
            yield Wrong(piece, "mislabelled", words, its_alone)


def _usual_label(images: Sequence[Piece]) -> float | None:
    """The label that most images have, None of no images."""
    counts = Counter(piece.labels[0] for piece in images)
    return counts.most_common(1)[0][0] if counts else None
