"""Several ranks train as one, and end together when one dies."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch

from resnet_v2.config import arguments_of
from resnet_v2.interchange import weights
from resnet_v2.interchange.finding import checkpoint_path
from resnet_v2.interchange.header import Header
from resnet_v2.training.distributed import choose_device
from resnet_v2.training.sync_batch_norm import SyncBatchNorm

Tensors = dict[str, torch.Tensor]


def flags(digits: Path, prefix: Path, **changes: object) -> list[str]:
    settings: dict[str, object] = {
        "data_dir": digits, "data_type": "digits", "depth": 8, "device": "cpu", "batch_size": 32, "num_examples": 96,
        "epochs": 1, "frequent": 2, "wd": 0.0, "threads": 1, "model_prefix": str(prefix), "aug_level": 2,
    }  # fmt: skip
    return ["train", *arguments_of(settings | changes)]


def begin(words: list[str]) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-m", *words], env=environment, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True)  # fmt: skip


def train(words: list[str]) -> str:
    process = begin(["resnet_v2", *words])
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 0, output
    return output


def read(prefix: Path, epoch: int = 1) -> tuple[Header, Tensors]:
    return weights.read(checkpoint_path(str(prefix), epoch))


def largest_difference(first: Tensors, second: Tensors, start: str = "") -> float:
    """Relative to the largest value of all tensors whose name starts so."""
    assert first.keys() == second.keys()
    names = [name for name in first if name.startswith(start)]
    assert names
    scale = max(float(first[name].abs().max()) for name in names)
    return max(float((first[name] - second[name]).abs().max()) for name in names) / scale


def children(process: int) -> Iterator[int]:
    for task in Path(f"/proc/{process}/task").iterdir():
        yield from map(int, (task / "children").read_text().split())


@pytest.fixture(scope="module")
def alone(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One rank's whole epoch of 97 images: the last step has one."""
    prefix = tmp_path_factory.mktemp("alone") / "m"
    train(flags(digits, prefix, num_examples=97))
    return prefix


def gradients(digits: Path, out: Path, ranks: int, images: int) -> Tensors:
    worker = str(Path(__file__).with_name("ranks_worker.py"))
    words = ["torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", worker]
    process = begin([*words, str(digits / "digits_train.rec"), str(images), "1", str(out)])
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 0, output
    return safetensors.torch.load_file(out)


@pytest.mark.parametrize(("ranks", "images"), [(2, 32), (4, 30), (4, 3)])
def test_ranks_make_the_gradient_of_one(digits: Path, tmp_path: Path, ranks: int, images: int) -> None:
    """Images in equal parts, in unequal ones, and fewer images than ranks."""
    one, many = (gradients(digits, tmp_path / str(count), count, images) for count in (1, ranks))
    assert "stage1.unit1.bn1.running_var" in one
    assert largest_difference(one, many) < 1e-11
    for name in one:  # each by itself, the smallest too; betas before a BatchNorm have a gradient of 0
        assert largest_difference({name: one[name]}, {name: many[name]}) < 1e-6 or one[name].abs().max() < 1e-12


@pytest.mark.parametrize("ranks", [2, 4])
def test_unequal_shards_train_as_one_rank(digits: Path, alone: Path, tmp_path: Path, ranks: int) -> None:
    train(flags(digits, tmp_path / "m", num_examples=97, sync_bn=True, nproc=ranks))
    (one_header, one), (header, many) = read(alone), read(tmp_path / "m")
    assert largest_difference(one, many) < 0.01  # four steps of rounding
    assert header.training["evaluation"]["images"] == one_header.training["evaluation"]["images"] == 364
    assert header.training["meters"]["whole"][0]["images"] == 0  # a new epoch's
    assert abs(header.errors["top1_error"] - one_header.errors["top1_error"]) < 1


def test_a_rank_without_an_image_takes_part(digits: Path, tmp_path: Path) -> None:
    output = train(flags(digits, tmp_path / "m", num_examples=97, nproc=4, accumulate=2))
    assert re.search(r"top-1 error [\d.]+ %.* on 364 images", output)
    assert output.count("top-1 error") == 1
    header, tensors = read(tmp_path / "m")
    assert all(bool(tensor.isfinite().all()) for tensor in tensors.values())
    log = (tmp_path / "m.log").read_text()
    assert log.count("Epoch[0] Train-accuracy") == 1
    assert header.epoch == 1


def test_parts_of_a_batch_add_up(digits: Path, alone: Path, tmp_path: Path) -> None:
    """Without BatchNorm they would be equal; through it, a part's statistics differ."""
    train(flags(digits, tmp_path / "m", num_examples=97, accumulate=4))
    one, parts = (read(prefix)[1]["momentum.fc1.bias"] for prefix in (alone, tmp_path / "m"))
    assert torch.nn.functional.cosine_similarity(one, parts, dim=0) > 0.7


