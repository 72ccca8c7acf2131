"""How much each class counts in the loss of training, where some have far fewer images than others."""

import numpy as np
import torch
from numpy.typing import NDArray

from resnet_v2.console import Progress, counted
from resnet_v2.data.labels import Labels, several_labels
from resnet_v2.data.record_set import RecordSet
from resnet_v2.data.records import class_label
from resnet_v2.data.stored import find_images
from resnet_v2.errors import ResnetError, printable

AT_ONCE = 1000  # records
FAR_APART = 3  # times as many images as the smallest class: then weights are offered
MOST_COUNTED = 100_000  # images of a record, for an offer: less than a second

Numbers = NDArray[np.float64]


def count_classes(reader: RecordSet, labels: Labels, shown: bool = True) -> Numbers:
    """How many images of a record are of each class; of soft labels the sums of their probabilities.

    A record that cannot be read, or has another label, is not counted: it is told when its turn comes.
    """
    counts, sources = np.zeros(labels.classes), [one.source for one in reader.readers]
    firsts = np.array([place.start for place in labels.places], np.int64)
    with Progress("count classes", len(reader), shown=shown) as progress:
        for start in range(0, len(reader), AT_ONCE):
            some = np.arange(start, min(start + AT_ONCE, len(reader)))
            files, numbers = reader.locate(some)
            for source, file in ((one, number) for number, one in enumerate(sources) if not isinstance(one, int)):
                its = some[files == file]
                source.prefetch(reader.offsets[its], reader.lengths(its))
            found = find_images(sources, files.tolist(), reader.offsets[some].tolist())
            for file, number, one in zip(files.tolist(), numbers.tolist(), found, strict=True):
                if isinstance(one, ValueError):
                    continue
                path = reader.readers[file].path
                try:
                    if not labels.width:
                        counts[class_label(path, number, one.header, labels.classes)] += 1
                        continue
                    its_labels = several_labels(path, number, one.header, labels)
                except ResnetError:
                    continue
                if labels.tasks:
                    counts[firsts + its_labels.astype(np.int64)] += 1
                else:
                    counts += its_labels
            progress.update(len(some))
    return counts


def balanced(counts: Numbers, labels: Labels) -> torch.Tensor:
    """The weight of each class, with which all count the same and an image counts 1 on average: the number of images
    over the number of classes and that of images of the class (float32). Classes without images are none.
    """
    weights = np.zeros(len(counts))
    for place in labels.places or (slice(None),):
        its = counts[place]
        there = its > 0
        weights[place][there] = its.sum() / (np.count_nonzero(there) * its[there])
    return torch.from_numpy(weights).float()


def offer(reader: RecordSet, labels: Labels, names: tuple[str, ...]) -> list[str]:
    """A sentence where classes have very different numbers of images."""
    here = all(isinstance(one.source, int) for one in reader.readers)  # and not on a storage
    if labels.kind != "class" or not here or len(reader) > MOST_COUNTED:
        return []
    counts = count_classes(reader, labels, shown=False).astype(np.int64)
    there = np.flatnonzero(counts)
    if len(there) < 2 or counts.max() < FAR_APART * counts[there].min():
        return []
    most, least = int(counts.argmax()), int(there[counts[there].argmin()])
    first, second = (f"{counted(counts[one], 'image')} of {_name(one, names)}" for one in (most, least))
    return [f"{reader.path} has {first} and {second}: with `class_weights` balanced each class counts the same"]


def _name(number: int, names: tuple[str, ...]) -> str:
    return f"class {number}" + (f" ({printable(names[number])})" if names else "")
