"""Exact evaluation: every image of a record counts once."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from resnet_v2.console import Progress
from resnet_v2.data.filling import Centred
from resnet_v2.data.left_out import LeftOut
from resnet_v2.data.loader import Reading, batches
from resnet_v2.data.order import split
from resnet_v2.data.record_set import Records
from resnet_v2.errors import ResnetError
from resnet_v2.networks.resnet import ResNet
from resnet_v2.training.distributed import Ranks
from resnet_v2.training.feed import feed, pin_for, to_input


@dataclass(frozen=True)
class Evaluation:
    """Sums over a record: `loss` is the mean cross-entropy in nats, errors are in percent of `images`."""

    images: int
    loss: float
    top1_error: float
    top5_error: float


def rank_of_label(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """How many classes come before the labelled one; among equals the lower class comes first. n x classes, n -> n."""
    own = logits.gather(1, labels[:, None])
    classes = torch.arange(logits.shape[1], device=logits.device)
    before = (logits > own) | ((logits == own) & (classes < labels[:, None]))
    return before.sum(1)


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Without gradients and in evaluation mode; then, also after an error, every module is in the mode it was in."""
    trained = [module for module in network.modules() if module.training]
    network.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module in trained:
            module.training = True


def evaluate(
    network: ResNet,
    reader: Records,
    *,
    size: int,
    batch_size: int,
    device: torch.device,
    workers: int = 0,
    ranks: Ranks | None = None,
    on_batch: Callable[[], object] | None = None,
    left_out: LeftOut | None = None,
) -> Evaluation:
    """Loss and errors of a network over all records, centre crop of `size` pixels.

    Several ranks share the records and all get the whole result. `on_batch` is called before every batch and behind the
    last one, on all ranks as often. Records that cannot be read are `left_out`, and said to it; without it they are an
    error. With fewer than 5 classes the top-5 error is 0 by its definition. A logit that is not a number counts as an
    error.
    """
    ranks = ranks or Ranks()
    steps = split(np.arange(len(reader)), batch_size, ranks.rank, ranks.world_size)
    leave_out = left_out is not None
    reading = Reading(
        workers, on_skip=left_out, pin=pin_for(device), sharers=ranks.local_world_size, leave_out=leave_out
    )
    stream = batches(reader, steps, Centred(size), (size, size, 3), network.architecture.classes, reading)
    progress = Progress("evaluate", len(reader), shown=ranks.main)
    seen = 0
    found: list[torch.Tensor] = []  # per batch; the sums are made on the host, in float64, which not every GPU has
    with progress, evaluating(network):
        for fed in feed(stream, device):
            if on_batch is not None:
                on_batch()
            if not len(fed.labels):
                continue
            logits = network(to_input(fed.images)).float()
            loss = F.cross_entropy(logits, fed.labels, reduction="sum")
            finite = logits.isfinite().all(1)
            rank = rank_of_label(logits, fed.labels)
            found.append(torch.stack([loss, ((rank < 1) & finite).sum(), ((rank < 5) & finite).sum()]))
            progress.update(len(fed.labels))
            seen += len(fed.labels)
        if on_batch is not None:
            on_batch()
        sums = torch.stack(found).tolist() if found else []
    own = [sum(one[place] for one in sums) for place in range(3)]
    loss_of_all, *right, images = ranks.total([*own, seen])
    count = int(images)
    if not count:
        raise ResnetError(f"{reader.path} holds no image that can be read; pack it again.")
    wrong = [100 * (count - number) / count for number in right]
    return Evaluation(count, loss_of_all / count, *wrong)
