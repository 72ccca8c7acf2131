"""Whitening: the filters are principal components, also by NumPy's account, and a run begins with them."""

import math
from pathlib import Path

import numpy as np
import torch

from conftest import Run
from resnet_v2.data.records import RecordReader
from resnet_v2.networks import weights
from resnet_v2.networks.resnet import resnet
from resnet_v2.training.whitening import principal_components, whiten


def test_components_are_numpys() -> None:
    generator = torch.Generator().manual_seed(0)
    smooth = torch.nn.functional.avg_pool2d(torch.randn(8, 3, 20, 20, generator=generator), 5, 1)
    mixed = torch.einsum("dc,nchw->ndhw", torch.randn(3, 3, generator=generator), smooth)
    found = principal_components(50 * mixed + 100, 3).flatten(1).double()
    assert torch.allclose(found @ found.T, torch.eye(27, dtype=torch.float64), atol=1e-5)
    pixels = mixed.double().numpy()
    pixels = (pixels - pixels.mean((0, 2, 3), keepdims=True)) / pixels.std((0, 2, 3), keepdims=True)
    windows = np.lib.stride_tricks.sliding_window_view(pixels, (3, 3), (2, 3)).transpose(0, 2, 3, 1, 4, 5)
    patches = windows.reshape(-1, 27) @ found.numpy().T
    covariance = np.cov(patches.T)
    variances = np.diag(covariance)
    assert np.all(np.diff(variances) <= 1e-6 * variances[0])
    assert np.abs(covariance - np.diag(variances)).max() < 1e-3 * variances[0]


def test_a_network_keeps_the_filters_that_are_left_over(digits: Path) -> None:
    reader = RecordReader(digits / "digits_train.rec")
    drawn, network = resnet(8, 10, width=4), resnet(8, 10, width=4)
    whiten(network, reader, 1)
    weight = network.conv0.weight
    assert torch.equal(weight[:54:2], -weight[1:54:2])
    assert torch.allclose(weight[:54].flatten(1).norm(dim=1), torch.tensor(math.sqrt(2)))
    assert torch.equal(weight[54:], drawn.conv0.weight[54:])
    narrow = resnet(8, 10)
    whiten(narrow, reader, 2)
    assert torch.equal(narrow.conv0.weight, weight[:16])


def test_a_run_begins_with_them(digits: Path, tmp_path: Path, run: Run) -> None:
    """At learning rate 0 the weights stay where they began."""
    arguments = ("train", "--data-dir", digits, "--data-type", "digits", "--depth", 8, "--epochs", 1, "--gpus", "",
                 "--num-examples", 32, "--batch-size", 32, "--lr", 0, "--model-prefix", tmp_path / "m")  # fmt: skip
    assert run(*arguments, "--whiten")[0] == 0
    expected = resnet(8, 10)
    whiten(expected, RecordReader(digits / "digits_train.rec"), 1)
    trained, _ = weights.load(str(tmp_path / "m"), 1)
    assert torch.equal(trained.conv0.weight, expected.conv0.weight)
    assert torch.equal(trained.fc1.weight, expected.fc1.weight)
