"""Images as bytes: decode, encode, resize. Arrays are uint8, H x W x 3, RGB.

JPEG goes through libjpeg-turbo (simplejpeg), everything else and the rare JPEG it cannot do (CMYK) through OpenCV; both
release the GIL.
"""

import contextlib
import io
import struct
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from resnet_v2.data import stages
from resnet_v2.data.claims import (
    JPEG_START,
    PNG_START,
    TIFF_STARTS,
    check_claim,
    check_size,
    claimed_size,
    size_for_decoder,
)
from resnet_v2.data.cuts import Part, Sliceable, cut, shorten
from resnet_v2.data.heif import is_heif, open_heif
from resnet_v2.data.rows import END, Box, Data, JpegHeader, Offsets, read_header
from resnet_v2.data.stored import InMemory

if TYPE_CHECKING:
    import PIL.Image

Image = NDArray[np.uint8]

# What libjpeg says of spare bytes before the end marker, which are common in good files, and of an unusual sampling of
# colours, which OpenCV may know.
HARMLESS = "extraneous bytes before marker 0xd9"
UNUSUAL = "Could not determine subsampling"
NO_END = "Premature end of JPEG file"
# In blocks. Shorter ones cut closer, but each costs 2 to 3 bytes and the decoder a fresh start.
LONGEST_SEGMENT = 5
# The share of an image above which cutting it out costs more than it saves.
WORTH_CUTTING = 0.9
LOSSLESS = 101  # OpenCV's word for it among the qualities of a WebP
LIMIT = "max_pixels"  # the setting
# Of a BMP: offset of the pixels, size of the rest of the header, width, height, planes, bits, compression.
BITMAP_HEADER = struct.Struct("<10xIIiiHHI")
KEPT_BYTES = 3 << 24  # the largest image that a thread keeps memory for
_kept = threading.local()


def scratch(name: str, height: int, width: int, channels: int) -> Image:
    """Memory for an image, which this thread keeps under a name and gives again at the next call.

    Fresh memory for every image costs up to a sixth of the time of its processing; and an OpenCV function that has to
    make its result's array takes Python's lock once more.
    """
    size = height * width * channels
    if size > KEPT_BYTES:
        return np.empty((height, width, channels), np.uint8)
    memory: NDArray[np.uint8] | None = getattr(_kept, name, None)
    if memory is None or memory.size < size:
        memory = np.empty(size, np.uint8)
        setattr(_kept, name, memory)
    return memory[:size].reshape(height, width, channels)


def decode(data: Data, turn: bool = False) -> Image:
    """Bytes of an image file -> pixels, as stored (an EXIF orientation is passed over, as MXNet's reader does).

    With `turn` a file that is no JPEG is turned upright. Raises ValueError when the bytes are no image, are damaged or
    end too early; a JPEG that lacks only its end marker has all of its pixels.
    """
    if bytes(data[:2]) == JPEG_START:
        _check_claims(data)
        try:
            return _decode_jpeg(data, strict=True)
        except ValueError as error:
            if HARMLESS in str(error):
                return _decode_jpeg(data, strict=False)
            if NO_END in str(error) and _has_one_scan(data):
                with contextlib.suppress(ValueError):  # only the end marker is missing, or pixels are too
                    return _decode_jpeg(bytes(data) + END, strict=True)
            if UNUSUAL not in str(error):
                raise ValueError(f"the image data is damaged ({error})") from None
    return _decode_with_opencv(data, turn)


def _check_claims(data: Data) -> None:
    """Raise ValueError where the decoder reads another size than `claimed_size`, which was checked: it takes memory."""
    size = size_for_decoder(data)
    if size is not None and size != claimed_size(data):
        raise ValueError("the image data is damaged (its header claims two sizes)")


def _has_one_scan(data: Data) -> bool:
    """Whether the decoder tells of a JPEG that it ended too early: where scans are missing it says nothing."""
    header = read_header(data)
    return header is not None and header.one_scan


