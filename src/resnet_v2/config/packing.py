"""Settings of the commands that make records."""

import re
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from resnet_v2.config.fields import (
    Count,
    CountOrNone,
    Place,
    Range,
    Seed,
    ShareBelowOne,
    Side,
    Threads,
    Usual,
    refuse_folder,
    settings,
)
from resnet_v2.errors import SettingError

Store = Literal["jpeg", "png", "webp", "bmp", "auto"]
INTER_METHODS = (0, 1, 2, 3, 4, 9, 10)


@settings
class DataConfig:
    """Make the records of a named data set (digits, cifar10, fashion-mnist) or of a folder of class folders."""

    source: Annotated[Positional[str], arg(metavar="SOURCE")]
    """digits, cifar10, fashion-mnist, or the path of a folder that holds one folder per class"""
    out: Annotated[Path | None, Usual("data/NAME")] = None
    """folder for NAME_train.rec, NAME_val.rec, their .idx and .lst, and synset.txt"""
    archive: Path | None = None
    """cifar10: cifar-10-binary.tar.gz; fashion-mnist: the folder of its four .gz files (nothing is downloaded)"""
    mirror: str = ""
    """address of a folder to download from instead of the official one (checksums stay the same)"""
    resize: Side = 32
    """a folder of class folders only: shorter side in pixels, 0 keeps the size"""
    val_ratio: ShareBelowOne = 0.1
    """a folder of class folders only: share held out for validation, unless it has train and val folders"""
    seed: Seed = 0
    """seed of the split and of the shuffling"""
    threads: Threads = 0
    """packing threads, 0: one per core"""

    def __post_init__(self) -> None:
        """Refuse an empty path."""
        if not self.source:
            raise SettingError("SOURCE is empty; give the name of a data set or the path of a folder.")


@settings
class ListConfig:
    """Write shuffled PREFIX_train.lst and PREFIX_val.lst and synset.txt for a folder of class folders or a tar."""

    root: Annotated[Positional[Path], arg(metavar="ROOT")]
    """folder of class folders, or of train and val folders of them; or a tar of either, or of one tar per class"""
    prefix: Annotated[Positional[Path], arg(metavar="PREFIX")]
    """path and start of the names of the lists: data/photos writes data/photos_train.lst"""
    val_per_class: CountOrNone = 0
    """images of every class held out for validation"""
    val_ratio: ShareBelowOne = 0.0
    """share of every class held out for validation"""
    min_images: CountOrNone = 0
    """leave out classes with fewer images"""
    chunks: Count = 1
    """write so many lists of each kind instead of one: PREFIX_0_train.lst, PREFIX_1_train.lst ..."""
    val_labels: Path | None = None
    """write PREFIX_val.lst alone, for images in no class folders; a file of CLASS or NAME CLASS lines (WNID, number)"""
    synset: Path | None = None
    """with --val-labels of numbers: the file of WNIDs that the numbers count through (the devkit's: map_clsloc.txt)"""
    seed: Seed = 0
    """seed of the split and of the shuffling"""

    def __post_init__(self) -> None:
        """Refuse what does not go together."""
        refuse_folder("prefix", self.prefix)
        if self.val_labels is not None and (self.val_per_class or self.val_ratio or self.min_images or self.chunks > 1):
            raise SettingError(
                "`val_labels` makes one validation list only; leave `val_per_class`, `val_ratio`, `min_images` and "
                "`chunks` out."
            )


