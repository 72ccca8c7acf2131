"""What is looked at before the first step: data, disk and time, so that a run does not fail in its third night."""

import itertools
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from resnet_v2.console import agreeing, counted
from resnet_v2.data.filling import Augmented, Job
from resnet_v2.data.kept import kept_for
from resnet_v2.data.labels import Labels, several_labels
from resnet_v2.data.lists import is_sorted_by_class
from resnet_v2.data.loader import BATCHES_AHEAD, Loader, Reading, stored_side
from resnet_v2.data.record_set import RecordSet, SetRows
from resnet_v2.data.records import class_label
from resnet_v2.data.ring import Layout
from resnet_v2.data.rows import find_segments
from resnet_v2.data.sidecar import sidecar_path
from resnet_v2.errors import ResnetError
from resnet_v2.machine import processors
from resnet_v2.networks.header import Header
from resnet_v2.training import class_weights
from resnet_v2.training.feed import feed
from resnet_v2.training.plan import RunPlan
from resnet_v2.training.step import Trainer

LABELS_READ, LABELS_SHOWN = 2000, 8
BYTES_PER_PARAMETER = 8  # a weight and its momentum
TIMED_STEPS = 3


def check(plan: RunPlan, trainer: Trainer, readers: Sequence[RecordSet]) -> list[str]:
    """One sentence for everything that is odd; a ResnetError for what would stop the run."""
    findings = []
    for reader in readers:
        findings += reader.remarks + _check_record(reader, plan.labels)
    header = Header.of_epoch(plan.architecture, 0, image_size=plan.image_size)
    if found := header.stored_otherwise(stored_side(readers[-1])):
        findings.append(f"warning: {readers[-1].path} {found}; pack it with `resize` {header.resize}.")
    if plan.config.optimisation.class_weights == "none":
        for reader in readers[:-1]:
            findings += class_weights.offer(reader, plan.labels, plan.class_names)
    if plan.config.augmentation.mixes:
        findings.append("images are mixed: of each the class with the larger share counts for Train-accuracy")
    findings += _check_disk(plan, trainer)
    findings += _tell_of_memory(plan, readers[0])
    cores, workers = processors(), plan.workers
    if workers > cores:
        findings.append(
            f"warning: `workers` {workers} on {counted(cores, 'core')}; more workers than cores gain nothing"
        )
    return findings


def _check_record(reader: RecordSet, wanted: Labels) -> list[str]:
    count = len(reader)
    some = np.unique(np.linspace(0, count - 1, min(count, LABELS_READ)).astype(np.int64)).tolist()
    places = [reader.place(ordinal) for ordinal in some]
    headers = [(its.path, number, its.image(number)[0]) for its, number in places]
    if wanted.width:
        labels = np.array([several_labels(*header, wanted) for header in headers])
    else:
        labels = np.array([class_label(*header, wanted.classes) for header in headers])
    findings = []
    if most := max(0 if wanted.width else np.size(header.label) - 1 for *_, header in headers):
        findings.append(f"{reader.path} has up to {most + 1} labels a record, of which `labels` class takes the first")
    if len(labels) > 1 and (labels == labels[0]).all():
        same = ", ".join(f"{label:g}" for label in np.ravel(labels[0])[:LABELS_SHOWN])
        findings.append(f"warning: all images of {reader.path} have the label {same}; is the list right?")
    elif not wanted.width and is_sorted_by_class(labels) and "val" not in reader.path.stem:
        findings.append(f"{reader.path} is sorted by class: no harm here, where every epoch is shuffled as a whole")
    SetRows(reader)  # a ResnetError when one belongs to another state of its record
    without = [one.path for one in reader.readers if not sidecar_path(one.path).is_file()]
    if without and find_segments(reader.image(0)[1]).size:
        findings.append(f"{sidecar_path(without[0])} is missing; `resnet-v2 index {without[0]}` makes loading faster")
    return findings


