"""The same picture twice, to train on and to validate with, or in two classes: figures of such a set say too much."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resnet_v2.console import agreeing, counted, following, say
from resnet_v2.data.records import RecordReader, unpack
from resnet_v2.files import fingerprint

# One image of a record each: the fingerprint of its bytes, and its label.
IMAGE = np.dtype([("sum", "<u8"), ("label", "<f8")])


def tell_of_doubles(folder: Path, train: Path, validation: Path) -> None:
    """Say on standard error how many images of two records, which `folder` will hold, are the same byte for byte."""
    to_train, held_out = _images(train), _images(validation)
    if both := int(np.isin(held_out["sum"], to_train["sum"]).sum()):
        say(
            f"warning: {counted(both, 'image')} of {folder / validation.name} {agreeing(both, 'is', 'are')} in "
            f"{train.name} too: the errors on them say "
            "nothing; remove them from one part."
        )
    images = np.unique(np.concatenate([to_train, held_out]))
    if classes := len(images) - len(np.unique(images["sum"])):
        say(
            f"warning: {folder} holds {counted(classes, 'image')} in more than one class; remove "
            f"{agreeing(classes, 'it', 'them')} from the wrong ones."
        )


def _images(rec: Path) -> NDArray[np.void]:
    reader = RecordReader(rec)
    found = np.zeros(len(reader), IMAGE)
    for ordinal in following(range(len(reader)), f"{rec.name}, doubles", len(reader)):
        header, image = unpack(reader[ordinal])
        found[ordinal] = fingerprint(image), np.ravel(header.label)[0]
    return found
