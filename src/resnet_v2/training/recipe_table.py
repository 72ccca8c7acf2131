"""What a run of a recipe costs, computed, and the recipes as text, JSON and Markdown."""

from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from resnet_v2.config.augmenting import Augmentation
from resnet_v2.logs.layout import aligned
from resnet_v2.networks.architecture import Architecture
from resnet_v2.networks.resnet import ResNet
from resnet_v2.training.recipes import ALL, Recipe

# Operations per second that `gpu_hours` takes a GPU to sustain: a round number to compare recipes by, never measured.
GPU_TFLOPS = 20.0


@cache
def multiply_adds(architecture: Architecture, size: int) -> int:
    """Multiply-adds of the convolutions and the dense layer for one image of `size` pixels a side; nothing is computed,
    only shapes.
    """
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        ResNet(architecture).eval()(torch.empty(1, 3, size, size))
    return int(counter.get_total_flops()) // 2


def training_flops(recipe: Recipe) -> float:
    """Floating-point operations of the whole run, a multiply-add counted as 2; each epoch has images of its size.

    The backward pass takes two forward passes' operations, recomputation (`memonger`) one more.
    """
    its, architecture = recipe.settings, recipe.architecture
    passes = 4 if its.get("memonger") else 3
    largest: int = its.get("image_size", architecture.image_size)
    steps = Augmentation(size_schedule=its.get("size_schedule", "")).sizes(largest)
    ends: list[int] = [*(start for start, _ in steps[1:]), its["epochs"]]
    epochs = zip(steps, ends, strict=True)
    of_one = sum((end - start) * multiply_adds(architecture, size) for (start, size), end in epochs)
    return 2.0 * passes * of_one * recipe.images


def gpu_hours(recipe: Recipe) -> float:
    """Hours of one GPU that sustains `GPU_TFLOPS` x 10^12 operations per second throughout."""
    return training_flops(recipe) / (GPU_TFLOPS * 1e12) / 3600


def rows() -> list[dict[str, Any]]:
    """Every recipe as JSON can hold it, with its `training_flops` and `gpu_hours`."""
    return [
        asdict(recipe)
        | {
            "settings": {k: str(v) if isinstance(v, Path) else v for k, v in recipe.settings.items()},
            "training_flops": training_flops(recipe),
            "gpu_hours": round(gpu_hours(recipe), 1),
        }
        for recipe in ALL
    ]


def table() -> str:
    """The recipes as aligned text, and a note and source for each below it."""
    head = ("recipe", "top-1", "top-5", "here", "batch", "epochs", "drops at", "levels", "GPU hours", "run on")
    lines = [head]
    for row in rows():
        settings = row["settings"]
        drops = settings.get("milestones") or settings["schedule"]
        levels = settings.get("aug_schedule") or settings.get("augment")
        levels = levels or str(settings.get("aug_level") or (2 if _large(row) else 1))
        here = "-" if row["measured"] is None else f"{row['measured']['top1_error']:.2f}"
        lines.append(
            (
                row["name"],
                _percent(row["top1_error"]),
                _percent(row["top5_error"]),
                here,
                str(settings["batch_size"]),
                str(settings["epochs"]),
                drops,
                levels,
                _hours(row["gpu_hours"]),
                row["hardware"],
            )
        )
    text = [
        aligned(lines, left=(0, len(head) - 1)),
        "",
        "Errors in percent: top-1 and top-5 as published, top-1 as measured here. GPU hours: one GPU that sustains "
        f"{GPU_TFLOPS:g} TFLOP/s, computed.",
        "",
        *(f"{recipe.name}: {recipe.notes} Source: {recipe.source}." for recipe in ALL),
    ]
    return "\n".join(text)


def markdown() -> str:
    """The recipes as the table of docs/results.md: what was published, what was measured here, and what stands in."""
    lines = ["| recipe | published top-1 / top-5 | source | here | evidence |", "|---|---|---|---|---|"]
    for row in rows():
        published = "not published"
        if row["top1_error"] is not None:
            published = " / ".join(_percent(row[f"top{number}_error"]) for number in (1, 5))
        here = f"not run: needs {_hours(row['gpu_hours'])} GPU hours"
        if measured := row["measured"]:
            here = f"{measured['top1_error']:.2f} / {measured['top5_error']:.2f} in {measured['minutes']:.0f} minutes"
        lines.append(f"| `{row['name']}` | {published} | {row['source']} | {here} | {row['evidence']} |")
    return "\n".join(lines)


def _large(row: dict[str, Any]) -> bool:
    return bool(row["settings"]["data_type"] == "imagenet")


def _percent(error: float | None) -> str:
    return "-" if error is None else f"{error:.2f}"


def _hours(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 10 else f"{hours:.1f}"
