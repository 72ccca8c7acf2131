"""Images as they lie in a record: found by their heads, read piece by piece, and what is wrong with others."""

import os
from pathlib import Path

import numpy as np
import pytest

from resnet_v2.data.records import MAGIC_BYTES, IRHeader, RecordReader, pack, writing
from resnet_v2.data.stored import HEAD_BYTES, Found, NoImageRecordError, OnDisk, find_images

SIZES = (1, 40, 991, 992, 993, 999, 1000, 1001, 1023, 1024, 1025, 5000, 100_000)


def noise(size: int) -> bytes:
    return np.random.default_rng(size).integers(0, 200, size).astype(np.uint8).tobytes()


def record(folder: Path, payloads: list[bytes]) -> RecordReader:
    with writing(folder / "a.rec") as writer:
        for key, payload in enumerate(payloads):
            writer.write(key, payload)
    return RecordReader(folder / "a.rec")


def find_all(reader: RecordReader, offsets: list[int]) -> list[Found | ValueError]:
    return find_images([reader.source], [0] * len(offsets), offsets)


@pytest.mark.parametrize("labels", [1, 3, 300])
def test_images_are_whole_whatever_their_size(tmp_path: Path, labels: int) -> None:
    label = 5.0 if labels == 1 else np.arange(labels, dtype=np.float32)
    reader = record(tmp_path, [pack(IRHeader(0, label, size, 7), noise(size)) for size in SIZES])
    for found, size in zip(find_all(reader, reader.offsets.tolist()), SIZES, strict=True):
        assert isinstance(found, Found)
        assert (found.image.size, found.header.id, found.header.id2) == (size, size, 7)
        assert np.array_equal(found.header.label, label)
        data = noise(size)
        assert data.startswith(bytes(found.image.head))
        assert found.image.all() == data
        for first in (0, 1, size // 2, size - 1):
            for last in (first, min(first + 10, size), size):
                assert found.image.read(first, last) == data[first:last]
    assert sum(isinstance(one, Found) and type(one.image) is OnDisk for one in find_all(reader, [0])) == (
        4 * labels + 32 < HEAD_BYTES
    )


def test_a_record_of_several_parts_is_put_together(tmp_path: Path) -> None:
    data = noise(4000) + MAGIC_BYTES + noise(400)
    reader = record(tmp_path, [pack(IRHeader(0, 1.0, 0, 0), data), pack(IRHeader(0, 2.0, 1, 0), noise(9))])
    found = find_all(reader, reader.offsets.tolist())
    assert [bytes(one.image.all()) for one in found if isinstance(one, Found)] == [data, noise(9)]


def test_what_is_none_is_said(tmp_path: Path) -> None:
    reader = record(
        tmp_path, [b"short", noise(2000), pack(IRHeader(0, 1.0, 0, 0), b""), pack(IRHeader(0, 1.0, 3, 0), b"x" * 2000)]
    )
    found = find_all(reader, [*reader.offsets.tolist(), 4])
    assert [type(one) for one in found] == [NoImageRecordError, NoImageRecordError, Found, Found, ValueError]
    assert "5 bytes are too few for an image header" in str(found[0])
    assert "labels" in str(found[1])
    assert "where the magic number" in str(found[4])


def test_a_file_that_becomes_shorter_is_said(tmp_path: Path) -> None:
    reader = record(tmp_path, [pack(IRHeader(0, 1.0, 0, 0), noise(5000)), pack(IRHeader(0, 1.0, 1, 0), noise(5000))])
    first, second = find_all(reader, reader.offsets.tolist())
    assert isinstance(second, Found)
    os.truncate(reader.path, int(reader.offsets[1]) + 3000)
    assert isinstance(first, Found)
    assert first.image.all() == noise(5000)
    assert second.image.read(1500, 2500) == noise(5000)[1500:2500]
    with pytest.raises(ValueError, match="the file ends inside it"):
        second.image.all()
