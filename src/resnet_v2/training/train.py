"""fit(): records in, a checkpoint after every epoch and two log files out."""

import dataclasses
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tqdm import tqdm

from resnet_v2.config import TrainConfig
from resnet_v2.data.loader import Batch, augmented, batches, epoch_order
from resnet_v2.data.records import RecordReader
from resnet_v2.files import ResnetError
from resnet_v2.logs.runlog import RunLog
from resnet_v2.networks import weights
from resnet_v2.networks.resnet import ResNet, initialize
from resnet_v2.networks.weights import Header
from resnet_v2.training import checkpoint
from resnet_v2.training.distributed import choose_device
from resnet_v2.training.evaluate import Evaluation, evaluate, to_input
from resnet_v2.training.optim import Schedule, nesterov_sgd
from resnet_v2.training.settings import RunSettings, resolve


@dataclass(frozen=True)
class Run:
    """What stays the same through the epochs."""

    config: TrainConfig
    settings: RunSettings
    device: torch.device
    network: ResNet
    optimizer: torch.optim.SGD
    schedule: Schedule
    log: RunLog


def fit(config: TrainConfig) -> Evaluation:
    """Train as the config says; returns the evaluation after the last epoch.

    Writes PREFIX-NNNN.safetensors after every epoch, PREFIX.log and PREFIX.jsonl. Raises ResnetError for whatever the
    user can mend, before the first step where that is possible.
    """
    settings = resolve(config)
    device = choose_device(config.gpus, config.device)
    epochs = range(settings.start_epoch, settings.epochs)
    validation = _open(settings.validation_records)
    readers = {path: _open(path, config.num_examples) for path in {settings.records_of(epoch) for epoch in epochs}}

    start = checkpoint.find(settings.prefix, settings.start_epoch) if config.retrain else None
    schedule, weight_decay = _schedule(config, settings, start)
    network = initialize(ResNet(settings.architecture, 1 - config.bn_mom, recompute=config.memonger), config.seed)
    if config.finetune:
        path, header, tensors = weights.read_checkpoint(config.finetune)
        weights.fill_body(path, network, header, tensors)
    network = network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = nesterov_sgd(network, schedule.base, config.mom, weight_decay)
    if start is not None:
        checkpoint.restore(start, network, optimizer)

    log = RunLog(settings.prefix, append=config.retrain, echo=tqdm.write)
    run = Run(config, settings, device, network, optimizer, schedule, log)
    try:
        log.start(_settings_to_save(run), str(device))
        for epoch in epochs:
            train_epoch(run, epoch, readers[settings.records_of(epoch)])
            result = evaluate(network, validation, size=settings.architecture.image_size,
                              batch_size=settings.batch_size, device=device, threads=config.threads)  # fmt: skip
            log.validated(epoch, **dataclasses.asdict(result))
            log.saved(checkpoint.save(settings.prefix, network, optimizer, _header(run, epoch + 1, result)))
        return result
    finally:
        log.close()


def train_epoch(run: Run, epoch: int, reader: RecordReader) -> None:
    """One pass over a record in the epoch's order, with a log line every `--frequent` batches and one at the end."""
    run.network.train()
    count = run.config.num_examples or len(reader)
    steps = math.ceil(count / run.settings.batch_size)
    whole, recent = Meter(run.device), Meter(run.device)
    with tqdm(total=count, desc=f"epoch {epoch + 1}/{run.settings.epochs}", unit="img", leave=False, disable=None,
              mininterval=0.5) as progress:  # fmt: skip
        for step, (batch, waited) in enumerate(_timed(_batches(run, epoch, reader, count))):
            learning_rate = run.schedule.learning_rate(epoch + (step + 0.5) / steps)
            loss, correct = train_step(run, batch, learning_rate)
            for meter in (whole, recent):
                meter.add(loss, correct, len(batch.labels), waited)
            progress.update(len(batch.labels))
            if (step + 1) % run.config.frequent == 0:
                measured = _checked(recent.read(), run, epoch, step)
                progress.set_postfix_str(f"loss {measured['loss']:.3f}, waiting for data {measured['data_wait']:.1%}")
                run.log.batch(epoch, step + 1, learning_rate=learning_rate, **measured)
                recent = Meter(run.device)
    measured = _checked(whole.read(), run, epoch, steps - 1)
    run.log.trained(epoch, learning_rate=learning_rate, **measured)


