"""Where a run is: what moves from step to step, how it is saved, and where a run goes on."""

import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from resnet_v2.config import TrainConfig
from resnet_v2.errors import ResnetError
from resnet_v2.interchange.header import Header, read_header
from resnet_v2.logs.runlog import RunLog
from resnet_v2.logs.tensorboard import open_writer
from resnet_v2.training import checkpoint
from resnet_v2.training.checkpoint import Start
from resnet_v2.training.distributed import Ranks, launched
from resnet_v2.training.evaluate import Evaluation
from resnet_v2.training.interruption import Interruption
from resnet_v2.training.meter import Meter, Watch
from resnet_v2.training.optim import Schedule
from resnet_v2.training.profile import Profiler
from resnet_v2.training.settings import RunSettings
from resnet_v2.training.step import Trainer


@dataclass
class Progress:
    """Where a run is: epochs and steps count from 0. `trained`: of this epoch only the validation is missing.

    `whole` and `recent` measure the epoch and the steps since the last log line; `best` is the lowest top-1 error and
    its checkpoint; `seconds` and `waited` are those of all epochs before this one.
    """

    epoch: int
    whole: Meter
    recent: Meter
    step: int = 0
    trained: bool = False
    best: tuple[float, int] | None = None
    seconds: float = 0.0
    waited: float = 0.0
    loader: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """What stays the same through the epochs."""

    config: TrainConfig
    settings: RunSettings
    ranks: Ranks
    interruption: Interruption
    trainer: Trainer
    schedule: Schedule
    weight_decay: float
    log: RunLog
    watch: Watch
    profiler: Profiler

    def stopping(self) -> bool:
        """Whether a rank was told to stop; every rank has to ask."""
        return self.ranks.any(self.interruption.received is not None)


def find_start(config: TrainConfig, settings: RunSettings) -> Start | None:
    """The checkpoint to go on from, if any; a ResnetError says why there is none or what would be lost."""
    path = checkpoint.latest_path(settings.prefix)
    latest = checkpoint.find_latest(settings.prefix) if config.resume != "no" else None
    if latest is not None and _same_beginning(latest, config):
        changed = checkpoint.differences(latest, config)
        if changed and not config.force:
            raise ResnetError(
                f"{path} was made with other settings ({'; '.join(changed)}); mend them, or give --force to go on with "
                "the new ones."
            )
        return latest
    if config.retrain:
        return checkpoint.find(settings.prefix, settings.start_epoch)
    if config.resume == "yes":
        raise ResnetError(f"{path} is missing, so there is no run to go on with; leave --resume out to start one.")
    where = checkpoint.unfinished(settings.prefix)
    if where is not None and not config.force and not launched():
        raise ResnetError(
            f"{path} holds an unfinished run ({where}); give --resume to go on with it, or --force to start anew."
        )
    return None


def _same_beginning(latest: Start, config: TrainConfig) -> bool:
    """Whether a run began like this one; before its first saving, a retraining finds the run that it goes on from."""
    saved = latest.header.training["settings"]
    beginning = (saved["retrain"], saved["model_load_epoch"])
    return not config.retrain or beginning == (config.retrain, config.model_load_epoch)


def schedule_of(config: TrainConfig, settings: RunSettings, start: Start | None) -> tuple[Schedule, float]:
    """The schedule and the weight decay: what a flag says, else what the checkpoint says, else 0.1 and 0.0001."""
    base, weight_decay = 0.1, 0.0001
    if start is not None:
        base, weight_decay = start.setting("learning_rate", base), start.setting("weight_decay", weight_decay)
    schedule = Schedule(base, settings.epochs, config.schedule, settings.milestones, config.warmup_epochs)
    if config.lr is not None and start is not None and not start.resumed:
        schedule = schedule.through(config.lr, settings.start_epoch)
    elif config.lr is not None and (start is None or start.header.training["settings"]["lr"] != config.lr):
        schedule = dataclasses.replace(schedule, base=config.lr)
    return schedule, weight_decay if config.wd is None else config.wd


def open_log(
    prefix: str, ranks: Ranks, start: Start | None, echo: Callable[[str], object], tensorboard: bool
) -> RunLog:
    """The log of this rank: rank 0 writes files, the others nothing."""
    if not ranks.main:
        return RunLog.nowhere()
    if start is None:
        # They belong to the run that this one replaces.
        checkpoint.latest_path(prefix).unlink(missing_ok=True)
        checkpoint.best_path(prefix).unlink(missing_ok=True)
    cut_at = start.header.training["log"] if start is not None and start.resumed else None
    listener = open_writer(prefix, append=start is not None) if tensorboard else None
    return RunLog(prefix, append=start is not None, echo=echo, cut_at=cut_at, listener=listener)


def progress_of(start: Start, ranks: Ranks, device: torch.device) -> Progress:
    """Where a checkpoint stopped."""
    training = start.header.training
    meters = {name: Meter(device, _of_rank(states, ranks)) for name, states in training["meters"].items()}
    seconds, waited = training["spent"]
    best = tuple(training["best"]) if training["best"] else None
    place: dict[str, Any] = {**training["position"], **meters, "loader": training["loader"]}
    return Progress(**place, best=best, seconds=seconds, waited=waited)


def _of_rank(states: Sequence[Mapping[str, float]], ranks: Ranks) -> Mapping[str, float]:
    """What the meter of this rank had measured; when there were more or fewer ranks, rank 0 takes it all."""
    if len(states) == ranks.world_size:
        return states[ranks.rank]
    if not ranks.main:
        return {}
    return {name: sum(state[name] for state in states) for name in states[0]} | {"seconds": states[0]["seconds"]}


def saved_evaluation(prefix: str) -> Evaluation:
    """The evaluation at the end of a finished run."""
    saved = read_header(checkpoint.latest_path(prefix)).training["evaluation"]
    return Evaluation(**saved)


def save_latest(run: Run, progress: Progress) -> None:
    """Write where the run is, and say so when it was told to stop; every rank has to call this."""
    path = checkpoint.latest_path(run.settings.prefix)
    save(run, progress, path, None)
    if run.interruption.received is not None and run.ranks.main:
        print(f"\nstopped in epoch {progress.epoch}, batch {progress.step}; it is all in {path}: the same command with "
              "--resume goes on there", file=sys.stderr)  # fmt: skip


def save(run: Run, progress: Progress, path: Path, result: Evaluation | None) -> None:
    """Write a checkpoint, after a look at the losses since the last one; every rank has to call this."""
    run.watch.check(progress.epoch)
    run.ranks.share_buffers(run.trainer.network)
    meters = {name: run.ranks.gathered(getattr(progress, name).state()) for name in ("whole", "recent")}
    if not run.ranks.main:
        return
    training = {
        "learning_rate": run.schedule.base,
        "weight_decay": run.weight_decay,
        "epochs": run.settings.epochs,
        "settings": checkpoint.settings_of(run.config),
        "position": {"epoch": progress.epoch, "step": progress.step, "trained": progress.trained},
        "loader": progress.loader,
        "meters": meters,
        "best": progress.best,
        "spent": [progress.seconds, progress.waited],
        "amp": run.trainer.amp,
        "scaler": run.trainer.scaler.state_dict(),
        "log": run.log.position(),
        "evaluation": dataclasses.asdict(result) if result is not None else None,
    }
    header = Header.of_epoch(run.settings.architecture, progress.epoch, run.settings.class_names)
    errors = {"top1_error": result.top1_error, "top5_error": result.top5_error} if result is not None else {}
    checkpoint.save(path, run.trainer, dataclasses.replace(header, errors=errors, training=training))
