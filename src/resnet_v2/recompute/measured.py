"""The speeds of a device: of the one in hand, measured in a second, or of a card of the table."""

import time
from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import nn

from resnet_v2.config.forecast import PlanConfig
from resnet_v2.errors import ResnetError
from resnet_v2.networks import kernels
from resnet_v2.networks.architecture import Architecture
from resnet_v2.networks.resnet import ResNet, default_stem
from resnet_v2.recompute.budget import CONTEXT_BYTES, PROCESS_BYTES, Workload
from resnet_v2.recompute.costs import link_costs
from resnet_v2.recompute.speeds import BY_OUR_KERNELS, BY_TORCH, CARDS, CPU, Speeds
from resnet_v2.recompute.tape import follow


def named(name: str) -> Speeds:
    """The speeds of a card of the table, `here`: of the GPU of this machine, '': of a CPU; else a ResnetError."""
    if not name:
        return CPU
    if name == "here" and torch.cuda.is_available():
        return measure(torch.device("cuda"))
    for card, its in CARDS.items():
        if name.replace("-", " ").upper() == card:
            return its
    raise ResnetError(
        f"`gpu` {name!r} is not known here; give one of {', '.join(CARDS)}, or here on a machine that has a GPU."
    )


def workload_of(settings: PlanConfig) -> Workload:
    """The training that `resnet-v2 plan` is asked about, on the card that its settings name."""
    depth = settings.depth or 200
    stem = settings.stem or default_stem(depth)
    device = named(settings.gpu)
    return Workload(
        Architecture(depth, settings.num_classes, stem, settings.version, settings.width),
        settings.image,
        settings.amp == "bf16",
        settings.fused_backward,
        device,
        settings.batch_size,
        PROCESS_BYTES if device == CPU else CONTEXT_BYTES,
    )


def measure(device: torch.device) -> Speeds:
    """The speeds of the device in hand; the CPU's are those of `CPU`, whose ratios hardly differ among processors.

    On a GPU it takes about a second, after which the kernels that training needs are loaded.
    """
    if device.type != "cuda":
        return replace(CPU, name=device.type)
    bandwidth = _bandwidth(device)
    flops_32, flops_16 = (_convolution_rate(device, kind) for kind in (torch.float32, torch.float16))
    launch, start = _launch_seconds(device), _start_seconds(device)
    passes = BY_OUR_KERNELS if kernels.usable(device) else BY_TORCH
    torch.cuda.empty_cache()
    return Speeds(torch.cuda.get_device_name(device), flops_32, flops_16, bandwidth, launch, start, passes)


def _bandwidth(device: torch.device) -> float:
    """Bytes per second of reading and writing 256 MiB in place."""
    elements = torch.ones(2**26, device=device)
    return 2 * 4 * elements.numel() / _seconds(device, lambda: elements.add_(1.0), 10)


def _convolution_rate(device: torch.device, kind: torch.dtype) -> float:
    """Operations per second, forward and backward, in a stage of 3x3 and 1x1 convolutions as ResNet-50 has them."""
    shapes = (1024, 256, 1), (256, 256, 3), (256, 1024, 1)
    layers = nn.Sequential(*(nn.Conv2d(a, b, k, padding=k // 2, bias=False) for a, b, k in shapes))
    layers = layers.to(device=device, dtype=kind, memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.ones(64, 1024, 14, 14, device=device, dtype=kind).to(memory_format=torch.channels_last).requires_grad_()
    flops: float = 3 * 2 * x.shape[0] * 14 * 14 * sum(parameter.numel() for parameter in layers.parameters())

    def step() -> None:
        layers(x).sum().backward()

    return flops / _seconds(device, step, 10)


def _launch_seconds(device: torch.device) -> float:
    """Seconds per kernel of many small operations with a backward pass, which the card ends before the next begins."""
    x = torch.ones(1, 8, 4, 4, device=device, requires_grad=True)
    weight = torch.ones(8, 8, 1, 1, device=device, requires_grad=True)

    def step() -> None:
        y = x
        for _ in range(20):
            y = F.relu(F.conv2d(y, weight))
        y.sum().backward()  # type: ignore[no-untyped-call]

    return _seconds(device, step, 5) / (20 * 5)  # of each pair two kernels forward and three backward


def _start_seconds(device: torch.device) -> float:
    """Seconds per kernel in steps of ResNet-18 with two images, which the card ends before the next begins.

    It is Python that takes them: a step's own calls, and what PyTorch and Triton do at each start.
    """
    architecture, side = Architecture(18, 10, "imagenet"), 32
    network = follow(ResNet(architecture), None).to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    started = sum(cost.kernels for cost in link_costs(network.links(), side))
    images = torch.zeros(2, 3, side, side, device=device)

    def step() -> None:
        network(images).sum().backward()

    return _seconds(device, step, 5) / started


def _seconds(device: torch.device, work: Callable[[], object], times: int) -> float:
    """The seconds of one of several runs, after one that loads the kernels."""
    work()
    torch.cuda.synchronize(device)
    started = time.perf_counter()
    for _ in range(times):
        work()
    torch.cuda.synchronize(device)
    return (time.perf_counter() - started) / times
