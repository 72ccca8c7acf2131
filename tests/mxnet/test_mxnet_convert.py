"""What `convert` and `unpack` write, the real MXNet reads: by key, as batches, as data sets."""

import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
from parity import MXNet
from test_mxnet_records import MXNET_PYTHON, join, split

from resnet_v2.cli import main
from resnet_v2.data import recordio
from resnet_v2.data.filling import Centred
from resnet_v2.data.jpeg import decode
from resnet_v2.data.loader import Reading, batches
from resnet_v2.data.record_set import open_records
from resnet_v2.data.records import RecordReader

pytest_plugins = ["mxnet_process"]

SIZE, COUNT, CLASSES = 32, 12, 3


def picture(number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    return bytes(cv2.imencode(".png", pixels)[1].tobytes())


def payloads(first: int = 0) -> list[bytes]:
    return [recordio.pack((0, float(n % CLASSES), n, 0), picture(n)) for n in range(first, first + COUNT)]


def write_theirs(mxnet: MXNet, rec: Path, records: list[bytes]) -> None:
    mxnet.ask("write_records", join(records), idx=str(rec.with_suffix(".idx")), rec=str(rec))


def check_all_readers(mxnet: MXNet, rec: Path, idx: Path, keys: list[int], labels: list[float]) -> np.ndarray:
    """MXNet's four readers give the keys and labels, and the same pixels, which come back: N x H x W x 3, RGB."""
    told, arrays = mxnet.ask("read_by_all", rec=str(rec), idx=str(idx), size=SIZE)
    assert (told["keys"], told["ids"]) == (keys, keys)
    for reader in ("labels", "gluon", "image_iter", "record_iter"):
        assert told[reader] == labels, reader
    pixels = arrays["gluon"]
    for reader in ("image_iter", "record_iter"):
        assert np.array_equal(arrays[reader].transpose(0, 2, 3, 1), pixels), reader
    return pixels


def pixels_of(rec: Path) -> np.ndarray:
    reader = RecordReader(rec)
    return np.stack([decode(reader.image(number)[1]) for number in range(len(reader))])


def test_merged_and_shuffled(mxnet: MXNet, tmp_path: Path) -> None:
    write_theirs(mxnet, tmp_path / "a.rec", payloads())
    write_theirs(mxnet, tmp_path / "b.rec", payloads(0))
    out = tmp_path / "c.rec"
    assert main(["convert", str(tmp_path / "a.rec"), str(tmp_path / "b.rec"), str(out), "--shuffle"]) == 0
    order = np.random.default_rng(0).permutation(2 * COUNT)
    pixels = check_all_readers(
        mxnet, out, out.with_suffix(".idx"), [*range(2 * COUNT)], [float(n % COUNT % CLASSES) for n in order]
    )
    assert np.array_equal(pixels, pixels_of(out))
    assert np.array_equal(pixels, np.concatenate([pixels_of(tmp_path / "a.rec")] * 2)[order])


def test_classes_split_and_parts(mxnet: MXNet, tmp_path: Path) -> None:
    write_theirs(mxnet, tmp_path / "a.rec", payloads())
    rec = str(tmp_path / "a.rec")
    words = ["--classes", "2,0", "--renumber", "--val-per-class", "1"]
    assert main(["convert", rec, str(tmp_path / "b.rec"), *words]) == 0
    for part, count in (("train", 6), ("val", 2)):
        out = tmp_path / f"b_{part}.rec"
        reader = RecordReader(out)
        labels = [float({2: 0, 0: 1}[key % 3]) for key in reader.keys.tolist()]
        assert len(labels) == count
        check_all_readers(mxnet, out, out.with_suffix(".idx"), reader.keys.tolist(), labels)
    assert main(["convert", rec, str(tmp_path / "p.rec"), "--parts", "2"]) == 0
    for number in range(2):
        keys = list(range(6 * number, 6 * number + 6))
        out, idx = tmp_path / f"p.rec.part{number:03d}", tmp_path / f"p.idx.part{number:03d}"
        answer, found = mxnet.ask("read_records", idx=str(idx), rec=str(out))
        assert answer["keys"] == keys
        assert split(found) == [payloads()[key] for key in keys]


def test_faces_as_insightface_reads_them(mxnet: MXNet, tmp_path: Path) -> None:
    images = [picture(n) for n in range(COUNT)]
    rec = tmp_path / "f.rec"
    mxnet.ask("write_faces", join(images), rec=str(rec), idx=str(tmp_path / "f.idx"), each=4)
    assert main(["convert", str(rec), str(tmp_path / "same.rec"), "--faces"]) == 0
    assert (tmp_path / "same.rec").read_bytes() == rec.read_bytes()
    assert (tmp_path / "same.idx").read_bytes() == (tmp_path / "f.idx").read_bytes()
    assert main(["convert", str(rec), str(tmp_path / "h.rec"), "--faces", "--val-identities", "1"]) == 0
    kept: dict[bytes, int] = {}
    for part, count in (("train", 8), ("val", 4)):
        out = tmp_path / f"h_{part}"
        told, found = mxnet.ask("read_faces", rec=f"{out}.rec", idx=f"{out}.idx")
        assert (told["keys"], told["flag"]) == (list(range(1, count + 1)), 2)
        kept |= dict(zip(split(found), told["labels"], strict=True))
    assert kept == {image: n // 4 for n, image in enumerate(images)}
    plain = tmp_path / "plain.rec"
    assert main(["convert", str(rec), str(plain)]) == 0
    labels = [float(n // 4) for n in range(COUNT)]
    pixels = check_all_readers(mxnet, plain, tmp_path / "plain.idx", list(range(1, COUNT + 1)), labels)
    assert np.array_equal(pixels, pixels_of(plain))


def test_what_is_unpacked_im2rec_packs_again(mxnet: MXNet, tmp_path: Path) -> None:
    rec = tmp_path / "a.rec"
    write_theirs(mxnet, rec, payloads())
    assert main(["unpack", str(rec), str(tmp_path / "out")]) == 0
    where = "import mxnet, pathlib; print(pathlib.Path(mxnet.__file__).parent / 'tools' / 'im2rec.py')"
    tool = subprocess.run([MXNET_PYTHON, "-c", where], capture_output=True, text=True, check=True).stdout.split()[-1]
    (tmp_path / "out.lst").rename(tmp_path / "again.lst")  # im2rec.py takes a prefix that is a folder for another thing
    words = [MXNET_PYTHON, tool, str(tmp_path / "again"), str(tmp_path / "out"), "--pass-through", "--num-thread", "1"]
    subprocess.run(words, check=True, capture_output=True, cwd=tmp_path)
    assert (tmp_path / "again.rec").read_bytes() == rec.read_bytes()
    assert (tmp_path / "again.idx").read_bytes() == rec.with_suffix(".idx").read_bytes()


def test_one_label_as_an_array_is_the_class(mxnet: MXNet, tmp_path: Path) -> None:
    """As `mx.recordio.pack` makes it of an array of one number, which im2rec.py never gives it."""
    rec = tmp_path / "a.rec"
    write_theirs(mxnet, rec, [recordio.pack((0, [float(n % CLASSES)], n, 0), picture(n)) for n in range(COUNT)])
    reader = RecordReader(rec)
    assert {reader.image(number)[0].flag for number in range(COUNT)} == {1}
    wanted = [n % CLASSES for n in range(COUNT)]
    (batch,) = batches(open_records(rec), [np.arange(COUNT)], Centred(SIZE), (SIZE, SIZE, 3), CLASSES, Reading())
    assert batch.labels.tolist() == wanted
    check_all_readers(mxnet, rec, rec.with_suffix(".idx"), [*range(COUNT)], [float(label) for label in wanted])
    assert main(["verify", str(rec)]) == 0
    assert main(["convert", str(rec), str(tmp_path / "b.rec")]) == 0
    assert (tmp_path / "b.rec").read_bytes() == rec.read_bytes()
    assert main(["convert", str(rec), str(tmp_path / "c.rec"), "--classes", "2,1", "--renumber"]) == 0
    kept = [n for n in range(COUNT) if n % CLASSES]
    labels = [{2: 0.0, 1: 1.0}[n % CLASSES] for n in kept]
    check_all_readers(mxnet, tmp_path / "c.rec", tmp_path / "c.idx", kept, labels)


@pytest.mark.parametrize("array", [False, True])
def test_faces_without_ranges(mxnet: MXNet, tmp_path: Path, array: bool) -> None:
    """Images from key 0 on and nothing else: they are records of classes, and get their ranges by `--faces`."""
    labels = [n // 4 for n in range(COUNT)]
    made = [recordio.pack((0, [label, 0.0] if array else label, n, 0), picture(n)) for n, label in enumerate(labels)]
    rec = tmp_path / "a.rec"
    write_theirs(mxnet, rec, made)
    records = open_records(rec)
    assert records.remarks == []
    (batch,) = batches(records, [np.arange(COUNT)], Centred(SIZE), (SIZE, SIZE, 3), CLASSES, Reading())
    assert batch.labels.tolist() == labels
    assert main(["verify", str(rec)]) == 0
    out = tmp_path / "f"
    assert main(["convert", str(rec), f"{out}.rec", "--faces"]) == 0
    told, found = mxnet.ask("read_faces", rec=f"{out}.rec", idx=f"{out}.idx")
    assert (told["keys"], told["labels"], told["flag"]) == ([*range(1, COUNT + 1)], labels, 2)
    assert split(found) == [picture(n) for n in range(COUNT)]
