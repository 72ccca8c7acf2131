"""Settings of the commands that use what a network sees before its last layer."""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from resnet_v2.config.fields import OnGpus, Range, Threads, Usual, refuse_folder, settings
from resnet_v2.config.using import BatchSize, Device, Epoch, Gpu, Prefix
from resnet_v2.errors import SettingError

ENDINGS = (".parquet", ".npz")  # of files of features


@settings
class FeaturesConfig(OnGpus):
    """Write the features of pictures, or find those that look alike; exit status 1 when one was unreadable."""

    images: Annotated[Positional[tuple[str, ...]], arg(metavar="IMG")]
    """image files, folders of them, .rec files, files of features (.parquet, .npz), or - for standard input"""
    prefix: Prefix = ""
    epoch: Epoch = None
    out: Path | None = None
    """file of features to write, .parquet or .npz"""
    neighbours: Annotated[int, Range(0, 10**4)] = 0
    """of each picture the so many most alike of --among, 0: none"""
    among: tuple[str, ...] = ()
    """where neighbours are looked for: what IMG may be too"""
    duplicates: Annotated[float, Range(0, 1)] = 0
    """list pictures whose cosine to an earlier one is this or more, such as 0.999; 0: none"""
    gpus: Gpu = "0"
    device: Device = ""
    batch_size: BatchSize = 32
    threads: Threads = 0
    """threads that read pictures, 0: one per core"""
    json: bool = False
    """print neighbours or duplicates as one JSON list"""

    def __post_init__(self) -> None:
        """Refuse what asks for nothing, or for several things at once."""
        asked = [name for name in ("out", "neighbours", "duplicates") if getattr(self, name)]
        if len(asked) != 1:
            raise SettingError("Give one of `out` FILE, `neighbours` K with `among`, and `duplicates` COSINE.")
        if bool(self.among) != bool(self.neighbours):
            raise SettingError("`neighbours` K are looked for `among` other pictures; give both.")
        if self.out is not None and self.out.suffix.lower() not in ENDINGS:
            raise SettingError(f"`out` {self.out} is no file of features; name it .parquet or .npz.")


@settings
class HeadConfig(OnGpus):
    """Train a new last layer on the features of a network that stays as it is, in seconds."""

    images: Annotated[Positional[tuple[str, ...]], arg(metavar="IMG")]
    """folders with a folder of pictures for each class, .rec files with a class for each image, or files of their
    features (.parquet, .npz)"""
    out: str
    """start of the name to write: OUT-0000.safetensors"""
    val: tuple[str, ...] = ()
    """the same to evaluate on (default: the errors are those of the training images)"""
    prefix: Prefix = ""
    epoch: Epoch = None
    synset: Annotated[Path | None, Usual("the class folders, or synset.txt beside the first record")] = None
    """file with one class name per line"""
    gpus: Gpu = "0"
    device: Device = ""
    batch_size: BatchSize = 32
    threads: Threads = 0
    """threads that read pictures, 0: one per core"""

    def __post_init__(self) -> None:
        """Refuse a folder where the start of a name belongs."""
        refuse_folder("out", self.out)
