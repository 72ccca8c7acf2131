"""Logits and parameter counts against MXNet 1.9.1, whose symbols are built apart from ours (symbols.py)."""

import numpy as np
import pytest
import torch
from parity import MXNet, difference, random_images, random_network, settings_of, weights_of

from resnet_v2.interchange.symbol import symbol_json
from resnet_v2.networks.architecture import IMAGENET_UNITS, Architecture
from resnet_v2.networks.resnet import ResNet

pytest_plugins = ["mxnet_process"]

NETWORKS = [
    *(Architecture(depth, 1000, "imagenet") for depth in IMAGENET_UNITS),
    Architecture(14, 10, "pooled", width=3),
    Architecture(17, 10, "dawn", width=2),
    *(Architecture(depth, 10, "cifar") for depth in (20, 56, 110, 164)),
    Architecture(50, 1000, "imagenet", "v1"),
    Architecture(18, 1000, "imagenet", "v1"),
    Architecture(20, 10, "cifar", "v1"),
    Architecture(18, 1000, "gluon"),
    Architecture(50, 1000, "gluon", "v1"),
    Architecture(164, 10, "cifar", "v1"),
]


def name_of(architecture: Architecture) -> str:
    return f"{architecture.stem}-{architecture.depth}-{architecture.version}"


@pytest.mark.parametrize("architecture", NETWORKS, ids=name_of)
def test_logits(architecture: Architecture, mxnet: MXNet) -> None:
    images = random_images(2, architecture.image_size, seed=1)
    network = random_network(architecture, images, seed=2)
    with torch.inference_mode():
        ours = network(torch.from_numpy(images)).numpy()
    arrays = {**weights_of(network), "data": images}
    _, theirs = mxnet.ask("logits", arrays, **settings_of(architecture))
    found = difference(ours, theirs["logits"])
    print(f"{name_of(architecture)}: logits up to {np.abs(ours).max():.3g} differ by {found:.2e}")
    assert found < 1e-4
    # The symbol that we write gives the same numbers as the one written for the test, to the last bit.
    _, written = mxnet.ask("logits", arrays, json=symbol_json(architecture))
    assert np.array_equal(written["logits"], theirs["logits"])


@pytest.mark.parametrize(
    "architecture",
    [
        Architecture(50, 1000, "imagenet"),
        Architecture(269, 1000, "imagenet"),
        Architecture(164, 10, "cifar"),
        Architecture(164, 10, "cifar", "v1"),
    ],
    ids=name_of,
)
def test_logits_in_float64(architecture: Architecture, mxnet: MXNet) -> None:
    """In double precision the two agree to 12 digits, undamped branches too: what differs in float32 is the rounding.

    In float32 both are then equally far from the float64 result (ResNet-269: ours 2.0e-4, MXNet's 2.0e-4).
    """
    images = random_images(2, architecture.image_size, seed=3)
    network = random_network(architecture, images, seed=4, damped=False)
    arrays = {**weights_of(network), "data": images}
    with torch.inference_mode():
        ours = network.double()(torch.from_numpy(images).double()).numpy()
    _, theirs = mxnet.ask("logits", arrays, **settings_of(architecture), dtype="float64")
    found = difference(ours, theirs["logits"])
    print(f"{name_of(architecture)}: logits in float64 differ by {found:.2e}")
    assert found < 1e-11


@pytest.mark.parametrize("depth", [*IMAGENET_UNITS, 20, 110, 164, 1001])
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_parameters_and_their_shapes(depth: int, version: str, mxnet: MXNet) -> None:
    imagenet = depth in IMAGENET_UNITS
    architecture = Architecture(depth, 1000 if imagenet else 10, "imagenet" if imagenet else "cifar", version)  # type: ignore[arg-type]
    answer, _ = mxnet.ask("shapes", **settings_of(architecture), size=architecture.image_size)
    theirs = {name: tuple(shape) for name, shape in answer["shapes"].items()}
    for given in ("data", "softmax_label"):
        del theirs[f"arg:{given}"]
    ours = {name: array.shape for name, array in weights_of(ResNet(architecture)).items()}
    assert ours == theirs
    theirs.pop("arg:bn_data_gamma", None)
    counted = sum(int(np.prod(shape)) for name, shape in theirs.items() if name.startswith("arg:"))
    assert counted == sum(parameter.numel() for parameter in ResNet(architecture).parameters())
