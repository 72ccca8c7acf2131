"""Settings of the commands that make records."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from resnet_v2.config.fields import (
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
IM2REC_WORD = re.compile(r"([a-z_]+)=(.*)")
IM2REC_ENCODING = re.compile(r"--encoding=\.?(.*)")


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
    """path and start of the names of the lists: data/flowers writes data/flowers_train.lst"""
    val_per_class: CountOrNone = 0
    """images of every class held out for validation"""
    val_ratio: ShareBelowOne = 0.0
    """share of every class held out for validation"""
    min_images: CountOrNone = 0
    """leave out classes with fewer images"""
    val_labels: Path | None = None
    """write PREFIX_val.lst alone, for images in no class folders; a file of CLASS or NAME CLASS lines (WNID, number)"""
    synset: Path | None = None
    """with --val-labels of numbers: the file of WNIDs that the numbers count through (the devkit's: map_clsloc.txt)"""
    seed: Seed = 0
    """seed of the split and of the shuffling"""

    def __post_init__(self) -> None:
        """Refuse what does not go together."""
        refuse_folder("prefix", self.prefix)
        if self.val_labels is not None and (self.val_per_class or self.val_ratio or self.min_images):
            raise SettingError(
                "`val_labels` makes a validation list only; leave `val_per_class`, `val_ratio` and `min_images` out."
            )


@settings
class PackConfig:
    """Pack the images of a list into a .rec and .idx (MXNet's im2rec; its words work too: resize=480 quality=90)."""

    lst: Annotated[Positional[Path], arg(metavar="LST")]
    """list of images: index, label, path, separated by tabs"""
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
    threads: Threads = 0
    """threads, 0: one per core"""
    on_error: Literal["skip", "stop"] = "skip"
    """an unreadable image: name it, leave it out and go on, or stop, to go on there when it is mended"""

    def __post_init__(self) -> None:
        """Refuse what does not go together."""
        refuse_folder("out", self.out)
        if self.quality is not None:
            _check_quality(self.store, self.quality)
        if self.pass_through and (self.resize or self.store != "jpeg"):
            name = "resize" if self.resize else "store"
            raise SettingError(f"`pass_through` leaves images as they are; give it without `{name}`.")


def _check_quality(store: Store, quality: int) -> None:
    if store in ("webp", "bmp"):
        raise SettingError(f"{store} loses nothing and has no quality; leave `quality` out.")
    if store == "png" and quality > 9:
        raise SettingError(f"`quality` of png is its compression, 0 to 9, not {quality}; it loses nothing.")
    if store != "png" and not quality:
        raise SettingError("`quality` of JPEG must be 1 to 100, not 0.")


def from_im2rec(words: Sequence[str]) -> list[str]:
    """The words of `pack` with those of im2rec among them in our spelling.

    `resize=480` is `--resize=480`; `encoding=.jpg`, also behind `--`, is `--store=jpeg`.
    """
    text = [IM2REC_WORD.sub(r"--\1=\2", word) if IM2REC_WORD.fullmatch(word) else word for word in words]
    while "--encoding" in text[:-1]:
        at = text.index("--encoding")
        text[at : at + 2] = [f"--encoding={text[at + 1]}"]
    return [IM2REC_ENCODING.sub(_as_store, word) for word in text]


def _as_store(match: re.Match[str]) -> str:
    return f"--store={'jpeg' if match[1] == 'jpg' else match[1]}"


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
            if self.out.suffix != ".idx":
                raise SettingError(f"`out` {self.out} must end with .idx.")
