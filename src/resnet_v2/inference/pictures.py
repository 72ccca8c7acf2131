"""Pictures as people have them -> the crop that a network looks at: paths, bytes, arrays, PIL images."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_v2.data.augment import centre_crop
from resnet_v2.data.jpeg import Image, claimed_size, resize_shorter_side
from resnet_v2.data.loader import MAX_PIXELS
from resnet_v2.errors import ResnetError
from resnet_v2.packing.photos import read_upright

# A path, the bytes of an image file, an array (H x W, H x W x 1, 3 or 4, uint8, RGB), or a PIL image.
Picture = Any


def prepare(picture: Picture, resize: int, crop: int) -> Image:
    """Resize the shorter side and crop the centre, as evaluation does: -> crop x crop x 3, uint8, RGB.

    Files are turned upright by their EXIF orientation. Raises ResnetError, naming a file, for what is no picture.
    """
    out = np.empty((crop, crop, 3), np.uint8)
    if isinstance(picture, str | os.PathLike):
        centre_crop(_decoded(_read(Path(picture)), resize, str(picture)), out)
    elif isinstance(picture, bytes | bytearray | memoryview):
        centre_crop(_decoded(bytes(picture), resize, "The image"), out)
    else:
        centre_crop(resize_shorter_side(_as_rgb(picture), resize), out)
    return out


def several(images: Any) -> bool:
    """Whether an argument means a batch of pictures rather than one."""
    return isinstance(images, list | tuple) or (isinstance(images, np.ndarray) and images.ndim == 4)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ResnetError(f"{path} cannot be read ({error.strerror}); check the path.") from None


def _decoded(data: bytes, side: int, name: str) -> Image:
    try:
        # Before memory is taken; formats other than JPEG and PNG have OpenCV's own limit.
        height, width = claimed_size(data) or (0, 0)
        if height * width > MAX_PIXELS:
            raise ValueError(f"it claims {width} x {height} pixels, more than {MAX_PIXELS}")
        return read_upright(data, side)
    except ValueError as error:
        raise ResnetError(f"{name} is no readable image: {error}; replace or remove it.") from None


def _as_rgb(picture: Picture) -> NDArray[np.uint8]:
    if hasattr(picture, "convert"):
        picture = _turned(picture).convert("RGB")
    pixels = np.asarray(picture)
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if pixels.ndim != 3 or pixels.dtype != np.uint8 or pixels.shape[2] not in (1, 3, 4) or 0 in pixels.shape:
        raise ResnetError(
            f"An array of shape {pixels.shape} and type {pixels.dtype} is no picture; give H x W x 3 uint8, RGB."
        )
    if pixels.shape[2] == 1:
        pixels = pixels.repeat(3, axis=2)
    return np.ascontiguousarray(pixels[:, :, :3])


def _turned(picture: Any) -> Any:
    from PIL import ImageOps

    return ImageOps.exif_transpose(picture)
