"""What a run decides for its GPU, shown without one; and, marked gpu, what only a GPU shows."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from conftest import Run, digits_run
from resnet_v2.config.training import TrainConfig, arguments_of
from resnet_v2.data.records import RecordReader
from resnet_v2.errors import ResnetError, SettingError
from resnet_v2.inference.pictures import View
from resnet_v2.inference.predict import Predictor
from resnet_v2.networks import kernels
from resnet_v2.networks.architecture import Architecture
from resnet_v2.recompute import budget, speeds
from resnet_v2.recompute.budget import CONTEXT_BYTES, MOST_CONTEXT_BYTES, Workload, cap, process_bytes
from resnet_v2.training import gpu
from resnet_v2.training.distributed import Ranks, choose_device

CPU, GPU = torch.device("cpu"), torch.device("cuda")
H100 = speeds.CARDS["H100"]
SMALL = Workload(Architecture(164, 10, "cifar"), device=H100, batch_size=128)
LARGE = Workload(Architecture(50, 1000, "imagenet"), device=H100, batch_size=256)

DEEP = Workload(Architecture(200, 1000, "imagenet"), device=H100, batch_size=128)


def test_small_networks_wait_for_launches_and_large_ones_compute() -> None:
    assert SMALL.waits_for_launches
    assert Workload(Architecture(20, 10, "cifar"), device=H100, batch_size=128).waits_for_launches
    assert not LARGE.waits_for_launches
    assert not replace(SMALL, device=speeds.CPU).waits_for_launches


@pytest.mark.parametrize(
    ("work", "settings", "ranks", "planned", "recorded", "why"),
    [
        (SMALL, {}, Ranks(), False, True, ""),
        (LARGE, {}, Ranks(), False, False, ""),
        (LARGE, {"cuda_graphs": "on"}, Ranks(), False, True, ""),
        (SMALL, {"cuda_graphs": "on"}, Ranks(), True, True, ""),
        (SMALL, {"cuda_graphs": "off"}, Ranks(), False, False, ""),
        (SMALL, {}, Ranks(), True, False, "an activation plan"),
        (DEEP, {}, Ranks(), False, True, ""),
        (
            replace(DEEP, batch_size=320, bf16=True),
            {},
            Ranks(),
            False,
            False,
            "a recording would hold twice",
        ),
        (replace(DEEP, batch_size=320, bf16=True), {"cuda_graphs": "on"}, Ranks(), False, True, ""),
        (SMALL, {}, Ranks(world_size=2), False, False, "several ranks"),
        (SMALL, {"optimizer": "muon"}, Ranks(), False, False, "`optimizer` muon"),
    ],
)
def test_which_steps_are_recorded(
    work: Workload,
    settings: dict[str, str],
    ranks: Ranks,
    planned: bool,
    recorded: bool,
    why: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gpu, "free_bytes", lambda device: 80 * 10**9)
    config = TrainConfig.of(**settings)
    graph, said = gpu.choose_graph(work, 64, config, ranks, GPU, planned)
    assert (graph is not None) == recorded
    # Where it would matter it is said.
    assert said.startswith("training steps are recorded" if recorded else "training steps are not" if why else "")
    assert why in said
    assert bool(said) == (recorded or bool(why))
    assert graph is None or graph._batch_size == 64  # of the whole step, where `work` is of a part
    on_cpu = replace(work, device=speeds.CPU)
    assert gpu.choose_graph(on_cpu, 64, config.changed(cuda_graphs="auto"), ranks, CPU, planned) == (None, "")


@pytest.mark.parametrize(
    ("device", "settings", "ranks", "words"),
    [
        (CPU, {}, Ranks(), "only a GPU has them"),
        (GPU, {}, Ranks(world_size=2), "several ranks"),
        (GPU, {"optimizer": "muon"}, Ranks(), "`optimizer` muon"),
    ],
)
def test_recorded_steps_that_cannot_be_had_are_refused(
    device: torch.device, settings: dict[str, str], ranks: Ranks, words: str
) -> None:
    config = TrainConfig.of(cuda_graphs="on", **settings)
    with pytest.raises(ResnetError, match=words):
        gpu.choose_graph(SMALL, 128, config, ranks, device, planned=False)


AUTO_BF16 = "`amp` auto is bf16, in which this device computes; weights and sums stay in float32"


@pytest.mark.parametrize(
    ("there", "chosen"),
    [(True, ("bf16", AUTO_BF16)), (False, ("off", "`amp` auto is off, since this GPU does not compute in bfloat16"))],
)
def test_16_bits_on_a_gpu_are_bfloat16_and_stay_what_they_were(
    there: bool, chosen: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "has_bfloat16", lambda device: there)
    assert gpu.choose_precision("auto", Ranks(), GPU, None) == chosen
    assert gpu.choose_precision("auto", Ranks(), GPU, "fp16")[0] == "fp16"
    assert gpu.choose_precision("off", Ranks(), GPU, None) == ("off", "")
    assert gpu.choose_precision("fp16", Ranks(), GPU, None) == ("fp16", "")


@pytest.mark.parametrize(
    ("avx512", "amx", "instructions", "chosen"),
    [
        (True, False, None, ("bf16", AUTO_BF16)),
        (False, True, None, ("bf16", AUTO_BF16)),
        (True, True, "avx512_core_amx", ("bf16", AUTO_BF16)),
        (True, True, "avx512_core", ("off", "`amp` auto is off, since neither AVX512_BF16 nor AMX is to be had here")),
        (False, False, None, ("off", "`amp` auto is off, since neither AVX512_BF16 nor AMX is to be had here")),
    ],
)
def test_16_bits_on_a_cpu_are_its_own(
    avx512: bool, amx: bool, instructions: str | None, chosen: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA")
    if instructions:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", instructions)
    assert gpu.choose_precision("auto", Ranks(), CPU, None) == chosen
    assert gpu.choose_precision("auto", Ranks(), CPU, "off")[0] == "off"


def test_no_cpu_trains_in_fp16() -> None:
    for asked, saved in (("fp16", None), ("auto", "fp16")):
        with pytest.raises(SettingError, match="`amp` fp16 is for GPUs"):
            gpu.choose_precision(asked, Ranks(), CPU, saved)


def test_numerics_are_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    try:
        gpu.set_numerics(deterministic=True, tf32=False)
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.backends.cudnn.deterministic
        assert not torch.backends.cudnn.benchmark
        assert not torch.backends.cudnn.allow_tf32
        assert not torch.backends.cuda.matmul.allow_tf32
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        gpu.set_numerics(deterministic=False, tf32=True)
        assert not torch.are_deterministic_algorithms_enabled()
        assert torch.backends.cudnn.benchmark
        assert torch.backends.cudnn.allow_tf32
    finally:
        gpu.set_numerics(deterministic=False, tf32=True)
        torch.backends.cudnn.benchmark = False


def test_flags_that_are_on_reach_the_ranks_when_they_are_off() -> None:
    assert arguments_of({"deterministic": False, "tf32": False}) == ["--no-deterministic", "--no-tf32"]


class Card:
    """A GPU of 80 GB with so much free and so much held by torch."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, free: int, reserved: int) -> None:
        self.fractions: list[float] = []
        self.total_memory = 80 * 10**9
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, self.total_memory))
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: reserved)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: self)
        keep = lambda fraction, device: self.fractions.append(fraction)  # noqa: E731
        monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", keep)


