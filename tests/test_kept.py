"""Small images that are kept decoded: the same bytes as decoded each time, and what is not fit to be kept."""

import gc
import weakref
from pathlib import Path

import numpy as np
import pytest

from conftest import picture
from resnet_v2.data import kept as module
from resnet_v2.data.augment import Augmentation, augmentation
from resnet_v2.data.filling import Augmented, Centred, Job
from resnet_v2.data.jpeg import encode
from resnet_v2.data.kept import kept, kept_for
from resnet_v2.data.labels import Labels
from resnet_v2.data.loader import Batch, Loader, Reading, batches
from resnet_v2.data.order import split
from resnet_v2.data.records import IRHeader, RecordReader, pack, writing
from resnet_v2.data.stored import Found
from resnet_v2.errors import ResnetError

COUNT = 60


def made(folder: Path, encoding: str = ".png", odd: dict[int, bytes] | None = None) -> RecordReader:
    with writing(folder / "a.rec") as writer:
        for key in range(COUNT):
            data = (odd or {}).get(key) or encode(picture(key, 32, 36), encoding, 3 if encoding == ".png" else 90)
            writer.write(key, pack(IRHeader(0, float(key % 5), key, 0), data))
    return RecordReader(folder / "a.rec")


def load(reader: RecordReader, plan: Augmentation, epochs: int = 2, **reading: object) -> list[Batch]:
    loader = Loader(reader, plan, seed=4, batch_size=16, classes=5, reading=Reading(**reading))  # type: ignore[arg-type]
    return [batch for _ in range(epochs) for batch in loader]


PLANS = {
    "level 1": augmentation(1, 32, imagenet=False),
    "smaller": Augmentation(24, pad=2),
    "larger": Augmentation(40, pad=6),
    "unmirrored": Augmentation(32, pad=4, mirror=False),
    "level 2, which warps": augmentation(2, 32, imagenet=False),
}


@pytest.mark.parametrize("encoding", [".png", ".jpg"])
@pytest.mark.parametrize("name", PLANS)
def test_batches_are_those_of_images_that_are_decoded_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, encoding: str
) -> None:
    reader = made(tmp_path, encoding)
    found = load(reader, PLANS[name])
    assert (kept(reader) is not None) and len(found) == 8
    monkeypatch.setattr(module, "LARGEST_SIDE", 0)
    again = load(RecordReader(reader.path), PLANS[name])
    for one, other in zip(found, again, strict=True):
        assert np.array_equal(one.images, other.images)
        assert np.array_equal(one.labels, other.labels)


def test_evaluation_is_the_same_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = made(tmp_path)

    def centres(reader: RecordReader) -> list[Batch]:
        steps = split(np.arange(COUNT), 16)
        return list(batches(reader, steps, Centred(28), (28, 28, 3), 5, Reading()))

    found = centres(reader)
    monkeypatch.setattr(module, "LARGEST_SIDE", 0)
    for one, other in zip(found, centres(RecordReader(reader.path)), strict=True):
        assert np.array_equal(one.images, other.images)


def test_each_image_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = made(tmp_path)
    expected = load(reader, PLANS["level 1"], epochs=3)
    decoded: list[int] = []
    keep = module.Kept._keep

    def counted(self: module.Kept, ordinal: int, found: Found) -> None:
        decoded.append(ordinal)
        keep(self, ordinal, found)

    monkeypatch.setattr(module.Kept, "_keep", counted)
    found = load(RecordReader(reader.path), PLANS["level 1"], epochs=3)
    assert sorted(decoded) == list(range(COUNT))
    assert all(np.array_equal(one.images, other.images) for one, other in zip(found, expected, strict=True))


def test_images_of_another_size_come_as_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = {7: encode(picture(7, 50, 41), ".png", 3), 9: encode(picture(9, 200, 300), ".jpg", 90)}
    reader = made(tmp_path, odd=odd)
    found = load(reader, PLANS["level 1"])
    monkeypatch.setattr(module, "LARGEST_SIDE", 0)
    for one, other in zip(found, load(RecordReader(reader.path), PLANS["level 1"]), strict=True):
        assert np.array_equal(one.images, other.images)


def test_bad_ones_are_named_or_skipped(tmp_path: Path) -> None:
    reader = made(tmp_path, odd={11: b"no image"})
    with pytest.raises(ResnetError, match="the image of record 11 cannot be decoded"):
        load(reader, PLANS["level 1"], epochs=1)
    skipped: list[str] = []
    found = load(reader, PLANS["level 1"], epochs=1, on_skip=skipped.append)
    ordinals = np.concatenate([batch.ordinals for batch in found])
    assert len(skipped) == 1
    assert sorted(ordinals.tolist()) == sorted([*range(11), 12, *range(12, COUNT)])
    with pytest.raises(ResnetError, match="has the label 4, but the classes are 0 to 3"):
        list(Loader(reader, PLANS["level 1"], seed=0, batch_size=16, classes=4))


def test_what_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def job(plan: Augmentation) -> Job:
        return Job(tmp_path, Augmented(plan, 0, 0), Labels(5), 1 << 20, False)

    reader = made(tmp_path)
    assert kept_for(job(PLANS["level 1"]), reader) is not None
    assert kept_for(job(PLANS["level 2, which warps"]), reader) is None
    assert kept_for(job(Augmentation(64)), reader) is None  # it would be enlarged
    for room, sharers, wanted in ((8 * COUNT * 32 * 36 * 3, 1, True), (8 * COUNT * 32 * 36 * 3, 2, False)):
        monkeypatch.setattr(module, "free_memory", lambda room=room: room)
        assert (kept(RecordReader(reader.path), sharers) is not None) == wanted


def test_a_reader_that_nobody_has_any_more_is_closed(tmp_path: Path) -> None:
    """With its images: a process that opens many records would else run out of files and memory."""
    with writing(tmp_path / "a.rec") as writer:
        writer.write(0, pack(IRHeader(0, 0.0, 0, 0), encode(picture(0, 20, 20), ".png", 3)))
    reader = RecordReader(tmp_path / "a.rec")
    list(batches(reader, split(np.arange(1), 1), Centred(20), (20, 20, 3), 1, Reading()))
    images = weakref.ref(kept(reader))
    assert images() is not None
    del reader
    gc.collect()
    assert images() is None