@settings
class PackConfig:
    """Pack the images of a list into a .rec and .idx (MXNet's im2rec; its words work too: resize=480 center_crop=1)."""

    lst: Annotated[Positional[Path], arg(metavar="LST")]
    """list of images: index, label or labels, path, separated by tabs"""
    root: Annotated[Positional[Path], arg(metavar="ROOT")]
    """folder that the paths of the list start from, or the tar (or tar of tars) that it was made from"""
    out: Annotated[Positional[Place], arg(metavar="OUT.rec")]
    """the .rec to write, its .idx beside it, or its address s3://bucket/a.rec; started again, a stopped run goes on"""
    resize: Side = 0
    """shorter side in pixels, 0 keeps the size"""
    store: Store = "jpeg"
    """jpeg; png, webp and bmp lose nothing; auto looks and says what it takes; see docs/formats.md"""
    quality: Annotated[int | None, Range(0, 100), Usual("jpeg 90, png 3")] = None
    """quality of jpeg, 1 to 100; compression of png, 0 to 9"""
    pass_through: bool = False
    """put the image files into the record as they are, turned ones too; only their headers are looked at"""
    label_width: Annotated[int | None, Range(1), Usual("as many as a line has")] = None
    """labels in each line of the list; the first one is packed"""
    pack_label: bool = False
    """pack all labels of a line, where it has several"""
    color: Annotated[int, Range(-1, 1)] = 1
    """1: in colour; 0: in grey; -1: with the channels and bits of the file, and turned as it is"""
    center_crop: bool = False
    """cut the square out of the middle, then resize"""
    inter_method: Annotated[int | None, Usual("1, or 3 to less than half")] = None
    """how to resize: 0 nearest, 1 bilinear, 2 cubic, 3 area, 4 Lanczos, 9 area or cubic, 10 one of 0 to 4 per image"""
    nsplit: Count = 1
    """parts of the list, of which `part` is packed, into OUT.rec.part000 and so on"""
    part: CountOrNone = 0
    """the part to pack, counted from 0"""
    threads: Threads = 0
    """threads, 0: one per core"""
    on_error: Literal["skip", "stop"] = "skip"
    """an unreadable image or line: name it, leave it out and go on, or stop, to go on there when it is mended"""

    @property
    def written(self) -> Path:
        """The record to write: `out`, or with `nsplit` the name of its part."""
        return self.out if self.nsplit == 1 else self.out.parent / f"{self.out.name}.part{self.part:03d}"

    def __post_init__(self) -> None:
        """Refuse what does not go together."""
        refuse_folder("out", self.out)
        if self.quality is not None:
            _check_quality(self.store, self.quality)
        changes = {
            "resize": self.resize != 0,
            "store": self.store != "jpeg",
            "color": self.color != 1,
            "center_crop": self.center_crop,
        }
        if self.pass_through and any(changes.values()):
            name = next(name for name, given in changes.items() if given)
            raise SettingError(f"`pass_through` leaves images as they are; give it without `{name}`.")
        if self.inter_method not in (None, *INTER_METHODS):
            raise SettingError(f"`inter_method` must be 0 to 4, 9 or 10, not {self.inter_method}.")
        if self.pack_label and self.label_width == 1:
            raise SettingError("`pack_label` packs several labels; give it with a `label_width` above 1, or without.")
        if self.part >= self.nsplit:
            raise SettingError(f"`part` must be below `nsplit`, which is {self.nsplit}, not {self.part}.")


def _check_quality(store: Store, quality: int) -> None:
    if store in ("webp", "bmp"):
        raise SettingError(f"{store} loses nothing and has no quality; leave `quality` out.")
    if store == "png" and quality > 9:
        raise SettingError(f"`quality` of png is its compression, 0 to 9, not {quality}; it loses nothing.")
    if store != "png" and not quality:
        raise SettingError("`quality` of JPEG must be 1 to 100, not 0.")


@settings
class VerifyConfig:
    """Read records or checkpoints and name all that is not as it was written; status 1 when there is anything."""

    files: Annotated[Positional[tuple[str, ...]], arg(metavar="FILE...")]
    """.rec files, their addresses or 'val_*.rec', with .idx, .rows, .lst and synset.txt beside them, or .safetensors"""
    repair: Path | None = None
    """of one .rec: write its sound records to this .rec, with .idx, .lst and .rows"""
    decode: bool = False
    """decode every image, also those whose fingerprint in the .rows is right"""
    threads: Threads = 0
    """threads, 0: one per core"""
    json: bool = False
    """print one list, an object per file"""

    def __post_init__(self) -> None:
        """Refuse what does not go together."""
        if not all(self.files):
            raise SettingError("FILE is empty; give a path.")
        if self.repair is not None and (len(self.files) != 1 or self.files[0].endswith(".safetensors")):
            raise SettingError("`repair` takes one .rec; give a single one.")
        if self.repair is not None and self.repair.suffix != ".rec":
            raise SettingError(f"`repair` {self.repair} must end with .rec.")


@settings
class IndexConfig:
    """Make the .idx of a .rec by reading the record once."""

    rec: Annotated[Positional[Path], arg(metavar="REC")]
    """the .rec"""
    out: Annotated[Path | None, Usual("beside the .rec, with its .rows")] = None
    """write the .idx alone to this path, for a .rec in a folder that may not be written to"""

    def __post_init__(self) -> None:
        """Refuse what is no file's path."""
        refuse_folder("rec", self.rec)
        if self.out is not None:
            refuse_folder("out", self.out)
            if not re.fullmatch(r".+\.idx(\.part\d+)?", self.out.name):
                raise SettingError(f"`out` {self.out} must end with .idx.")
