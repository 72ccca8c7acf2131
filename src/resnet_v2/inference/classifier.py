"""The Python API: a trained network that takes pictures in any form."""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray

from resnet_v2.config.fields import Count, checked
from resnet_v2.config.using import Epoch
from resnet_v2.console import say
from resnet_v2.data.record_set import open_records
from resnet_v2.inference.engines import Images, TorchEngine
from resnet_v2.inference.evaluate import tell_of_other_classes
from resnet_v2.inference.pictures import Batch, Picture, Several, View, listed, several
from resnet_v2.inference.predict import Answer, Predictor
from resnet_v2.inference.results import SHOWN, Answers, Results
from resnet_v2.networks import weights
from resnet_v2.networks.header import Header
from resnet_v2.networks.resnet import ResNet
from resnet_v2.training.distributed import choose_device
from resnet_v2.training.evaluation import Evaluation

__all__ = ["Answer", "Answers", "Classifier", "Results", "load"]


class Classifier(Predictor):
    """A network with its preprocessing and its class names, as `load` gives it.

    `network` is a plain `torch.nn.Module` (raw RGB 0-255, N x 3 x H x W -> N x classes logits), which may be trained
    further and stays in the mode, training or evaluation, in which it is; `header` tells everything else that the
    checkpoint says. A picture is a path, the bytes of an image file, an array (H x W x 3, uint8, RGB) or a PIL image; a
    list or a generator of them, or an N x H x W x 3 array, is a batch. Threads may share it, and it can be pickled.
    """

    def __init__(self, network: ResNet, header: Header, device: torch.device, name: str = "") -> None:
        self._torch = TorchEngine(network, device)
        self._described = network.fc1
        super().__init__(self._torch, header, name)

    @property
    def header(self) -> Header:
        """What the checkpoint says of itself; of other classes, by `reset_classifier`, their number alone."""
        if self.network.fc1 is self._described:
            return self._header
        its = self.network.architecture
        told = self._header
        return Header(its, told.epoch, told.resize, told.crop, training=told.training)

    @header.setter
    def header(self, header: Header) -> None:
        self._header, self._described = header, self.network.fc1

    @property
    def network(self) -> ResNet:
        """The network itself."""
        return self._torch.network

    @property
    def called(self) -> str:
        """What it is called in a sentence."""
        return f"the network {self.name}" if self.name else "the network that ships"

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self._torch.device

    @overload
    def classify(self, images: Several, top: int = 5) -> Results: ...
    @overload
    def classify(self, images: NDArray[Any], top: int = 5) -> Any: ...
    @overload
    def classify(self, images: Picture, top: int = 5) -> Answers: ...

    def classify(self, images: Picture | Several, top: int = 5) -> Any:
        """The `top` most probable classes: `Answers`, a list of `Answer`, for one picture, `Results`, a list of such
        lists, for a batch. A notebook shows them with the pictures; `to_frame` makes a DataFrame of them.

        Of several tasks they are `TaskAnswer`, `top` for each task, and of multi labels every class with a probability
        of 0.5 or more, whatever `top` says.

        >>> resnet_v2.load("model/resnet-digits-14").classify("7.png")[0].name
        '7'
        """
        checked("top", Count, top)
        images = listed(images)
        if not several(images):
            return self._classified([images], top)[0]
        return self._classified(images, top)

    def _classified(self, images: Batch | NDArray[Any], top: int) -> Results:
        found = Results()
        for crops in self._crops(images):
            for crop, answers in zip(crops, self._answers(crops, top), strict=True):
                image, number = images[len(found)], len(found)
                name = os.fspath(image) if isinstance(image, str | os.PathLike) else str(number)
                found.append(Answers(answers, name, crop if number < SHOWN else None))
        return found

    def features(self, images: Picture | Several) -> NDArray[np.float32]:
        """The pooled features before the last layer: filters numbers for one picture, n x filters for a batch."""
        images = listed(images)
        if not several(images):
            alone: NDArray[np.float32] = self.features([images])[0]
            return alone
        rows = [self.features_of_crops(crops) for crops in self._crops(images)]
        return np.concatenate(rows) if rows else np.empty((0, self.network.fc1.in_features), np.float32)

    def features_of_crops(self, crops: Images) -> NDArray[np.float32]:
        """The same for what is seen of n pictures, n x crop x crop x 3."""
        return self._torch.run(self.network.features, crops)

    def evaluate(
        self, rec: str | Path, *, crop: int = 0, resize: int = 0, ten_crop: bool = False, batch_size: int = 128
    ) -> Evaluation:
        """Loss and errors over a record, as `resnet-v2 evaluate` gives them; a crop of 0 is the checkpoint's own.

        Of tasks it is a `TasksEvaluation`, of multi labels a `MultiEvaluation`.
        """
        reader = open_records(rec)
        for remark in reader.remarks:
            say(remark)
        tell_of_other_classes(reader, self.header)
        found = self.judge(reader, View.of(self.header, crop, resize, ten_crop), batch_size)
        return found.evaluation()


def load(prefix_or_name: str | Path = "", epoch: Epoch | None = None, device: str = "cpu") -> Classifier:
    """A trained network: `load("model/resnet-cifar10-20", 30)`; without an epoch the last one that was saved.

    `epoch` may be `"best"` or `"latest"` too. Instead of a prefix it takes MXNet's PREFIX-0000.params, a path of a file
    or of a folder with model.safetensors, and the name of a network that ships with the package (none: the first of
    them). Raises ResnetError when there is no such checkpoint.
    """
    network, header = weights.load(prefix_or_name, epoch)
    return Classifier(network, header, choose_device("", device))


def open_once(prefix: str, epoch: Epoch | None, device: str, gpus: str) -> Callable[[], Classifier]:
    """What opens a checkpoint when it is first asked, and gives the same `Classifier` whenever it is asked again."""

    @functools.cache
    def opened() -> Classifier:
        network, header = weights.load(prefix, epoch)
        return Classifier(network, header, choose_device(gpus, device), prefix)

    return opened
