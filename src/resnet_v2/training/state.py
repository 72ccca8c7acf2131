"""All that moves in a run, in one place, and how a checkpoint holds it.

Nothing in a run draws random numbers but from (seed, epoch, ordinal), so there are no random states to keep. What a
clock says is no part of it: the same command then writes the same file, and the log keeps the times.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from resnet_v2.errors import ResnetError
from resnet_v2.networks import weights
from resnet_v2.training.checkpoint import VERSION, Start
from resnet_v2.training.distributed import Ranks
from resnet_v2.training.evaluation import Evaluation, saved
from resnet_v2.training.meter import Meter
from resnet_v2.training.optim import momentum_tensors, restore_momentum
from resnet_v2.training.step import Trainer

RAW = "raw."  # with an average of the weights: those in training, the others being their average


@dataclass
class TrainState:
    """Where a run is; epochs and steps count from 0.

    `trainer` has the weights, their average, momentum and loss scale. `trained`: of this epoch only the validation is
    missing. `whole` and `recent` measure the epoch and the steps since the last log line. `best` is the lowest error in
    percent (see `Evaluation.error`) and its checkpoint, `loader` the place in the epoch's order. `seconds` and `waited`
    are the time of all epochs before this one, and the part of it that was spent waiting for data; `told_of_waiting`:
    what would help against it was said.
    """

    trainer: Trainer
    epoch: int
    step: int = 0
    trained: bool = False
    told_of_waiting: bool = False
    best: tuple[float, int] | None = None
    loader: Mapping[str, int] = field(default_factory=dict)
    whole: Meter = field(default_factory=Meter)
    recent: Meter = field(default_factory=Meter)
    seconds: float = 0.0
    waited: float = 0.0

    def to_tensors(self) -> dict[str, Tensor]:
        """The weights to evaluate, momentum, and with an average the weights in training too."""
        trainer = self.trainer
        tensors = weights.network_tensors(trainer.evaluated) | momentum_tensors(trainer.network, trainer.optimizer)
        if trainer.averaged is not None:
            tensors |= {RAW + name: tensor for name, tensor in weights.network_tensors(trainer.network).items()}
        return tensors

    def to_json(self, ranks: Ranks, result: Evaluation | None) -> dict[str, Any]:
        """All else, as JSON holds it without loss; every rank has to ask."""
        return {
            "version": VERSION,
            "position": {"epoch": self.epoch, "step": self.step, "trained": self.trained},
            "loader": self.loader,
            "meters": {name: ranks.gathered(getattr(self, name).state()) for name in ("whole", "recent")},
            "best": self.best,
            "amp": self.trainer.amp,
            "scaler": self.trainer.scaler.state_dict(),
            "evaluation": None if result is None else saved(result),
        }

    @classmethod
    def from_tensors(cls, start: Start, trainer: Trainer, epoch: int, ranks: Ranks) -> "TrainState":
        """A checkpoint put into a trainer, and where it is: at `epoch` where it is not the run's own last state.

        Raises ResnetError when they do not fit. A file of weights alone leaves the momentum at 0.
        """
        _restore(start, trainer)
        if not start.resumed:
            return cls(trainer, epoch)
        training = start.header.training
        meters = {name: Meter(_of_rank(states, ranks)) for name, states in training["meters"].items()}
        best = tuple(training["best"]) if training["best"] else None
        place: dict[str, Any] = {**training["position"], **meters, "loader": training["loader"]}
        return cls(trainer, **place, best=best)

    def end_epoch(self, result: Evaluation) -> bool:
        """Go to the next epoch; whether this one is the best so far."""
        self.epoch, self.step, self.trained, self.loader = self.epoch + 1, 0, False, {}
        self.whole, self.recent = Meter(), Meter()
        improved = self.best is None or result.error < self.best[0]
        if improved:
            self.best = (result.error, self.epoch)
        return improved

    def clock(self) -> dict[str, Any]:
        """What the clock says, for the log."""
        meters = {"whole": self.whole.clock(), "recent": self.recent.clock()}
        return {"seconds": self.seconds, "waited": self.waited, **meters}

    def set_clock(self, clock: Mapping[str, Any]) -> None:
        """Go on from what `clock` once gave."""
        self.seconds, self.waited = clock["seconds"], clock["waited"]
        self.whole.set_clock(clock["whole"])
        self.recent.set_clock(clock["recent"])


def _restore(start: Start, trainer: Trainer) -> None:
    network, training = trainer.network, start.header.training
    if start.header.architecture != network.architecture:
        raise ResnetError(
            f"{start.path} holds {start.header.architecture}, but the settings ask for {network.architecture}; give "
            "the same `depth`, `version`, `data_type` and `num_classes`."
        )
    if start.header.labels != trainer.labels:
        theirs, asked = start.header.labels, trainer.labels
        raise ResnetError(
            f"{start.path} was trained with `labels` {theirs}, but the settings ask for {asked}; give the same, or "
            "start from it with `finetune`."
        )
    raw = {name.removeprefix(RAW): tensor for name, tensor in start.tensors.items() if name.startswith(RAW)}
    weights.fill(start.path, network, raw or start.tensors)
    if trainer.averaged is not None:
        weights.fill(start.path, trainer.evaluated, start.tensors)
        trainer.averaged.n_averaged.fill_(1)  # anything but 0, at which it would begin anew
    begun = training.get("position", {"epoch": 1})
    if training and trainer.optimizer.defaults["momentum"] and (begun["epoch"] or begun["step"]):
        restore_momentum(network, trainer.optimizer, start.tensors, start.path)
    if training.get("scaler"):
        trainer.scaler.load_state_dict(dict(training["scaler"]))


def _of_rank(states: Sequence[Mapping[str, float]], ranks: Ranks) -> Mapping[str, float]:
    """What the meter of this rank had measured; when there were more or fewer ranks, rank 0 takes it all."""
    if len(states) == ranks.world_size:
        return states[ranks.rank]
    if not ranks.main:
        return {}
    return {name: sum(state[name] for state in states) for name in states[0]}
