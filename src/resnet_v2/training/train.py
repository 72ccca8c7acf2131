"""fit(): records in, checkpoints and two log files out, by one process or by many, stopped and resumed at will."""

import dataclasses
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from resnet_v2.config import TrainConfig, arguments_of
from resnet_v2.data.loader import Loader, Reading
from resnet_v2.data.records import RecordReader
from resnet_v2.errors import ResnetError
from resnet_v2.interchange import weights
from resnet_v2.interchange.finding import checkpoint_path
from resnet_v2.logs.runlog import RunLog
from resnet_v2.networks.resnet import ResNet, initialize
from resnet_v2.recompute.budget import Workload, plan_for_training
from resnet_v2.recompute.malloc import keep_freed_memory
from resnet_v2.recompute.plan import Plan
from resnet_v2.recompute.tape import follow
from resnet_v2.training import checkpoint, gpu, preflight
from resnet_v2.training.checkpoint import Start
from resnet_v2.training.distributed import Ranks, choose_device, joined, launch, launched, restarted, wanted_processes
from resnet_v2.training.evaluate import Evaluation, evaluate
from resnet_v2.training.feed import IdleClock, allocator, feed
from resnet_v2.training.interruption import Interruption, Stopped
from resnet_v2.training.meter import Meter, Watch
from resnet_v2.training.optim import Schedule, muon, nesterov_sgd
from resnet_v2.training.profile import Profiler
from resnet_v2.training.settings import RunSettings, resolve
from resnet_v2.training.state import (
    Progress,
    Run,
    find_start,
    open_log,
    progress_of,
    save,
    save_latest,
    saved_evaluation,
    schedule_of,
)
from resnet_v2.training.step import Trainer


def fit(config: TrainConfig) -> Evaluation | None:
    """Train as the config says; returns the evaluation after the last epoch, None after a dry run or other ranks' work.

    Writes checkpoints (see `checkpoint`), PREFIX.log and PREFIX.jsonl. Several ranks are started by torch's launcher,
    unless it has started this process. Raises ResnetError for whatever the user can mend, before the first step where
    that is possible, and Stopped when the run was told to stop and has saved where it is.
    """
    processes = wanted_processes(config.gpus, config.device, config.nproc)
    if processes > 1 and not launched():
        settings = resolve(config)  # so that what is wrong with the flags is said once
        find_start(config, settings)
        launch(arguments_of(config), processes, config.max_restarts)
        return None
    if restarted():
        config = dataclasses.replace(config, resume="auto")
    device = choose_device(config.gpus, config.device)
    with joined(device, config.kv_store) as ranks, Interruption() as interruption:
        return _fit(config, ranks, device, interruption)


