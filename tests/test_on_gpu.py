"""What only a GPU shows; `make gpu` runs it.

With RESNET_V2_GPU_TESTS=cpu some of it runs on the CPU, where it says less, so that it does not rot.
"""

import mmap
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import torch
import torch.nn.functional as F
from torch import Tensor

from conftest import Run, picture
from every_network import NETWORKS, PLANS
from resnet_v2.config.training import TrainConfig
from resnet_v2.data.loader import Batch
from resnet_v2.data.records import IRHeader, RecordReader, pack, writing
from resnet_v2.data.ring import Layout, Ring
from resnet_v2.networks import kernels, weights
from resnet_v2.networks.architecture import Architecture
from resnet_v2.networks.resnet import ResNet, initialize
from resnet_v2.recompute import budget
from resnet_v2.recompute.plan import Plan
from resnet_v2.recompute.tape import follow
from resnet_v2.training import gpu
from resnet_v2.training.distributed import Ranks
from resnet_v2.training.evaluate import evaluate
from resnet_v2.training.feed import feed, on_device, pin_for
from resnet_v2.training.graph import Graph
from resnet_v2.training.optim import nesterov_sgd
from resnet_v2.training.step import Trainer

WANTED = os.environ.get("RESNET_V2_GPU_TESTS", "")
ON_CPU = WANTED == "cpu"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not WANTED, reason="missing CUDA: `make gpu` on a machine that has a GPU"),
]
DEVICE = torch.device("cpu") if ON_CPU else torch.device("cuda", 0)
CPU = torch.device("cpu")
EPOCHS = 2
WORKS = NETWORKS[:1] if ON_CPU else NETWORKS


@pytest.fixture(autouse=True)
def numerics() -> Iterator[None]:
    """Exact kernels, as `train` takes them, but no TF32; and a stream of its own."""
    if ON_CPU:
        yield
        return
    gpu.set_numerics(deterministic=True, tf32=False)
    with gpu.own_stream(DEVICE):
        yield
    torch._C._cuda_clearCublasWorkspaces()  # torch keeps one for every stream that ever was
    torch.cuda.empty_cache()