def _tell_of_memory(plan: RunPlan, reader: RecordSet) -> list[str]:
    """What of the memory the loader takes, where that is remarkable."""
    sharers = plan.processes
    job = Job(reader.path, Augmented(plan.augmentation(plan.first_epoch), 0, 0), plan.labels, 0, False)
    images = kept_for(job, reader, sharers)
    if images is not None:
        count, height, width, _ = images.pixels.shape
        mebibytes = _mebibytes(images.pixels.nbytes)
        return [
            f"{counted(count, 'image')} of {width}x{height} {agreeing(count, 'is', 'are')} decoded once and kept: "
            f"{mebibytes} for each rank"
        ]
    rows, size = -(-plan.batch_size // max(1, sharers)), plan.image_size
    shape = (size, size, 3)
    slots = Reading(sharers=sharers).slots(rows, shape)
    if slots > BATCHES_AHEAD:
        return []
    mebibytes = _mebibytes(Layout(slots, rows, shape).bytes)
    return [
        f"warning: memory is short, so only {slots} {agreeing(slots, 'batch', 'batches')} of "
        f"{counted(rows, 'image')} {agreeing(slots, 'is', 'are')} made ahead ({mebibytes}); "
        "give a smaller `batch_size` where the network waits for data"
    ]


def _check_disk(plan: RunPlan, trainer: Trainer) -> list[str]:
    folder = next(path for path in Path(plan.prefix).absolute().parents if path.is_dir())
    parameters = sum(parameter.numel() for parameter in trainer.network.parameters())
    one = BYTES_PER_PARAMETER * parameters + (4 * parameters if trainer.averaged is not None else 0)
    free = shutil.disk_usage(folder).free
    if free < 2 * one:
        raise ResnetError(
            f"{folder} has {_mebibytes(free)} free, but a checkpoint takes {_mebibytes(one)} and the old one "
            "stays until the new one is written; free some space or give another `model_prefix`."
        )
    files = (plan.config.output.keep or plan.epochs - plan.first_epoch) + 3
    if free < files * one:
        return [
            f"warning: {folder} has {free / 2**30:.1f} GiB free, but the checkpoints of all epochs take "
            f"{files * one / 2**30:.1f}; `keep` 3 keeps the last three"
        ]
    return []


def timed(trainer: Trainer, loader: Loader, learning_rate: float) -> list[str]:
    """Make three steps for the clock alone, and say how long an epoch will take and where the schedule is."""
    network, device = trainer.network, trainer.device
    parameters = sum(parameter.numel() for parameter in network.parameters())
    started, seconds = time.perf_counter(), []
    for number, fed in enumerate(itertools.islice(feed(iter(loader), device), TIMED_STEPS)):
        trainer.step(fed.images, fed.labels, loader.images_of(number), 0.0).tolist()
        seconds.append(time.perf_counter() - started)
        started = time.perf_counter()
    step = min(seconds)  # the first ones prepare memory and kernels
    return [
        f"{network.architecture.stem} ResNet-{network.architecture.depth} {network.architecture.version}, "
        f"{counted(network.architecture.classes, 'class')}{_several(trainer.labels)}, {parameters / 1e6:.2f} million "
        "parameters, "
        f"on {device}",
        f"{counted(loader.images, 'image')} per epoch in {counted(loader.steps, 'step')}; {step:.2f} s per step, about "
        f"{_duration(step * loader.steps)} per epoch",
        f"learning rate {learning_rate:g} at this point of the schedule",
        "nothing stands in the way",
    ]


def _several(labels: Labels) -> str:
    return "" if labels.kind == "class" else f" (`labels` {labels})"


def _mebibytes(size: int) -> str:
    return "less than 1 MiB" if size < 2**20 else f"{size / 2**20:.0f} MiB"


def _duration(seconds: float) -> str:
    hours, minutes = int(seconds // 3600), int(seconds % 3600 // 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds % 60:.0f} s" if minutes else f"{seconds:.0f} s"
