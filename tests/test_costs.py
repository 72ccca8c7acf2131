"""Costs of links against what autograd really keeps."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from resnet_v2.config.fields import Version
from resnet_v2.networks.architecture import Architecture
from resnet_v2.networks.description import INPUT
from resnet_v2.networks.modules import Link
from resnet_v2.networks.resnet import ResNet, initialize
from resnet_v2.recompute import speeds
from resnet_v2.recompute.costs import link_costs
from resnet_v2.recompute.plan import forecast
from resnet_v2.recompute.speeds import Passes, Speeds

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
        (Architecture(17, 10, "dawn"), 32),
        (Architecture(18, 10, "imagenet"), 96),
        (Architecture(50, 10, "imagenet"), 96),
        (Architecture(50, 10, "imagenet", "v1"), 64),
        (Architecture(50, 10, "timm"), 64),
        (Architecture(18, 10, "gluon"), 64),
        (Architecture(18, 10, "gluon", "v1"), 64),
    ],
    ids=str,
)
def test_plain_networks_keep_what_the_costs_say(architecture: Architecture, size: int) -> None:
    network = initialize(ResNet(architecture), 0)
    links = network.links()
    costs = link_costs(links, size)
    kept = forecast(links, costs, None).kept_bytes
    # Behind the chain v2 keeps the inputs of the last BatchNorm and ReLU, v1 the last ReLU's output.
    head = costs[-1].output * (2 if architecture.version == "v2" else 1)
    # Three images, since no convolution here has three output channels.
    assert saved_bytes(network, size, 3) == kept + head


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
    assert half[0].points[INPUT] == whole[0].points[INPUT] == 3 * 224 * 224 * 4


def test_a_kernel_takes_its_arithmetic_its_traffic_or_its_start() -> None:
    with torch.device("meta"):
        small = ResNet(Architecture(20, 10, "cifar")).links()
        large = ResNet(Architecture(50, 1000, "imagenet")).links()
    card = speeds.CARDS["H100"]

    def seconds(links: tuple[Link, ...], side: int, element: int, device: Speeds) -> float:
        return sum(cost.forward + cost.backward for cost in link_costs(links, side, element, device, batch_size=1))

    # One small image: as long as its kernels take to start, however fast the card is.
    starts = card.launch * sum(cost.kernels for cost in link_costs(small, 32, 4, card, batch_size=1))
    assert seconds(small, 32, 4, card) == pytest.approx(starts, rel=0.3)
    assert seconds(small, 32, 4, replace(card, bandwidth=1e20, flops_32=1e20)) == pytest.approx(starts, rel=0.3)
    tireless = replace(card, launch=0.0)
    both = seconds(large, 224, 2, tireless)
    for name in ("bandwidth", "flops_16"):
        assert both < seconds(large, 224, 2, replace(tireless, **{name: getattr(card, name) / 10}))
    # Half the bytes and twice the rate.
    assert both == pytest.approx(seconds(large, 224, 4, tireless) / 2, rel=0.01)
    # What was measured of an earlier version, whose BatchNorms and ReLUs were five passes forward and eight back.
    measured = replace(card, passes=Passes(forward=5, backward=8, again=5))
    for depth, batch_size, milliseconds in ((50, 256, 108), (200, 128, 165)):
        with torch.device("meta"):
            links = ResNet(Architecture(depth, 1000, "imagenet")).links()
        assert 1000 * batch_size * seconds(links, 224, 4, replace(measured, launch=0.0)) == pytest.approx(
            milliseconds, rel=0.15
        )


def test_units_by_hand() -> None:
    """In elements of the unit's output; a device that computes at once and moves an element in a second."""
    slow = replace(speeds.CPU, bandwidth=4.0, flops_32=1e30)
    # Name of the unit, elements; what its two or three BatchNorms move in two passes; the most gradients at once.
    by_hand: list[tuple[Version, str, int, int, int]] = [
        # Behind conv1 wait the gradients of the sum, which the shortcut wants, and of relu2, for that of conv1.
        ("v2", "stage1.unit2", 16 * 32**2, 2 + 2, 3),
        # The input is twice the output. Behind conv1: that of the sum, of relu1 by the shortcut, and of relu1 again.
        ("v2", "stage2.unit1", 32 * 16**2, 4 + 2, 1 + 2 + 2),
        ("v1", "stage1.unit2", 16 * 32**2, 2 + 2, 3),
        ("v1", "stage2.unit1", 32 * 16**2, 2 + 2 + 2, 1 + 2 + 2),
    ]
    for version, name, elements, renormalise, gradients in by_hand:
        network = ResNet(Architecture(20, 10, "cifar", version))
        links = network.links()
        (place,) = [i for i, link in enumerate(links) if link.owner is network.get_submodule(name)]
        cost = link_costs(links, 32, 4, slow)[place]
        assert cost.renormalise == pytest.approx(renormalise * elements), name
        assert cost.plain_peak == 4 * gradients * elements, name
