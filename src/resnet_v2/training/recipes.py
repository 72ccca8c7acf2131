"""Named runs: the settings, hardware and published error of every network in the tables of 2016.

Where the figures come from, all of github.com/tornadomeet/ResNet: the tables of its README.md, the table of runs in
log/README.md, the first lines of log/resnet-NN.log, and the defaults of train_resnet.py. What none of them says is not
made up here: `notes` says what is missing.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import torch
from torch import Tensor, nn

from resnet_v2.config import TrainConfig
from resnet_v2.files import ResnetError
from resnet_v2.networks.architecture import Architecture
from resnet_v2.networks.resnet import ResNet

IMAGENET_1K, IMAGENET_11K, CIFAR_10 = 1_281_167, 11_797_630, 50_000
# Operations per second that `gpu_hours` takes a GPU to sustain: a round number to compare recipes by, never measured.
GPU_TFLOPS = 20.0
# Found elsewhere on every machine, so that another value is no departure from the recipe.
PLACES = ("data_dir",)


@dataclass(frozen=True)
class Recipe:
    """A run that was published: `settings` are TrainConfig's, errors are in percent (None: not published).

    `images` is the number of training images, `hardware` what the published run used, `source` where settings and
    errors stand.
    """

    name: str
    settings: Mapping[str, Any]
    images: int
    hardware: str
    source: str
    top1_error: float | None = None
    top5_error: float | None = None
    notes: str = ""

    @property
    def architecture(self) -> Architecture:
        """The network that the settings ask for."""
        imagenet = self.settings["data_type"] == "imagenet"
        return Architecture(
            self.settings["depth"],
            self.settings["num_classes"],
            "imagenet" if imagenet else "cifar",
            self.settings.get("version", "v2"),
        )


def _settings(data_type: str, depth: int, batch_size: int, epochs: int, milestones: str, **others: Any) -> Any:
    fields = {
        "data_type": data_type, "data_dir": Path("data") / data_type, "depth": depth, "batch_size": batch_size,
        "epochs": epochs, "milestones": milestones, "lr": 0.1, "mom": 0.9, "wd": 0.0001, "bn_mom": 0.9,
    }  # fmt: skip
    return MappingProxyType(fields | {"num_classes": 1000 if data_type == "imagenet" else 10} | others)


TABLES = "README.md and log/README.md"
# The README's own wording for every ImageNet run that says nothing else.
BY_HAND = "README.md: the augmentation of level 2 is left out from about epoch 95."

ALL = (
    Recipe(
        "imagenet-resnet-18",
        _settings("imagenet", 18, 256, 120, "60,75,90", aug_schedule="0:2,95:1"),
        IMAGENET_1K, "2 x K80", f"{TABLES}, log/resnet-18.log", 30.48, 10.92,
        f"The batch is the log's; log/README.md says 512. {BY_HAND}",
    ),
    Recipe(
        "imagenet-resnet-34",
        _settings("imagenet", 34, 512, 129, "60,75,90", aug_schedule="0:2,95:1"),
        IMAGENET_1K, "2 x K80, 3 from epoch 95", f"{TABLES}, log/resnet-34.log", 27.20, 8.86, BY_HAND,
    ),
    Recipe(
        "imagenet-resnet-50",
        _settings("imagenet", 50, 256, 126, "30,60,90", aug_schedule="0:2,95:1"),
        IMAGENET_1K, "3 x K80", f"{TABLES}, log/resnet-50.log", 24.39, 7.24,
        "The log tells of two stops, at epochs 83 and 95, and of the smaller record from 95 on.",
    ),
    Recipe(
        "imagenet-resnet-101",
        _settings("imagenet", 101, 480, 127, "60,90,120", aug_schedule="0:2,120:1"),
        IMAGENET_1K, "8 x M40", f"{TABLES}, log/resnet-101.log", 22.68, 6.58,
        "arXiv 1603.05027 has 24.6 and 7.5 for this network.",
    ),
    Recipe(
        "imagenet-resnet-152",
        _settings("imagenet", 152, 256, 109, "30,60,90", aug_schedule="0:2,101:1"),
        IMAGENET_1K, "8 x M40", f"{TABLES}, log/resnet-152.log", 22.25, 6.42,
        "The drops are 'same as above', which was ResNet-50's row when that was written. arXiv 1603.05027 has 21.1 and "
        "5.5 for this network on crops of 320.",
    ),
    Recipe(
        "imagenet-resnet-200",
        _settings("imagenet", 200, 256, 120, "30,60,90", aug_schedule="0:2,95:1", memonger=True),
        IMAGENET_1K, "8 x M40, 3 x K80 from epoch 118", f"{TABLES}, train_resnet.py", 22.14, 6.16,
        "Drops as ResNet-152's; the length is not published, 120 is the script's. From epoch 118 on the published run "
        "had --bn-mom 0.997.",
    ),
    Recipe(
        "imagenet-resnet-101-v1",
        _settings("imagenet", 101, 256, 120, "30,60,90", version="v1"),
        IMAGENET_1K, "not published", "README.md (its table of v1 and v2), train_resnet.py", 23.6, 7.1,
        "The error is the paper's, the schedule the script's: the table has none.",
    ),
    Recipe(
        "imagenet-resnet-152-v1",
        _settings("imagenet", 152, 256, 120, "30,60,90", version="v1"),
        IMAGENET_1K, "not published", "README.md (its table of v1 and v2), train_resnet.py", 21.3, 5.5,
        "The error is the paper's on crops of 320, the schedule the script's: the table has none.",
    ),
    Recipe(
        "imagenet-11k-resnet-200",
        _settings("imagenet", 200, 256, 120, "30,60,90", data_dir=Path("data/imagenet-11k"), num_classes=11221),
        IMAGENET_11K, "not published", "README.md, train_resnet.py", 58.4, 28.8,
        "No schedule is published, this is the script's. MXNet's README has 41.57% top-1 accuracy on the same images "
        "for ResNet-152, so the row may be that network's.",
    ),
    Recipe(
        "cifar10-resnet-164",
        _settings("cifar10", 164, 128, 300, "220,260,280", aug_level=1),
        CIFAR_10, "2 x GTX 1080", f"{TABLES}, log/resnet-164.log", 4.68, None,
        "arXiv 1603.05027 has 5.46 for this network. The script itself stops after 200 epochs, with drops at 120, 160.",
    ),
)  # fmt: skip


def find(name: str) -> Recipe:
    """The recipe of a name; a ResnetError names those that exist."""
    for recipe in ALL:
        if recipe.name == name:
            return recipe
    raise ResnetError(f"There is no recipe {name!r}; recipes are {', '.join(recipe.name for recipe in ALL)}.")


def apply(config: TrainConfig) -> tuple[TrainConfig, list[str]]:
    """The config with its recipe filled in, and one sentence for every setting in which the user departs from it.

    A field that has TrainConfig's default takes the recipe's value: a default that was typed out cannot be told from
    one that was not. With `retrain` learning rate and weight decay stay the checkpoint's. Without a recipe the config
    comes back as it is.
    """
    if not config.recipe:
        return config, []
    recipe = find(config.recipe)
    defaults = {field.name: field.default for field in dataclasses.fields(TrainConfig)}
    taken: dict[str, Any] = {}
    differences = []
    for name, value in recipe.settings.items():
        given = getattr(config, name)
        if given == defaults[name]:
            if not (config.retrain and name in ("lr", "wd")):
                taken[name] = value
        elif given != value and name not in PLACES:
            flag = f"--{name.replace('_', '-')}"
            differences.append(f"{flag} {given} is not the recipe's: {recipe.name} has {flag} {value}.")
    return dataclasses.replace(config, **taken), differences


def multiply_adds(architecture: Architecture) -> int:
    """Multiply-adds of the convolutions and the dense layer for one image; nothing is computed, only shapes."""
    count = 0

    def add(layer: nn.Module, _: Any, output: Tensor) -> None:
        nonlocal count
        count += cast(nn.Conv2d | nn.Linear, layer).weight.numel() * output[0, 0].numel()

    with torch.device("meta"), torch.no_grad():
        network = ResNet(architecture).eval()
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.register_forward_hook(add)
        network(torch.empty(1, 3, architecture.image_size, architecture.image_size))
    return count


def training_flops(recipe: Recipe) -> float:
    """Floating-point operations of the whole run, a multiply-add counted as 2.

    The backward pass takes two forward passes' operations, recomputation (`memonger`) one more.
    """
    passes = 4 if recipe.settings.get("memonger") else 3
    epochs: int = recipe.settings["epochs"]
    return 2.0 * passes * multiply_adds(recipe.architecture) * recipe.images * epochs


def gpu_hours(recipe: Recipe, tflops: float = GPU_TFLOPS) -> float:
    """Hours of one GPU that sustains `tflops` x 10^12 operations per second throughout."""
    return training_flops(recipe) / (tflops * 1e12) / 3600


def rows() -> list[dict[str, Any]]:
    """Every recipe as JSON can hold it, with its `training_flops` and `gpu_hours`."""
    return [
        {
            "name": recipe.name,
            "top1_error": recipe.top1_error,
            "top5_error": recipe.top5_error,
            "settings": {k: str(v) if isinstance(v, Path) else v for k, v in recipe.settings.items()},
            "images": recipe.images,
            "hardware": recipe.hardware,
            "training_flops": training_flops(recipe),
            "gpu_hours": round(gpu_hours(recipe), 1),
            "source": recipe.source,
            "notes": recipe.notes,
        }
        for recipe in ALL
    ]


def table() -> str:
    """The recipes as aligned text, and a note and source for each below it."""
    head = ("recipe", "top-1", "top-5", "batch", "epochs", "drops at", "levels", "GPU hours", "published run's GPUs")
    lines = [head]
    for row in rows():
        settings = row["settings"]
        levels = settings.get("aug_schedule") or str(settings.get("aug_level") or 2)
        errors = ["-" if row[key] is None else f"{row[key]:.2f}" for key in ("top1_error", "top5_error")]
        lines.append(
            (row["name"], *errors, str(settings["batch_size"]), str(settings["epochs"]), settings["milestones"], levels,
             f"{row['gpu_hours']:,.0f}" if row["gpu_hours"] >= 10 else f"{row['gpu_hours']:.1f}", row["hardware"])
        )  # fmt: skip
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    text = [
        "  ".join(
            cell.rjust(width) if 0 < column < len(head) - 1 else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    text += [
        "",
        f"Errors in percent, published. GPU hours: one GPU that sustains {GPU_TFLOPS:g} TFLOP/s, computed.",
        "",
    ]
    text += [f"{recipe.name}: {recipe.notes} Source: {recipe.source}." for recipe in ALL]
    return "\n".join(text)
