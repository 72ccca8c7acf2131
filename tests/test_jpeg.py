"""Decoding against OpenCV and Pillow, damage, orientation, sizes."""

import io
import struct
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import pytest
from numpy.typing import NDArray

from conftest import picture, read_image
from resnet_v2.data import jpeg
from resnet_v2.data.claims import claimed_size
from resnet_v2.data.jpeg import Encoded, cut_all, decode, encode, resize_shorter_side
from resnet_v2.data.loader import MAX_PIXELS
from resnet_v2.data.records import IRHeader, RecordReader, pack, writing
from resnet_v2.data.rows import NOTHING, Box, find_segments
from resnet_v2.data.stored import Found, find_images
from resnet_v2.packing.photos import read_upright


def saved(image: PIL.Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def opencv(data: bytes) -> NDArray[np.uint8]:
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    assert pixels is not None
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB).astype(np.uint8)


@pytest.mark.parametrize("size", [(1, 1), (33, 17), (64, 64)])
@pytest.mark.parametrize("options", [{"subsampling": 0}, {"subsampling": 2}, {"progressive": True}, {"quality": 30}])
def test_jpeg_pixels_are_those_of_opencv(size: tuple[int, int], options: dict[str, object]) -> None:
    source = PIL.Image.fromarray(picture(1, 70, 80)).resize(size)
    data = saved(source, "JPEG", **options)
    assert np.array_equal(decode(data), opencv(data))


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_other_colour_modes(mode: str) -> None:
    data = saved(PIL.Image.fromarray(picture(1, 40, 50)).convert(mode), "JPEG")
    assert decode(data).shape == (40, 50, 3)
    assert np.array_equal(decode(data), opencv(data))


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "1"])
def test_png_is_exact(mode: str) -> None:
    source = PIL.Image.fromarray(picture(1, 40, 50)).convert(mode)
    assert np.array_equal(decode(saved(source, "PNG")), np.asarray(source.convert("RGB")))


def test_png_round_trip() -> None:
    pixels = picture(3, 20, 31)
    assert np.array_equal(decode(encode(pixels, ".png", 9)), pixels)


def test_jpeg_round_trip_is_near() -> None:
    pixels = cv2.GaussianBlur(picture(3, 64, 64), (9, 9), 4).astype(np.uint8)
    assert np.abs(decode(encode(pixels, ".jpg", 95)).astype(int) - pixels).mean() < 3


def test_a_jpeg_that_lacks_only_its_end_marker_is_whole() -> None:
    """Its crops too, in whatever way they are decoded; one that lacks pixels, or may lack scans, is refused."""
    pixels = picture(3, 90, 130)
    for options in ([], [cv2.IMWRITE_JPEG_RST_INTERVAL, 3], [cv2.IMWRITE_JPEG_RST_INTERVAL, 4]):
        data = cv2.imencode(".jpg", pixels, options)[1].tobytes()
        whole = decode(data)
        for cut in (1, 2):
            assert np.array_equal(decode(data[:-cut]), whole)
            for box in (Box(0, 90, 0, 130), Box(10, 40, 20, 60)):
                part = Encoded(data[:-cut], NOTHING, MAX_PIXELS).decode(box, channels=3)
                assert np.array_equal(part, box.of(whole))
        for cut in (8, 40, 200):
            with pytest.raises(ValueError, match="damaged"):
                decode(data[:-cut])
    progressive = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    with pytest.raises(ValueError, match="damaged"):
        decode(progressive[:-2])


@pytest.mark.parametrize("keep", [0, 1, 2, 100, 0.5, 0.95])
def test_truncated_images_are_refused(keep: float) -> None:
    data = saved(PIL.Image.fromarray(picture(1, 90, 90)), "JPEG")
    cut = data[: int(keep * len(data)) if 0 < keep < 1 else int(keep)]
    with pytest.raises(ValueError, match="image"):
        decode(cut)


def test_damage_is_refused_and_spare_bytes_are_not() -> None:
    data = saved(PIL.Image.fromarray(picture(1, 200, 200)), "JPEG")
    middle = len(data) // 2
    with pytest.raises(ValueError, match="is damaged"):
        decode(data[:middle] + b"\xff\xdd" + bytes(60) + data[middle + 62 :])
    spare = data[:-2] + bytes(7) + data[-2:]
    assert np.array_equal(decode(spare), decode(data))


def test_files_are_turned_upright_and_records_are_not(tmp_path: Path) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "a.jpg"
    path.write_bytes(saved(PIL.Image.fromarray(picture(1, 40, 60)), "JPEG", exif=exif))
    assert read_image(path).shape == (60, 40, 3)
    assert decode(path.read_bytes()).shape == (40, 60, 3)


