"""Checkpoints: one file each, the network as `weights` reads it, and with it all that a run needs to go on.

PREFIX-0030.safetensors is the end of epoch 30, PREFIX-best.safetensors the epoch with the lowest top-1 error, and
PREFIX-latest.safetensors the last state of the run, which may be amid an epoch; `--resume` goes on there.
"""

import contextlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch

from resnet_v2.config import TrainConfig
from resnet_v2.errors import ResnetError
from resnet_v2.files import replacing
from resnet_v2.interchange import weights
from resnet_v2.interchange.finding import checkpoint_path, saved_epochs
from resnet_v2.interchange.header import Header, read_header
from resnet_v2.training.optim import momentum_tensors, restore_momentum
from resnet_v2.training.step import Trainer

RAW = "raw."  # with --ema: the weights in training, the others being their average

# Settings that change no number of a run, so that it may go on with others.
NEUTRAL = {
    "checkpoint_steps", "cuda_graphs", "device", "dry_run", "force", "frequent", "fused_backward", "gpus", "keep",
    "kv_store", "max_restarts", "memonger", "memory_budget", "profile", "recipe", "resume", "tensorboard", "threads",
    "workspace",
}  # fmt: skip


@dataclass(frozen=True)
class Start:
    """A checkpoint that a run goes on from: its file, header and tensors; `resumed`: it is the run's own last state."""

    path: Path
    header: Header
    tensors: dict[str, torch.Tensor]
    resumed: bool = False

    def setting(self, name: str, otherwise: float) -> float:
        """A number that the earlier run saved, such as its learning rate."""
        return float(self.header.training.get(name, otherwise))

    @property
    def epoch(self) -> int:
        """The epoch it is in, counted from 0."""
        return int(self.header.training["position"]["epoch"])


def latest_path(prefix: str) -> Path:
    """`model/resnet-cifar10-20` -> `model/resnet-cifar10-20-latest.safetensors`."""
    return Path(f"{prefix}-latest.safetensors")


def best_path(prefix: str) -> Path:
    """`model/resnet-cifar10-20` -> `model/resnet-cifar10-20-best.safetensors`."""
    return Path(f"{prefix}-best.safetensors")


def find(prefix: str, epoch: int) -> Start:
    """Read the checkpoint of an epoch; a ResnetError lists the epochs that are there."""
    return Start(*weights.read_checkpoint(prefix, epoch))


def find_latest(prefix: str) -> Start | None:
    """Read the last state of a run; None where there is none."""
    path = latest_path(prefix)
    return Start(path, *weights.read(path), resumed=True) if path.is_file() else None


def differences(start: Start, config: TrainConfig) -> list[str]:
    """One phrase for every setting that would change the numbers of a run that goes on: `--lr 0.1, was 0.05`."""
    saved = start.header.training["settings"]
    phrases = []
    for name, mine in settings_of(config).items():
        if name not in NEUTRAL and name in saved and saved[name] != mine:
            phrases.append(f"--{name.replace('_', '-')} {_told(mine)}, was {_told(saved[name])}")
    return phrases


def _told(value: Any) -> Any:
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


def settings_of(config: TrainConfig) -> dict[str, Any]:
    """The flags as JSON holds them."""
    return {name: str(value) if isinstance(value, Path) else value for name, value in vars(config).items()}


def save(path: Path, trainer: Trainer, header: Header) -> None:
    """Write all that moves in a run, whole or not at all, and read it back before it takes its name."""
    evaluated = weights.network_tensors(trainer.evaluated)
    tensors = evaluated | momentum_tensors(trainer.network, trainer.optimizer)
    if trainer.averaged is not None:
        tensors |= {RAW + name: tensor for name, tensor in weights.network_tensors(trainer.network).items()}
    weights.save(path, tensors, header, check=True)


def name_also(path: Path, other: Path) -> None:
    """Give a file a second name, by a hard link where the file system has them, in place of an old file's."""
    with replacing(other) as temporary:
        try:
            os.link(path, temporary)
        except OSError:
            shutil.copyfile(path, temporary)


def tidy(prefix: str, epoch: int, keep: int) -> None:
    """Remove what killed runs left half-written, and the files of all but the last `keep` epochs (0: keep all).

    Epochs after this one are an earlier, longer run's, and stay.
    """
    start = Path(prefix)
    for path in start.parent.glob(f".{start.name}-*.tmp"):
        path.unlink(missing_ok=True)
    for old in saved_epochs(prefix) if keep else ():
        if old <= epoch - keep:
            checkpoint_path(prefix, old).unlink(missing_ok=True)  # MXNet's files, which are not ours, stay


def restore(start: Start, trainer: Trainer) -> None:
    """Put a checkpoint into a trainer: weights, their average, momentum, loss scale.

    Raises ResnetError when they do not fit. A file of weights alone leaves the momentum at 0.
    """
    network, training = trainer.network, start.header.training
    if start.header.architecture != network.architecture:
        raise ResnetError(
            f"{start.path} holds {start.header.architecture}, but the flags ask for {network.architecture}; give the "
            "same --depth, --version, --data-type and --num-classes."
        )
    weights.fill(start.path, network, _without_prefix(start.tensors) or start.tensors)
    if trainer.averaged is not None:
        weights.fill(start.path, trainer.evaluated, start.tensors)
        trainer.averaged.n_averaged.fill_(1)  # anything but 0, at which it would begin anew
    begun = training.get("position", {"epoch": 1})
    if training and trainer.optimizer.defaults["momentum"] and (begun["epoch"] or begun["step"]):
        restore_momentum(network, trainer.optimizer, start.tensors, start.path)
    if training.get("scaler"):
        trainer.scaler.load_state_dict(dict(training["scaler"]))


def _without_prefix(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(RAW): tensor for name, tensor in tensors.items() if name.startswith(RAW)}


def unfinished(prefix: str) -> str | None:
    """Where an earlier run of this prefix stopped, in words, when it is not at its end; else None."""
    path = latest_path(prefix)
    if not path.is_file():
        return None
    with contextlib.suppress(ResnetError, KeyError, safetensors.SafetensorError):
        training = read_header(path).training
        position, wanted = training["position"], training["epochs"]
        if position["epoch"] < wanted:
            return f"epoch {position['epoch']} of {wanted}"
    return None
