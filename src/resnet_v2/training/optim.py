"""The optimiser's parameter groups, and the learning rate as a pure function of the step."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn
from torch.optim.sgd import sgd
from torch.optim.swa_utils import AveragedModel

from resnet_v2.config.training import Optimisation
from resnet_v2.errors import ResnetError
from resnet_v2.networks.resnet import ResNet

# How far an orthogonal step goes, in the spectral norm, as a share of the rate. With mom 0.9 and wd 0.0005 weights then
# keep about the length that they are drawn with.
MUON_SHARE = 0.2
NEWTON_SCHULZ_STEPS = 3


@dataclass(frozen=True)
class Schedule:
    """How the learning rate goes: `base` times a factor of the position, counted in epochs (2.5: amid the third).

    `step`: a tenth at each milestone; `cosine`: half a cosine down to 0 after the warm-up; `linear`: a straight line
    down to 0. During the first `warmup_epochs` the rate grows linearly from 0.
    """

    base: float
    epochs: int
    kind: str = "step"
    milestones: tuple[int, ...] = ()
    warmup_epochs: float = 0.0

    def factor(self, position: float) -> float:
        """The share of `base` at a position."""
        if position < self.warmup_epochs:
            return position / self.warmup_epochs
        if self.kind == "step":
            return 0.1 ** sum(position >= milestone for milestone in self.milestones)
        falling_epochs = max(1e-9, self.epochs - self.warmup_epochs)
        done = min(1.0, (position - self.warmup_epochs) / falling_epochs)
        return 1 - done if self.kind == "linear" else 0.5 * (1 + math.cos(math.pi * done))

    def learning_rate(self, position: float) -> float:
        """The learning rate at a position."""
        return self.base * self.factor(position)

    def through(self, learning_rate: float, position: float) -> "Schedule":
        """The same schedule with its base moved so that the rate at a position is `learning_rate`."""
        factor = self.factor(position)
        return replace(self, base=learning_rate / factor if factor else learning_rate)


def parameter_groups(network: nn.Module, weight_decay: float, bn_wd: bool = True) -> list[dict[str, Any]]:
    """Convolution and dense weights with weight decay; betas and biases without. BatchNorm's gammas have it with
    `bn_wd`, which is MXNet's rule.
    """
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
                raise TypeError(f"no weight decay rule for {type(module).__name__}.{name}")
            shrinks = name == "weight" and (bn_wd or not isinstance(module, nn.BatchNorm2d))
            (decayed if shrinks else free).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]


class Muon(torch.optim.SGD):
    """Nesterov's SGD, but the step of a group's weights goes equally far in all directions where `orthogonal` is set.

    Keller Jordan, "Muon: An optimizer for hidden layers in neural networks", 2024: a weight is taken as a matrix with a
    row per output, and its step m U V^T for the U S V^T that SGD would take. Weights shrink by lr wd / (1 - mom) per
    step, as fast as SGD's in the long run. torch.optim.Muon has the rule too, for matrices alone and in bfloat16, which
    few processors compute. Every rank orthogonalizes for itself, and gets the same bits where ranks run on equal
    machines.
    """

    def step(self, closure: Any = None) -> Any:
        """One step of every parameter that has a gradient; the gradients of orthogonal ones are gone then."""
        with torch.no_grad():
            for group in self.param_groups:
                for parameter in group["params"]:
                    if group["orthogonal"] and parameter.grad is not None:
                        self._move(parameter, group["lr"], group["momentum"], group["weight_decay"])
                        parameter.grad = None
        return super().step(closure)

    def _move(self, weight: torch.Tensor, learning_rate: float, momentum: float, weight_decay: float) -> None:
        assert weight.grad is not None
        mean = self.state[weight]["momentum_buffer"].mul_(momentum).add_(weight.grad)
        matrix = orthogonal(weight.grad.add(mean, alpha=momentum).flatten(1))
        length = MUON_SHARE * learning_rate * math.sqrt(max(1, matrix.shape[0] / matrix.shape[1]))
        weight.mul_(1 - learning_rate * weight_decay / (1 - momentum))
        weight.sub_(matrix.view(weight.shape), alpha=length)


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """Nearly U V^T of a matrix U S V^T (rows x columns, float32); small singular values stay below 1.

    Newton and Schulz's iteration with the polynomial of Jordan's article, which raises small values fast rather than
    bringing all to 1 exactly. A step is X <- p(X X^T) X; the small X X^T alone is carried from step to step, and X
    multiplied once by all the polynomials: half the work for a convolution of 3 x 3.
    """
    wide = matrix if len(matrix) <= matrix.shape[1] else matrix.T
    wide = wide / (wide.norm() + 1e-7)
    square = wide @ wide.T
    product = polynomial = _polynomial(square)
    for _ in range(NEWTON_SCHULZ_STEPS - 1):
        square = polynomial @ square @ polynomial
        polynomial = _polynomial(square)
        product = polynomial @ product
    found: torch.Tensor = product @ wide
    return found if len(matrix) <= matrix.shape[1] else found.T


def _polynomial(square: torch.Tensor) -> torch.Tensor:
    polynomial = torch.addmm(square, square, square, beta=-4.7750, alpha=2.0315)
    polynomial.diagonal().add_(3.4445)
    return polynomial


def nesterov_sgd(
    network: nn.Module, learning_rate: float, momentum: float, weight_decay: float, fused: bool | None = None
) -> torch.optim.SGD:
    """MXNet's NAG: m = mom m + (g + wd w); w -= lr (g + wd w + mom m), on the gradient of the mean loss.

    `fused`: by one kernel for all weights; None: on a GPU. The CPU takes torch's ordinary form, with its rounding.
    """
    return _sgd(network, parameter_groups(network, weight_decay), learning_rate, momentum, True, fused)


def optimizer_of(network: ResNet, learning_rate: float, its: Optimisation) -> torch.optim.SGD:
    """The optimiser of a run's settings: `nag`, `muon`, or `sgd`, which is torch's SGD with ordinary momentum."""
    groups = parameter_groups(network, its.wd, its.bn_wd)
    if its.optimizer == "muon":
        return _muon(network, groups, learning_rate, its.mom)
    return _sgd(network, groups, learning_rate, its.mom, its.optimizer == "nag")


def _sgd(
    network: nn.Module,
    groups: list[dict[str, Any]],
    learning_rate: float,
    momentum: float,
    nesterov: bool,
    fused: bool | None = None,
) -> torch.optim.SGD:
    if fused is None:
        fused = next(network.parameters()).is_cuda
    return _at_rest(torch.optim.SGD(groups, fused=fused or None, **_motion(learning_rate, momentum, nesterov)))


def set_learning_rate(optimizer: torch.optim.SGD, learning_rate: float) -> None:
    """The rate of the steps that follow; where it is a tensor, for a CUDA graph, its value changes in place."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(learning_rate)
        else:
            group["lr"] = learning_rate