def test_two_machines(digits: Path, tmp_path: Path) -> None:
    """Two launchers meet over a socket, as on two hosts; `--batch-size` is each one's."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    torchrun = ["torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d",
                f"--rdzv-endpoint=localhost:{port}", "--rdzv-id=a", "-m", "resnet_v2"]  # fmt: skip
    words = [*torchrun, *flags(digits, tmp_path / "m", batch_size=16, num_examples=32, sync_bn=True,
                               kv_store="dist_sync")]  # fmt: skip
    machines = [begin(words) for _ in range(2)]
    for machine in machines:
        output = machine.communicate(timeout=120)[0]
        assert machine.returncode == 0, output
    train(flags(digits, tmp_path / "one", num_examples=32))
    assert largest_difference(read(tmp_path / "one")[1], read(tmp_path / "m")[1]) < 1e-3  # rounding, see ranks_worker

    machines = [begin([word for word in words if "dist_sync" not in word]) for _ in range(2)]
    outputs = [machine.communicate(timeout=120)[0] for machine in machines]
    assert any("2 machines take part; give --kv-store dist_sync" in output for output in outputs)


def long_run(digits: Path, prefix: Path, **changes: object) -> subprocess.Popen[str]:
    settings = {"num_examples": 320, "epochs": 6, "nproc": 2, "checkpoint_steps": 2} | changes
    process = begin(["resnet_v2", *flags(digits, prefix, **settings)])
    log = Path(f"{prefix}.log")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (log.is_file() and "Epoch[1] Batch [2]" in log.read_text()):
        time.sleep(0.02)
    return process


def test_a_dead_rank_ends_the_others(digits: Path, tmp_path: Path) -> None:
    process = long_run(digits, tmp_path / "m")
    ranks = sorted(children(process.pid))
    assert len(ranks) >= 2
    os.kill(ranks[-1], signal.SIGKILL)
    died = time.monotonic()
    output = process.communicate(timeout=60)[0]
    assert time.monotonic() - died < 30
    assert process.returncode == 2, output
    assert re.search(r"resnet-v2: Rank \d of 2 ended with signal 9, and the others with it\.", output)
    assert not any(Path(f"/proc/{rank}").exists() for rank in ranks)


def test_dead_ranks_are_started_again_and_end_with_the_same_bits(digits: Path, tmp_path: Path) -> None:
    process = long_run(digits, tmp_path / "killed", max_restarts=1, optimizer="muon")
    os.kill(sorted(children(process.pid))[-1], signal.SIGKILL)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 0, output
    train(flags(digits, tmp_path / "whole", num_examples=320, epochs=6, nproc=2, optimizer="muon"))
    (_, killed), (_, whole) = read(tmp_path / "killed", 6), read(tmp_path / "whole", 6)
    assert all(torch.equal(killed[name], whole[name]) for name in whole)


def test_a_run_goes_on_with_another_number_of_ranks(digits: Path, tmp_path: Path) -> None:
    process = long_run(digits, tmp_path / "m", nproc=1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 0
    process.communicate()
    words = flags(digits, tmp_path / "m", num_examples=320, epochs=6, nproc=2, checkpoint_steps=2, resume="yes")
    refused = begin(["resnet_v2", *words])
    assert "--nproc 2, was 1" in refused.communicate(timeout=60)[0]
    assert refused.returncode == 2
    train([*words, "--force"])
    assert read(tmp_path / "m", 6)[0].epoch == 6
    log = (tmp_path / "m.log").read_text()
    assert [log.count(f"Epoch[{epoch}] Train-accuracy=") for epoch in range(6)] == [1] * 6


def test_a_launcher_that_is_told_to_stop_stops_its_ranks(digits: Path, tmp_path: Path) -> None:
    process = long_run(digits, tmp_path / "m", seed=3)
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 0, output
    assert re.search(r"stopped in epoch \d, batch \d+; it is all in", output)


def test_sync_batch_norm_alone_is_batch_norm(tmp_path: Path) -> None:
    torch.distributed.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        plain = torch.nn.BatchNorm2d(5, momentum=0.3)
        synchronized = SyncBatchNorm(5, momentum=0.3)
        x = (120 + 50 * torch.randn(4, 5, 6, 7)).requires_grad_()
        y = x.detach().clone().requires_grad_()
        for norm, inputs in ((plain, x), (synchronized, y)):
            norm(inputs).pow(3).sum().backward()
        assert torch.allclose(plain(x), synchronized(y), atol=1e-5)
        assert x.grad is not None
        assert y.grad is not None
        assert torch.allclose(x.grad, y.grad, atol=1e-4)
        assert torch.allclose(plain.running_var, synchronized.running_var)  # type: ignore[arg-type]
        assert torch.allclose(plain.eval()(x), synchronized.eval()(y), atol=1e-6)
    finally:
        torch.distributed.destroy_process_group()


def test_the_cpu_is_asked_for_in_two_ways() -> None:
    assert choose_device("", "cpu").type == "cpu"
