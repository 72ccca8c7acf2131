"""Settings of the commands that make other things of records."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from resnet_v2.config.fields import CountOrNone, Seed, ShareBelowOne, settings
from resnet_v2.errors import SettingError
from resnet_v2.storage import Address, as_path

SPLITS = ("val_per_class", "val_ratio", "val_identities")


@settings
class ConvertConfig:
    """Merge, shuffle, filter or split records into new ones, image by image, without decoding any."""

    files: Annotated[Positional[tuple[str, ...]], arg(metavar="IN... OUT.rec")]
    """.rec files or their addresses, patterns such as 'train_*.rec', or lists a.rec,b.rec, read in this order; and last
    the .rec to write, which is not there yet (a split writes OUT_train.rec and OUT_val.rec)"""
    classes: str = ""
    """keep these classes alone: numbers or names (of synset.txt) with commas between, or a .txt of one per line"""
    renumber: bool = False
    """number the classes that are kept from 0, in the order of --classes, else in that of their numbers"""
    shuffle: bool = False
    """in a random order, for which memory holds a few numbers of each record"""
    subset: CountOrNone = 0
    """keep the first so many images, with --shuffle a random choice; 0: all"""
    val_per_class: CountOrNone = 0
    """images of every class (or identity) held out for validation"""
    val_ratio: ShareBelowOne = 0.0
    """share of every class (or identity) held out for validation"""
    val_identities: CountOrNone = 0
    """classes (or identities) of which all images are held out for validation"""
    parts: CountOrNone = 0
    """write so many files OUT.rec.part000, OUT.rec.part001, ..., as im2rec's nsplit"""
    faces: bool = False
    """write InsightFace's form: record 0 and a record for every identity, which hold the ranges of keys"""
    seed: Seed = 0
    """seed of the shuffling and of the split"""

    def __post_init__(self) -> None:
        """Refuse what does not go together."""
        if len(self.files) < 2 or not all(self.files):
            raise SettingError("Give the .rec files to read, and behind them the one to write.")
        splits = [name for name in SPLITS if getattr(self, name)]
        if len(splits) > 1:
            raise SettingError(f"`{splits[0]}` and `{splits[1]}` are two ways to split; give one.")
        if splits and self.parts:
            raise SettingError(f"`parts` does not go with `{splits[0]}`; split first, then divide what was written.")
        if self.faces and (self.shuffle or self.parts):
            name = "shuffle" if self.shuffle else "parts"
            raise SettingError(f"`faces` keeps the images of an identity together; give it without `{name}`.")

    @property
    def out(self) -> Path:
        """The record to write."""
        out = as_path(self.files[-1]) if self.files else Path()
        if isinstance(out, Address):
            raise SettingError(f"OUT.rec {out} is an address; give a path of this machine.")
        if self.files and out.suffix.lower() != ".rec":
            raise SettingError(f"OUT.rec {out} must end with .rec.")
        return out


@settings
class UnpackConfig:
    """Write the images of a record as files, byte for byte, in a folder per class or in a tar of them."""

    rec: Annotated[Positional[str], arg(metavar="IN.rec")]
    """the .rec or its address, a pattern such as 'train_*.rec', or a list a.rec,b.rec"""
    out: Annotated[Positional[Path], arg(metavar="OUT")]
    """the folder or OUT.tar to write, which is not there yet, with OUT.lst beside it, which packs the same again"""
    on_error: Literal["skip", "stop"] = "skip"
    """a damaged record: name it, leave it out and go on, or stop and write nothing"""

    def __post_init__(self) -> None:
        """Refuse what is no path."""
        if not self.rec:
            raise SettingError("IN.rec is empty; give a path.")
        if self.out.name in ("", ".."):
            raise SettingError(f"OUT {self.out} has no name; give the path of a folder or a .tar that is not there.")
