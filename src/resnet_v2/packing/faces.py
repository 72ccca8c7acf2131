"""InsightFace's form: record 0 tells the keys of the identities, and each of those the keys of its images.

Record 0 has the labels (first key of an identity, last one + 1) and no image. The images have the keys from 1 on, those
of an identity one after another; a record behind them for each identity has the labels (key of its first image, that of
its last + 1) and no image. Labels are float32, which tell whole numbers apart up to 2^24.
"""

import numpy as np

from resnet_v2.console import Progress
from resnet_v2.data.records import IRHeader, pack
from resnet_v2.errors import ResnetError
from resnet_v2.packing.choosing import Choice
from resnet_v2.packing.headers import Change
from resnet_v2.packing.inputs import Inputs
from resnet_v2.packing.output import Output

MOST_KEYS = 1 << 24


def check(records: Inputs, choice: Choice) -> None:
    """Raise ResnetError where there are more keys than the labels can tell apart."""
    keys = 1 + len(choice.numbers) + len(np.unique(records.labels[choice.numbers]))
    if keys > MOST_KEYS:
        raise ResnetError(
            f"{choice.out} would have {keys} keys, but the labels of InsightFace's form (float32) tell {MOST_KEYS} "
            "apart; take fewer images, or leave `faces` out."
        )


def write(records: Inputs, choice: Choice, output: Output, change: Change, progress: Progress) -> None:
    """Write record 0, the images, whose order is that of their identities, and a record for each identity."""
    labels = records.labels[choice.numbers]
    firsts = np.flatnonzero(np.append(True, labels[1:] != labels[:-1]))
    first_identity = 1 + len(labels)
    output.write(0, _range(0, first_identity, first_identity + len(firsts)))
    for key, number in enumerate(progress.over(choice.numbers.tolist()), start=1):
        output.write(key, change.apply(records, number, key))
    for key, (first, last) in enumerate(zip(firsts, np.append(firsts[1:], len(labels)), strict=True), first_identity):
        output.write(key, _range(key, 1 + int(first), 1 + int(last)))


def _range(key: int, first: int, last: int) -> bytes:
    return pack(IRHeader(2, [first, last], key, 0), b"")
