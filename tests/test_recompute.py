"""Activation plans change no bit, run what they say, and keep what they say."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from resnet_v2.errors import ResnetError
from resnet_v2.networks import units
from resnet_v2.networks.architecture import Architecture
from resnet_v2.networks.batch_norm import normalise, normalise_again
from resnet_v2.networks.modules import FixedGammaBatchNorm, Link
from resnet_v2.networks.resnet import ResNet, initialize
from resnet_v2.recompute.costs import LinkCost, link_costs
from resnet_v2.recompute.plan import Plan, Segment, forecast, uniform_plan
from resnet_v2.recompute.search import find_plan, smallest_plan
from resnet_v2.recompute.tape import Tape, follow
from resnet_v2.training.optim import fuse_into_backward, nesterov_sgd
from squeeze import squeeze_and_excitation

Links = tuple[Link, ...]
Costs = tuple[LinkCost, ...]
Step = tuple[Tensor, list[Tensor], list[Tensor]]


def images(count: int, size: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 3, size, size), generator=generator)
    return pixels.float().to(memory_format=torch.channels_last)


def network_of(
    architecture: Architecture, plan: Plan | None = None, layout: torch.memory_format | None = None
) -> ResNet:
    network = follow(initialize(ResNet(architecture), 0), plan)
    return network.to(memory_format=layout or torch.channels_last)  # type: ignore[call-overload,no-any-return]


def train(network: ResNet, size: int, steps: int = 3, bf16: bool = False) -> list[Step]:
    """Loss, gradients and buffers of every step."""
    optimizer = nesterov_sgd(network, 0.01, 0.9, 1e-4)
    results = []
    for seed in range(steps):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = F.cross_entropy(network(images(4, size, seed)).float(), torch.tensor([0, 3, 6, 1]))
        loss.backward()  # type: ignore[no-untyped-call]
        gradients = [parameter.grad.clone() for parameter in network.parameters() if parameter.grad is not None]
        results.append((loss.detach(), gradients, [buffer.clone() for buffer in network.buffers()]))
        optimizer.step()
    assert all(len(gradients) == len(list(network.parameters())) for _, gradients, _ in results)
    return results


def equal(first: list[Step], second: list[Step]) -> bool:
    return all(
        torch.equal(one[0], other[0])
        and all(map(torch.equal, one[1], other[1]))
        and all(map(torch.equal, one[2], other[2]))
        for one, other in zip(first, second, strict=True)
    )


def plans(links: Links, costs: Costs) -> dict[str, Plan]:
    """One level and two, with and without points kept inside, a whole chain in one segment, and found ones."""
    count = len(links)
    plain = forecast(links, costs, None).peak_bytes
    tight = find_plan(links, costs, plain * 0.6)
    assert tight is not None
    return {
        "norms": uniform_plan(links, activated=False),
        "activated": uniform_plan(links, activated=True),
        "one segment": Plan((Segment(0, count),)),
        "pairs": Plan((Segment(0, 2, ("conv0", "conv1")), Segment(2, 4, ("conv2",)), Segment(4, count))),
        "two levels": Plan(
            (
                Segment(0, 1, ("conv0",)),
                Segment(1, count - 1, inner=(Segment(1, 3, ("conv1",)), Segment(3, count - 1, ("conv2",)))),
                Segment(count - 1, count),
            )
        ),
        "tight": tight,
        "smallest": smallest_plan(links, costs)[0],
    }


NETWORKS = [
    (Architecture(20, 10, "cifar"), 32),
    (Architecture(29, 10, "cifar"), 32),
    (Architecture(29, 10, "cifar", "v1"), 32),
    (Architecture(20, 10, "cifar", "v1"), 32),
    (Architecture(38, 10, "pooled", width=2), 32),
    (Architecture(17, 10, "dawn"), 32),
    pytest.param(Architecture(50, 10, "imagenet"), 64, marks=pytest.mark.slow),
    (Architecture(18, 10, "imagenet"), 64),
    pytest.param(Architecture(50, 10, "imagenet", "v1"), 64, marks=pytest.mark.slow),
    pytest.param(Architecture(18, 10, "timm"), 64, marks=pytest.mark.slow),
    pytest.param(Architecture(18, 10, "gluon"), 64, marks=pytest.mark.slow),
    pytest.param(Architecture(18, 10, "gluon", "v1"), 64, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("architecture", "size"), NETWORKS, ids=lambda value: str(value).replace("Architecture", ""))
def test_plans_change_no_bit_and_run_what_they_say(architecture: Architecture, size: int) -> None:
    plain = train(network_of(architecture), size)
    network = network_of(architecture)
    links, costs = network.links(), link_costs(network.links(), size)
    for name, plan in plans(links, costs).items():
        network = network_of(architecture, plan)
        runs = [dict.fromkeys(cost.again, 0) for cost in costs]
        for number, link in enumerate(network.links()):
            for name in convolutions(link):
                link.owner.get_submodule(name).register_forward_hook(counter(runs[number], name))
        assert equal(plain, train(network, size)), name
        foretold = forecast(links, costs, plan).runs
        for number, link in enumerate(links):
            for convolution in convolutions(link):
                assert runs[number][convolution] == 3 * foretold[number][convolution], (name, number, convolution)


def convolutions(link: Link) -> list[str]:
    return [operation.name for operation in link.description.operations if operation.kind == "convolution"]


def counter(counts: dict[str, int], name: str) -> Callable[..., None]:
    def count(*_: object) -> None:
        counts[name] += 1

    return count


@pytest.mark.parametrize("version", ["v2", "v1"])
def test_no_bit_changes_under_bf16_and_in_contiguous_memory(version: str) -> None:
    architecture = Architecture(29, 10, "cifar", "v1" if version == "v1" else "v2")
    links = network_of(architecture).links()
    found = plans(links, link_costs(links, 32))
    for plan in (found["pairs"], found["two levels"]):
        assert equal(
            train(network_of(architecture), 32, bf16=True), train(network_of(architecture, plan), 32, bf16=True)
        )
        contiguous = torch.contiguous_format
        one = train(network_of(architecture, layout=contiguous), 32)
        assert equal(one, train(network_of(architecture, plan, contiguous), 32))


@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_updates_inside_the_backward_pass_change_no_bit(momentum: float) -> None:
    architecture = Architecture(29, 10, "cifar")
    links = network_of(architecture).links()
    found = plans(links, link_costs(links, 32))
    results = []
    for fused, plan in ((False, None), (True, None), (True, found["pairs"]), (True, found["two levels"])):
        network = network_of(architecture, plan)
        optimizer = nesterov_sgd(network, 0.05, momentum, 1e-2)
        if fused:
            fuse_into_backward(optimizer)
        for seed in range(3):
            optimizer.zero_grad()
            for group in optimizer.param_groups:
                group["lr"] = 0.05 / (seed + 1)
            F.cross_entropy(network(images(4, 32, seed)), torch.tensor([0, 3, 6, 1])).backward()  # type: ignore[no-untyped-call]
            if fused:
                assert all(parameter.grad is None for parameter in network.parameters())
            optimizer.step()
        state = [optimizer.state[parameter].get("momentum_buffer") for parameter in network.parameters()]
        results.append([*network.state_dict().values(), *(one for one in state if one is not None)])
    for other in results[1:]:
        assert len(other) == len(results[0])
        assert all(map(torch.equal, results[0], other))


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16])
def test_normalising_again_needs_no_statistics_and_gives_the_same_bits(
    layout: torch.memory_format, kind: torch.dtype
) -> None:
    parameters = torch.float32 if kind == torch.bfloat16 else kind
    for channels, side in ((7, 5), (64, 28), (256, 7), (33, 1)):
        generator = torch.Generator().manual_seed(channels)
        x = (
            (3 * torch.randn(3, channels, side, side, generator=generator) + 1)
            .to(kind)
            .contiguous(memory_format=layout)
        )
        for norm in (torch.nn.BatchNorm2d(channels, eps=2e-5), FixedGammaBatchNorm(channels, 2e-5, 0.1)):
            norm.to(parameters)
            for parameter in norm.parameters():
                torch.nn.init.normal_(parameter, generator=generator)
            expected = norm(x)
            y, kept = normalise(norm, x, relu=False)
            moved = norm.running_mean
            assert moved is not None
            before = moved.clone()
            assert torch.equal(y, expected)
            assert torch.equal(normalise_again(norm, x, kept, relu=False), expected)
            assert torch.equal(normalise_again(norm, x, kept, relu=True), expected.relu())
            assert torch.equal(moved, before)


def test_a_view_that_is_not_dense_is_normalised_again_too() -> None:
    norm = torch.nn.BatchNorm2d(8)
    x = torch.randn(2, 8, 12, 12)[:, :, ::2, 1::2]
    y, kept = normalise(norm, x, relu=False)
    assert torch.equal(normalise_again(norm, x, kept, relu=False), y)


def kept_bytes(links: Links, plan: Plan, batch: int) -> int:
    """Bytes per image that live on after the forward pass: on the tape, and behind autograd's own back."""
    unseen: list[int] = []

    def count(tensor: Tensor) -> Tensor:
        unseen.append(tensor.numel() * tensor.element_size() if tensor.shape[:1] == (batch,) else 0)
        return tensor

    tape = Tape(links, plan)
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        output = tape.forward(images(batch, 32, 0))
    assert output.requires_grad
    slots = [slot for group in tape.slots for slot in group.values()]
    tensors = {slot.tensor.data_ptr(): slot.tensor for slot in slots if slot.tensor is not None}
    return (sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()) + sum(unseen)) // batch


