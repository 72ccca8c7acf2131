"""Large and turned photos: upright, of the right size, and as a whole decode would have them."""

import io

import cv2
import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest

from conftest import picture
from resnet_v2.data.jpeg import decode, resize_shorter_side
from resnet_v2.packing.photos import check_image, read_upright


def test_large_jpegs_are_decoded_small_and_look_the_same() -> None:
    for height, width, side in ((1201, 1613, 300), (1613, 1201, 590), (2000, 2001, 240), (999, 4001, 49)):
        buffer = io.BytesIO()
        PIL.Image.fromarray(picture(height, height, width)).save(buffer, "JPEG", quality=95)
        expected = resize_shorter_side(decode(buffer.getvalue()), side)
        found = read_upright(buffer.getvalue(), side)
        assert found.shape == expected.shape
        assert np.abs(found.astype(int) - expected).mean() < 2


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("side", [0, 30, 100])
def test_turned_photos_become_upright(orientation: int, side: int) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    PIL.Image.fromarray(picture(5, 90, 130)).save(buffer, "JPEG", quality=95, exif=exif)
    expected = decode(_upright_png(buffer.getvalue()))
    expected = resize_shorter_side(expected, side) if side else expected
    found = read_upright(buffer.getvalue(), side)
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).mean() < 2.5


@pytest.mark.parametrize("encoding", ["PNG", "WEBP"])
def test_other_files_are_turned_too(encoding: str) -> None:
    exif, buffer = PIL.Image.Exif(), io.BytesIO()
    exif[0x0112] = 6
    image = PIL.Image.fromarray(picture(5, 90, 130))
    image.save(buffer, encoding, exif=exif, lossless=True)
    assert np.array_equal(read_upright(buffer.getvalue(), 0), np.rot90(np.asarray(image), -1))
    assert np.array_equal(decode(buffer.getvalue()), np.asarray(image))


def _upright_png(jpeg: bytes) -> bytes:
    buffer = io.BytesIO()
    PIL.ImageOps.exif_transpose(PIL.Image.open(io.BytesIO(jpeg))).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    "exif", [b"", b"XX", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\0\xff", b"II*\0\x08\0\0\0\x01\0"]
)
def test_damaged_exif_is_passed_over(exif: bytes) -> None:
    buffer = io.BytesIO()
    PIL.Image.fromarray(picture(5, 40, 60)).save(buffer, "JPEG", exif=b"Exif\0\0" + exif)
    assert np.array_equal(read_upright(buffer.getvalue(), 0), decode(buffer.getvalue()))


@pytest.mark.parametrize("mode", ["L", "CMYK", "P", "RGBA"])
@pytest.mark.parametrize("side", [0, 20, 100])
def test_every_kind_of_file(mode: str, side: int) -> None:
    for encoding in ("JPEG", "PNG"):
        if (encoding, mode) not in [("JPEG", "P"), ("JPEG", "RGBA"), ("PNG", "CMYK")]:
            buffer = io.BytesIO()
            PIL.Image.fromarray(picture(5, 90, 131)).convert(mode).save(buffer, encoding)
            check_image(buffer.getvalue())
            found = read_upright(buffer.getvalue(), side)
            assert found.shape == ((side, 131 * side // 90, 3) if side else (90, 131, 3))
            expected = resize_shorter_side(decode(buffer.getvalue()), side or 90)
            assert np.abs(found.astype(int) - expected).mean() < 5


@pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"\xff\xd8\xff\xe0 no image", b"no image"])
def test_what_is_no_image(data: bytes) -> None:
    with pytest.raises(ValueError, match="no image"):
        read_upright(data, 30)
    with pytest.raises(ValueError, match="no image"):
        check_image(data)


@pytest.mark.parametrize("side", [0, 20, 200])
def test_a_cut_file_is_refused(side: int) -> None:
    buffer = io.BytesIO()
    PIL.Image.fromarray(picture(5, 90, 131)).save(buffer, "JPEG")
    with pytest.raises(ValueError, match="Premature"):
        read_upright(buffer.getvalue()[: len(buffer.getvalue()) // 2], side)


def test_a_narrow_picture_is_not_resized_to_gigabytes() -> None:
    data = cv2.imencode(".jpg", np.zeros((65000, 1, 3), np.uint8))[1].tobytes()
    with pytest.raises(ValueError, match="1 x 65000 pixels are too narrow for a shorter side of 256"):
        read_upright(data, 256)
