"""The loader: every image once, the same bytes for any number of workers, errors that name the record."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from conftest import picture
from resnet_v2.data.augment import augmentation
from resnet_v2.data.filling import Centred
from resnet_v2.data.jpeg import decode, encode
from resnet_v2.data.loader import BATCHES_AHEAD, Batch, Loader, Reading, _task_images, batches
from resnet_v2.data.order import epoch_order, split
from resnet_v2.data.records import IRHeader, RecordReader, pack, writing
from resnet_v2.data.worker import DONE, TASK
from resnet_v2.errors import ResnetError


@pytest.fixture
def reader(tmp_path: Path) -> RecordReader:
    with writing(tmp_path / "a.rec") as writer:
        for key in range(50):
            data = encode(picture(key, 40 + key % 3, 36), ".jpg", 90)
            writer.write(key, pack(IRHeader(0, float(key % 7), key, 0), data))
    return RecordReader(tmp_path / "a.rec")


def load(reader: RecordReader, workers: int, epoch: int = 0, classes: int = 7) -> list[Batch]:
    plan = augmentation(3, 32, imagenet=False)
    reading = Reading(workers=workers)
    return list(Loader(reader, plan, seed=0, batch_size=16, classes=classes, epoch=epoch, reading=reading))


def centres(reader: RecordReader, ordinals: list[int], batch_size: int, **reading: Any) -> list[Batch]:
    steps = split(np.array(ordinals), batch_size)
    return list(batches(reader, steps, Centred(32), (32, 32, 3), 7, Reading(**reading)))


def test_bytes_do_not_depend_on_workers(reader: RecordReader) -> None:
    expected = load(reader, 0)
    for workers in (1, 2, 5):
        for one, other in zip(expected, load(reader, workers), strict=True):
            assert np.array_equal(one.images, other.images)
            assert np.array_equal(one.labels, other.labels)


def test_every_image_once_in_the_epochs_order(reader: RecordReader) -> None:
    epochs = [load(reader, 2, epoch) for epoch in (0, 1)]
    orders = [np.concatenate([batch.ordinals for batch in epoch]) for epoch in epochs]
    assert not np.array_equal(orders[0], orders[1])
    for epoch, order in zip(epochs, orders, strict=True):
        assert np.array_equal(np.sort(order), np.arange(50))
        assert [len(batch.labels) for batch in epoch] == [16, 16, 16, 2]
        assert np.array_equal(np.concatenate([batch.labels for batch in epoch]), order % 7)


def test_augmentation_changes_with_the_epoch(reader: RecordReader) -> None:
    first = {
        int(o): image for batch in load(reader, 2, 0) for o, image in zip(batch.ordinals, batch.images, strict=True)
    }
    second = {
        int(o): image for batch in load(reader, 2, 1) for o, image in zip(batch.ordinals, batch.images, strict=True)
    }
    assert sum(np.array_equal(first[ordinal], second[ordinal]) for ordinal in first) == 0


def test_evaluation_takes_the_centre(reader: RecordReader) -> None:
    (batch,) = centres(reader, [*range(5)], 5)
    pixels = decode(reader.image(3)[1])
    top = (pixels.shape[0] - 32) // 2
    assert np.array_equal(batch.images[3], pixels[top : top + 32, 2:34])


def test_labels_outside_the_classes_are_named(reader: RecordReader) -> None:
    with pytest.raises(ResnetError, match=r"a\.rec: record \d+ has the label 6, but the classes are 0 to 5"):
        load(reader, 2, classes=6)


def test_bad_images_are_named(tmp_path: Path) -> None:
    with writing(tmp_path / "b.rec") as writer:
        writer.write(0, pack(IRHeader(0, 0.0, 0, 0), b"no image"))
        writer.write(1, b"short")
    reader = RecordReader(tmp_path / "b.rec")
    for ordinal, words in ((0, "the image of record 0 cannot be decoded"), (1, "record 1 is not an image record")):
        with pytest.raises(ResnetError, match=words):
            centres(reader, [ordinal], 1)


def damage(reader: RecordReader, ordinals: list[int]) -> None:
    with reader.path.open("rb+") as file:
        for ordinal in ordinals:
            file.seek(int(reader.offsets[ordinal]) + 8 + 24)
            file.write(b"no image")


def test_bad_records_can_be_skipped_and_the_count_stays(reader: RecordReader) -> None:
    damage(reader, [17])
    for workers in (0, 2):
        skipped: list[str] = []
        found = centres(reader, [*range(50)], 16, workers=workers, on_skip=skipped.append)
        ordinals = np.concatenate([batch.ordinals for batch in found])
        assert ordinals.tolist() == [*range(17), 18, *range(18, 50)]
        assert np.array_equal(np.concatenate([batch.labels for batch in found]), ordinals % 7)
        assert len(skipped) == 1
        assert "the image of record 17" in skipped[0]


def test_too_many_bad_records_end_the_epoch(reader: RecordReader) -> None:
    damage(reader, [3, 4, 5, 20, 21])
    with pytest.raises(ResnetError, match=r"more than one record in a hundred is bad|cannot be decoded"):
        centres(reader, [*range(50)], 16, on_skip=print)


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), ResnetError("https://a/b.rec does not answer.")])
def test_a_storage_that_fails_is_no_bad_record(
    reader: RecordReader, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr("resnet_v2.data.filling.find_images", fails)
    skipped: list[str] = []
    with pytest.raises(type(error)):
        centres(reader, [*range(50)], 16, workers=0, on_skip=skipped.append)
    assert not skipped


def test_opencv_starts_no_threads_beside_the_loaders(reader: RecordReader) -> None:
    cv2.setNumThreads(2)
    centres(reader, [0], 1)
    assert cv2.getNumThreads() == 1


def test_a_loop_may_stop_early(reader: RecordReader) -> None:
    stream = batches(reader, split(np.arange(50), 2), Centred(32), (32, 32, 3), 7, Reading(workers=2))
    assert next(stream).ordinals.tolist() == [0, 1]
    stream.close()


def test_orders() -> None:
    assert np.array_equal(epoch_order(1000, 1, 2), epoch_order(1000, 1, 2))
    assert not np.array_equal(epoch_order(1000, 1, 2), epoch_order(1000, 2, 2))


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_ranks_share_every_step_and_lose_nothing(reader: RecordReader, world_size: int) -> None:
    whole = load(reader, 2)
    parts = [
        list(
            Loader(
                reader,
                augmentation(3, 32, imagenet=False),
                seed=0,
                batch_size=16,
                classes=7,
                rank=rank,
                world_size=world_size,
            )
        )
        for rank in range(world_size)
    ]
    for batch, *shares in zip(whole, *parts, strict=True):
        assert np.array_equal(batch.ordinals, np.concatenate([share.ordinals for share in shares]))
        assert np.array_equal(batch.images, np.concatenate([share.images for share in shares]))
        sizes = [len(share.labels) for share in shares]
        assert max(sizes) - min(sizes) <= 1
    if world_size == 3:
        assert [len(share[-1].labels) for share in parts] == [0, 1, 1]  # two images for three ranks


def test_a_loader_goes_on_where_another_stopped(reader: RecordReader) -> None:
    def new(rank: int = 0, world_size: int = 1, seed: int = 3) -> Loader:
        return Loader(
            reader,
            augmentation(1, 32, imagenet=False),
            seed=seed,
            batch_size=16,
            classes=7,
            rank=rank,
            world_size=world_size,
        )

    never_stopped = new()
    expected = [*never_stopped, *never_stopped]
    loader = new()
    found = []
    for _ in range(8):
        found.append(next(iter(loader)))  # the rest of the epoch is thrown away
        state = loader.state_dict()
        loader = new()
        loader.load_state_dict(state)
        if loader.step == loader.steps:
            assert list(loader) == []
    assert len(expected) == 8
    for one, other in zip(expected, found, strict=True):
        assert np.array_equal(one.ordinals, other.ordinals)
        assert np.array_equal(one.images, other.images)

    half = new(rank=1, world_size=2)
    half.load_state_dict({**new().state_dict(), "epoch": 1, "step": 2})
    assert np.array_equal(next(iter(half)).ordinals, expected[6].ordinals[8:])
    with pytest.raises(ResnetError, match="saved with seed 3, but it is 4 now"):
        new(seed=4).load_state_dict(loader.state_dict())


@pytest.mark.parametrize(
    ("count", "workers", "wanted"), [(64, 2, 32), (64, 0, 64), (0, 0, 1), (20, 16, 8), (256, 2, 64)]
)
def test_a_batch_is_shared_out(count: int, workers: int, wanted: int) -> None:
    assert _task_images(count, workers) == wanted


def test_the_tasks_of_the_largest_batch_fit_into_a_pipe() -> None:
    """Else a process that writes tasks would wait for workers that wait for it to read their answers."""
    tasks = -(-(10**6) // _task_images(10**6, 512))
    assert 2 * BATCHES_AHEAD * tasks * max(TASK.size, DONE.size) < 1 << 16
