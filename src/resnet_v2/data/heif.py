"""HEIC, as telephones keep photos: read by pillow-heif, where it is installed (extra `photos`)."""

import functools
import importlib
import importlib.util
import io
from typing import Any

from resnet_v2.errors import install

ENDINGS = (".heic", ".heif")
BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
MISSING = f"HEIC is read by pillow-heif; install it with {install('photos')}"


def is_heif(data: bytes) -> bool:
    """Whether the first bytes of a file say that it is HEIC; some AVIF say so too."""
    return data[4:8] == b"ftyp" and data[8:12] in BRANDS


@functools.cache
def available() -> bool:
    """Whether HEIC can be read here."""
    return importlib.util.find_spec("pillow_heif") is not None


def open_heif(data: bytes) -> Any:
    """A PIL image of the first picture of a file, not decoded yet; ValueError says why there is none."""
    try:
        reader = importlib.import_module("pillow_heif")
    except ImportError:
        raise ValueError(MISSING) from None
    try:
        return reader.HeifImageFile(io.BytesIO(data))
    except Exception as error:  # whatever pillow-heif raises for a damaged file
        raise ValueError(f"this is no image that can be decoded ({error})") from None
