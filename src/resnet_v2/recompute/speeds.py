"""What a device takes for work: arithmetic, memory and the start of kernels. From a table, or measured in a second.

A kernel takes the longest of the three: its arithmetic, its traffic with memory, and its start by the processor. That
is enough to choose among activation plans, and to tell networks that compute from networks that wait to be started.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import nn

from resnet_v2.errors import ResnetError
from resnet_v2.networks import kernels


@dataclass(frozen=True)
class Passes:
    """How often the elements of a BatchNorm (with ReLU) are read or written: forward, backward, and computed again.

    `spared`: what overwriting spares of the latter against plain autograd's new tensors.
    """

    forward: int
    backward: int
    again: int
    spared: int = 0


BY_TORCH = Passes(forward=6, backward=9, again=4, spared=2)
# Statistics read once, output read and written; backward: sums read twice, the gradient read twice and written.
BY_OUR_KERNELS = Passes(forward=3, backward=5, again=2)


@dataclass(frozen=True)
class Speeds:
    """Of a device: floating point operations per second of convolutions (32 and 16 bits), bytes per second of
    elementwise work, and seconds from the start of one kernel to that of the next.
    """

    name: str
    flops_32: float
    flops_16: float
    bandwidth: float
    launch: float = 0.0
    passes: Passes = BY_OUR_KERNELS

    def flops(self, element_bytes: int) -> float:
        """The rate of convolutions of such elements."""
        return self.flops_16 if element_bytes == 2 else self.flops_32


# Measured on two cores: 330 GFLOP/s in convolutions, 7 of them in the time of one byte.
CPU = Speeds("cpu", 330e9, 330e9, 330e9 / 7, passes=BY_TORCH)

# Of cards that are not at hand: half of the makers' dense TF32 and 16-bit rates, as convolutions reach it, and 80 % of
# their bandwidth. Convolutions in TF32, as cuDNN computes them by default.
_MAKERS_FIGURES = {  # TFLOP/s TF32, TFLOP/s 16 bits, GB/s
    "H200": (494, 989, 4800),
    "H100": (494, 989, 3350),
    "A100": (156, 312, 2039),
    "L40S": (183, 362, 864),
    "L4": (60, 121, 300),
    "A10": (62, 125, 600),
    "V100": (15.7, 125, 900),
    "T4": (8.1, 65, 320),
    "RTX 4090": (82.6, 165, 1008),
    "RTX 3090": (35.6, 71, 936),
    "RTX 3060": (12.7, 25.5, 360),
}
# CIFAR-164 and CIFAR-20 took 38 and 6.3 ms a step on an H100, whatever they computed: 24 and 31 us per kernel.
_LAUNCH = 25e-6
CARDS = {
    name: Speeds(name, 0.5e12 * tf32, 0.5e12 * bits_16, 0.8e9 * gigabytes, _LAUNCH)
    for name, (tf32, bits_16, gigabytes) in _MAKERS_FIGURES.items()
}


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


def measure(device: torch.device) -> Speeds:
    """The speeds of the device in hand; the CPU's are those of `CPU`, whose ratios hardly differ among processors.

    On a GPU it takes about a second, after which the kernels that training needs are loaded.
    """
    if device.type != "cuda":
        return replace(CPU, name=device.type)
    bandwidth = _bandwidth(device)
    flops_32, flops_16 = (_convolution_rate(device, kind) for kind in (torch.float32, torch.float16))
    launch = _launch_seconds(device)
    passes = BY_OUR_KERNELS if kernels.usable(device) else BY_TORCH
    torch.cuda.empty_cache()
    return Speeds(torch.cuda.get_device_name(device), flops_32, flops_16, bandwidth, launch, passes)


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


def _seconds(device: torch.device, work: Callable[[], object], times: int) -> float:
    """The seconds of one of several runs, after one that loads the kernels."""
    work()
    torch.cuda.synchronize(device)
    started = time.perf_counter()
    for _ in range(times):
        work()
    torch.cuda.synchronize(device)
    return (time.perf_counter() - started) / times
