"""The optimiser's rule, its groups, and the schedule."""

import numpy as np
import pytest
import torch

from resnet_v2.networks.resnet import resnet
from resnet_v2.training.optim import (
    MUON_SHARE,
    NEWTON_SCHULZ_STEPS,
    Schedule,
    muon,
    nesterov_sgd,
    orthogonal,
    parameter_groups,
)


def test_step_schedule() -> None:
    schedule = Schedule(0.1, 120, "step", (30, 60, 90))
    rates = [schedule.learning_rate(position) for position in (0.001, 29.999, 30.001, 59.9, 60, 89.9, 90, 119.9)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001, 0.0001, 0.0001])


def test_cosine_schedule_with_warmup() -> None:
    schedule = Schedule(0.4, 30, "cosine", warmup_epochs=5)
    assert schedule.learning_rate(2.5) == pytest.approx(0.2)
    assert schedule.learning_rate(5) == pytest.approx(0.4)
    assert schedule.learning_rate(17.5) == pytest.approx(0.2)
    assert schedule.learning_rate(30) == pytest.approx(0, abs=1e-9)
    rates = [schedule.learning_rate(5 + position / 10) for position in range(250)]
    assert rates == sorted(rates, reverse=True)


def test_linear_schedule_with_warmup_is_one_cycle() -> None:
    schedule = Schedule(0.4, 10, "linear", warmup_epochs=2)
    rates = [schedule.learning_rate(position) for position in (0, 1, 2, 6, 9, 10)]
    assert rates == pytest.approx([0, 0.2, 0.4, 0.2, 0.05, 0])


def test_a_rate_given_on_retraining_holds_from_there() -> None:
    schedule = Schedule(0.1, 120, "step", (30, 60, 90)).through(0.0005, 70)
    assert schedule.learning_rate(70.1) == pytest.approx(0.0005)
    assert schedule.learning_rate(90.1) == pytest.approx(0.00005)


@pytest.mark.parametrize("version", ["v2", "v1"])
def test_weights_and_gammas_decay_and_nothing_else(version: str) -> None:
    network = resnet(20, 10, version)  # type: ignore[arg-type]
    decayed, free = parameter_groups(network, 0.5)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    assert all(names[id(parameter)].endswith(".weight") for parameter in decayed["params"])
    assert all(names[id(parameter)].endswith(".bias") for parameter in free["params"])
    assert len(decayed["params"]) + len(free["params"]) == len(names)
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.5, 0.0)


def test_update_is_mxnets_nag() -> None:
    network = torch.nn.Linear(1, 1)
    torch.nn.init.constant_(network.weight, 2.0)
    torch.nn.init.constant_(network.bias, 1.0)
    optimizer = nesterov_sgd(network, 0.1, 0.9, 0.01)
    weight, bias, momentum, bias_momentum = 2.0, 1.0, 0.0, 0.0
    for gradient in (0.5, -0.25, 1.0):
        network.weight.grad, network.bias.grad = torch.full((1, 1), gradient), torch.full((1,), gradient)
        optimizer.step()
        decayed = gradient + 0.01 * weight
        momentum, bias_momentum = 0.9 * momentum + decayed, 0.9 * bias_momentum + gradient
        weight -= 0.1 * (decayed + 0.9 * momentum)
        bias -= 0.1 * (gradient + 0.9 * bias_momentum)
        assert network.weight.item() == pytest.approx(weight, rel=1e-6)
        assert network.bias.item() == pytest.approx(bias, rel=1e-6)


