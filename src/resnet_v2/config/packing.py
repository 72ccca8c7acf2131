"""Settings of the commands that make records."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from resnet_v2.config.fields import Chosen


@dataclass(frozen=True)
class DataConfig:
    """Make the records of a named data set (digits, cifar10, fashion-mnist) or of a folder of class folders."""

    source: Annotated[Positional[str], arg(metavar="SOURCE")]
    """digits, cifar10, fashion-mnist, or the path of a folder that holds one folder per class"""
    out: Chosen[Path] = None
    """folder for NAME_train.rec, NAME_val.rec, their .idx and .lst, and synset.txt (default: data/NAME)"""
    archive: Path | None = None
    """cifar10: cifar-10-binary.tar.gz; fashion-mnist: the folder of its four .gz files (nothing is downloaded)"""
    mirror: str = ""
    """address of a folder to download from instead of the official one (checksums stay the same)"""
    resize: int = 32
    """a folder of class folders only: shorter side in pixels, 0 keeps the size"""
    val_ratio: float = 0.1
    """a folder of class folders only: share held out for validation, unless it has train and val folders"""
    seed: int = 0
    """seed of the split and of the shuffling"""
    threads: int = 0
    """packing threads, 0: one per core"""


@dataclass(frozen=True)
class ListConfig:
    """Write shuffled PREFIX_train.lst and PREFIX_val.lst and synset.txt for a folder of class folders or a tar."""

    root: Annotated[Positional[Path], arg(metavar="ROOT")]
    """folder of class folders, or of train and val folders of them; or a tar of either, or of one tar per class"""
    prefix: Annotated[Positional[Path], arg(metavar="PREFIX")]
    """path and start of the names of the lists: data/flowers writes data/flowers_train.lst"""
    val_per_class: int = 0
    """images of every class held out for validation"""
    val_ratio: float = 0.0
    """share of every class held out for validation, 0 to 1"""
    min_images: int = 0
    """leave out classes with fewer images"""
    val_labels: Path | None = None
    """write PREFIX_val.lst alone, for images in no class folders; a file of CLASS or NAME CLASS lines (WNID, number)"""
    synset: Path | None = None
    """with --val-labels of numbers: the file of WNIDs that the numbers count through (the devkit's: map_clsloc.txt)"""
    seed: int = 0
    """seed of the split and of the shuffling"""


@dataclass(frozen=True)
class PackConfig:
    """Pack the images of a list into a .rec and .idx (MXNet's im2rec; its words work too: resize=480 quality=90)."""

    lst: Annotated[Positional[Path], arg(metavar="LST")]
    """list of images: index, label, path, separated by tabs"""
    root: Annotated[Positional[Path], arg(metavar="ROOT")]
    """folder that the paths of the list start from, or the tar (or tar of tars) that it was made from"""
    out: Annotated[Positional[Path], arg(metavar="OUT.rec")]
    """the .rec to write; the .idx is written beside it; a run that was stopped goes on when it is started again"""
    resize: int = 0
    """shorter side in pixels, 0 keeps the size"""
    quality: int = 90
    """JPEG quality, 1 to 100 (PNG: compression 0 to 9)"""
    encoding: Literal[".jpg", ".png"] = ".jpg"
    """file format of the images in the record"""
    pass_through: bool = False
    """put the image files into the record as they are, turned ones too; only their headers are looked at"""
    threads: int = 0
    """threads, 0: one per core"""
    on_error: Literal["skip", "stop"] = "skip"
    """an unreadable image: name it, leave it out and go on, or stop, to go on there when it is mended"""


@dataclass(frozen=True)
class IndexConfig:
    """Make the .idx of a .rec by reading the record once."""

    rec: Annotated[Positional[Path], arg(metavar="REC")]
    """the .rec"""
