"""Exact evaluation: every image of a record counts once."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from resnet_v2.console import Progress
from resnet_v2.data.filling import Centred
from resnet_v2.data.labels import Labels, labels_of
from resnet_v2.data.left_out import LeftOut
from resnet_v2.data.loader import Reading, batches
from resnet_v2.data.order import split
from resnet_v2.data.record_set import Records
from resnet_v2.errors import ResnetError
from resnet_v2.networks.resnet import ResNet
from resnet_v2.training.average_precision import average_precisions, mean_of
from resnet_v2.training.distributed import Ranks
from resnet_v2.training.evaluation import Evaluation, MultiEvaluation, TasksEvaluation
from resnet_v2.training.feed import feed, pin_for, to_input
from resnet_v2.training.losses import loss_of, ranks_of_truth


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
    labels: Labels | None = None,
    workers: int = 0,
    ranks: Ranks | None = None,
    on_batch: Callable[[], object] | None = None,
    left_out: LeftOut | None = None,
) -> Evaluation:
    """Loss and errors of a network over all records, centre crop of `size` pixels; `labels` None: one class each.

    Several ranks share the records and all get the whole result. `on_batch` is called before every batch and behind the
    last one, on all ranks as often. Records that cannot be read are `left_out`, and said to it; without it they are an
    error. With fewer than 5 classes the top-5 error is 0 by its definition. A logit that is not a number counts as an
    error.
    """
    ranks, labels = ranks or Ranks(), labels or labels_of(network.architecture.classes)
    steps = split(np.arange(len(reader)), batch_size, ranks.rank, ranks.world_size)
    leave_out = left_out is not None
    reading = Reading(
        workers, on_skip=left_out, pin=pin_for(device), sharers=ranks.local_world_size, leave_out=leave_out
    )
    # Its workers are let go here, also after an error, whose traceback would hold them.
    stream = closing(batches(reader, steps, Centred(size), (size, size, 3), labels, reading))
    progress = Progress("evaluate", len(reader), shown=ranks.main)
    seen = 0
    found: list[torch.Tensor] = []  # per batch; the sums are made on the host, in float64, which not every GPU has
    scores = _Scores(len(reader), labels.classes) if labels.kind == "multi" else None
    with stream as coming, progress, evaluating(network):
        for fed in feed(coming, device):
            if on_batch is not None:
                on_batch()
            if not len(fed.labels):
                continue
            logits = network(to_input(fed.images)).float()
            found.append(_sums(labels, logits, fed.labels))
            if scores is not None:
                scores.add(fed.ordinals, logits, fed.labels)
            progress.update(len(fed.labels))
            seen += len(fed.labels)
        if on_batch is not None:
            on_batch()
        sums = torch.stack(found).tolist() if found else []
    width = 1 + 2 * labels.answers
    loss, *right, images = ranks.total([*(sum(one[place] for one in sums) for place in range(width)), seen])
    count = int(images)
    if not count:
        raise ResnetError(f"{reader.path} holds no image that can be read; pack it again.")
    wrong = [100 * (count - number) / count for number in right]
    if scores is not None:
        return _multi(count, loss / count, wrong, scores.average_precisions(ranks), labels.classes)
    if labels.kind == "tasks":
        top1, top5 = (tuple(wrong[first::2]) for first in (0, 1))
        mean1, mean5 = (sum(each) / len(each) for each in (top1, top5))
        return TasksEvaluation(count, loss / count, mean1, mean5, top1, classes=labels.choices)
    return Evaluation(count, loss / count, *wrong, classes=labels.choices)


def _sums(labels: Labels, logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """The loss of a batch; then of each answer how many images are right, and for how many one of five is."""
    finite = logits.isfinite().all(1)
    ranks = ranks_of_truth(labels, logits, truth)
    right = [((rank < top) & finite).sum() for rank in ranks for top in (1, 5)]
    return torch.stack([loss_of(labels, logits, truth), *right])


class _Scores:
    """The logits and the labels of every image, of which each rank knows its own."""

    def __init__(self, images: int, classes: int) -> None:
        self._logits, self._truth = torch.zeros(images, classes), torch.zeros(images, classes, dtype=torch.uint8)
        self._there = torch.zeros(images, dtype=torch.uint8)

    def add(self, ordinals: NDArray[np.int64], logits: torch.Tensor, truth: torch.Tensor) -> None:
        places = torch.from_numpy(ordinals)
        self._logits[places], self._truth[places] = logits.cpu(), truth.cpu().to(torch.uint8)
        self._there[places] = 1

    def average_precisions(self, ranks: Ranks) -> NDArray[np.float64]:
        """Of every class, over the images of all ranks; every rank has to ask."""
        for one in (self._logits, self._truth, self._there):
            ranks.add_up(one)  # others have zeros where one rank has its images
        there = self._there > 0
        return average_precisions(self._truth[there].numpy(), self._logits[there].numpy())


def _multi(
    count: int, loss: float, wrong: list[float], precisions: NDArray[np.float64], classes: int
) -> MultiEvaluation:
    each = tuple(None if np.isnan(one) else 100 * float(one) for one in precisions)
    top1, top5 = wrong
    return MultiEvaluation(count, loss, top1, top5, 100 * mean_of(precisions), each, classes=classes)
