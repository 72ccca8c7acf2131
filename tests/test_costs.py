"""Costs of links against what autograd really keeps."""

import pytest
import torch
from torch import Tensor

from resnet_v2.networks.architecture import Architecture
from resnet_v2.networks.costs import link_costs
from resnet_v2.networks.plan import forecast
from resnet_v2.networks.resnet import ResNet, initialize

MIB = 2**20


def saved_bytes(network: ResNet, size: int, batch: int) -> int:
    """Bytes per image of the distinct tensors that autograd keeps, weights and statistics left out."""
    found: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.dim() == 4 and tensor.shape[0] == batch:
            found[tensor.data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network(torch.rand(batch, 3, size, size)).sum()
    return sum(tensor.numel() * tensor.element_size() for tensor in found.values()) // batch


@pytest.mark.parametrize(
    ("architecture", "size"),
    [
        (Architecture(20, 10, "cifar"), 32),
        (Architecture(29, 10, "cifar"), 32),
        (Architecture(29, 10, "cifar", "v1"), 32),
        (Architecture(14, 10, "pooled", width=2), 32),
        (Architecture(18, 10, "imagenet"), 96),
        (Architecture(50, 10, "imagenet"), 96),
        (Architecture(50, 10, "imagenet", "v1"), 64),
    ],
    ids=str,
)
def test_plain_networks_keep_what_the_costs_say(architecture: Architecture, size: int) -> None:
    network = initialize(ResNet(architecture), 0)
    links = network.links()
    costs = link_costs(links, size)
    assert sum(cost.plain for cost in costs) == forecast(links, costs, None).kept_bytes
    # Behind the chain v2 keeps the inputs of the last BatchNorm and ReLU, v1 the last ReLU's output.
    head = costs[-1].output * (2 if architecture.version == "v2" else 1)
    # Three images, since no convolution here has three output channels.
    assert saved_bytes(network, size, 3) == sum(cost.plain for cost in costs) + head


def test_published_networks_keep_what_was_measured_of_them() -> None:
    for depth, mib in ((50, 77.7), (101, 117), (152, 165), (200, 239), (269, 300)):
        with torch.device("meta"):
            links = ResNet(Architecture(depth, 1000, "imagenet")).links()
        assert forecast(links, link_costs(links, 224), None).kept_bytes / MIB == pytest.approx(mib, rel=0.02)


def test_bf16_halves_what_is_kept_but_for_the_images() -> None:
    with torch.device("meta"):
        links = ResNet(Architecture(50, 1000, "imagenet")).links()
    whole, half = (link_costs(links, 224, size) for size in (4, 2))
    assert all(2 * half[i].points[p] == whole[i].points[p] for i in range(1, len(links)) for p in whole[i].points)
    assert half[0].points[0] == whole[0].points[0] == 3 * 224 * 224 * 4
