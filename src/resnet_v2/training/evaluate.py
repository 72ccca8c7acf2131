"""Exact evaluation: every image of a record counts once."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from resnet_v2.data.loader import Reading, batches, centred, split
from resnet_v2.data.records import RecordReader
from resnet_v2.networks.resnet import ResNet
from resnet_v2.training.distributed import Ranks


@dataclass(frozen=True)
class Evaluation:
    """Sums over a record: `loss` is the mean cross-entropy in nats, errors are in percent of `images`."""

    images: int
    loss: float
    top1_error: float
    top5_error: float


def pinned(shape: tuple[int, ...]) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Page-locked memory for images, from which a GPU copies while the CPU goes on.

    It goes back to torch's allocator, which waits for the copy before it gives the memory out again.
    """
    return torch.empty(shape, dtype=torch.uint8, pin_memory=True).numpy()


def to_input(
    images: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], device: torch.device, memory_format: str = "channels-last"
) -> torch.Tensor:
    """n x H x W x 3 uint8 on the CPU -> n x 3 x H x W float32 on the device, 0-255, in this memory format."""
    pixels = torch.from_numpy(images).to(device, non_blocking=True).permute(0, 3, 1, 2).float()
    return pixels.contiguous() if memory_format == "contiguous" else pixels


def rank_of_label(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """How many classes come before the labelled one; among equals the lower class comes first. n x classes, n -> n."""
    own = logits.gather(1, labels[:, None])
    classes = torch.arange(logits.shape[1], device=logits.device)
    before = (logits > own) | ((logits == own) & (classes < labels[:, None]))
    return before.sum(1)


@torch.inference_mode()
def evaluate(
    network: ResNet,
    reader: RecordReader,
    *,
    size: int,
    batch_size: int,
    device: torch.device,
    threads: int = 0,
    ranks: Ranks | None = None,
    on_batch: Callable[[], object] | None = None,
) -> Evaluation:
    """Loss and errors of a network in evaluation mode over all records, centre crop of `size` pixels.

    Several ranks share the records and all get the whole result. `on_batch` is called before every batch. With fewer
    than 5 classes the top-5 error is 0 by its definition. A logit that is not a number counts as an error.
    """
    was_training = network.training
    network.eval()
    loss = torch.zeros((), dtype=torch.float64, device=device)
    top1 = torch.zeros((), dtype=torch.int64, device=device)
    top5 = torch.zeros_like(top1)
    ranks = ranks or Ranks()
    steps = split(np.arange(len(reader)), batch_size, ranks.rank, ranks.world_size)
    stream = batches(reader, steps, centred, size, network.architecture.classes, Reading(threads))
    with tqdm(total=len(reader), desc="evaluate", unit="img", leave=False, disable=None if ranks.main else True,
              mininterval=1) as progress:  # fmt: skip
        for batch in stream:
            if on_batch is not None:
                on_batch()
            if not len(batch.labels):
                continue
            logits = network(to_input(batch.images, device)).float()
            labels = torch.from_numpy(batch.labels).to(device)
            loss += F.cross_entropy(logits, labels, reduction="sum")
            finite = logits.isfinite().all(1)
            rank = rank_of_label(logits, labels)
            top1 += ((rank < 1) & finite).sum()
            top5 += ((rank < 5) & finite).sum()
            progress.update(len(labels))
    network.train(was_training)
    total_loss, *right = ranks.total([loss.item(), float(top1), float(top5)])
    count = len(reader)
    return Evaluation(
        images=count,
        loss=total_loss / count,
        top1_error=100 * (count - right[0]) / count,
        top5_error=100 * (count - right[1]) / count,
    )
