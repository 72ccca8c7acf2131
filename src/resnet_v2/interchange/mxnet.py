"""MXNet's checkpoints, `prefix-symbol.json` and `prefix-0000.params`, become our networks and come of them."""

import contextlib
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from resnet_v2.config.fields import Stem
from resnet_v2.console import say
from resnet_v2.data.labels import Labels
from resnet_v2.errors import ResnetError
from resnet_v2.files import write_text
from resnet_v2.interchange import gluon
from resnet_v2.interchange.graph import Graph, Proof, labels_of, last_layer, prove, read_graph
from resnet_v2.interchange.inputs import RAW, behind_stem, in_pixels, scaling_of
from resnet_v2.interchange.params import Arrays, read_params, write_params
from resnet_v2.interchange.symbol import gluon_json, symbol_json
from resnet_v2.networks.architecture import EPSILON, Architecture
from resnet_v2.networks.finding import params_path, split_path
from resnet_v2.networks.resnet import ResNet

_LARGEST_SYMBOL_BYTES = 1 << 25
_STATISTICS = {"running_mean": "aux:{}_moving_mean", "running_var": "aux:{}_moving_var"}
_BATCH_NORM = {"weight": "arg:{}_gamma", "bias": "arg:{}_beta", **_STATISTICS}
_LAYER = {"weight": "arg:{}_weight", "bias": "arg:{}_bias"}
_INPUT_GAMMA = "bn_data_gamma"
_MOVING = ("_moving_mean", "_moving_var", "running_mean", "running_var")


def recognise(arrays: Arrays, source: str = "The file") -> Architecture:
    """The architecture whose parameters these are, from their names and shapes alone; ResnetError says what they are.

    Only what tells the architectures apart is looked at; `to_state` checks every name and shape.
    """
    _refuse_faces(arrays, source)
    conv0, fc1 = arrays.get("arg:conv0_weight"), arrays.get("arg:fc1_weight")
    if conv0 is None or fc1 is None or conv0.ndim != 4 or fc1.ndim != 2:
        names = ", ".join(map(repr, sorted(arrays)[:5]))[:300] or "nothing"
        raise ResnetError(
            f"{source} is not one of our residual networks: it lacks conv0_weight or fc1_weight and has {names}; "
            "convert only checkpoints of ResNet v1 or v2."
        )
    normed, v1 = "arg:bn_data_beta" in arrays, _projects(arrays, "conv1sc")
    v2 = normed and (_projects(arrays, "sc") or not v1)
    large, norm = conv0.shape[2] == 7, "arg:bn0_beta" in arrays
    stem: Stem = ("imagenet" if norm else "timm") if large else "pooled" if norm and v2 else "cifar"
    if large and norm and ((normed and v1) or (v2 and "arg:stage1_unit1_sc_weight" not in arrays)):
        stem = "gluon"
    layers, units = 3 if "arg:stage1_unit1_conv3_weight" in arrays else 2, _units(arrays)
    more = 0
    if layers == 3 and _kernel(arrays, "stage1_unit1_conv1") == 3 and not _projects(arrays, "sc"):
        stem, layers, more = "dawn", 2, len(units)
    width, rest = divmod(conv0.shape[0], 64 if large else 16)
    with contextlib.suppress(ResnetError):  # there is no such depth, or a count is 0
        found = Architecture(layers * sum(units) + more + 2, fc1.shape[0], stem, "v2" if v2 else "v1", width)
        # 20 layers could be 1x1-3x3-1x1 too, but only one kind of each depth exists.
        if (found.units, found.bottleneck) == (units, layers == 3) and v1 != v2 and not rest:
            return found
    mixed = "" if v1 != v2 else " and mixes or lacks the names of v1 and v2"
    raise ResnetError(
        f"{source} is not one of our residual networks: it has {str(list(units))[:80]} units with {layers} "
        f"convolutions behind a {conv0.shape[2]}x{conv0.shape[3]} stem{mixed}; use it with MXNet 1.9.1."
    )


def _refuse_faces(arrays: Arrays, source: str) -> None:
    """InsightFace's bodies, r50 and r100 among them, have our units' names and other insides."""
    if "arg:conv0_weight" in arrays and ("arg:pre_fc1_weight" in arrays or "arg:relu0_gamma" in arrays):
        counts = list(_units(arrays))
        known = {24: " r50", 49: " r100"}.get(sum(counts), "")
        raise ResnetError(
            f"{source} is InsightFace's face network{known} ({str(counts)[:80]} units with PReLU, an embedding at the "
            "end), which names no classes; use it with InsightFace or MXNet."
        )


