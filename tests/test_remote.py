"""Records on object storage: the same bits as from disk, whatever the server does, or a sentence."""

import errno
import http.server
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest

from conftest import Run, digits_run, picture
from processes import wait_until
from resnet_v2 import storage
from resnet_v2.config.fields import checked
from resnet_v2.data import remote
from resnet_v2.data.augment import augmentation
from resnet_v2.data.loader import Loader, Reading
from resnet_v2.data.records import IRHeader, RecordReader, pack, writing
from resnet_v2.data.remote import RemoteFile
from resnet_v2.data.sidecar import Rows, write_rows
from resnet_v2.data.workers import running
from resnet_v2.errors import ResnetError, SettingError
from resnet_v2.storage import Address, as_path
from storage_server import Proxy, storage_server

pytest.importorskip("obstore", reason="missing obstore: pip install -e '.[remote]'")

REC = "s3://bucket/flowers/a.rec"
IMAGES = 40


@pytest.fixture(scope="module")
def server() -> Iterator[Proxy]:
    with storage_server() as proxy:
        yield proxy


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A record of 40 pictures with its index and its segments."""
    path = tmp_path_factory.mktemp("local") / "a.rec"
    with writing(path) as writer:
        for number in range(IMAGES):
            data = cv2.imencode(".jpg", picture(number, 90 + number, 120))[1].tobytes()
            writer.write(number, pack(IRHeader(0, float(number % 4), number, 0), data))
    write_rows(path)
    return path


@pytest.fixture
def stored(server: Proxy, local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same record in the bucket, with an empty cache of small blocks, and a server that works."""
    use_cache(tmp_path / "cache", monkeypatch)
    server.fault = lambda method, path, number: None
    for ending in (".rec", ".idx", ".rows"):
        storage.send(local.with_suffix(ending), Address(as_path(REC).with_suffix(ending)))
    server.asked.clear()
    return as_path(REC)


def use_cache(folder: Path, monkeypatch: pytest.MonkeyPatch, size: str = "1GB") -> None:
    """Let a folder be the cache, as if the process had just begun; be as patient as a test."""
    monkeypatch.setenv("RESNET_V2_CACHE", str(folder))
    monkeypatch.setenv("RESNET_V2_CACHE_SIZE", size)
    for name, value in (("LARGE_BLOCK", 16384), ("SMALL_BLOCK", 16000)):
        monkeypatch.setattr(remote, name, value)
    for name, number in (("RETRIES", 3), ("SILENCE_SECONDS", 0.5), ("FIRST_PAUSE", 0.01)):
        monkeypatch.setattr(storage, name, number)
    remote.cache.cache_clear()
    storage._store.cache_clear()
    if (others := running(2)) is not None:  # they have another cache
        others.close()


def pictures(path: Path, workers: int = 0) -> list[np.ndarray]:
    """The images and labels of an epoch, batch by batch."""
    plan = augmentation(2, 64, imagenet=True)
    loader = Loader(RecordReader(path), plan, seed=3, batch_size=8, classes=4, reading=Reading(workers))
    return [array.copy() for batch in loader for array in (batch.images, batch.labels, batch.ordinals)]


def same(some: list[np.ndarray], others: list[np.ndarray]) -> bool:
    return len(some) == len(others) and all(map(np.array_equal, some, others))


@pytest.mark.parametrize("workers", [0, 2])
def test_the_same_bits_come_from_storage(stored: Path, local: Path, workers: int) -> None:
    assert same(pictures(stored, workers), pictures(local))


def test_every_block_is_fetched_once_and_serves_later_runs(stored: Path, local: Path, server: Proxy) -> None:
    pictures(stored, 2)
    blocks = -(-local.stat().st_size // 16384)
    fetched = [path for method, path in server.asked if method == "GET"]
    assert fetched.count("/bucket/flowers/a.rec") == blocks
    remote.cache.cache_clear()
    server.asked.clear()
    assert same(pictures(stored), pictures(local))
    assert not [path for method, path in server.asked if method == "GET"]


def test_threads_and_processes_fetch_a_block_once(stored: Path, server: Proxy) -> None:
    sources = [RemoteFile(Address(stored)) for _ in range(8)]
    server.asked.clear()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda source: source.read(1000, 20000), sources))
    assert len(set(found)) == 1
    assert server.asked == [("GET", "/bucket/flowers/a.rec")]


