"""One update of the weights: forward, backward, step; and the sums that log lines are made of."""

import contextlib
import math
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from resnet_v2.config import TrainConfig
from resnet_v2.data.loader import Batch
from resnet_v2.files import ResnetError
from resnet_v2.networks.resnet import ResNet
from resnet_v2.training.distributed import Ranks
from resnet_v2.training.evaluate import to_input
from resnet_v2.training.optim import fuse_into_backward
from resnet_v2.training.sync_batch_norm import synchronize

NAMED_RECORDS = 8  # of a step whose loss is no number


@dataclass(frozen=True)
class Trainer:
    """A network in training with everything that moves it.

    `model` is the network as it is called: compiled, and with gradients shared among the ranks. `averaged` is the
    moving average of the weights, which is then what is evaluated and used.
    """

    config: TrainConfig
    ranks: Ranks
    device: torch.device
    network: ResNet
    model: nn.Module
    optimizer: torch.optim.SGD
    scaler: torch.amp.GradScaler
    averaged: AveragedModel | None

    @classmethod
    def of(
        cls, network: ResNet, optimizer: torch.optim.SGD, config: TrainConfig, ranks: Ranks, device: torch.device
    ) -> "Trainer":
        """A trainer of a network that is on its device already."""
        if config.sync_bn and ranks.world_size > 1:
            synchronize(network)
        model: nn.Module = cast(nn.Module, torch.compile(network)) if config.compile else network
        if ranks.world_size > 1:
            places = [device] if device.type == "cuda" else None
            model = DistributedDataParallel(model, device_ids=places, forward_sync_buffers=not config.sync_bn)
        averaged = None
        if config.ema:
            averaging = get_ema_multi_avg_fn(config.ema)  # type: ignore[no-untyped-call]
            averaged = AveragedModel(network, multi_avg_fn=averaging, use_buffers=True)
        if config.fused_backward:
            several = ranks.world_size > 1 or config.accumulate > 1
            if several or config.clip_norm or config.amp == "fp16" or config.optimizer != "nag":
                raise ResnetError(
                    "--fused-backward updates each weight by NAG as its gradient comes, and so does not go with "
                    "several ranks, --clip-norm, --accumulate, --amp fp16 or --optimizer muon; leave it or them out."
                )
            fuse_into_backward(optimizer)
        scaler = torch.amp.GradScaler(device.type, enabled=config.amp == "fp16")
        return cls(config, ranks, device, network, model, optimizer, scaler, averaged)

    @property
    def evaluated(self) -> ResNet:
        """The network that is evaluated and used: the average of the weights where there is one."""
        return self.network if self.averaged is None else cast(ResNet, self.averaged.module)

    def step(self, batch: Batch, images_of_step: int, learning_rate: float) -> tuple[Tensor, Tensor]:
        """One update with this rank's images of a step; returns the sum of their losses and the count of right answers.

        Both are still on the device. The gradient is that of the mean loss over the images of all ranks.
        """
        images = to_input(batch.images, self.device, self.config.memory_format)
        labels = torch.from_numpy(batch.labels).to(self.device, non_blocking=True)
        loss = torch.zeros((), device=self.device)
        correct = torch.zeros((), dtype=torch.int64, device=self.device)
        self.optimizer.zero_grad()
        for group in self.optimizer.param_groups:  # the update may happen inside the backward pass
            group["lr"] = learning_rate
        parts = self._parts(images, labels)
        for number, (some_images, some_labels) in enumerate(parts, start=1):
            with self._gradients_shared(number == len(parts)):
                with torch.autocast(self.device.type, *self._precision(), enabled=self.config.amp != "off"):
                    logits = self._logits(some_images)
                logits = logits.float()
                smoothing = self.config.label_smoothing
                some_loss = F.cross_entropy(logits, some_labels, label_smoothing=smoothing, reduction="sum")
                # The ranks' gradients are averaged, so each counts its losses world_size times.
                mean_loss = some_loss * (self.ranks.world_size / images_of_step)
                self.scaler.scale(mean_loss).backward()  # type: ignore[no-untyped-call]
            loss += some_loss.detach()
            correct += (logits.detach().argmax(1) == some_labels).sum()
        self._update()
        return loss, correct

    def _precision(self) -> tuple[torch.dtype]:
        return (torch.float16 if self.config.amp == "fp16" else torch.bfloat16,)

    def _parts(self, images: Tensor, labels: Tensor) -> list[tuple[Tensor, Tensor]]:
        count = self.config.accumulate
        parts = list(zip(images.tensor_split(count), labels.tensor_split(count), strict=True))
        # Alone one may leave out the empty parts of a small batch; ranks must all take part in all of them.
        return parts if self.ranks.world_size > 1 else [part for part in parts if len(part[1])]

    def _gradients_shared(self, last: bool) -> contextlib.AbstractContextManager[None]:
        if last or not isinstance(self.model, DistributedDataParallel):
            return contextlib.nullcontext()
        return self.model.no_sync()

    def _logits(self, images: Tensor) -> Tensor:
        if len(images) or self.config.sync_bn:
            return cast(Tensor, self.model(images))
        # This rank has no image in the epoch's last step: it takes part with zero gradients, and its BatchNorms, which
        # cannot make statistics of nothing, stay as they are.
        self.model.eval()
        logits = cast(Tensor, self.model(images))
        self.model.train()
        return logits

    def _update(self) -> None:
        if self.config.clip_norm:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.averaged is not None:
            self.averaged.update_parameters(self.network)


