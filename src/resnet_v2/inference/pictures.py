"""Pictures as people have them -> the crops that a network looks at. All go through a `View`."""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeGuard, Union, cast

import numpy as np
from numpy.typing import NDArray

from resnet_v2.config.fields import Side, checked
from resnet_v2.data.claims import Size, check_size
from resnet_v2.data.filling import Crops, Look, Whole
from resnet_v2.data.jpeg import Image, of_pillow, resize_shorter_side, three_channels
from resnet_v2.data.loader import MAX_PIXELS
from resnet_v2.data.record_names import names_records
from resnet_v2.data.rows import Box
from resnet_v2.data.warp import centre_box, centre_crop
from resnet_v2.errors import ResnetError
from resnet_v2.files import read_bytes
from resnet_v2.networks.header import Header
from resnet_v2.packing.photos import read_upright
from resnet_v2.packing.survey import SMALLEST_SIDE

if TYPE_CHECKING:
    import PIL.Image

Bytes = bytes | bytearray | memoryview
# A path, the bytes of an image file, an array (H x W, H x W x 1, 3 or 4, uint8, RGB), or a PIL image.
Picture: TypeAlias = Union[str, os.PathLike[str], Bytes, NDArray[Any], "PIL.Image.Image"]
Batch: TypeAlias = list[Any] | tuple[Any, ...]
Several: TypeAlias = Batch | Iterator[Any]

ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+:/+")  # a Path makes one slash of two
SHAPES = ((), (1,), (3,), (4,))  # of an array behind height and width
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


class _Seen(NamedTuple):
    box: Box
    view: View
    reduction: int = 1
    channels: int = 3

    def finish(self, pixels: Image, out: Image) -> None:
        self.view.look(pixels, out)


@dataclass(frozen=True)
class Viewed:
    """A view as the loader takes it: what becomes of a record's images."""

    view: View

    def crops(self, ordinals: Whole, height: int, width: int) -> Crops | None:
        """See `data.filling.Preprocess`."""
        return None

    def looks(self, ordinals: Whole, heights: Whole, widths: Whole) -> Sequence[Look]:
        """See `data.filling.Preprocess`."""
        alone = not self.view.resize and not self.view.ten_crop  # then no pixel beside the crop is needed
        sizes = zip(heights.tolist(), widths.tolist(), strict=True)
        boxes = (centre_box(self.view.crop, *size) if alone else Box(0, size[0], 0, size[1]) for size in sizes)
        return [_Seen(box, self.view) for box in boxes]


def prepare(picture: Picture, view: View, name: str = "") -> Image:
    """What a view sees of a picture, in whatever form it comes: crop x crop x 3, uint8, RGB.

    Raises what `prepare_sized` does.
    """
    return prepare_sized(picture, view, name)[0]


def prepare_sized(picture: Picture, view: View, name: str = "") -> tuple[Image, Size]:
    """The same, and the picture's own height and width in pixels.

    Pictures are turned upright by their EXIF orientation. Raises ResnetError, with the `name` (of a path the path), for
    what is no picture.
    """
    out: Image = np.empty(view.slot, np.uint8)
    name = name or (os.fspath(picture) or "An empty path" if isinstance(picture, str | os.PathLike) else "The image")
    try:
        pixels = _pixels(picture, name)
        size = pixels.shape[0], pixels.shape[1]  # before the next call on this thread overwrites them
        view.look(pixels, out)
    except ValueError as error:
        raise ResnetError(f"{name} is no readable image: {error}; replace or remove it.") from None
    return cast(Image, out[0]), size


def too_small(size: Size) -> str:
    """A sentence where a picture of this height and width has fewer rows or columns than show anything, or none."""
    height, width = size
    small = min(size) < SMALLEST_SIDE
    return f"{width} x {height} pixels show too little for an answer to mean much" if small else ""


def listed(images: Any) -> Any:
    """The same; what gives pictures one by one, such as a generator, as a list of them."""
    one_by_one = isinstance(images, Iterator) and not hasattr(images, "read")  # an open file gives its lines
    return list(images) if one_by_one else images


def several(images: Any) -> TypeGuard[Batch | NDArray[Any]]:
    """Whether an argument means a batch of pictures rather than one."""
    return isinstance(images, list | tuple) or (isinstance(images, np.ndarray) and images.ndim == 4)


def _pixels(picture: Picture, name: str) -> Image:
    """Upright pixels, H x W x 3 or 4, which the thread's next call may overwrite; ValueError when it is no picture."""
    if isinstance(picture, str | os.PathLike):
        picture = _file(picture, name)
    if isinstance(picture, Bytes):
        return read_upright(bytes(picture), 0)
    if hasattr(picture, "convert"):
        image = cast("PIL.Image.Image", picture)
        check_size(image.height, image.width, MAX_PIXELS)
        return of_pillow(image)
    return _of_array(picture)


def _file(path: str | os.PathLike[str], name: str) -> bytes:
    if names_records(os.fspath(path)):
        raise ResnetError(f"{name} names records; `evaluate` and `resnet-v2 predict --img` take them.")
    try:
        data: bytes = read_bytes(path)
    except OSError as error:
        if ADDRESS.match(os.fspath(path)):
            raise ResnetError(f"{name} is an address; download it, and give its path or its bytes.") from None
        if isinstance(error, IsADirectoryError):
            raise ResnetError(f"{name} is a folder; give a list of its pictures.") from None
        raise ResnetError(f"{name} cannot be read ({error.strerror}); check the path.") from None
    return data


def _of_array(picture: Any) -> Image:
    if not hasattr(picture, "__array__"):
        raise ResnetError(
            f"{type(picture).__name__} is no picture; give a path, the bytes of an image file, an array "
            "(H x W x 3, uint8, RGB), a PIL image, or a list of them."
        )
    try:
        pixels = np.asarray(picture)
    except (RuntimeError, TypeError) as error:  # such as a tensor of a GPU, or of bfloat16
        raise ResnetError(
            f"{type(picture).__name__} gives no array ({error}); give an array (H x W x 3, uint8, RGB)."
        ) from None
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or 0 in pixels.shape or pixels.shape[2:] not in SHAPES:
        raise ResnetError(
            f"An array of shape {pixels.shape} and type {pixels.dtype} is no picture; give H x W x 3 uint8, RGB."
        )
    return three_channels(pixels)
