"""Networks: shapes, parameter counts from the papers' tables, gradients, the chain of links."""

import copy
from typing import cast

import pytest
import torch
import torch.nn.functional as F

from resnet_v2.config.fields import Stem, Version
from resnet_v2.errors import ResnetError
from resnet_v2.networks.architecture import IMAGENET_UNITS, Architecture
from resnet_v2.networks.resnet import ResNet, default_stem, initialize, resnet

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


def test_a_pooled_stem_and_a_width() -> None:
    network = ResNet(Architecture(14, 10, "pooled", width=3))
    x = images(2, 32)
    assert network.stem(x).shape == (2, 48, 16, 16)
    assert network.maps(x).shape == (2, 192, 4, 4)
    assert network(x).shape == (2, 10)
    plain, wide = (resnet(20, 10, width=width).state_dict() for width in (1, 4))
    name = "stage2.unit1.conv1.weight"
    assert wide[name].numel() == 16 * plain[name].numel()
    for stem, version, width, words in (
        ("pooled", "v1", 1, "version v2 only"),
        ("dawn", "v1", 1, "version v2 only"),
        ("cifar", "v2", 0, "`width` 1"),
    ):
        with pytest.raises(ResnetError, match=words):
            Architecture(20, 10, stem, version, width)  # type: ignore[arg-type]


def test_stages_that_pool() -> None:
    network = ResNet(Architecture(17, 10, "dawn", width=2))
    x = images(2, 32)
    assert network.stem(x).shape == (2, 32, 32, 32)
    shapes = [tuple(unit.get_parameter("conv1.weight").shape[:2]) for unit in network.residual_units()]
    assert shapes == [(64, 32), (64, 64), (128, 64), (128, 128), (256, 128), (256, 256)]
    assert network.maps(x).shape == (2, 256, 4, 4)
    assert network(images(2, 20)).shape == (2, 10)
    layers = [module for module in network.modules() if isinstance(module, torch.nn.Conv2d | torch.nn.Linear)]
    assert len(layers) == 17
    first = next(network.residual_units())
    x = network.stem(x)
    pooled = F.max_pool2d(first.conv1(F.relu(first.bn1(x))), 3, 2, 1)  # type: ignore[operator]
    branch = first.conv3(F.relu(first.bn3(first.conv2(F.relu(first.bn2(pooled))))))  # type: ignore[operator]
    assert torch.equal(first(x), branch + pooled)


@pytest.mark.parametrize(
    ("depth", "bottleneck"), [(8, False), (20, False), (110, False), (11, True), (29, True), (164, True), (1001, True)]
)
def test_units_of_cifar_depths(depth: int, bottleneck: bool) -> None:
    architecture = Architecture(depth, 10, "cifar")
    assert architecture.bottleneck is bottleneck
    assert sum(architecture.units) * (3 if bottleneck else 2) + 2 == depth


@pytest.mark.parametrize(
    ("stem", "depth"),
    [("imagenet", 20), ("dawn", 14), ("dawn", 5), ("cifar", 21), ("cifar", 170), ("cifar", 2), ("cifar", -7)],
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
    y = network.bn_data(x)
    assert torch.allclose(y.mean((0, 2, 3)), torch.zeros(3), atol=1e-5)
    assert torch.allclose(y.var((0, 2, 3), unbiased=False), torch.ones(3), atol=1e-5)


def test_initialization_depends_on_the_seed_alone() -> None:
    first, second = resnet(20, 10, seed=3), resnet(20, 10, seed=4)
    torch.manual_seed(99)
    again = initialize(first, 3).state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in resnet(20, 10, seed=3).state_dict().items())
    assert not torch.equal(second.conv0.weight, first.conv0.weight)


