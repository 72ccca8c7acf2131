"""Pictures as people have them -> the crops that a network looks at. All go through a `View`."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard, Union, cast

import numpy as np
from numpy.typing import NDArray

from resnet_v2.config.fields import Side, checked
from resnet_v2.data.augment import centre_crop
from resnet_v2.data.jpeg import Image, claimed_size, resize_shorter_side
from resnet_v2.data.loader import MAX_PIXELS
from resnet_v2.errors import ResnetError
from resnet_v2.networks.header import Header
from resnet_v2.packing.photos import read_upright

if TYPE_CHECKING:
    import PIL.Image

Bytes = bytes | bytearray | memoryview
# A path, the bytes of an image file, an array (H x W, H x W x 1, 3 or 4, uint8, RGB), or a PIL image.
Picture: TypeAlias = Union[str, os.PathLike[str], Bytes, NDArray[Any], "PIL.Image.Image"]
Several: TypeAlias = list[Any] | tuple[Any, ...]

CROPS = 10
# Krizhevsky et al. 2012: the corners and the centre, and each of them mirrored. Shares of the room above and left.
CORNERS_AND_CENTRE = ((0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0), (0.5, 0.5))


@dataclass(frozen=True)
class View:
    """How images are looked at: the side of the square crop, the shorter side before it (0: as it is), in pixels."""

    crop: int
    resize: int = 0
    ten_crop: bool = False

    @classmethod
    def of(cls, header: Header, crop: int = 0, resize: int = 0, ten_crop: bool = False) -> "View":
        """The view that is asked for; a crop of 0 is the one that the network was evaluated with in training."""
        crop, resize = checked("crop", Side, crop) or header.crop, checked("resize", Side, resize)
        if resize and resize < crop:
            raise ResnetError(f"A crop of {crop} does not fit into a shorter side of {resize}; make the crop smaller.")
        if max(crop, resize) ** 2 > MAX_PIXELS:
            raise ResnetError(f"A side of {max(crop, resize)} pixels is longer than any image; give a smaller one.")
        return cls(crop, resize, ten_crop)

    def __str__(self) -> str:
        """As tables say it: 224x224."""
        return f"{self.crop}x{self.crop}" + (", ten crops" if self.ten_crop else "")

    @property
    def slot(self) -> tuple[int, ...]:
        """The shape of what one image becomes: crops x height x width x 3."""
        return CROPS if self.ten_crop else 1, self.crop, self.crop, 3

    def look(self, pixels: Image, out: Image) -> None:
        """Put what is seen of an image (H x W x 3 or 4, uint8, RGB first) into `out`, an array of the shape `slot`.

        Raises ValueError for an image so narrow that it would take too much memory.
        """
        side, (short, long) = self.resize or self.crop, sorted(pixels.shape[:2])
        if side * side * long > MAX_PIXELS * short:
            raise ValueError(f"{pixels.shape[1]} x {pixels.shape[0]} pixels are too narrow")
        if self.resize or (self.ten_crop and short < self.crop):
            pixels = resize_shorter_side(pixels, side)
        if not self.ten_crop:
            centre_crop(pixels, out[0])
            return
        for number, (down, right) in enumerate(CORNERS_AND_CENTRE):
            top, left = int(down * (pixels.shape[0] - self.crop)), int(right * (pixels.shape[1] - self.crop))
            out[number] = pixels[top : top + self.crop, left : left + self.crop, :3]
        out[CROPS // 2 :] = out[: CROPS // 2, :, ::-1]


def prepare(picture: Picture, view: View, name: str = "") -> Image:
    """What a view sees of a picture, in whatever form it comes: crop x crop x 3, uint8, RGB.

    Pictures are turned upright by their EXIF orientation. Raises ResnetError, with the `name` (of a path the path), for
    what is no picture.
    """
    out: Image = np.empty(view.slot, np.uint8)
    name = name or (os.fspath(picture) if isinstance(picture, str | os.PathLike) else "The image")
    try:
        view.look(_pixels(picture, name), out)
    except ValueError as error:
        raise ResnetError(f"{name or 'An empty path'} is no readable image: {error}; replace or remove it.") from None
    return cast(Image, out[0])


def several(images: Any) -> TypeGuard[Several | NDArray[Any]]:
    """Whether an argument means a batch of pictures rather than one."""
    return isinstance(images, list | tuple) or (isinstance(images, np.ndarray) and images.ndim == 4)


def _pixels(picture: Picture, name: str) -> Image:
    """Upright pixels, H x W x 3 or 4, which the thread's next call may overwrite; ValueError when it is no picture."""
    if isinstance(picture, str | os.PathLike):
        try:
            picture = Path(picture).read_bytes()
        except OSError as error:
            raise ResnetError(f"{name or 'An empty path'} cannot be read ({error.strerror}); check the path.") from None
    if isinstance(picture, Bytes):
        data = bytes(picture)
        # Before memory is taken; formats other than JPEG and PNG have OpenCV's own limit.
        _check_size(*(claimed_size(data) or (0, 0)))
        return read_upright(data, 0)
    if hasattr(picture, "convert"):
        return _of_pillow(cast("PIL.Image.Image", picture))
    return _of_array(picture)


def _check_size(height: int, width: int) -> None:
    if height * width > MAX_PIXELS:
        raise ValueError(f"it claims {width} x {height} pixels, more than {MAX_PIXELS}")


def _of_pillow(image: "PIL.Image.Image") -> Image:
    """The pixels that the decoder of files would give."""
    from PIL import ImageOps

    _check_size(image.height, image.width)
    # Older versions of Pillow give 16 grey bits as whole numbers, which others may use for anything.
    grey16 = image.mode.startswith("I;16") or (image.mode, image.format) == ("I", "PNG")
    if image.mode in ("I", "F") and not grey16:
        raise ValueError(f"its mode {image.mode} does not say which number is white, convert it to L or RGB")
    try:
        image = ImageOps.exif_transpose(image)
        if grey16:
            return _three_channels((np.asarray(image).astype(np.int64) >> 8).astype(np.uint8))
        if image.mode == "CMYK":
            inks = 255 - np.asarray(image).astype(np.int64)
            black = inks[:, :, 3:]
            return (black - ((255 - inks[:, :, :3]) * black >> 8)).astype(np.uint8)
        return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError) as error:  # both mean a damaged file
        raise ValueError(str(error)) from None


def _of_array(picture: Any) -> Image:
    if not hasattr(picture, "__array__"):
        raise ResnetError(
            f"{type(picture).__name__} is no picture; give a path, the bytes of an image file, an array "
            "(H x W x 3, uint8, RGB) or a PIL image."
        )
    pixels = np.asarray(picture)
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or 0 in pixels.shape or pixels.shape[2:] not in SHAPES:
        raise ResnetError(
            f"An array of shape {pixels.shape} and type {pixels.dtype} is no picture; give H x W x 3 uint8, RGB."
        )
    return _three_channels(pixels)


SHAPES = ((), (1,), (3,), (4,))


def _three_channels(pixels: Image) -> Image:
    if pixels.ndim == 2 or pixels.shape[2] == 1:
        return pixels.reshape(*pixels.shape[:2], 1).repeat(3, axis=2)
    return np.ascontiguousarray(pixels)
