"""Settings of `inspect`."""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from resnet_v2.config.fields import Anywhere, OnGpus, Place, refuse_folder, settings
from resnet_v2.config.using import Device, Epoch, Gpu, Prefix
from resnet_v2.errors import SettingError


@settings
class InspectConfig(OnGpus):
    """Look at pictures, labels and a network's answers: wrong labels, doubles, odd pictures, calibration; one page."""

    rec: Annotated[Positional[Place], arg(metavar="REC")]
    """the .rec, several as a.rec,b.rec or 'train_*.rec', or a folder with a folder of images for each class"""
    val: Annotated[Path | None, Anywhere()] = None
    """the .rec or folder held out for validation: doubles across both, and answers on pictures that are not REC's"""
    prefix: Prefix = ""
    epoch: Epoch = None
    out: Path = Path("inspect.html")
    """the page to write (.html), which opens without a network"""
    calibrate: Path | None = None
    """write the network with its temperature to this .safetensors: a new file, or the checkpoint itself"""
    gpus: Gpu = "0"
    device: Device = ""
    json: bool = False
    """print JSON: all findings with file and record, the classes, the calibration, the confusions"""

    def __post_init__(self) -> None:
        """Refuse names that the files cannot have, and a record that is held out of itself."""
        for name, path, ending in (("out", self.out, ".html"), ("calibrate", self.calibrate, ".safetensors")):
            if path is not None:
                refuse_folder(name, path)
                if path.suffix.lower() != ending:
                    raise SettingError(f"`{name}` {path} must end with {ending}.")
        if self.val == self.rec:
            raise SettingError(f"`val` {self.val} is what is inspected already; leave it out, or name another.")