def test_what_is_to_come_is_fetched_before(stored: Path, local: Path, server: Proxy) -> None:
    source = RemoteFile(Address(stored))
    source.prefetch(np.array([40000, 100]), np.array([20000, 50]))
    wait_until(lambda: source._running == 0, "the threads end")
    assert sorted(path.name for path in source._folder.iterdir()) == ["00000000", "00000002", "00000003"]
    server.fault = lambda method, path, number: 403
    assert source.read(20000, 40000) == local.read_bytes()[40000:60000]


def test_the_loader_fetches_the_steps_to_come(stored: Path, server: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "LARGE_BLOCK", 1500)  # smaller than a record
    plan = augmentation(2, 64, imagenet=True)
    reader = RecordReader(stored)
    stream = iter(Loader(reader, plan, seed=3, batch_size=1, classes=4, reading=Reading(0)))
    next(stream)
    assert isinstance(reader.source, RemoteFile)
    wait_until(lambda: reader.source._running == 0, "the threads end")  # type: ignore[union-attr]
    server.fault = lambda method, path, number: 403
    assert len(list(stream)) == IMAGES - 1


@pytest.mark.parametrize("fault", [500, 503, "reset", "cut", "slow"])
def test_one_answer_in_five_may_fail(stored: Path, local: Path, server: Proxy, fault: str | int) -> None:
    server.fault = lambda method, path, number: fault if number % 5 == 2 else None
    assert same(pictures(stored), pictures(local))


def test_workers_read_on_where_answers_fail(stored: Path, local: Path, server: Proxy) -> None:
    faults = (500, "reset", "cut")
    server.fault = lambda method, path, number: faults[number % 3] if number % 7 == 2 else None
    assert same(pictures(stored, 2), pictures(local))


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (500, "cannot be read: the server answers with status 500; try again later."),
        (403, "may not be read with these credentials; give others in the environment."),
        (404, "is missing"),
        ("reset", "cannot be read: there is no connection to the server, or it breaks off"),
        ("slow", "cannot be read: the server does not answer in time"),
    ],
)
def test_what_never_works_is_said(stored: Path, server: Proxy, fault: str | int, sentence: str) -> None:
    storage.SILENCE_SECONDS, storage.RETRIES = 0.3, 1
    storage._store.cache_clear()
    server.fault = lambda method, path, number: fault
    with pytest.raises(ResnetError) as caught:
        RecordReader(stored)
    assert str(caught.value).startswith(f"{REC} {sentence}")


def test_answers_that_always_break_off_are_said(stored: Path, server: Proxy) -> None:
    source = RemoteFile(Address(stored))
    server.fault = lambda method, path, number: "cut"
    with pytest.raises(ResnetError, match="cannot be read: the answers break off, 6 one after the other"):
        source.read(100, 0)


def test_a_worker_that_may_read_no_more_says_so(stored: Path, server: Proxy) -> None:
    reader = RecordReader(stored)
    Rows.of(reader)
    shutil.rmtree(remote.cache().folder)
    server.fault = lambda method, path, number: 403 if method == "GET" and path.endswith(".rec") else None
    plan = augmentation(2, 64, imagenet=True)
    with pytest.raises(ResnetError, match=f"^{REC} may not be read with these credentials"):
        list(Loader(reader, plan, seed=3, batch_size=8, classes=4, reading=Reading(2)))


def test_a_changed_object_never_mixes(stored: Path, local: Path, tmp_path: Path) -> None:
    source = RemoteFile(Address(stored))
    start = source.read(100, 0)
    other = tmp_path / "other.rec"
    other.write_bytes(bytes(local.stat().st_size))
    storage.send(other, Address(stored))
    assert source.read(100, 0) == start  # of the block that is kept
    with pytest.raises(ResnetError, match=f"^{REC} was changed while it was read; start the command again.$"):
        source.read(100, 3 * 16384)
    assert RemoteFile(Address(stored)).read(100, 0) == bytes(100)


def test_a_reader_knows_that_its_object_was_changed(stored: Path, local: Path, tmp_path: Path) -> None:
    reader = RecordReader(stored)
    assert not reader.is_replaced()
    (tmp_path / "other.rec").write_bytes(b"other")
    storage.send(tmp_path / "other.rec", Address(stored))
    assert reader.is_replaced()


