"""The networks of Gluon's model zoo, `vision.resnet50_v2` and its like, under all names that Gluon saves them by.

`save_parameters` writes `features.5.0.conv1.weight`, `export` writes `arg:resnetv20_stage1_conv0_weight`, and older
versions wrote `stage1_conv0_weight`. Four things differ from ours, and none costs a digit: images come normalised,
which goes into `bn_data`; eps is 1e-5 where ours is 2e-5, which the moving variances make up for; v1 has biases before
some BatchNorms, which their moving means make up for; and a first stage of as many channels as the stem has no
projection (our stem `gluon`).
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from resnet_v2.config.fields import Version
from resnet_v2.errors import ResnetError
from resnet_v2.interchange.inputs import ZOO, Scaling, behind_stem, in_pixels, out_of_pixels, scaling_of
from resnet_v2.interchange.params import Arrays
from resnet_v2.interchange.symbol import GLUON_EPSILON, STATISTICS
from resnet_v2.networks.architecture import EPSILON, Architecture
from resnet_v2.networks.units import units

Floats = npt.NDArray[np.float64]
DEPTHS = (18, 34, 50, 101, 152)
_ANCHOR = re.compile(r"(.*?)(?:stage1_conv0_weight|5\.0\.bn1\.gamma|4\.0\.body\.0\.weight)", re.DOTALL)
_GLUONCV = re.compile(r"(?:.*_)?layers?1[._](?:0\.conv1|conv0)[._]weight", re.DOTALL)
_NORM = {"gamma": "gamma", "beta": "beta", "running_mean": "moving_mean", "running_var": "moving_var"}
# What is left of 1 in `bn_data` of v1 when it does no more than Gluon's scaling of images.
_ROUNDING = 1e-4


class Layer(NamedTuple):
    """A layer by its three names: `stage1_conv0`, `5.0.conv1` (behind `features.`), and ours `stage1_unit1_conv1`."""

    counted: str
    dotted: str
    ours: str
    biased: bool = False

    def names(self) -> Iterator[tuple[str, str, str]]:
        """Its parameters and statistics by the same three names."""
        plain = {"weight": "weight", "bias": "bias"} if self.biased else {"weight": "weight"}
        for theirs, ours in (_NORM if "batchnorm" in self.counted else plain).items():
            yield f"{self.counted}_{theirs}", f"{self.dotted}.{theirs}", f"{self.ours}_{ours}"


def architecture_of(depth: int, version: Version, classes: int) -> Architecture:
    """What `vision.resnet{depth}_{version}(classes=classes)` is here."""
    return Architecture(depth, classes, "imagenet" if version == "v2" and depth >= 50 else "gluon", version)


def layers(architecture: Architecture) -> Iterator[Layer]:
    """All layers but the last one, as Gluon counts them: for each stage, in the order in which they are made."""
    v2 = architecture.version == "v2"
    first = [("batchnorm0", "0", "bn_data"), ("conv0", "1", "conv0"), ("batchnorm1", "2", "bn0")]
    yield from (Layer(*names) for names in (first if v2 else [("conv0", "0", "conv0"), ("batchnorm0", "1", "bn0")]))
    counts: dict[str, int] = {}
    for unit, description in units(architecture).items():
        stage, number = (int(word) for word in re.findall(r"\d+", unit))
        block = f"{stage + (4 if v2 else 3)}.{number - 1}"
        made = [name for name in description.named if name.startswith(("conv", "bn", "sc"))]
        made.sort(key=lambda name: name in ("conv1sc", "sc"))  # the shortcut is made last
        for name in made:
            kind = "batchnorm" if description.named[name].kind == "norm" else "conv"
            count = counts[f"{stage}{kind}"] = counts.get(f"{stage}{kind}", -1) + 1
            own = _dotted_v2(name) if v2 else _dotted_v1(name)
            biased = not v2 and architecture.bottleneck and name in ("conv1", "conv3")
            yield Layer(f"stage{stage}_{kind}{count}", f"{block}.{own}", f"stage{stage}_unit{number}_{name}", biased)
    if v2:
        yield Layer("batchnorm2", "9", "bn1")


def _dotted_v2(name: str) -> str:
    return "downsample" if name == "sc" else name


def _dotted_v1(name: str) -> str:
    if name in ("conv1sc", "sc"):
        return f"downsample.{int(name == 'sc')}"
    # The body is a chain of convolution, BatchNorm and ReLU.
    return f"body.{3 * int(name[-1]) - 3 + name.startswith('bn')}"


def recognise(shapes: Mapping[str, tuple[int, ...]], source: str) -> tuple[Architecture, dict[str, str]] | None:
    """The architecture of Gluon's parameters and our name for each, from names and shapes; None when they are no such.

    ResnetError when they are Gluon's by their names, but none of the ten networks of its model zoo.
    """
    if any(_GLUONCV.fullmatch(name) for name in shapes):
        raise ResnetError(
            f"{source} is a ResNet v1b or a later kind of GluonCV, whose strides stand elsewhere; use it with MXNet, "
            "or take one of mxnet.gluon.model_zoo.vision."
        )
    kind = _kind(shapes)
    if kind is None:
        return None
    candidates = [architecture_of(depth, version, 1) for depth in DEPTHS for version in ("v1", "v2")]
    tables = [(candidate, _table(candidate, kind)) for candidate in candidates]
    nearest, table = min(tables, key=lambda pair: len(pair[1].keys() ^ shapes.keys()))
    names = {theirs: ours for theirs, ours in table.items() if theirs in shapes}
    rest = {name: shape for name, shape in shapes.items() if name not in names}
    called = f"Gluon's resnet{nearest.depth}_{nearest.version}"
    if missing := [theirs for theirs in table if theirs not in shapes]:
        raise ResnetError(
            f"{source} has Gluon's names but is none of its ResNets of 18 to 152 layers for large images: nearest is "
            f"{called}, and {missing[0][:80]!r} is missing; use it with MXNet."
        )
    heads = [name for name, shape in rest.items() if len(shape) == 2 and name.endswith("weight")]
    biases = [name for name, shape in rest.items() if len(shape) == 1 and name.endswith("bias")]
    if len(heads) != 1 or len(biases) != 1 or len(rest) != 2:
        listed = ", ".join(repr(name[:80]) for name in sorted(rest)[:5]) or "nothing"
        raise ResnetError(f"{source} is {called}, but for a last layer it has {listed}; use it with MXNet.")
    names |= {heads[0]: "fc1_weight", biases[0]: "fc1_bias"}
    return architecture_of(nearest.depth, nearest.version, max(1, shapes[heads[0]][0])), names


def variables(names: Iterable[str], architecture: Architecture) -> dict[str, str]:
    """Our names of a Gluon symbol's variables, but for the last layer's; none when it is no such."""
    kind = _kind(names)
    return _table(architecture, kind) if kind else {}


def _kind(names: Iterable[str]) -> tuple[str, bool] | None:
    """What stands before all names of a network, and whether they have dots; None when they are not Gluon's."""
    found = next((match for name in names if (match := _ANCHOR.fullmatch(name))), None)
    return (found[1], not found[0].endswith("stage1_conv0_weight")) if found else None


