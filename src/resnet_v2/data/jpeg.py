"""Images as bytes: decode, encode, resize. Arrays are uint8, H x W x 3, RGB.

JPEG goes through libjpeg-turbo (simplejpeg), everything else and the rare JPEG it cannot do (CMYK) through OpenCV; both
release the GIL.
"""

from pathlib import Path

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from resnet_v2.files import ResnetError

Image = NDArray[np.uint8]

JPEG_START = b"\xff\xd8"


def decode(data: bytes | memoryview) -> Image:
    """Bytes of an image file -> pixels, as stored (an EXIF orientation is passed over, as MXNet's reader does).

    Raises ValueError when the bytes are no image or end too early.
    """
    if bytes(data[:2]) == JPEG_START:
        try:
            pixels: Image = simplejpeg.decode_jpeg(data, "RGB", strict=True)
            return pixels
        except ValueError as error:
            if "premature" in str(error).lower():
                raise ValueError("the image data ends too early") from None
    return _decode_with_opencv(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)


def _decode_with_opencv(data: bytes | memoryview, flags: int) -> Image:
    buffer = np.frombuffer(data, np.uint8)
    try:
        pixels = cv2.imdecode(buffer, flags) if buffer.size else None
    except cv2.error:
        pixels = None
    if pixels is None:
        raise ValueError("this is no image that can be decoded")
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)


def read_image(path: Path) -> Image:
    """An image file -> pixels, upright (an EXIF orientation is applied). A ResnetError names a file that is bad."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ResnetError(f"{path} cannot be read ({error.strerror}); check the path.") from None
    try:
        pixels = decode(data)
        if b"Exif\0\0" in data[:65536]:
            pixels = _decode_with_opencv(data, cv2.IMREAD_COLOR)
        return pixels
    except ValueError as error:
        raise ResnetError(f"{path} is no readable image: {error}; replace or remove it.") from None


def encode(pixels: Image, encoding: str, quality: int) -> bytes:
    """Pixels -> a `.jpg` (4:2:0, quality 1 to 100) or a `.png` (quality is the compression, 0 to 9)."""
    if encoding == ".jpg":
        return bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality, "RGB", "420"))
    png_options = [cv2.IMWRITE_PNG_COMPRESSION, min(quality, 9)]
    done, data = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), png_options)
    if not done:
        raise ValueError("the PNG encoder refused the image")
    return data.tobytes()


def resize_shorter_side(pixels: Image, side: int) -> Image:
    """Resize so that the shorter side is `side` pixels and the longer one keeps the aspect, rounded down (im2rec).

    Bilinear, as im2rec; where the image shrinks to less than half, where bilinear would skip pixels, by area.
    """
    height, width = pixels.shape[:2]
    if min(height, width) == side:
        return pixels
    new_height, new_width = (side, width * side // height) if height < width else (height * side // width, side)
    method = cv2.INTER_AREA if min(height, width) > 2 * side else cv2.INTER_LINEAR
    return cv2.resize(pixels, (new_width, new_height), interpolation=method).astype(np.uint8, copy=False)
