"""Run by test_devices.py in a process of its own, where torch's CPU build has a CUDA device that does nothing.

Fake tensors compute nothing: devices, shapes, dtypes, and what a step waits for, are all that is shown here.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker
from torch.utils._python_dispatch import TorchDispatchMode

from every_network import NETWORKS, PLANS
from resnet_v2.config.training import TrainConfig
from resnet_v2.networks import kernels
from resnet_v2.networks.architecture import Architecture
from resnet_v2.networks.resnet import ResNet
from resnet_v2.recompute import speeds
from resnet_v2.recompute.budget import Workload
from resnet_v2.recompute.tape import follow
from resnet_v2.training.distributed import Ranks
from resnet_v2.training.feed import to_input
from resnet_v2.training.losses import rank_of_label
from resnet_v2.training.optim import muon, nesterov_sgd
from resnet_v2.training.step import Trainer

# torch has no formula for its fused update, which returns nothing.
UPDATE = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call]
UPDATE.impl("_fused_sgd_", lambda *arguments, **settings: None, "Meta")  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def fake_gpu(monkeypatch: pytest.MonkeyPatch, ours: bool) -> Iterator[torch.device]:
    """Tensors on a GPU that is not there; `ours`: one that runs our kernels."""
    monkeypatch.setattr(kernels, "usable", lambda device: ours)
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda: True)
    with FakeTensorMode():
        yield torch.device("cuda", 0)


def moved(network: ResNet, device: torch.device) -> ResNet:
    """A network of the meta device on another one, channels-last, whatever its memory holds."""
    for module in network.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                layout = torch.channels_last if parameter.ndim == 4 else torch.contiguous_format
                module._parameters[name] = nn.Parameter(
                    torch.empty(parameter.shape, device=device, memory_format=layout)
                )
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, device=device, dtype=buffer.dtype)
    return network


class OnGpu(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuses what leaves the GPU, waits for it or takes float64, which Apple's GPUs do not have."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        waits = func is torch.ops.aten._local_scalar_dense.default and args[0].device.type != "cpu"
        assert not waits, "a step waits for the GPU"
        results = func(*args, **(kwargs or {}))
        for result in results if isinstance(results, tuple | list) else (results,):
            if isinstance(result, Tensor) and result.device.type != "cpu":
                assert result.dtype != torch.float64, f"{func} computes in float64 on {result.device}"
        return results


SLOW = pytest.mark.slow
# What they have, shorter ones have too.
LONG_NETWORKS = [network for network in NETWORKS if network[0].depth in (20, 50) and network[0].stem != "timm"]


@pytest.mark.parametrize(
    ("amp", "ours"),
    [("bf16", True), ("off", False), pytest.param("off", True, marks=SLOW), pytest.param("bf16", False, marks=SLOW)],
    ids=["bf16, our kernels", "float32, torch's kernels", "float32, our kernels", "bf16, torch's kernels"],
)
@pytest.mark.parametrize(
    ("architecture", "size"),
    [pytest.param(*network, marks=SLOW if network in LONG_NETWORKS else ()) for network in NETWORKS],
    ids=str,
)
def test_a_step_on_a_gpu(
    architecture: Architecture, size: int, amp: str, ours: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for plan in PLANS.values():
        with torch.device("meta"):
            network = ResNet(architecture)
        follow(network, plan(network, size))
        with fake_gpu(monkeypatch, ours) as device:
            optimizer = nesterov_sgd(moved(network, device), 0.1, 0.9, 1e-4)
            config = TrainConfig.of(accumulate=2, clip_norm=1.0)
            made = Trainer.of(network, optimizer, config, Ranks(), device, amp)
            made.model.train()
            images = torch.empty(6, size, size, 3, dtype=torch.uint8, device=device)
            labels = torch.empty(6, dtype=torch.int64, device=device)
            with OnGpu():  # type: ignore[no-untyped-call]
                result = made.step(images, labels, 6, 0.1)
            assert (result.shape, result.device, result.dtype) == ((2,), device, torch.float32)
            for parameter in network.parameters():
                assert parameter.grad is not None
                assert (parameter.grad.shape, parameter.grad.device) == (parameter.shape, device)
                assert parameter.grad.dtype == torch.float32


@pytest.mark.parametrize("amp", ["off", "bf16"])
@pytest.mark.parametrize(
    ("depth", "batch_size", "share"), [(50, 256, 1.0), (50, 256, 0.4), pytest.param(200, 128, 0.35, marks=SLOW)]
)
def test_the_forecast_of_memory(
    depth: int, batch_size: int, share: float, amp: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    architecture = Architecture(depth, 1000, "imagenet")
    work = Workload(
        architecture, bf16=amp != "off", device=speeds.CARDS["H100"], batch_size=batch_size, process_bytes=0
    )
    choice = work.plain()
    if share < 1:
        choice = work.within(int(share * work.total_bytes(choice.forecast, batch_size)), batch_size)
    with torch.device("meta"):
        network = follow(ResNet(architecture), choice.plan)
    with fake_gpu(monkeypatch, ours=True) as device:
        optimizer = nesterov_sgd(moved(network, device), 0.1, 0.9, 1e-4)
        made = Trainer.of(network, optimizer, TrainConfig(), Ranks(), device, amp)
        made.model.train()
        images = torch.empty(batch_size, 224, 224, 3, dtype=torch.uint8, device=device)
        labels = torch.empty(batch_size, dtype=torch.int64, device=device)
        made.step(images, labels, batch_size, 0.1)
        optimizer.zero_grad()
        tracker = MemTracker()
        tracker.track_external(network, optimizer, images)
        with tracker:
            made.step(images, labels, batch_size, 0.1)
    peak = tracker.get_tracker_snapshot("peak")[device]["Total"]
    assert work.total_bytes(choice.forecast, batch_size) == pytest.approx(peak, rel=0.05)


def test_evaluation_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.device("meta"):
        network = ResNet(Architecture(20, 10, "cifar")).eval()
    with fake_gpu(monkeypatch, ours=True) as device, OnGpu(), torch.no_grad():  # type: ignore[no-untyped-call]
        logits = moved(network, device)(to_input(torch.empty(4, 32, 32, 3, dtype=torch.uint8, device=device)))
        labels = torch.empty(4, dtype=torch.int64, device=device)
        assert rank_of_label(logits, labels).device == device


def test_orthogonal_steps_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.device("meta"):
        network = ResNet(Architecture(20, 10, "cifar"))
    with fake_gpu(monkeypatch, ours=True) as device:
        made = Trainer.of(moved(network, device), muon(network, 0.1, 0.9, 0.0), TrainConfig(), Ranks(), device, "off")
        made.model.train()
        images = torch.empty(6, 32, 32, 3, dtype=torch.uint8, device=device)
        with OnGpu():  # type: ignore[no-untyped-call]
            made.step(images, torch.empty(6, dtype=torch.int64, device=device), 6, 0.1)