def test_a_budget_caps_the_allocator(monkeypatch: pytest.MonkeyPatch) -> None:
    card = Card(monkeypatch, free=80 * 10**9 - 700 * 10**6 - 10**8, reserved=10**8)
    assert process_bytes(GPU) == 700 * 10**6
    cap(GPU, 12 * 10**9)
    assert card.fractions == [pytest.approx((12 - 0.7) / 80)]
    work = replace(LARGE, process_bytes=process_bytes(GPU))
    plan = budget.plan_for_training(work, GPU, 12 * 10**9)
    # The allocator loses some of it in pieces.
    assert 0.9 * 11.3e9 < work.total_bytes(work.forecast(plan), 256) - 0.7e9 <= 0.93 * 11.3e9
    assert card.fractions[1:] == [pytest.approx((12 - 0.7) / 80)]
    # --memonger: nine tenths of what is free, and the context is taken already.
    budget.plan_for_training(work, GPU, 0)
    assert card.fractions[2] == pytest.approx(0.9 * (80 - 0.8) / 80)
    cap(CPU, 12 * 10**9)
    assert len(card.fractions) == 3


def test_a_card_that_others_use_too(monkeypatch: pytest.MonkeyPatch) -> None:
    Card(monkeypatch, free=80 * 10**9 - MOST_CONTEXT_BYTES - 1, reserved=0)
    assert process_bytes(GPU) == CONTEXT_BYTES


@pytest.mark.parametrize(
    ("given", "words", "allowed"),
    [
        ("", r"; `memory_budget` 14\.4GB would fit, or `batch_size` (\d+)\.", 14.4e9),
        ("5GB", r" and `memory_budget` 5GB; `batch_size` (\d+) would fit, or give a larger budget\.", 4.5e9),
    ],
)
def test_memory_that_runs_out_is_one_sentence(
    given: str, words: str, allowed: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "free_bytes", lambda device: 16 * 10**9 - LARGE.process_bytes)
    config = TrainConfig.of(memory_budget=given)
    expected = f"The memory of H100 ran out at 256 images at once{words}"
    with pytest.raises(ResnetError, match=expected) as caught, gpu.failures_told(LARGE, GPU, config, parts=4):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB\nmore")
    found = re.search(words, str(caught.value))
    assert found is not None
    # --batch-size counts the images of two ranks in two parts each, say; the memory is that of one.
    each, its = int(found[1]) // 4, (LARGE.smallest() if given else LARGE.plain()).forecast
    assert int(found[1]) % 4 == 0
    assert LARGE.total_bytes(its, each) <= allowed < LARGE.total_bytes(its, int(1.2 * each))
    with pytest.raises(RuntimeError, match="another"), gpu.failures_told(LARGE, GPU, config, parts=1):
        raise RuntimeError("another fault")


