"""Who makes images: how many workers there usually are, and threads where there can be none."""

import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import misfortune
from misfortune import SIDE, stream
from resnet_v2.data import hands
from resnet_v2.data.jpeg import decode, encode
from resnet_v2.data.records import IRHeader, RecordReader, pack, writing
from resnet_v2.errors import ResnetError


@pytest.mark.parametrize(
    ("cores", "sharers", "computes", "gibibytes", "wanted"),
    [
        (1, 1, True, 16, 1),
        (2, 1, True, 16, 1),
        (2, 1, False, 16, 2),
        (4, 1, False, 16, 4),
        (16, 1, False, 64, 15),
        (16, 1, True, 64, 8),
        (16, 4, False, 64, 4),
        (64, 8, False, 512, 7),
        (2, 4, False, 16, 1),
        (16, 1, False, 4, 6),  # a worker takes memory
        (16, 2, False, 4, 3),
        (16, 1, False, 0, 15),  # nobody tells how much there is
    ],
)
def test_how_many_workers(
    monkeypatch: pytest.MonkeyPatch, cores: int, sharers: int, computes: bool, gibibytes: int, wanted: int
) -> None:
    monkeypatch.setattr(hands, "processors", lambda: cores)
    monkeypatch.setattr(hands, "free_memory", lambda: gibibytes << 30)
    assert hands.usual_workers(sharers, computes) == wanted


def test_threads_do_where_processes_cannot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with writing(tmp_path / "a.rec") as writer:
        for key in range(20):
            pixels = np.random.default_rng(key).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
            writer.write(key, pack(IRHeader(0, 0.0, key, 0), encode(pixels, ".jpg", 90)))
    reader = RecordReader(tmp_path / "a.rec")
    monkeypatch.setattr(sys, "platform", "win32")
    for batch in stream(reader, count=3):
        for image, ordinal in zip(batch.images, batch.ordinals.tolist(), strict=True):
            assert np.array_equal(image, decode(bytes(reader.image(ordinal)[1])))
    with pytest.raises(OSError, match="Input/output error"):
        list(stream(reader, "error", count=3))
    with pytest.raises(ResnetError, match="is damaged"):
        reader.offsets[3] += 4
        list(stream(reader, count=3))


def test_threads_are_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The garbage collector closes what was left amid a record, and may interrupt whom the threads wait for."""
    with writing(tmp_path / "a.rec") as writer:
        for key in range(20):
            pixels = np.full((SIDE, SIDE, 3), key, np.uint8)
            writer.write(key, pack(IRHeader(0, 0.0, key, 0), encode(pixels, ".jpg", 90)))
    monkeypatch.setattr(sys, "platform", "win32")
    gate, patient = threading.Event(), []
    clock = SimpleNamespace(sleep=lambda seconds: patient.append(gate.wait(5)))
    monkeypatch.setattr(misfortune, "time", clock)
    coming = stream(RecordReader(tmp_path / "a.rec"), "hang", count=3, batch_size=9)
    next(coming)
    coming.close()  # record 17 is being made
    assert not patient
    gate.set()
    for thread in threading.enumerate():
        if thread.name.startswith("loader"):
            thread.join(5)
            assert not thread.is_alive()
