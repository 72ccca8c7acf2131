"""How a run uses its device: the same bits, 16 bits where they pay, recorded steps, words for missing memory."""

import contextlib
import os
import warnings
from collections.abc import Iterator
from dataclasses import replace

import torch

from resnet_v2.config.training import Memory, TrainConfig
from resnet_v2.console import counted
from resnet_v2.errors import ResnetError, SettingError
from resnet_v2.networks import kernels
from resnet_v2.networks.architecture import Architecture
from resnet_v2.recompute.budget import FREE_SHARE, Workload, free_bytes, process_bytes
from resnet_v2.recompute.measured import measure
from resnet_v2.training.distributed import Ranks
from resnet_v2.training.graph import Graph
from resnet_v2.training.optim import keep_rate_on
from resnet_v2.training.step import Trainer

# What oneDNN calls the instructions before those for bfloat16.
OLDER_INSTRUCTIONS = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI")
LACKS = {"cpu": "neither AVX512_BF16 nor AMX is to be had here", "cuda": "this GPU does not compute in bfloat16"}


def set_numerics(deterministic: bool, tf32: bool) -> None:
    """Let torch take the same kernels every time, and say whether float32 convolutions may round to TF32 first.

    Both are for the whole process and matter to GPUs alone. An operation that has no deterministic form is named in a
    warning of torch's.
    """
    if deterministic:
        # cuBLAS reads it when it is first used; it has no deterministic form without.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(deterministic, warn_only=True)
    # torch would fill all new memory with numbers that are none.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.deterministic = deterministic
    torch.backends.cudnn.benchmark = not deterministic
    with warnings.catch_warnings():
        # torch 2.9 to 2.11 name a newer way, which 2.6 does not have.
        warnings.simplefilter("ignore", UserWarning)
        torch.backends.cuda.matmul.allow_tf32 = tf32
        torch.backends.cudnn.allow_tf32 = tf32


@contextlib.contextmanager
def own_stream(device: torch.device) -> Iterator[None]:
    """Run on a stream of our own on a GPU, where steps can be recorded, which torch's default one does not allow."""
    if device.type != "cuda":
        yield
        return
    with torch.cuda.stream(torch.cuda.Stream(device)):  # type: ignore[no-untyped-call]
        yield
    torch.cuda.synchronize(device)


def workload(architecture: Architecture, images: int, config: TrainConfig, device: torch.device, amp: str) -> Workload:
    """What a step of `images` images on this rank takes, on the device in hand; `amp`: what it computes in."""
    try:
        measured = measure(device)
    except torch.OutOfMemoryError:
        raise ResnetError(
            f"{device} has too little free memory to begin; stop what else runs on it, or give another `gpus`."
        ) from None
    return Workload(
        architecture,
        config.network.image_size,
        bf16=amp != "off",
        fused=config.memory.fused_backward,
        device=measured,
        batch_size=max(1, images),
        process_bytes=process_bytes(device),
    )


def choose_graph(
    work: Workload, images: int, config: TrainConfig, ranks: Ranks, device: torch.device, planned: bool
) -> tuple[Graph | None, str]:
    """Recorded steps of `images` images where they are asked for, or on a GPU where kernels take longer to start than
    to run; and a sentence for the user where that matters.

    A ResnetError says why steps that are asked for are not to be had.
    """
    reasons = {
        "`device` cpu, since only a GPU has them": device.type != "cuda",
        "several ranks": ranks.world_size > 1,
        "`optimizer` muon": config.optimisation.optimizer == "muon",
    }
    against = next((reason for reason, holds in reasons.items() if holds), None)
    asked = config.devices.cuda_graphs
    if asked == "on" and against is not None:
        raise SettingError(f"`cuda_graphs` on does not go with {against}; leave it or `cuda_graphs` out.")
    if asked == "off" or (asked == "auto" and not work.waits_for_launches):
        return None, ""
    if asked == "auto" and planned:
        against = "an activation plan, whose memory a recording would hold twice (`cuda_graphs` on: all the same)"
    elif asked == "auto" and against is None and not _fits_twice(work, device):
        against = "their memory, which a recording would hold twice (`cuda_graphs` on: all the same)"
    if against is not None:
        return None, f"training steps are not recorded as a CUDA graph, because of {against}"
    return Graph(images), "training steps are recorded as a CUDA graph and played (`cuda_graphs` off: not)"


