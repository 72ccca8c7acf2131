"""Several labels: records of theirs and ours, and symbols whose outputs and gradients MXNet 1.9.1 gives as we do."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from parity import Arrays, MXNet, difference, random_images, random_network, weights_of

from resnet_v2.data import recordio
from resnet_v2.data.filling import Centred
from resnet_v2.data.labels import Labels
from resnet_v2.data.loader import Reading, batches
from resnet_v2.data.records import IRHeader, RecordReader, pack, writing
from resnet_v2.inference.tally import probabilities
from resnet_v2.interchange.symbol import symbol_json
from resnet_v2.networks.architecture import Architecture
from resnet_v2.training.losses import loss_of

pytest_plugins = ["mxnet_process"]

ROWS = [[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.0, 1.0, 1.0], [1.0, 1.0, 0.0]]
MULTI = Labels(3, "multi")


def image(number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    return bytes(cv2.imencode(".png", pixels)[1])


def test_image_record_iter_reads_our_labels(mxnet: MXNet, tmp_path: Path) -> None:
    rec = tmp_path / "a.rec"
    with writing(rec) as writer:
        for key, row in enumerate(ROWS):
            writer.write(key, pack(IRHeader(0, row, key, 0), image(key)))
    options: dict[str, Any] = {"path_imgrec": str(rec), "data_shape": [3, 32, 32], "batch_size": 2, "shuffle": False}
    _, theirs = mxnet.ask("iterate", **options, label_width=3)
    (ours,) = batches(RecordReader(rec), [np.arange(4)], Centred(32), (32, 32, 3), MULTI, Reading())
    assert theirs["labels"].tolist() == ours.labels.tolist() == ROWS
    with pytest.raises(AssertionError, match="rec file provide 3-dimensional label but label_width is set to 1"):
        mxnet.ask("iterate", **options)


def test_we_read_their_labels(mxnet: MXNet, tmp_path: Path) -> None:
    _, found = mxnet.ask("pack_headers", labels=ROWS)
    ends = np.cumsum(found["lengths"])
    with writing(tmp_path / "a.rec") as writer:
        for key, (end, length) in enumerate(zip(ends, found["lengths"], strict=True)):
            header, _ = recordio.unpack(found["data"].tobytes()[end - length : end])
            writer.write(key, pack(header, image(key)))
    (ours,) = batches(RecordReader(tmp_path / "a.rec"), [np.arange(4)], Centred(32), (32, 32, 3), MULTI, Reading())
    assert ours.labels.tolist() == ROWS


def test_they_pass_over_our_exact_labels(mxnet: MXNet, tmp_path: Path) -> None:
    rec = tmp_path / "a.rec"
    with writing(rec) as writer:
        for key in range(2):
            label = (1 << 24) + 1 + key
            writer.write(key, pack(IRHeader(0, float(label), key, label), image(key)))
    options: dict[str, Any] = {"path_imgrec": str(rec), "data_shape": [3, 32, 32], "batch_size": 2, "shuffle": False}
    _, theirs = mxnet.ask("iterate", **options)
    assert theirs["labels"].tolist() == [float(1 << 24), float((1 << 24) + 2)]
    (ours,) = batches(RecordReader(rec), [np.arange(2)], Centred(32), (32, 32, 3), 1 << 25, Reading())
    assert ours.labels.tolist() == [(1 << 24) + 1, (1 << 24) + 2]


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (Labels(12), ["softmax_output"]),
        (Labels(12, "soft"), ["softmax_output"]),
        (Labels(12, "multi"), ["logistic_output"]),
        (Labels(12, "tasks", (7, 2, 3)), [f"task{task}_softmax_output" for task in range(3)]),
    ],
    ids=lambda value: value.kind if isinstance(value, Labels) else "",
)
def test_symbols(mxnet: MXNet, labels: Labels, names: list[str]) -> None:
    images = random_images(4, 32, seed=1)
    network = random_network(Architecture(20, 12, "cifar"), images, seed=2)
    rng = np.random.default_rng(0)
    truth: Any = {
        "class": rng.integers(0, 12, 4),
        "soft": rng.dirichlet(np.ones(12), 4).astype(np.float32),
        "multi": rng.integers(0, 2, (4, 12)).astype(np.float32),
        "tasks": np.stack([rng.integers(0, count, 4) for count in labels.tasks or (1,)], 1),
    }[labels.kind]
    theirs_truth = [truth[:, task] for task in range(truth.shape[1])] if labels.kind == "tasks" else [truth]
    arrays: Arrays = {**weights_of(network), "data": images}
    arrays |= {f"label:{name[:-7]}_label": its for name, its in zip(names, theirs_truth, strict=True)}
    text = symbol_json(network.architecture, labels)
    if labels.kind == "soft":  # MXNet takes the label's shape for what it is only where it is told
        arrays.pop("label:softmax_label")
    answer, theirs = mxnet.ask("outputs", arrays, json=text)
    assert answer["names"] == names
    with torch.inference_mode():
        ours = probabilities(network.eval()(torch.from_numpy(images)).numpy(), labels)
    assert difference(ours, np.concatenate([theirs[name] for name in names], 1)) < 1e-4
    if labels.kind == "soft":
        return
    loss = loss_of(labels, network.train()(torch.from_numpy(images)), torch.from_numpy(truth))
    (gradient,) = torch.autograd.grad(loss, [network.fc1.bias])
    assert difference(gradient.numpy(), theirs["gradient"]) < 1e-4
