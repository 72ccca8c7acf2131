"""What settings are made of: frozen dataclasses whose fields know their range, and refuse what is outside.

A field's range is the one place from which its check, its help and its documentation come.
"""

import dataclasses
import difflib
import inspect
import math
import numbers
import os
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, dataclass_transform

from tyro.conf import arg
from tyro.constructors import PrimitiveConstructorSpec

from resnet_v2.errors import SettingError
from resnet_v2.storage import Address, as_path

Number = TypeVar("Number", int, float)
Kind = TypeVar("Kind")
# As many of anything as a run may have; whoever asks for more has mistyped it.
MOST = 10**9
KINDS: Mapping[Any, Any] = {int: numbers.Integral, float: numbers.Real}  # numpy's numbers too
NAMES: Mapping[Any, str] = {int: "a whole number", float: "a number", bool: "on or off", Path: "a path", str: "a text"}


@dataclass(frozen=True)
class Range:
    """The numbers from `least` to `most`, the latter left out where it is `open`."""

    least: float = 0
    most: float = MOST
    open: bool = False

    def __contains__(self, value: float) -> bool:
        """Whether a number, which may be none, is within."""
        return self.least <= value <= self.most and not (self.open and value == self.most)

    def __str__(self) -> str:
        """The range in words."""
        if self.most == MOST:
            return f"{self.least} or more"
        return f"{self.least} or more and below {self.most}" if self.open else f"{self.least} to {self.most}"


@dataclass(frozen=True)
class Endings:
    """The endings that a path may have, which choose the format of a picture."""

    allowed: tuple[str, ...]


@dataclass(frozen=True)
class Anywhere:
    """A path that may be an address of object storage too, such as s3://bucket/a.rec."""


Place = Annotated[Path, Anywhere()]
Picture = Annotated[Path | None, Endings((".png", ".svg", ".pdf"))]
Count = Annotated[int, Range(1)]
CountOrNone = Annotated[int, Range(0)]
Share = Annotated[float, Range(0, 1)]
ShareBelowOne = Annotated[float, Range(0, 1, open=True)]
Amount = Annotated[float, Range(0)]
Threads = Annotated[int, Range(0, 1024)]
Workers = Annotated[int | Literal["auto"], Range(0, 512)]
OnError = Literal["stop", "skip"]  # what a record that cannot be read does
Seed = Annotated[int, Range(0, 2**63 - 1)]
Side = Annotated[int, Range(0, 65535)]  # of an image in pixels, as far as JPEG goes
Version = Literal["v2", "v1"]  # of the units
# timm: that of timm's resnetv2_50 and their like, imagenet without a BatchNorm and ReLU behind the first convolution.
# pooled: cifar with ImageNet's BatchNorm, ReLU and max pooling behind it: the stages see a quarter of the pixels.
# gluon: that of Gluon's model zoo, imagenet where v1 too begins with bn_data, and where a first stage of as many
# channels as the stem has no projection.
# dawn: cifar with stages that begin with a convolution and max pooling, as in the ResNet-9 that David Page entered in
# DAWNBench: no convolution skips pixels.
Stem = Literal["imagenet", "cifar", "pooled", "dawn", "timm", "gluon"]
LabelKind = Literal["class", "multi", "soft", "tasks"]  # of a record, see `data.labels`


@dataclass(frozen=True)
class Usual:
    """In the help, what the default of a setting is that depends on others."""

    words: str


@dataclass_transform(frozen_default=True)
def settings(kind: type[Kind]) -> type[Kind]:
    """Make a class a frozen dataclass of settings.

    Its objects refuse a value that is not of the field's type or outside its range with a SettingError, and a text that
    one of their properties cannot parse. A range is shown in the help beside the default.
    """
    check_more = getattr(kind, "__post_init__", None)
    parsed = [name for name, _ in inspect.getmembers(kind, lambda member: isinstance(member, property))]

    def check(self: Any) -> None:
        for name, hint in hints(type(self)).items():
            checked(name, hint, getattr(self, name))
        for name in parsed:
            getattr(self, name)
        if check_more is not None:
            check_more(self)

    for name, hint in hints(kind).items():
        if found := _shown(hint):
            hint = kind.__annotations__[name] = Annotated[hint, arg(help_behavior_hint=found)]
        if Path in (_plain(hint), *typing.get_args(_plain(hint))):
            kind.__annotations__[name] = Annotated[hint, _path_of(name, hint)]
    kind.__post_init__ = check  # type: ignore[attr-defined]
    return dataclass(frozen=True)(kind)


