"""im2rec.py's words: what it packs we read, and our `pack` makes the same records of the same words."""

import os
import subprocess
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from parity import MXNet

from resnet_v2.cli import main
from resnet_v2.data import recordio
from resnet_v2.data.filling import Centred
from resnet_v2.data.index import index_path
from resnet_v2.data.jpeg import decode
from resnet_v2.data.lists import read_list
from resnet_v2.data.loader import Reading, batches
from resnet_v2.data.records import RecordReader

pytest_plugins = ["mxnet_process"]

MXNET_PYTHON = os.environ.get("RESNET_V2_MXNET_PYTHON", str(Path(__file__).parents[2] / ".venv-mxnet/bin/python"))
COUNT = 12


def im2rec(*words: object) -> None:
    script = next(Path(MXNET_PYTHON).parents[1].glob("lib/*/site-packages/mxnet/tools/im2rec.py"))
    subprocess.run([MXNET_PYTHON, str(script), *map(str, words)], check=True, capture_output=True, timeout=300)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of six pictures of different sizes: JPEG and PNG, in colour, grey, with transparency, of 16 bits."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for number in range(COUNT):
        folder = root / ("ant" if number % 2 else "bee")
        folder.mkdir(exist_ok=True)
        coarse = rng.integers(0, 256, (6, 7, 4), dtype=np.uint8)
        image: Any = cv2.resize(coarse, (130 + 9 * number, 200 - 7 * number), interpolation=cv2.INTER_CUBIC)
        name, made = {
            8: ("8.png", image[..., 0]),
            9: ("9.png", image),
            10: ("10.png", image[..., :3].astype(np.uint16) * 257),
            11: ("11.jpg", image[..., 0]),
        }.get(number, (f"{number}.{'png' if number % 3 else 'jpg'}", image[..., :3]))
        assert cv2.imwrite(str(folder / name), made)
    return root


def write_list(path: Path, pictures: Path, labels: int) -> None:
    """A list with keys that are no ordinals; of several labels the others have fractions."""
    lines = []
    for number, image in enumerate(sorted(pictures.rglob("*.*"))):
        all_labels = [f"{float(number % 2):f}", *(f"{number + 0.25 * more:f}" for more in range(1, labels))]
        lines.append("\t".join([str(7 * number + 3), *all_labels, image.relative_to(pictures).as_posix()]) + "\n")
    path.write_text("".join(lines))


def records_of(rec: Path) -> list[tuple[int, int, list[float], int, int, bytes]]:
    """Key, flag, labels, id, id2 and image file of each record."""
    reader = RecordReader(rec)
    found = []
    for ordinal, key in enumerate(reader.keys.tolist()):
        header, data = reader.image(ordinal)
        labels = np.ravel(np.asarray(header.label, np.float32)).tolist()
        found.append((key, header.flag, labels, header.id, header.id2, bytes(data)))
    return found


def pixels_of(data: bytes) -> Any:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)


PNG = ("--encoding", ".png", "--quality", "3")


@pytest.mark.parametrize(
    ("words", "labels"),
    [
        (("--pass-through",), 1),
        (PNG, 1),
        ((*PNG, "--color", "1"), 1),
        ((*PNG, "--color", "0"), 1),
        ((*PNG, "--color", "-1"), 1),
        ((*PNG, "--center-crop"), 1),
        ((*PNG, "--center-crop", "--color", "0", "--resize", "60"), 1),
        ((*PNG, "--resize", "60"), 1),
        ((*PNG, "--resize", "150"), 1),
        ((*PNG, "--resize", "60", "--num-thread", "2"), 1),
        (("--quality", "95"), 1),
        (("--quality", "40", "--resize", "100"), 1),
        (("--encoding", ".jpg", "--quality", "90", "--color", "0", "--resize", "100"), 1),
        ((*PNG, "--resize", "60"), 3),
        ((*PNG, "--resize", "60", "--pack-label"), 3),
        ((*PNG, "--resize", "60", "--pack-label"), 1),
    ],
)
def test_pack_makes_what_im2rec_makes(
    mxnet: MXNet, pictures: Path, tmp_path: Path, words: tuple[str, ...], labels: int
) -> None:
    write_list(tmp_path / "a.lst", pictures, labels)
    im2rec(*words, tmp_path / "a", pictures)
    # im2rec.py is always bilinear; so is ours where it is asked for.
    ours = ("pack", tmp_path / "a.lst", pictures, tmp_path / "o.rec", *words, "inter_method=1", "--on-error", "stop")
    assert main([str(word) for word in ours]) == 0
    theirs, found = records_of(tmp_path / "a.rec"), records_of(tmp_path / "o.rec")
    assert [one[:5] for one in found] == [one[:5] for one in theirs]
    assert len(found) == COUNT
    assert {(flag, len(numbers)) for _, flag, numbers, *_ in found} == {
        (labels, labels) if "--pack-label" in words and labels > 1 else (0, 1)
    }
    for one, other in zip(found, theirs, strict=True):
        assert np.array_equal(pixels_of(one[-1]), pixels_of(other[-1]))
        if "--pass-through" in words:
            assert one[-1] == other[-1]
        elif pixels_of(other[-1]).dtype == np.uint8 and pixels_of(other[-1]).shape[2:] != (4,):
            # What the package itself sees in MXNet's record.
            assert np.array_equal(decode(other[-1]), decode(one[-1]))
            bgr: Any = cv2.imdecode(np.frombuffer(other[-1], np.uint8), cv2.IMREAD_COLOR)
            assert np.array_equal(decode(other[-1])[..., ::-1], bgr)


