"""A new last layer for a network that stays as it is: logistic regression on its features."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from resnet_v2.config.features import HeadConfig
from resnet_v2.console import Progress, agreeing, counted, say
from resnet_v2.data.labels import Labels
from resnet_v2.errors import ResnetError
from resnet_v2.inference.class_pictures import class_names, find_labelled, refuse_other_names
from resnet_v2.inference.classifier import Classifier
from resnet_v2.inference.feature_files import Rows, refuse_other
from resnet_v2.inference.features import Places, origin_of
from resnet_v2.inference.tally import tally_of
from resnet_v2.networks import weights
from resnet_v2.networks.finding import checkpoint_path, refuse_taken
from resnet_v2.networks.header import Header
from resnet_v2.training.evaluation import Evaluation

STEPS = 150  # of LBFGS at most
STRENGTHS = (0.0003, 0.001, 0.003, 0.01, 0.1, 1.0)  # the smaller, the smaller the weights
HELD = 5  # every fifth image of a class chooses the strength
CHUNK = 4096  # rows that are worked on in double precision at once
ONE_CLASS = Labels(1)  # of each image, whatever the network told before


def make_head(settings: HeadConfig, load: Callable[[], Classifier]) -> str:
    """Write OUT-0000.safetensors: the network with a last layer that is trained on the classes of a record or a folder.

    Returns a sentence with its errors. Raises ResnetError for images without a class or of one class alone, for
    features of another network, and where OUT has checkpoints already that are no head's.
    """
    refuse_taken(settings.out)
    classifier = load()
    names = class_names(settings.images, settings.synset)
    if settings.synset is None:
        refuse_other_names(names, (*settings.images, *settings.val))
    to_train = _places(settings, settings.images, classifier, names)
    held_out = _places(settings, settings.val, classifier, names) if settings.val else None  # before any is read
    training, validation = _rows(to_train), None if held_out is None else _rows(held_out)
    labels = [rows.label for rows in (training, validation) if rows is not None]
    classes = len(names) or 1 + max(int(one.max()) for one in labels)
    _check(", ".join(settings.images), labels, classes, names)
    header = classifier.header
    architecture = replace(header.architecture, classes=classes)
    weight, bias = logistic_regression(training.features, training.label, classes)
    network = classifier.network
    network.reset_classifier(classes)
    with torch.no_grad():
        network.fc1.weight.copy_(weight)
        network.fc1.bias.copy_(bias)
    result = _errors(validation or training, weight, bias)
    errors = result.figures if validation is not None else {}
    made = Header(architecture, 0, header.resize, header.crop, names, errors)
    path = checkpoint_path(settings.out, 0)
    weights.save(path, weights.network_tensors(network), made, check=True)
    where = ", ".join(settings.val) or f"{', '.join(settings.images)}, the training images themselves (give `val`)"
    return f"{path}: {result} of {where}; next: resnet-v2 predict --prefix {settings.out} --img PICTURE"


def logistic_regression(
    features: NDArray[np.float32], labels: NDArray[np.int64], classes: int, strength: float = 0
) -> tuple[Tensor, Tensor]:
    """Weight (classes x width) and bias of a last layer, float32, by logistic regression: features n x width, labels n.

    Minimises the mean cross-entropy plus the squares of the weights over 2 n `strength`, which scikit-learn calls C,
    over features that have mean 0 and deviation 1. A strength of 0 takes the one of STRENGTHS with the lowest
    cross-entropy on a fifth of the images, after training on the others. From zero, by LBFGS: no random number.
    """
    mean, deviation = features.mean(0, dtype=np.float64), features.std(0, dtype=np.float64)
    deviation[deviation == 0] = 1
    shift, scale = torch.from_numpy(mean), torch.from_numpy(deviation)
    data = _Data(torch.from_numpy(features), torch.from_numpy(labels), shift, scale, classes)
    with Progress("head", STEPS * (len(STRENGTHS) + 1), unit="step") as progress:
        weight, bias = data.fitted(strength or _chosen(data, progress), progress)
    scaled = weight / scale
    return scaled.float(), (bias - scaled @ shift).float()


@dataclass(frozen=True)
class _Data:
    """Features (n x width, float32), their classes, and what makes their mean 0 and their deviation 1."""

    features: Tensor
    labels: Tensor
    mean: Tensor
    deviation: Tensor
    classes: int

    def part(self, rows: Tensor) -> "_Data":
        return replace(self, features=self.features[rows], labels=self.labels[rows])

    def losses(self, weight: Tensor, bias: Tensor) -> Iterator[Tensor]:
        """The parts of the mean cross-entropy, a chunk at a time in double precision."""
        for start in range(0, len(self.features), CHUNK):
            some, its = self.features[start : start + CHUNK], self.labels[start : start + CHUNK]
            logits = F.linear((some.double() - self.mean) / self.deviation, weight, bias)
            yield F.cross_entropy(logits, its, reduction="sum") / len(self.features)

    def fitted(self, strength: float, progress: Progress) -> tuple[Tensor, Tensor]:
        """Weight and bias for features of mean 0 and deviation 1, float64."""
        weight = torch.zeros(self.classes, self.features.shape[1], dtype=torch.float64, requires_grad=True)
        bias = torch.zeros(self.classes, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS(
            [weight, bias],
            max_iter=STEPS,
            tolerance_grad=1e-6,
            tolerance_change=1e-9,
            history_size=20,
            line_search_fn="strong_wolfe",
        )

        def closure() -> float:
            optimizer.zero_grad()
            penalty = weight.square().sum() / (2 * len(self.features) * strength)
            penalty.backward()  # type: ignore[no-untyped-call]
            total = penalty.item()
            for loss in self.losses(weight, bias):
                loss.backward()  # type: ignore[no-untyped-call]
                total += loss.item()
            progress.update(1)
            return total

        optimizer.step(closure)  # type: ignore[no-untyped-call]
        return weight.detach(), bias.detach()


def _chosen(data: _Data, progress: Progress) -> float:
    """The strength that is best on every fifth image of each class; of fewer images the middle one."""
    order = np.argsort(data.labels.numpy(), kind="stable")
    counts = np.unique(data.labels.numpy(), return_counts=True)[1]
    place_in_class = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    held = torch.zeros(len(order), dtype=torch.bool)
    held[torch.from_numpy(order)] = torch.from_numpy(place_in_class % HELD == HELD - 1)
    if not held.any():
        return STRENGTHS[len(STRENGTHS) // 2]
    training, others = data.part(~held), data.part(held)
    losses = []
    for strength in STRENGTHS:
        weight, bias = training.fitted(strength, progress)
        losses.append(sum(loss.item() for loss in others.losses(weight, bias)))
    return STRENGTHS[losses.index(min(losses))]


def _places(settings: HeadConfig, images: tuple[str, ...], classifier: Classifier, names: Sequence[str]) -> Places:
    find = partial(find_labelled, names)
    places = Places(images, lambda: classifier, settings.batch_size, settings.threads, ONE_CLASS, find)
    refuse_other(origin_of(classifier), "the network", places.origin, places.name)
    return places


def _rows(places: Places) -> Rows:
    rows = places.whole()
    if rows.label.ndim > 1:
        raise ResnetError(f"{places.name} has several labels for each image, and a head is of one class; pack others.")
    if len(without := np.flatnonzero(rows.label < 0)):
        raise ResnetError(
            f"{rows.name[without[0]]} has no class; a head is trained on a folder that holds a folder of pictures for "
            "each class, or on records with a class for each image."
        )
    return rows


def _check(place: str, labels: list[NDArray[np.int64]], classes: int, names: tuple[str, ...]) -> None:
    if names and (largest := max(int(one.max()) for one in labels)) >= classes:
        raise ResnetError(f"{place} has images of class {largest}, but its synset.txt names {classes}; give `synset`.")
    seen = np.unique(labels[0])
    if len(seen) < 2:
        raise ResnetError(f"{place} has images of class {seen[0]} alone; a head needs two classes or more.")
    if len(labels) > 1 and len(others := np.setdiff1d(labels[1], seen)):
        say(
            f"warning: {counted(len(others), 'class')} of the validation {agreeing(len(others), 'has', 'have')} no "
            f"training image, class {others[0]} the first"
        )


def _errors(rows: Rows, weight: Tensor, bias: Tensor) -> Evaluation:
    tally = tally_of(Labels(len(bias)), len(rows))
    logits = F.linear(torch.from_numpy(rows.features), weight, bias).numpy()
    tally.add(np.arange(len(rows)), [logits], rows.label)
    return tally.verdicts().evaluation()