def _kernel(arrays: Arrays, name: str) -> int:
    """The height of a convolution's window, 0 where there is none."""
    array = arrays.get(f"arg:{name}_weight")
    return int(array.shape[2]) if array is not None and array.ndim == 4 else 0


def _projects(arrays: Arrays, name: str) -> bool:
    """Whether a stage begins with a projection of this name; the first one need not."""
    return any(f"arg:stage{stage}_unit1_{name}_weight" in arrays for stage in (1, 2))


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
    if architecture.norm_of_images:
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
    if network.architecture.norm_of_images:
        arrays[f"arg:{_INPUT_GAMMA}"] = np.ones(3, np.float32)
    return arrays


def load_checkpoint(prefix: str, epoch: int) -> tuple[Architecture, dict[str, Tensor]]:
    """`prefix-0000.params` -> its architecture and the state of its network, as `read_checkpoint` gives them."""
    return read_checkpoint(params_path(prefix, epoch))


def read_checkpoint(path: Path) -> tuple[Architecture, dict[str, Tensor]]:
    """A `.params` file -> its architecture and the state of its network, float32; Module's and Gluon's are read.

    `prefix-symbol.json`, where there is one, must describe the same network; it says which gammas are fixed, and how
    the last layer is called. A sentence tells of images that are not taken as pixels. ResnetError when either file is
    missing, damaged, or something else than our networks.
    """
    source, symbol = str(path), _symbol_path(path)
    arrays: Arrays = _prefixed(read_params(path), source)
    graph = _graph_beside(path)
    gluons = gluon.recognise({name[4:]: array.shape for name, array in arrays.items()}, source)
    names = gluons[1] if gluons else _last_layer(arrays, graph)
    arrays = _renamed(arrays, names, source)
    architecture = gluons[0] if gluons else recognise(arrays, source)
    proof = _proof(graph, architecture, gluons is not None) if graph else None
    if proof is not None:  # what else the file holds MXNet passes over too
        arrays = {name: array for name, array in arrays.items() if name[4:] in proof.used}
        if "fc1_bias" not in proof.used:
            arrays = {**arrays, "arg:fc1_bias": np.zeros(architecture.classes, np.float32)}
    elif (architecture.version, architecture.stem) == ("v1", "cifar"):
        # MXNet's own v1 for small images has no ReLU behind bn0, and the shapes do not show it.
        raise ResnetError(
            f"{path} is a v1 network for small images, of which there are two kinds; put {symbol} beside it."
        )
    fixed = proof.fixed_gammas if proof else frozenset({_INPUT_GAMMA})
    if gluons is None:
        state = to_state(arrays, architecture, fixed, source)
        _take_pixels(state, source)
        return architecture, state
    arrays, biases = gluon.split(arrays, architecture)
    state = to_state(arrays, architecture, fixed, source)
    scaling = gluon.adapt(state, biases, architecture.version, source)
    say(f"{source} is Gluon's and wants images {scaling.words}, by its first BatchNorm; bn_data scales them here.")
    return architecture, state


def stored_labels(path: Path, classes: int) -> Labels:
    """What the labels were that the network of a `.params` file with so many logits was trained on.

    Without a symbol beside it, or where that ends in a softmax, they are one class.
    """
    graph = _graph_beside(path)
    return labels_of(graph, classes) if graph is not None else Labels(classes)


def _symbol_path(path: Path) -> Path:
    return Path(f"{split_path(path)[0]}-symbol.json")


def _graph_beside(path: Path) -> Graph | None:
    symbol = _symbol_path(path)
    return read_graph(_symbol_text(symbol), str(symbol)) if symbol.is_file() else None


def _proof(graph: Graph, architecture: Architecture, is_gluon: bool) -> Proof:
    named = (node.name for node in graph.nodes if node.op == "null")
    names = gluon.variables(named, architecture) if is_gluon else {}
    return prove(graph, architecture, {**names, **last_layer(graph)}, is_gluon)


