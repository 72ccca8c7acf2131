"""Photos as people have them, large and turned -> upright pixels of the size that is wanted."""

import struct

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from resnet_v2.data.claims import JPEG_START, check_claim, check_size
from resnet_v2.data.jpeg import Image, decode, scratch
from resnet_v2.data.loader import MAX_PIXELS

EXIF_START = b"Exif\0\0"
SEARCHED_BYTES = 1 << 16
ORIENTATION_TAG = 0x0112
UPRIGHT = 1


def check_image(data: bytes) -> None:
    """Raise ValueError when the bytes are no image; of a JPEG only the header is read."""
    if data[:2] == JPEG_START:
        try:
            simplejpeg.decode_jpeg_header(data)
            return
        except ValueError:
            pass  # the decoder of the odd ones has the last word
    decode(data)


def read_upright(data: bytes, side: int) -> Image:
    """An image file -> pixels, upright by its EXIF orientation, the shorter side `side` pixels (0: as it is).

    The longer side keeps the aspect, rounded down (im2rec). A JPEG more than twice too large is decoded at 1/2, 3/8,
    1/4 or 1/8 of its size, the smallest that is still large enough, and then resized as any other: bilinear (im2rec),
    or by area where the image shrinks to less than half. The array may be overwritten by the thread's next call. Raises
    ValueError for what cannot be decoded and for more pixels, read or made, than `loader.MAX_PIXELS`.
    """
    check_claim(data, MAX_PIXELS)  # before memory is taken
    pixels, (height, width) = _decode_large_enough(data, side)
    if side and min(height, width) != side:
        new_size = size_of_shorter_side(height, width, side)
        resized = scratch("resized", new_size[1], new_size[0], 3)
        method = usual_method(height, width, side)
        pixels = cv2.resize(pixels, new_size, dst=resized, interpolation=method).astype(np.uint8, copy=False)
    return upright(pixels, read_orientation(data)) if data[:2] == JPEG_START else pixels


def size_of_shorter_side(height: int, width: int, side: int) -> tuple[int, int]:
    """Width and height of an image whose shorter side becomes `side` pixels; ValueError for too many pixels."""
    new_size = (width * side // height, side) if height < width else (side, height * side // width)
    if new_size[0] * new_size[1] > MAX_PIXELS:
        raise ValueError(f"{width} x {height} pixels are too narrow for a shorter side of {side}")
    return new_size


def usual_method(height: int, width: int, side: int) -> int:
    """OpenCV's number of the interpolation: by area where an image shrinks to less than half, else bilinear."""
    return cv2.INTER_AREA if min(height, width) > 2 * side else cv2.INTER_LINEAR


def _decode_large_enough(data: bytes, side: int) -> tuple[Image, tuple[int, int]]:
    """Pixels, maybe of a smaller version of at least `side` pixels a side, and the height and width of the whole."""
    if data[:2] == JPEG_START:
        try:
            height, width, _, _ = simplejpeg.decode_jpeg_header(data)
            check_size(height, width, MAX_PIXELS)
            # Without min_factor it may choose 5/8 to 7/8, which take longer than the whole.
            much_too_large = side and min(height, width) > 2 * side
            smaller = {"min_height": side, "min_width": side, "min_factor": 2} if much_too_large else {}
            new_height, new_width, _, _ = simplejpeg.decode_jpeg_header(data, **smaller)
            memory = scratch("decoded", new_height, new_width, 3)
            pixels: Image = simplejpeg.decode_jpeg(data, "RGB", buffer=memory, **smaller)
            return pixels, (height, width)
        except ValueError:
            pass  # whatever is wrong with it, the whole decode says it better
    pixels = decode(data, turn=data[:2] != JPEG_START)
    return pixels, (pixels.shape[0], pixels.shape[1])


def read_orientation(data: bytes) -> int:
    """The EXIF orientation of a JPEG file, 1 to 8; 1 (upright) when it says nothing or nonsense.

    Tag 0x0112 of the first directory (CIPA DC-008, Exif 2.3, section 4.6).
    """
    start = data.find(EXIF_START, 0, SEARCHED_BYTES) + len(EXIF_START)
    if start < len(EXIF_START):
        return UPRIGHT
    tiff = data[start : start + SEARCHED_BYTES]
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return UPRIGHT
    try:
        (directory,) = struct.unpack_from(f"{order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, directory)
        for number in range(count):
            tag, _, _, value = struct.unpack_from(f"{order}HHIH", tiff, directory + 2 + 12 * number)
            if tag == ORIENTATION_TAG:
                return value if 1 <= value <= 8 else UPRIGHT
    except struct.error:
        pass
    return UPRIGHT


def upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Turn and mirror pixels (H x W x 3) so that what EXIF calls the top is the top."""
    if orientation in (5, 6, 7, 8):
        pixels = cv2.transpose(pixels).astype(np.uint8, copy=False)
    # 0 mirrors top and bottom, 1 left and right, -1 both; 5 is the transpose alone.
    mirror = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}.get(orientation)
    return pixels if mirror is None else cv2.flip(pixels, mirror).astype(np.uint8, copy=False)
