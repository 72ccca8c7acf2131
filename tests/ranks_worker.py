"""The gradient of one step in float64; run by torch's launcher from test_ranks.py, rank 0 writes it.

In float32 some ReLUs have inputs that are 0 but for rounding, and a split batch rounds otherwise than a whole one.
"""

import sys
from pathlib import Path
from unittest import mock

import safetensors.torch
import torch

from resnet_v2.config.training import TrainConfig
from resnet_v2.data.augment import augmentation
from resnet_v2.data.loader import Loader
from resnet_v2.data.records import RecordReader
from resnet_v2.networks.resnet import resnet
from resnet_v2.training import step
from resnet_v2.training.distributed import Ranks, joined
from resnet_v2.training.feed import on_device, to_input
from resnet_v2.training.optim import nesterov_sgd


def gradient(rec: Path, images: int, ranks: Ranks) -> dict[str, torch.Tensor]:
    """The gradients and the statistics after the first step of so many images on all ranks."""
    device = torch.device("cpu")
    network = resnet(8, classes=10).double()
    config = TrainConfig.of(sync_bn=True)
    trainer = step.Trainer.of(network, nesterov_sgd(network, 0.1, 0.9, 0.0), config, ranks, device, "off")
    loader = Loader(
        RecordReader(rec),
        augmentation(1, 32, imagenet=False),
        seed=0,
        batch_size=images,
        classes=10,
        rank=ranks.rank,
        world_size=ranks.world_size,
    )
    with mock.patch.object(step, "to_input", lambda *arguments: to_input(*arguments).double()):
        trainer.step(*on_device(next(iter(loader)), device), loader.images_of(0), 0.0)
    gradients = {name: one.grad for name, one in network.named_parameters() if one.grad is not None}
    buffers = {name: one for name, one in network.named_buffers() if one.is_floating_point()}
    return {name: one.contiguous() for name, one in (gradients | buffers).items()}


def main() -> None:
    torch.set_num_threads(1)
    rec, folder, *counts = sys.argv[1:]
    with joined(torch.device("cpu")) as ranks:
        for count in counts:
            found = gradient(Path(rec), int(count), ranks)
            if ranks.main:
                safetensors.torch.save_file(found, Path(folder) / count)


if __name__ == "__main__":
    main()