def train_step(run: Run, batch: Batch, learning_rate: float) -> tuple[torch.Tensor, torch.Tensor]:
    """One update; returns the batch's mean loss and its count of right answers, both still on the device."""
    labels = torch.from_numpy(batch.labels).to(run.device, non_blocking=True)
    logits = run.network(to_input(batch.images, run.device))
    loss = F.cross_entropy(logits, labels, label_smoothing=run.config.label_smoothing)
    run.optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    for group in run.optimizer.param_groups:
        group["lr"] = learning_rate
    run.optimizer.step()
    return loss.detach(), (logits.detach().argmax(1) == labels).sum()


class Meter:
    """Sums over some steps; they stay on the device until they are read, so that no step waits for them."""

    def __init__(self, device: torch.device) -> None:
        self.loss = torch.zeros((), dtype=torch.float32, device=device)
        self.correct = torch.zeros((), dtype=torch.int64, device=device)
        self.images, self.waited, self.started = 0, 0.0, time.perf_counter()

    def add(self, loss: torch.Tensor, correct: torch.Tensor, images: int, waited: float) -> None:
        """Count a step of `images` images that waited `waited` seconds for its data."""
        self.loss += loss * images
        self.correct += correct
        self.images += images
        self.waited += waited

    def read(self) -> dict[str, float]:
        """Mean loss, accuracy (a share), seconds, images per second, and the share of time spent waiting for data."""
        loss, correct = self.loss.item() / self.images, int(self.correct) / self.images
        seconds = time.perf_counter() - self.started
        return {
            "loss": loss,
            "accuracy": correct,
            "seconds": round(seconds, 3),
            "samples_per_second": round(self.images / seconds, 2),
            "data_wait": round(self.waited / seconds, 4),
        }


def _open(path: Path, images_needed: int = 0) -> RecordReader:
    reader = RecordReader(path)
    if not len(reader):
        raise ResnetError(f"{path} holds no records; pack it again.")
    if len(reader) < images_needed:
        raise ResnetError(
            f"{path} holds {len(reader)} images, fewer than --num-examples {images_needed}; leave the flag out to use "
            "them all."
        )
    return reader


def _schedule(config: TrainConfig, settings: RunSettings, start: checkpoint.Start | None) -> tuple[Schedule, float]:
    """The schedule and the weight decay: what a flag says, else what the checkpoint says, else 0.1 and 0.0001."""
    base, weight_decay = 0.1 if config.lr is None else config.lr, 0.0001
    if start is not None:
        base, weight_decay = start.setting("learning_rate", base), start.setting("weight_decay", weight_decay)
    schedule = Schedule(base, settings.epochs, config.schedule, settings.milestones, config.warmup_epochs)
    if start is not None and config.lr is not None:
        schedule = schedule.through(config.lr, settings.start_epoch)
    return schedule, weight_decay if config.wd is None else config.wd


def _batches(run: Run, epoch: int, reader: RecordReader, count: int) -> Iterator[Batch]:
    seed, architecture = run.config.seed, run.settings.architecture
    return batches(
        reader,
        epoch_order(len(reader), seed, epoch)[:count],
        augmented(run.settings.augmentation(epoch), seed, epoch),
        batch_size=run.settings.batch_size,
        size=architecture.image_size,
        classes=architecture.classes,
        threads=run.config.threads,
        max_pixels=run.config.max_pixels,
        on_skip=run.log.skipped if run.config.on_error == "skip" else None,
    )


def _timed(stream: Iterator[Batch]) -> Iterator[tuple[Batch, float]]:
    """The batches, each with the seconds that were spent waiting for it."""
    while True:
        begun = time.perf_counter()
        batch = next(stream, None)
        if batch is None:
            return
        yield batch, time.perf_counter() - begun


def _checked(measured: dict[str, float], run: Run, epoch: int, step: int) -> dict[str, float]:
    if not math.isfinite(measured["loss"]):
        raise ResnetError(
            f"The loss is {measured['loss']} in epoch {epoch}, by batch {step + 1}: the run has diverged; start again "
            f"with a lower --lr, or with --retrain from an earlier checkpoint of {run.settings.prefix}."
        )
    return measured


def _header(run: Run, epoch: int, result: Evaluation) -> Header:
    return dataclasses.replace(
        Header.of_epoch(run.settings.architecture, epoch, run.settings.class_names),
        errors={"top1_error": result.top1_error, "top5_error": result.top5_error},
        training={
            "learning_rate": run.schedule.base,
            "weight_decay": run.optimizer.param_groups[0]["weight_decay"],
            "settings": _settings_to_save(run),
        },
    )


def _settings_to_save(run: Run) -> dict[str, Any]:
    """The flags and what became of them, as JSON can hold it; the class names have their own place in the header."""
    fields = dataclasses.asdict(run.config) | dataclasses.asdict(run.settings)
    del fields["class_names"]
    return {name: str(value) if isinstance(value, Path) else value for name, value in fields.items()}
