"""Networks and activation plans of every kind, for the tests of devices."""

from collections.abc import Callable
from functools import cache

import torch

from resnet_v2.networks.architecture import Architecture
from resnet_v2.networks.resnet import ResNet
from resnet_v2.recompute.costs import link_costs
from resnet_v2.recompute.plan import Plan, uniform_plan
from resnet_v2.recompute.search import smallest_plan

NETWORKS = [
    (Architecture(20, 10, "cifar"), 32),
    (Architecture(29, 10, "cifar"), 32),
    (Architecture(29, 10, "cifar", "v1"), 32),
    (Architecture(14, 10, "pooled", width=2), 32),
    (Architecture(17, 10, "dawn"), 32),
    (Architecture(18, 10, "imagenet"), 64),
    (Architecture(50, 10, "imagenet"), 64),
    (Architecture(50, 10, "imagenet", "v1"), 64),
    (Architecture(50, 10, "timm"), 64),
]


@cache
def smallest(architecture: Architecture, size: int) -> Plan:
    """The plan of least memory, which takes seconds to find."""
    with torch.device("meta"):
        links = ResNet(architecture).links()
    return smallest_plan(links, link_costs(links, size))[0]


PLANS: dict[str, Callable[[ResNet, int], Plan | None]] = {
    "plain": lambda network, size: None,
    "all kept": lambda network, size: uniform_plan(network.links(), activated=True),
    "norms again": lambda network, size: uniform_plan(network.links(), activated=False),
    "smallest": lambda network, size: smallest(network.architecture, size),
}
