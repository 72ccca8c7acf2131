"""Records: what MXNet writes we read, what we write MXNet reads, and both write the same bytes."""

import os
import struct
import subprocess
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from parity import Arrays, MXNet

from resnet_v2.cli import main
from resnet_v2.data import recordio
from resnet_v2.data.filling import Centred
from resnet_v2.data.jpeg import decode
from resnet_v2.data.lists import read_list, read_synset
from resnet_v2.data.loader import Reading, batches
from resnet_v2.data.record_set import open_records
from resnet_v2.data.records import MAGIC_BYTES, RecordReader, scan, writing

pytest_plugins = ["mxnet_process"]

MXNET_PYTHON = os.environ.get("RESNET_V2_MXNET_PYTHON", str(Path(__file__).parents[2] / ".venv-mxnet/bin/python"))

PAYLOADS = [
    b"",
    b"a",
    b"abc",
    b"abcd",
    b"x" * 1000,
    MAGIC_BYTES,
    MAGIC_BYTES * 4,
    b"abcd" + MAGIC_BYTES,
    MAGIC_BYTES + b"abc",
    b"a" + MAGIC_BYTES * 2,
    b"abcd" + MAGIC_BYTES + b"efgh" + MAGIC_BYTES + b"i",
    MAGIC_BYTES[:3],
    bytes(7) + MAGIC_BYTES,
    struct.pack("<II", 0xCED7230A, 5) * 3,
]

payloads = st.lists(st.one_of(st.just(MAGIC_BYTES), st.binary(max_size=9)), max_size=8).map(b"".join)


def join(records: list[bytes]) -> Arrays:
    lengths = np.array([len(record) for record in records], np.int64)
    return {"data": np.frombuffer(b"".join(records), np.uint8), "lengths": lengths}


def split(arrays: Arrays) -> list[bytes]:
    ends = np.cumsum(arrays["lengths"])
    data = arrays["data"].tobytes()
    return [data[end - length : end] for end, length in zip(ends, arrays["lengths"], strict=True)]


def write_ours(rec: Path, records: list[bytes]) -> None:
    with writing(rec) as writer:
        for key, record in enumerate(records):
            writer.write(key, record)


def both_ways(mxnet: MXNet, folder: Path, records: list[bytes]) -> None:
    """The same bytes from both writers, the same payloads from all readers."""
    ours, theirs = folder / "ours.rec", folder / "theirs.rec"
    write_ours(ours, records)
    answer, _ = mxnet.ask("write_records", join(records), idx=str(folder / "theirs.idx"), rec=str(theirs))
    assert ours.read_bytes() == theirs.read_bytes()
    assert (folder / "ours.idx").read_bytes() == (folder / "theirs.idx").read_bytes()
    assert RecordReader(theirs).offsets.tolist() == answer["positions"] == [start for start, _ in scan(theirs)]
    reader = RecordReader(theirs)
    assert [bytes(reader[ordinal]) for ordinal in range(len(reader))] == records
    stream = recordio.MXRecordIO(str(theirs), "r")
    assert [stream.read() for _ in range(len(records) + 1)] == [*records, None]
    answer, found = mxnet.ask("read_records", idx=str(folder / "ours.idx"), rec=str(ours))
    assert split(found) == records
    assert answer["keys"] == list(range(len(records)))


def test_parts_and_paddings(mxnet: MXNet, tmp_path: Path) -> None:
    both_ways(mxnet, tmp_path, PAYLOADS)


@given(records=st.lists(payloads, min_size=1, max_size=30))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_payload_goes_both_ways(mxnet: MXNet, tmp_path: Path, records: list[bytes]) -> None:
    both_ways(mxnet, tmp_path, records)


def test_our_mxrecordio_writes_mxnets_bytes(mxnet: MXNet, tmp_path: Path) -> None:
    mxnet.ask("write_records", join(PAYLOADS), idx=str(tmp_path / "t.idx"), rec=str(tmp_path / "t.rec"))
    writer = recordio.MXIndexedRecordIO(str(tmp_path / "o.idx"), str(tmp_path / "o.rec"), "w")
    for key, payload in enumerate(PAYLOADS):
        writer.write_idx(key, payload)
    writer.close()
    assert (tmp_path / "o.rec").read_bytes() == (tmp_path / "t.rec").read_bytes()
    assert (tmp_path / "o.idx").read_bytes() == (tmp_path / "t.idx").read_bytes()


