"""What a whole run on ImageNet takes on 1 to 64 GPUs: hours, money, disk and what the disk has to give per second."""

from dataclasses import dataclass

from resnet_v2.networks.architecture import IMAGENET_UNITS, Architecture
from resnet_v2.recompute.budget import Workload

GPUS = (1, 2, 4, 8, 16, 32, 64)
DEPTHS = tuple(depth for depth in IMAGENET_UNITS if depth <= 200)  # those of 2016
TRAINING_IMAGES, VALIDATION_IMAGES = 1_281_167, 50_000
# Of the 400 photographs of ImageNet that were at hand, packed with `resize=480` (256) and `quality=90`.
BYTES_480, BYTES_256 = 81_500, 30_900
# An H100 reached this share of the speed that the makers' figures foretell: from 0.76 (ResNet-50, bf16) to 0.90.
REACHED = 0.8
# One core makes this many images per second at level 2 of 480 pixels, where all 16 of a machine work.
IMAGES_PER_CORE = 510
BYTES_OF_A_PARAMETER = 8  # in a checkpoint: the weight and its momentum


@dataclass(frozen=True)
class WholeRun:
    """A network, a card, how many images it takes at a time, and how long and at what price."""

    depth: int
    work: Workload
    epochs: int
    euros_per_hour: float

    @property
    def images_per_second(self) -> float:
        """Of training on one GPU, in steps that Python starts: the GPU or Python is the slower one."""
        costs = self.work.costs
        on_card = self.work.batch_size * sum(cost.forward + cost.backward for cost in costs)
        by_python = self.work.device.start * sum(cost.kernels for cost in costs)
        return REACHED * self.work.batch_size / max(on_card, by_python)

    @property
    def _seconds(self) -> float:
        """On one GPU. Of an epoch's validation only the forward pass is made."""
        forward = sum(cost.forward for cost in self.work.costs)
        share = forward / (forward + sum(cost.backward for cost in self.work.costs))
        return self.epochs * (TRAINING_IMAGES + VALIDATION_IMAGES * share) / self.images_per_second

    @property
    def disk_bytes(self) -> int:
        """Of the training records of 480 and 256 pixels, the validation's, and the checkpoints of all epochs."""
        records = TRAINING_IMAGES * (BYTES_480 + BYTES_256) + VALIDATION_IMAGES * BYTES_256
        parameters = sum(parameter.numel() for parameter in self.work.network.parameters())
        return records + self.epochs * BYTES_OF_A_PARAMETER * parameters

    def row(self, gpus: int) -> dict[str, int | float]:
        """On so many GPUs, each of which adds all of its speed: at best, since their messages take time too."""
        speed, hours = gpus * self.images_per_second, self._seconds / gpus / 3600
        return {
            "depth": self.depth,
            "gpus": gpus,
            "images_per_second": round(speed),
            "hours": round(hours, 1),
            "euros": round(hours * gpus * self.euros_per_hour),
            "disk_gb": round(self.disk_bytes / 1e9),
            "read_mb_per_second": round(speed * BYTES_480 / 1e6),
            "cores": -(-round(speed) // IMAGES_PER_CORE),
        }


def whole_runs(depth: int | None, work: Workload, epochs: int, euros_per_hour: float) -> list[dict[str, int | float]]:
    """A row for each depth, that of `work` or without one all of 2016, and for each number of GPUs."""
    rows = []
    for one in DEPTHS if depth is None else (depth,):
        its = work.architecture
        architecture = Architecture(one, its.classes, its.stem, its.version, its.width)
        run = WholeRun(
            one,
            Workload(architecture, work.image_size, work.bf16, False, work.device, work.batch_size),
            epochs,
            euros_per_hour,
        )
        rows += [run.row(gpus) for gpus in GPUS]
    return rows
