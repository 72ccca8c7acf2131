"""Budgets: amounts of memory, the plan for one, and what `resnet-v2 plan` says."""

import json
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from conftest import Run
from resnet_v2.errors import ResnetError
from resnet_v2.machine import parse_bytes
from resnet_v2.networks.architecture import Architecture
from resnet_v2.recompute.budget import Workload, free_bytes, plan_for_training


@pytest.mark.parametrize(
    ("text", "amount"),
    [("12GB", 12 * 10**9), ("12GiB", 12 * 2**30), ("11.5g", 11_500_000_000), ("800 MB", 8 * 10**8), ("1000", 1000)],
)
def test_amounts(text: str, amount: int) -> None:
    assert parse_bytes(text, "budget") == amount


@pytest.mark.parametrize("text", ["GB", "-1GB", "12 apples", "0GB", "1e9"])
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(ResnetError, match="is no amount of memory; write it like 12GB"):
        parse_bytes(text, "budget")


def test_the_plan_for_a_budget_fits_it_and_its_largest_batch_is_that_one() -> None:
    workload = Workload(Architecture(200, 1000, "imagenet"))
    chosen = workload.within(12 * 10**9, 128)
    assert 0.97 * 12e9 < workload.total_bytes(chosen.forecast, 128) <= 12e9
    largest = workload.largest_batch(chosen.forecast, 12 * 10**9)
    assert 128 <= largest <= 131
    assert workload.total_bytes(chosen.forecast, largest) <= 12e9 < workload.total_bytes(chosen.forecast, largest + 1)
    # All weights, once as weights, momentum and gradients each.
    assert Workload(workload.architecture, fused=True).fixed_bytes < workload.fixed_bytes - 4 * 60_000_000


def test_memory_that_is_free() -> None:
    assert 2**24 < free_bytes(torch.device("cpu")) < 2**44
    architecture = Architecture(20, 10, "cifar")
    assert plan_for_training(Workload(architecture, batch_size=16), torch.device("cpu"), 0).segments[0].activated
    with pytest.raises(ResnetError, match="give `memory_budget`"):
        free_bytes(torch.device("meta"))


def test_the_table(run: Run, tmp_path: Path) -> None:
    picture = tmp_path / "plan.png"
    status, out, _ = run("plan", "--depth", 50, "--batch-size", 64, "--budget", "3GB", "--out", picture)
    assert status == 0
    lines = out.splitlines()
    assert lines[0].split()[:3] == ["plan", "activations,", "MiB/image"]
    assert {line.split("  ")[0] for line in lines[1:-1]} >= {"plain", "BatchNorm-ReLU again", "budget", "smallest"}
    assert picture.read_bytes()[:4] == b"\x89PNG"


def test_the_json(run: Run) -> None:
    status, out, _ = run("plan", "--depth", 50, "--batch-size", 64, "--budget", "3GB", "--json")
    assert status == 0
    rows = json.loads(out)
    assert rows[0]["plan"] == "plain"
    sizes = [row["activations_mib_per_image"] for row in rows]
    assert sizes == sorted(sizes, reverse=True)
    assert {row["plan"]: row for row in rows}["budget"]["total_bytes"] <= 3 * 10**9
    half = json.loads(run("plan", "--depth", 50, "--amp", "bf16", "--json")[1])
    assert half[0]["activations_mib_per_image"] == pytest.approx(sizes[0] / 2, rel=0.05)
    larger = json.loads(run("plan", "--depth", 50, "--image", 448, "--json")[1])
    assert larger[0]["activations_mib_per_image"] == pytest.approx(4 * sizes[0], rel=0.01)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--budget", "1GB"], "--batch-size 1[0-9]? would do|--batch-size [2-9][0-9]? would do"),
        (["--budget", "100MB"], "give more memory or a shallower network"),
        (["--budget", "lots"], "write it like 12GB"),
        (["--depth", 51, "--stem", "imagenet"], "There is no ImageNet network of depth 51"),
        (["--out", "plan.txt"], "has no ending of a picture"),
        (["--batch-size", 0], "must be 1 to 1000000, not 0"),
    ],
)
def test_what_makes_no_plan_is_said(run: Run, flags: list[str | int], words: str) -> None:
    status, _, err = run("plan", "--depth", 50, *flags) if "--depth" not in flags else run("plan", *flags)
    assert status == 2
    assert re.search(words, err), err
    assert len(err.strip().splitlines()) == 1


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="missing glibc: no other C library keeps what is freed this way"
)
def test_freed_memory_leaves_the_process() -> None:
    program = """
import sys, torch
from resnet_v2.recompute.malloc import give_back_freed_memory
if sys.argv[1] == "give back":
    give_back_freed_memory()
del_me = torch.ones(2**21)
del del_me
blocks, pins = [], []
for _ in range(40):
    blocks.append(torch.ones(2**20))
    pins.append(torch.ones(2**12))
blocks.clear()
pages = open("/proc/self/statm").read().split()[1]
print(int(pages) * 4096 // 2**20)
"""
    resident = {}
    for mode in ("give back", "keep"):
        command = [sys.executable, "-c", program, mode]
        resident[mode] = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert resident["keep"] - resident["give back"] > 100
