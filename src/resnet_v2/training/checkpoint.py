"""Checkpoints: one file each, the network as `weights` reads it, and with it all that a run needs to go on.

PREFIX-0030.safetensors is the end of epoch 30, PREFIX-best.safetensors the epoch with the lowest top-1 error, and
PREFIX-latest.safetensors the last state of the run, which may be amid an epoch; `resume` goes on there.
"""

import contextlib
import os
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from resnet_v2.config.training import NEUTRAL, TRAIN_DEFAULTS
from resnet_v2.errors import DamagedError, ResnetError
from resnet_v2.files import remove, replacing
from resnet_v2.networks import weights
from resnet_v2.networks.finding import checkpoint_path, saved_epochs
from resnet_v2.networks.header import Header, read_header
from resnet_v2.training.early_stop import was_over

VERSION = 2  # of the header's part on training

# Of the first version: it held the ranks too, and the threads that read, which are processes now.
OLD_NEUTRAL = {"nproc", "threads"}


@dataclass(frozen=True)
class Start:
    """A checkpoint that a run goes on from: its file, header and tensors; `resumed`: it is the run's own last state.

    `remark` is a sentence on why it is not the file that one would expect.
    """

    path: Path
    header: Header
    tensors: dict[str, Tensor]
    resumed: bool = False
    remark: str = ""

    @property
    def epoch(self) -> int:
        """The epoch it is in, counted from 0."""
        return int(self.header.training["position"]["epoch"])

    def given(self) -> dict[str, Any]:
        """The settings that somebody gave when the run began; the first version of the header told them from others by
        their having a value, and also held what changes no number.
        """
        training = self.header.training
        settings = {name: value for name, value in training.get("settings", {}).items() if value is not None}
        if unknown := sorted(set(training.get("given", ())) - TRAIN_DEFAULTS.keys()):
            raise ResnetError(
                f"{self.path} was made with `{unknown[0]}`, which this resnet-v2 does not know; update it."
            )
        if lost := sorted(set(training.get("given", ())) - settings.keys()):
            raise ResnetError(f"{self.path} does not tell `{lost[0]}`, which was given; go on from another epoch.")
        if "given" in training:
            return {name: settings[name] for name in training["given"]}
        return {name: value for name, value in settings.items() if name not in NEUTRAL | OLD_NEUTRAL}

    def began_with(self, retrain: bool, model_load_epoch: int) -> bool:
        """Whether its run began by going on from this epoch."""
        saved = self.header.training["settings"]
        return (saved.get("retrain"), saved.get("model_load_epoch")) == (retrain, model_load_epoch)


def latest_path(prefix: str) -> Path:
    """`model/resnet-cifar10-20` -> `model/resnet-cifar10-20-latest.safetensors`."""
    return Path(f"{prefix}-latest.safetensors")


def best_path(prefix: str) -> Path:
    """`model/resnet-cifar10-20` -> `model/resnet-cifar10-20-best.safetensors`."""
    return Path(f"{prefix}-best.safetensors")


def find_latest(prefix: str) -> Start | None:
    """Read the last state of a run; None where there is none. A ResnetError says what keeps a run from going on.

    Where that file is damaged, or what has its name is no file, it is the newest epoch whose file is not.
    """
    path = latest_path(prefix)
    if not os.path.lexists(path):
        return None
    try:
        if not path.is_file():
            raise DamagedError(f"{path} is a folder, or a link to nothing, where a run has its last state; remove it.")
        return _start(path)
    except DamagedError as damage:
        for epoch in reversed(saved_epochs(prefix)):
            with contextlib.suppress(ResnetError, OSError):
                found = _start(checkpoint_path(prefix, epoch))
                return replace(found, remark=f"{path} is damaged: the run goes on from {found.path}")
        raise damage from None


def _start(path: Path) -> Start:
    header, tensors = weights.read(path)
    if "position" not in header.training:
        raise ResnetError(f"{path} holds weights alone, and no run to go on with; start from it with `finetune`.")
    if header.training.get("version", 1) > VERSION:
        raise ResnetError(f"{path} was written by a newer resnet-v2; update this one to go on with it.")
    return Start(path, header, tensors, resumed=True)


def forget_run(prefix: str) -> None:
    """Remove the latest and the best state of a run that another one replaces."""
    remove(latest_path(prefix), best_path(prefix))


def name_also(path: Path, other: Path) -> None:
    """Give a file a second name, by a hard link where the file system has them, in place of an old file's."""
    with replacing(other) as temporary:
        temporary.unlink(missing_ok=True)
        try:
            os.link(path, temporary)
        except OSError:
            shutil.copyfile(path, temporary)


def tidy(prefix: str, epoch: int, keep: int) -> None:
    """Remove what killed runs left half-written, and the files of all but the last `keep` epochs (0: keep all).

    Epochs after this one are an earlier, longer run's, and stay.
    """
    start = Path(prefix)
    half = re.compile(re.escape(f".{start.name}-") + r"(\d{4,}|best|latest)\.safetensors\.\w+\.tmp")
    for path in start.parent.iterdir():
        if half.fullmatch(path.name):
            path.unlink(missing_ok=True)
    for old in saved_epochs(prefix) if keep else ():
        if old <= epoch - keep:
            checkpoint_path(prefix, old).unlink(missing_ok=True)  # MXNet's files, which are not ours, stay


def unfinished(prefix: str) -> str | None:
    """Where an earlier run of this prefix stopped, in words, when it is not at its end; else None."""
    path = latest_path(prefix)
    if not path.is_file():
        return None
    with contextlib.suppress(ResnetError, KeyError):
        try:
            training = read_header(path).training
        except DamagedError:
            return "damaged, but its newest sound epoch may be there"
        position, wanted = training["position"], training["epochs"]
        if position["epoch"] < wanted and not was_over(training):
            return f"epoch {position['epoch']} of {wanted}"
    return None