def _fit(config: TrainConfig, ranks: Ranks, device: torch.device, interruption: Interruption) -> Evaluation | None:
    settings = resolve(config)
    settings = dataclasses.replace(settings, batch_size=settings.batch_size * ranks.machines)
    start = find_start(config, settings)
    first_epoch = settings.start_epoch if start is None or not start.resumed else start.epoch
    if first_epoch >= settings.epochs:
        print(f"{settings.prefix} is at its end, epoch {settings.epochs}.", file=sys.stderr)
        return saved_evaluation(settings.prefix)
    validation = _open(settings.validation_records)
    wanted = {settings.records_of(epoch) for epoch in range(first_epoch, settings.epochs)}
    readers = {path: _open(path, config.num_examples) for path in wanted}
    if device.type == "cuda":
        gpu.set_numerics(config.deterministic, config.tf32)
    images = -(-settings.batch_size // (ranks.world_size * config.accumulate))
    work = gpu.workload(settings.architecture, images, config, device)
    parts = ranks.local_world_size * config.accumulate
    with gpu.own_stream(device), gpu.failures_told(work, device, config, parts):
        schedule, weight_decay = schedule_of(config, settings, start)
        trainer = _trainer(config, settings, ranks, device, start, schedule.base, weight_decay, work)
        progress = Progress(first_epoch, Meter(device), Meter(device))
        if start is not None:
            checkpoint.restore(start, trainer)
            progress = progress_of(start, ranks, device) if start.resumed else progress
        if _preflight(config, settings, trainer, [*readers.values(), validation], progress, schedule):
            return None
        log = open_log(settings.prefix, ranks, start, tqdm.write, config.tensorboard)
        run = Run(config, settings, ranks, interruption, trainer, schedule, weight_decay, log,
                  Watch(settings.prefix, ranks), Profiler(settings.prefix, config.profile and ranks.main))  # fmt: skip
        try:
            if start is None or not start.resumed:
                log.start(_all_settings(config, settings), str(device))
            with run.profiler:
                return _train(run, progress, readers, validation)
        finally:
            log.close()


def _trainer(
    config: TrainConfig, settings: RunSettings, ranks: Ranks, device: torch.device, start: Start | None,
    learning_rate: float, weight_decay: float, work: Workload,
) -> Trainer:  # fmt: skip
    """The network on its device, with new or fine-tuned weights, and what moves it."""
    plan = _plan(config, ranks, device, work)
    network = follow(ResNet(settings.architecture, 1 - config.bn_mom), plan)
    network = initialize(network, config.seed, config.zero_init_residual)
    if config.finetune and start is None:
        path, header, tensors = weights.read_checkpoint(config.finetune)
        weights.fill_body(path, network, header, tensors)
    memory_format = torch.channels_last if config.memory_format == "channels-last" else torch.contiguous_format
    network = network.to(device=device, memory_format=memory_format)  # type: ignore[call-overload]
    saved = start.header.training.get("amp") if start is not None and start.resumed else None
    images = -(-settings.batch_size // ranks.world_size)
    graph, said = gpu.choose_graph(work, images, config, ranks, device, planned=plan is not None)
    precision = gpu.choose_precision(network, work.batch_size, config, ranks, device, saved)
    make_optimizer = muon if config.optimizer == "muon" else nesterov_sgd
    optimizer = make_optimizer(network, learning_rate, config.mom, weight_decay)
    for sentence in (precision.reason, said):
        if sentence and ranks.main:
            print(sentence, file=sys.stderr)
    return gpu.with_graph(Trainer.of(network, optimizer, config, ranks, device, precision.amp), graph)


def _preflight(
    config: TrainConfig, settings: RunSettings, trainer: Trainer, readers: Sequence[RecordReader], progress: Progress,
    schedule: Schedule,
) -> bool:  # fmt: skip
    """Say what is odd before the first step; whether that was all, as in a dry run."""
    findings = preflight.check(settings, trainer, readers, config)
    if config.dry_run:
        reader = next(one for one in readers if one.path == settings.records_of(progress.epoch))
        loader = _loader(config, settings, trainer.ranks, trainer.device, progress, reader, None)
        position = progress.epoch + progress.step / loader.steps
        findings += preflight.timed(trainer, loader, schedule.learning_rate(position))
    if trainer.ranks.main:
        print("".join(f"{finding}\n" for finding in findings), end="", file=sys.stderr)
    return config.dry_run


def _train(run: Run, progress: Progress, readers: Mapping[Path, RecordReader], validation: RecordReader) -> Evaluation:
    """All epochs that are left: training, validation, checkpoint."""
    while True:
        if not progress.trained:
            train_epoch(run, progress, readers[run.settings.records_of(progress.epoch)])
        try:
            result = _validate(run, validation)
        except Stopped as stopped:
            save_latest(run, progress)
            raise stopped from None
        run.log.validated(progress.epoch, **dataclasses.asdict(result))
        _end_epoch(run, progress, result)
        if progress.epoch == run.settings.epochs:
            run.log.finished(round(progress.seconds, 3), round(progress.waited / progress.seconds, 4))
            return result


def train_epoch(run: Run, progress: Progress, reader: RecordReader) -> None:
    """What is left of a pass over a record in the epoch's order, with log lines every `--frequent` batches and at the
    end.
    """
    config, epoch, device = run.config, progress.epoch, run.trainer.device
    loader = _loader(config, run.settings, run.ranks, device, progress, reader, run.log)
    run.trainer.model.train()
    clock = IdleClock(device)
    seen = min(progress.step * run.settings.batch_size, loader.images)
    with tqdm(total=loader.images, initial=seen, desc=f"epoch {epoch + 1}/{run.settings.epochs}", unit="img",
              leave=False, disable=None if run.ranks.main else True, mininterval=0.5) as bar:  # fmt: skip
        for fed in feed(iter(loader), device, loader.state_dict):
            progress.step, progress.loader = fed.place["step"], fed.place
            images = loader.images_of(progress.step - 1)
            learning_rate = run.schedule.learning_rate(epoch + (progress.step - 0.5) / loader.steps)
            clock.step_begins()
            result = run.trainer.step(fed.images, fed.labels, images, learning_rate)
            clock.step_ends()
            run.watch.add(progress.step, fed.ordinals, result)
            for meter in (progress.whole, progress.recent):
                meter.add(result, len(fed.labels), fed.waited)
            run.profiler.step()
            bar.update(images)
            if progress.step % config.frequent == 0:
                run.watch.check(epoch)
                _count_idle(progress, clock)
                measured = progress.recent.read(run.ranks)
                progress.recent = Meter(device)
                bar.set_postfix_str(f"loss {measured['loss']:.3f}, waiting for data {measured['data_wait']:.1%}")
                run.log.batch(epoch, progress.step, learning_rate=learning_rate, **measured)
            if run.stopping():
                _count_idle(progress, clock)
                save_latest(run, progress)
                raise Stopped(run.interruption.received or 0)
            if config.checkpoint_steps and progress.step % config.checkpoint_steps == 0 < loader.steps - progress.step:
                _count_idle(progress, clock)
                save_latest(run, progress)
    _count_idle(progress, clock)
    run.watch.check(epoch)
    measured = progress.whole.read(run.ranks)
    learning_rate = run.schedule.learning_rate(epoch + (loader.steps - 0.5) / loader.steps)
    run.log.trained(epoch, learning_rate=learning_rate, **measured)
    progress.seconds += measured["seconds"]
    progress.waited += progress.whole.waited
    progress.trained = True


def _count_idle(progress: Progress, clock: IdleClock) -> None:
    idle = clock.seconds()
    for meter in (progress.whole, progress.recent):
        meter.idle += idle


def _validate(run: Run, validation: RecordReader) -> Evaluation:
    def stop_when_told() -> None:
        if run.stopping():
            raise Stopped(run.interruption.received or 0)

    network = run.trainer.evaluated
    run.ranks.share_buffers(network)
    return evaluate(network, validation, size=run.settings.architecture.image_size, batch_size=run.settings.batch_size,
                    device=run.trainer.device, threads=_threads(run.config, run.ranks), ranks=run.ranks,
                    on_batch=stop_when_told)  # fmt: skip


def _end_epoch(run: Run, progress: Progress, result: Evaluation) -> None:
    """Go to the next epoch and write the checkpoint of this one, which is also the latest and may be the best."""
    prefix = run.settings.prefix
    progress.epoch, progress.step, progress.trained, progress.loader = progress.epoch + 1, 0, False, {}
    improved = progress.best is None or result.top1_error < progress.best[0]
    if improved:
        progress.best = (result.top1_error, progress.epoch)
    progress.whole, progress.recent = Meter(run.trainer.device), Meter(run.trainer.device)
    path = checkpoint_path(prefix, progress.epoch)
    run.log.saved(path)  # before it is, so that the place in the log that it remembers is behind this line
    save(run, progress, path, result)
    if run.ranks.main:
        checkpoint.name_also(path, checkpoint.latest_path(prefix))
        if improved:
            checkpoint.name_also(path, checkpoint.best_path(prefix))
        checkpoint.tidy(prefix, progress.epoch, run.config.keep)


def _all_settings(config: TrainConfig, settings: RunSettings) -> dict[str, Any]:
    """The flags and what became of them, as JSON can hold it; the class names have their own place in the header."""
    fields = checkpoint.settings_of(config) | dataclasses.asdict(settings)
    del fields["class_names"]
    return {name: str(value) if isinstance(value, Path) else value for name, value in fields.items()}


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


def _plan(config: TrainConfig, ranks: Ranks, device: torch.device, work: Workload) -> Plan | None:
    if not (config.memonger or config.memory_budget):
        if device.type == "cpu":
            keep_freed_memory()
        return None
    if config.sync_bn and ranks.world_size > 1:
        raise ResnetError("--sync-bn and an activation plan do not go together; leave one of them out.")
    return plan_for_training(work, device, config.memory_budget)


def _threads(config: TrainConfig, ranks: Ranks) -> int:
    return config.threads or max(1, (os.cpu_count() or 1) // ranks.local_world_size)


def _loader(
    config: TrainConfig, settings: RunSettings, ranks: Ranks, device: torch.device, progress: Progress,
    reader: RecordReader, log: RunLog | None,
) -> Loader:  # fmt: skip
    """The training batches of an epoch, from where the run is."""
    skip = None
    if config.on_error == "skip":
        skip = log.skipped if log is not None and ranks.main else lambda sentence: print(sentence, file=sys.stderr)
    reading = Reading(_threads(config, ranks), config.max_pixels, config.fast_decode, skip, allocator(device))
    loader = Loader(
        reader,
        settings.augmentation(progress.epoch),
        seed=config.seed,
        batch_size=settings.batch_size,
        classes=settings.architecture.classes,
        epoch=progress.epoch,
        count=config.num_examples,
        rank=ranks.rank,
        world_size=ranks.world_size,
        reading=reading,
    )
    if progress.loader:
        loader.load_state_dict(progress.loader)
    return loader