def _prefixed(arrays: Arrays, source: str) -> dict[str, npt.NDArray[Any]]:
    """Arrays whose names all begin with `arg:` or `aux:`; some scripts save them without. Inputs are left out."""
    found = {}
    for name, array in arrays.items():
        full = name if name.startswith(("arg:", "aux:")) else f"{'aux' if name.endswith(_MOVING) else 'arg'}:{name}"
        if full in found:
            raise ResnetError(f"{source} holds {full[4:][:80]!r} with and without 'arg:' or 'aux:'; save it once.")
        if full != "arg:data" and not full.endswith(("_label", ":label")):
            found[full] = array
    return found


def _last_layer(arrays: Arrays, graph: Graph | None) -> dict[str, str]:
    """What the last layer's parameters are called -> `fc1_weight` and `fc1_bias`; fine-tune.py calls it `fc`."""
    if "arg:pre_fc1_weight" in arrays or "arg:relu0_gamma" in arrays:
        return {}
    if graph is not None:
        return last_layer(graph)
    flat = [name[4:] for name, array in arrays.items() if array.ndim == 2 and name.endswith("_weight")]
    start = flat[0].removesuffix("_weight") if len(flat) == 1 else "fc1"
    return {f"{start}_{kind}": f"fc1_{kind}" for kind in ("weight", "bias")}


def _renamed(arrays: Arrays, names: Mapping[str, str], source: str) -> dict[str, npt.NDArray[Any]]:
    """Arrays by our names where they have others."""
    found = {f"{name[:4]}{names.get(name[4:], name[4:])}": array for name, array in arrays.items()}
    if len(found) != len(arrays):
        raise ResnetError(f"{source} holds several last layers; put its -symbol.json beside it, or save one of them.")
    return found


def _take_pixels(state: dict[str, Tensor], source: str) -> None:
    """Let `bn_data` of a network that was trained on scaled images take pixels; of a v1, which has none, say it."""
    names = ["bn_data.running_mean", "bn_data.running_var"]
    if names[0] not in state:
        if (shown := behind_stem(state) or RAW) != RAW:
            trained = f"{source} was trained on images {shown.words}, by its bn0"
            say(f"{trained}; here v1 takes pixels, so its answers may be wrong.")
        return
    mean, variance = (state[name] for name in names)
    untouched = not mean.any() and bool((variance == 1).all())  # no image has gone through it yet
    scaling = RAW if untouched else scaling_of(mean, variance, RAW)
    if scaling != RAW:
        state.update(zip(names, in_pixels(scaling, mean, variance, EPSILON), strict=True))
        say(f"{source} was trained on images {scaling.words}, by its bn_data, which scales them here.")


def _symbol_text(path: Path) -> str:
    try:
        if path.stat().st_size > _LARGEST_SYMBOL_BYTES:
            raise ResnetError(f"{path} is too large for a symbol; copy it again, or remove it to go by the shapes.")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise ResnetError(f"{path} cannot be read as text; copy it again, or remove it to go by the shapes.") from None


def save_checkpoint(
    prefix: str, epoch: int, network: ResNet, labels: Labels | None = None, overwrite: bool = True
) -> None:
    """Write `prefix-symbol.json` and `prefix-0000.params`; MXNet's `load_checkpoint(prefix, epoch)` reads them.

    What the `labels` were decides the outputs (see `symbol_json`), None: one class. Unless `overwrite`, a ResnetError
    refuses to write over another symbol.
    """
    _write_symbol(prefix, symbol_json(network.architecture, labels), overwrite)
    write_params(params_path(prefix, epoch), from_network(network))


def save_gluon(prefix: str, epoch: int, network: ResNet, overwrite: bool = True) -> None:
    """Write both files as Gluon's model zoo would; its `load_parameters` and `SymbolBlock.imports` read them.

    ResnetError when it has no network like this one, and, unless `overwrite`, where another symbol is there.
    """
    arrays = gluon.from_arrays(from_network(network), network.architecture)
    names = gluon.renamed(network.architecture)
    _write_symbol(prefix, gluon_json(network.architecture, names), overwrite)
    write_params(params_path(prefix, epoch), arrays)


def _write_symbol(prefix: str, text: str, overwrite: bool) -> None:
    path = Path(f"{prefix}-symbol.json")
    if not overwrite and path.is_file() and path.read_bytes() != text.encode():
        raise ResnetError(f"{path} is there already and says otherwise; give `out`, the same name to write it anew.")
    write_text(path, text)
