"""Where the time of loading went, and what is said to help."""

from dataclasses import replace
from pathlib import Path

import pytest

from conftest import picture
from resnet_v2.data import accounts, stages
from resnet_v2.data.accounts import Account, spent
from resnet_v2.data.augment import augmentation
from resnet_v2.data.jpeg import encode
from resnet_v2.data.loader import Loader, Reading
from resnet_v2.data.records import IRHeader, RecordReader, pack, writing
from resnet_v2.data.sidecar import write_rows

NONE = dict.fromkeys(stages.NAMES, 0.0)


@pytest.fixture
def reader(tmp_path: Path) -> RecordReader:
    with writing(tmp_path / "a.rec") as writer:
        for key in range(24):
            writer.write(key, pack(IRHeader(0, 0.0, key, 0), encode(picture(key, 256, 300), ".jpg", 90)))
    return RecordReader(tmp_path / "a.rec")


@pytest.mark.parametrize("workers", [0, 2])
def test_stages_are_counted_wherever_the_work_is_done(reader: RecordReader, workers: int) -> None:
    before = spent(workers)
    plan = augmentation(2, 224, imagenet=True)
    list(Loader(reader, plan, seed=0, batch_size=8, classes=1, reading=Reading(workers)))
    account = Account.between(before, spent(workers), 24, 2.0, 0.5)
    each = [account.stages[name] / 24 for name in ("read", "prepare", "decode", "warp", "colour")]
    assert all(0 < seconds < 0.1 for seconds in each)
    assert account.stages["decode"] > account.stages["read"]
    assert str(account).startswith(f"Data: {1000 * sum(each):.3f} ms per image (read ")
    assert str(account).endswith("waited for 25.0% of the time")


def test_what_would_help(reader: RecordReader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounts, "processors", lambda: 8)
    waits = Account(NONE | {"decode": 50.0, "read": 10.0}, 1000, 20.0, 6.0)
    assert "30% of the time; what would help: more `workers` (2 of 8 cores read)" in waits.advice(reader, 2, 1)
    assert "`resnet-v2 pack`" in waits.advice(reader, 7, 1)
    write_rows(reader.path)
    assert "`store` bmp" in waits.advice(reader, 8, 1)
    assert "`store` bmp" in waits.advice(reader, 3, 2)  # of the four cores that each of two ranks has
    assert "a faster disk" in replace(waits, stages=NONE | {"read": 9.0}).advice(reader, 8, 1)
    assert "`aug_level`" in replace(waits, stages=NONE | {"colour": 9.0}).advice(reader, 8, 1)
    assert replace(waits, waited=1.0).advice(reader, 1, 1) == ""
    assert replace(waits, seconds=100.0).advice(reader, 1, 1) == ""