@pytest.mark.parametrize("version", ["v2", "v1"])
@pytest.mark.parametrize("depth", [20, 29])  # basic units, bottlenecks
def test_units_may_begin_as_their_shortcuts(version: Version, depth: int) -> None:
    network = initialize(resnet(depth, 10, version), 0, zero_init_residual=True).eval()
    drawn = resnet(depth, 10, version).state_dict()
    for unit in list(network.residual_units())[1:]:
        channels = cast(torch.nn.Conv2d, unit.conv1).in_channels
        if "sc" not in unit._modules:
            x = torch.relu(torch.randn(2, channels, 8, 8))
            assert torch.equal(unit(x), x)
    assert sum(not torch.equal(tensor, drawn[name]) for name, tensor in network.state_dict().items()) == len(
        list(network.residual_units())
    )


def test_initial_deviation_is_that_of_the_fan_in() -> None:
    for name, module in resnet(50, 1000).named_modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            fan_in = module.weight[0].numel()
            assert module.weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.03), name


def test_a_network_of_the_stretched_stages_has_its_layers() -> None:
    with torch.device("meta"):
        network = ResNet(Architecture(1001, 1000, "imagenet"))
        assert network(torch.empty(1, 3, 224, 224)).shape == (1, 1000)
    layers = [
        name
        for name, module in network.named_modules()
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear) and not name.endswith("sc")
    ]
    assert len(layers) == 1001
    assert default_stem(1001) == "cifar"
    assert default_stem(200) == "imagenet"


@pytest.mark.parametrize(("depth", "stem"), [(29, "cifar"), (20, "cifar"), (50, "imagenet"), (18, "imagenet")])
@pytest.mark.parametrize("version", ["v2", "v1"])
def test_links_are_the_network(depth: int, stem: Stem, version: Version) -> None:
    network = resnet(depth, 10, version, stem)
    modules = [
        link.owner.get_submodule(operation.name) for link in network.links() for operation in link.description.layers
    ]
    wanted = [module for module in network.modules() if isinstance(module, torch.nn.Conv2d | torch.nn.BatchNorm2d)]
    # The last BatchNorm of v2 stands behind the chain.
    last = id(network.bn1) if version == "v2" else 0
    assert {id(module) for module in wanted} - {last} == {id(module) for module in modules}
    assert len(modules) == len({id(module) for module in modules})


def test_a_fixed_gamma_is_one_whatever_the_network_was_built_on() -> None:
    x = torch.rand(4, 3, 8, 8) * 255
    expected = torch.nn.functional.batch_norm(x, None, None, training=True, eps=2e-5)
    ordinary = initialize(ResNet(Architecture(8, 10, "cifar")), 0)
    with torch.device("meta"):
        bare = ResNet(Architecture(8, 10, "cifar"))
    from_meta = bare.to_empty(device="cpu")
    for tensor in (*from_meta.parameters(), *from_meta.buffers()):
        tensor.data.fill_(float("nan") if tensor.is_floating_point() else 7)  # what memory may hold
    from_meta.load_state_dict(ordinary.state_dict())
    for network in (ordinary, from_meta, copy.deepcopy(from_meta), copy.deepcopy(ordinary).double().float()):
        assert "bn_data.weight" not in network.state_dict()
        assert {name for name, _ in network.bn_data.named_buffers()} == {
            "running_mean",
            "running_var",
            "num_batches_tracked",
        }
        norm = network.bn_data.train()
        assert torch.allclose(norm(x), expected, atol=1e-5)
        norm(x).sum().backward()
        assert norm.bias.grad is not None
        assert torch.allclose(norm.bias.grad, torch.tensor(4.0 * 8 * 8))
        norm.bias.grad = None


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:The .grad attribute")  # torch's own, when it compiles
def test_every_kind_of_unit_is_compiled_once_and_whole() -> None:
    network = resnet(20, 10).train()
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    for unit in network.get_submodule("stage1").children():
        unit.compile(backend="eager")
    network(images(2, 8))
    # The first of the three units and the other two.
    assert counters["stats"]["unique_graphs"] == 2
    assert not counters["graph_break"]