@pytest.mark.parametrize(
    ("size", "side", "expected"),
    [
        ((375, 500), 256, (256, 341)),
        ((500, 375), 256, (341, 256)),
        ((100, 100), 480, (480, 480)),
        ((64, 90), 64, (64, 90)),
    ],
)
def test_shorter_side_rounds_the_longer_down(size: tuple[int, int], side: int, expected: tuple[int, int]) -> None:
    assert resize_shorter_side(picture(1, *size), side).shape[:2] == expected


SIZED: list[tuple[str, dict[str, object]]] = [
    ("JPEG", {}),
    ("PNG", {}),
    ("GIF", {}),
    ("BMP", {}),
    ("WEBP", {}),
    ("WEBP", {"lossless": True}),
    ("WEBP", {"exif": b"Exif"}),
    ("TIFF", {}),
    ("TIFF", {"compression": "tiff_lzw", "big_tiff": True}),
    ("JPEG2000", {}),
    ("JPEG2000", {"no_jp2": True}),
    ("AVIF", {}),
]


@pytest.mark.parametrize(("kind", "options"), SIZED)
def test_sizes_are_known_before_decoding(kind: str, options: dict[str, object]) -> None:
    data = saved(PIL.Image.fromarray(picture(1, 37, 53)), kind, **options)
    assert claimed_size(data) == (37, 53)
    assert all(claimed_size(data[:end]) in (None, (37, 53), (1, 1)) for end in range(20))


@pytest.mark.parametrize("ending", [".hdr", ".ras"])
def test_sizes_of_rare_kinds_are_known_too(ending: str) -> None:
    data = cv2.imencode(ending, picture(1, 37, 53))[1].tobytes()
    assert claimed_size(data) == (37, 53)
    assert decode(data).shape == (37, 53, 3)
    with pytest.raises(ValueError, match=r"claims 53 x 37 pixels|tells no size"):
        Encoded(data[: len(data) // 2], NOTHING, 1000)


def tiff(tags: dict[int, int]) -> bytes:
    """A grey TIFF (TIFF 6.0) of a few bytes with these tags, each one number."""
    tags = {258: 8, 259: 1, 262: 1, 277: 1} | tags
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, tags[tag]) for tag in sorted(tags))
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(300)


@pytest.mark.parametrize(
    "tags",
    [
        {256: 20_000, 257: 20_000, 273: 200, 278: 20_000, 279: 100},
        {256: 16, 257: 16, 322: 20_000, 323: 20_000, 324: 200, 325: 100},
    ],
    ids=["strip", "tile"],
)
def test_a_tiff_is_measured_by_what_is_decoded_at_a_time(tags: dict[int, int]) -> None:
    data = tiff(tags)
    for read in (lambda: read_upright(data, 0), lambda: Encoded(data, NOTHING, MAX_PIXELS)):
        with pytest.raises(ValueError, match="claims 20000 x 20000 pixels"):
            read()


def test_a_header_that_hides_its_size_is_refused() -> None:
    data = saved(PIL.Image.fromarray(picture(1, 37, 53)), "TIFF")
    with pytest.raises(ValueError, match="tells no size"):
        read_upright(data[:4] + bytes(4) + data[8:], 0)


def test_small_files_that_claim_too_much_are_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    side = 20_000
    old = struct.pack("<IHHHH", 12, side, side, 1, 24)
    bitmap = struct.pack("<IiiHHIIiiII", 40, side, -side, 1, 8, 1, 0, 0, 0, 256, 0)
    gif = b"GIF89a" + struct.pack("<HHBBB", side, side, 0x80, 0, 0) + bytes(30)
    monkeypatch.setattr("resnet_v2.data.jpeg.decode", lambda _: pytest.fail("it was decoded"))
    for data in (gif, *(b"BM" + bytes(12) + header + bytes(40) for header in (old, bitmap))):
        with pytest.raises(ValueError, match="20000 x 20000 pixels, more than `max_pixels`"):
            Encoded(data, NOTHING, 10_000)


def _claiming(data: bytes, side: int) -> bytes:
    """A JPEG whose frame header says `side` x `side` pixels."""
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", side, side) + data[at + 4 :]


@pytest.mark.parametrize("after", [b"\x01", b"\xd0", b"\xd7", b"\xe1\0\0", b"\xe1\0\1", b"\xff"])
def test_markers_without_a_length_hide_no_size(after: bytes) -> None:
    """The decoder passes over them, so whoever reads the claim has to."""
    before = b"\xff" + after
    small, large = (_claiming(encode(picture(0, 16, 16), ".jpg", 90), side) for side in (16, 20000))
    data = large[:2] + before + large[2:]
    # Taken for a length, what follows leads to another header, which claims little.
    data += bytes(max(0, 6 + 0xFFE0 - len(data))) + small[2:]
    assert claimed_size(data) == (20000, 20000)
    for read in (lambda: read_upright(data, 0), lambda: Encoded(data, NOTHING, 1 << 20)):
        with pytest.raises(ValueError, match="claims 20000 x 20000 pixels"):
            read()