def _decode_jpeg(data: Data, strict: bool) -> Image:
    pixels: Image = simplejpeg.decode_jpeg(data, "RGB", strict=strict)
    return pixels


def _decode_with_opencv(data: Data, turn: bool) -> Image:
    if turn and bytes(data[4:8]) == b"ftyp":
        with contextlib.suppress(ValueError):  # OpenCV does not turn AVIF
            return _decode_with_pillow(data)
    buffer = np.frombuffer(data, np.uint8)
    try:
        flags = cv2.IMREAD_COLOR | (0 if turn else cv2.IMREAD_IGNORE_ORIENTATION)
        pixels = cv2.imdecode(buffer, flags) if buffer.size else None
    except cv2.error:
        pixels = None
    if pixels is None and is_heif(bytes(data[:16])):
        return _decode_with_pillow(data)
    if pixels is None:
        raise ValueError("this is no image that can be decoded")
    if bytes(data[:4]) in TIFF_STARTS and _channels_as_stored(buffer) == 4:
        return _decode_with_pillow(data)  # OpenCV multiplies the colours of a TIFF by its transparency
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)


def _channels_as_stored(buffer: NDArray[np.uint8]) -> int:
    pixels = cv2.imdecode(buffer, cv2.IMREAD_UNCHANGED)
    return 1 if pixels is None or pixels.ndim == 2 else pixels.shape[2]


def _decode_with_pillow(data: Data) -> Image:
    import PIL.Image

    try:
        return of_pillow(PIL.Image.open(io.BytesIO(data)))
    except OSError as error:
        if is_heif(bytes(data[:16])):
            return of_pillow(open_heif(bytes(data)))
        raise ValueError(str(error)) from None


def of_pillow(image: "PIL.Image.Image") -> Image:
    """The pixels of a PIL image, upright, as `decode` gives those of a file; ValueError for one that is damaged."""
    from PIL import ImageOps

    # Older versions of Pillow give 16 grey bits as whole numbers, which others may use for anything.
    grey16 = image.mode.startswith("I;16") or (image.mode, image.format) == ("I", "PNG")
    if image.mode in ("I", "F") and not grey16:
        raise ValueError(f"its mode {image.mode} does not say which number is white, convert it to L or RGB")
    try:
        image = ImageOps.exif_transpose(image)
        if grey16:
            return three_channels((np.asarray(image).astype(np.int64) >> 8).astype(np.uint8))
        if image.mode == "CMYK":
            inks = 255 - np.asarray(image).astype(np.int64)
            black = inks[:, :, 3:]
            return (black - ((255 - inks[:, :, :3]) * black >> 8)).astype(np.uint8)
        return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:  # they mean a damaged file
        raise ValueError(str(error).strip()) from None


def three_channels(pixels: Image) -> Image:
    """H x W, H x W x 1, 3 or 4 -> H x W x 3 or 4."""
    if pixels.ndim == 2 or pixels.shape[2] == 1:
        return pixels.reshape(*pixels.shape[:2], 1).repeat(3, axis=2)
    return np.ascontiguousarray(pixels)


