"""Run by step.py: training steps of this package, as train.py makes them; reads how many, prints their seconds."""

import argparse
import itertools
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from resnet_v2.config.training import TrainConfig
from resnet_v2.data.augment import augmentation
from resnet_v2.data.loader import Batch, Loader, Reading
from resnet_v2.data.records import RecordReader
from resnet_v2.networks.architecture import Architecture
from resnet_v2.networks.resnet import ResNet, initialize
from resnet_v2.recompute.malloc import keep_freed_memory
from resnet_v2.training.distributed import Ranks
from resnet_v2.training.feed import on_device
from resnet_v2.training.optim import nesterov_sgd
from resnet_v2.training.step import Trainer


def random_batches(size: int, batch_size: int, classes: int) -> Iterator[Batch]:
    """The same batch of random pixels for ever."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (batch_size, size, size, 3), dtype=np.uint8)
    return itertools.repeat(Batch(images, generator.integers(0, classes, batch_size), np.arange(batch_size)))


def loaded_batches(rec: Path, architecture: Architecture, batch_size: int, workers: int) -> Iterator[Batch]:
    """Batches of the record at the level that training takes by default, epoch after epoch."""
    imagenet = architecture.stem == "imagenet"
    plan = augmentation(2 if imagenet else 1, architecture.image_size, imagenet)
    reader = RecordReader(rec)
    for epoch in itertools.count():
        loader = Loader(
            reader,
            plan,
            seed=0,
            batch_size=batch_size,
            classes=architecture.classes,
            epoch=epoch,
            reading=Reading(workers),
        )
        yield from (batch for batch in loader if len(batch.labels) == batch_size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stem", choices=["imagenet", "cifar"])
    parser.add_argument("depth", type=int)
    parser.add_argument("classes", type=int)
    parser.add_argument("batch_size", type=int)
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--amp", choices=["off", "bf16"], default="off")
    parser.add_argument("--rec", type=Path)
    options = parser.parse_args()
    device = torch.device("cpu")
    architecture = Architecture(options.depth, options.classes, options.stem)
    network = initialize(ResNet(architecture), seed=0)
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = nesterov_sgd(network, 0.01, 0.9, 0.0001)
    keep_freed_memory()  # as fit() does on the CPU
    settings = {"image_size": architecture.image_size, "batch_size": options.batch_size}
    config = TrainConfig.of(**settings, compile=options.compiled)
    trainer = Trainer.of(network, optimizer, config, Ranks(), device, options.amp)
    trainer.model.train()
    if options.rec is None:
        batches = random_batches(architecture.image_size, options.batch_size, options.classes)
    else:
        batches = loaded_batches(options.rec, architecture, options.batch_size, torch.get_num_threads())
    for line in sys.stdin:
        waited, started = 0.0, time.perf_counter()
        for _ in range(int(line)):
            asked = time.perf_counter()
            batch = next(batches)
            waited += time.perf_counter() - asked
            trainer.step(*on_device(batch, device), len(batch.labels), 0.01)
        print(json.dumps({"seconds": time.perf_counter() - started, "waited": waited}), flush=True)


if __name__ == "__main__":
    main()
