"""Several ranks train as one, and end together when one dies."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch

from processes import PATIENCE_SECONDS, Command, wait_until
from ranks_worker import gradient
from resnet_v2.config.training import arguments_of
from resnet_v2.networks import weights
from resnet_v2.networks.finding import checkpoint_path
from resnet_v2.networks.header import Header
from resnet_v2.training.distributed import Ranks, choose_device
from resnet_v2.training.sync_batch_norm import SyncBatchNorm

Tensors = dict[str, torch.Tensor]


def flags(digits: Path, prefix: Path, **changes: object) -> list[str]:
    settings: dict[str, object] = {
        "data_dir": digits,
        "data_type": "digits",
        "depth": 8,
        "device": "cpu",
        "batch_size": 16,
        "num_examples": 49,
        "epochs": 1,
        "frequent": 2,
        "wd": 0.0,
        "workers": 0,
        "model_prefix": str(prefix),
        "aug_level": 2,
    }
    return ["train", *arguments_of(settings | changes)]


def launcher(*words: str) -> subprocess.Popen[str]:
    """torch's launcher with these words."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", *words]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def ended(process: subprocess.Popen[str]) -> str:
    """The output of a launcher that ends well."""
    output = process.communicate(timeout=PATIENCE_SECONDS)[0]
    assert process.returncode == 0, output
    return output