@torch.no_grad()
def update_average(averaged: AveragedModel, network: nn.Module, kept: float) -> None:
    """Move the average of weights and statistics a step on; the first step is the average so far.

    torch's own `update_parameters` with an exponential average, but for a copy to the GPU that every step waits for.
    """
    first = int(averaged.n_averaged) == 0  # it lies on the host
    averaged.n_averaged += 1
    pairs = list(zip(_moving(averaged.module), _moving(network), strict=True))
    floats = [pair for pair in pairs if pair[0].is_floating_point() and not first]
    for average, tensor in pairs:
        if first or not average.is_floating_point():
            average.copy_(tensor)
    if floats:
        torch._foreach_lerp_([average for average, _ in floats], [tensor for _, tensor in floats], 1 - kept)


def _moving(network: nn.Module) -> Iterator[torch.Tensor]:
    yield from network.parameters()
    yield from network.buffers()


def keep_rate_on(device: torch.device, optimizer: torch.optim.SGD) -> None:
    """Hold the learning rate in a tensor, which recorded steps read anew."""
    for group in optimizer.param_groups:
        group["lr"] = torch.tensor(float(group["lr"]), device=device)


def muon(network: ResNet, learning_rate: float, momentum: float, weight_decay: float) -> Muon:
    """Muon for the weights of all convolutions but the first, MXNet's NAG for the rest."""
    return _muon(network, parameter_groups(network, weight_decay), learning_rate, momentum)


