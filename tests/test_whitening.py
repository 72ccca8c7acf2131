"""The first convolution made of the training images' principal components."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from conftest import Run, digits_run, picture
from resnet_v2.data.jpeg import encode
from resnet_v2.data.labels import labels_of
from resnet_v2.data.loader import Reading
from resnet_v2.data.record_set import RecordSet, open_records
from resnet_v2.data.records import IRHeader, pack, writing
from resnet_v2.networks.architecture import Architecture
from resnet_v2.networks.resnet import ResNet, initialize
from resnet_v2.networks.weights import read_checkpoint
from resnet_v2.training import whitening
from resnet_v2.training.whitening import SMALLEST, whiten_stem

LABELS, READING = labels_of(10), Reading(0)


def record(path: Path, images: NDArray[np.uint8]) -> RecordSet:
    with writing(path) as writer:
        for key, image in enumerate(images):
            writer.write(key, pack(IRHeader(0, float(key % 2), key, 0), encode(image, ".png", 1)))
    return open_records(path)


@pytest.fixture
def pictures() -> NDArray[np.uint8]:
    return np.stack([picture(seed, 40, 40) for seed in range(30)])


def network_of(width: int = 2) -> ResNet:
    return initialize(ResNet(Architecture(11, 10, "dawn", width=width)), 0)


def responses(weight: Tensor, images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """What filters give of images whose channels have mean 0 and deviation 1: filters x places."""
    x = torch.from_numpy(images).permute(0, 3, 1, 2).double()
    x = (x - x.mean((0, 2, 3), keepdim=True)) / x.std((0, 2, 3), keepdim=True)
    return F.conv2d(x, weight.double()).permute(1, 0, 2, 3).flatten(1).numpy()


def test_filters_are_the_largest_components_of_variance_one_and_their_opposites(
    tmp_path: Path, pictures: NDArray[np.uint8]
) -> None:
    network = network_of()
    whiten_stem(network, record(tmp_path / "a.rec", pictures), 32, LABELS, READING)
    first, second = network.conv0.weight.detach().chunk(2)
    assert torch.equal(first, -second)
    directions = (first / first.flatten(1).norm(dim=1).view(-1, 1, 1, 1)).flatten(1)
    assert torch.allclose(directions @ directions.T, torch.eye(16), atol=1e-5)
    given = responses(first, pictures[:, 4:36, 4:36])
    # A filter scales its pattern by 1 / sqrt(variance + SMALLEST); what it gives is not correlated with the others'.
    covariance = given @ given.T / given.shape[1]
    lengths = first.flatten(1).norm(dim=1).double().numpy()
    variances = lengths**-2 - SMALLEST
    assert np.all(np.diff(variances) < 0)
    assert np.allclose(covariance, np.diag(variances / (variances + SMALLEST)), atol=0.02)
    # They are the largest: what 16 of the 27 directions leave over of the whole variance is little.
    x = torch.from_numpy(pictures[:, 4:36, 4:36]).permute(0, 3, 1, 2).double()
    x = (x - x.mean((0, 2, 3), keepdim=True)) / x.std((0, 2, 3), keepdim=True)
    patches = F.unfold(x, 3).transpose(1, 2).flatten(0, 1)
    spectrum = np.linalg.svd(patches.numpy() / np.sqrt(len(patches)), compute_uv=False) ** 2
    assert np.allclose(variances, spectrum[:16], rtol=0.02, atol=1e-4)


def test_filters_beyond_twice_the_components_stay(tmp_path: Path, pictures: NDArray[np.uint8]) -> None:
    before = network_of(4).conv0.weight.detach()
    network = network_of(4)
    whiten_stem(network, record(tmp_path / "a.rec", pictures), 32, LABELS, READING)
    assert torch.equal(network.conv0.weight[:27], -network.conv0.weight[27:54])
    assert torch.equal(network.conv0.weight[54:], before[54:])
    assert not torch.equal(network.conv0.weight[:54], before[:54])


def test_large_images_and_their_stem(
    tmp_path: Path, pictures: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whitening, "PATCHES", 5 * 13 * 13)
    seen: list[int] = []

    def counted(images: Tensor, kernel: int, stride: int) -> Tensor:
        seen.append(len(images))
        return patches_of(images, kernel, stride)

    monkeypatch.setattr(whitening, "_patches", counted)
    network = initialize(ResNet(Architecture(18, 10, "imagenet")), 0)
    whiten_stem(network, record(tmp_path / "a.rec", pictures), 32, LABELS, READING)
    assert seen == [5]
    assert torch.equal(network.conv0.weight[:32], -network.conv0.weight[32:])
    assert bool(network.conv0.weight.isfinite().all())


patches_of = whitening._patches


def test_images_of_one_colour_make_no_infinite_filters(tmp_path: Path) -> None:
    grey = np.full((4, 32, 32, 3), 90, np.uint8)
    network = network_of()
    whiten_stem(network, record(tmp_path / "a.rec", grey), 32, LABELS, READING)
    assert bool(network.conv0.weight.isfinite().all())


def test_a_run_begins_with_them(digits: Path, tmp_path: Path, run: Run) -> None:
    settings = {"stem": "dawn", "depth": 11, "lr": 0, "epochs": 1, "num_examples": 64, "whiten_stem": True}
    code, _, error = run(*digits_run(digits, model_prefix=tmp_path / "a", device="cpu", workers=0, **settings))
    assert code == 0, error
    _, _, tensors = read_checkpoint(str(tmp_path / "a"))
    network = initialize(ResNet(Architecture(11, 10, "dawn")), 0)
    drawn = network.conv0.weight.detach().clone()
    whiten_stem(network, open_records(digits / "digits_train.rec"), 32, LABELS, READING)
    assert torch.equal(tensors["conv0.weight"], network.conv0.weight)
    assert not torch.equal(tensors["conv0.weight"], drawn)


def test_it_is_for_new_weights(digits: Path, tmp_path: Path, run: Run) -> None:
    code, _, error = run(*digits_run(digits, finetune="cifar10-resnet-14", whiten_stem=True, depth=14, device="cpu"))
    assert code == 2
    assert "--whiten-stem are for new weights" in error.replace("\n", " ")
