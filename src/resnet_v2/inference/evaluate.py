"""Evaluation as the papers report it: any crop, ten crops, every image once, and what a class is taken for."""

import contextlib
from itertools import zip_longest
from typing import Literal

import numpy as np

from resnet_v2.config.fields import Count, OnError, Workers, checked
from resnet_v2.console import Progress, say
from resnet_v2.data.hands import usual_workers
from resnet_v2.data.labels import Labels, labels_of
from resnet_v2.data.left_out import LeftOut
from resnet_v2.data.lists import read_synset
from resnet_v2.data.loader import Reading, batches
from resnet_v2.data.order import split
from resnet_v2.data.record_set import Records, not_empty
from resnet_v2.errors import ResnetError
from resnet_v2.inference.engines import Engine
from resnet_v2.inference.pictures import View, Viewed
from resnet_v2.inference.tally import tally_of
from resnet_v2.inference.verdicts import Verdicts
from resnet_v2.networks.header import Header

WORTH_WORKERS = 300  # images: fewer are read before workers have started
NO_NUMBER = "The network answers with what is no number: its weights are damaged; take others."


def tell_of_other_classes(records: Records, header: Header) -> None:
    """Say it where the synset.txt beside a record names other classes than the network's."""
    synset = records.readers[0].path.with_name("synset.txt")
    if not header.class_names or not synset.is_file():
        return
    names: tuple[str, ...] = header.class_names
    with contextlib.suppress(ResnetError):  # a file that is none of ours says nothing
        names = read_synset(synset)
    for number, (theirs, ours) in enumerate(zip_longest(names, header.class_names)):
        if theirs != ours:
            here, there = (repr(name) if name is not None else "no class" for name in (theirs, ours))
            say(
                f"warning: class {number} is {here} in {synset} and {there} to the network; where these are other "
                "classes, the errors say nothing"
            )
            return


def judge(
    engine: Engine,
    reader: Records,
    view: View,
    classes: int | Labels,
    batch_size: int,
    workers: int | Literal["auto"] = "auto",
    on_error: OnError = "stop",
) -> Verdicts:
    """What an engine says of every record, each read and counted once. Ten crops: the mean of their probabilities.

    `classes` are how many there are, or `Labels` that are not one class. With `on_error` skip a record that cannot be
    read is named and left out, up to one in a hundred. Raises ResnetError where there are no records, and where an
    answer is no number.
    """
    steps = split(np.arange(len(not_empty(reader))), checked("batch_size", Count, batch_size))
    checked("workers", Workers, workers)
    if workers == "auto":
        workers = usual_workers(1, computes=True) if len(reader) > WORTH_WORKERS else 0
    labels = labels_of(classes)
    tally = tally_of(labels, len(reader))
    left_out = LeftOut(reader.path, len(reader), lambda sentence: say(f"left out: {sentence}"))
    skip = on_error == "skip"
    reading = Reading(workers, on_skip=left_out if skip else None, leave_out=skip)
    # Its workers are let go here, also after an error, whose traceback would hold them.
    stream = contextlib.closing(batches(reader, steps, Viewed(view), view.slot, labels, reading))
    with stream as coming, Progress("evaluate", len(reader)) as progress:
        for batch in coming:
            if left_out.problem:
                raise ResnetError(left_out.problem)
            if not len(batch.labels):
                continue
            images = batch.images
            crops = [engine.logits(np.ascontiguousarray(images[:, crop])) for crop in range(images.shape[1])]
            if not all(np.isfinite(crop).all() for crop in crops):
                raise ResnetError(NO_NUMBER)
            tally.add(batch.ordinals, crops, batch.labels)
            progress.update(len(batch.labels))
    if not tally.seen.any():
        raise ResnetError(f"{reader.path} holds no image that can be read; pack it again.")
    found = tally.verdicts()
    if not np.isfinite(found.loss):
        raise ResnetError(
            f"The network answers {reader.path} with what is no number: its weights are damaged; take others."
        )
    return found
