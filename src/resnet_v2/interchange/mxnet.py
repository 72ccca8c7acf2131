"""MXNet's checkpoints, `prefix-symbol.json` and `prefix-0000.params`, without MXNet.

A `.params` file holds, little-endian: `u64 0x112`, `u64 0`, `u64 N`, N arrays, `u64 N`, N names (`u64 length`, bytes).
An array begins with its version: V2 (MXNet 0.12 to 1.9.1) and V3 (NumPy shapes) go on with `i32` storage type, V1 does
not; then `i32 ndim, i64 dims`; older files have `u32 ndim, u32 dims` and no version. Then device type, device number
and data type, each `i32`, and the values. Files come from strangers: every count is checked against the bytes that
are left before anything is made of it.
"""

import contextlib
import math
import os
import re
import struct
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from resnet_v2.config.fields import Stem
from resnet_v2.data.labels import Labels
from resnet_v2.errors import ResnetError
from resnet_v2.files import replacing, write_text
from resnet_v2.interchange.symbol import fixed_gammas, symbol_json, symbol_text
from resnet_v2.networks.architecture import Architecture
from resnet_v2.networks.finding import params_path
from resnet_v2.networks.resnet import ResNet

Arrays = Mapping[str, npt.NDArray[Any]]

_LIST_MAGIC = 0x112
_V1, _V2, _V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
_DTYPES = ("<f4", "<f8", "<f2", "u1", "<i4", "i1", "<i8", "?", "<i2", "<u2", "<u4", "<u8")
_BOOL, _BFLOAT16 = 7, 12
_CHUNK = 1 << 20
# ResNet-1001 has 5,600 arrays; the bound keeps a hostile file from making millions of empty ones.
_MOST_ARRAYS = 1 << 16
_MOST_DIMENSIONS = 32
_LARGEST_ARRAY = 1 << 40
_STATISTICS = {"running_mean": "aux:{}_moving_mean", "running_var": "aux:{}_moving_var"}
_BATCH_NORM = {"weight": "arg:{}_gamma", "bias": "arg:{}_beta", **_STATISTICS}
_LAYER = {"weight": "arg:{}_weight", "bias": "arg:{}_bias"}
_INPUT_GAMMA = "bn_data_gamma"


class _Source:
    """The bytes of a file that are left; nothing is read or allocated that they do not cover."""

    def __init__(self, file: BinaryIO, size: int, name: str) -> None:
        self.file, self.left, self.name = file, size, name

    def damaged(self, reason: str) -> ResnetError:
        return ResnetError(f"{self.name} is damaged or no MXNet .params file: {reason}; copy or download it again.")

    def claim(self, count: int, what: str) -> None:
        if count > self.left:
            raise self.damaged(f"{what} needs {count} bytes where {self.left} are left")
        self.left -= count

    def take(self, count: int, what: str) -> bytes:
        self.claim(count, what)
        taken = self.file.read(count)
        if len(taken) != count:
            raise self.damaged(f"it ended in {what} although it was longer when opened")
        return taken

    def numbers(self, layout: str, what: str) -> tuple[int, ...]:
        return struct.unpack(f"<{layout}", self.take(struct.calcsize(f"<{layout}"), what))

    def fill(self, values: npt.NDArray[Any], what: str) -> None:
        if values.nbytes:
            self.claim(values.nbytes, what)
            buffered = cast(Any, self.file).readinto(values.reshape(-1).view(np.uint8).data)
            if buffered != values.nbytes:
                raise self.damaged(f"it ended in {what} although it was longer when opened")


def read_params(path: Path) -> dict[str, npt.NDArray[Any]]:
    """All arrays of a `.params` file by name, `arg:conv0_weight` or `aux:bn0_moving_mean`, to the bit.

    Every version and every dense data type is read; bfloat16, which NumPy lacks, comes as the float32 of equal value.
    Arrays that MXNet saved as unset have no values and the shape (0,). ResnetError: the file is missing, damaged,
    holds sparse arrays, or arrays without names.
    """
    try:
        with path.open("rb") as file:
            return parse_params(file, os.fstat(file.fileno()).st_size, str(path))
    except FileNotFoundError:
        raise ResnetError(f"{path} is missing; check `prefix` and `epoch`.") from None
    except OSError as error:
        raise ResnetError(f"{path} cannot be read ({error.strerror}); check the path and its permissions.") from None