def refuse_folder(name: str, path: Path | str) -> None:
    """Raise SettingError for a path that is no file's and no start of one, such as `data/` or `..`."""
    if str(path).endswith(("/", os.sep)) or Path(path).name in ("", ".."):
        raise SettingError(f"`{name}` {path} is a folder; add a name, or the start of one.")


def _path_of(name: str, hint: Any) -> PrimitiveConstructorSpec[Path | None]:
    """How tyro reads a path: '' is a mistake, such as a variable of the shell that is not set, and no folder."""
    shown = _called(name, hint)

    def read(words: list[str]) -> Path:
        if not words[0]:
            raise SettingError(f"{shown} is empty; give a path.")
        return as_path(words[0])

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH",
        instance_from_str=read,
        is_instance=lambda value: value is None or isinstance(value, Path),
        str_from_instance=lambda value: [str(value)],
    )


def hints(kind: type) -> dict[str, Any]:
    """The types of a class's fields, with what is known of them."""
    return typing.get_type_hints(kind, include_extras=True)


def _called(name: str, hint: Any) -> str:
    """What the help calls a setting: a word such as OUT.rec for one without a flag, else its name in backquotes."""
    words = (getattr(mark, "metavar", None) for mark in _marks(hint))
    return next((word for word in words if word and not word.startswith("{")), f"`{name}`")


def _marks(hint: Any) -> tuple[Any, ...]:
    return getattr(hint, "__metadata__", ())


def _plain(hint: Any) -> Any:
    return typing.get_args(hint)[0] if _marks(hint) else hint


def _mark(hint: Any, kind: type[Kind]) -> Kind | None:
    return next((mark for mark in _marks(hint) if isinstance(mark, kind)), None)


def _shown(hint: Any) -> Callable[[str], str] | None:
    usual, limits = _mark(hint, Usual), _mark(hint, Range)
    if usual is None and limits is None:
        return None
    start = "" if limits is None else f"{limits}; "
    return lambda default: f"({start}default: {default if usual is None else usual.words})"


def checked(name: str, hint: Any, value: Any) -> Any:
    """A value that a field or an argument of this type may have; SettingError where it is none."""
    limits, plain = _mark(hint, Range), _plain(hint)
    if isinstance(value, Address) and _mark(hint, Anywhere) is None:
        raise SettingError(f"{_called(name, hint)} {value} is an address; give a path of this machine.")
    union = typing.get_origin(plain) in (typing.Union, UnionType)
    choices = typing.get_args(plain) if union else (plain,)
    if not any(_fits(choice, value) for choice in choices):
        raise SettingError(f"`{name}` {value!r} is not {' or '.join(map(_words, choices))}.")
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if limits is not None and is_number and (math.isnan(value) or value not in limits):
        words = f"at most {limits.most}" if value > limits.most == MOST else limits
        raise SettingError(f"`{name}` must be {words}, not {value}.")
    endings = _mark(hint, Endings)
    if endings is not None and isinstance(value, Path) and value.suffix.lower() not in endings.allowed:
        *others, last = endings.allowed
        raise SettingError(f"`{name}` {value} has no ending of a picture; name it {', '.join(others)} or {last}.")
    return value


def _fits(choice: Any, value: Any) -> bool:
    if choice is NoneType:
        return value is None
    if typing.get_origin(choice) is Literal:
        return value in typing.get_args(choice) and not isinstance(value, bool)
    if not isinstance(choice, type):
        return True  # a tuple of texts
    return isinstance(value, KINDS.get(choice, choice)) and (choice is bool or not isinstance(value, bool))


def _words(choice: Any) -> str:
    if typing.get_origin(choice) is Literal:
        return ", ".join(map(str, typing.get_args(choice)))
    return NAMES.get(choice, getattr(choice, "__name__", str(choice)))


