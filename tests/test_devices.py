"""What GPUs and other people's computers need, shown on a CPU: no call that a kernel of theirs refuses.

Fake tensors know devices, shapes and dtypes and compute nothing. They hide what only a real kernel does: a gradient
that comes back empty, another rounding. So the rule behind the fault of bn_data has a test of its own, on real tensors.
"""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from every_network import NETWORKS, PLANS
from resnet_v2.config.training import TrainConfig
from resnet_v2.data.records import RecordReader
from resnet_v2.networks import kernels
from resnet_v2.networks.architecture import Architecture
from resnet_v2.networks.resnet import ResNet, initialize
from resnet_v2.recompute.tape import follow, take_our_kernels
from resnet_v2.training.distributed import Ranks
from resnet_v2.training.evaluate import evaluate
from resnet_v2.training.feed import to_input
from resnet_v2.training.meter import Meter, Watch
from resnet_v2.training.optim import nesterov_sgd
from resnet_v2.training.step import Trainer
from resnet_v2.training.sync_batch_norm import synchronize

FAKES = Path(__file__).parent / "fakes"


class GammaWithBeta(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuses a normalisation that has a beta and no gamma: CUDA's kernels give the beta no gradient then."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = dict(zip((one.name for one in func._schema.arguments), args, strict=False)) | (kwargs or {})
        if "norm" in func._schema.name and "weight" in given:
            self.seen += 1
            beta = given.get("bias") is not None or list(given.get("output_mask", [False]))[-1]
            assert not (beta and given["weight"] is None), f"{func} has a beta and no gamma"
        return func(*args, **(kwargs or {}))


def on_cpu(architecture: Architecture, amp: str = "off", **settings: object) -> Trainer:
    network = initialize(ResNet(architecture), 0)
    config = TrainConfig.of(**settings)
    optimizer = nesterov_sgd(network, 0.1, 0.9, 1e-4)
    made = Trainer.of(network, optimizer, config, Ranks(), torch.device("cpu"), amp)
    made.model.train()
    return made


@pytest.mark.parametrize(("architecture", "size"), NETWORKS, ids=str)
def test_no_beta_without_a_gamma(architecture: Architecture, size: int) -> None:
    made = on_cpu(architecture)
    images, labels = torch.zeros(3, size, size, 3, dtype=torch.uint8), torch.tensor([0, 1, 2])
    for plan in PLANS.values():
        follow(made.network, plan(made.network, size))
        with GammaWithBeta() as rule:
            made.step(images, labels, 3, 0.0)
        assert rule.seen > 2 * len(list(made.network.residual_units()))
    made.network.eval()
    with GammaWithBeta() as rule, torch.no_grad():
        made.network(to_input(images))
    assert rule.seen


def test_which_networks_take_our_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "usable", lambda device: True)
    gpu = torch.device("cuda")
    for architecture, _ in NETWORKS:
        network = ResNet(architecture)
        take_our_kernels(network, torch.device("cpu"))
        assert network.pass_by_plan is None
        take_our_kernels(network, gpu)
        assert network.pass_by_plan is not None
        follow(network, PLANS["norms again"](network, 32))
        chosen = network.pass_by_plan
        take_our_kernels(network, gpu)
        assert network.pass_by_plan is chosen
        # Statistics over several ranks are made by another module, and torch.compile makes its own kernels.
        follow(network, None)
        network.compiled = True
        take_our_kernels(network, gpu)
        assert network.pass_by_plan is None
        network.compiled = False
        synchronize(network)
        take_our_kernels(network, gpu)
        assert network.pass_by_plan is None


class NoFloat64(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuses float64, which Apple's GPUs do not have."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **(kwargs or {}))
        for result in results if isinstance(results, tuple | list) else (results,):
            assert not isinstance(result, torch.Tensor) or result.dtype != torch.float64, f"{func} gives float64"
        return results


def test_nothing_on_a_device_is_float64(digits: Path) -> None:
    reader = RecordReader(digits / "digits_val.rec")
    made = on_cpu(Architecture(8, 10, "cifar"), ema=0.9, clip_norm=1.0, label_smoothing=0.1)
    images, labels = torch.zeros(4, 32, 32, 3, dtype=torch.uint8), torch.tensor([0, 1, 2, 3])
    meter, watch = Meter(), Watch("m", Ranks())
    with NoFloat64():  # type: ignore[no-untyped-call]
        for step in (1, 2):
            result = made.step(images, labels, 4, 0.1)
            meter.add(result, 4, 0.0)
            watch.add(step, labels.numpy(), result)
        watch.check(0)
        assert meter.read(Ranks(), torch.device("cpu"))["loss"] > 0
        assert evaluate(made.evaluated, reader, size=32, batch_size=100, device=torch.device("cpu")).images == len(
            reader
        )


class WeightsCast(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the casts of a network's weights."""

    def __init__(self, network: ResNet) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.casts = 0
        self._weights = {parameter.data_ptr() for parameter in network.parameters() if parameter.ndim > 1}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.casts += func is torch.ops.aten._to_copy.default and args[0].data_ptr() in self._weights
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("plan", PLANS)
def test_weights_are_cast_once_a_step(plan: str) -> None:
    architecture = Architecture(29, 10, "cifar")
    made = on_cpu(architecture, amp="bf16", accumulate=2)
    follow(made.network, PLANS[plan](made.network, 32))
    images, labels = torch.zeros(4, 32, 32, 3, dtype=torch.uint8), torch.tensor([0, 1, 2, 3])
    weights = sum(parameter.ndim > 1 for parameter in made.network.parameters())
    for _ in range(2):
        with WeightsCast(made.network) as counted:
            made.step(images, labels, 4, 0.0)
        assert counted.casts == weights


@pytest.mark.skipif(torch.version.cuda is not None, reason="a torch with CUDA: run the tests marked gpu on a GPU")
@pytest.mark.slow
def test_steps_on_a_gpu_of_fake_tensors(tmp_path: Path) -> None:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("missing g++: apt-get install g++")
    package = Path(torch.__file__).parent
    library = tmp_path / "gpu.so"
    folders = [f"-I{package / 'include'}", f"-L{package / 'lib'}", f"-Wl,-rpath,{package / 'lib'}"]
    files = [str(FAKES / "gpu.cpp"), "-o", str(library)]
    build = [compiler, "-std=c++20", "-shared", "-fPIC", *folders, *files, "-lc10", "-ltorch_cpu"]
    subprocess.run(build, check=True)
    # Before torch is imported, since it asks for its devices then.
    program = "import ctypes, sys; ctypes.CDLL(sys.argv[1]); import pytest; sys.exit(pytest.main(sys.argv[2:]))"
    command = [
        sys.executable,
        "-c",
        program,
        str(library),
        str(FAKES),
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
