"""One update of the weights: forward, backward, step."""

import contextlib
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from resnet_v2.config.training import TrainConfig
from resnet_v2.data.labels import Labels
from resnet_v2.networks.resnet import ResNet
from resnet_v2.recompute.tape import take_our_kernels
from resnet_v2.training.distributed import Ranks
from resnet_v2.training.feed import to_input
from resnet_v2.training.graph import Graph
from resnet_v2.training.losses import loss_of, right_answers
from resnet_v2.training.optim import fuse_into_backward, set_learning_rate, update_average
from resnet_v2.training.sync_batch_norm import synchronize

Part = tuple[Tensor, Tensor]

_PRECISIONS = {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Trainer:
    """A network in training with everything that moves it.

    `model` is the network as it is called: compiled, and with gradients shared among the ranks. `averaged` is the
    moving average of the weights, which is then what is evaluated and used. `precision`: what is computed in, None for
    float32. `labels`: what the labels of its images are. `graph` records steps of the full batch as a CUDA graph and
    plays them, if there is one. `class_weights`: how much each class counts in the loss (float32, on the device), None:
    all the same.
    """

    config: TrainConfig
    ranks: Ranks
    device: torch.device
    network: ResNet
    model: nn.Module
    optimizer: torch.optim.SGD
    scaler: torch.amp.GradScaler
    averaged: AveragedModel | None
    precision: torch.dtype | None
    labels: Labels
    graph: Graph | None = None
    class_weights: Tensor | None = None

    @classmethod
    def of(
        cls,
        network: ResNet,
        optimizer: torch.optim.SGD,
        config: TrainConfig,
        ranks: Ranks,
        device: torch.device,
        amp: str,
    ) -> "Trainer":
        """A trainer of a network that is on its device already; `amp`: off, bf16 or fp16, as chosen for it."""
        if config.optimisation.sync_bn and ranks.world_size > 1:
            synchronize(network)
        if config.devices.compile:
            network.compile_units()
        take_our_kernels(network, device)
        model: nn.Module = network
        if ranks.world_size > 1:
            places = [device] if device.type == "cuda" else None
            model = DistributedDataParallel(model, device_ids=places)
            # The argument has another name in newer releases of torch.
            model.broadcast_buffers = not config.optimisation.sync_bn
        averaged = AveragedModel(network, use_buffers=True) if config.optimisation.ema else None
        precision = _PRECISIONS[amp]
        if config.memory.fused_backward:
            fuse_into_backward(optimizer)
        scaler = torch.amp.GradScaler(device.type, enabled=precision == torch.float16)
        labels = Labels(network.architecture.classes, config.data.label_kind, config.data.task_classes)
        return cls(config, ranks, device, network, model, optimizer, scaler, averaged, precision, labels)

    @property
    def amp(self) -> str:
        """What it computes in, as `amp` says it."""
        return next(name for name, precision in _PRECISIONS.items() if precision == self.precision)

    @property
    def evaluated(self) -> ResNet:
        """The network that is evaluated and used: the average of the weights where there is one."""
        return self.network if self.averaged is None else cast(ResNet, self.averaged.module)

    def step(self, images: Tensor, labels: Tensor, images_of_step: int, learning_rate: float) -> Tensor:
        """One update with this rank's images of a step and their labels, on the device: n x H x W x 3, uint8, or
        float32 where they are mixed.

        Returns the sum of their losses and the count of right answers (float32 [2], on the device). The gradient is
        that of the mean loss over the images of all ranks.
        """
        # Before the backward pass: the update may happen inside it.
        set_learning_rate(self.optimizer, learning_rate)
        scaled = self.scaler.is_enabled()
        work = self._gradients if scaled else self._gradients_and_update
        # The ranks' gradients are averaged, so each counts its losses world_size times.
        share = self.ranks.world_size / images_of_step
        result = work(images, labels, share) if self.graph is None else self.graph(work, images, labels, share)
        if scaled:
            self._update()
        return result

    def _gradients_and_update(self, images: Tensor, labels: Tensor, share: float) -> Tensor:
        result = self._gradients(images, labels, share)
        self._update()
        return result

    def _gradients(self, images: Tensor, labels: Tensor, share: float) -> Tensor:
        pixels = to_input(images, self.config.devices.memory_format)
        self.optimizer.zero_grad()
        result = torch.zeros(2, device=self.device)
        parts = self._parts(pixels, labels)
        # Around all parts, so that weights are cast to 16 bits once.
        with torch.autocast(self.device.type, self.precision, enabled=self.precision is not None):
            for number, part in enumerate(parts, start=1):
                with self._gradients_shared(number == len(parts)):
                    result += self._part(*part, share)
        return result

    def _part(self, pixels: Tensor, labels: Tensor, share: float) -> Tensor:
        logits = self._logits(pixels, round(self.ranks.world_size / share))
        with torch.autocast(self.device.type, enabled=False):
            logits, smoothing = logits.float(), self.config.optimisation.label_smoothing
            loss = loss_of(self.labels, logits, labels, smoothing, self.class_weights)
            self.scaler.scale(loss * share).backward()  # type: ignore[no-untyped-call]
            correct = right_answers(self.labels, logits.detach(), labels)
        return torch.stack([loss.detach(), correct.float()])

    def _parts(self, images: Tensor, labels: Tensor) -> list[Part]:
        count = self.config.optimisation.accumulate
        parts = list(zip(images.tensor_split(count), labels.tensor_split(count), strict=True))
        # Alone one may leave out the empty parts of a small batch; ranks must all take part in all of them.
        return parts if self.ranks.world_size > 1 else [part for part in parts if len(part[1])]

    def _gradients_shared(self, last: bool) -> contextlib.AbstractContextManager[None]:
        if last or not isinstance(self.model, DistributedDataParallel):
            return contextlib.nullcontext()
        return self.model.no_sync()

    def _logits(self, images: Tensor, images_of_step: int) -> Tensor:
        counted = images_of_step if self.config.optimisation.sync_bn else len(images)
        side = self.network.architecture.smallest_side
        if counted > 1 or (counted and side(images.shape[-1]) > 1):
            return cast(Tensor, self.model(images))
        if counted:
            # torch refuses to normalise one value. Twice the same has its mean, its variance 0 and its gradient.
            return cast(Tensor, self.model(torch.cat([images, images]))[: len(images)])
        # This rank has no image in the epoch's last step: it takes part with zero gradients, and its BatchNorms, which
        # cannot make statistics of nothing, stay as they are.
        self.model.eval()
        logits = cast(Tensor, self.model(images))
        self.model.train()
        return logits

    def _update(self) -> None:
        if self.config.optimisation.clip_norm:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.network.parameters(), self.config.optimisation.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.averaged is not None:
            update_average(self.averaged, self.network, self.config.optimisation.ema)