def _table(architecture: Architecture, kind: tuple[str, bool]) -> dict[str, str]:
    """Gluon's names -> ours, but for the last layer's."""
    prefix, dots = kind
    every = (names for layer in layers(architecture) for names in layer.names())
    return {prefix + (dotted if dots else counted): ours for counted, dotted, ours in every}


def split(arrays: Arrays, architecture: Architecture) -> tuple[Arrays, Arrays]:
    """Gluon's arrays by our names -> those that a network of ours has, and the biases by their convolutions' names.

    v1 gets a `bn_data` that leaves its normalised images as they are.
    """
    suffix = "_bias"
    biases = {name: array for name, array in arrays.items() if name.endswith(suffix) and name != "arg:fc1_bias"}
    plain = {name: array for name, array in arrays.items() if name not in biases}
    if architecture.version == "v1":
        plain["arg:bn_data_beta"] = plain["aux:bn_data_moving_mean"] = np.zeros(3, np.float32)
        plain["aux:bn_data_moving_var"] = np.full(3, 1 - GLUON_EPSILON, np.float32)
    return plain, {name[4 : -len(suffix)].replace("_", "."): array for name, array in biases.items()}


def adapt(state: dict[str, Tensor], biases: Arrays, version: Version, source: str) -> Scaling:
    """Make up, in place, for what Gluon has elsewhere in a state by our names; returns the scaling of its images.

    ResnetError for a bias that does not fit. Where nothing shows the scaling it is the zoo's.
    """
    for convolution, bias in biases.items():
        behind = f"{convolution.replace('conv', 'bn')}.running_mean"
        if bias.shape != state[behind].shape or bias.dtype.kind != "f":
            raise ResnetError(
                f"{source} has for {convolution} a bias of shape {bias.shape} and type {bias.dtype}, expected "
                f"{tuple(state[behind].shape)} of floats; take another checkpoint."
            )
        state[behind] = (state[behind].double() - torch.from_numpy(bias.astype(np.float64))).float()
    names = [f"bn_data.{statistic}" for statistic in ("running_mean", "running_var")]
    mean, variance = (state[name] for name in names)
    scaling = scaling_of(mean, variance, ZOO) if version == "v2" else behind_stem(state) or ZOO
    for name in state:
        if name.endswith(".running_var"):
            state[name] = (state[name].double() + (GLUON_EPSILON - EPSILON)).float()
    state.update(zip(names, in_pixels(scaling, mean, variance, GLUON_EPSILON), strict=True))
    return scaling


