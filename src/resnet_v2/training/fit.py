"""fit(): records in, checkpoints and two log files out, by one process or by many, stopped and resumed at will."""

import contextlib
import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from resnet_v2 import console
from resnet_v2.config.training import arguments_of
from resnet_v2.data.loader import Reading
from resnet_v2.data.record_set import RecordSet, not_empty, open_records
from resnet_v2.errors import ResnetError
from resnet_v2.logs.runlog import RunLog, has_ended
from resnet_v2.logs.tensorboard import open_writer
from resnet_v2.networks import weights
from resnet_v2.networks.header import Header
from resnet_v2.networks.resnet import ResNet, initialize
from resnet_v2.packing.origin import origin_of, sentence
from resnet_v2.recompute.budget import Workload, plan_for_training
from resnet_v2.recompute.malloc import keep_freed_memory
from resnet_v2.recompute.plan import Plan
from resnet_v2.recompute.tape import follow
from resnet_v2.training import early_stop, gpu, ownership, preflight
from resnet_v2.training.checkpoint import Start, tidy
from resnet_v2.training.class_weights import balanced, count_classes
from resnet_v2.training.distributed import choose_device, joined, launch, launched
from resnet_v2.training.epoch import Run, end_epoch, train_epoch, training_loader, validate
from resnet_v2.training.evaluation import Evaluation, restored
from resnet_v2.training.find_lr import find_learning_rate
from resnet_v2.training.interruption import Interruption
from resnet_v2.training.meter import Watch
from resnet_v2.training.optim import optimizer_of
from resnet_v2.training.photos import refuse_nothing
from resnet_v2.training.plan import RunPlan, decide, departures
from resnet_v2.training.profile import profiler
from resnet_v2.training.state import TrainState
from resnet_v2.training.step import Trainer
from resnet_v2.training.whitening import whiten_stem

TOLD_SECONDS = 600.0  # a run that takes so much longer says after every epoch how long


def fit(given: Mapping[str, Any], say: Callable[[str], object] = console.say) -> Evaluation | None:
    """Train by the settings that are given by name (see `TrainConfig`); all others are decided by `plan.decide`.

    `say` is called with sentences on what is odd and what was chosen, which name settings as errors do.
    Returns the evaluation after the last epoch, None after a dry run or other ranks' work. Writes checkpoints (see
    `checkpoint`), PREFIX.log and PREFIX.jsonl. Several ranks are started by torch's launcher, unless it has started
    this process. Raises ResnetError for whatever the user can mend, before the first step where that is possible, and
    Stopped when the run was told to stop and has saved where it is.
    """
    refuse_nothing(given)
    plan, start = decide(given)
    if plan.photos is not None and not launched():
        for name, reason in plan.photos.reasons.items():
            if plan.sources[name].startswith("photos"):
                say(reason)
        plan.photos.make(Header.of_epoch(plan.architecture, 0, image_size=plan.image_size).resize)
    if plan.processes > 1 and not launched():
        if _begins(plan, start):  # else a rank that is started again would take an earlier run for its own
            with ownership.owned(plan.prefix):
                training, validation = _open_records(plan)
                data = ownership.fingerprint([*training.values(), validation])
                ownership.make_room(plan.prefix, plan.first_epoch, plan.saved() | {"data": data}, say)
        launch(arguments_of(given), plan.processes, plan.config.devices.max_restarts)
        return None
    devices = plan.config.devices
    device = choose_device(devices.gpus, devices.device)
    with (
        joined(device) as ranks,
        Interruption() as interruption,
        contextlib.closing(RunLog.nowhere()) as log,
        ownership.owned(plan.prefix) if ranks.main and not plan.config.output.trial else contextlib.nullcontext(),
    ):
        trace = profiler(plan.prefix) if plan.config.output.profile and ranks.main else None
        run = Run(plan, start, ranks, device, interruption, log, Watch(plan.prefix, ranks), trace)
        result = _fit(run, say if ranks.main else lambda sentence: None)
    if plan.photos is not None and result is not None and ranks.main:
        say(plan.photos.next_steps(plan.prefix))
    return result


def _writes(plan: RunPlan) -> bool:
    return not plan.config.output.trial and plan.first_epoch < plan.epochs


def _begins(plan: RunPlan, start: Start | None) -> bool:
    """Whether it is no run that goes on from its own last state."""
    return _writes(plan) and (start is None or not start.resumed)