def train(words: list[str], folder: Path) -> str:
    """The output of a training that ends well; with `--nproc` it launches its ranks itself."""
    status, output = Command(words, folder).finish()
    assert status == 0, output
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
def alone(few_digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One rank's whole epoch of 49 images: the last step has one."""
    folder = tmp_path_factory.mktemp("alone")
    train(flags(few_digits, folder / "m"), folder)
    return folder / "m"


@pytest.fixture(scope="module")
def gradients_of_three(few_digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three ranks' gradients of batches in equal parts, in unequal ones, and of two images."""
    folder = tmp_path_factory.mktemp("gradients")
    worker = str(Path(__file__).with_name("ranks_worker.py"))
    record = str(few_digits / "digits_train.rec")
    ended(launcher("--standalone", "--nproc-per-node=3", worker, record, str(folder), "33", "31", "2"))
    return folder


@pytest.mark.parametrize("images", [33, 31, 2])
def test_ranks_make_the_gradient_of_one(few_digits: Path, gradients_of_three: Path, images: int) -> None:
    """Images in equal parts, in unequal ones, and fewer images than ranks."""
    one = gradient(few_digits / "digits_train.rec", images, Ranks())
    many = safetensors.torch.load_file(gradients_of_three / str(images))
    assert "stage1.unit1.bn1.running_var" in one
    assert largest_difference(one, many) < 1e-10
    for name in one:  # each by itself, the smallest too; betas before a BatchNorm have a gradient of 0
        assert largest_difference({name: one[name]}, {name: many[name]}) < 1e-6 or one[name].abs().max() < 1e-12


@pytest.mark.parametrize("ranks", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_unequal_shards_train_as_one_rank(few_digits: Path, alone: Path, tmp_path: Path, ranks: int) -> None:
    train(flags(few_digits, tmp_path / "m", sync_bn=True, nproc=ranks), tmp_path)
    (one_header, one), (header, many) = read(alone), read(tmp_path / "m")
    assert largest_difference(one, many) < 0.01  # four steps of rounding
    assert header.training["evaluation"]["images"] == one_header.training["evaluation"]["images"] == 40
    assert header.training["meters"]["whole"][0]["images"] == 0  # a new epoch's
    assert abs(header.errors["top1_error"] - one_header.errors["top1_error"]) < 3  # an image of 40


@pytest.mark.slow
def test_a_rank_without_an_image_takes_part(few_digits: Path, tmp_path: Path) -> None:
    output = train(flags(few_digits, tmp_path / "m", nproc=2, accumulate=2), tmp_path)
    assert re.search(r"top-1 error [\d.]+ %.* on 40 images", output)
    assert output.count("top-1 error") == 1
    header, tensors = read(tmp_path / "m")
    assert all(bool(tensor.isfinite().all()) for tensor in tensors.values())
    log = (tmp_path / "m.log").read_text()
    assert log.count("Epoch[0] Train-accuracy") == 1
    assert header.epoch == 1


def test_parts_of_a_batch_add_up(few_digits: Path, alone: Path, tmp_path: Path) -> None:
    """Without BatchNorm they would be equal; through it, a part's statistics differ."""
    train(flags(few_digits, tmp_path / "m", accumulate=4), tmp_path)
    one, parts = (read(prefix)[1]["momentum.fc1.bias"] for prefix in (alone, tmp_path / "m"))
    assert torch.nn.functional.cosine_similarity(one, parts, dim=0) > 0.7


@pytest.mark.slow
def test_two_machines(few_digits: Path, tmp_path: Path) -> None:
    """Two launchers meet over a socket, as on two hosts; `--batch-size` is each one's."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    torchrun = [
        "--nnodes=2",
        "--nproc-per-node=1",
        "--rdzv-backend=c10d",
        f"--rdzv-endpoint=localhost:{port}",
        "--rdzv-id=a",
        "--rdzv-conf=read_timeout=600",
        "-m",
        "resnet_v2",
    ]
    words = [
        *torchrun,
        *flags(few_digits, tmp_path / "m", batch_size=16, num_examples=32, sync_bn=True, kv_store="dist_sync"),
    ]
    for machine in [launcher(*words) for _ in range(2)]:
        ended(machine)
    train(flags(few_digits, tmp_path / "one", batch_size=32, num_examples=32), tmp_path)
    assert largest_difference(read(tmp_path / "one")[1], read(tmp_path / "m")[1]) < 1e-3  # rounding, see ranks_worker


def test_several_machines_must_be_told(few_digits: Path, tmp_path: Path) -> None:
    ranks = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}  # as a launcher sets them
    status, output = Command(flags(few_digits, tmp_path / "m"), tmp_path, None, **ranks).finish()
    assert status == 2
    assert "2 machines take part; give --kv-store dist_sync" in output


def long_run(digits: Path, folder: Path, **changes: object) -> Command:
    """A run of six epochs of ten steps that has begun its second."""
    settings = {"num_examples": 160, "epochs": 6, "nproc": 2, "checkpoint_steps": 2} | changes
    run = Command(flags(digits, folder / "m", **settings), folder)
    log = folder / "m.log"
    run.wait_for(lambda: log.is_file() and "Epoch[1] Batch [2]" in log.read_text(), "the second epoch")
    return run


def ranks_of(run: Command) -> list[int]:
    """The processes of its ranks."""
    return [child for child in sorted(children(run.pid)) if b"resnet_v2" in Path(f"/proc/{child}/cmdline").read_bytes()]


def test_a_dead_rank_ends_the_others(few_digits: Path, tmp_path: Path) -> None:
    run = long_run(few_digits, tmp_path, epochs=1000)  # it does not end by itself
    ranks = ranks_of(run)
    assert len(ranks) == 2
    os.kill(ranks[-1], signal.SIGKILL)
    status, output = run.finish()
    assert status == 2, output
    assert re.search(r"resnet-v2: Rank \d of 2 ended with signal 9, and the others with it\.", output)
    assert not any(Path(f"/proc/{rank}").exists() for rank in ranks)


@pytest.mark.slow
def test_dead_ranks_are_started_again_and_end_with_the_same_bits(few_digits: Path, tmp_path: Path) -> None:
    (tmp_path / "killed").mkdir()
    run = long_run(few_digits, tmp_path / "killed", max_restarts=1, optimizer="muon", epochs=3)
    os.kill(ranks_of(run)[-1], signal.SIGKILL)
    status, output = run.finish()
    assert status == 0, output
    train(flags(few_digits, tmp_path / "whole" / "m", num_examples=160, epochs=3, nproc=2, optimizer="muon"), tmp_path)
    (_, killed), (_, whole) = read(tmp_path / "killed" / "m", 3), read(tmp_path / "whole" / "m", 3)
    assert all(torch.equal(killed[name], whole[name]) for name in whole)


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_ranks(few_digits: Path, tmp_path: Path) -> None:
    run = long_run(few_digits, tmp_path, nproc=1)
    run.send_signal(signal.SIGTERM)
    assert run.finish()[0] == 0
    words = flags(few_digits, tmp_path / "m", num_examples=160, epochs=6, nproc=2, checkpoint_steps=2, resume="yes")
    status, output = Command(words, tmp_path).finish()
    assert (status, "--nproc 2, was 1" in output) == (2, True)
    train([*words, "--force"], tmp_path)
    assert read(tmp_path / "m", 6)[0].epoch == 6
    log = (tmp_path / "m.log").read_text()
    assert [log.count(f"Epoch[{epoch}] Train-accuracy=") for epoch in range(6)] == [1] * 6


def test_a_launcher_that_is_told_to_stop_stops_its_ranks(few_digits: Path, tmp_path: Path) -> None:
    run = long_run(few_digits, tmp_path, seed=3, epochs=1000)
    ranks = ranks_of(run)
    run.send_signal(signal.SIGTERM)
    status, output = run.finish()
    assert status == 0, output
    assert re.search(r"stopped in epoch \d+, batch \d+; it is all in", output)
    wait_until(lambda: not any(Path(f"/proc/{rank}").exists() for rank in ranks), "the ranks have ended")


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
