"""New weights against MXNet's Xavier(rnd_type="gaussian", factor_type="in", magnitude=2)."""

import numpy as np
import pytest
from parity import MXNet, settings_of, weights_of

from resnet_v2.networks.architecture import Architecture
from resnet_v2.networks.resnet import ResNet, initialize

pytest_plugins = ["mxnet_process"]


@pytest.mark.parametrize(
    "architecture",
    [Architecture(50, 1000, "imagenet"), Architecture(20, 10, "cifar"), Architecture(18, 1000, "imagenet", "v1")],
    ids=lambda architecture: f"{architecture.depth}-{architecture.version}",
)
def test_mean_and_deviation_of_every_layer(architecture: Architecture, mxnet: MXNet) -> None:
    ours = weights_of(initialize(ResNet(architecture), seed=1))
    _, theirs = mxnet.ask("initialize", **settings_of(architecture), size=architecture.image_size, seed=2)
    assert ours.keys() == theirs.keys()
    for name, values in theirs.items():
        if not name.endswith("_weight"):
            # The gamma of bn_data does not count; ours is a trap (parity.weights_of).
            assert name == "arg:bn_data_gamma" or np.array_equal(ours[name], values), name
            continue
        deviation = (2 / values[0].size) ** 0.5
        for drawn in (ours[name].astype(float), values.astype(float)):
            # Five times the deviation of the two estimates themselves.
            assert abs(drawn.mean()) < 5 * deviation / drawn.size**0.5, name
            assert abs(drawn.std() / deviation - 1) < 5 / (2 * drawn.size) ** 0.5, name
            # A Gaussian has a kurtosis of 3, a uniform draw 1.8.
            kurtosis = ((drawn - drawn.mean()) ** 4).mean() / drawn.var() ** 2
            assert abs(kurtosis - 3) < 5 * (24 / drawn.size) ** 0.5 + 0.02, name