@pytest.mark.parametrize("shape", [(48, 432), (96, 48), (64, 64)])
def test_orthogonal(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    found = left.T @ orthogonal(matrix) @ right.T
    values = found.diagonal()
    assert (found - values.diag()).abs().max() < 1e-4
    assert values.max() < 1.3
    assert values.min() > (0.5 if shape[0] != shape[1] else 0)
    assert values.mean() > 0.7
    assert not orthogonal(torch.zeros(shape)).any()


@pytest.mark.parametrize("shape", [(48, 432), (96, 48), (64, 64)])
@pytest.mark.parametrize("smallest", [1.0, 1e-6])
def test_orthogonal_is_the_iteration_over_the_whole_matrix(shape: tuple[int, int], smallest: float) -> None:
    """Jordan's, in float64, also of a matrix whose singular values are far apart."""
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    matrix = left @ (values * torch.from_numpy(np.geomspace(1, smallest, len(values)))).diag() @ right
    expected = matrix / matrix.norm()
    for _ in range(3):
        square = expected @ expected.T
        expected = 3.4445 * expected - 4.7750 * square @ expected + 2.0315 * square @ square @ expected
    assert (orthogonal(matrix.float()) - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize("version", ["v2", "v1"])
def test_muon_moves_the_inner_convolutions(version: str) -> None:
    network = resnet(164, 10, version)  # type: ignore[arg-type]
    names = {parameter: name for name, parameter in network.named_parameters()}
    groups = muon(network, 0.1, 0.9, 0.5).param_groups
    decays = {names[parameter]: group["weight_decay"] for group in groups for parameter in group["params"]}
    chosen = {names[parameter] for group in groups if group["orthogonal"] for parameter in group["params"]}
    shortcuts = {f"stage{number}.unit1.{'sc' if version == 'v2' else 'conv1sc'}.weight" for number in (1, 2, 3)}
    in_units = tuple(f"conv{number}.weight" for number in (1, 2, 3))
    assert chosen == {name for name in names.values() if name.endswith(in_units)} | shortcuts
    assert decays == {name: 0.5 if name.endswith("weight") else 0.0 for name in names.values()}


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="missing torch 2.9: it has Muon")
def test_muon_is_torchs_but_for_its_precision() -> None:
    network = resnet(8, 10)
    parameters = dict(network.named_parameters())
    convolution, dense = parameters["stage2.unit1.conv2.weight"], parameters["fc1.weight"]
    begun = convolution.detach().flatten(1).clone()
    matrix, alone = torch.nn.Parameter(begun.clone()), torch.nn.Parameter(dense.detach().clone())
    ours = muon(network, 0.5, 0.9, 5e-4)
    theirs = torch.optim.Muon(
        [matrix],
        lr=MUON_SHARE * 0.5,
        momentum=0.9,
        weight_decay=5e-4 / (1 - 0.9) / MUON_SHARE,
        ns_steps=NEWTON_SCHULZ_STEPS,
    )
    nag = torch.optim.SGD([alone], lr=0.5, momentum=0.9, nesterov=True, weight_decay=5e-4)
    numbers = torch.Generator().manual_seed(0)
    for _ in range(5):
        matrix.grad, alone.grad = (torch.randn(like.shape, generator=numbers) for like in (matrix, alone))
        convolution.grad, dense.grad = matrix.grad.view_as(convolution).clone(), alone.grad.clone()
        ours.step()
        theirs.step()  # type: ignore[no-untyped-call]
        nag.step()
    assert torch.equal(dense, alone)
    moved = convolution.detach().flatten(1) - begun
    assert (moved - (matrix.detach() - begun)).norm() < 0.02 * moved.norm()


def test_a_first_step_that_fp16_skips_leaves_no_momentum() -> None:
    network = torch.nn.Linear(64, 64)
    before = network.weight.detach().clone()
    optimizer = nesterov_sgd(network, 0.1, 0.9, 0.0, fused=True)
    for found_inf in (1.0, 0.0):  # as the scaler of the loss sets it
        optimizer.found_inf = torch.tensor(found_inf)  # type: ignore[attr-defined]
        network.weight.grad = torch.full((64, 64), float("inf") if found_inf else 1.0)
        optimizer.step()
        if found_inf:
            assert torch.equal(network.weight, before)
            assert not optimizer.state[network.weight]["momentum_buffer"].any()
    assert torch.allclose(network.weight, before - 0.1 * 1.9)
