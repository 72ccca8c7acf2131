"""One description is enough for a new kind of unit: squeeze and excitation, which stands in squeeze.py alone."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import test_costs
import test_export
import test_recompute
from resnet_v2.interchange import mxnet
from resnet_v2.interchange.graph import prove, read_graph
from resnet_v2.interchange.symbol import symbol_json
from resnet_v2.networks.architecture import Architecture
from resnet_v2.networks.modules import Unit
from resnet_v2.networks.resnet import ResNet, initialize
from resnet_v2.networks.units import UNITS, units
from resnet_v2.recompute.budget import Workload
from resnet_v2.recompute.costs import link_costs
from resnet_v2.recompute.plan import forecast
from resnet_v2.training.optim import nesterov_sgd
from squeeze import squeeze_and_excitation

BASIC, BOTTLENECK = Architecture(14, 10, "cifar"), Architecture(29, 10, "pooled")


@pytest.fixture(autouse=True)
def squeezed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks of version v2 have the new units."""
    monkeypatch.setitem(UNITS, "v2", squeeze_and_excitation)


def test_the_module_computes_what_the_paper_says() -> None:
    torch.manual_seed(0)
    description = units(BOTTLENECK)["stage2.unit1"]
    unit = Unit(description, momentum=0.1).train()
    assert [name for name, _ in unit.named_children()] == [
        *("bn1", "conv1", "bn2", "conv2", "bn3", "conv3"),
        *("down", "up", "sc"),
    ]
    x = torch.randn(3, 64, 8, 8)
    y, activated = x, x
    for number in (1, 2, 3):
        norm, convolution = unit.get_submodule(f"bn{number}"), unit.get_submodule(f"conv{number}")
        y = F.relu(norm(y))
        activated = y if number == 1 else activated
        y = convolution(y)
    excited = F.relu(unit.get_submodule("down")(y.mean((2, 3), keepdim=True)))
    expected = y * torch.sigmoid(unit.get_submodule("up")(excited)) + unit.get_submodule("sc")(activated)
    assert torch.equal(unit(x), expected)


@pytest.mark.parametrize("architecture", [BASIC, BOTTLENECK], ids=str)
def test_it_trains(architecture: Architecture) -> None:
    network = initialize(ResNet(architecture), 0)
    optimizer = nesterov_sgd(network, 0.05, 0.9, 1e-4)
    images, labels, losses = test_recompute.images(8, 32, 0), torch.arange(8), []
    for _ in range(8):
        optimizer.zero_grad()
        loss = F.cross_entropy(network(images), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.any(), name
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2, losses


def test_a_unit_may_begin_as_its_shortcut() -> None:
    network = initialize(ResNet(BASIC), 0, zero_init_residual=True).eval()
    unit = network.get_submodule("stage1.unit2")
    x = torch.randn(2, 16, 8, 8)
    assert torch.equal(unit(x), x)


@pytest.mark.parametrize("architecture", [BASIC, BOTTLENECK], ids=str)
def test_plans_change_no_bit_and_run_and_keep_what_they_say(architecture: Architecture) -> None:
    test_recompute.test_plans_change_no_bit_and_run_what_they_say(architecture, 32)


@pytest.mark.parametrize("bf16", [False, True])
def test_plans_in_bfloat16(bf16: bool) -> None:
    links = ResNet(BASIC).links()
    found = test_recompute.plans(links, link_costs(links, 32))
    plain = test_recompute.train(test_recompute.network_of(BASIC), 32, 2, bf16)
    for name in ("activated", "one segment"):
        planned = test_recompute.train(test_recompute.network_of(BASIC, found[name]), 32, 2, bf16)
        assert test_recompute.equal(plain, planned), name


def test_plans_keep_what_the_forecast_says() -> None:
    links = test_recompute.network_of(BASIC).links()
    costs = link_costs(links, 32)
    for name, plan in test_recompute.plans(links, costs).items():
        assert test_recompute.kept_bytes(links, plan, 7) == forecast(links, costs, plan).kept_bytes, name


@pytest.mark.parametrize("architecture", [BASIC, BOTTLENECK], ids=str)
def test_plain_networks_keep_what_the_costs_say(architecture: Architecture) -> None:
    network = initialize(ResNet(architecture), 0)
    links, costs = network.links(), link_costs(network.links(), 32)
    # Of a ReLU or sigmoid behind a convolution autograd keeps what it gives; the costs count what it takes, too.
    taken = sum(convolution.out_channels for name, convolution in convolutions(network) if name in ("down", "up"))
    counted = forecast(links, costs, None).kept_bytes + 2 * costs[-1].output  # and the head's BatchNorm and ReLU
    assert test_costs.saved_bytes(network, 32, 3) == counted - 4 * taken


def convolutions(network: ResNet) -> Iterator[tuple[str, nn.Conv2d]]:
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            yield name.rpartition(".")[2], module


def test_a_budget_has_a_plan() -> None:
    workload = Workload(BOTTLENECK)
    whole = workload.total_bytes(workload.plain().forecast, 128)
    budget = workload.process_bytes + (whole - workload.process_bytes) // 2
    chosen = workload.within(budget, 128)
    assert workload.total_bytes(chosen.forecast, 128) <= budget
    assert 0 < chosen.forecast.extra_time < 0.5
    assert chosen.plan is not None
    links = test_recompute.network_of(BOTTLENECK).links()
    assert test_recompute.kept_bytes(links, chosen.plan, 7) == chosen.forecast.kept_bytes


def test_folding_keeps_the_logits() -> None:
    test_export.test_folding_keeps_the_logits(BOTTLENECK)


@test_export.needs_onnx
def test_engines_agree(tmp_path: Path) -> None:
    test_export.test_engines_agree(BOTTLENECK, tmp_path)


def test_the_symbol_and_the_checkpoint(tmp_path: Path) -> None:
    network = initialize(ResNet(BASIC), 1)
    text = symbol_json(BASIC)
    names = [node["name"] for node in json.loads(text)["nodes"]]
    assert {"stage3_unit2_up_weight", "stage3_unit2_squeeze", "broadcast_mul5", "_plus5"} <= {*names}
    assert "broadcast_mul6" not in names
    assert prove(read_graph(text, "x-symbol.json"), BASIC, {}).fixed_gammas == {"bn_data_gamma"}
    mxnet.save_checkpoint(str(tmp_path / "net"), 1, network)
    architecture, tensors = mxnet.load_checkpoint(str(tmp_path / "net"), 1)
    assert architecture == BASIC
    assert all(torch.equal(tensors[name], tensor) for name, tensor in mxnet_state(network).items())


def mxnet_state(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in network.state_dict().items() if "num_batches" not in name}
