"""Data sets by name: digits, CIFAR-10, Fashion-MNIST, or a folder of class folders -> records that `train` reads."""

import bz2
import gzip
import hashlib
import lzma
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from resnet_v2.config.packing import DataConfig
from resnet_v2.console import counted, say
from resnet_v2.data.jpeg import encode
from resnet_v2.data.lists import ListEntry, write_list, write_synset
from resnet_v2.errors import ResnetError, install
from resnet_v2.files import download, gunzip, open_regular, read_bytes, replacing
from resnet_v2.packing.archives import Members
from resnet_v2.packing.making import Record, record_of
from resnet_v2.packing.origin import of_data
from resnet_v2.packing.pack import pack_entries
from resnet_v2.packing.photo_folder import look_at, refuse_others, write
from resnet_v2.packing.staging import begun, staged

PNG_COMPRESSION = 6
SIDE = 32

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/"
CIFAR10_ARCHIVE = "cifar-10-binary.tar.gz"
CIFAR10_FILES = (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin")
CIFAR10_BYTES, CIFAR10_MOST_BYTES = 1 << 25, 1 << 28  # more than any file in it has, and all of them
MOST_MEMBERS = 100
UNPACK: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
CIFAR10_SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"

FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
FASHION_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
FASHION_BYTES = 1 << 26  # more than any of its files unpacks to
FASHION_DEBIAN = Path("/usr/share/datasets/fashion-mnist")
# Of the unpacked files: Debian's copies are packed anew, so the packed bytes differ from the official ones.
FASHION_SHA256 = {
    "train-images-idx3-ubyte.gz": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte.gz": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte.gz": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte.gz": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


@dataclass(frozen=True)
class Part:
    """One half of a data set: images N x 32 x 32 x 3 (uint8, RGB) and labels N."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class Source:
    """A data set in memory: its name, class names in label order, and its two parts."""

    name: str
    class_names: tuple[str, ...]
    train: Part
    val: Part


def make_data(settings: DataConfig) -> Path:
    """Write NAME_train and NAME_val (.rec, .idx, .lst), synset.txt and, for a named set, a folder `examples`.

    Returns the folder. Raises ResnetError for an unknown name and for a download or an archive that is not what it
    should be.
    """
    source = settings.source
    if source in SOURCES:
        folder = settings.out or Path("data") / source
        loaded = SOURCES[source](settings.archive, folder, settings.mirror)
        _pack_source(loaded, folder, settings)
        return folder
    root = Path(source)
    if not root.is_dir():
        names = ", ".join(SOURCES)
        raise ResnetError(f"{source} is neither a data set ({names}) nor a folder; give one of them.")
    if settings.archive is not None or settings.mirror:
        raise ResnetError(f"{source} is a folder, from which nothing is fetched; leave `archive` and `mirror` out.")
    folder = settings.out or Path("data") / root.resolve().name
    _pack_folder(root, folder, settings)
    return folder


def _pack_folder(root: Path, folder: Path, settings: DataConfig) -> None:
    found = look_at(root, lambda count: round(settings.val_ratio * count), settings.seed, settings.threads)
    if not len(found.validation):
        raise ResnetError(
            f"{root} has too few images in every class to hold out the share {settings.val_ratio:g} for "
            "validation; give a larger `val_ratio`."
        )
    write(found, folder, folder.resolve().name, settings.resize, settings.threads, of_data(settings))


def _pack_source(source: Source, folder: Path, settings: DataConfig) -> None:
    shuffled = np.random.default_rng(settings.seed).permutation(len(source.train.labels))
    in_order = np.arange(len(source.val.labels))
    with staged(folder, source.name) as staging:
        refuse_others(folder, source.name, begun(staging), source.class_names)
        for name, part, order in (("train", source.train, shuffled), ("val", source.val, in_order)):
            images = _pack_part(name, part, order, staging / f"{source.name}_{name}.rec", settings)
            say(f"{folder / source.name}_{name}.rec: {counted(images, 'image')}")
        write_synset(staging / "synset.txt", source.class_names)
        _write_examples(source, staging / "examples")


def _pack_part(name: str, part: Part, order: NDArray[np.int64], out: Path, settings: DataConfig) -> int:
    entries = [ListEntry(index, (float(part.labels[at]),), f"{name}/{at:05d}.bmp") for index, at in enumerate(order)]

    def make(entry: ListEntry) -> Record:
        # BMP is read fastest, and the images are small.
        return record_of(entry, encode(part.images[order[entry.index]], ".bmp", 0))

    done = pack_entries(entries, len(entries), make, out, settings.threads, "stop", origin=of_data(settings))
    write_list(out.with_suffix(".lst"), entries)
    return done.images


def _write_examples(source: Source, folder: Path) -> None:
    """One validation image per class, to try `predict` on."""
    for label, name in enumerate(source.class_names):
        for at in np.flatnonzero(source.val.labels == label)[:1]:  # none in a part of the set
            with replacing(folder / f"{name.replace('/', ' or ')}.png") as temporary:
                temporary.write_bytes(encode(source.val.images[at], ".png", PNG_COMPRESSION))


def load_digits(archive: Path | None, folder: Path, mirror: str) -> Source:
    """scikit-learn's 1,797 handwritten digits, 8x8 enlarged to 32x32; every fifth one of a class is for validation."""
    if archive is not None or mirror:
        raise ResnetError("The digits come with scikit-learn; leave `archive` and `mirror` out.")
    try:
        from sklearn.datasets import load_digits as load
    except ImportError:
        raise ResnetError(f"The digits come with scikit-learn; install it with {install('digits')}.") from None
    pixels, labels = load(return_X_y=True)
    grey = (np.asarray(pixels).reshape(-1, 8, 8) * (255 / 16)).round().astype(np.uint8)
    enlarged = [cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC) for image in grey]
    images: NDArray[np.uint8] = np.stack(enlarged).astype(np.uint8, copy=False)
    labels = np.asarray(labels, np.int64)
    held_out = np.zeros(len(labels), bool)
    for label in range(10):
        held_out[np.flatnonzero(labels == label)[::5]] = True
    colour = np.repeat(images[..., None], 3, axis=3)
    train, val = Part(colour[~held_out], labels[~held_out]), Part(colour[held_out], labels[held_out])
    return Source("digits", tuple("0123456789"), train, val)


def load_cifar10(archive: Path | None, folder: Path, mirror: str) -> Source:
    """CIFAR-10 from `archive` (cifar-10-binary.tar.gz), or from the download, which is kept in `folder`."""
    path = archive or folder / CIFAR10_ARCHIVE
    if archive is None and not path.is_file():
        _download((mirror or CIFAR10_URL) + CIFAR10_ARCHIVE, path, read_bytes, CIFAR10_SHA256, "cifar10")
    members = _read_archive(path)
    *train, val = (_cifar_part(path, members, name) for name in CIFAR10_FILES)
    images, labels = zip(*train, strict=True)
    return Source("cifar10", CIFAR10_CLASSES, Part(np.concatenate(images), np.concatenate(labels)), Part(*val))


def _read_archive(path: Path) -> dict[str, bytes]:
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            start = file.read(6)
            file.seek(0)
            unpack = next((each for magic, each in UNPACK.items() if start.startswith(magic)), None)
            return dict(_files(unpack(file) if unpack else file))
    except (OSError, tarfile.TarError, EOFError, ValueError, RecursionError, zlib.error, lzma.LZMAError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(":")
        raise ResnetError(f"{path} is no readable archive ({reason}); give the official {CIFAR10_ARCHIVE}.") from None


def _files(archive: IO[bytes]) -> Iterator[tuple[str, bytes]]:
    """Names of an archive's files, and the bytes of CIFAR-10's; ValueError for more or larger ones than it has."""
    for number, member in enumerate(Members(archive)):
        end = member.offset_data + member.size
        if number >= MOST_MEMBERS or not 0 <= member.size <= CIFAR10_BYTES or end > CIFAR10_MOST_BYTES:
            raise ValueError(f"{member.name!a} has {counted(member.size, 'byte')}, which is none of CIFAR-10's files")
        name, data = Path(member.name).name, b""
        if member.isreg() and not member.issparse() and name in CIFAR10_FILES:
            archive.seek(member.offset_data)
            data = archive.read(member.size)
            if len(data) < member.size:
                raise EOFError(f"it ends inside {member.name!a}")
        yield name, data


def _cifar_part(path: Path, members: dict[str, bytes], name: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    if name not in members:
        hint = "it is the Python version, which needs pickle" if "data_batch_1" in members else "it is something else"
        raise ResnetError(f"{path} holds no {name}, {hint}; give the binary version, {CIFAR10_ARCHIVE}.")
    table = np.frombuffer(members[name], np.uint8)
    if not table.size or table.size % 3073:
        size = counted(table.size, "byte")
        raise ResnetError(f"{path}: {name} has {size}, no multiple of 3073; download the archive again.")
    table = table.reshape(-1, 3073)
    if table[:, 0].max() > 9:
        raise ResnetError(f"{path}: {name} has a label above 9; download the archive again.")
    images = table[:, 1:].reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), table[:, 0].astype(np.int64)


def load_fashion_mnist(archive: Path | None, folder: Path, mirror: str) -> Source:
    """Fashion-MNIST from `archive` (a folder), Debian's dataset-fashion-mnist or a download; 28x28 in a frame of 2."""
    where = archive or (FASHION_DEBIAN if FASHION_DEBIAN.is_dir() and not mirror else folder)
    if where == folder:
        for name, checksum in FASHION_SHA256.items():
            if not (folder / name).is_file():
                _download((mirror or FASHION_URL) + name, folder / name, _unpacked, checksum, "fashion-mnist")
    images_and_labels = [_read_idx(where / name) for name in FASHION_SHA256]
    train, val = _fashion_part(where, *images_and_labels[:2]), _fashion_part(where, *images_and_labels[2:])
    return Source("fashion-mnist", FASHION_CLASSES, train, val)


def _unpacked(path: Path) -> bytes:
    return gunzip(read_bytes(path, FASHION_BYTES), FASHION_BYTES)


def _read_idx(path: Path) -> NDArray[np.uint8]:
    try:
        data = _unpacked(path)
        dimensions = np.frombuffer(data, ">u4", count=data[3], offset=4).astype(np.int64)
        content: NDArray[np.uint8] = np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(dimensions)
        return content
    except (OSError, EOFError, ValueError, IndexError, zlib.error) as error:
        raise ResnetError(f"{path} is missing or damaged ({error}); it is one of Fashion-MNIST's four files.") from None


def _fashion_part(where: Path, images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> Part:
    if labels.ndim != 1 or not len(labels) or images.shape != (len(labels), 28, 28) or labels.max() > 9:
        raise ResnetError(
            f"{where} holds images of the shape {images.shape} and labels of the shape {labels.shape}, not n x 28 x 28 "
            "and n from 0 to 9; download Fashion-MNIST's four files again."
        )
    framed = np.pad(images, ((0, 0), (2, 2), (2, 2)))
    return Part(np.repeat(framed[..., None], 3, axis=3), labels.astype(np.int64))


def _download(url: str, path: Path, unpack: Callable[[Path], bytes], checksum: str, source: str) -> None:
    """Fetch a file; it gets its name only when the SHA-256 of what it unpacks to is right."""
    elsewhere = f"fetch it elsewhere and give `resnet-v2 data {source} --archive`"

    def check(file: Path) -> None:
        if (found := hashlib.sha256(unpack(file)).hexdigest()) != checksum:
            raise ResnetError(f"{url} has the SHA-256 {found}, not {checksum}: no official file; {elsewhere}.")

    download(url, path, elsewhere, check)


SOURCES: dict[str, Callable[[Path | None, Path, str], Source]] = {
    "digits": load_digits,
    "cifar10": load_cifar10,
    "fashion-mnist": load_fashion_mnist,
}
