"""Sliceable JPEGs: the rows of a cut are the rows of the whole image, for every kind of file; the sidecar."""

import contextlib
import io
import os
import tarfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from conftest import picture
from resnet_v2.data.augment import augmentation
from resnet_v2.data.cuts import Sliceable, cut
from resnet_v2.data.filling import Augmented, Centred
from resnet_v2.data.jpeg import Encoded, cut_all, decode, encode, resize_shorter_side
from resnet_v2.data.loader import MAX_PIXELS, Reading, batches
from resnet_v2.data.order import split
from resnet_v2.data.records import IRHeader, RecordReader, pack, writing
from resnet_v2.data.rows import Box, JpegHeader, Offsets, find_segments, read_header
from resnet_v2.data.sidecar import Rows, sidecar_path, write_rows
from resnet_v2.data.stored import InMemory
from resnet_v2.errors import ResnetError

SAMPLE = (
    Path(os.environ.get("RESNET_V2_SHARED", Path(__file__).parents[2] / "shared")) / "data" / "imagenet-sample-400.tar"
)


def saved(pixels: NDArray[np.uint8], mode: str = "RGB", **options: Any) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).convert(mode).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def opencv(data: bytes) -> NDArray[np.uint8]:
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert pixels is not None
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB).astype(np.uint8)


def check_cuts(data: bytes, seed: int) -> None:
    """Some parts of a file are the same pixels of its whole decode."""
    whole, segments = decode(data), find_segments(data)
    assert segments.size
    rng = np.random.default_rng(seed)
    height, width = whole.shape[:2]
    boxes = [Box(0, height, 0, width), Box(0, 1, 0, 1), Box(height - 1, height, width - 1, width)]
    for _ in range(3):
        (top, bottom), (left, right) = (np.sort(rng.integers(0, side, 2)).tolist() for side in (height, width))
        boxes.append(Box(top, bottom + 1, left, right + 1))
    for box in boxes:
        pixels = part_of(data, segments, box)
        inside = np.s_[box.top : box.bottom, box.left : box.right]
        assert pixels.shape == (*whole[inside].shape[:2], 4)
        assert np.array_equal(pixels[..., :3], whole[inside])


@pytest.mark.parametrize("size", [(100, 130), (97, 33), (16, 16), (17, 250), (480, 361), (1, 300), (300, 1)])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("rows", [1, 2])
def test_cuts_of_colour_images(size: tuple[int, int], subsampling: int, rows: int) -> None:
    check_cuts(
        saved(
            picture(3, 60, 60).repeat(8, 0).repeat(8, 1)[: size[0], : size[1]],
            subsampling=subsampling,
            quality=90,
            restart_marker_rows=rows,
        ),
        0,
    )


@pytest.mark.parametrize("size", [(100, 130), (97, 33)])
def test_cuts_of_grey_images(size: tuple[int, int]) -> None:
    check_cuts(saved(picture(3, *size), "L", restart_marker_rows=1), 0)