def test_a_size_that_only_the_decoder_sees_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jpeg, "claimed_size", lambda data: (8, 8))
    with pytest.raises(ValueError, match="two sizes"):
        decode(encode(picture(0, 16, 16), ".jpg", 90))


@pytest.mark.parametrize("reduction", [2, 4, 8])
@pytest.mark.parametrize("quality", [70, 95])
def test_a_jpeg_can_be_decoded_smaller(reduction: int, quality: int) -> None:
    """Cut or whole, it is close to a whole image that is made smaller by area; so are boxes of it."""
    pixels = cv2.GaussianBlur(picture(5, 480, 640), (0, 0), 4).astype(np.uint8)
    data = encode(pixels, ".jpg", quality)
    image = Encoded(data, find_segments(data), MAX_PIXELS)
    for box in (Box(0, 480, 0, 640), Box(32, 400, 64, 320), Box(97, 331, 201, 555)):
        (part,) = cut_all([image], [box])
        smaller = image.decode(box, part, reduction)[..., :3]
        edges = box.reduced(reduction)
        grown = Box(*(edge * reduction for edge in edges))
        expected = cv2.resize(
            grown.of(decode(data)), (smaller.shape[1], smaller.shape[0]), interpolation=cv2.INTER_AREA
        )
        assert smaller.shape[:2] == (edges.bottom - edges.top, edges.right - edges.left)
        assert np.abs(smaller.astype(int) - expected).mean() < 2


def _webp_of(side: int, quality: int) -> bytes:
    return cv2.imencode(".webp", np.zeros((side, side, 3), np.uint8), [cv2.IMWRITE_WEBP_QUALITY, quality])[1].tobytes()


@pytest.mark.parametrize("quality", [50, 101])  # with loss, without
@pytest.mark.parametrize("bare", [False, True])
def test_a_webp_hides_no_size(quality: int, bare: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """libwebp also takes what stands inside a file for the whole one: 1 kB that decodes to 4000 x 4000 pixels."""
    data = _webp_of(4000, quality)[20 if bare else 0 :]
    assert claimed_size(data) == (4000, 4000)
    monkeypatch.setattr("resnet_v2.data.jpeg.decode", lambda _: pytest.fail("it was decoded"))
    with pytest.raises(ValueError, match="claims 4000 x 4000 pixels"):
        Encoded(data, NOTHING, 1 << 20)


def test_a_webp_whose_canvas_is_smaller_than_its_image_is_not_decoded() -> None:
    inside = _webp_of(4000, 101)[12:]
    canvas = b"VP8X" + struct.pack("<I", 10) + bytes(4) + (29).to_bytes(3, "little") + (19).to_bytes(3, "little")
    body = b"WEBP" + canvas + inside
    data = b"RIFF" + struct.pack("<I", len(body)) + body
    assert claimed_size(data) == (20, 30)
    with pytest.raises(ValueError, match="no image"):
        decode(data)


def test_a_text_that_begins_with_a_slash_claims_nothing() -> None:
    assert claimed_size(b"/usr/share/pictures and more of them") is None
    assert claimed_size(b"/") is None


@pytest.mark.parametrize("size", [(60, 40), (300, 200)])
def test_what_is_changed_for_the_decoder_stays_in_the_record(size: tuple[int, int], tmp_path: Path) -> None:
    """Without markers a JPEG is told to end below the crop; when it turns out to be CMYK, all of it is decoded."""
    files = [saved(PIL.Image.new(mode, size, 50), "JPEG") for mode in ("RGB", "CMYK")]
    with writing(tmp_path / "a.rec") as writer:
        for key, data in enumerate(files):
            writer.write(key, pack(IRHeader(0, 0.0, key, 0), data))
    reader = RecordReader(tmp_path / "a.rec")
    for found, data in zip(
        find_images([reader.source], [0] * len(reader), reader.offsets.tolist()), files, strict=True
    ):
        assert isinstance(found, Found)
        image, whole = Encoded(found.image, NOTHING, MAX_PIXELS), decode(data)
        for box in (Box(0, 10, 0, 30), Box(30, 40, 10, 20), Box(0, size[1], 0, size[0])):
            assert np.array_equal(image.decode(box)[..., :3], box.of(whole))