def parse_numbers(text: str, kind: type[Number], name: str, limits: Range) -> tuple[Number, ...]:
    """`"30,60,90"` -> `(30, 60, 90)`; the empty text is the empty tuple. Raises SettingError."""
    try:
        found = tuple(kind(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise SettingError(f"`{name}` {text!r} is not a list of numbers; write it like 30,60,90.") from None
    if any(math.isnan(number) or number not in limits for number in found):
        raise SettingError(f"`{name}` {text!r} has a number that is not from {limits.least} to {limits.most}.")
    return found


def parse_steps(text: str, name: str, first: int, allowed: Range, example: str) -> tuple[tuple[int, int], ...]:
    """`"0:2,95:1"` -> `((0, 2), (95, 1))`, pairs of an epoch and the value from there on; `first` is that of epoch 0
    where the text says nothing else. Raises SettingError.
    """
    pairs = {0: first}
    for part in filter(None, text.split(",")):
        epoch, _, value = (word.strip() for word in part.partition(":"))
        if not (epoch.isdecimal() and value.isdecimal() and int(value) in allowed):
            raise SettingError(
                f"`{name}` {text!r} is not pairs of an epoch and a value, {allowed}; write it like {example}."
            )
        pairs[int(epoch)] = int(value)
    return tuple(sorted(pairs.items()))


def parse_labels(text: str) -> tuple[LabelKind, tuple[int, ...]]:
    """`"multi"` -> `("multi", ())`, `"tasks:10,5"` -> `("tasks", (10, 5))`. Raises SettingError."""
    kind, _, counts = text.partition(":")
    if kind == "tasks":
        tasks = parse_numbers(counts, int, "labels", Range(1, 10**6))
        if tasks:
            return "tasks", tasks
    elif text in typing.get_args(LabelKind):
        return typing.cast(LabelKind, text), ()
    raise SettingError(
        f"`labels` {text!r} is not class, multi, soft or tasks; write tasks with their numbers of classes: tasks:10,5."
    )


def parse_gpus(text: str) -> tuple[int, ...]:
    """`"0,1"` -> `(0, 1)`; the empty text, which means the CPU, is the empty tuple. Raises SettingError."""
    wanted = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() for part in wanted):
        raise SettingError(f"`gpus` {text!r} is no list of GPU numbers; write it like 0 or '' for the CPU.")
    return tuple(map(int, wanted))


class OnGpus:
    """What settings share that have a list of GPUs."""

    gpus: str

    @property
    def gpu_numbers(self) -> tuple[int, ...]:
        """The numbers of the GPUs, none: the CPU."""
        return parse_gpus(self.gpus)


def flat(nested: Any) -> Iterator[tuple[str, Any]]:
    """Name and value of every setting in groups of settings; no name stands in two groups."""
    for field in dataclasses.fields(nested):
        value = getattr(nested, field.name)
        if dataclasses.is_dataclass(value):
            yield from flat(value)
        else:
            yield field.name, value


def nested(kind: type[Kind], values: Mapping[str, Any]) -> Kind:
    """Groups of settings from values by name; a path may be a text. What has no value has its default.

    Raises SettingError for a name that no setting has.
    """
    left = dict(values)
    made: Kind = _nested(kind, left)
    if left:
        name = next(iter(left))
        near = difflib.get_close_matches(name, _names(kind), n=1)
        instead = f"did you mean `{near[0]}`?" if near else "`resnet-v2 train --help` lists them."
        raise SettingError(f"There is no setting `{name}`; {instead}")
    return made


def _names(kind: Any) -> Iterator[str]:
    """The names of the settings in groups of settings."""
    for name, hint in hints(kind).items():
        if dataclasses.is_dataclass(hint):
            yield from _names(hint)
        else:
            yield name


def _own(kind: Any, value: Any) -> Any:
    """The value in Python's own type: a path may be a text, a number one of numpy's."""
    if kind is Path and isinstance(value, str):
        return as_path(value)
    if kind in KINDS and isinstance(value, KINDS[kind]) and not isinstance(value, bool):
        return kind(value)
    return value


def _nested(kind: Any, left: dict[str, Any]) -> Any:
    found = {}
    for name, hint in hints(kind).items():
        if dataclasses.is_dataclass(hint):
            found[name] = _nested(hint, left)
        elif name in left:
            found[name] = _own(_plain(hint), left.pop(name))
    return kind(**found)
