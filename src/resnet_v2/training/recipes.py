"""Named runs: the settings, hardware and error of every network in the tables of 2016, and of our own runs.

Where the figures of 2016 come from, all of github.com/tornadomeet/ResNet: the tables of its README.md, the table of
runs in log/README.md, the first lines of log/resnet-NN.log, and the defaults of train_resnet.py. What none of them says
is not made up here: `notes` says what is missing. Our own figures are those of the logs in docs/runs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from resnet_v2.errors import ResnetError
from resnet_v2.networks.architecture import Architecture

IMAGENET_1K, IMAGENET_11K, CIFAR_10 = 1_281_167, 11_797_630, 50_000


@dataclass(frozen=True)
class Measured:
    """Errors in percent of a run of ours, its time in minutes, validation included, and its log in docs/runs."""

    top1_error: float
    top5_error: float
    minutes: float
    log: str


@dataclass(frozen=True)
class Recipe:
    """A run that was published or made here: `settings` are TrainConfig's, errors are in percent (None: unpublished).

    `images` is the number of training images, `hardware` what the run used, `source` where settings and errors stand.
    `evidence` is what stands in for a run that was not repeated, or tells of our own.
    """

    name: str
    settings: Mapping[str, Any]
    images: int
    hardware: str
    source: str
    top1_error: float | None = None
    top5_error: float | None = None
    notes: str = ""
    evidence: str = ""
    measured: Measured | None = None

    @property
    def architecture(self) -> Architecture:
        """The network that the settings ask for."""
        imagenet = self.settings["data_type"] == "imagenet"
        return Architecture(
            self.settings["depth"],
            self.settings["num_classes"],
            self.settings.get("stem", "imagenet" if imagenet else "cifar"),
            self.settings.get("version", "v2"),
            self.settings.get("width", 1),
        )


def _settings(data_type: str, depth: int, batch_size: int, epochs: int, milestones: str = "", **others: Any) -> Any:
    fields = {
        "data_type": data_type, "data_dir": Path("data") / data_type, "depth": depth, "batch_size": batch_size,
        "epochs": epochs, "lr": 0.1, "mom": 0.9, "wd": 0.0001, "bn_mom": 0.9,
    }  # fmt: skip
    if milestones:
        fields["milestones"] = milestones
    return MappingProxyType(fields | {"num_classes": 1000 if data_type == "imagenet" else 10} | others)


TABLES = "README.md and log/README.md"
# The README's own wording for every ImageNet run that says nothing else.
BY_HAND = "README.md: the augmentation of level 2 is left out from about epoch 95."

# Ours: one cycle of the rate, orthogonal steps, for a network that two CPU cores train in minutes.
CYCLE: Any = MappingProxyType({
    "data_type": "cifar10", "depth": 14, "batch_size": 256, "stem": "pooled", "width": 3, "optimizer": "muon",
    "lr": 0.5, "wd": 0.0005, "schedule": "linear", "warmup_epochs": 2.0, "label_smoothing": 0.1,
    "zero_init_residual": True,
})  # fmt: skip

LOGITS = "logits equal MXNet's (tests/mxnet)"
LOGITS_V1 = "logits of v1 networks of depth 18 and 50 equal MXNet's (tests/mxnet)"

ALL = (
    Recipe(
        "imagenet-resnet-18",
        _settings("imagenet", 18, 256, 120, "60,75,90", aug_schedule="0:2,95:1"),
        IMAGENET_1K, "2 x K80", f"{TABLES}, log/resnet-18.log", 30.48, 10.92,
        f"The batch is the log's; log/README.md says 512. {BY_HAND}",
        evidence=LOGITS + ", gradients and ten training steps too",
    ),
    Recipe(
        "imagenet-resnet-34",
        _settings("imagenet", 34, 512, 129, "60,75,90", aug_schedule="0:2,95:1"),
        IMAGENET_1K, "2 x K80, 3 from epoch 95", f"{TABLES}, log/resnet-34.log", 27.20, 8.86, BY_HAND,
        evidence=LOGITS,
    ),
    Recipe(
        "imagenet-resnet-50",
        _settings("imagenet", 50, 256, 126, "30,60,90", aug_schedule="0:2,95:1"),
        IMAGENET_1K, "3 x K80", f"{TABLES}, log/resnet-50.log", 24.39, 7.24,
        "The log tells of two stops, at epochs 83 and 95, and of the smaller record from 95 on.",
        evidence=LOGITS + ", gradients too; its log of 2016, read again, has these errors",
    ),
    Recipe(
        "imagenet-resnet-101",
        _settings("imagenet", 101, 480, 127, "60,90,120", aug_schedule="0:2,120:1"),
        IMAGENET_1K, "8 x M40", f"{TABLES}, log/resnet-101.log", 22.68, 6.58,
        "arXiv 1603.05027 has 24.6 and 7.5 for this network.",
        evidence=LOGITS,
    ),
    Recipe(
        "imagenet-resnet-152",
        _settings("imagenet", 152, 256, 109, "30,60,90", aug_schedule="0:2,101:1"),
        IMAGENET_1K, "8 x M40", f"{TABLES}, log/resnet-152.log", 22.25, 6.42,
        "The drops are 'same as above', which was ResNet-50's row when that was written. arXiv 1603.05027 has 21.1 and "
        "5.5 for this network on crops of 320.",
        evidence=LOGITS,
    ),
    Recipe(
        "imagenet-resnet-200",
        _settings("imagenet", 200, 256, 120, "30,60,90", aug_schedule="0:2,95:1", memonger=True),
        IMAGENET_1K, "8 x M40, 3 x K80 from epoch 118", f"{TABLES}, train_resnet.py", 22.14, 6.16,
        "Drops as ResNet-152's; the length is not published, 120 is the script's. From epoch 118 on the published run "
        "had --bn-mom 0.997.",
        evidence=LOGITS + "; steps at batch 128 fit in 12 GB (below)",
    ),
    Recipe(
        "imagenet-resnet-101-v1",
        _settings("imagenet", 101, 256, 120, "30,60,90", version="v1"),
        IMAGENET_1K, "not published", "README.md (its table of v1 and v2), train_resnet.py", 23.6, 7.1,
        "The error is the paper's, the schedule the script's: the table has none.",
        evidence=LOGITS_V1,
    ),
    Recipe(
        "imagenet-resnet-152-v1",
        _settings("imagenet", 152, 256, 120, "30,60,90", version="v1"),
        IMAGENET_1K, "not published", "README.md (its table of v1 and v2), train_resnet.py", 21.3, 5.5,
        "The error is the paper's on crops of 320, the schedule the script's: the table has none.",
        evidence=LOGITS_V1,
    ),
    Recipe(
        "imagenet-11k-resnet-200",
        _settings("imagenet", 200, 256, 120, "30,60,90", data_dir=Path("data/imagenet-11k"), num_classes=11221),
        IMAGENET_11K, "not published", "README.md, train_resnet.py", 58.4, 28.8,
        "No schedule is published, this is the script's. MXNet's README has 41.57% top-1 accuracy on the same images "
        "for ResNet-152, so the row may be that network's.",
        evidence=LOGITS + "; MXNet reads and writes checkpoints of 11,221 classes like ours",
    ),
    Recipe(
        "cifar10-resnet-164",
        _settings("cifar10", 164, 128, 300, "220,260,280", aug_level=1),
        CIFAR_10, "2 x GTX 1080", f"{TABLES}, log/resnet-164.log", 4.68, None,
        "arXiv 1603.05027 has 5.46 for this network. The script itself stops after 200 epochs, with drops at 120, 160.",
        evidence=LOGITS + "; its log of 2016, read again, has this error",
    ),
    Recipe(
        "cifar10-resnet-20",
        _settings("cifar10", 20, 128, 40, "24,32", aug_level=1, wd=0.0005),
        CIFAR_10, "2 CPU cores", "train_resnet.py, its 200 epochs made 40",
        evidence="run here; logits, gradients and fifty training steps equal MXNet's (tests/mxnet)",
        measured=Measured(8.97, 0.17, 130, "cifar10-resnet-20"),
        notes="A fifth of the epochs, so five times the weight decay: each weight shrinks as much in all.",
    ),
    Recipe(
        "cifar10-fast",
        _settings(**CYCLE, epochs=14, size_schedule="0:16,5:24,9:32", pad=2),
        CIFAR_10, "2 CPU cores", "ours",
        evidence="run here",
        measured=Measured(9.27, 0.44, 27, "cifar10-fast"),
        notes="Three times as wide, pooled, orthogonal steps, small images first, one cycle of the rate.",
    ),
    Recipe(
        "cifar10-hour",
        _settings(**CYCLE, epochs=28, size_schedule="0:16,6:24,16:32"),
        CIFAR_10, "2 CPU cores", "ours",
        evidence="run here",
        measured=Measured(8.47, 0.31, 55, "cifar10-hour"),
        notes="cifar10-fast for twice as long, padded by 4: the network of the package.",
    ),
)  # fmt: skip


def find(name: str) -> Recipe:
    """The recipe of a name; a ResnetError names those that exist."""
    for recipe in ALL:
        if recipe.name == name:
            return recipe
    raise ResnetError(f"There is no recipe {name!r}; recipes are {', '.join(recipe.name for recipe in ALL)}.")
