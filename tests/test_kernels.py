"""BatchNorm's own kernels: right where Triton interprets them, compiled for real cards, known to FakeTensorMode.

No GPU is needed. Triton decides when it is imported whether it interprets kernels on the CPU, so both run in processes
of their own, and what a check finds wrong there comes back as its exception.
"""

import importlib.util
import itertools
import multiprocessing
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from resnet_v2.networks import kernels

Check = Callable[..., None]
FLOAT, BFLOAT, HALF = torch.float32, torch.bfloat16, torch.float16
MOMENTUM, EPS = 0.1, 2e-5
# Rows below a tile's; a last tile that is full in part, or in whole; channels that fill a column in part; more columns.
SHAPES = (
    (2, 3, 9, 7),
    (3, 3, 37, 23),
    (5, 16, 5, 5),
    (2, 16, 16, 16),
    (7, 64, 17, 11),
    (2, 100, 9, 9),
    (1, 320, 19, 3),
)
CASES = (
    *((shape, FLOAT, True) for shape in (*SHAPES, (1, 256, 7, 9))),
    *((shape, dtype, True) for shape in SHAPES[1::2] for dtype in (BFLOAT, HALF)),
    *((SHAPES[1], dtype, False) for dtype in (FLOAT, BFLOAT, HALF)),
)
# Compute capability, type and channels: each value is among the few of `make test`, all are in `make slow`.
_FEW = ((80, FLOAT, 64), (80, BFLOAT, 3), (90, BFLOAT, 64), (90, HALF, 3))
CARDS = tuple(
    pytest.param(*card, marks=() if card in _FEW else pytest.mark.slow)
    for card in itertools.product((80, 90), (FLOAT, BFLOAT, HALF), (64, 3))
)
# More rows than 256 blocks of a tile, so that blocks have two, the last one fewer.
LONG = (2, 256, 67, 67)

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None,
    reason="missing triton: on Linux run `pip install triton`",
)