@pytest.mark.parametrize("words", [(), ("--color", "0"), ("--center-crop",), ("--pass-through",)])
def test_the_loader_reads_im2recs_records_as_mxnet_does(
    mxnet: MXNet, pictures: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    files = [file.relative_to(pictures).as_posix() for file in sorted(pictures.rglob("*.*"))]
    lines = [file for file in files if not file.endswith(("9.png", "10.png"))][:10]
    (tmp_path / "a.lst").write_text("".join(f"{n}\t{n % 2}\t{line}\n" for n, line in enumerate(lines)))
    im2rec(*words, "--resize", "128", tmp_path / "a", pictures)
    options: dict[str, Any] = {"data_shape": [3, 112, 112], "batch_size": 5, "shuffle": False}
    _, theirs = mxnet.ask(
        "iterate", path_imgrec=str(tmp_path / "a.rec"), path_imgidx=str(tmp_path / "a.idx"), **options
    )
    reader = RecordReader(tmp_path / "a.rec")
    ours = list(batches(reader, np.arange(10).reshape(2, 5), Centred(112), (112, 112, 3), 2, Reading()))
    assert np.array_equal(theirs["labels"], np.concatenate([batch.labels for batch in ours]))
    pixels = np.concatenate([batch.images for batch in ours]).transpose(0, 3, 1, 2)
    assert np.array_equal(theirs["images"], pixels.astype(np.float32))


def test_mxnet_reads_several_labels_and_parts(mxnet: MXNet, pictures: Path, tmp_path: Path) -> None:
    write_list(tmp_path / "a.lst", pictures, 3)
    words = ("resize=128", "label_width=3", "pack_label=1", "nsplit=2")
    entries = list(read_list(tmp_path / "a.lst"))
    keys = []
    for part in range(2):
        command = ("pack", tmp_path / "a.lst", pictures, tmp_path / "p.rec", *words, f"part={part}")
        assert main([str(word) for word in command]) == 0
        rec = tmp_path / f"p.rec.part{part:03d}"
        reader = recordio.MXIndexedRecordIO(str(index_path(rec)), str(rec), "r")
        keys += reader.keys
        _, theirs = mxnet.ask(
            "iterate",
            path_imgrec=str(rec),
            path_imgidx=str(index_path(rec)),
            data_shape=[3, 112, 112],
            label_width=3,
            batch_size=1,
            shuffle=False,
        )
        wanted = [entry.labels for entry in entries if entry.index in reader.keys]
        assert theirs["labels"].tolist() == [list(labels) for labels in wanted]
    assert keys == [entry.index for entry in entries]


def test_lines_that_im2rec_passes_over_are_skipped(mxnet: MXNet, pictures: Path, tmp_path: Path) -> None:
    paths = [path.relative_to(pictures).as_posix() for path in sorted(pictures.rglob("*.jpg"))][:3]
    text = (
        f"1\t0\t{paths[0]}\t\n"
        f"  2\t 1 \t {paths[1]}  \r\n"
        "\n"
        f"x\t0\t{paths[0]}\n"
        f"3\tone\t{paths[0]}\n"
        f"4\t{paths[0]}\n"
        f"5\t1.5\t{paths[2]}"
    )
    (tmp_path / "a.lst").write_bytes(text.encode())
    im2rec("--pass-through", tmp_path / "a", pictures)
    assert main(["pack", str(tmp_path / "a.lst"), str(pictures), str(tmp_path / "o.rec"), "--pass-through"]) == 0
    assert (tmp_path / "o.rec").read_bytes() == (tmp_path / "a.rec").read_bytes()
    assert (tmp_path / "o.idx").read_bytes() == (tmp_path / "a.idx").read_bytes()


def test_lists_in_chunks_have_im2recs_names(mxnet: MXNet, pictures: Path, tmp_path: Path) -> None:
    words = ("--list", "--recursive", "--chunks", "3", "--train-ratio", "0.5")
    for folder in ("theirs", "ours"):
        (tmp_path / folder).mkdir()
    im2rec(*words, tmp_path / "theirs" / "a", pictures)
    assert main(["list", *words, str(pictures), str(tmp_path / "ours" / "a")]) == 0
    names, found = [], []
    for folder in ("theirs", "ours"):
        lists = sorted((tmp_path / folder).glob("*.lst"))
        names.append([path.name for path in lists])
        entries = [entry for path in lists for entry in read_list(path)]
        found.append(sorted((entry.path, entry.labels) for entry in entries))
    assert names[0] == names[1]
    assert len(names[0]) == 6
    assert found[0] == found[1]
