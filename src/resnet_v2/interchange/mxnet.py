"""MXNet's checkpoints, `prefix-symbol.json` and `prefix-0000.params`, become our networks and come of them."""

import contextlib
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from resnet_v2.config.fields import Stem
from resnet_v2.errors import ResnetError
from resnet_v2.files import write_text
from resnet_v2.interchange.params import Arrays, read_params, write_params
from resnet_v2.interchange.symbol import fixed_gammas, symbol_json
from resnet_v2.networks.architecture import Architecture
from resnet_v2.networks.finding import params_path
from resnet_v2.networks.resnet import ResNet

_LARGEST_SYMBOL_BYTES = 1 << 25
_STATISTICS = {"running_mean": "aux:{}_moving_mean", "running_var": "aux:{}_moving_var"}
_BATCH_NORM = {"weight": "arg:{}_gamma", "bias": "arg:{}_beta", **_STATISTICS}
_LAYER = {"weight": "arg:{}_weight", "bias": "arg:{}_bias"}
_INPUT_GAMMA = "bn_data_gamma"


def recognise(arrays: Arrays, source: str = "The file") -> Architecture:
    """The architecture whose parameters these are, from their names and shapes alone; ResnetError says what they are.

    Only what tells the architectures apart is looked at; `to_state` checks every name and shape.
    """
    conv0, fc1 = arrays.get("arg:conv0_weight"), arrays.get("arg:fc1_weight")
    if conv0 is None or fc1 is None or conv0.ndim != 4 or fc1.ndim != 2:
        names = ", ".join(map(repr, sorted(arrays)[:5]))[:300] or "nothing"
        raise ResnetError(
            f"{source} is not one of our residual networks: it lacks conv0_weight or fc1_weight and has {names}; "
            "convert only checkpoints of ResNet v1 or v2."
        )
    v2, v1 = "arg:bn_data_beta" in arrays, "arg:stage1_unit1_conv1sc_weight" in arrays
    large, norm = conv0.shape[2] == 7, "arg:bn0_beta" in arrays
    stem: Stem = ("imagenet" if norm else "timm") if large else "pooled" if norm and v2 else "cifar"
    layers, units = 3 if "arg:stage1_unit1_conv3_weight" in arrays else 2, _units(arrays)
    width, rest = divmod(conv0.shape[0], 64 if large else 16)
    with contextlib.suppress(ResnetError):  # there is no such depth, or a count is 0
        found = Architecture(layers * sum(units) + 2, fc1.shape[0], stem, "v2" if v2 else "v1", width)
        # 20 layers could be 1x1-3x3-1x1 too, but only one kind of each depth exists.
        if (found.units, found.bottleneck) == (units, layers == 3) and v1 != v2 and not rest:
            return found
    mixed = "" if v1 != v2 else " and mixes or lacks the names of v1 and v2"
    raise ResnetError(
        f"{source} is not one of our residual networks: it has {str(list(units))[:80]} units with {layers} "
        f"convolutions behind a {conv0.shape[2]}x{conv0.shape[3]} stem{mixed}; use it with MXNet 1.9.1."
    )


def _units(arrays: Arrays) -> tuple[int, ...]:
    """Units of each stage, counted by their first convolutions."""
    matches = (re.fullmatch(r"arg:stage(\d{1,4})_unit\d{1,6}_conv1_weight", name, re.ASCII) for name in arrays)
    stages = [int(match[1]) for match in matches if match]
    return tuple(stages.count(stage) for stage in sorted(set(stages)))


def parameter_names(network: nn.Module) -> dict[str, str]:
    """MXNet's name -> ours, for everything a network learns or counts: `aux:bn0_moving_var` -> `bn0.running_var`."""
    names = {}
    for module_name, module in network.named_modules():
        kinds = _BATCH_NORM if isinstance(module, nn.BatchNorm2d) else _LAYER
        tensors = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        for name in (name for name, _ in tensors if name in kinds):
            names[kinds[name].format(module_name.replace(".", "_"))] = f"{module_name}.{name}"
    return names