def test_headers_are_the_same_bytes(mxnet: MXNet) -> None:
    labels: list[Any] = [3, 2.5, [1.0], [1.0, 2.0, 0.25], [4, 5]]
    _, found = mxnet.ask("pack_headers", labels=labels)
    assert [recordio.pack((0, label, 7, 1), b"image") for label in labels] == split(found)
    for label, record in zip(labels, split(found), strict=True):
        header, image = recordio.unpack(record)
        assert np.array_equal(np.asarray(header.label), np.asarray(label, np.float32))
        assert (image, header.id, header.id2) == (b"image", 7, 1)


def test_collections_of_faces(mxnet: MXNet, tmp_path: Path) -> None:
    """MXNet writes one as InsightFace does; its images are ours, and those that its loaders find by our index."""
    rec, idx = tmp_path / "f.rec", tmp_path / "f.idx"
    rng = np.random.default_rng(0)
    images = [cv2.imencode(".jpg", rng.integers(0, 255, (40, 40, 3)).astype(np.uint8))[1].tobytes() for _ in range(12)]
    mxnet.ask("write_faces", join(images), rec=str(rec), idx=str(idx), each=4)
    records = open_records(rec)
    assert records.remarks == [
        f"{rec}: 12 images of 3 identities, which are the classes; 4 records without an image are left out"
    ]
    ours = [records.image(ordinal) for ordinal in range(len(records))]
    theirs, found = mxnet.ask("read_faces", rec=str(rec), idx=str(idx))
    assert theirs["flag"] == 2
    assert [header.id for header, _ in ours] == theirs["keys"]
    assert [int(np.ravel(header.label)[0]) for header, _ in ours] == theirs["labels"]
    assert [bytes(image) for _, image in ours] == split(found) == images
    (batch,) = batches(records, [np.arange(12)], Centred(32), (32, 32, 3), 3, Reading())
    assert batch.labels.tolist() == theirs["labels"]
    assert main(["verify", str(rec)]) == 0
    before = idx.read_text()
    idx.unlink()
    assert main(["index", str(rec)]) == 0
    assert idx.read_text() == before
    keys = {
        key: recordio.pack((2, [label, 0], key, 0), image) for key, (label, image) in _by_key(theirs, images).items()
    }
    with writing(tmp_path / "ours.rec") as writer:
        writer.write(0, recordio.pack((2, [13, 16], 0, 0), b""))
        for key, payload in keys.items():
            writer.write(key, payload)
        for person in range(3):
            writer.write(13 + person, recordio.pack((2, [1 + 4 * person, 5 + 4 * person], 13 + person, 0), b""))
    assert (tmp_path / "ours.rec").read_bytes() == rec.read_bytes()


def _by_key(theirs: dict[str, Any], images: list[bytes]) -> dict[int, tuple[int, bytes]]:
    return dict(zip(theirs["keys"], zip(theirs["labels"], images, strict=True), strict=True))


@pytest.mark.parametrize("cut", [1, 2])
def test_a_jpeg_without_its_end_marker_has_the_pixels_of_the_whole(mxnet: MXNet, cut: int) -> None:
    """MXNet takes it too, but its decoder waits for more bytes with the lowest rows: most are not the file's."""
    rng = np.random.default_rng(0)
    files = []
    for number in range(6):
        coarse = rng.integers(0, 256, (6, 7, 3), dtype=np.uint8)
        image = cv2.resize(coarse, (60, 50), interpolation=cv2.INTER_CUBIC)
        files.append(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 70 + 5 * number])[1].tobytes())
    cut_files = [data[:-cut] for data in files]
    of_whole = mxnet.ask("decode_images", join(files))[1]["pixels"]
    of_cut = mxnet.ask("decode_images", join(cut_files))[1]["pixels"]
    for data, whole, theirs in zip(cut_files, of_whole, of_cut, strict=True):
        assert np.array_equal(decode(data), whole)
        assert np.array_equal(theirs[:-16], whole[:-16])
    assert not np.array_equal(of_cut, of_whole)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of five smooth pictures of different sizes, as JPEG files in folders."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for name in ("ant", "bee", "cat"):
        (root / name).mkdir()
        for number in range(5):
            coarse = rng.integers(0, 256, (6, 7, 3), dtype=np.uint8)
            image = cv2.resize(coarse, (300 + 9 * number, 260 + 7 * number), interpolation=cv2.INTER_CUBIC)
            assert cv2.imwrite(str(root / name / f"{number}.jpg"), image)
    return root


