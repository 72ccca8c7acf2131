"""The loader for training loops of others: epochs, state, evaluation, and what it says of a wrong word."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from conftest import picture
from resnet_v2.data.jpeg import decode, encode
from resnet_v2.data.library import RecordLoader
from resnet_v2.data.records import IRHeader, RecordReader, pack, writing
from resnet_v2.errors import ResnetError


@pytest.fixture(scope="module")
def rec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("library") / "a.rec"
    with writing(path) as writer:
        for key in range(30):
            data = encode(picture(key, 90 + key % 3, 80), ".jpg", 90)
            writer.write(key, pack(IRHeader(0, float(key % 7), key, 0), data))
    return path


def loader(rec: Path, **settings: Any) -> RecordLoader:
    usual: dict[str, Any] = {"batch_size": 8, "size": 72, "augment": "level-3", "workers": 0}
    return RecordLoader(rec, **(usual | settings))


@pytest.mark.parametrize("augment", ["level-1", "level-2", "level-3", "rrc"])
def test_epochs_follow_one_another_and_can_be_left_anywhere(rec: Path, augment: str) -> None:
    whole = loader(rec, augment=augment)
    assert len(whole) == 4
    expected = [*whole, *whole]
    assert whole.epoch == 2
    images, labels = expected[0]
    assert (images.shape, images.dtype, labels.shape, labels.dtype) == ((8, 72, 72, 3), np.uint8, (8,), np.int64)
    state: dict[str, int] = {}
    found: list[tuple[NDArray[np.uint8], NDArray[np.int64]]] = []
    for stop in (3, 2, 3):
        part = loader(rec, augment=augment)
        if state:
            part.load_state_dict(state)
        for number, batch in enumerate(part, start=1):
            found.append(batch)
            if number == stop:
                break
        state = part.state_dict()
    assert (state["epoch"], state["step"]) == (1, 3)
    for one, other in zip(found, expected[:7], strict=True):
        assert np.array_equal(one[0], other[0])
        assert np.array_equal(one[1], other[1])


def test_ranks_share_every_batch(rec: Path) -> None:
    whole = list(loader(rec))
    ranks = [list(loader(rec, rank=rank, world_size=3)) for rank in range(3)]
    for (images, labels), *parts in zip(whole, *ranks, strict=True):
        assert np.array_equal(images, np.concatenate([part[0] for part in parts]))
        assert np.array_equal(labels, np.concatenate([part[1] for part in parts]))


def test_evaluation_takes_the_centre_in_the_order_of_the_record(rec: Path) -> None:
    reader = RecordReader(rec)
    for _ in range(2):
        found = list(loader(rec, augment="centre", workers=2))
        assert np.concatenate([labels for _, labels in found]).tolist() == [key % 7 for key in range(30)]
        images = np.concatenate([images for images, _ in found])
        for key in range(30):
            pixels = decode(bytes(reader.image(key)[1]))
            top = (pixels.shape[0] - 72) // 2
            assert np.array_equal(images[key], pixels[top : top + 72, 4:76])


def test_what_is_wrong_is_said(rec: Path, tmp_path: Path) -> None:
    with pytest.raises(ResnetError, match="take level-1, level-2, level-3, rrc or centre"):
        loader(rec, augment="level-4")
    with pytest.raises(ResnetError, match="has the label 6, but the classes are 0 to 5"):
        list(loader(rec, classes=6))
    with pytest.raises(ResnetError, match=r"none\.rec is missing"):
        loader(tmp_path / "none.rec")