def test_the_cache_stays_within_its_size(stored: Path, local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_cache(remote.cache().folder, monkeypatch, "64KB")
    assert same(pictures(stored), pictures(local))
    kept = sum(path.stat().st_size for path in remote.cache().folder.rglob("*") if path.is_file())
    assert 20_000 < kept <= 66_000 < local.stat().st_size


def test_a_full_disk_costs_the_cache_and_no_pixel(
    stored: Path, local: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reader = RecordReader(stored)

    def full(path: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    shutil.rmtree(remote.cache().folder)
    monkeypatch.setattr(Path, "write_bytes", full)
    on_disk = RecordReader(local)
    for ordinal in range(0, IMAGES, 8):
        assert reader[ordinal] == on_disk[ordinal]
    warned = capsys.readouterr().err
    assert warned.count("takes no more of what is read from storage (No space left on device)") == 1


def test_a_block_that_was_cut_by_a_power_failure_is_fetched_again(stored: Path, local: Path) -> None:
    source = RemoteFile(Address(stored))
    source.read(10, 0)
    source._path(0).write_bytes(b"half")
    assert source.read(100, 0) == local.read_bytes()[:100]


def test_http_with_ranges(local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Ranges(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            data = (local.parent / self.path[1:]).read_bytes()
            begin, end = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
            part = data[begin : end + 1]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {begin}-{begin + len(part) - 1}/{len(data)}")
            self.send_header("Content-Length", str(len(part)))
            self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
            self.end_headers()
            self.wfile.write(part)

        def do_HEAD(self) -> None:
            path = local.parent / self.path[1:]
            self.send_response(200 if path.is_file() else 404)
            self.send_header("Content-Length", str(path.stat().st_size) if path.is_file() else "0")
            self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
            self.end_headers()

        def log_message(self, *words: object) -> None:
            pass

    use_cache(tmp_path / "cache", monkeypatch)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Ranges) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        start = f"http://127.0.0.1:{web.server_port}"
        changed = RemoteFile(Address(f"{start}/a.rec"), storage.Object(local.stat().st_size, "of another time"))
        with pytest.raises(ResnetError, match=r"a\.rec was changed while it was read"):  # also without an ETag
            changed.read(10, 0)
        assert same(pictures(as_path(f"{start}/a.rec")), pictures(local))
        with pytest.raises(ResnetError, match=f"^{start}/b.rec is missing"):
            RecordReader(as_path(f"{start}/b.rec"))
        web.shutdown()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("ftp://host/a.rec", "begins with ftp://; records are read from s3, gs, http, https, or a folder."),
        ("https://anna:geheim@host/a.rec", "was given with a user"),
        ("https://host/a.rec?X-Amz-Signature=geheim", "was given with a user"),
        ("s3:///a.rec", "names no bucket and no host"),
        ("s3://bucket//a.rec", "has an empty part"),
        ("s3://bucket/../a.rec", "has an empty part, or dots"),
    ],
)
def test_addresses_of_no_use(text: str, sentence: str) -> None:
    with pytest.raises(SettingError) as caught:
        as_path(text)
    assert sentence in str(caught.value)
    assert "geheim" not in str(caught.value)


def test_an_address_is_a_path_among_its_neighbours() -> None:
    path = as_path(REC)
    assert [str(path), path.name, path.stem, path.suffix] == [REC, "a.rec", "a", ".rec"]
    assert str(path.with_suffix(".idx")) == "s3://bucket/flowers/a.idx"
    assert str(path.with_name("synset.txt")) == "s3://bucket/flowers/synset.txt"
    assert str(as_path("s3://bucket") / "a.rec") == "s3://bucket/a.rec"
    assert isinstance(path.parent, Address) and as_path(str(path)) == path and as_path(path) is path
    assert type(as_path("data/a.rec")) is type(Path("a")) and type(as_path("C://a")) is type(Path("a"))
    with pytest.raises(SettingError, match=f"`out` {REC} is an address; give a path of this"):
        checked("out", Path, path)


def test_an_unknown_host_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_cache(tmp_path, monkeypatch)
    with pytest.raises(ResnetError, match=r"^http://nowhere.invalid/a.rec cannot be read: its host is not known"):
        RecordReader(as_path("http://nowhere.invalid/a.rec"))


def test_without_the_library_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    storage._store.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "obstore.store", None)
    with pytest.raises(ResnetError, match=r"s3://bucket needs obstore; install it with pip install -e '\.\[remote\]'"):
        RecordReader(as_path(REC))


def test_secrets_are_never_said(stored: Path, server: Proxy, capsys: pytest.CaptureFixture[str]) -> None:
    for fault in (400, 401, 403, 500, "reset"):
        server.fault = lambda method, path, number, fault=fault: fault  # type: ignore[misc]
        with pytest.raises(ResnetError) as caught:
            storage.find(Address(stored))
        assert "of-the-test" not in str(caught.value) + "".join(capsys.readouterr())


def test_pack_and_verify(stored: Path, class_folder: Path, run: Run, tmp_path: Path) -> None:
    lst, packed = tmp_path / "a_train.lst", "s3://bucket/packed/a.rec"
    assert run("list", class_folder, tmp_path / "a")[0] == 0
    assert run("pack", lst, class_folder, tmp_path / "disk.rec")[0] == 0
    status, out, _ = run("pack", lst, class_folder, packed)
    assert status == 0 and out.startswith(f"{packed}: ")
    for ending in (".rec", ".idx", ".rows"):
        copy = remote.local_copy(as_path(packed).with_suffix(ending))
        assert copy.read_bytes() == (tmp_path / f"disk{ending}").read_bytes()
    assert not list(remote.cache().folder.glob("packing-*"))
    assert run("verify", packed)[0] == 0


def test_verify_reads_once_from_the_front_and_keeps_nothing(stored: Path, server: Proxy, run: Run) -> None:
    assert run("verify", stored)[0] == 0
    assert server.asked.count(("GET", "/bucket/flowers/a.rec")) == 1
    assert {path.suffix for path in remote.cache().folder.glob("*/*")} == {".idx", ".rows"}


def test_an_upload_that_fails_leaves_no_object(
    stored: Path, class_folder: Path, server: Proxy, run: Run, tmp_path: Path
) -> None:
    assert run("list", class_folder, tmp_path / "a")[0] == 0
    server.fault = lambda method, path, number: 403 if method == "PUT" else None
    status, _, err = run("pack", tmp_path / "a_train.lst", class_folder, "s3://bucket/broken/a.rec")
    assert status == 2
    assert "s3://bucket/broken/a.rec may not be written with these credentials" in err
    assert "; what was packed lies in " in err
    server.fault = lambda method, path, number: None
    assert not as_path("s3://bucket/broken/a.rec").exists()


@pytest.mark.slow
def test_train_and_evaluate(stored: Path, few_digits: Path, run: Run, tmp_path: Path) -> None:
    for path in few_digits.glob("*.*"):
        storage.send(path, Address(f"s3://bucket/digits/{path.name}"))
    errors = []
    for folder in (few_digits, as_path("s3://bucket/digits")):
        prefix = tmp_path / folder.parent.name / "m"
        given = {"epochs": 1, "num_examples": 64, "batch_size": 32, "gpus": "", "model_prefix": prefix}
        words = digits_run(folder, **given)
        assert run(*words)[0] == 0
        status, out, _ = run("evaluate", "--prefix", prefix, "--rec", folder / "digits_val.rec", "--gpus", "")
        errors.append((status, out.replace(str(folder), "").replace(str(prefix), "")))
    assert errors[0] == errors[1] and errors[0][0] == 0


@pytest.mark.parametrize(
    "words",
    [
        ("verify", "s3://bucket/none.rec"),
        ("verify", "s3://nobody/none.rec"),
        ("index", REC),
        ("train", "--data-dir", "s3://bucket/none"),
        ("train", "--data-dir", "ftp://bucket/none"),
        ("evaluate", "--rec", "s3://bucket/none.rec", "--gpus", ""),
        ("predict", "--img", "s3://bucket/none.rec"),
        ("predict", "--img", "s3://bucket/none.jpg"),
        ("pack", "none.lst", "none", REC),
    ],
)
def test_commands_end_with_a_sentence(stored: Path, run: Run, words: tuple[str, ...]) -> None:
    status, out, err = run(*words)
    assert (status, out) == (2, "")
    *told, sentence = err.splitlines()
    assert sentence.startswith("resnet-v2: ") and sentence.endswith(".")
    assert "Traceback" not in err and len(told) <= (words[0] == "train")  # which says that there is no GPU
