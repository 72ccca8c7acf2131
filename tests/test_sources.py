"""Named data sets: digits, CIFAR-10 and Fashion-MNIST from archives and from a server, folders."""

import bz2
import contextlib
import gzip
import hashlib
import http.server
import io
import lzma
import shutil
import tarfile
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from conftest import Run, picture, read_image
from resnet_v2.data.jpeg import decode
from resnet_v2.data.lists import read_list, read_synset
from resnet_v2.data.records import RecordReader
from resnet_v2.errors import ResnetError
from resnet_v2.packing import sources
from resnet_v2.packing.sources import SOURCES


def test_digits(digits: Path) -> None:
    assert read_synset(digits / "synset.txt") == tuple("0123456789")
    train, val = RecordReader(digits / "digits_train.rec"), RecordReader(digits / "digits_val.rec")
    assert len(train) + len(val) == 1797
    assert 350 <= len(val) <= 370
    labels = [int(np.ravel(val.image(ordinal)[0].label)[0]) for ordinal in range(len(val))]
    assert min(np.bincount(labels, minlength=10)) >= 34
    entries = list(read_list(digits / "digits_train.lst"))
    header, data = train.image(17)
    assert (entries[17].index, entries[17].labels) == (header.id, (header.label,))
    pixels = decode(data)
    assert pixels.shape == (32, 32, 3)
    assert pixels.max() > 200
    assert {int(path.stem) for path in (digits / "examples").iterdir()} == set(range(10))


def cifar_archive(path: Path, images_per_file: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """An archive laid out as the official one; returns the images (N x 32 x 32 x 3) and labels of its training part."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6 * images_per_file, 3, 32, 32), dtype=np.uint8)
    labels = rng.integers(0, 10, 6 * images_per_file, dtype=np.uint8)
    labels[-10:] = range(10)
    with tarfile.open(path, "w:gz") as archive:
        for number, name in enumerate([*(f"data_batch_{n}.bin" for n in range(1, 6)), "test_batch.bin"]):
            rows = slice(number * images_per_file, (number + 1) * images_per_file)
            table = np.concatenate([labels[rows, None], images[rows].reshape(images_per_file, -1)], axis=1)
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = table.nbytes
            archive.addfile(member, io.BytesIO(table.tobytes()))
    train = 5 * images_per_file
    return images[:train].transpose(0, 2, 3, 1), labels[:train]


def test_cifar10_from_an_archive(tmp_path: Path, run: Run) -> None:
    images, labels = cifar_archive(tmp_path / "archive.tar.gz", 20)
    assert run("data", "cifar10", "--archive", tmp_path / "archive.tar.gz", "--out", tmp_path / "c")[0] == 0
    reader = RecordReader(tmp_path / "c" / "cifar10_train.rec")
    entries = list(read_list(tmp_path / "c" / "cifar10_train.lst"))
    assert len(reader) == 100
    for ordinal, entry in enumerate(entries):
        source = int(Path(entry.path).stem)
        header, data = reader.image(ordinal)
        assert header.label == labels[source]
        assert np.array_equal(decode(data), images[source])
        assert bytes(data[:2]) == b"BM"
    assert len(RecordReader(tmp_path / "c" / "cifar10_val.rec")) == 20
    assert read_synset(tmp_path / "c" / "synset.txt")[3] == "cat"
    assert read_image(tmp_path / "c" / "examples" / "cat.png").shape == (32, 32, 3)


def test_wrong_archives_are_named(tmp_path: Path, run: Run) -> None:
    (tmp_path / "a.tar.gz").write_text("nothing")
    with tarfile.open(tmp_path / "python.tar.gz", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("cifar-10-batches-py/data_batch_1"))
    for name, words in (("a", "no readable archive"), ("python", "Python version"), ("none", "No such file")):
        status, _, err = run("data", "cifar10", "--archive", tmp_path / f"{name}.tar.gz", "--out", tmp_path / "c")
        assert status == 2
        assert words in err
        assert not (tmp_path / "c").exists()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The address of a server on this machine, and the folder that it serves."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(folder))  # type: ignore[arg-type]

        def log_message(self, *args: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_address[1]}/", folder
        httpd.shutdown()
        thread.join()


def test_cifar10_download_is_checked(
    tmp_path: Path, server: tuple[str, Path], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, folder = server
    cifar_archive(folder / "cifar-10-binary.tar.gz", 10)
    out = tmp_path / "c"
    status, _, err = run("data", "cifar10", "--mirror", address, "--out", out)
    assert status == 2
    assert "no official file" in err
    assert not list(out.rglob("*.gz"))
    checksum = hashlib.sha256((folder / "cifar-10-binary.tar.gz").read_bytes()).hexdigest()
    monkeypatch.setattr(sources, "CIFAR10_SHA256", checksum)
    assert run("data", "cifar10", "--mirror", address, "--out", out)[0] == 0
    (folder / "cifar-10-binary.tar.gz").unlink()
    assert run("data", "cifar10", "--mirror", address, "--out", out)[0] == 0, "the download was not kept"
    status, _, err = run("data", "cifar10", "--mirror", address, "--out", tmp_path / "d")
    assert status == 2
    assert "cannot be downloaded" in err
    assert "--archive" in err


def fashion_files(folder: Path) -> dict[str, bytes]:
    """Four small files in Fashion-MNIST's format; returns their unpacked content."""
    rng = np.random.default_rng(0)
    contents = {}
    for part, count in (("train", 30), ("t10k", 20)):
        images, labels = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8), np.arange(count, dtype=np.uint8) % 10
        sizes = np.array([count, 28, 28], ">u4").tobytes()
        contents[f"{part}-images-idx3-ubyte.gz"] = b"\0\0\x08\x03" + sizes + images.tobytes()
        contents[f"{part}-labels-idx1-ubyte.gz"] = b"\0\0\x08\x01" + sizes[:4] + labels.tobytes()
    for name, content in contents.items():
        (folder / name).write_bytes(gzip.compress(content))
    return contents


