"""What the parity tests share: the way to MXNet's process, random networks, and how differences are measured."""

import json
import subprocess
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch

from resnet_v2.interchange import mxnet
from resnet_v2.networks.architecture import Architecture
from resnet_v2.networks.resnet import ResNet, initialize

Arrays = dict[str, npt.NDArray[Any]]


class MXNet:
    """A process that runs tests/mxnet/worker.py; `ask` sends one command and waits for its answer."""

    def __init__(self, process: "subprocess.Popen[str]", folder: Path) -> None:
        self.process, self.folder = process, folder

    def ask(self, command: str, arrays: Arrays | None = None, **settings: Any) -> tuple[dict[str, Any], Arrays]:
        """The command's answer and arrays; what went wrong in MXNet fails the test with MXNet's own words."""
        question, answer = self.folder / "question.npz", self.folder / "answer.npz"
        np.savez(question, **cast(Any, arrays or {}))
        request = {"command": command, "settings": settings, "arrays": str(question), "answer": str(answer)}
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, f"MXNet ended: {(self.folder / 'errors.txt').read_text()[-2000:]}"
        reply = json.loads(line)
        assert "error" not in reply, reply["error"]
        with np.load(answer) as file:
            return reply["answer"], dict(file)


def settings_of(architecture: Architecture) -> dict[str, Any]:
    """What the worker needs to build its own symbol of the network."""
    return {
        "stem": architecture.stem,
        "depth": architecture.depth,
        "classes": architecture.classes,
        "version": architecture.version,
        "width": architecture.width,
    }


def random_images(count: int, size: int, seed: int) -> npt.NDArray[np.float32]:
    """`count` x 3 x `size` x `size` pixels 0-255, smooth like photographs rather than white noise."""
    generator = np.random.default_rng(seed)
    coarse = generator.normal(0, 1, (count, 3, 8, 8)).repeat(size // 8, 2).repeat(size // 8, 3)
    pixels = 120 + 50 * coarse + generator.normal(0, 20, (count, 3, size, size))
    return cast(npt.NDArray[np.float32], pixels.clip(0, 255).round().astype(np.float32))


def random_network(
    architecture: Architecture, images: npt.NDArray[np.float32], seed: int, damped: bool = True
) -> ResNet:
    """A network as training leaves it: random weights, gammas and betas; moving statistics near those of `images`.

    Statistics drawn at random would let the activations of 100 units grow beyond any comparison, so they are measured
    and then disturbed. `damped` makes the branches of a stage of n units 1/sqrt(n) as large, so that its input is not
    drowned: with full branches a change of 1e-7 in the pixels alone, computed in float64, changes the logits of
    ResNet-269 by 1e-4, and no two float32 programs agree better.
    """
    network = initialize(ResNet(architecture, batch_norm_momentum=1.0), seed)
    generator = torch.Generator().manual_seed(seed)

    def drawn(like: torch.Tensor, low: float, high: float) -> torch.Tensor:
        return torch.empty(like.shape).uniform_(low, high, generator=generator)

    norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    with torch.no_grad():
        network.fc1.bias.copy_(drawn(network.fc1.bias, -0.5, 0.5))
        for norm in norms:
            norm.bias.copy_(drawn(norm.bias, -0.3, 0.3))
            # bn_data has no gamma.
            if cast(torch.nn.Parameter | None, norm.weight) is not None:
                norm.weight.copy_(drawn(norm.weight, 0.5, 1.5))
        if damped:
            _damp(network)
        network.train()(torch.from_numpy(images))
        for norm in norms:
            assert norm.running_mean is not None
            assert norm.running_var is not None
            norm.running_mean += norm.running_var.sqrt() * drawn(norm.bias, -0.2, 0.2)
            norm.running_var *= drawn(norm.bias, 0.7, 1.4)
            norm.momentum = 0.1
    return network.eval()


def _damp(network: ResNet) -> None:
    # The last layer of a branch sets its size: a convolution in v2, a BatchNorm in v1.
    last = f"{'conv' if network.architecture.version == 'v2' else 'bn'}{3 if network.architecture.bottleneck else 2}"
    for name in network.stages:
        stage = cast(torch.nn.Sequential, network.get_submodule(name))
        for unit in stage:
            unit.get_parameter(f"{last}.weight").mul_(len(stage) ** -0.5)


def weights_of(network: ResNet) -> Arrays:
    """The network under MXNet's names, with a bn_data_gamma that must not count."""
    arrays: Arrays = dict(mxnet.from_network(network))
    if "arg:bn_data_gamma" in arrays:
        arrays["arg:bn_data_gamma"] = np.array([0.3, 2.0, 5.0], np.float32)
    return arrays


def difference(ours: npt.NDArray[Any], theirs: npt.NDArray[Any]) -> float:
    """The largest difference of two arrays, relative to the largest magnitude of the second."""
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())
