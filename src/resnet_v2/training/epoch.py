"""An epoch: steps, log lines and savings, then validation and the checkpoint."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from resnet_v2.console import Progress, say
from resnet_v2.data.accounts import Account, spent
from resnet_v2.data.left_out import LeftOut
from resnet_v2.data.loader import Loader, Reading
from resnet_v2.data.record_set import Records
from resnet_v2.errors import DamagedError, ResnetError
from resnet_v2.logs.runlog import RunLog
from resnet_v2.networks import weights
from resnet_v2.networks.finding import checkpoint_path
from resnet_v2.networks.header import Header
from resnet_v2.training import checkpoint
from resnet_v2.training.checkpoint import Start
from resnet_v2.training.distributed import Ranks
from resnet_v2.training.evaluate import evaluate
from resnet_v2.training.evaluation import Evaluation, saved
from resnet_v2.training.feed import Fed, IdleClock, feed, pin_for
from resnet_v2.training.interruption import Interruption, Stopped
from resnet_v2.training.meter import Meter, Watch
from resnet_v2.training.mixing import kept_together, mixed
from resnet_v2.training.plan import RunPlan
from resnet_v2.training.state import TrainState


@dataclass(frozen=True)
class Run:
    """What stays the same through the epochs.

    `start`: the checkpoint that the run goes on from, if any; `data`: what its records are known by; `origins`: what
    their `.rows` tell of where they came from.
    """

    plan: RunPlan
    start: Start | None
    ranks: Ranks
    device: torch.device
    interruption: Interruption
    log: RunLog
    watch: Watch
    profiler: torch.profiler.profile | None
    data: Mapping[str, str] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)

    def stopping(self) -> bool:
        """Whether a rank was told to stop; every rank has to ask."""
        return self.ranks.any(self.interruption.received is not None)

    def on_skip(self) -> Callable[[str], object] | None:
        """What is called with a sentence on a record that is skipped; None where none is."""
        if self.plan.config.data.on_error != "skip":
            return None
        return self.log.skipped if self.ranks.main else say

    def saved(self) -> dict[str, Any]:
        """What every checkpoint tells of the run."""
        origins = {"origins": dict(self.origins)} if self.origins else {}
        return self.plan.saved() | {"data": dict(self.data)} | origins


def training_loader(run: Run, state: TrainState, reader: Records) -> Loader:
    """The training batches of an epoch, from where the run is."""
    plan, ranks, data = run.plan, run.ranks, run.plan.config.data
    skip = run.on_skip()
    loader = Loader(
        reader,
        plan.augmentation(state.epoch),
        seed=plan.config.optimisation.seed,
        batch_size=plan.batch_size,
        classes=plan.labels,
        epoch=state.epoch,
        count=data.num_examples,
        rank=ranks.rank,
        world_size=ranks.world_size,
        reading=Reading(
            plan.workers, data.max_pixels, data.fast_decode, skip, pin_for(run.device), ranks.local_world_size
        ),
        together=kept_together(plan.config),
    )
    if state.loader:
        loader.load_state_dict(state.loader)
    return loader


def train_epoch(run: Run, state: TrainState, reader: Records) -> None:
    """What is left of a pass over a record in the epoch's order, logged every `frequent` batches and at the end.

    Raises Stopped when the run was told to stop and has saved where it is.
    """
    loader = training_loader(run, state, reader)
    before = spent(run.plan.workers)
    state.trainer.model.train()
    clock = IdleClock(run.device)
    done = min(state.step * run.plan.batch_size, loader.images)
    what = f"epoch {state.epoch + 1}/{run.plan.epochs}"
    with Progress(what, loader.images, done=done, shown=run.ranks.main) as progress:
        for fed in feed(iter(loader), run.device, loader.state_dict):
            state.step, state.loader = fed.place["step"], fed.place
            learning_rate = _train_batch(run, state, fed, loader, clock)
            due = state.step % run.plan.config.output.frequent == 0
            note = _log_recent(run, state, clock, learning_rate) if due else ""
            progress.update(loader.images_of(state.step - 1), note)
            _save_where_due(run, state, clock, loader.steps)
    _count_idle(state, clock)
    run.watch.check(state.epoch)
    measured = state.whole.read(run.ranks, run.device, run.plan.labels.answers)
    learning_rate = run.plan.schedule.learning_rate(state.epoch + (loader.steps - 0.5) / loader.steps)
    run.log.trained(state.epoch, learning_rate=learning_rate, **measured)
    after, whole = spent(run.plan.workers), state.whole
    _tell_of_data(run, state, reader, Account.between(before, after, whole.images, measured["seconds"], whole.waited))
    state.seconds += measured["seconds"]
    state.waited += state.whole.waited
    state.trained = True


def _tell_of_data(run: Run, state: TrainState, reader: Records, account: Account) -> None:
    """Where the time of loading went, if that was asked for; and once, where the network waits, what would help."""
    if run.plan.config.output.profile_data:
        run.log.data(str(account), state.epoch, images=account.images, stages=dict(account.stages))
    advice = account.advice(reader, run.plan.workers, run.ranks.local_world_size)
    if advice and not state.told_of_waiting:
        run.log.data(advice, state.epoch)
        state.told_of_waiting = True


def _train_batch(run: Run, state: TrainState, fed: Fed, loader: Loader, clock: IdleClock) -> float:
    """One step; returns its learning rate, that of the middle of the step."""
    learning_rate = run.plan.schedule.learning_rate(state.epoch + (state.step - 0.5) / loader.steps)
    clock.step_begins()
    images, labels = mixed(run.plan.config, run.plan.labels, state.epoch, fed)
    result = state.trainer.step(images, labels, loader.images_of(state.step - 1), learning_rate)
    clock.step_ends()
    run.watch.add(state.step, fed.ordinals, result)
    for meter in (state.whole, state.recent):
        meter.add(result, len(fed.labels), fed.waited)
    if run.profiler is not None:
        run.profiler.step()
    return learning_rate


def _log_recent(run: Run, state: TrainState, clock: IdleClock, learning_rate: float) -> str:
    """A log line over the steps since the last one; returns what the bar shows of it."""
    run.watch.check(state.epoch)
    _count_idle(state, clock)
    measured = state.recent.read(run.ranks, run.device, run.plan.labels.answers)
    state.recent = Meter()
    run.log.batch(state.epoch, state.step, **measured, learning_rate=learning_rate)
    return f"loss {measured['loss']:.3f}, waiting for data {measured['data_wait']:.1%}"


def _save_where_due(run: Run, state: TrainState, clock: IdleClock, steps: int) -> None:
    stopping, every = run.stopping(), run.plan.config.output.checkpoint_steps
    if stopping or (every and state.step % every == 0 < steps - state.step):
        _count_idle(state, clock)
        save(run, state, checkpoint.latest_path(run.plan.prefix), None)
    if stopping:
        raise _stopped(run, state)


def _stopped(run: Run, state: TrainState) -> Stopped:
    path = checkpoint.latest_path(run.plan.prefix)
    where = f"stopped in epoch {state.epoch}, batch {state.step}; it is all in {path}"
    sentence = f"{where}: the same command with `resume` goes on there"
    return Stopped(run.interruption.received or 0, sentence if run.ranks.main else "")


def _count_idle(state: TrainState, clock: IdleClock) -> None:
    idle = clock.seconds()
    for meter in (state.whole, state.recent):
        meter.idle += idle


def validate(run: Run, state: TrainState, reader: Records) -> Evaluation:
    """Loss and errors over the validation record, in the log too.

    Where the run is told to stop, and where a record cannot be read, the epoch is saved first: a run that goes on
    begins with its validation.
    """
    left_out = LeftOut(reader.path, len(reader), run.on_skip())

    def stop_when_told() -> None:
        if run.ranks.any(run.interruption.received is not None or bool(left_out.problem)):
            if run.ranks.any(bool(left_out.problem)):
                raise _unreadable(run, left_out.problem)
            raise _stopped(run, state)

    network = state.trainer.evaluated
    run.ranks.share_buffers(network)
    try:
        result = evaluate(
            network,
            reader,
            size=run.plan.image_size,
            batch_size=run.plan.batch_size,
            device=run.device,
            labels=run.plan.labels,
            workers=run.plan.workers,
            ranks=run.ranks,
            on_batch=stop_when_told,
            left_out=left_out,
        )
    except (Stopped, ResnetError, OSError) as error:
        # Of what else may happen only this rank knows; others would not save with it.
        if not isinstance(error, Stopped | DamagedError) and run.ranks.world_size > 1:
            raise
        save(run, state, checkpoint.latest_path(run.plan.prefix), None)
        raise
    if not math.isfinite(result.loss):
        raise ResnetError(
            f"The validation's loss is {result.loss} in epoch {state.epoch}, which is not saved: the run has diverged; "
            f"go on from the last checkpoint of {run.plan.prefix} with a lower `lr`, or with `clip_norm` 1."
        )
    run.log.validated(state.epoch, **saved(result))
    return result


def _unreadable(run: Run, problem: str) -> DamagedError:
    """What is said, on all ranks, when a record of the validation cannot be read on one of them."""
    if not problem:
        return DamagedError(f"Rank {run.ranks.rank} stops: another one has met a record that cannot be read.")
    latest = checkpoint.latest_path(run.plan.prefix)
    return DamagedError(
        f"{problem.removesuffix('.')}; the epoch is saved in {latest}: mend the record, or give `on_error` skip, and "
        "go on with `resume` and `force`."
    )


def end_epoch(run: Run, state: TrainState, result: Evaluation) -> None:
    """Go to the next epoch and write the checkpoint of this one, which is also the latest and may be the best."""
    prefix, improved = run.plan.prefix, state.end_epoch(result)
    path = checkpoint_path(prefix, state.epoch)
    save(run, state, path, result)
    run.log.saved(path)
    if run.ranks.main:
        if improved:  # before it is the latest: killed in between, the run repeats the epoch and comes here again
            checkpoint.name_also(path, checkpoint.best_path(prefix))
        checkpoint.name_also(path, checkpoint.latest_path(prefix))
        checkpoint.tidy(prefix, state.epoch, run.plan.config.output.keep)


def save(run: Run, state: TrainState, path: Path, result: Evaluation | None) -> None:
    """Write a checkpoint, after a look at the losses since the last one; every rank has to call this."""
    run.watch.check(state.epoch)
    run.ranks.share_buffers(state.trainer.network)
    training = run.saved() | state.to_json(run.ranks, result)
    if not run.ranks.main:
        return
    run.log.mark(training["position"], state.clock(), None if result is None else path)
    header = Header.of_epoch(
        run.plan.architecture, state.epoch, run.plan.class_names, run.plan.labels, run.plan.image_size
    )
    errors = result.figures if result is not None else {}
    weights.save(path, state.to_tensors(), replace(header, errors=errors, training=training), check=True)
