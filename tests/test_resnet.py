"""Networks: shapes, parameter counts from the papers' tables, gradients, recomputation."""

import pytest
import torch

from resnet_v2.files import ResnetError
from resnet_v2.networks.resnet import IMAGENET_UNITS, Architecture, ResNet, Stem, Version, initialize, resnet

# Counted from the published symbols (MXNet's own shape inference, fixed gamma left out).
PARAMETERS = {
    ("imagenet", 18): 11_691_947,
    ("imagenet", 50): 25_549_483,
    ("imagenet", 200): 64_666_283,
    ("cifar", 20): 272_541,
    ("cifar", 164): 1_703_261,
    ("cifar", 1001): 10_327_709,
}


def images(count: int, size: int) -> torch.Tensor:
    pixels = torch.randint(0, 256, (count, 3, size, size), generator=torch.Generator().manual_seed(1))
    return pixels.float().to(memory_format=torch.channels_last)


@pytest.mark.parametrize(("stem", "depth"), PARAMETERS)
def test_parameter_count(stem: Stem, depth: int) -> None:
    with torch.device("meta"):
        network = ResNet(Architecture(depth, 1000 if stem == "imagenet" else 10, stem))
    assert sum(parameter.numel() for parameter in network.parameters()) == PARAMETERS[stem, depth]


@pytest.mark.parametrize("version", ["v2", "v1"])
@pytest.mark.parametrize("depth", IMAGENET_UNITS)
def test_layers_and_shapes_of_imagenet_depths(depth: int, version: Version) -> None:
    with torch.device("meta"):
        network = ResNet(Architecture(depth, 11_221, "imagenet", version))
        assert network(torch.empty(2, 3, 224, 224)).shape == (2, 11_221)
        assert network.stem(torch.empty(2, 3, 224, 224)).shape == (2, 64, 56, 56)
    shortcuts = ("sc", "conv1sc")
    layers = [
        name
        for name, module in network.named_modules()
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear) and not name.endswith(shortcuts)
    ]
    # The published 269 counts its table as 3 x (3+30+48+8) + 2, as every other depth does.
    assert len(layers) == depth


@pytest.mark.parametrize(
    ("depth", "bottleneck"), [(8, False), (20, False), (110, False), (11, True), (29, True), (164, True), (1001, True)]
)
def test_units_of_cifar_depths(depth: int, bottleneck: bool) -> None:
    architecture = Architecture(depth, 10, "cifar")
    assert architecture.bottleneck is bottleneck
    assert sum(architecture.units) * (3 if bottleneck else 2) + 2 == depth


@pytest.mark.parametrize(
    ("stem", "depth"), [("imagenet", 20), ("cifar", 21), ("cifar", 170), ("cifar", 2), ("cifar", -7)]
)
def test_wrong_depth_says_which_exist(stem: Stem, depth: int) -> None:
    with pytest.raises(ResnetError, match="depths are"):
        Architecture(depth, 10, stem)


@pytest.mark.parametrize("version", ["v2", "v1"])
@pytest.mark.parametrize("depth", [20, 29, 18, 50])
def test_every_parameter_gets_a_gradient(depth: int, version: Version) -> None:
    network = resnet(depth, classes=7, version=version)
    size = network.architecture.image_size // (1 if depth in (20, 29) else 4)
    torch.nn.functional.cross_entropy(network(images(4, size)), torch.tensor([0, 3, 6, 1])).backward()  # type: ignore[no-untyped-call]
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_first_batch_norm_has_no_gamma() -> None:
    network = resnet(20, 10)
    assert "bn_data.weight" not in network.state_dict()
    x = images(8, 32)
    assert network.bn_data is not None
    y = network.bn_data(x)
    assert torch.allclose(y.mean((0, 2, 3)), torch.zeros(3), atol=1e-5)
    assert torch.allclose(y.var((0, 2, 3), unbiased=False), torch.ones(3), atol=1e-5)


def test_initialization_depends_on_the_seed_alone() -> None:
    first, second = resnet(20, 10, seed=3), resnet(20, 10, seed=4)
    torch.manual_seed(99)
    again = initialize(first, 3).state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in resnet(20, 10, seed=3).state_dict().items())
    assert not torch.equal(second.conv0.weight, first.conv0.weight)


def test_initial_deviation_is_that_of_the_fan_in() -> None:
    for name, module in resnet(50, 1000).named_modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            fan_in = module.weight[0].numel()
            assert module.weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.03), name


@pytest.mark.parametrize("version", ["v2", "v1"])
def test_recomputing_units_changes_no_bit(version: Version) -> None:
    plain, frugal = resnet(29, 10, version), resnet(29, 10, version)
    frugal.recompute = True
    for step in range(3):
        for network in (plain, frugal):
            network.zero_grad()
            network(images(4, 32) + step).square().mean().backward()
    gradients = zip(plain.parameters(), frugal.parameters(), strict=True)
    assert all(torch.equal(one.grad, other.grad) for one, other in gradients if one.grad is not None is not other.grad)
    statistics = dict(frugal.named_buffers())
    for name, buffer in plain.named_buffers():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(buffer, statistics[name]), name


def test_recomputing_keeps_less_for_the_backward_pass() -> None:
    def kept(network: ResNet) -> int:
        total = 0

        def count(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal total
            total += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            network(images(2, 32))
        return total

    network = resnet(56, 10)
    plain = kept(network)
    network.recompute = True
    assert kept(network) < plain / 3
