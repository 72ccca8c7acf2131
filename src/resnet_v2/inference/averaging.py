"""Several networks of one architecture -> the network whose weights are their mean."""

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from resnet_v2.config.averaging import AverageConfig
from resnet_v2.console import Progress, counted, say
from resnet_v2.data.hands import usual_workers
from resnet_v2.data.loader import Reading, batches, stored_side
from resnet_v2.data.record_set import not_empty, open_records
from resnet_v2.errors import ResnetError
from resnet_v2.inference.ensemble import refuse_other_classes
from resnet_v2.inference.evaluate import NO_NUMBER, WORTH_WORKERS
from resnet_v2.inference.pictures import View, Viewed
from resnet_v2.networks import weights
from resnet_v2.networks.finding import checkpoint_path, find_checkpoint, refuse_taken
from resnet_v2.networks.header import Header
from resnet_v2.networks.resnet import ResNet
from resnet_v2.training.distributed import choose_device
from resnet_v2.training.feed import array_to_input

MOST_IMAGES = 5000  # that statistics are estimated on: they hardly move with more
LEAST_BATCH = 32  # of fewer images the variance is too uncertain


def average(settings: AverageConfig) -> str:
    """Write OUT-0000.safetensors, the mean of the checkpoints; returns a sentence about it.

    With a record the BatchNorms' moving statistics are those of its images in the new network, without it the mean of
    the checkpoints' own. Raises ResnetError for one checkpoint alone, for other architectures and classes, and where
    OUT has the checkpoints of a run.
    """
    if len(settings.prefixes) < 2:
        raise ResnetError("The average of one network is that network; give two or more.")
    refuse_taken(settings.out)
    path = checkpoint_path(settings.out, 0)
    for prefix in settings.prefixes:
        if path.exists() and find_checkpoint(prefix).samefile(path):
            raise ResnetError(f"{path} is one of the networks that are averaged; give another `out`.")
    header, tensors = _mean(settings.prefixes)
    network = weights.build(path, header, tensors)
    if settings.rec is None:
        told = "BatchNorm's statistics are the mean of theirs; with `rec` of a training record they are estimated anew"
    else:
        told = _estimate(network, header, settings)
    weights.save(path, weights.network_tensors(network.cpu()), header, check=True)
    return f"{path}: the mean of {counted(len(settings.prefixes), 'network')}; {told}"


def _mean(prefixes: Sequence[str]) -> tuple[Header, dict[str, Tensor]]:
    """Header and tensors of the mean, summed in double precision, one checkpoint in memory at a time."""
    sums: dict[str, Tensor] = {}
    kept: Header | None = None
    for prefix in prefixes:
        path, header, tensors = weights.read_checkpoint(prefix)
        kept = header if kept is None else _refuse_other(kept, header, prefixes[0], prefix)
        for name, tensor in weights.network_tensors(weights.build(path, header, tensors)).items():
            if not tensor.isfinite().all():
                raise ResnetError(f"{path}: {name} has what is no number; take another epoch.")
            sums[name] = sums[name] + tensor.double() if name in sums else tensor.double()
    means = {name: (one / len(prefixes)).float() for name, one in sums.items()}
    its = cast(Header, kept)
    names, kind = its.class_names, its.label_kind
    return Header(its.architecture, 0, its.resize, its.crop, names, label_kind=kind, tasks=its.tasks), means


def _refuse_other(first: Header, other: Header, first_name: str, name: str) -> Header:
    """The first header, with the other's class names where it has none."""
    refuse_other_classes(first, other, first_name, name)
    ours, theirs = ((one.architecture, one.crop, one.resize) for one in (first, other))
    if ours != theirs:
        raise ResnetError(
            f"{first_name} is {first.network} ({first.architecture}, crop {first.crop} of {first.resize}) and {name} "
            f"{other.network} ({other.architecture}, crop {other.crop} of {other.resize}); only networks of one "
            "architecture have an average."
        )
    return replace(first, class_names=first.class_names or other.class_names)


def _estimate(network: ResNet, header: Header, settings: AverageConfig) -> str:
    """Give the BatchNorms the statistics of a record's images, each image counting once; says on how many."""
    reader = not_empty(open_records(cast(Path, settings.rec)))
    for remark in reader.remarks:
        say(remark)
    count = min(len(reader), MOST_IMAGES)
    if count < LEAST_BATCH:
        raise ResnetError(
            f"{reader.path} holds {counted(count, 'image')}, too few for statistics; give a training record."
        )
    view = View(header.crop, 0 if stored_side(reader) == header.resize else header.resize)
    ordinals = np.linspace(0, len(reader) - 1, count).astype(np.int64)  # from all over: it may be sorted by class
    ordinals = np.random.default_rng(0).permutation(ordinals)
    # Equal parts, so that none has few images; the largest comes first, as the loader wants it.
    steps = np.array_split(ordinals, -(-count // max(LEAST_BATCH, settings.batch_size)))
    workers = settings.workers
    if workers == "auto":
        workers = usual_workers(1, computes=True) if count > WORTH_WORKERS else 0
    stream = contextlib.closing(batches(reader, steps, Viewed(view), view.slot, header.labels, Reading(workers)))
    device, seen = choose_device(settings.gpus, settings.device), 0
    norms = [module for module in network.to(device).train().modules() if isinstance(module, nn.BatchNorm2d)]
    with stream as coming, Progress("statistics", count) as progress, torch.no_grad():
        for batch in coming:
            images = batch.images[:, 0]
            seen += len(images)
            for norm in norms:
                norm.momentum = len(images) / seen  # so that the moving mean is the mean of all images
            network(array_to_input(np.ascontiguousarray(images), device))
            progress.update(len(images))
    if not all(bool(buffer.isfinite().all()) for buffer in network.buffers()):
        raise ResnetError(NO_NUMBER)
    return f"BatchNorm's statistics are those of {counted(seen, 'image')} of {reader.path}"
