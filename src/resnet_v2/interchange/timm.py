"""Weights of timm's pre-activation networks with BatchNorm (resnetv2_50 and its like) -> ours. Without timm.

The units are the same. Three things differ, and none costs a digit: the stem has no BatchNorm and ReLU (our stem
`timm`); images come normalised, which becomes the moving statistics of `bn_data`; and eps is 1e-5 where ours is 2e-5,
which the moving variances make up for.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import safetensors
import torch
from torch import Tensor

from resnet_v2.errors import ResnetError
from resnet_v2.networks.architecture import EPSILON, IMAGENET_UNITS, Architecture
from resnet_v2.networks.header import opened
from resnet_v2.networks.resnet import ResNet

TIMM_EPSILON = 1e-5
FLOATS = {"F64", "F32", "F16", "BF16"}
# timm's default for these: (image / 255 - mean) / deviation, the same for all three colours.
MEAN, DEVIATION = 0.5, 0.5
_UNIT = re.compile(r"stages\.(\d{1,2})\.blocks\.(\d{1,3})\.(.+)")
_PARTS = {"downsample.conv": "sc", "norm1": "bn1", "norm2": "bn2", "norm3": "bn3"}


def read_timm(path: Path) -> tuple[Architecture, dict[str, Tensor]]:
    """A timm safetensors file -> its architecture (stem `timm`) and the tensors of `ResNet(architecture)`.

    ResnetError when the file is missing, damaged, or of another kind of network.
    """
    try:
        with opened(path) as file:
            types = {file.get_slice(name).get_dtype() for name in file.keys()} - FLOATS  # noqa: SIM118 (no mapping)
            if types - {"I64"}:  # that of the counters, which are passed over
                raise ResnetError(f"{path} holds numbers of the type {min(types)}; give weights in float16 or more.")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise ResnetError(f"{path} is missing; check the path.") from None
    except safetensors.SafetensorError as error:
        raise ResnetError(f"{path} is damaged or no safetensors file ({error}); download it again.") from None
    if "bn_data.running_mean" in tensors:
        raise ResnetError(f"{path} is a checkpoint of resnet-v2, and not timm's; use it as it is.")
    named = {our_name(name): tensor.float() for name, tensor in tensors.items() if "num_batches_tracked" not in name}
    architecture = _recognise(named, path)
    return architecture, _adapted(named, architecture, path)


def our_name(name: str) -> str:
    """`stages.0.blocks.2.norm1.weight` -> `stage1.unit3.bn1.weight`; a name of no kind we know stays as it is."""
    if unit := _UNIT.fullmatch(name):
        layer, _, kind = unit[3].rpartition(".")
        return f"stage{int(unit[1]) + 1}.unit{int(unit[2]) + 1}.{_PARTS.get(layer, layer)}.{kind}"
    for theirs, ours in (("stem.conv.", "conv0."), ("norm.", "bn1."), ("head.fc.", "fc1.")):
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name


def _recognise(named: Mapping[str, Tensor], path: Path) -> Architecture:
    first = [re.fullmatch(r"stage(\d+)\.unit\d+\.conv1\.weight", name) for name in named]
    stages = [int(match[1]) for match in first if match]
    units = tuple(stages.count(stage) for stage in range(1, max(stages, default=0) + 1))
    depths = [depth for depth, table in IMAGENET_UNITS.items() if table == units and depth >= 50]
    last = named.get("fc1.weight")
    if not depths or last is None or last.ndim not in (2, 4) or "stage1.unit1.bn1.running_mean" not in named:
        raise ResnetError(
            f"{path} is none of timm's resnetv2 networks with BatchNorm and bottlenecks (resnetv2_50, resnetv2_101, "
            "resnetv2_152); take one of these."
        )
    return Architecture(depths[0], last.shape[0], "timm")


def _adapted(named: Mapping[str, Tensor], architecture: Architecture, path: Path) -> dict[str, Tensor]:
    tensors = dict(named)
    tensors["fc1.weight"] = tensors["fc1.weight"].flatten(1)  # theirs is a 1x1 convolution
    for name in tensors:
        if name.endswith(".running_var"):
            tensors[name] = tensors[name] + (TIMM_EPSILON - EPSILON)
    tensors["bn_data.bias"] = torch.zeros(3)
    tensors["bn_data.running_mean"] = torch.full((3,), 255 * MEAN)
    tensors["bn_data.running_var"] = torch.full((3,), (255 * DEVIATION) ** 2 - EPSILON)
    with torch.device("meta"):
        wanted = ResNet(architecture).state_dict()
    spare = set(tensors) - set(wanted)
    if spare:
        raise ResnetError(f"{path} holds {min(spare)}, which a plain resnetv2 does not have; take resnetv2_50 or _101.")
    return tensors
