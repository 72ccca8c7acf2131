"""Worker processes: the same bytes, no orphan, nothing left behind, and a sentence for each way in which they end."""

import contextlib
import gc
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from conftest import picture
from misfortune import SIDE, stream
from resnet_v2.data import workers as module
from resnet_v2.data.jpeg import Image, decode, encode
from resnet_v2.data.records import IRHeader, RecordReader, pack, writing
from resnet_v2.data.workers import workers
from resnet_v2.errors import ResnetError
from resnet_v2.inference.evaluate import judge
from resnet_v2.inference.pictures import View
from resnet_v2.networks.resnet import resnet
from resnet_v2.training.evaluate import evaluate

COUNT = 40

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows reads in threads")


@pytest.fixture
def reader(tmp_path: Path) -> RecordReader:
    with writing(tmp_path / "a.rec") as writer:
        for key in range(COUNT):
            writer.write(key, pack(IRHeader(0, 0.0, key, 0), encode(picture(key, SIDE, SIDE), ".jpg", 90)))
    return RecordReader(tmp_path / "a.rec")


@pytest.fixture(autouse=True)
def no_workers_are_left() -> Iterator[None]:
    for test in (True, False):  # those that other tests have begun, too
        for pool in module._running.values():
            pool.close()
        if test:
            yield


def pixels_of(reader: RecordReader, ordinal: int) -> Image:
    return decode(bytes(reader.image(ordinal)[1]))