def renamed(architecture: Architecture) -> dict[str, str]:
    """Our name of each parameter -> the one that Gluon counts it by, without the network's own name before it."""
    names = {ours: theirs for theirs, ours in _table(architecture, ("", False)).items()}
    return {**names, "fc1_weight": "dense0_weight", "fc1_bias": "dense0_bias"}


def check_writable(architecture: Architecture) -> None:
    """ResnetError when Gluon's model zoo has no network like this one."""
    depth, version = architecture.depth, architecture.version
    if depth not in DEPTHS or architecture != architecture_of(depth, version, architecture.classes):
        raise ResnetError(
            f"Gluon's model zoo has no network like this {architecture.stem} ResNet-{depth} {version}: it has stem "
            "gluon, and of v2 with 50, 101 and 152 layers stem imagenet; export it to mxnet, for SymbolBlock.imports."
        )


def from_arrays(arrays: Arrays, architecture: Architecture) -> dict[str, npt.NDArray[np.float32]]:
    """A network's arrays by MXNet's names -> those by Gluon's, `arg:stage1_conv0_weight`, for the images of its zoo.

    ResnetError when there is no such network, or when no scaling of a v1's images comes to the same as its `bn_data`.
    """
    check_writable(architecture)
    values = {name: array.astype(np.float64) for name, array in arrays.items()}
    statistics = [f"aux:bn_data_{statistic}" for statistic in STATISTICS]
    mean, variance = out_of_pixels(ZOO, *(torch.from_numpy(values.pop(name)) for name in statistics))
    for name in values:
        if name.endswith("_moving_var"):
            values[name] += EPSILON - GLUON_EPSILON
    if architecture.version == "v1":
        _fold_images(values, mean.numpy(), variance.sqrt().numpy())
    else:
        values.update(zip(statistics, (mean.numpy(), variance.numpy() - GLUON_EPSILON), strict=True))
    for layer in layers(architecture):
        if layer.biased:
            values[f"arg:{layer.ours}_bias"] = np.zeros(len(values[f"arg:{layer.ours}_weight"]))
    names = renamed(architecture)
    return {f"{name[:4]}{names[name[4:]]}": array.astype(np.float32) for name, array in values.items()}


def _fold_images(values: dict[str, Floats], mean: Floats, deviation: Floats) -> None:
    """Let conv0 scale the images; what is to be added to them it cannot add, as zeros stand around them."""
    added = values.pop("arg:bn_data_beta") - mean / deviation
    del values["arg:bn_data_gamma"]
    if np.abs(added).max() > _ROUNDING:
        raise ResnetError(
            "Gluon's v1 does not normalise its images itself, and this network's own statistics of images are not "
            "those of Gluon's model zoo; export it to mxnet, for SymbolBlock.imports."
        )
    values["arg:conv0_weight"] /= deviation[:, None, None]
