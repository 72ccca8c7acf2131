"""Settings of the average of several networks."""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from resnet_v2.config.fields import Anywhere, OnGpus, Workers, refuse_folder, settings
from resnet_v2.config.using import BatchSize, Device, Gpu


@settings
class AverageConfig(OnGpus):
    """Write the network whose weights are the mean of several others', as of the last epochs of a run."""

    prefixes: Annotated[Positional[tuple[str, ...]], arg(metavar="PREFIX")]
    """checkpoints of one architecture, such as model/a-0028 model/a-0029 model/a-0030"""
    out: str
    """start of the name to write: OUT-0000.safetensors"""
    rec: Annotated[Path | None, Anywhere()] = None
    """training record to estimate the BatchNorms' statistics on (default: the mean of the networks' own)"""
    batch_size: BatchSize = 128
    gpus: Gpu = "0"
    device: Device = ""
    workers: Workers = "auto"
    """processes that read images, 0: none beside this one; auto: by cores and memory"""

    def __post_init__(self) -> None:
        """Refuse a folder where the start of a name belongs."""
        refuse_folder("out", self.out)