@pytest.mark.parametrize("size", [(100, 130), (97, 33), (16, 16), (480, 361)])
@pytest.mark.parametrize("options", [{"subsampling": 0}, {"subsampling": 1}, {"subsampling": 2}, {"progressive": True}])
def test_files_without_markers_are_decoded_from_the_top(size: tuple[int, int], options: dict[str, Any]) -> None:
    data = saved(picture(3, 60, 60).repeat(8, 0).repeat(8, 1)[: size[0], : size[1]], quality=90, **options)
    assert not find_segments(data).size
    whole = decode(data)
    for bottom in {1, size[0] // 3, size[0] // 2, size[0] - 17, size[0] - 1, size[0]} - {0, -1}:
        box = Box(bottom // 2, bottom, 3, size[1])
        assert np.array_equal(part_of(data, find_segments(data), box)[..., :3], box.of(whole))


def test_what_we_encode_can_be_cut() -> None:
    for seed, size in enumerate([(480, 641), (33, 50), (16, 16), (500, 480)]):
        data = encode(picture(seed, *size), ".jpg", 90)
        header = read_header(data)
        assert header is not None
        assert (header.segment_height, header.segment_width % 16) == (16, 0)
        check_cuts(data, seed)
        assert PIL.Image.open(io.BytesIO(data)).size == size[::-1]


@pytest.mark.skipif(not SAMPLE.is_file(), reason="missing ../shared: the sample of ImageNet")
def test_cuts_of_real_images() -> None:
    with tarfile.open(SAMPLE) as archive:
        files = [archive.extractfile(member) for member in archive.getmembers()]
        images = [file.read() for file in files if file is not None]
    assert len(images) >= 300
    for seed, data in enumerate(images):
        check_cuts(encode(resize_shorter_side(decode(data), 256 + seed % 40), ".jpg", 90), seed)


@pytest.mark.parametrize(
    "data",
    [
        saved(picture(1, 60, 60), progressive=True, restart_marker_rows=1),
        saved(picture(1, 60, 60)),
        saved(picture(1, 60, 60), restart_marker_blocks=3),
        saved(picture(1, 60, 60), "CMYK", restart_marker_rows=1),
        encode(picture(1, 60, 60), ".png", 3),
        encode(picture(1, 60, 60), ".jpg", 90)[:-40],
        b"",
        b"\xff\xd8",
    ],
    ids=["progressive", "plain", "odd interval", "cmyk", "png", "cut off", "empty", "start"],
)
def test_what_cannot_be_cut_has_no_segments(data: bytes) -> None:
    assert find_segments(data).size == 0
    if len(data) > 1000 and data[-2:] == b"\xff\xd9":
        whole = Encoded(data, find_segments(data), MAX_PIXELS)
        box = Box(10, 20, 3, 5)
        assert np.array_equal(whole.decode(box, cut_all([whole], [box])[0])[..., :3], box.of(decode(data)))


def cut_one(data: bytes, header: JpegHeader, segments: Offsets, wanted: Box) -> tuple[bytearray, Box] | None:
    """The part of an image, and the box of what it holds."""
    (part,) = cut([Sliceable(len(data), header, segments, wanted)])
    made = None if part is None else part.data(InMemory(data))
    return None if part is None or made is None else (made, part.held)


def part_of(data: bytes, segments: Offsets, wanted: Box) -> NDArray[np.uint8]:
    """The pixels of a box as the loader gets them."""
    image = Encoded(data, segments, MAX_PIXELS)
    return image.decode(wanted, cut_all([image], [wanted])[0])


def test_a_cut_is_a_small_jpeg() -> None:
    data = encode(picture(1, 480, 640), ".jpg", 90)
    header = read_header(data)
    assert header is not None
    assert (header.height, header.width, header.segment_height, header.segment_width) == (480, 640, 16, 80)
    part = cut_one(data, header, find_segments(data), Box(100, 200, 300, 400))
    assert part is not None
    piece, held = part
    assert held == Box(96, 208, 240, 480)
    assert PIL.Image.open(io.BytesIO(piece)).size == (240, 112)
    assert len(piece) < len(data) / 2
    assert np.array_equal(decode(bytes(piece)), opencv(bytes(piece)))


@given(st.integers(0, 10_000), st.binary(min_size=1, max_size=4))
def test_damage_never_crashes(at: int, noise: bytes) -> None:
    data = bytearray(encode(picture(1, 64, 64), ".jpg", 90))
    at %= len(data)
    data[at : at + len(noise)] = noise
    segments = find_segments(bytes(data))
    with contextlib.suppress(ValueError):
        part_of(bytes(data), segments, Box(20, 30, 0, 64))


def test_absurd_sizes_are_refused_before_memory_is_taken() -> None:
    jpeg = bytearray(encode(picture(1, 64, 64), ".jpg", 90))
    header = read_header(bytes(jpeg))
    assert header is not None
    jpeg[header.size_at : header.size_at + 4] = b"\xff\xff\xff\xff"
    png = bytearray(encode(picture(1, 64, 64), ".png", 3))
    png[16:24] = b"\x7f\xff\xff\xff\x7f\xff\xff\xff"
    for data in (bytes(jpeg), bytes(png)):
        with pytest.raises(ValueError, match="pixels, more than `max_pixels`"):
            Encoded(data, find_segments(data), MAX_PIXELS)


@pytest.fixture
def packed(tmp_path: Path) -> RecordReader:
    """Twenty records with rows: three that can be sliced, then one that cannot, and so on."""
    path = tmp_path / "a.rec"
    with writing(path) as writer:
        for key in range(20):
            pixels = picture(key, 256 + key, 300)
            data = encode(pixels, ".png" if key % 4 == 3 else ".jpg", 9 if key % 4 == 3 else 90)
            writer.write(key, pack(IRHeader(0, 0.0, key, 0), data))
    assert write_rows(path) == 15
    return RecordReader(path)


def test_the_sidecar_tells_what_a_search_finds(packed: RecordReader) -> None:
    rows = Rows.of(packed)
    for ordinal in range(20):
        assert np.array_equal(rows.segments(ordinal), find_segments(packed.image(ordinal)[1]))
        assert (rows.segments(ordinal).size == 0) == (ordinal % 4 == 3)


@pytest.mark.parametrize("level", [1, 2, 3])
def test_batches_are_the_same_with_and_without_rows(packed: RecordReader, level: int) -> None:
    preprocess = Augmented(augmentation(level, 224, imagenet=True), 0, 0)

    def load() -> list[NDArray[np.uint8]]:
        found, centre = (
            batches(packed, split(np.arange(20), 8), how, (224, 224, 3), 1, Reading(workers=2))
            for how in (preprocess, Centred(224))
        )
        return [batch.images for batch in (*found, *centre)]

    with_rows = load()
    sidecar_path(packed.path).unlink()
    assert all(np.array_equal(one, other) for one, other in zip(with_rows, load(), strict=True))


def test_records_that_cannot_be_sliced_have_fingerprints_alone(packed: RecordReader) -> None:
    with writing(packed.path) as writer:
        writer.write(0, b"short")
        writer.write(1, pack(IRHeader(0, 0.0, 1, 0), saved(picture(1, 40, 40))))
    assert write_rows(packed.path) == 0
    assert not Rows.of(RecordReader(packed.path)).segments(1).size


def test_rows_that_do_not_fit_are_refused(packed: RecordReader) -> None:
    path = sidecar_path(packed.path)
    content = path.read_bytes()
    for damaged, words in (
        (content[:-4], "is damaged"),
        (content[:10], "is damaged"),
        (b"x" + content[1:], "is damaged"),
        (content[:8] + b"\1" + content[9:], "is damaged|another state"),
        (content[:16] + b"\1" + content[17:], "belongs to another state"),
        (b"", "is damaged"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(ResnetError, match=f"({words}).*resnet-v2 index"):
            Rows.of(packed)


def test_rows_of_a_record_in_another_order_are_refused(packed: RecordReader, tmp_path: Path) -> None:
    before, payloads = sidecar_path(packed.path).read_bytes(), [bytes(packed[number]) for number in range(20)]
    with writing(packed.path) as writer:
        for key, payload in enumerate(reversed(payloads)):
            writer.write(key, payload)
    assert packed.path.stat().st_size == packed.file_bytes
    sidecar_path(packed.path).write_bytes(before)
    with pytest.raises(ResnetError, match=r"belongs to another state.*resnet-v2 index"):
        Rows.of(RecordReader(packed.path))
    write_rows(packed.path)
    with pytest.raises(ResnetError, match="packed anew while it was read"):
        Rows.of(packed)  # a run that opened the old record, at its next epoch
    sidecar_path(packed.path).write_bytes(before)
    assert Rows.of(packed).segments(0).size


def test_one_damaged_record_does_not_make_the_rows_another_record_s(packed: RecordReader) -> None:
    with packed.path.open("rb+") as file:
        file.seek(int(packed.offsets[0]) + 60)
        file.write(b"flipped")
    assert Rows.of(RecordReader(packed.path)).segments(0).size


def test_rows_that_are_cut_while_they_are_read_say_nothing(packed: RecordReader) -> None:
    rows, size = Rows.of(packed), sidecar_path(packed.path).stat().st_size
    for left in (size - 4, 200, 40, 3, 0):
        with sidecar_path(packed.path).open("rb+") as file:
            file.truncate(left)
        assert all(rows.segments(number).size == 0 for number in range(18 if left == size - 4 else 0, 20))


def test_segments_of_another_image_cost_no_pixel() -> None:
    one, other = (encode(picture(seed, 256, 300), ".jpg", 90) for seed in (1, 2))
    header, box = read_header(one), Box(100, 120, 100, 120)
    assert header is not None
    right, wrong = find_segments(one), find_segments(other)
    assert right.size == wrong.size
    assert cut_one(one, header, right, box) is not None
    shifted = np.concatenate([right[1:], right[-1:]])  # each segment in the place of the one before, whole and wrong
    beyond = np.concatenate([right[:-1], [1 << 31]]).astype(np.uint32)
    corner = Box(236, 256, 280, 300)  # where the last segment is
    for bad, place in ((wrong, box), (right[:-1], box), (right + np.uint32(1), box), (shifted, box), (beyond, corner)):
        assert cut_one(one, header, bad, place) is None
        assert np.array_equal(part_of(one, bad, place)[..., :3], place.of(decode(one)))


def test_many_images_are_cut_as_each_alone() -> None:
    """Of several sizes, one with another image's segments and one whose marker is damaged, which spoil no other."""
    rng = np.random.default_rng(3)
    files, images = [], []
    for seed in range(20):
        data = encode(picture(seed, 200 + 8 * seed, 260 + 5 * (seed % 7)), ".jpg", 90)
        header, segments = read_header(data), find_segments(data)
        assert header is not None
        top, left = int(rng.integers(0, 150)), int(rng.integers(0, 200))
        wanted = Box(top, top + int(rng.integers(1, 50)), left, left + int(rng.integers(1, 60)))
        if seed == 7:
            segments = segments + np.uint32(1)
        if seed == 11:
            segments = segments[:-2]
        files.append(data)
        images.append(Sliceable(len(data), header, segments, wanted))
    together = cut(images)
    found = [None if part is None else part.data(InMemory(data)) for part, data in zip(together, files, strict=True)]
    assert [number for number, made in enumerate(found) if made is None] == [7, 11]
    for image, part, made, data in zip(images, together, found, files, strict=True):
        assert cut_one(data, *image[1:]) == (None if part is None or made is None else (made, part.held))
        if part is not None and made is not None:
            pixels = image.wanted.within(part.held).of(decode(bytes(made)))
            assert np.array_equal(pixels, image.wanted.of(decode(data)))


def test_a_damaged_entry_in_the_middle_costs_no_pixel() -> None:
    data = encode(picture(1, 256, 300), ".jpg", 90)
    right, place = find_segments(data), Box(90, 170, 60, 240)
    whole = place.of(decode(data))
    for at in range(1, right.size - 1):
        same_marker = int(right[at - 8 if at > 8 else at])
        for value in (int(right[at]) - 1, int(right[at - 1]), int(right[at + 1]) - 2, same_marker, 0, 1 << 30):
            bad = right.copy()
            bad[at] = value
            assert np.array_equal(part_of(data, bad, place)[..., :3], whole)


def test_opencv_reads_what_we_encode() -> None:
    data = encode(picture(1, 100, 150), ".jpg", 90)
    assert np.array_equal(opencv(data), decode(data))
