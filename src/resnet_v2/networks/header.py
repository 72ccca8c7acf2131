"""What a weight file says of itself: the network, how to feed it, its classes, how it was trained. No torch."""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import safetensors

from resnet_v2.data.lists import read_synset
from resnet_v2.errors import DamagedError, ResnetError
from resnet_v2.files import parse_json
from resnet_v2.networks.architecture import Architecture
from resnet_v2.networks.run_header import check_training

METADATA_KEY = "resnet_v2"
LONGEST_SIDE = 65535  # pixels, as far as JPEG goes


@dataclass(frozen=True)
class Header:
    """What a weight file says of itself; kept as JSON in the metadata of safetensors and ONNX files.

    `resize` and `crop` are the evaluation preprocessing in pixels: shorter side, then the centre. `class_names` has one
    line per class, or is empty. `errors` holds measured figures in percent, such as `top1_error`. `training` is what
    the trainer needs to go on: settings and position.
    """

    architecture: Architecture
    epoch: int
    resize: int
    crop: int
    class_names: tuple[str, ...] = field(default=(), repr=False)
    errors: Mapping[str, float] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def of_epoch(cls, architecture: Architecture, epoch: int, class_names: tuple[str, ...] = ()) -> "Header":
        """A header with the preprocessing that the architecture's stem is trained for."""
        size = architecture.image_size
        return cls(architecture, epoch, 256 if architecture.large_images else size, size, class_names)

    def to_json(self) -> str:
        """The header as one line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str, path: Path) -> "Header":
        """What `to_json` gave; a ResnetError names `path` when it is something else."""
        try:
            fields = parse_json(text)
            architecture = Architecture(**fields.pop("architecture"))
            header = cls(architecture, class_names=tuple(fields.pop("class_names")), **fields)
            header._check()
            return header
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ResnetError(f"{path} has a header that cannot be read ({error}); update resnet-v2.") from None

    def _check(self) -> None:
        """Raise ValueError for what a file says that cannot be."""
        for name, least, most in (("epoch", 0, 10**9), ("resize", 0, LONGEST_SIDE), ("crop", 1, LONGEST_SIDE)):
            value = getattr(self, name)
            if type(value) is not int or not least <= value <= most:
                raise ValueError(f"{name} {value!r}")
        if not all(isinstance(name, str) for name in self.class_names):
            raise ValueError("class names that are no texts")
        if len(self.class_names) not in (0, self.architecture.classes):
            raise ValueError(f"{len(self.class_names)} names for {self.architecture.classes} classes")
        if not (isinstance(self.errors, dict) and isinstance(self.training, dict)):
            raise ValueError("errors and training are no objects")
        if not all(type(error) in (int, float) for error in self.errors.values()):
            raise ValueError("errors that are no numbers")
        check_training(self.training)

    @property
    def network(self) -> str:
        """What papers call the network: ResNet-50-v2."""
        return f"ResNet-{self.architecture.depth}-{self.architecture.version}"

    def name(self, class_index: int) -> str:
        """A class's name; its number where there are no names."""
        return self.class_names[class_index] if self.class_names else str(class_index)

    def stored_otherwise(self, side: int) -> str:
        """What to say of a record with images of `side` pixels, the shorter one, that is evaluated as it is stored.

        Nothing where pictures are seen at that size too, and where `side` is 0, unknown.
        """
        if side in (0, self.resize) or not self.resize:
            return ""
        return (
            f"has images of {side} pixels on the shorter side, and evaluation sees their middle {self.crop}; "
            f"prediction makes that side {self.resize} pixels first"
        )

    def named(self, synset: Path) -> "Header":
        """The same header with the class names of a file; a ResnetError when they are not as many as the classes."""
        names = read_synset(synset)
        if len(names) != self.architecture.classes:
            raise ResnetError(
                f"{synset} names {len(names)} classes, but the network has {self.architecture.classes}; give the "
                "synset.txt it was trained with."
            )
        return replace(self, class_names=names)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A safetensors file, for torch; also one whose name is no UTF-8, which torch does not open by its name."""
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:
        with path.open("rb") as whole, safetensors.safe_open(f"/dev/fd/{whole.fileno()}", framework="pt") as file:
            yield file
    else:
        with safetensors.safe_open(path, framework="pt") as file:
            yield file


def read_header(path: Path) -> Header:
    """The header of a safetensors file; a ResnetError says what is wrong with one that is not ours."""
    try:
        with path.open("rb"):  # safetensors itself tells of a missing file whenever it cannot open one
            pass
        with safetensors.safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
    except OSError as error:
        raise ResnetError(f"{path} cannot be read ({error.strerror}); check the path and its permissions.") from None
    except safetensors.SafetensorError as error:
        raise DamagedError(f"{path} is damaged or no safetensors file ({error}); take another epoch.") from None
    if METADATA_KEY not in metadata:
        raise ResnetError(
            f"{path} has no resnet-v2 header, so its network is unknown; it was not written by resnet-v2."
        )
    return Header.from_json(metadata[METADATA_KEY], path)
