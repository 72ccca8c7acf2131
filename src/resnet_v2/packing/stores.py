"""How a record keeps its images: as JPEG, or without loss as PNG, WebP or BMP; and the choice between them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

from resnet_v2.console import agreeing, counted
from resnet_v2.data.claims import PNG_START, TIFF_STARTS
from resnet_v2.data.jpeg import Image, encode
from resnet_v2.errors import ResnetError
from resnet_v2.packing.archives import ImageFiles
from resnet_v2.packing.photos import read_upright

ENDINGS = {"jpeg": ".jpg", "png": ".png", "webp": ".webp", "bmp": ".bmp"}
USUAL_QUALITY = {"jpeg": 90, "png": 3, "webp": 0, "bmp": 0}
LOOKED_AT = 64  # images of a list by which `auto` decides
SMALL = 64  # pixels a side: 12 kB at most without compression
# GIF, BMP and PNM beside PNG and TIFF: formats that lose nothing, of which a TIFF may be an exception.
LOSSLESS_STARTS = (PNG_START, *TIFF_STARTS, b"GIF8", b"BM", b"P4", b"P5", b"P6")


@dataclass(frozen=True)
class Store:
    """One way to keep images: `store` is its name among `ENDINGS`; and its quality (jpeg) or compression (png)."""

    store: str
    quality: int

    def encode(self, pixels: Image) -> bytes:
        """Pixels (H x W x 3, uint8, RGB) -> an image file; ValueError for a size that the format does not know."""
        return encode(pixels, ENDINGS[self.store], self.quality)


@dataclass(frozen=True)
class Look:
    """One image as it would be packed: its longer side in pixels, and whether its file had lost nothing."""

    side: int
    lossless: bool


def store_of(name: str, quality: int | None) -> Store:
    """The store of a name, with a quality or its usual one."""
    return Store(name, USUAL_QUALITY[name] if quality is None else quality)


def look(files: ImageFiles, paths: Iterable[str], count: int, resize: int) -> list[Look]:
    """At most `LOOKED_AT` of `count` images, evenly spread over the list; those that cannot be read are left out."""
    found = []
    for path in islice(paths, 0, None, -(-count // LOOKED_AT)):
        try:
            data = files.read(path)
            height, width = read_upright(data, resize).shape[:2]
        except (ResnetError, ValueError):  # told of when its turn comes
            continue
        found.append(Look(max(height, width), is_lossless(data)))
    return found


def is_lossless(data: bytes) -> bool:
    """Whether an image file is of a format that keeps pixels as they are."""
    return data.startswith(LOSSLESS_STARTS) or (data[8:12] == b"WEBP" and b"VP8L" in data[12:64])


def decide(looks: Sequence[Look]) -> tuple[str, str]:
    """The name of a store for images like these, and why.

    Small ones are kept uncompressed: JPEG would spoil most of them and save little. Where no file has lost anything
    yet, neither does the record. All others are photos, which JPEG suits.
    """
    count = len(looks)
    if looks and max(one.side for one in looks) <= SMALL:
        return "bmp", f"none of {counted(count, 'image')} looked at is larger than {SMALL} x {SMALL} pixels"
    lossy = sum(not one.lossless for one in looks)
    if looks and not lossy:
        return "png", f"the files of {counted(count, 'image')} looked at have lost nothing"
    return (
        "jpeg",
        f"of {counted(count, 'image')} looked at {lossy} {agreeing(lossy, 'comes', 'come')} from files that lose "
        "something, and not all are small",
    )
