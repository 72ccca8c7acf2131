"""How a run uses its device: the same bits, 16 bits the faster way, recorded steps, words for missing memory."""

import contextlib
import copy
import os
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from resnet_v2.config import TrainConfig
from resnet_v2.files import ResnetError
from resnet_v2.networks import speeds
from resnet_v2.networks.architecture import Architecture
from resnet_v2.networks.budget import Workload, process_bytes
from resnet_v2.networks.resnet import ResNet
from resnet_v2.training.distributed import Ranks
from resnet_v2.training.graph import Graph
from resnet_v2.training.optim import keep_rate_on, nesterov_sgd
from resnet_v2.training.step import Trainer

TIMED_STEPS = 5


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


def workload(architecture: Architecture, images: int, config: TrainConfig, device: torch.device) -> Workload:
    """What a step of `images` images on this rank takes, on the device in hand."""
    sixteen = config.amp != "off"
    try:
        measured = speeds.measure(device)
    except torch.OutOfMemoryError:
        raise ResnetError(
            f"{device} has too little free memory to begin; stop what else runs on it, or give another --gpus."
        ) from None
    return Workload(
        architecture, bf16=sixteen, fused=config.fused_backward, device=measured,
        batch_size=max(1, images), process_bytes=process_bytes(device),
    )  # fmt: skip


def choose_graph(
    work: Workload, images: int, config: TrainConfig, ranks: Ranks, device: torch.device, planned: bool
) -> Graph | None:
    """Recorded steps of `images` images where they are asked for, or on a GPU where kernels take longer to start than
    to run.

    A ResnetError says why they are not to be had.
    """
    reasons = {
        "--device cpu, since only a GPU has them": device.type != "cuda",
        "several ranks": ranks.world_size > 1,
        "--optimizer muon": config.optimizer == "muon",
    }
    against = next((reason for reason, holds in reasons.items() if holds), None)
    if config.cuda_graphs == "on" and against is not None:
        raise ResnetError(f"--cuda-graphs on does not go with {against}; leave it or --cuda-graphs out.")
    wanted = config.cuda_graphs == "on" or (config.cuda_graphs == "auto" and not planned and work.waits_for_launches)
    return Graph(images) if wanted and against is None else None


def said_of_graph(graph: Graph | None) -> str:
    """A sentence for the user where steps are recorded."""
    return "" if graph is None else "training steps are recorded as a CUDA graph and played (--cuda-graphs off: not)"


@dataclass(frozen=True)
class Precision:
    """What a run computes in, and a sentence on how that was chosen, if it was."""

    amp: str
    reason: str = ""


def choose_precision(
    network: ResNet, images: int, config: TrainConfig, ranks: Ranks, device: torch.device, saved: str | None
) -> Precision:
    """`--amp auto`: bf16 or fp16, whichever makes the faster steps here; what the run began with (`saved`) stays."""
    if config.amp != "auto":
        return Precision(config.amp)
    if saved is not None:
        return Precision(saved, f"--amp auto is {saved}, as when the run began")
    if config.fused_backward:
        return Precision("bf16", "--amp auto is bf16, since fp16 does not go with --fused-backward")
    times = {amp: _seconds_per_step(network, images, config, device, amp) for amp in ("bf16", "fp16")}
    # The ranks must agree, and hear rank 0.
    fp16 = ranks.any(ranks.main and times["fp16"] < times["bf16"])
    told = ", ".join(f"{amp} {1000 * seconds:.1f} ms" for amp, seconds in times.items())
    chosen = "fp16" if fp16 else "bf16"
    return Precision(chosen, f"--amp auto is {chosen}: a step takes {told}")


def _seconds_per_step(network: ResNet, images: int, config: TrainConfig, device: torch.device, amp: str) -> float:
    """The shortest of some steps with grey images, of a copy that is thrown away."""
    alone = replace(config, sync_bn=False, ema=0.0, fused_backward=False, accumulate=1)
    twin = copy.deepcopy(network)
    trainer = Trainer.of(twin, nesterov_sgd(twin, 0.1, 0.9, 0.0), alone, Ranks(), device, amp)
    trainer.model.train()
    size = network.architecture.image_size
    pixels = torch.full((images, size, size, 3), 128, dtype=torch.uint8, device=device)
    labels = torch.zeros(images, dtype=torch.int64, device=device)
    seconds = []
    for _ in range(TIMED_STEPS):
        started = time.perf_counter()
        trainer.step(pixels, labels, images, 0.0).tolist()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def with_graph(trainer: Trainer, graph: Graph | None) -> Trainer:
    """The trainer that records its steps, if there is a graph; its update is the same kernel if there is none."""
    if trainer.optimizer.defaults["fused"]:
        keep_rate_on(trainer.device, trainer.optimizer)
    if graph is not None:
        graph.leaves = list(trainer.network.parameters())
    return replace(trainer, graph=graph)


@contextlib.contextmanager
def memory_told(work: Workload, budget: str) -> Iterator[None]:
    """Turn torch's error about missing memory into one sentence with a batch size that would fit."""
    try:
        yield
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if not (isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)):
            raise
        raise ResnetError(_out_of_memory(work, budget, _memory_of(work.device.name))) from None


def _memory_of(name: str) -> int:
    if name not in ("cpu", "mps"):
        return int(torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory)
    return 0


def _out_of_memory(work: Workload, budget: str, total: int) -> str:
    said = f"The memory of {work.device.name} ran out at {work.batch_size} images per step"
    plain, smallest = work.plain().forecast, work.smallest().forecast
    fits = work.largest_batch(plain, int(0.9 * total))
    if budget:
        return f"{said} and --memory-budget {budget}; give a smaller --batch-size or a larger budget."
    if not total:
        return f"{said}, which takes about {work.total_bytes(plain, work.batch_size) / 1e9:.1f} GB; give a smaller " \
            "--batch-size, or --memory-budget."  # fmt: skip
    if work.total_bytes(smallest, work.batch_size) < 0.9 * total:
        return f"{said}; --memory-budget {0.9 * total / 1e9:.0f}GB would fit, or --batch-size {max(1, fits)}."
    return f"{said}; --batch-size {max(1, fits)} would fit."