def im2rec(*words: object) -> None:
    script = next(Path(MXNET_PYTHON).parents[1].glob("lib/*/site-packages/mxnet/tools/im2rec.py"))
    command = [MXNET_PYTHON, str(script), *map(str, words)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)


def test_what_im2rec_lists_and_packs_we_read(mxnet: MXNet, pictures: Path, tmp_path: Path) -> None:
    im2rec("--list", "--recursive", tmp_path / "a", pictures)
    im2rec("--pass-through", tmp_path / "a", pictures)
    entries = list(read_list(tmp_path / "a.lst"))
    assert main(["list", str(pictures), str(tmp_path / "ours")]) == 0
    names = read_synset(tmp_path / "synset.txt")
    assert {entry.path: entry.labels for entry in entries} == {
        entry.path: entry.labels for entry in read_list(tmp_path / "ours_train.lst")
    }
    reader = RecordReader(tmp_path / "a.rec")
    found = {}
    for ordinal in range(len(reader)):
        header, data = reader.image(ordinal)
        entry = next(entry for entry in entries if entry.index == header.id)
        found[entry.path] = (header.label, bytes(data))
        assert entry.path.startswith(names[int(entry.labels[0])])
    assert found == {entry.path: (entry.labels[0], (pictures / entry.path).read_bytes()) for entry in entries}


@pytest.mark.parametrize("store", ["png", "jpeg", "bmp", "webp"])
@pytest.mark.parametrize("with_index", [True, False])
def test_image_record_iter_reads_what_we_pack(
    mxnet: MXNet, pictures: Path, tmp_path: Path, store: str, with_index: bool
) -> None:
    rec = tmp_path / "a.rec"
    assert main(["list", str(pictures), str(tmp_path / "a")]) == 0
    words = ["--resize", "256", "--store", store]
    assert main(["pack", str(tmp_path / "a_train.lst"), str(pictures), str(rec), *words]) == 0
    # Batches of 5: with round_batch=False MXNet fills a last smaller one up and does not say so.
    options: dict[str, Any] = {"path_imgrec": str(rec), "data_shape": [3, 224, 224], "batch_size": 5, "shuffle": False}
    if with_index:
        options["path_imgidx"] = str(tmp_path / "a.idx")
    if store == "webp":  # which its OpenCV was built without
        with pytest.raises(AssertionError, match="OpenCV"):
            mxnet.ask("iterate", **options)
        return
    _, theirs = mxnet.ask("iterate", **options)
    ours = list(batches(RecordReader(rec), np.arange(15).reshape(3, 5), Centred(224), (224, 224, 3), 3, Reading()))
    assert np.array_equal(theirs["labels"], np.concatenate([batch.labels for batch in ours]))
    pixels = np.concatenate([batch.images for batch in ours]).transpose(0, 3, 1, 2)
    # Both decode with libjpeg-turbo; MXNet's is older, with the same arithmetic.
    assert np.array_equal(theirs["images"], pixels.astype(np.float32))


@pytest.mark.skipif(
    "RESNET_V2_DALI_PYTHON" not in os.environ, reason="missing DALI: RESNET_V2_DALI_PYTHON names no Python with it"
)
def test_dali_reads_what_we_pack(pictures: Path, tmp_path: Path) -> None:
    assert main(["list", str(pictures), str(tmp_path / "a")]) == 0
    assert main(["pack", str(tmp_path / "a_train.lst"), str(pictures), str(tmp_path / "a.rec"), "resize=256"]) == 0
    code = """
import sys
import numpy as np
from nvidia.dali import fn, pipeline_def
@pipeline_def(batch_size=15, num_threads=1, device_id=None)
def pipeline():
    data, labels = fn.readers.mxnet(path=[sys.argv[1]], index_path=[sys.argv[2]])
    return fn.decoders.image(data), labels
built = pipeline()
built.build()
images, labels = built.run()
np.savez(sys.argv[3], labels=np.array([np.array(one) for one in labels]).ravel(), first=np.array(images[0]))
"""
    python, answer = os.environ["RESNET_V2_DALI_PYTHON"], tmp_path / "answer.npz"
    subprocess.run([python, "-c", code, tmp_path / "a.rec", tmp_path / "a.idx", answer], check=True, timeout=300)
    found = np.load(answer)
    entries = list(read_list(tmp_path / "a_train.lst"))
    assert found["labels"].tolist() == [entry.labels[0] for entry in entries]
    assert min(found["first"].shape[:2]) == 256