class Meter:
    """Sums over some steps of this rank; they stay on the device until they are read, so that no step waits for them.

    Sums start at 0 or where `state` of an earlier meter left off.
    """

    def __init__(self, device: torch.device, state: Mapping[str, float] | None = None) -> None:
        state = state or {}
        self.loss = torch.tensor(state.get("loss", 0.0), dtype=torch.float64, device=device)
        self.correct = torch.tensor(int(state.get("correct", 0)), dtype=torch.int64, device=device)
        self.images, self.steps = int(state.get("images", 0)), int(state.get("steps", 0))
        self.waited = state.get("waited", 0.0)
        self._started = time.perf_counter() - state.get("seconds", 0.0)

    def add(self, loss: Tensor, correct: Tensor, images: int, waited: float) -> None:
        """Count a step of `images` images that waited `waited` seconds for its data."""
        self.loss += loss
        self.correct += correct
        self.images += images
        self.steps += 1
        self.waited += waited

    def state(self) -> dict[str, float]:
        """What another meter needs to go on, as JSON holds it without loss."""
        seconds = time.perf_counter() - self._started
        sums = {"loss": self.loss.item(), "correct": int(self.correct), "images": self.images, "steps": self.steps}
        return {**sums, "waited": self.waited, "seconds": seconds}

    def read(self, ranks: Ranks) -> dict[str, float]:
        """Over all ranks: mean loss, accuracy (a share) and images per second. Of this one: seconds, milliseconds per
        step, the share of time spent waiting for data and the most memory so far in MiB (of the GPU, if there is one).
        """
        loss, correct, images = ranks.total([self.loss.item(), float(self.correct), float(self.images)])
        seconds = time.perf_counter() - self._started
        return {
            "loss": loss / images,
            "accuracy": correct / images,
            "seconds": round(seconds, 3),
            "samples_per_second": round(images / seconds, 2),
            "step_ms": round(1000 * seconds / max(1, self.steps), 2),
            "data_wait": round(self.waited / seconds, 4),
            "memory_mib": round(peak_memory_mib(self.loss.device), 1),
        }


def peak_memory_mib(device: torch.device) -> float:
    """The most memory taken so far: of the GPU by tensors, else of the process."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device) / 2**20)
    if sys.platform == "win32":  # which does not tell
        return 0.0
    import resource

    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


class Watch:
    """Remembers the loss of every step until `check`, which tells of one that is no number."""

    def __init__(self, prefix: str, ranks: Ranks) -> None:
        self._prefix, self._ranks = prefix, ranks
        self._steps: list[tuple[int, NDArray[Any], Tensor]] = []

    def add(self, step: int, ordinals: NDArray[Any], loss: Tensor) -> None:
        """Remember a step, counted from 1, the records it took and its loss on the device."""
        self._steps.append((step, ordinals, loss))

    def check(self, epoch: int) -> None:
        """Raise ResnetError on all ranks when a loss was not finite on any, naming the step and its first records."""
        steps, self._steps = self._steps, []
        losses = torch.stack([loss for _, _, loss in steps]).tolist() if steps else []
        bad = next((number for number, loss in enumerate(losses) if not math.isfinite(loss)), None)
        if not self._ranks.any(bad is not None):
            return
        if bad is None:
            raise ResnetError(f"Rank {self._ranks.rank} stops: the loss of another rank is no number.")
        step, ordinals, _ = steps[bad]
        records = ", ".join(map(str, ordinals[:NAMED_RECORDS])) + (", ..." if len(ordinals) > NAMED_RECORDS else "")
        raise ResnetError(
            f"The loss is {losses[bad]} in epoch {epoch}, batch {step} (records {records}): the run has diverged; go "
            f"on from the last checkpoint of {self._prefix} with a lower --lr, or with --clip-norm 1."
        )