def processes_of(parent: int) -> list[int]:
    """The processes whose parent it is, and which have not ended."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, its_parent = status.read_text().rpartition(")")[2].split()[:2]
            if int(its_parent) == parent and state != "Z":
                found.append(int(status.parent.name))
    return found


def listed(folder: str) -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


SAYS = {
    "crash": r"A worker that reads record 17 of .*a\.rec was ended by SIGSEGV; `resnet-v2 verify --decode`",
    "killed": r"A worker that reads record 17 of .*a\.rec was killed; where memory is short, give fewer `workers`",
    "hang": r"A worker that reads record 17 of .*a\.rec hangs",
    "stopped": r"A worker that reads record 17 of .*a\.rec hangs",
    "memory": r"A worker that reads .*a\.rec has no memory left; give fewer `workers`",
    "exit": r"A worker that reads record 17 of .*a\.rec ended with status 3; what it printed says why",
}


@pytest.mark.parametrize("kind", SAYS)
def test_a_worker_that_ends_is_named_and_the_others_end(
    reader: RecordReader, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind in ("hang", "stopped"):  # a beat comes every half second
        monkeypatch.setattr(module, "HANGING_SECONDS", 1.5)
    before = processes_of(os.getpid())
    started = time.monotonic()
    with pytest.raises(ResnetError, match=SAYS[kind]):
        list(stream(reader, kind))
    assert time.monotonic() - started < 10
    assert processes_of(os.getpid()) == before
    (first, *_) = stream(reader)  # new ones are started
    assert np.array_equal(first.images[1], pixels_of(reader, 1))


def test_how_long_a_hanging_worker_is_waited_for() -> None:
    assert 5 < module.HANGING_SECONDS + module.LOOK_SECONDS < 10


def test_a_worker_that_waits_for_a_core_does_not_hang(reader: RecordReader, monkeypatch: pytest.MonkeyPatch) -> None:
    list(stream(reader))
    pool = workers(2)
    for pid in pool.pids:
        os.kill(pid, signal.SIGSTOP)  # as others do that leave it no core
    others = itertools.count(0, module.LOOK_SECONDS)
    monkeypatch.setattr(module, "waited_for_core", lambda pid: next(others) / len(pool))
    for _ in range(100):
        pool._look()
    monkeypatch.setattr(module, "waited_for_core", lambda pid: 0.0)
    with pytest.raises(ResnetError, match="hangs"):
        for _ in range(100):
            pool._look()
    assert pool.closed


def test_an_error_of_the_disk_is_the_callers(reader: RecordReader) -> None:
    with pytest.raises(OSError, match=r"Input/output error: 'a\.rec'"):
        list(stream(reader, "error"))


def _kill_at(reader: RecordReader, number: int) -> None:
    with pytest.raises(ResnetError, match="was killed"):
        for at, batch in enumerate(stream(reader, batch_size=1)):
            assert np.array_equal(batch.images[0], pixels_of(reader, at))
            if at == number:
                process = workers(2)._processes[number % 2]
                process.kill()
                process.wait()


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_kills_leave_nothing(reader: RecordReader, kills: int) -> None:
    list(stream(reader))
    workers(2).close()
    gc.collect()
    before, files = processes_of(os.getpid()), len(listed("/proc/self/fd"))
    for number in range(kills):
        _kill_at(reader, number)
    gc.collect()  # an error holds the memory that it came from
    assert processes_of(os.getpid()) == before
    assert len(listed("/proc/self/fd")) == files


PARENT = """
import os, sys, time
from pathlib import Path
sys.path[:0] = {paths!r}
from misfortune import RecordReader, stream
from resnet_v2.data.workers import workers
for batch in stream(RecordReader(Path(sys.argv[1])), {kind!r}, count=3):
    print(*(process.pid for process in workers(3)._processes), flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("kind", ["", "hang"])
def test_workers_end_with_a_parent_that_is_killed(reader: RecordReader, kind: str) -> None:
    program = PARENT.format(paths=[str(Path(__file__).parent), *sys.path], kind=kind)
    parent = subprocess.Popen([sys.executable, "-c", program, str(reader.path)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    children = [int(word) for word in parent.stdout.readline().split()]
    assert len(children) == 3
    parent.kill()
    parent.wait()
    parent.stdout.close()
    until = time.monotonic() + 10
    while (left := [pid for pid in children if Path(f"/proc/{pid}").exists()]) and time.monotonic() < until:
        time.sleep(0.05)
    assert not left


def test_whoever_keeps_batches_keeps_their_pixels(reader: RecordReader) -> None:
    for count in (0, 2):
        kept = [(batch.ordinals, batch.images) for batch in stream(reader, count=count, batch_size=2)]
        views = [batch.images[1:, ::2, 3:40] for batch in stream(reader, count=count, batch_size=2)]
        for (ordinals, images), view in zip(kept, views, strict=True):
            for image, ordinal in zip(images, ordinals.tolist(), strict=True):
                assert np.array_equal(image, pixels_of(reader, ordinal))
            assert np.array_equal(view[0], pixels_of(reader, int(ordinals[1]))[::2, 3:40])


def test_memory_is_used_again(reader: RecordReader) -> None:
    addresses = [batch.images.ctypes.data for batch in stream(reader, batch_size=1)]
    assert len(set(addresses)) < 8 < len(addresses)


def test_two_streams_at_once_and_one_that_ends_early(reader: RecordReader) -> None:
    left, right = stream(reader), stream(reader, batch_size=3)
    for number in range(3):
        assert next(left).ordinals.tolist() == list(range(4 * number, 4 * number + 4))
        batch = next(right)
        assert batch.ordinals.tolist() == list(range(3 * number, 3 * number + 3))
        assert np.array_equal(batch.images[2], pixels_of(reader, 3 * number + 2))
    left.close()
    assert sum(len(batch.labels) for batch in right) == COUNT - 9
    assert sum(len(batch.labels) for batch in stream(reader)) == COUNT


def test_ctrl_c_is_the_parents_alone(reader: RecordReader) -> None:
    left = stream(reader)
    next(left)
    for process in workers(2)._processes:
        process.send_signal(signal.SIGINT)
    assert sum(len(batch.labels) for batch in left) == COUNT - 4


def test_no_main_module_is_needed(reader: RecordReader, tmp_path: Path) -> None:
    """A script without `if __name__ == "__main__"`, which other ways to start processes would run again in each."""
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nfrom pathlib import Path\nprint('begun')\n"
        f"sys.path[:0] = {[str(Path(__file__).parent), *sys.path]!r}\n"
        "from misfortune import RecordReader, stream\n"
        "print(sum(len(batch.labels) for batch in stream(RecordReader(Path(sys.argv[1])))))\n"
    )
    done = subprocess.run([sys.executable, script, reader.path], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == (f"begun\n{COUNT}\n", "")


def test_workers_do_without_torch_and_without_memory_that_has_a_name(reader: RecordReader) -> None:
    """What has no name in /dev/shm cannot stay behind, and does not need room there."""
    left = stream(reader)
    next(left)
    for pid in workers(2).pids:
        until = time.monotonic() + 10  # it may not have begun
        while "/memfd:resnet-v2" not in (maps := Path(f"/proc/{pid}/maps").read_text()):
            assert time.monotonic() < until
            time.sleep(0.02)
        assert "/dev/shm" not in maps
        assert "libtorch" not in maps


def test_a_worker_imports_little() -> None:
    """Every worker imports it at its start, and so does a training loop that has the loader alone."""
    program = "import sys, resnet_v2.data.worker, resnet_v2.data.library\n"
    program += "print({'torch', 'tyro', 'matplotlib'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


class _Nothing:
    """A network that answers with what is no number."""

    where = "nowhere"

    def logits(self, images: Image) -> NDArray[np.float32]:
        return np.full((len(images), 2), np.nan, np.float32)


def test_what_stops_amid_a_record_leaves_the_workers_no_job(reader: RecordReader) -> None:
    def stop() -> None:
        raise ResnetError("Stopped.")

    small = resnet(8, 2)
    with pytest.raises(ResnetError) as first:
        judge(_Nothing(), reader, View(SIDE, 0), 2, 4, workers=2)
    with pytest.raises(ResnetError) as second:
        evaluate(small, reader, size=SIDE, batch_size=4, device=torch.device("cpu"), workers=2, on_batch=stop)
    assert first.tb is not None and second.tb is not None  # every frame of both is alive
    assert not workers(2)._paths