def test_fashion_mnist_download(
    tmp_path: Path, server: tuple[str, Path], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, folder = server
    contents = fashion_files(folder)
    checksums = {name: hashlib.sha256(contents[name]).hexdigest() for name in sources.FASHION_SHA256}
    monkeypatch.setattr(sources, "FASHION_SHA256", checksums)
    assert run("data", "fashion-mnist", "--mirror", address, "--out", tmp_path / "f")[0] == 0
    reader = RecordReader(tmp_path / "f" / "fashion-mnist_val.rec")
    assert len(reader) == 20
    pixels = decode(reader.image(0)[1])
    expected = np.frombuffer(contents["t10k-images-idx3-ubyte.gz"], np.uint8, offset=16)[: 28 * 28].reshape(28, 28)
    assert np.array_equal(pixels[2:30, 2:30, 0], expected)
    assert not pixels[:2].any()


@pytest.mark.skipif(not sources.FASHION_DEBIAN.is_dir(), reason="missing dataset-fashion-mnist: apt-get install it")
def test_fashion_mnist_of_debian_is_the_official_content(tmp_path: Path) -> None:
    for name, checksum in sources.FASHION_SHA256.items():
        assert hashlib.sha256(gzip.decompress((sources.FASHION_DEBIAN / name).read_bytes())).hexdigest() == checksum


def idx(values: NDArray[np.uint8]) -> bytes:
    return gzip.compress(bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes() + values.tobytes())


@pytest.mark.parametrize(
    ("part", "values"),
    [
        ("labels-idx1", np.arange(10)),  # fewer than images
        ("labels-idx1", np.full(30, 200)),
        ("labels-idx1", np.zeros((30, 1))),
        ("images-idx3", np.zeros((30, 784))),
        ("images-idx3", np.zeros((30, 28, 28, 3))),
        ("images-idx3", np.zeros((30, 100, 100))),
        ("images-idx3", np.zeros((0, 28, 28))),
        ("images-idx3", np.zeros(sources.FASHION_BYTES)),  # unpacks to more than it may
    ],
)
def test_fashion_files_that_do_not_fit(tmp_path: Path, run: Run, part: str, values: NDArray[np.float64]) -> None:
    fashion_files(tmp_path)
    (tmp_path / f"train-{part}-ubyte.gz").write_bytes(idx(values.astype(np.uint8)))
    status, _, err = run("data", "fashion-mnist", "--archive", tmp_path, "--out", tmp_path / "f")
    assert (status, (tmp_path / "f").exists()) == (2, False), err


def test_a_class_without_validation_images_has_no_example(tmp_path: Path, run: Run) -> None:
    fashion_files(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(idx((np.arange(20) % 9).astype(np.uint8)))
    assert run("data", "fashion-mnist", "--archive", tmp_path, "--out", tmp_path / "f")[0] == 0
    assert len(list((tmp_path / "f" / "examples").iterdir())) == 9


def test_an_archive_with_a_file_too_large_is_refused_unread(tmp_path: Path, run: Run) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        member = tarfile.TarInfo("cifar-10-batches-bin/data_batch_1.bin")
        member.size = sources.CIFAR10_BYTES + 1
        archive.addfile(member, io.BytesIO(bytes(member.size)))
    status, _, err = run("data", "cifar10", "--archive", tmp_path / "a.tar", "--out", tmp_path / "c")
    assert (status, "none of CIFAR-10's files" in err) == (2, True)


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress], ids=["gz", "bz2", "xz"])
def test_cifar10_packed_otherwise_and_damaged(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    images, _ = cifar_archive(tmp_path / "a.tar.gz", 2)
    data = pack(gzip.decompress((tmp_path / "a.tar.gz").read_bytes()))
    path = tmp_path / "b"
    path.write_bytes(data)
    assert len(sources.load_cifar10(path, tmp_path, "").train.labels) == 10 <= len(images)
    for at in range(7, len(data), len(data) // 40):
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :])
        with contextlib.suppress(ResnetError):  # it may be a byte that nothing depends on
            sources.load_cifar10(path, tmp_path, "")
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ResnetError, match="no readable archive"):
        sources.load_cifar10(path, tmp_path, "")


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.REGTYPE])
def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path: Path, kind: bytes) -> None:
    path = tmp_path / "a.tar.gz"
    member = tarfile.TarInfo("x")
    member.type, member.size = kind, (1 << 25 if kind == tarfile.REGTYPE else 1 << 27)
    with gzip.open(path, "wb", 1) as file:
        for _ in range(9 if kind == tarfile.REGTYPE else 1):
            file.write(member.tobuf(tarfile.GNU_FORMAT))
            for _ in range(member.size >> 20):
                file.write(bytes(1 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(ResnetError, match=r"none of CIFAR-10's files|a header of"):
            sources.load_cifar10(path, tmp_path, "")
        assert tracemalloc.get_traced_memory()[1] < (1 << 28 if kind == tarfile.REGTYPE else 1 << 24)
    finally:
        tracemalloc.stop()


def test_a_folder_becomes_a_data_set(class_folder: Path, tmp_path: Path, run: Run) -> None:
    status, out, _ = run("data", class_folder, "--out", tmp_path / "animals", "--val-ratio", 0.25)
    assert status == 0
    assert "--data-type animals" in out
    assert len(RecordReader(tmp_path / "animals" / "animals_train.rec")) == 18
    val = RecordReader(tmp_path / "animals" / "animals_val.rec")
    assert min(decode(val.image(0)[1]).shape[:2]) == 32


@pytest.mark.parametrize(("resize", "start"), [(32, b"BM"), (80, b"\xff\xd8")])
def test_small_images_of_a_folder_lose_nothing(
    class_folder: Path, tmp_path: Path, run: Run, resize: int, start: bytes
) -> None:
    status, _, said = run("data", class_folder, "--out", tmp_path / "d", "--val-ratio", 0.3, "--resize", resize)
    assert (status, "d_train.rec: images are kept as" in said) == (0, True)
    assert bytes(RecordReader(tmp_path / "d" / "d_val.rec").image(0)[1][:2]) == start


def test_unknown_name(tmp_path: Path, run: Run) -> None:
    status, _, err = run("data", "cifar11", "--out", tmp_path / "c")
    assert status == 2
    assert f"neither a data set ({', '.join(SOURCES)}) nor a folder" in err


def test_what_a_source_does_not_take_is_refused(class_folder: Path, tmp_path: Path, run: Run) -> None:
    for source in ("digits", class_folder):
        for flag, place in (("--archive", tmp_path / "there"), ("--mirror", "http://there/")):
            status, _, err = run("data", source, "--out", tmp_path / "c", flag, place)
            assert (status, "leave --archive and --mirror out" in err) == (2, True), err
    assert not (tmp_path / "c").exists()


def test_what_to_train_with_next(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resnet_v2.packing.sources.make_data", lambda _: tmp_path / "mine")
    for source, name in (*((name, name) for name in SOURCES), (tmp_path, "mine")):
        assert run("data", source)[1].endswith(f" --data-dir {tmp_path / 'mine'} --data-type {name}\n")


def test_a_folder_with_too_few_images_to_hold_any_out(tmp_path: Path, run: Run) -> None:
    for name in ("ant", "bee"):
        (tmp_path / "few" / name).mkdir(parents=True)
        for number in range(4):
            assert cv2.imwrite(str(tmp_path / "few" / name / f"{number}.png"), picture(number, 32, 32))
    status, out, err = run("data", tmp_path / "few", "--out", tmp_path / "data")
    assert status == 2
    assert "ready" not in out
    assert "few has too few images in every class to hold out the share 0.1 for validation" in err
    assert run("data", tmp_path / "few", "--out", tmp_path / "data", "--val-ratio", 0.25)[0] == 0


def test_headers_in_headers_are_refused(tmp_path: Path, run: Run) -> None:
    long_name = tarfile.TarInfo("long")
    long_name.type = tarfile.XHDTYPE
    (tmp_path / "a.tar").write_bytes(5000 * long_name.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    status, _, err = run("data", "cifar10", "--archive", tmp_path / "a.tar", "--out", tmp_path / "c")
    assert status == 2
    assert "a.tar is no readable archive" in err


def test_of_an_archive_only_the_known_files_are_kept(tmp_path: Path) -> None:
    cifar_archive(tmp_path / "a.tar.gz", 10)
    assert all(sources._read_archive(tmp_path / "a.tar.gz")[name] for name in sources.CIFAR10_FILES)
    other = tarfile.TarInfo("cifar-10-batches-bin/other.bin")
    other.size = 1 << 20
    with tarfile.open(tmp_path / "b.tar", "w") as archive:
        archive.addfile(other, io.BytesIO(bytes(other.size)))
    assert sources._read_archive(tmp_path / "b.tar") == {"other.bin": b""}


def test_the_same_picture_twice_is_told(class_folder: Path, tmp_path: Path, run: Run) -> None:
    root = tmp_path / "root"
    for part in ("train", "val"):
        shutil.copytree(class_folder, root / part)
        for path in (root / part).rglob("*.jpg"):
            if (int(path.stem) % 2 == 0) == (part == "val"):
                path.unlink()
    assert "warning" not in run("data", root, "--out", tmp_path / "out")[2]
    for number in ("000", "002"):
        shutil.copy(root / "train/ant" / f"{number}.jpg", root / "val/ant/")
    assert "2 images of" in (err := run("data", root, "--out", tmp_path / "out")[2]), err
    assert "more than one class" not in err
    shutil.copy(root / "train/ant/000.jpg", root / "train/bee/ant.jpg")
    err = run("data", root, "--out", tmp_path / "out")[2]
    assert f"{tmp_path / 'out'} holds 1 image in more than one class" in err, err