@contextmanager
def _process(**environment: str) -> Iterator[Check]:
    """A way to run checks in a new process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        with mock.patch.dict(os.environ, environment):
            pool.submit(os.getpid).result()
        yield lambda check, *arguments: pool.submit(check, *arguments).result()


@pytest.fixture(scope="module")
def interpreted() -> Iterator[Check]:
    """Run a check where Triton interprets kernels."""
    with _process(TRITON_INTERPRET="1") as run:
        yield run


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Check]:
    """Run a check where Triton compiles kernels, all anew."""
    with _process(TRITON_CACHE_DIR=str(tmp_path_factory.mktemp("triton")), TRITON_INTERPRET="0") as run:
        yield run


class Case:
    """An input, what torch makes of it in float64, and how far arithmetic in float32 may be from that."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, values: str, relu: bool) -> None:
        draw, channels = torch.Generator().manual_seed(sum(shape)), shape[1]
        x = torch.randn(shape, generator=draw)
        if values == "pixels":
            x = torch.randint(0, 256, shape, generator=draw)
        elif values == "far":
            x += 4096
        self.x = x.to(dtype).contiguous(memory_format=torch.channels_last)
        self.weight, self.bias = torch.randn(2, channels, generator=draw)
        self.running = torch.randn(channels, generator=draw), torch.rand(channels, generator=draw)
        self.relu = relu

        exact = self.x.double().requires_grad_()
        self.weight64, self.bias64 = self.weight.double().requires_grad_(), self.bias.double().requires_grad_()
        self.running64 = self.running[0].double(), self.running[1].double()
        y = F.batch_norm(exact, *self.running64, self.weight64, self.bias64, True, MOMENTUM, EPS)
        variance, self.mean = torch.var_mean(exact.detach(), (0, 2, 3), unbiased=False)
        self.deviation = (variance + EPS).rsqrt()
        # A float32 is rounded by up to 2**-24, and so is the mean, here in units of the deviation. Of the roundings of
        # a sum, 20 for 512 places and 1024 blocks, eight in the same direction are more than ever come together.
        self.noise = 2**-21 * (1 + self.mean.abs() * self.deviation)
        # Where the output is all but 0, rounding decides whether the ReLU passes.
        gradient = torch.randn(shape, generator=draw).where(y.abs() > 1e-2, torch.zeros(()))
        self.gradient = gradient.to(dtype).contiguous(memory_format=torch.channels_last)
        self.y = y.relu() if relu else y
        leaves = exact, self.weight64, self.bias64
        self.gradients = torch.autograd.grad(self.y, leaves, self.gradient.double(), retain_graph=True)
        self.slope = self.gradient.double().abs() * (self.y != 0)
        self.normal = (exact.detach() - self.spread(self.mean)) * self.spread(self.deviation)

    @staticmethod
    def spread(values: Tensor) -> Tensor:
        """[C] as [C, 1, 1]."""
        return values[:, None, None]

    def statistics(self) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Ours, and the moved running statistics."""
        moved = self.running[0].clone(), self.running[1].clone()
        return kernels._statistics(self.x, *moved, MOMENTUM, EPS), moved

    def forward(self, found: tuple[Tensor, Tensor]) -> Tensor:
        return kernels._normalise(self.x, *found, self.weight, self.bias, self.relu)

    def backward(self, found: tuple[Tensor, Tensor], gradient: Tensor, wants: bool = True) -> tuple[Tensor, ...]:
        return kernels._backward(gradient, self.x, *found, self.weight, self.bias, self.relu, wants)


def within(ours: Tensor, exact: Tensor, bound: Tensor | float) -> None:
    """Fail unless every element is as near as its bound says."""
    excess = ((ours.double() - exact).abs() - bound).detach()
    assert excess.isfinite().all() and excess.max() <= 0, (
        f"{int((excess > 0).sum())} of {excess.numel()} too far, by up to {excess.max()}"
    )


def rounding(exact: Tensor, dtype: torch.dtype) -> Tensor:
    """How far a stored result may lie from the number itself.

    float32 and float16 are rounded to nearest, float16 with steps of 2**-24 close to 0. The interpreter cuts bfloat16
    off where a card rounds it.
    """
    return exact.detach().abs() * {FLOAT: 2**-24, HALF: 2**-11, BFLOAT: 2**-7}[dtype] + 2**-25 * (dtype == HALF)


def check_statistics(*of: Any) -> None:
    case = Case(*of)
    (mean, deviation), moved = case.statistics()
    assert mean.dtype == deviation.dtype == FLOAT
    within(mean, case.mean, case.noise / case.deviation)
    within(deviation / case.deviation, torch.ones(()), case.noise)
    within(moved[0], case.running64[0], MOMENTUM * case.noise / case.deviation + 2**-22 * case.running[0].abs())
    within(moved[1] / case.running64[1], torch.ones(()), 2 * case.noise)


def check_output(*of: Any) -> None:
    case = Case(*of)
    y = case.forward(case.statistics()[0])
    assert y.dtype == case.x.dtype and y.is_contiguous(memory_format=torch.channels_last)
    scale = case.spread(case.noise * case.weight.abs()) * (1 + case.normal.abs()) + 2**-22 * case.spread(
        case.bias.abs()
    )
    within(y, case.y.detach(), scale + rounding(case.y, case.x.dtype))
    assert not case.relu or (y >= 0).all()


def check_gradients(*of: Any) -> None:
    case = Case(*of)
    found = case.statistics()[0]
    by_x, by_weight, by_bias = case.backward(found, case.gradient)
    assert by_x.dtype == case.x.dtype and by_x.is_contiguous(memory_format=torch.channels_last)
    rows, uncertain = case.x.numel() // case.x.shape[1], case.slope * (1 + case.normal.abs())
    within(by_bias, case.gradients[2], 2**-22 * case.slope.sum((0, 2, 3)))
    within(by_weight, case.gradients[1], case.noise * uncertain.sum((0, 2, 3)))
    shares = uncertain + (1 + case.normal.abs()) ** 2 * case.spread(uncertain.sum((0, 2, 3)) / rows)
    arithmetic = case.spread(case.noise * (case.weight64.abs() * case.deviation).detach()) * shares
    within(by_x, case.gradients[0], arithmetic + rounding(case.gradients[0], case.x.dtype))


def check_same_bits(*of: Any) -> None:
    case = Case(*of)
    found, moved = case.statistics()
    again, moved_again = case.statistics()
    first = *found, *moved, case.forward(found), *case.backward(found, case.gradient)
    second = *again, *moved_again, case.forward(again), *case.backward(again, case.gradient)
    assert all(map(torch.equal, first, second))


def check_in_few_blocks(check: Check, *of: Any) -> None:
    from triton.language import constexpr

    from resnet_v2.networks import triton_kernels

    with mock.patch.object(triton_kernels, "MOST_BLOCKS", constexpr(4)):
        check(*of)


def check_strides() -> None:
    case = Case((5, 16, 5, 5), FLOAT, "normal", True)
    found = case.statistics()[0]
    spread = torch.randn(5, 16, 1, 1).expand(5, 16, 5, 5)
    dense = spread.contiguous(memory_format=torch.channels_last)
    for gradient in (spread, dense.contiguous(), F.pad(dense, (1, 2))[..., 1:-2]):
        assert not gradient.is_contiguous(memory_format=torch.channels_last)
        assert all(map(torch.equal, case.backward(found, gradient), case.backward(found, dense)))
    expected = case.forward(found)
    case.x = case.x.contiguous()
    assert torch.equal(case.forward(found), expected)
    assert all(map(torch.equal, case.statistics()[0], found))


def check_unwanted() -> None:
    case = Case((5, 16, 5, 5), FLOAT, "normal", True)
    found = case.statistics()[0]
    nothing, *rest = case.backward(found, case.gradient, wants=False)
    assert nothing.shape == (0,)
    assert all(map(torch.equal, rest, case.backward(found, case.gradient)[1:]))


def check_nan(relu: bool) -> None:
    case = Case((5, 16, 5, 5), FLOAT, "normal", relu)
    good, expected = case.statistics()[0], case.forward(case.statistics()[0])
    case.x[3, 7, 1, 2] = torch.nan
    y = case.forward(good)
    assert y[3, 7, 1, 2].isnan() and y.isnan().sum() == 1
    (mean, deviation), moved = case.statistics()
    for statistic in (mean, deviation, *moved):
        assert statistic.isnan().nonzero().tolist() == [[7]]
    y = case.forward((mean, deviation))
    assert y[:, 7].isnan().all()
    assert torch.equal(y[:, :7], expected[:, :7]) and torch.equal(y[:, 8:], expected[:, 8:])
    # As torch has it, a ReLU passes the gradient of a NaN.
    assert case.backward(good, torch.ones_like(case.x))[2][7] == (
        y[:, 7].numel() if not relu else 1 + (expected[:, 7].flatten() > 0).sum() - (expected[3, 7, 1, 2] > 0).long()
    )


def check_trial() -> None:
    kernels._try_out(torch.device("cpu"))
    right = kernels._normalise
    with (
        mock.patch.object(kernels, "_normalise", lambda *of: right(*of) * 1.01),
        pytest.raises(ArithmeticError, match="differ from torch's"),
    ):
        kernels._try_out(torch.device("cpu"))


@needs_triton
@pytest.mark.parametrize(("shape", "dtype", "relu"), CASES)
def test_statistics_output_and_gradients_are_torchs(
    interpreted: Check, shape: tuple[int, ...], dtype: torch.dtype, relu: bool
) -> None:
    for check in (check_statistics, check_output, check_gradients):
        interpreted(check, shape, dtype, "normal", relu)


@needs_triton
@pytest.mark.parametrize("check", [check_statistics, check_output, check_gradients])
@pytest.mark.parametrize(("dtype", "values"), [(FLOAT, "pixels"), (BFLOAT, "pixels"), (HALF, "pixels"), (FLOAT, "far")])
def test_a_mean_far_from_zero_costs_no_digits(
    interpreted: Check, check: Check, dtype: torch.dtype, values: str
) -> None:
    interpreted(check, (3, 3, 37, 23), dtype, values, False)
    interpreted(check_in_few_blocks, check, (3, 3, 37, 23), dtype, values, False)


@needs_triton
@pytest.mark.slow
def test_blocks_of_many_tiles_are_merged(interpreted: Check) -> None:
    interpreted(check_statistics, LONG, FLOAT, "normal", True)
    for check in (check_statistics, check_gradients):
        interpreted(check_in_few_blocks, check, (7, 64, 17, 11), FLOAT, "normal", True)


@needs_triton
def test_the_same_call_gives_the_same_bits(interpreted: Check) -> None:
    interpreted(check_same_bits, (3, 3, 37, 23), BFLOAT, "pixels", True)
    interpreted(check_in_few_blocks, check_same_bits, (7, 64, 17, 11), FLOAT, "normal", True)


@needs_triton
def test_any_strides_will_do(interpreted: Check) -> None:
    interpreted(check_strides)


@needs_triton
def test_the_gradient_of_x_is_only_computed_when_wanted(interpreted: Check) -> None:
    interpreted(check_unwanted)


@needs_triton
@pytest.mark.parametrize("relu", [True, False])
def test_nan_passes_through(interpreted: Check, relu: bool) -> None:
    interpreted(check_nan, relu)


@needs_triton
def test_the_trial_accepts_these_kernels_and_no_wrong_ones(interpreted: Check) -> None:
    interpreted(check_trial)


class Card:
    """What Triton asks a driver before it compiles for its card."""

    def __init__(self, capability: int) -> None:
        from triton.backends.compiler import GPUTarget

        self.target = GPUTarget("cuda", capability, 32)

    def get_current_device(self) -> int:
        return self.target.arch  # type: ignore[no-any-return]

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> Any:
        return self.target


def check_compiled(capability: int, dtype: torch.dtype, channels: int) -> None:
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    assemblies: dict[str, dict[str, Any]] = {}
    run = JITFunction.run

    def compile_only(kernel: Any, *arguments: Any, warmup: bool, **options: Any) -> None:
        assemblies[kernel.__name__] = run(kernel, *arguments, warmup=True, **options).asm

    driver.set_active(Card(capability))
    x = torch.zeros(4, channels, 8, 8, dtype=dtype).contiguous(memory_format=torch.channels_last)
    mean, deviation, weight, bias = torch.ones(4, channels)
    with mock.patch.object(JITFunction, "run", compile_only):
        for relu in (True, False):
            kernels._statistics(x, mean, deviation, MOMENTUM, EPS)
            kernels._normalise(x, mean, deviation, weight, bias, relu)
            kernels._backward(x, x, mean, deviation, weight, bias, relu, True)

    on_tensors = {"partial_statistics", "normalise", "partial_gradients", "input_gradient"}
    assert assemblies.keys() == on_tensors | {"merge_statistics", "merge_gradients"}
    for name, assembly in assemblies.items():
        assert assembly["cubin"].startswith(b"\x7fELF"), name
        ptx = assembly["ptx"]
        assert re.search(rf"\.target sm_{capability}", ptx), name
        # Threads that add to the same place in whatever order would make other bits every time.
        assert not re.search(r"\b(atom|red)\.", ptx), name
        # Fused or not would be the compiler's choice in each kernel for itself.
        assert not re.search(r"\bfma\.", ptx), name
        if name in on_tensors:
            # A tensor may have more than 2**31 elements.
            assert re.search(r"arith\.muli .* : i64", assembly["ttir"]), name
            # Sixteen bytes at once, where the channels allow it.
            assert bool(re.search(r"ld\.global\S*\.v4\.b32", ptx)) == (channels == 64), name
    if dtype != FLOAT:
        for name in ("normalise", "input_gradient"):
            assert "cvt.rn." + ("bf16" if dtype == BFLOAT else "f16") in assemblies[name]["ptx"], name


@needs_triton
@pytest.mark.parametrize(("capability", "dtype", "channels"), CARDS)
def test_every_kernel_is_compiled_for_a_card(
    compiled: Check, capability: int, dtype: torch.dtype, channels: int
) -> None:
    compiled(check_compiled, capability, dtype, channels)


@pytest.mark.parametrize("dtype", [FLOAT, BFLOAT, HALF])
def test_fake_tensors_get_right_shapes_types_strides_and_devices(dtype: torch.dtype) -> None:
    with FakeTensorMode():
        x = torch.empty(4, 16, 6, 5, dtype=dtype, device="cuda").to(memory_format=torch.channels_last)
        mean, deviation, weight, bias = torch.empty(4, 16, device="cuda")
        gradient = torch.empty(4, 16, 6, 5, dtype=dtype, device="cuda")
        found = kernels.statistics(x, mean, deviation, MOMENTUM, EPS)
        y = kernels.normalise(x, mean, deviation, weight, bias, True)
        by_x, *by_scales = kernels.backward(gradient, x, mean, deviation, weight, bias, True, True)
        nothing = kernels.backward(gradient, x, mean, deviation, weight, bias, False, False)[0]
    for tensor in (*found, y, by_x, *by_scales, nothing):
        assert tensor.device == x.device and tensor.device.type == "cuda"
    for tensor in (y, by_x):
        assert (tensor.dtype, tensor.shape, tensor.stride()) == (dtype, x.shape, x.stride())
    for tensor in (*found, *by_scales):
        assert (tensor.dtype, tensor.shape) == (FLOAT, (16,))
    assert (nothing.dtype, nothing.shape) == (dtype, (0,))


def test_the_operators_say_what_they_overwrite() -> None:
    written = [
        argument.name
        for name in ("statistics", "normalise", "backward")
        for argument in getattr(torch.ops.resnet_v2, name).default._schema.arguments
        if argument.is_write
    ]
    assert written == ["running_mean", "running_var"]


def test_without_a_gpu_the_kernels_are_not_usable_and_nothing_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    kernels.usable.cache_clear()
    assert not kernels.usable(torch.device("cpu"))
    assert capsys.readouterr() == ("", "")


def test_where_they_fail_a_sentence_says_why_and_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(device: torch.device) -> None:
        raise ModuleNotFoundError("No module named 'triton'\nand more")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(kernels, "_try_out", fail)
    kernels.usable.cache_clear()
    device = torch.device("cuda", 0)
    assert not kernels.usable(device) and not kernels.usable(device)
    kernels.usable.cache_clear()
    assert capsys.readouterr() == (
        "",
        "BatchNorm runs on torch's own kernels, slower in bfloat16: those in Triton fail on cuda:0 "
        "(No module named 'triton').\n",
    )


def test_the_trial_is_in_earnest_under_fake_tensor_mode_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail_if_fake(device: torch.device) -> None:
        assert type(torch.empty(0)) is Tensor

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(kernels, "_try_out", fail_if_fake)
    kernels.usable.cache_clear()
    with FakeTensorMode():
        assert kernels.usable(torch.device("cuda", 0))
    kernels.usable.cache_clear()


def test_importing_the_operators_takes_no_triton() -> None:
    program = "import sys; sys.modules['triton'] = None; import resnet_v2.networks.kernels"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parent)