def _fits_twice(work: Workload, device: torch.device) -> bool:
    """Whether a recorded step leaves room for one that is made as ever, as an epoch's last, and for validation."""
    tensors = work.total_bytes(work.plain().forecast, work.batch_size) - work.process_bytes
    return 2 * tensors <= FREE_SHARE * free_bytes(device)


def choose_precision(asked: str, ranks: Ranks, device: torch.device, saved: str | None) -> tuple[str, str]:
    """What a run computes in where `amp` is `asked`, and a sentence on how that was chosen, if it was.

    auto: bf16 on a device that computes in it, and off elsewhere; what the run began with (`saved`) stays. Raises
    SettingError for fp16 on a CPU.
    """
    if asked != "auto":
        amp, reason = asked, ""
    elif saved is not None:
        amp, reason = saved, f"`amp` auto is {saved}, as when the run began"
    # The ranks must agree, though their devices differ.
    elif ranks.any(not computes_in_bf16(device)):
        amp, reason = "off", f"`amp` auto is off, since {LACKS[device.type]}"
    else:
        amp, reason = "bf16", "`amp` auto is bf16, in which this device computes; weights and sums stay in float32"
    if device.type == "cpu":
        refuse_on_cpu(amp)
    return amp, reason


def refuse_on_cpu(amp: str) -> None:
    """Raise SettingError for what no CPU's kernels compute in: a step of ResNet-50 with 4 images took 13 seconds."""
    if amp == "fp16":
        raise SettingError("`amp` fp16 is for GPUs, a CPU takes minutes for what it does in seconds; give bf16 or off.")


def computes_in_bf16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 itself: a processor by AVX512_BF16 or AMX, a GPU from Ampere on.

    ONEDNN_MAX_CPU_ISA, oneDNN's variable for the instructions that it may use, can take them from a processor.
    """
    if device.type == "cpu":
        if os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() in OLDER_INSTRUCTIONS:
            return False
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return device.type == "cuda" and kernels.has_bfloat16(device)


def with_graph(trainer: Trainer, graph: Graph | None) -> Trainer:
    """The trainer that records its steps, if there is a graph; its update is the same kernel if there is none."""
    if trainer.optimizer.defaults["fused"]:
        keep_rate_on(trainer.device, trainer.optimizer)
    if graph is not None:
        graph.leaves = list(trainer.network.parameters())
    return replace(trainer, graph=graph)


@contextlib.contextmanager
def failures_told(work: Workload, device: torch.device, config: TrainConfig, parts: int) -> Iterator[None]:
    """Turn torch's errors about missing memory and missing compilers into one sentence each.

    `parts`: how many times `work`, of one rank and at once, is in what `batch_size` counts.
    """
    with contextlib.suppress(ResnetError):
        work = replace(work, free_bytes=free_bytes(device) + (work.process_bytes if device.type == "cuda" else 0))
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
            raise ResnetError(_out_of_memory(work, config.memory, parts)) from None
        # Of torch.compile and what it calls.
        if config.devices.compile and type(error).__module__.startswith("torch._"):
            reason = str(error).strip().splitlines()[0]
            raise ResnetError(f"`compile` fails here ({reason}); install a C++ compiler, or leave it out.") from None
        raise


def _out_of_memory(work: Workload, memory: Memory, parts: int) -> str:
    said = f"The memory of {work.device.name} ran out at {counted(work.batch_size, 'image')} at once"
    budget = memory.memory_budget
    allowed = int(FREE_SHARE * (memory.budget_bytes or work.free_bytes))
    if not allowed:
        needed = work.total_bytes(work.plain().forecast, work.batch_size)
        return f"{said}, which take about {needed / 1e9:.1f} GB; give a smaller `batch_size`."
    its = (work.smallest() if budget else work.plain()).forecast
    fits = max(1, work.largest_batch(its, allowed))
    if fits >= work.batch_size > 1:
        needed = work.total_bytes(its, work.batch_size)
        return (
            f"{said}, though {needed / 1e9:.1f} GB of {allowed / 1e9:.1f} GB should have held them; another program "
            "may use this memory too (nvidia-smi tells for a GPU): end it, or give a smaller `batch_size`."
        )
    if budget:
        return f"{said} and `memory_budget` {budget}; `batch_size` {parts * fits} would fit, or give a larger budget."
    if work.largest_batch(work.smallest().forecast, allowed) >= work.batch_size:
        return f"{said}; `memory_budget` {allowed / 1e9:.1f}GB would fit, or `batch_size` {parts * fits}."
    return f"{said}; `batch_size` {parts * fits} would fit."