@pytest.mark.parametrize("version", ["v2", "v1"])
def test_only_what_the_plan_says_is_kept(version: str) -> None:
    links = network_of(Architecture(29, 10, "cifar", "v1" if version == "v1" else "v2")).links()
    costs = link_costs(links, 32)
    for name, plan in plans(links, costs).items():
        kept = sum(
            costs[number].points[point]
            for segment in plan.segments
            for number in range(segment.start, segment.stop)
            for point in segment.kept(number, links[number])
        )
        kept += sum(costs[segment.start].activations for segment in plan.segments if segment.activated)
        assert kept == forecast(links, costs, plan).kept_bytes
        assert kept_bytes(links, plan, 7) == kept, name


@pytest.mark.parametrize("unit", [units.pre_activation, units.post_activation, squeeze_and_excitation])
def test_nothing_is_held_after_the_backward_pass(unit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(units.UNITS, "v2", unit)
    links = initialize(ResNet(Architecture(14, 10, "cifar")), 0).links()
    for activated in (True, False):
        tape = Tape(links, uniform_plan(links, activated=activated))
        y = tape.forward(images(4, 32, 0))
        slots = [slot for of_link in tape.slots for slot in of_link.values()]
        assert any(slot.tensor is not None for slot in slots)
        y.sum().backward()  # type: ignore[no-untyped-call]
        assert all(slot.tensor is None for slot in slots)


def test_evaluation_and_inference_leave_the_plan_alone() -> None:
    architecture = Architecture(20, 10, "cifar")
    links = network_of(architecture).links()
    plain, planned = network_of(architecture), network_of(architecture, uniform_plan(links, activated=False))
    x = images(2, 32, 0)
    for network in (plain, planned):
        network.eval()
    assert torch.equal(plain(x), planned(x))
    with torch.inference_mode():
        assert torch.equal(plain(x), planned(x))
    for one, other in zip(plain.buffers(), planned.buffers(), strict=True):
        assert torch.equal(one, other)


def test_a_second_backward_pass_says_what_is_wrong() -> None:
    architecture = Architecture(20, 10, "cifar")
    links = network_of(architecture).links()
    network = network_of(architecture, uniform_plan(links, activated=False))
    loss = network(images(2, 32, 0)).mean()
    loss.backward(retain_graph=True)
    with pytest.raises(ResnetError, match="run it again before another backward pass"):
        loss.backward()


def test_a_plan_of_another_network_is_refused() -> None:
    plan = uniform_plan(network_of(Architecture(20, 10, "cifar")).links(), activated=False)
    with pytest.raises(ResnetError, match="The plan is for 10 links, the network has 13"):
        network_of(Architecture(26, 10, "cifar"), plan)(images(2, 32, 0))


def test_distributed_training_takes_plans(tmp_path: object) -> None:
    architecture = Architecture(29, 10, "cifar")
    links = network_of(architecture).links()
    plan = plans(links, link_costs(links, 32))["two levels"]
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/ranks", rank=0, world_size=1)
    try:
        networks = [torch.nn.parallel.DistributedDataParallel(network_of(architecture, its)) for its in (None, plan)]
        for network in networks:
            for seed in range(2):
                network.zero_grad()
                F.cross_entropy(network(images(4, 32, seed)), torch.tensor([0, 3, 6, 1])).backward()  # type: ignore[no-untyped-call]
        for one, other in zip(networks[0].parameters(), networks[1].parameters(), strict=True):
            assert one.grad is not None
            assert other.grad is not None
            assert torch.equal(one.grad, other.grad)
    finally:
        torch.distributed.destroy_process_group()
