"""One file per epoch: the network as `weights` reads it, and with it the momentum and settings to go on with."""

from dataclasses import dataclass
from pathlib import Path

import torch

from resnet_v2.files import ResnetError
from resnet_v2.networks import weights
from resnet_v2.networks.resnet import ResNet
from resnet_v2.networks.weights import Header
from resnet_v2.training.optim import momentum_tensors, restore_momentum


@dataclass(frozen=True)
class Start:
    """A checkpoint that a run goes on from: its file, header and tensors."""

    path: Path
    header: Header
    tensors: dict[str, torch.Tensor]

    def setting(self, name: str, otherwise: float) -> float:
        """A number that the earlier run saved, such as its learning rate."""
        return float(self.header.training.get(name, otherwise))


def find(prefix: str, epoch: int) -> Start:
    """Read the checkpoint of an epoch; a ResnetError lists the epochs that are there."""
    return Start(*weights.read_checkpoint(prefix, epoch))


def save(prefix: str, network: ResNet, optimizer: torch.optim.SGD, header: Header) -> Path:
    """Write PREFIX-0030.safetensors for epoch 30, whole or not at all, and return its path."""
    path = weights.checkpoint_path(prefix, header.epoch)
    tensors = weights.network_tensors(network) | momentum_tensors(network, optimizer)
    weights.save(path, tensors, header)
    return path


def restore(start: Start, network: ResNet, optimizer: torch.optim.SGD) -> None:
    """Put the weights and the momentum of a checkpoint into a network and its optimiser.

    Raises ResnetError when they do not fit. A file of weights alone leaves the momentum at 0.
    """
    if start.header.architecture != network.architecture:
        raise ResnetError(
            f"{start.path} holds {start.header.architecture}, but the flags ask for {network.architecture}; give the "
            "same --depth, --version, --data-type and --num-classes."
        )
    weights.fill(start.path, network, start.tensors)
    if start.header.training and optimizer.defaults["momentum"]:
        restore_momentum(network, optimizer, start.tensors, start.path)