def _fit(run: Run, say: Callable[[str], object]) -> Evaluation | None:
    plan, start, ranks, device, config = run.plan, run.start, run.ranks, run.device, run.plan.config
    if start is not None and start.remark:
        say(start.remark)
    over_early = start is not None and start.resumed and _over_early(plan, start)
    if start is not None and (over_early or plan.first_epoch >= plan.epochs):
        evaluation = start.header.training["evaluation"]
        if evaluation is None:
            raise ResnetError(
                f"{start.path} is amid epoch {plan.first_epoch}, behind `epochs` {plan.epochs}; give more."
            )
        if ranks.main and not config.output.trial:
            _end_again(run, start)
        said = early_stop.sentence(config, plan.first_epoch, start.header.training["best"])
        end = plan.first_epoch if over_early else plan.epochs
        say(f"{plan.prefix} is at its end, epoch {end}." + (f" {said}" if said else ""))
        return restored(evaluation, plan.labels.choices)
    training, validation = _open_records(plan)
    readers = [*training.values(), validation]
    run = replace(run, data=_data_of(run, readers), origins=_origins_of(run, readers))
    if device.type == "cuda":
        gpu.set_numerics(config.devices.deterministic, config.devices.tf32)
    accumulate = config.optimisation.accumulate
    images = -(-plan.batch_size // (ranks.world_size * accumulate))
    saved = start.header.training.get("amp") if start is not None and start.resumed else None
    amp, reason = gpu.choose_precision(config.optimisation.amp, ranks, device, saved)
    work = gpu.workload(plan.architecture, images, config, device, amp)
    with gpu.own_stream(device), gpu.failures_told(work, device, config, ranks.local_world_size * accumulate):
        trainer, said = _trainer(run, work, amp, training[plan.records_of(plan.first_epoch)])
        if config.optimisation.class_weights == "balanced":
            # Of the records that are read last, so that a run that goes on finds them too.
            counts = count_classes(training[plan.records_of(plan.epochs - 1)], plan.labels, ranks.main)
            trainer = replace(trainer, class_weights=balanced(counts, plan.labels).to(device))
        state = TrainState(trainer, plan.first_epoch)
        if start is not None:
            state = TrainState.from_tensors(start, trainer, plan.first_epoch, ranks)
        findings = preflight.check(plan, trainer, [*training.values(), validation])
        if config.output.dry_run:
            loader = training_loader(run, state, training[plan.records_of(state.epoch)])
            position = state.epoch + state.step / loader.steps
            findings += preflight.timed(trainer, loader, plan.schedule.learning_rate(position))
        for sentence in (*departures(plan), reason, said, *findings):
            if sentence:
                say(sentence)
        if config.output.find_lr:
            find_learning_rate(run, state, training[plan.records_of(state.epoch)], say)
        if config.output.trial:
            return None
        if ranks.main and _begins(plan, start):
            ownership.make_room(plan.prefix, plan.first_epoch, run.saved(), say)
            state.best = None if start is None else ownership.best_so_far(plan.prefix, start)
        result = _train(run, state, training, validation, say)
        if plan.photos is None:  # which tell of more
            words = ["resnet-v2", "evaluate", "--prefix", plan.prefix, "--rec", str(validation.path)]
            say(f"next: {shlex.join(words)}")
        return result


def _over_early(plan: RunPlan, start: Start) -> bool:
    """Whether the run had come to an early end, and has with the settings of now."""
    return early_stop.was_over({**start.header.training, "settings": plan.settings()})


def _end_again(run: Run, start: Start) -> None:
    """What a run that was killed at its very end did not come to: old epochs go, and its log says that it finished."""
    tidy(run.plan.prefix, run.plan.first_epoch, run.plan.config.output.keep)
    if not has_ended(run.plan.prefix):
        with contextlib.closing(RunLog(run.plan.prefix, append=True, echo=console.echo)) as log:
            if clock := log.go_back(start.header.training["position"]):
                said = early_stop.sentence(run.plan.config, start.epoch, start.header.training["best"])
                log.finished(round(clock["seconds"], 3), round(clock["waited"] / (clock["seconds"] or 1), 4), said)


def _data_of(run: Run, readers: list[RecordSet]) -> dict[str, str]:
    """What the records of the run are known by, those among them that a run which goes on has behind it."""
    now, start = ownership.fingerprint(readers), run.start
    if start is None or not start.resumed:
        return now
    if not run.plan.config.output.force:
        ownership.check_data(start, now, run.plan.class_names)
    return {**start.header.training.get("data", {}), **now}


def _origins_of(run: Run, readers: list[RecordSet]) -> dict[str, str]:
    """Where the records of the run came from, as far as it is known, by their names."""
    before = run.start.header.training.get("origins", {}) if run.start is not None and run.start.resumed else {}
    now = {reader.name: sentence(origin_of(reader.readers[0].path)) for reader in readers}
    return before | {name: text for name, text in now.items() if text}


def _open_records(plan: RunPlan) -> tuple[dict[Path, RecordSet], RecordSet]:
    """The records that are left to read: one or more to train on, one to evaluate on."""
    validation = _open(plan.validation_records)
    wanted = {plan.records_of(epoch) for epoch in range(plan.first_epoch, plan.epochs)}
    return {path: _open(path, plan.config.data.num_examples) for path in sorted(wanted)}, validation


def _open(path: Path, images_needed: int = 0) -> RecordSet:
    reader = open_records(path)
    not_empty(reader)
    if len(reader) < images_needed:
        raise ResnetError(
            f"{path} holds {console.counted(len(reader), 'image')}, fewer than `num_examples` {images_needed}; leave "
            "it out to use them "
            "all."
        )
    return reader


def _trainer(run: Run, work: Workload, amp: str, reader: RecordSet) -> tuple[Trainer, str]:
    """The network on its device, with new or fine-tuned weights, and what moves it; and a sentence on how it runs."""
    plan, start, ranks, device, config = run.plan, run.start, run.ranks, run.device, run.plan.config
    activations = _activation_plan(plan, device, work)
    network = follow(ResNet(plan.architecture, 1 - config.network.bn_mom), activations)
    network = initialize(network, config.optimisation.seed, config.network.zero_init_residual)
    if config.network.whiten_stem and start is None:
        reading = Reading(0, config.data.max_pixels, config.data.fast_decode, run.on_skip())
        whiten_stem(network, reader, plan.image_size, plan.labels, reading)
    if config.network.finetune and start is None:
        path, header, tensors = weights.read_checkpoint(config.network.finetune)
        weights.fill_body(path, network, header, tensors)
    channels_last = config.devices.memory_format == "channels-last"
    layout = torch.channels_last if channels_last else torch.contiguous_format
    network = network.to(device=device, memory_format=layout)  # type: ignore[call-overload]
    images = -(-plan.batch_size // ranks.world_size)
    graph, said = gpu.choose_graph(work, images, config, ranks, device, planned=activations is not None)
    optimizer = optimizer_of(network, plan.schedule.base, config.optimisation)
    return gpu.with_graph(Trainer.of(network, optimizer, config, ranks, device, amp), graph), said


def _activation_plan(plan: RunPlan, device: torch.device, work: Workload) -> Plan | None:
    memory = plan.config.memory
    if memory.planned:
        return plan_for_training(work, device, memory.budget_bytes)
    if device.type == "cpu":
        keep_freed_memory()
    return None


def _train(
    run: Run,
    state: TrainState,
    training: Mapping[Path, RecordSet],
    validation: RecordSet,
    say: Callable[[str], object],
) -> Evaluation:
    """All epochs that are left."""
    if run.ranks.main:
        run = replace(run, log=_open_log(run, state))
    try:
        if run.start is None or not run.start.resumed:
            run.log.start(run.plan.settings(), str(run.device))
        with run.profiler or contextlib.nullcontext():
            while True:
                begun, whole = time.monotonic(), not (state.step or state.trained)
                if not state.trained:
                    train_epoch(run, state, training[run.plan.records_of(state.epoch)])
                result = validate(run, state, validation)
                end_epoch(run, state, result)
                seconds_left = (run.plan.epochs - state.epoch) * (time.monotonic() - begun)
                if whole and seconds_left >= TOLD_SECONDS:
                    epochs = console.counted(run.plan.epochs - state.epoch, "epoch")
                    say(f"{epochs} left, about {console.lasting(seconds_left)}")
                if state.epoch == run.plan.epochs or early_stop.is_over(run.plan.config, state.epoch, state.best):
                    # A rank that keeps no log, and a run whose log was lost, may know of no time.
                    share = state.waited / state.seconds if state.seconds else 0.0
                    said = early_stop.sentence(run.plan.config, state.epoch, state.best)
                    run.log.finished(round(state.seconds, 3), round(share, 4), said)
                    return result
    finally:
        run.log.close()


def _open_log(run: Run, state: TrainState) -> RunLog:
    """The log files, which rank 0 writes. A run that goes on takes its times from there."""
    prefix, start = run.plan.prefix, run.start
    listener = open_writer(prefix, append=start is not None) if run.plan.config.output.tensorboard else None
    log = RunLog(prefix, append=start is not None, echo=console.echo, listener=listener)
    if start is not None and start.resumed:
        training = start.header.training
        if "log" in training:  # of the first version of checkpoints
            log.cut(training["log"])
            meters = {name: states[0] for name, states in training["meters"].items()}
            seconds, waited = training["spent"]
            state.set_clock({"seconds": seconds, "waited": waited, **meters})
        elif clock := log.go_back(training["position"]):
            state.set_clock(clock)
    return log