def test_memory_that_was_foretold_to_be_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "free_bytes", lambda device: 160 * 10**9 - LARGE.process_bytes)
    words = r"ran out at 256 images at once, though \d+\.\d GB of 144\.0 GB should have held them; another program may"
    with pytest.raises(ResnetError, match=words), gpu.failures_told(LARGE, GPU, TrainConfig(), parts=1):
        raise torch.OutOfMemoryError("CUDA out of memory.")


def test_memory_whose_size_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody_knows(device: torch.device) -> int:
        raise ResnetError("How much memory is free on mps cannot be asked.")

    monkeypatch.setattr(gpu, "free_bytes", nobody_knows)
    mps = torch.device("mps")
    with (
        pytest.raises(ResnetError, match=r"which take about \d+\.\d GB; give a smaller `batch_size`\."),
        gpu.failures_told(LARGE, mps, TrainConfig(), parts=1),
    ):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")


@pytest.mark.slow
def test_a_compiler_that_is_missing_is_one_sentence(digits: Path, tmp_path: Path) -> None:
    words = [
        "--data-dir",
        digits,
        "--data-type",
        "digits",
        "--depth",
        8,
        "--num-examples",
        32,
        "--batch-size",
        32,
        "--epochs",
        1,
        "--device",
        "cpu",
        "--compile",
        "--model-prefix",
        tmp_path / "m",
    ]
    nowhere = os.environ | {"PATH": "/nowhere", "CXX": "", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "resnet_v2", "train", *map(str, words)]
    result = subprocess.run(command, capture_output=True, text=True, env=nowhere, check=False)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert "--compile fails here (" in result.stderr
    assert "install a C++ compiler, or leave it out." in result.stderr


def test_gpus_that_are_not_there(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert choose_device("0") == CPU
    built = "no GPU is available (this torch is built for the CPU alone): running on the CPU\n"
    assert capsys.readouterr().err == built
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert choose_device("0") == CPU
    assert "CUDA_VISIBLE_DEVICES='' shows no others" in capsys.readouterr().err
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    with pytest.raises(
        ResnetError, match=r"`gpus` 3 names GPU 3, but there is 1 here \(CUDA_VISIBLE_DEVICES='3' shows"
    ):
        choose_device("3")


def test_the_forecast_for_a_card(run: Run) -> None:
    status, out, _ = run("plan", "--depth", 200, "--budget", "12GB", "--gpu", "h100")
    assert status == 0
    assert "budget" in out
    status, _, err = run("plan", "--gpu", "Voodoo 2")
    assert status == 2
    assert "--gpu 'Voodoo 2' is not known here; give one of H200, H100" in err


@pytest.mark.parametrize("chosen", ["bf16", "off"])
def test_the_precision_is_chosen_saved_and_kept(
    chosen: str, few_digits: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By default; also where the processor is another when the run goes on."""
    monkeypatch.setattr(gpu, "computes_in_bf16", lambda device: chosen == "bf16")
    words = digits_run(few_digits, batch_size=4, device="cpu", num_examples=8, model_prefix=tmp_path / "m")
    status, _, err = run(*words, "--epochs", 2)
    assert status == 0, err
    assert f"--amp auto is {chosen}, " in err
    monkeypatch.setattr(gpu, "computes_in_bf16", lambda device: chosen == "off")
    predictor = Predictor.open(str(tmp_path / "m"), 2, precision="float32")
    assert predictor.header is not None
    header = predictor.header.training
    assert header["amp"] == chosen
    # The validation is in float32, so that `evaluate` finds the same error on any machine.
    reader = RecordReader(few_digits / "digits_val.rec")
    found = predictor.judge(reader, View.of(predictor.header))
    assert header["evaluation"]["loss"] == pytest.approx(found.loss, rel=1e-5)
    settings = header["settings"]
    assert (settings["tf32"], settings["deterministic"]) == (True, True)
    status, _, err = run(*words, "--epochs", 3, "--resume", "--no-tf32", "--cuda-graphs", "off")
    assert status == 2
    assert "(--epochs 3, was 2; --tf32 off, was on)" in err  # graphs change no bit, and are not told
    status, _, err = run(*words, "--epochs", 3, "--resume", "--force")
    assert status == 0, err
    assert f"--amp auto is {chosen}, as when the run began" in err


def test_a_device_has_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    current: list[torch.device] = []
    monkeypatch.setattr(torch, "empty", lambda count, device: None)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    assert choose_device("", "cuda") == torch.device("cuda", 1)
    assert choose_device("", "cuda:0") == torch.device("cuda", 0)
    assert current == [torch.device("cuda", 1), torch.device("cuda", 0)]


def test_our_kernels_are_tried_with_gradients_whatever_mode_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    def trial(device: torch.device) -> None:
        x = torch.ones(1, requires_grad=True)
        torch.autograd.grad((x * x).sum(), x)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(kernels, "_try_out", trial)
    with torch.inference_mode():
        assert kernels.usable.__wrapped__(GPU)
    with torch.no_grad():
        assert kernels.usable.__wrapped__(GPU)
