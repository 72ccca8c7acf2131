"""What logits are measured by, for every kind of labels: the loss of training, and which answers are right."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from resnet_v2.data.labels import Labels

HALF = 0.5


def loss_of(
    labels: Labels, logits: Tensor, truth: Tensor, smoothing: float = 0.0, weights: Tensor | None = None
) -> Tensor:
    """The sum of n images' losses in nats: logits are n x classes, float32, `truth` is as in `data.loader.Batch`, or of
    classes their shares (n x classes, float32), where images are mixed.

    Of one class and of soft labels it is the cross-entropy, of tasks the sum of theirs, of multi labels the mean over
    the classes of the binary cross-entropy, whose gradient MXNet's LogisticRegressionOutput has. `smoothing` spreads
    this share of the target over all classes, `weights` says how much each class counts; multi labels have neither.
    """
    if labels.kind == "multi":
        return F.binary_cross_entropy_with_logits(logits, truth, reduction="sum") / labels.classes
    if labels.kind != "tasks":
        return F.cross_entropy(logits, truth, weights, label_smoothing=smoothing, reduction="sum")
    losses = [
        F.cross_entropy(
            logits[:, place],
            truth[:, task],
            None if weights is None else weights[place],
            label_smoothing=smoothing,
            reduction="sum",
        )
        for task, place in enumerate(labels.places)
    ]
    return torch.stack(losses).sum()


def right_answers(labels: Labels, logits: Tensor, truth: Tensor) -> Tensor:
    """How many of n images' answers, the class with the largest logit or that of each task, are right.

    Of several classes' shares the largest is the right one; of multi labels each is that has a share of a half.
    """
    if labels.kind == "tasks":
        right = [logits[:, place].argmax(1) == truth[:, task] for task, place in enumerate(labels.places)]
        return torch.stack(right).sum()
    answers = logits.argmax(1)
    if labels.kind == "multi":
        return (truth.gather(1, answers[:, None]) >= HALF).sum()
    return (answers == (truth.argmax(1) if truth.ndim == 2 else truth)).sum()


def ranks_of_truth(labels: Labels, logits: Tensor, truth: Tensor) -> list[Tensor]:
    """For every answer how many classes come before the right one (n each); a right one of several, where it has them,
    and more than there are where an image has none.
    """
    if labels.kind == "tasks":
        return [rank_of_label(logits[:, place], truth[:, task]) for task, place in enumerate(labels.places)]
    if labels.kind == "class":
        return [rank_of_label(logits, truth)]
    if labels.kind == "soft":
        return [rank_of_label(logits, truth.argmax(1))]
    first = logits.masked_fill(truth == 0, -math.inf).argmax(1)
    return [rank_of_label(logits, first).masked_fill(truth.sum(1) == 0, max(5, labels.classes))]


def rank_of_label(logits: Tensor, labels: Tensor) -> Tensor:
    """How many classes come before the labelled one; among equals the lower class comes first. n x classes, n -> n."""
    own = logits.gather(1, labels[:, None])
    classes = torch.arange(logits.shape[1], device=logits.device)
    before = (logits > own) | ((logits == own) & (classes < labels[:, None]))
    return before.sum(1)
