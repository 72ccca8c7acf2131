"""A unit that the package does not have, described in tests/squeeze.py: what MXNet 1.9.1 makes of its symbol."""

import pytest
import torch
from parity import MXNet, difference, random_images, random_network, weights_of

from resnet_v2.interchange.symbol import symbol_json
from resnet_v2.networks.architecture import Architecture
from resnet_v2.networks.units import UNITS
from squeeze import squeeze_and_excitation

pytest_plugins = ["mxnet_process"]


@pytest.mark.parametrize("architecture", [Architecture(20, 10, "cifar"), Architecture(29, 10, "pooled")], ids=str)
def test_logits_of_squeeze_and_excitation(
    architecture: Architecture, mxnet: MXNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = symbol_json(architecture)
    monkeypatch.setitem(UNITS, "v2", squeeze_and_excitation)
    images = random_images(2, 32, seed=1)
    network = random_network(architecture, images, seed=2)
    arrays = {**weights_of(network), "data": images}
    with torch.inference_mode():
        ours = network(torch.from_numpy(images)).numpy()
    _, theirs = mxnet.ask("logits", arrays, json=symbol_json(architecture))
    assert difference(ours, theirs["logits"]) < 1e-4
    # Without the gates the numbers are others.
    _, plain = mxnet.ask("logits", arrays, json=common)
    assert difference(plain["logits"], theirs["logits"]) > 0.01
