"""What image files claim of their size: it is checked before memory is taken for their pixels."""

import importlib
import io
import re
import struct

import simplejpeg

from resnet_v2.data.heif import is_heif, open_heif
from resnet_v2.data.rows import Data, read_header

Size = tuple[int, int]

JPEG_START = b"\xff\xd8"
PNG_START = b"\x89PNG\r\n\x1a\n"
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# Kinds that may be packed tightly, whose headers Pillow reads: where the mark of the kind is, and Pillow's reader.
PILLOWS = (
    *((0, start, "TiffImagePlugin.TiffImageFile") for start in TIFF_STARTS),
    (0, b"\x59\xa6\x6a\x95", "SunImagePlugin.SunImageFile"),
    (0, b"\0\0\0\x0cjP  ", "Jpeg2KImagePlugin.Jpeg2KImageFile"),
    (0, b"\xff\x4f\xff\x51", "Jpeg2KImagePlugin.Jpeg2KImageFile"),
    (4, b"ftyp", "AvifImagePlugin.AvifImageFile"),
)
VP8_START, VP8L_START = b"\x9d\x01\x2a", b"\x2f"
RADIANCE = re.compile(rb"-Y\s*\+?(\d{1,9})\s+\+X\s*\+?(\d{1,9})")
RADIANCE_STARTS = (b"#?RGBE", b"#?RADIANCE")
RADIANCE_HEADER_BYTES = 1 << 16
TILE_SIDES = (322, 323)  # tags of a TIFF: what is decoded at a time


def check_claim(data: Data, most: int, limit: str = "") -> Size | None:
    """The size that `claimed_size` gives; ValueError for more than `most` pixels, or where a file hides its size.

    `limit` is the setting that says how many, if any.
    """
    size = claimed_size(data)
    if size is not None:
        check_size(*size, most, limit)
    elif _opaque(bytes(data[:16])):
        raise ValueError("this is no image that can be decoded (its header tells no size)")
    return size


def check_size(height: int, width: int, most: int, limit: str = "") -> None:
    """Raise ValueError for an image that claims more than `most` pixels."""
    if height * width > most:
        raise ValueError(f"it claims {width} x {height} pixels, more than {limit and f'`{limit}` '}{most}")


def claimed_size(data: Data) -> Size | None:
    """Height and width in pixels that an image file claims in its header; None where it tells none.

    Files of kinds without compression (PNM, PAM, PFM), which hold no more pixels than bytes, are not looked at.
    """
    header = read_header(data)
    if header is not None:
        return header.height, header.width
    if bytes(data[:2]) == JPEG_START:
        return size_for_decoder(data)
    start = bytes(data[:30])
    if start[:8] == PNG_START and len(start) >= 24:
        width, height = struct.unpack_from(">II", start, 16)
        return height, width
    if _opaque(start):
        return _by_pillow(data) or _of_heif(data) or _of_radiance(data)
    try:
        return _of_others(start)
    except struct.error:
        return None


def size_for_decoder(data: Data) -> Size | None:
    """The size for which libjpeg-turbo would take memory; None where it reads none."""
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    return height, width


def _of_others(start: bytes) -> Size | None:
    """Of GIF89a, BMP (two kinds of header) and WebP (RFC 9649: lossy, lossless, extended)."""
    if start[:4] == b"GIF8":
        width, height = struct.unpack_from("<HH", start, 6)
        return height, width
    if start[:2] == b"BM":
        old = struct.unpack_from("<I", start, 14)[0] == 12
        width, height = struct.unpack_from("<HH" if old else "<ii", start, 18)
        return abs(height), abs(width)
    kind, at = _webp(start)
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", start, at + 6)
        return height & 0x3FFF, width & 0x3FFF
    if kind == b"VP8L":
        word = struct.unpack_from("<I", start, at + 1)[0]
        return (word >> 14 & 0x3FFF) + 1, (word & 0x3FFF) + 1
    if not kind:
        return None
    width, height = (int.from_bytes(start[place : place + 3], "little") + 1 for place in (at + 4, at + 7))
    return height, width


def _webp(start: bytes) -> tuple[bytes, int]:
    """The kind of a WebP and where its first chunk's contents start; nothing for another file.

    libwebp takes what stands inside the file for the whole one too: a key frame of VP8, or a VP8L of version 0.
    """
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return start[12:16], 20
    if start[3:6] == VP8_START:
        return b"VP8 ", 0
    if start[:1] == VP8L_START and len(start) > 4 and start[4] < 0x20:
        return b"VP8L", 0
    return b"", 0


def _opaque(start: bytes) -> bool:
    return start.startswith(RADIANCE_STARTS) or _reader(start) is not None


def _reader(start: bytes) -> str | None:
    return next((reader for at, mark, reader in PILLOWS if start[at:].startswith(mark)), None)


def _by_pillow(data: Data) -> Size | None:
    name = _reader(bytes(data[:16]))
    if name is None:
        return None
    module, _, reader = name.partition(".")
    try:
        # Not `Image.open`, which has a limit of its own and warns below it.
        with getattr(importlib.import_module(f"PIL.{module}"), reader)(io.BytesIO(data)) as image:
            tile = [getattr(image, "tag_v2", {}).get(tag, 0) for tag in TILE_SIDES]
            return max((image.height, image.width), (tile[1], tile[0]), key=lambda size: size[0] * size[1])
    except Exception:  # whatever Pillow raises for a damaged header
        return None


def _of_heif(data: Data) -> Size | None:
    """Of HEIC; ValueError where nothing reads it here."""
    if not is_heif(bytes(data[:16])):
        return None
    with open_heif(bytes(data)) as image:
        return image.height, image.width


def _of_radiance(data: Data) -> Size | None:
    """The largest of what a header of a .hdr, or what looks like one, says."""
    found = [(int(height), int(width)) for height, width in RADIANCE.findall(bytes(data[:RADIANCE_HEADER_BYTES]))]
    return max(found, key=lambda size: size[0] * size[1], default=None)
