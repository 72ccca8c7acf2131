"""A checksum at the end of an ONNX file, by which one that was changed behind its back is known. Needs no package."""

import hashlib

INT8 = "int8 of "  # before the checkpoint's SHA-256 in the int8 form of a network
_KEY = b"sha256"
# One more entry of ModelProto's metadata_props (field 14): protobuf reads what is appended as if it had stood there.
_ENTRY = b"\x0a" + bytes([len(_KEY)]) + _KEY + b"\x12\x40"
_START = b"\x72" + bytes([len(_ENTRY) + 64]) + _ENTRY


def sealed(model: bytes) -> bytes:
    """An ONNX model with the checksum of all its bytes behind them."""
    return model + _START + hashlib.sha256(model).hexdigest().encode()


def is_sealed(data: bytes) -> bool:
    """Whether `sealed` gave these bytes."""
    return sealed(data[: -len(_START) - 64]) == data