class Encoded:
    """An encoded image whose size is known before it is decoded, and of which a part can be decoded alone.

    `segments` are the offsets that `rows.find_segments` gives, or none. `height` and `width` are in pixels. `fast`
    takes libjpeg-turbo's less exact transform and enlargement of colours. Raises ValueError for bytes that are no image
    and for one that claims more than `max_pixels`, before memory is taken.
    """

    def __init__(self, data: Data | InMemory, segments: Offsets, max_pixels: int, fast: bool = False) -> None:
        self._bytes = data if isinstance(data, InMemory) else InMemory(data)
        self._segments, self._fast = segments, fast
        self._pixels: Image | None = None
        self._header = read_header(self._bytes.head)
        if self._header is None and self._bytes.head[:2] == JPEG_START:
            self._header = read_header(self._bytes.all())
        self._bitmap = bitmap(self._bytes.head, self._bytes.size)
        size = self._bitmap or self._header
        if size is not None:
            self.height, self.width = size.height, size.width
            check_size(self.height, self.width, max_pixels, LIMIT)
            return
        whole = self._bytes.all()
        claim = check_claim(whole, max_pixels, LIMIT)
        if claim is None or whole[:8] != PNG_START:
            self._pixels = decode(whole)  # what its header says need not be the size of its first frame
            claim = self._pixels.shape[:2]
            check_size(*claim, max_pixels, LIMIT)
        self.height, self.width = claim

    def sliceable(self, wanted: Box) -> Sliceable | None:
        """What `cut` takes for the pixels `wanted`, where that saves time."""
        header = self._header
        if header is None or not len(self._segments) or not header.segment_height:
            return None
        if wanted.area >= WORTH_CUTTING * self.height * self.width:
            return None
        return Sliceable(self._bytes.size, header, self._segments, wanted)

    def decode(self, wanted: Box, part: Part | None = None, reduction: int = 1, channels: int = 4) -> Image:
        """The pixels of the box `wanted`, height x width x `channels`: RGB, and with 4 a fourth of no meaning.

        They are the pixels of a whole decode; `part` is what `cut` made for them. The fourth channel is there because
        OpenCV warps 4 channels nearly three times as fast as 3. With `reduction` 2, 4 or 8 a JPEG is decoded so much
        smaller, its box rounded outward to such steps. The array may be overwritten by the thread's next call.
        """
        if self._header is not None:
            data, held = self._file(self._header, wanted, part)
            with contextlib.suppress(ValueError):  # CMYK, or damaged: the general decoder takes it, or says what
                return self._decode_jpeg(data, held, wanted, reduction, channels)
        if self._bitmap is not None:
            return _of_bitmap(self._bytes, self._bitmap, wanted, channels)
        if self._pixels is None:
            whole = self._bytes.all()
            clock = time.perf_counter()
            self._pixels = decode(whole)
            stages.lap(stages.DECODE, clock)
        pixels = wanted.of(self._pixels)
        return pixels if channels == 3 else cv2.cvtColor(pixels, cv2.COLOR_RGB2RGBA).astype(np.uint8, copy=False)

    def _file(self, header: JpegHeader, wanted: Box, part: Part | None) -> tuple[Data, Box]:
        """A JPEG file that holds the pixels `wanted`, and the box of what it holds."""
        made = None if part is None else part.data(self._bytes)
        if part is not None and made is not None:
            return made, part.held
        whole = self._bytes.all()
        if header.row_height and wanted.bottom < WORTH_CUTTING * self.height:
            return shorten(whole, header, wanted.bottom)
        return whole, Box(0, self.height, 0, self.width)

    def _decode_jpeg(self, data: Data, held: Box, wanted: Box, reduction: int, channels: int) -> Image:
        held, wanted = held.reduced(reduction), wanted.reduced(reduction)
        height, width = held.bottom - held.top, held.right - held.left
        pixels = scratch("decoded", height, width, channels)
        clock = time.perf_counter()
        try:
            fast: dict[str, int] = {"fastdct": self._fast, "fastupsample": self._fast}
            if reduction > 1:
                fast |= {"min_height": height, "min_width": width, "min_factor": reduction}
            simplejpeg.decode_jpeg(data, "RGB" if channels == 3 else "RGBA", strict=True, buffer=pixels, **fast)
        except ValueError as error:
            if HARMLESS not in str(error):  # that is said when all pixels are there
                raise
        finally:
            stages.lap(stages.DECODE, clock)
        return wanted.within(held).of(pixels)


def cut_all(images: Sequence[Encoded], boxes: Sequence[Box]) -> list[Part | None]:
    """The parts of images that hold some boxes, for `Encoded.decode`; None where it takes all of an image."""
    wanted = [image.sliceable(box) for image, box in zip(images, boxes, strict=True)]
    parts = iter(cut([one for one in wanted if one is not None]))
    return [None if one is None else next(parts) for one in wanted]


