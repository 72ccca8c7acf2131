"""What a device takes for work: arithmetic, memory and the start of kernels.

A kernel takes the longest of the three: its arithmetic, its traffic with memory, and its start by the processor. That
is enough to choose among activation plans, and to tell networks that compute from networks that wait to be started.
"""

from dataclasses import dataclass


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
    elementwise work; `launch`: seconds from one kernel of PyTorch's to the next; `start`: seconds per kernel that
    Python takes in a training step which is not recorded.
    """

    name: str
    flops_32: float
    flops_16: float
    bandwidth: float
    launch: float = 0.0
    start: float = 0.0
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
# On an H100 a step of PyTorch's own kernels took CIFAR-164 and CIFAR-20 38 and 6.3 ms, whatever they computed: 24 and
# 31 us per kernel. With ours, which Triton starts, it is 135 and 20 ms: 85 and 102 us.
_LAUNCH, _START = 25e-6, 85e-6
CARDS = {
    name: Speeds(name, 0.5e12 * tf32, 0.5e12 * bits_16, 0.8e9 * gigabytes, _LAUNCH, _START)
    for name, (tf32, bits_16, gigabytes) in _MAKERS_FIGURES.items()
}