@pytest.fixture(scope="session")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of records of generated pictures, one for each class and a hundred more that resemble it."""
    folder = tmp_path_factory.mktemp("made-up")
    for name, count in (("train", 320), ("val", 60)):
        with writing(folder / f"made-up_{name}.rec") as writer:
            for number in range(count):
                noise = np.random.default_rng(number).integers(0, 20, (32, 32, 3), dtype=np.uint8)
                image = np.maximum(picture(number % 10, 32, 32), noise)
                header = IRHeader(0, float(number % 10), number, 0)
                writer.write(number, pack(header, simplejpeg.encode_jpeg(image, 95)))
    return folder


def made(
    architecture: Architecture,
    plan: Plan | None = None,
    graph: Graph | None = None,
    device: torch.device = DEVICE,
    amp: str = "off",
    **settings: object,
) -> Trainer:
    network = follow(initialize(ResNet(architecture), 0), plan)
    network = network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    config = TrainConfig.of(**settings)
    trainer = Trainer.of(network, nesterov_sgd(network, 0.05, 0.9, 1e-4), config, Ranks(), device, amp)
    trainer.model.train()
    return gpu.with_graph(trainer, graph)


def batch(count: int, size: int, seed: int, classes: int = 10) -> Batch:
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    return Batch(images, generator.integers(0, classes, count), np.arange(count))


def after(trainer: Trainer, size: int, sizes: Sequence[int] = (8, 8, 8, 8)) -> list[Tensor]:
    """What some steps give, and all tensors of the network after them."""
    results = []
    for seed, count in enumerate(sizes):
        images, labels = on_device(batch(count, size, seed), trainer.device)
        results.append(trainer.step(images, labels, count, 0.02 / (seed + 1)))
    return [tensor.cpu() for tensor in (*results, *trainer.network.state_dict().values())]


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return len(first) == len(second) and all(map(torch.equal, first, second))


def test_our_kernels_run_here() -> None:
    assert kernels.usable(DEVICE) != ON_CPU


@pytest.mark.parametrize(("architecture", "size"), NETWORKS[:1] if ON_CPU else NETWORKS, ids=str)
def test_gradients_are_those_of_the_cpu(architecture: Architecture, size: int) -> None:
    found = []
    for device in (DEVICE, CPU):
        trainer = made(architecture, device=device)
        trainer.network.double() if device == CPU else None
        images, labels = on_device(batch(8, size, 0), device)
        logits = trainer.network(images.permute(0, 3, 1, 2).to(next(trainer.network.parameters()).dtype))
        F.cross_entropy(logits, labels).backward()  # type: ignore[no-untyped-call]
        found.append([p.grad.double().cpu() for p in trainer.network.parameters() if p.grad is not None])
    ours, theirs = found
    assert len(ours) == len(theirs) == len(list(trainer.network.parameters()))
    for one, other in zip(ours, theirs, strict=True):
        # Some ReLUs pass by a hair, or do not: an H100 is 2.1 % away at most, a CPU's own float32 up to 7 %.
        assert (one - other).norm() <= 0.05 * other.norm() + 1e-6


@pytest.mark.parametrize(("ours", "amp"), [(False, "off"), *(() if ON_CPU else ((True, "off"), (True, "bf16")))])
@pytest.mark.parametrize(("architecture", "size"), WORKS, ids=str)
def test_the_same_bits_twice_and_by_every_plan(
    architecture: Architecture, size: int, ours: bool, amp: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "usable", lambda device: ours and not ON_CPU)
    expected = after(made(architecture, amp=amp), size)
    assert same(expected, after(made(architecture, amp=amp), size)), "twice"
    network = ResNet(architecture)
    for name, plan in PLANS.items():
        assert same(expected, after(made(architecture, plan(network, size), amp=amp), size)), name


@pytest.mark.skipif(ON_CPU, reason="a CPU has no graphs")
@pytest.mark.parametrize("amp", ["off", "bf16", "fp16"])
@pytest.mark.parametrize("depth", [20, 29])
def test_recorded_steps_change_no_bit(depth: int, amp: str, capsys: pytest.CaptureFixture[str]) -> None:
    architecture = Architecture(depth, 10, "cifar")
    plain = made(architecture, amp=amp)
    graph = Graph(8)
    recorded = made(architecture, graph=graph, amp=amp)
    sizes = [8, 8, 8, 8, 5, 8, 8]
    assert same(after(plain, 32, sizes=sizes), after(recorded, 32, sizes=sizes))
    assert graph._recorder is not None, capsys.readouterr().err


def test_every_batch_arrives_whole() -> None:
    sums: list[Tensor] = []
    layout, expected = Layout(7, 64, (96, 96, 3)), []
    ring = Ring(layout, mmap.mmap(-1, layout.bytes), pin_for(DEVICE))

    def batches() -> Iterator[Batch]:
        for seed in range(60):
            made = batch(64, 96, seed)
            images = ring.lend(ring.free.popleft(), 64)
            images[:] = made.images
            expected.append(int(images.sum(dtype=np.int64)) + int(made.labels.sum()))
            # Nobody but the feed holds the memory from here on; the next batches want some of the same size.
            yield Batch(images, made.labels, made.ordinals)

    for fed in feed(batches(), DEVICE):
        sums.append(fed.images.sum(dtype=torch.int64) + fed.labels.sum())
    assert [int(one) for one in sums] == expected


def test_evaluation_gives_what_the_cpu_gives(made_up: Path) -> None:
    network, _ = weights.load("")
    reader = RecordReader(made_up / "made-up_val.rec")
    results = []
    for device in (CPU, DEVICE):
        network.to(device)
        results.append(evaluate(network, reader, size=32, batch_size=50, device=device))
    assert results[0].top1_error == pytest.approx(results[1].top1_error, abs=0.5)
    assert results[0].loss == pytest.approx(results[1].loss, rel=1e-3)


def words(made_up: Path, prefix: Path, *more: object) -> list[str]:
    given = ["train", "--data-dir", made_up, "--data-type", "made-up", "--num-classes", 10, "--depth", 8]
    given += ["--epochs", EPOCHS, "--batch-size", 32, "--num-examples", 96 if ON_CPU else 320]
    given += ["--device", DEVICE.type, "--model-prefix", prefix, *more]
    return [str(word) for word in given]


def saved(prefix: Path, epoch: int = EPOCHS) -> list[Tensor]:
    return list(weights.read(Path(f"{prefix}-{epoch:04d}.safetensors"))[1].values())


@pytest.mark.parametrize("more", [(), ("--amp", "bf16"), ("--memory-budget", "4GB")][: 1 if ON_CPU else None])
def test_the_same_command_gives_the_same_file(made_up: Path, tmp_path: Path, run: Run, more: tuple[str, ...]) -> None:
    for name in ("a", "b"):
        status, _, err = run(*words(made_up, tmp_path / name, *more))
        assert status == 0, err
    assert same(saved(tmp_path / "a"), saved(tmp_path / "b"))


def test_a_run_that_was_killed_gives_the_same_file(made_up: Path, tmp_path: Path, run: Run) -> None:
    assert run(*words(made_up, tmp_path / "whole"))[0] == 0
    command = [sys.executable, "-m", "resnet_v2", *words(made_up, tmp_path / "killed", "--checkpoint-steps", 2)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    latest = tmp_path / "killed-latest.safetensors"
    while not latest.is_file() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert run(*words(made_up, tmp_path / "killed", "--resume"))[0] == 0
    assert same(saved(tmp_path / "whole"), saved(tmp_path / "killed"))


def test_the_log_tells_how_long_the_gpu_had_nothing_to_do(made_up: Path, tmp_path: Path, run: Run) -> None:
    status, _, err = run(*words(made_up, tmp_path / "m", "--frequent", 4))
    assert status == 0, err
    assert ("GPU idle: " in (tmp_path / "m.log").read_text()) != ON_CPU


@pytest.mark.skipif(ON_CPU, reason="a CPU's memory has no cap")
def test_a_budget_holds() -> None:
    before = torch.cuda.get_device_properties(DEVICE).total_memory
    config = TrainConfig.of(memory_budget="4GB")
    work = gpu.workload(Architecture(50, 1000, "imagenet"), 48, config, DEVICE, "off")
    try:
        plan = budget.plan_for_training(work, DEVICE, 4 * 10**9)
        torch.cuda.reset_peak_memory_stats(DEVICE)
        trainer = made(work.architecture, plan)
        for seed in range(3):
            images, labels = on_device(batch(48, 224, seed, 1000), DEVICE)
            trainer.step(images, labels, 48, 0.1)
        taken = torch.cuda.max_memory_reserved(DEVICE) + work.process_bytes
        allocated = torch.cuda.max_memory_allocated(DEVICE) + work.process_bytes
    finally:
        budget.cap(DEVICE, before + work.process_bytes)
    assert taken <= 4 * 10**9
    forecast = work.total_bytes(work.forecast(plan), 48)
    assert forecast == pytest.approx(allocated, rel=0.05)


@pytest.mark.skipif(ON_CPU, reason="a CPU's memory has no cap")
def test_memory_that_runs_out_is_one_sentence(made_up: Path, tmp_path: Path, run: Run) -> None:
    try:
        total = torch.cuda.get_device_properties(DEVICE).total_memory
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved(DEVICE) + 2**30) / total, DEVICE)
        status, _, err = run(*words(made_up, tmp_path / "m", "--depth", 164, "--batch-size", 1024))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, DEVICE)
    assert status == 2
    assert "ran out at 1024 images at once, though" in err.splitlines()[-1]


def test_16_bits_are_chosen_here(made_up: Path, tmp_path: Path, run: Run) -> None:
    status, _, err = run(*words(made_up, tmp_path / "m", "--amp", "auto"))
    assert status == 0, err
    assert "--amp auto is " in err


def test_ranks_that_speak_by_nccl(tmp_path: Path) -> None:
    backend = "gloo" if ON_CPU else "nccl"
    torch.distributed.init_process_group(backend, init_method=f"file://{tmp_path}/ranks", rank=0, world_size=1)
    try:
        trainers = [made(Architecture(29, 10, "cifar")) for _ in range(2)]
        places = None if ON_CPU else [DEVICE]
        shared = torch.nn.parallel.DistributedDataParallel(trainers[1].network, device_ids=places)
        trainers[1] = replace(trainers[1], model=shared)
        assert same(after(trainers[0], 32), after(trainers[1], 32))
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="missing a second GPU")
def test_several_gpus_train(made_up: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "resnet_v2", *words(made_up, tmp_path / "m")]
    command[command.index("--device") : command.index("--device") + 2] = ["--gpus", "0,1"]
    assert subprocess.run(command, check=False).returncode == 0
    assert saved(tmp_path / "m")
