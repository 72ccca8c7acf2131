"""The Python API: a trained network that takes pictures in any form."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from resnet_v2.data.records import RecordReader
from resnet_v2.inference.engines import TorchEngine
from resnet_v2.inference.evaluate import judge, plan_view
from resnet_v2.inference.pictures import Picture, prepare, several
from resnet_v2.inference.predict import best_answers, probabilities
from resnet_v2.interchange import weights
from resnet_v2.interchange.header import Header
from resnet_v2.networks.resnet import ResNet
from resnet_v2.training.distributed import choose_device
from resnet_v2.training.evaluate import Evaluation, array_to_input

BATCH_SIZE = 32


class Classifier:
    """A network with its preprocessing and its class names, as `load` gives it.

    `network` is a plain `torch.nn.Module` (raw RGB 0-255, N x 3 x H x W -> N x classes logits), `header` tells
    everything else that the checkpoint says. A picture is a path, the bytes of an image file, an array (H x W x 3,
    uint8, RGB) or a PIL image; a list of them, or an N x H x W x 3 array, is a batch.
    """

    def __init__(self, network: ResNet, header: Header, device: torch.device) -> None:
        self.network, self.header, self.device = network.to(device), header, device

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name per class, or none."""
        return self.header.class_names

    def classify(self, images: Picture | Sequence[Picture], top: int = 5) -> Any:
        """The `top` most probable classes: a list of `Answer` for one picture, a list of such lists for a batch.

        >>> resnet_v2.load("model/resnet-digits-14").classify("7.png")[0].name
        '7'
        """
        if not several(images):
            return self.classify([images], top)[0]
        rows = [probabilities(self._run(self.network, batch)) for batch in self._batches(images)]
        return [list(best_answers(row, self.header, top)) for some in rows for row in some]

    def features(self, images: Picture | Sequence[Picture]) -> NDArray[np.float32]:
        """The pooled features before the last layer: filters numbers for one picture, n x filters for a batch."""
        if not several(images):
            alone: NDArray[np.float32] = self.features([images])[0]
            return alone
        rows = [self._run(self.network.features, batch) for batch in self._batches(images)]
        return np.concatenate(rows) if rows else np.empty((0, self.network.fc1.in_features), np.float32)

    def evaluate(
        self, rec: str | Path, *, crop: int = 0, resize: int = 0, ten_crop: bool = False, batch_size: int = 128
    ) -> Evaluation:
        """Loss and errors over a record, as `resnet-v2 evaluate` gives them; a crop of 0 is the checkpoint's own."""
        engine = TorchEngine(self.network.eval(), self.header, self.device)
        view = plan_view(self.header, crop, resize, ten_crop)
        verdicts = judge(engine, RecordReader(Path(rec)), view, batch_size=batch_size)
        return Evaluation(len(verdicts.labels), verdicts.loss, verdicts.error(1), verdicts.error(5))

    def _batches(self, images: Sequence[Picture]) -> Any:
        for start in range(0, len(images), BATCH_SIZE):
            some = images[start : start + BATCH_SIZE]
            yield np.stack([prepare(image, self.header.resize, self.header.crop) for image in some])

    def _run(self, forward: Any, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        was_training = self.network.training
        self.network.eval()
        with torch.inference_mode():
            result: NDArray[np.float32] = forward(array_to_input(images, self.device)).float().cpu().numpy()
        self.network.train(was_training)
        return result


def load(prefix_or_name: str = "", epoch: int | None = None, device: str = "cpu") -> Classifier:
    """A trained network: `load("model/resnet-cifar10-20", 30)`; without an epoch the last one that was saved.

    Also takes MXNet's PREFIX-0000.params, a path of a file or of a folder with model.safetensors, and the name of a
    network that ships with the package (none: the first of them). Raises ResnetError when there is no such checkpoint.
    """
    network, header = weights.load(prefix_or_name, epoch)
    return Classifier(network, header, choose_device("", device))