class Bitmap(NamedTuple):
    """A BMP of 24 bits without compression, whose rows of BGR lie from the bottom up: sizes in pixels, and in bytes."""

    height: int
    width: int
    start: int
    row_bytes: int


def bitmap(head: Data, size: int) -> Bitmap | None:
    """What the first bytes of a file of `size` bytes say of it; None for other files, and for one that ends early."""
    if head[:2] != b"BM" or len(head) < BITMAP_HEADER.size:
        return None
    start, _, width, height, planes, bits, compression = BITMAP_HEADER.unpack_from(head)
    row_bytes = (3 * width + 3) // 4 * 4
    if (planes, bits, compression) != (1, 24, 0) or min(width, height) <= 0 or start + height * row_bytes > size:
        return None  # for the general decoder, which knows the rest and says what is wrong
    return Bitmap(height, width, start, row_bytes)


def _of_bitmap(image: InMemory, its: Bitmap, wanted: Box, channels: int) -> Image:
    first, last = its.height - wanted.bottom, its.height - wanted.top
    data = image.read(its.start + first * its.row_bytes, its.start + last * its.row_bytes)
    clock = time.perf_counter()
    rows = np.frombuffer(data, np.uint8).reshape(last - first, its.row_bytes)
    lying = rows[:, 3 * wanted.left : 3 * wanted.right].reshape(last - first, -1, 3)
    pixels = scratch("decoded", last - first, wanted.right - wanted.left, channels)
    cv2.cvtColor(lying, cv2.COLOR_BGR2RGB if channels == 3 else cv2.COLOR_BGR2RGBA, dst=pixels)
    upright = cv2.flip(pixels, 0, dst=pixels).astype(np.uint8, copy=False)
    stages.lap(stages.DECODE, clock)
    return upright


def encode(pixels: Image, encoding: str, quality: int) -> bytes:
    """Pixels -> an image file: `.jpg` (4:2:0, quality 1 to 100, sliceable), `.png` (quality: compression, 0 to 9),
    `.webp` without loss or `.bmp` of 24 bits (quality: without meaning). ValueError for what a format cannot hold.

    Pixels may also be grey, H x W, or have a fourth channel, and `.png` keeps 16 bits.
    """
    if pixels.dtype != np.uint8 and encoding != ".png":  # OpenCV would make white of all that is brighter than 255
        raise ValueError(f"16 bits in a channel cannot be kept as {encoding}; keep them as .png")
    if encoding == ".jpg":
        # Restart markers that divide the rows of blocks (of 16 x 16 pixels, grey: 8 x 8) evenly let readers take a part
        # alone.
        blocks = -(-pixels.shape[1] // (8 if pixels.ndim == 2 else 16))
        interval = max(divisor for divisor in range(1, LONGEST_SEGMENT + 1) if blocks % divisor == 0)
        options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_RST_INTERVAL, interval]
        return _encode_with_opencv(".jpg", pixels, options)
    others = {".png": [cv2.IMWRITE_PNG_COMPRESSION, quality], ".webp": [cv2.IMWRITE_WEBP_QUALITY, LOSSLESS]}
    return _encode_with_opencv(encoding, pixels, others.get(encoding, []))


def _encode_with_opencv(encoding: str, pixels: Image, options: list[int]) -> bytes:
    try:
        done, data = cv2.imencode(encoding, _for_opencv(pixels), options)
    except cv2.error:
        done = False
    if not done:
        raise ValueError(f"{pixels.shape[1]} x {pixels.shape[0]} pixels cannot be kept as {encoding}")
    return data.tobytes()


def _for_opencv(pixels: Image) -> Any:
    """The pixels with their channels in OpenCV's order."""
    if pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.dtype == np.uint8:
        return cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR, dst=scratch("to encode", *pixels.shape))
    if pixels.ndim == 2:
        return pixels
    return cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR if pixels.shape[2] == 3 else cv2.COLOR_RGBA2BGRA)


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