def to_state(
    arrays: Arrays, architecture: Architecture, fixed: Collection[str] = (_INPUT_GAMMA,), source: str = "The file"
) -> dict[str, Tensor]:
    """MXNet's arrays -> the state of `ResNet(architecture)`, float32 tensors by our names.

    `fixed` names the gammas that count as 1 whatever is stored. float32 arrays share their memory with the tensors.
    ResnetError: an array is missing, too many, misshapen or of integers.
    """
    with torch.device("meta"):
        network = ResNet(architecture)
    names = parameter_names(network)
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    spare = set(arrays) - set(names)
    if architecture.version != "v1":
        spare.discard(f"arg:{_INPUT_GAMMA}")
        _check_input_gamma(arrays, fixed, source)
    wanted = f"a ResNet-{architecture.depth} {architecture.version} ({architecture.stem})"
    if spare:
        raise ResnetError(f"{source} holds {min(spare)[:80]!r}, which {wanted} does not have; use it with MXNet 1.9.1.")
    state = {}
    for theirs, ours in names.items():
        array = arrays.get(theirs)
        if array is None or array.shape != shapes[ours] or array.dtype.kind != "f":
            found = "is missing" if array is None else f"has shape {array.shape} and type {array.dtype}"
            wants = f"expected {shapes[ours]} of floats"
            raise ResnetError(f"{source} does not fit {wanted}: {theirs} {found}, {wants}; take another checkpoint.")
        is_fixed = theirs.removeprefix("arg:") in fixed
        state[ours] = torch.ones(array.shape) if is_fixed else _float32(array)
    return state


def _check_input_gamma(arrays: Arrays, fixed: Collection[str], source: str) -> None:
    gamma = arrays.get(f"arg:{_INPUT_GAMMA}")
    if _INPUT_GAMMA not in fixed and gamma is not None and (gamma != 1).any():
        raise ResnetError(
            f"{source} learned the gamma of bn_data, which is fixed at 1 in ResNet v2; use it with MXNet 1.9.1."
        )


def _float32(array: npt.NDArray[Any]) -> Tensor:
    with np.errstate(over="ignore"):
        return torch.from_numpy(np.require(array, np.float32, ["C", "W"]))


def from_network(network: ResNet) -> dict[str, npt.NDArray[np.float32]]:
    """The parameters and moving statistics of a network under MXNet's names, float32; `bn_data_gamma` as ones."""
    names, state = parameter_names(network), network.state_dict()
    arrays = {theirs: state[ours].detach().cpu().float().contiguous().numpy() for theirs, ours in names.items()}
    if network.architecture.version != "v1":
        arrays[f"arg:{_INPUT_GAMMA}"] = np.ones(3, np.float32)
    return arrays


def load_checkpoint(prefix: str, epoch: int) -> tuple[Architecture, dict[str, Tensor]]:
    """`prefix-0000.params` -> its architecture and the state of its network, float32.

    `prefix-symbol.json`, where there is one, must describe the same network; it says which gammas are fixed.
    ResnetError when either file is missing, damaged, or something else than our networks.
    """
    path, symbol = params_path(prefix, epoch), Path(f"{prefix}-symbol.json")
    arrays = read_params(path)
    architecture = recognise(arrays, str(path))
    if symbol.is_file():
        fixed = fixed_gammas(_symbol_text(symbol), architecture, str(symbol))
    elif (architecture.version, architecture.stem) == ("v1", "cifar"):
        # MXNet's own v1 for small images has no ReLU behind bn0, and the shapes do not show it.
        raise ResnetError(
            f"{path} is a v1 network for small images, of which there are two kinds; put {symbol} beside it."
        )
    else:
        fixed = frozenset({_INPUT_GAMMA})
    return architecture, to_state(arrays, architecture, fixed, str(path))


def _symbol_text(path: Path) -> str:
    try:
        if path.stat().st_size > _LARGEST_SYMBOL_BYTES:
            raise ResnetError(f"{path} is too large for a symbol; copy it again, or remove it to go by the shapes.")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise ResnetError(f"{path} cannot be read as text; copy it again, or remove it to go by the shapes.") from None


def save_checkpoint(prefix: str, epoch: int, network: ResNet) -> None:
    """Write `prefix-symbol.json` and `prefix-0000.params`; MXNet's `load_checkpoint(prefix, epoch)` reads them."""
    write_text(Path(f"{prefix}-symbol.json"), symbol_json(network.architecture))
    write_params(params_path(prefix, epoch), from_network(network))
