"""MXNet's `.params` files of every version, without MXNet and without torch.

A file holds, little-endian: `u64 0x112`, `u64 0`, `u64 N`, N arrays, `u64 N`, N names (`u64 length`, bytes).
An array begins with its version: V2 (MXNet 0.12 to 1.9.1) and V3 (NumPy shapes) go on with `i32` storage type, V1 does
not; then `i32 ndim, i64 dims`; older files have `u32 ndim, u32 dims` and no version. Then device type, device number
and data type, each `i32`, and the values. Files come from strangers: every count is checked against the bytes that
are left before anything is made of it.
"""

import math
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt

from resnet_v2.console import agreeing, counted
from resnet_v2.errors import ResnetError
from resnet_v2.files import replacing

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


class _Source:
    """The bytes of a file that are left; nothing is read or allocated that they do not cover."""

    def __init__(self, file: BinaryIO, size: int, name: str) -> None:
        self.file, self.left, self.name = file, size, name

    def damaged(self, reason: str) -> ResnetError:
        return ResnetError(f"{self.name} is damaged or no MXNet .params file: {reason}; copy or download it again.")

    def rest(self) -> str:
        return f"{self.left} {agreeing(self.left, 'is', 'are')} left"

    def claim(self, count: int, what: str) -> None:
        if count > self.left:
            raise self.damaged(f"{what} needs {counted(count, 'byte')} where {self.rest()}")
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
        raise source.damaged(f"it announces {counted(count, 'array')}")
    arrays = [_read_array(source, f"array {number}") for number in range(count)]
    (names,) = source.numbers("Q", "the count of names")
    if names == 0 < count:
        raise ResnetError(f"{name} holds a list of arrays without names; save a dict with mx.nd.save instead.")
    if names != count:
        raise source.damaged(f"it announces {counted(count, 'array')} and {counted(names, 'name')}")
    named = {_read_name(source, f"name {number}"): array for number, array in enumerate(arrays)}
    if len(named) != count:
        raise source.damaged("two arrays have the same name")
    if source.left:
        follow = agreeing(source.left, "follows", "follow")
        raise source.damaged(f"{counted(source.left, 'byte')} {follow} its last name")
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
        raise source.damaged(f"{what} of shape {shape} needs {counted(count * width, 'byte')} where {source.rest()}")
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