def _muon(network: ResNet, decaying: list[dict[str, Any]], learning_rate: float, momentum: float) -> Muon:
    inner = {parameter for parameter in network.parameters() if parameter.ndim == 4} - {network.conv0.weight}
    groups: list[dict[str, Any]] = []
    for group in decaying:
        for is_orthogonal in (False, True):
            chosen = [parameter for parameter in group["params"] if (parameter in inner) == is_orthogonal]
            groups.append(group | {"params": chosen, "orthogonal": is_orthogonal})
    chosen = [group for group in groups if group["params"]]
    return _at_rest(Muon(chosen, **_motion(learning_rate, momentum, nesterov=True)))


Optimizer = TypeVar("Optimizer", bound=torch.optim.SGD)


def _at_rest(optimizer: Optimizer) -> Optimizer:
    """The optimiser with momentum 0, which gives the bits of torch's own first step.

    torch makes momentum in the first step. Where fp16 skips that one there is none to save, and the form for GPUs goes
    on with whatever memory held.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"] if group["momentum"] or group.get("orthogonal") else ():
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def _motion(learning_rate: float, momentum: float, nesterov: bool) -> dict[str, Any]:
    return {"lr": learning_rate, "momentum": momentum, "nesterov": nesterov and momentum > 0}


def fuse_into_backward(optimizer: torch.optim.SGD) -> None:
    """Update every parameter as soon as the backward pass has its gradient, and drop the gradient.

    The bits are those of `optimizer.step()`, which finds nothing left to do. Set the learning rate before the backward
    pass. Not for several backward passes per step, nor for gradients that are summed over ranks or looked at together.
    """

    def update(parameter: torch.Tensor) -> None:
        group, state = groups[parameter], optimizer.state[parameter]
        momentum: list[torch.Tensor | None] = [state.get("momentum_buffer")]
        assert parameter.grad is not None
        sgd(
            [parameter],
            [parameter.grad],
            momentum,
            has_sparse_grad=False,
            foreach=False,
            fused=bool(group["fused"]),
            grad_scale=None,
            found_inf=None,
            weight_decay=group["weight_decay"],
            momentum=group["momentum"],
            lr=group["lr"],
            dampening=group["dampening"],
            nesterov=group["nesterov"],
            maximize=group["maximize"],
        )
        if group["momentum"]:
            state["momentum_buffer"] = momentum[0]
        parameter.grad = None

    groups = {parameter: group for group in optimizer.param_groups for parameter in group["params"]}
    for parameter in groups:
        parameter.register_post_accumulate_grad_hook(torch.no_grad()(update))


def momentum_tensors(network: nn.Module, optimizer: torch.optim.SGD) -> dict[str, torch.Tensor]:
    """The momentum of every parameter that has one, as `momentum.NAME`."""
    found = {}
    for name, parameter in network.named_parameters():
        buffer = optimizer.state.get(parameter, {}).get("momentum_buffer")
        if buffer is not None:
            found[f"momentum.{name}"] = buffer.contiguous()
    return found


def restore_momentum(
    network: nn.Module, optimizer: torch.optim.SGD, tensors: dict[str, torch.Tensor], path: Path
) -> None:
    """Put back what `momentum_tensors` gave; a ResnetError names `path` when a parameter's momentum is not there."""
    for name, parameter in network.named_parameters():
        saved = tensors.get(f"momentum.{name}")
        if saved is None or saved.shape != parameter.shape:
            raise ResnetError(f"{path} lacks the momentum of {name}; go on from another epoch.")
        optimizer.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).copy_(saved)
