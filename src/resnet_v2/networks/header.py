"""What a weight file says of itself: the network, how to feed it, its classes, how it was trained. No torch."""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast, get_args

import safetensors

from resnet_v2.config.fields import LabelKind
from resnet_v2.console import counted
from resnet_v2.data.labels import Labels
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
    the trainer needs to go on: settings and position. `label_kind` and `tasks` are those of `Labels`: the logits are
    one choice, a yes or no for every class, or a choice for each task, one task behind the other. Logits are divided by
    `temperature` before they become probabilities; 1: the network is not calibrated.
    """

    architecture: Architecture
    epoch: int
    resize: int
    crop: int
    class_names: tuple[str, ...] = field(default=(), repr=False)
    errors: Mapping[str, float] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict, repr=False)
    label_kind: LabelKind = "class"
    tasks: tuple[int, ...] = ()
    temperature: float = 1.0

    @classmethod
    def of_epoch(
        cls,
        architecture: Architecture,
        epoch: int,
        class_names: tuple[str, ...] = (),
        labels: Labels | None = None,
        image_size: int = 0,
    ) -> "Header":
        """A header with the preprocessing of images of `image_size` pixels, 0: those that the architecture's stem is
        made for; `labels` None: one class.
        """
        size, labels = image_size or architecture.image_size, labels or Labels(architecture.classes)
        resize = round(size * 256 / 224) if architecture.large_images else size
        return cls(
            architecture, epoch, resize, size, class_names, label_kind=cast(LabelKind, labels.kind), tasks=labels.tasks
        )

    def to_json(self) -> str:
        """The header as one line of JSON; of one class for each image, not calibrated, as older programs know it."""
        fields = asdict(self)
        newer = (("label_kind", "class"), ("tasks", ()), ("temperature", 1.0))
        for name in (name for name, usual in newer if fields[name] == usual):
            del fields[name]
        return json.dumps(fields)

    @classmethod
    def from_json(cls, text: str, path: Path) -> "Header":
        """What `to_json` gave; a ResnetError names `path` when it is something else."""
        try:
            fields = parse_json(text)
            architecture = Architecture(**fields.pop("architecture"))
            names, tasks = tuple(fields.pop("class_names")), tuple(fields.pop("tasks", ()))
            header = cls(architecture, class_names=names, tasks=tasks, **fields)
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
            names = counted(len(self.class_names), "name")
            raise ValueError(f"{names} for {counted(self.architecture.classes, 'class')}")
        if not (isinstance(self.errors, dict) and isinstance(self.training, dict)):
            raise ValueError("errors and training are no objects")
        if not all(type(error) in (int, float) for error in self.errors.values()):
            raise ValueError("errors that are no numbers")
        if self.label_kind not in get_args(LabelKind) or (self.label_kind == "tasks") != bool(self.tasks):
            raise ValueError(f"labels {self.label_kind!r}")
        if not all(type(count) is int and count > 0 for count in self.tasks):
            raise ValueError("tasks that have no classes")
        if self.tasks and sum(self.tasks) != self.architecture.classes:
            raise ValueError(f"tasks of {counted(sum(self.tasks), 'class')} for {self.architecture.classes}")
        if type(self.temperature) not in (int, float) or not 0 < self.temperature < float("inf"):
            raise ValueError(f"temperature {self.temperature!r}")
        check_training(self.training)

    @property
    def labels(self) -> Labels:
        """What the network was trained to tell."""
        return Labels(self.architecture.classes, self.label_kind, self.tasks)

    @property
    def error(self) -> float | None:
        """What the best epoch has least of, in percent: the top-1 error, of multi labels what its precision lacks."""
        if "mean_average_precision" in self.errors:
            return 100 - self.errors["mean_average_precision"]
        return self.errors.get("top1_error")

    @property
    def network(self) -> str:
        """What papers call the network: ResNet-50-v2."""
        return f"ResNet-{self.architecture.depth}-{self.architecture.version}"

    def name(self, class_index: int) -> str:
        """A class's name; where there are no names its number, of tasks the task and the number within it."""
        if self.class_names:
            return self.class_names[class_index]
        for task, place in enumerate(self.labels.places):
            if class_index < place.stop:
                return f"task {task}: {class_index - place.start}"
        return str(class_index)

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
                f"{synset} names {counted(len(names), 'class')}, but the network has {self.architecture.classes}; "
                "give the "
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
