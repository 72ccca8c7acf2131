"""Where the time of loading went, and what would make it less: for the log of a run."""

from collections.abc import Mapping
from dataclasses import dataclass

from resnet_v2.data import stages
from resnet_v2.data.record_set import Records
from resnet_v2.data.sidecar import sidecar_path
from resnet_v2.data.workers import running
from resnet_v2.machine import processors

# Of the time, and in seconds: less waiting for data is no loss that matters.
WORTH_SHARE, WORTH_SECONDS = 0.1, 5.0


def spent(workers: int) -> dict[str, float]:
    """The seconds by stage of this process and its workers, so many, since they began."""
    pool = running(workers)
    theirs = pool.seconds() if pool is not None else {}
    return {name: own + theirs.get(name, 0.0) for name, own in zip(stages.NAMES, stages.seconds, strict=True)}


@dataclass(frozen=True)
class Account:
    """What an epoch took: seconds by stage, of all workers, images, its seconds, and how many of them it waited."""

    stages: Mapping[str, float]
    images: int
    seconds: float
    waited: float

    @classmethod
    def between(
        cls, before: Mapping[str, float], after: Mapping[str, float], images: int, seconds: float, waited: float
    ) -> "Account":
        """What happened between two calls of `spent`."""
        return cls({name: after[name] - before[name] for name in after}, images, seconds, waited)

    @property
    def share(self) -> float:
        """Of the time, that was spent waiting for data."""
        return self.waited / self.seconds if self.seconds else 0.0

    def __str__(self) -> str:
        """As the log says it: milliseconds of a worker for each image."""
        each = {name: 1000 * value / max(1, self.images) for name, value in self.stages.items()}
        idle = each.pop("idle")
        stages_of = ", ".join(f"{name} {value:.3f}" for name, value in each.items())
        return (
            f"Data: {sum(each.values()):.3f} ms per image ({stages_of}); "
            f"workers idle {idle:.3f} ms per image, waited for {self.share:.1%} of the time"
        )

    def advice(self, reader: Records, workers: int, sharers: int) -> str:
        """What would help where the network waits for data; nothing where it does not."""
        if self.share < WORTH_SHARE or self.waited < WORTH_SECONDS:
            return ""
        cores = processors() // sharers
        most = max((name for name in self.stages if name != "idle"), key=lambda name: self.stages[name])
        if workers < cores - 1:
            help_is = f"more `workers` ({workers} of {cores} cores read)"
        elif most == "read":
            help_is = f"a faster disk for {reader.path}, or more memory, which keeps files that were read"
        elif most == "decode" and not all(sidecar_path(one.path).is_file() for one in reader.readers):
            help_is = (
                f"`resnet-v2 pack`, whose JPEG files are decoded in part, where {reader.path} was packed by others"
            )
        elif most == "decode":
            help_is = "records packed with a smaller `resize`, or with `store` bmp, or `fast_decode`"
        else:
            help_is = "a lower `aug_level`, or more cores"
        return f"The network waits for data {self.share:.0%} of the time; what would help: {help_is}."