def parse_params(file: BinaryIO, size: int, name: str) -> dict[str, npt.NDArray[Any]]:
    """As `read_params`, from an open file of which `size` bytes are to be read; `name` stands in the errors."""
    source = _Source(file, size, name)
    magic, _, count = source.numbers("QQQ", "its header")
    if magic != _LIST_MAGIC:
        raise source.damaged("it does not begin with the mark of an MXNet file")
    if count > min(_MOST_ARRAYS, source.left // 4):
        raise source.damaged(f"it announces {count} arrays")
    arrays = [_read_array(source, f"array {number}") for number in range(count)]
    (names,) = source.numbers("Q", "the count of names")
    if names == 0 < count:
        raise ResnetError(f"{name} holds a list of arrays without names; save a dict with mx.nd.save instead.")
    if names != count:
        raise source.damaged(f"it announces {count} arrays and {names} names")
    named = {_read_name(source, f"name {number}"): array for number, array in enumerate(arrays)}
    if len(named) != count:
        raise source.damaged("two arrays have the same name")
    if source.left:
        raise source.damaged(f"{source.left} bytes follow its last name")
    return named


def _read_name(source: _Source, what: str) -> str:
    (length,) = source.numbers("Q", what)
    try:
        return source.take(length, what).decode("utf-8")
    except UnicodeDecodeError:
        raise source.damaged(f"{what} is no UTF-8 text") from None


def _read_array(source: _Source, what: str) -> npt.NDArray[Any]:
    (version,) = source.numbers("I", what)
    if version in (_V2, _V3):
        (storage,) = source.numbers("i", what)
        if storage in (1, 2):
            raise ResnetError(
                f"{source.name} holds a sparse array ({what}), which no residual network has; in MXNet call "
                "tostype('default') on it and save again."
            )
        if storage != 0:
            raise source.damaged(f"{what} has the unknown storage type {storage}")
    shape = _read_shape(source, version, what)
    if shape is None:
        return np.empty(0, np.float32)
    # The device that saved it says nothing about this machine.
    _, _, dtype = source.numbers("iii", what)
    return _read_values(source, shape, dtype, what)


def _read_shape(source: _Source, version: int, what: str) -> tuple[int, ...] | None:
    """The shape of an array; None when it was saved unset and nothing follows."""
    legacy = version not in (_V1, _V2, _V3)
    ndim = version if legacy else source.numbers("i", what)[0]
    if (ndim == 0 and version != _V3) or (ndim == -1 and version == _V3):
        return None
    if not 0 <= ndim <= _MOST_DIMENSIONS:
        raise source.damaged(f"{what} has {ndim} dimensions")
    shape = source.numbers(f"{ndim}{'I' if legacy else 'q'}", what)
    if version == _V3 and -1 in shape:
        return None
    # A dimension of 0 makes an array empty but must not hide an absurd one beside it.
    if any(size < 0 for size in shape) or math.prod(max(size, 1) for size in shape) > _LARGEST_ARRAY:
        raise source.damaged(f"{what} has the impossible shape {shape}")
    return shape


def _read_values(source: _Source, shape: tuple[int, ...], dtype: int, what: str) -> npt.NDArray[Any]:
    if not 0 <= dtype <= _BFLOAT16:
        raise source.damaged(f"{what} has the unknown data type {dtype}")
    count = math.prod(shape)
    width = 2 if dtype == _BFLOAT16 else np.dtype(_DTYPES[dtype]).itemsize
    if count * width > source.left:
        raise source.damaged(f"{what} of shape {shape} needs {count * width} bytes where {source.left} are left")
    if dtype == _BFLOAT16:
        return _read_bfloat16(source, count, what).reshape(shape)
    values = np.empty(shape, np.uint8 if dtype == _BOOL else _DTYPES[dtype])
    source.fill(values, what)
    return values != 0 if dtype == _BOOL else values


def _read_bfloat16(source: _Source, count: int, what: str) -> npt.NDArray[Any]:
    # In pieces, so that no second copy of a large array stands beside the first.
    values = np.empty(count, "<u4")
    for start in range(0, count, _CHUNK):
        part = values[start : start + _CHUNK]
        part[:] = np.frombuffer(source.take(2 * len(part), what), "<u2")
    values <<= 16
    return values.view("<f4")


def write_params(path: Path, arrays: Arrays) -> None:
    """Write arrays by name as MXNet 0.12 to 1.9.1 read them (V2); the file appears only when it is whole.

    ResnetError for what these versions cannot read: scalars, and data types other than float16/32/64, int8/32/64,
    uint8 and bool.
    """
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(struct.pack("<QQQ", _LIST_MAGIC, 0, len(arrays)))
        for name, array in arrays.items():
            file.write(_array_header(name, array))
            file.write(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes())
        file.write(struct.pack("<Q", len(arrays)))
        for name in arrays:
            encoded = name.encode("utf-8")
            file.write(struct.pack("<Q", len(encoded)) + encoded)


def _array_header(name: str, array: npt.NDArray[Any]) -> bytes:
    kinds = [np.dtype(text) for text in _DTYPES[: _BOOL + 1]]
    kind = array.dtype.newbyteorder("<")
    if kind not in kinds or array.ndim == 0:
        raise ResnetError(
            f"MXNet 1.9.1 cannot read {name} of shape {array.shape} and type {array.dtype}; convert it first."
        )
    shape = struct.pack(f"<i{array.ndim}q", array.ndim, *array.shape)
    return struct.pack("<Ii", _V2, 0) + shape + struct.pack("<iii", 1, 0, kinds.index(kind))


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
        fixed = fixed_gammas(symbol_text(symbol), architecture, str(symbol))
    elif (architecture.version, architecture.stem) == ("v1", "cifar"):
        # MXNet's own v1 for small images has no ReLU behind bn0, and the shapes do not show it.
        raise ResnetError(
            f"{path} is a v1 network for small images, of which there are two kinds; put {symbol} beside it."
        )
    else:
        fixed = frozenset({_INPUT_GAMMA})
    return architecture, to_state(arrays, architecture, fixed, str(path))


def save_checkpoint(prefix: str, epoch: int, network: ResNet, labels: Labels | None = None) -> None:
    """Write `prefix-symbol.json` and `prefix-0000.params`; MXNet's `load_checkpoint(prefix, epoch)` reads them.

    What the `labels` were decides the outputs (see `symbol_json`), None: one class.
    """
    write_text(Path(f"{prefix}-symbol.json"), symbol_json(network.architecture, labels))
    write_params(params_path(prefix, epoch), from_network(network))
