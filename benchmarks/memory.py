"""Memory and time of training steps, measured: plain, and by activation plans.

python benchmarks/memory.py memory --depth 200 --batches 8,16 --plans plain,norms,80,28,smallest   (MiB per image)
python benchmarks/memory.py time --depth 200 --batch-size 8 --plans plain,80,28                    (seconds per step)
python benchmarks/memory.py step --depth 200 --batch-size 128 --budget 12GB                        (one step, its peak)
python benchmarks/memory.py exact --depth 200 --batch-size 8 --plans norms,budget,28,smallest      (bits against plain)

A plan is `plain`, `norms` (BatchNorm-ReLU again), `smallest`, `budget` (the fastest within --budget at batch size 128),
or the fastest within so many MiB per image.

`memory`: a process for each plan and batch size makes two steps; its peak is what the kernel counts (ru_maxrss), and
the figure is the slope between the batch sizes. Weights are updated inside the backward pass, so that gradients of
weights, which do not depend on the batch, stay out of it; and glibc gives every block over 64 KiB a mapping of its own
(MALLOC_MMAP_THRESHOLD_), so that what is freed leaves the process at once. `time`: the plans take turns in one process,
with malloc's defaults; medians. `step`: as `train` on the CPU, blocks from 1 MiB on get mappings of their own.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from resnet_v2.machine import parse_bytes
from resnet_v2.networks.architecture import Architecture
from resnet_v2.networks.resnet import ResNet, default_stem, initialize
from resnet_v2.recompute.budget import Choice, Workload
from resnet_v2.recompute.malloc import give_back_freed_memory
from resnet_v2.recompute.search import find_plan
from resnet_v2.recompute.tape import follow
from resnet_v2.training.optim import fuse_into_backward, nesterov_sgd

MIB = 2**20
Row = dict[str, str | int | float]


def choice(workload: Workload, name: str, budget: str = "12GB") -> Choice:
    if name in ("plain", "norms", "smallest"):
        return {"plain": workload.plain, "norms": workload.norms, "smallest": workload.smallest}[name]()
    if name == "budget":
        return workload.within(parse_bytes(budget, "budget"), 128)
    plan = find_plan(workload.network.links(), workload.costs, float(name) * MIB)
    if plan is None:
        raise SystemExit(f"no plan keeps ResNet-{workload.architecture.depth} within {name} MiB per image")
    return Choice(name, plan, workload.forecast(plan))


def stepper(workload: Workload, batch_size: int, fused: bool) -> tuple[ResNet, Callable[[], float]]:
    """A network, and what makes one training step of it on random images and returns the loss."""
    network = initialize(ResNet(workload.architecture), 0)
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = nesterov_sgd(network, 0.01, 0.9, 1e-4)
    if fused:
        fuse_into_backward(optimizer)
    size, generator = workload.architecture.image_size, torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (batch_size, size, size, 3), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, workload.architecture.classes, (batch_size,), generator=generator)

    def step() -> float:
        optimizer.zero_grad()
        loss = F.cross_entropy(network(images.permute(0, 3, 1, 2).float()), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss.item()

    return network, step


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure_peak(workload: Workload, options: argparse.Namespace) -> list[Row]:
    """The inside of one process of `memory`."""
    network, step = stepper(workload, options.batch_size, fused=True)
    follow(network, choice(workload, options.plans, options.budget).plan)
    for _ in range(2):
        step()
    return [{"peak_mib": peak_mib()}]


def measure_memory(workload: Workload, options: argparse.Namespace) -> list[Row]:
    rows: list[Row] = []
    batches = [int(size) for size in options.batches.split(",")]
    for name in options.plans.split(","):
        peaks = []
        for size in batches:
            command = [
                sys.executable,
                __file__,
                "peak",
                "--depth",
                str(options.depth),
                "--stem",
                options.stem,
                "--batch-size",
                str(size),
                "--plans",
                name,
                "--budget",
                options.budget,
                "--json",
            ]
            environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
            output = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
            peaks.append(json.loads(output)[0]["peak_mib"])
        slope = (peaks[-1] - peaks[0]) / (batches[-1] - batches[0])
        predicted = choice(workload, name, options.budget).forecast.peak_bytes / MIB
        rows.append(
            {
                "plan": name,
                "mib_per_image": round(slope, 2),
                "predicted": round(predicted, 2),
                "predicted_over_measured_percent": round(100 * (predicted / slope - 1), 1),
            }
        )
    return rows


def measure_time(workload: Workload, options: argparse.Namespace) -> list[Row]:
    network, step = stepper(workload, options.batch_size, fused=False)
    choices = [choice(workload, name, options.budget) for name in options.plans.split(",")]
    seconds: dict[str, list[float]] = {its.name: [] for its in choices}
    for number in range(options.rounds + 1):
        for its in choices:
            follow(network, its.plan)
            begun = time.perf_counter()
            step()
            # The first round warms up.
            if number:
                seconds[its.name].append(time.perf_counter() - begun)
    medians = [statistics.median(seconds[its.name]) for its in choices]
    return [
        {
            "plan": its.name,
            "seconds_per_step": round(median, 3),
            "extra_percent": round(100 * (median / medians[0] - 1), 1),
            "predicted_percent": round(100 * its.forecast.extra_time, 1),
        }
        for its, median in zip(choices, medians, strict=True)
    ]


def check_exactness(workload: Workload, options: argparse.Namespace) -> list[Row]:
    """Two steps by every plan against two of the plain network: losses, gradients, weights and buffers."""

    def results(its: Choice) -> list[torch.Tensor]:
        network, step = stepper(workload, options.batch_size, fused=False)
        follow(network, its.plan)
        found = [torch.tensor([step(), step()])]
        gradients = [parameter.grad for parameter in network.parameters()]
        return [*found, *(one for one in gradients if one is not None), *network.state_dict().values()]

    plain = results(workload.plain())
    rows: list[Row] = []
    for name in options.plans.split(","):
        planned = results(choice(workload, name, options.budget))
        differing = sum(not torch.equal(one, other) for one, other in zip(plain, planned, strict=True))
        rows.append({"plan": name, "tensors": len(plain), "differing": differing})
    return rows


def measure_step(workload: Workload, options: argparse.Namespace) -> list[Row]:
    budget = parse_bytes(options.budget, "budget")
    chosen = workload.within(budget, options.batch_size)
    give_back_freed_memory()
    network, step = stepper(workload, options.batch_size, fused=workload.fused)
    follow(network, chosen.plan)
    for _ in range(options.steps):
        begun = time.perf_counter()
        loss = step()
    return [
        {
            "batch_size": options.batch_size,
            "loss": round(loss, 4),
            "seconds": round(time.perf_counter() - begun, 1),
            "peak_gb": round(peak_mib() * MIB / 1e9, 2),
            "predicted_gb": round(workload.total_bytes(chosen.forecast, options.batch_size) / 1e9, 2),
            "predicted_extra_percent": round(100 * chosen.forecast.extra_time, 1),
        }
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    work = {
        "memory": measure_memory,
        "peak": measure_peak,
        "time": measure_time,
        "step": measure_step,
        "exact": check_exactness,
    }
    parser.add_argument("work", choices=work)
    parser.add_argument("--depth", type=int, default=200)
    parser.add_argument("--stem", default="", choices=("", "imagenet", "cifar"))
    parser.add_argument("--plans", default="plain,norms,80,28,smallest")
    parser.add_argument("--batches", default="8,16")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1, help="for `step`: from the second on momentum is there, too")
    parser.add_argument("--budget", default="12GB")
    parser.add_argument("--fused-backward", action="store_true", help="for `step`: update inside the backward pass")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    options.stem = options.stem or default_stem(options.depth)
    classes = 1000 if options.stem == "imagenet" else 10
    workload = Workload(Architecture(options.depth, classes, options.stem), fused=options.fused_backward)
    rows = work[options.work](workload, options)
    print(json.dumps(rows) if options.json else "\n".join(map(str, rows)))


if __name__ == "__main__":
    main()
