"""Labels of validation images from files of every dialect that is about."""

import shutil
from pathlib import Path

import pytest

from conftest import Run
from test_archives import tar_of

CLASSES = ("n00000001", "n00000003", "n00000002", "n00000003")  # of the images 1 to 4
DEVKIT_ORDER = ("n00000003 2 fox", "n00000001 1 ant", "n00000002 3 bee")
LINES = [
    (f"ILSVRC2012_val_{number:08d}.JPEG", wnid, DEVKIT_ORDER.index(next(d for d in DEVKIT_ORDER if wnid in d)))
    for number, wnid in enumerate(CLASSES, start=1)
]
DIALECTS = {
    "WNIDs": "".join(f"{wnid}\n" for _, wnid, _ in LINES),
    "names and WNIDs": "".join(f"{name} {wnid}\n" for name, wnid, _ in reversed(LINES)),
    "csv": "ImageId,PredictionString\n" + "".join(f"{name[:-5]},{wnid} 1 2 3 4\n" for name, wnid, _ in LINES),
    "numbers from 0": "".join(f"{place}\n" for _, _, place in LINES),
    "numbers from 1": "".join(f"{place + 1}\n" for _, _, place in LINES),
    "names and numbers": "".join(f"val/{name}\t{place}\n" for name, _, place in LINES),
}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Four empty validation images, and what is no image."""
    folder = tmp_path / "val"
    folder.mkdir()
    for name, _, _ in LINES:
        (folder / name).touch()
    (folder / "readme.txt").touch()
    (tmp_path / "synset.txt").write_text("n00000001\nn00000002\nn00000003 fox, red fox\n")
    (tmp_path / "map.txt").write_text("".join(f"{line}\n" for line in DEVKIT_ORDER))
    return folder


def label_words(tmp_path: Path, dialect: str) -> list[object]:
    (tmp_path / "truth").write_text(DIALECTS[dialect])
    synset = ["--synset", tmp_path / "map.txt"] if "numbers" in dialect else []
    return ["--val-labels", tmp_path / "truth", *synset]


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("layout", ["folder", "tar"])
@pytest.mark.parametrize("synset", ["there", "missing"])
def test_labels_are_places_in_synset_txt(
    images: Path, tmp_path: Path, run: Run, dialect: str, layout: str, synset: str
) -> None:
    root = images
    if layout == "tar":
        root = tar_of({path.name: b"" for path in images.iterdir()}, tmp_path / "val.tar")
        shutil.rmtree(images)
    if synset == "missing":
        (tmp_path / "synset.txt").unlink()
    status, out, err = run("list", root, tmp_path / "a", *label_words(tmp_path, dialect))
    assert status == 0, err
    assert "a_val.lst: 4 images" in out
    expected = [
        f"{i}\t{label:.6f}\t{name}\n" for i, (label, (name, _, _)) in enumerate(zip((0, 2, 1, 2), LINES, strict=True))
    ]
    assert (tmp_path / "a_val.lst").read_text() == "".join(expected)
    words = [line.split()[0] for line in (tmp_path / "synset.txt").read_text().splitlines()]
    assert words == ["n00000001", "n00000002", "n00000003"]


@pytest.mark.parametrize(
    ("truth", "synset", "sentence"),
    [
        ("n00000001\n", None, "has 1 line but"),
        ("", None, "is empty"),
        ("1\n2\n3\n3\n", None, "holds numbers; give --synset"),
        ("1\n2\n2\n2\n", "map.txt", "must go from 0 to 2 or from 1 to 3"),
        ("0\n2\n3\n2\n", "map.txt", "must go from 0 to 2 or from 1 to 3"),
        ("1\n2\n3\n" + "9" * 5000 + "\n", "map.txt", "holds the number 99999999999999999999..., which is no class"),
        ("n00000009\n" * 4, None, "names the class n00000009"),
        ("other.JPEG n00000001\n" * 4, None, "has no line `NAME CLASS` for ILSVRC2012_val_00000001.JPEG"),
    ],
)
def test_what_does_not_belong_together(
    images: Path, tmp_path: Path, run: Run, truth: str, synset: str | None, sentence: str
) -> None:
    (tmp_path / "truth").write_text(truth)
    more = ["--synset", tmp_path / synset] if synset else []
    status, _, err = run("list", images, tmp_path / "a", "--val-labels", tmp_path / "truth", *more)
    assert status == 2
    assert sentence in err
    assert not (tmp_path / "a_val.lst").exists()


def test_missing_files(images: Path, tmp_path: Path, run: Run) -> None:
    assert "cannot be read" in run("list", images, tmp_path / "a", "--val-labels", tmp_path / "none")[2]
    (tmp_path / "empty").mkdir()
    (tmp_path / "truth").write_text("n00000001\n")
    assert "holds no images" in run("list", tmp_path / "empty", tmp_path / "a", "--val-labels", tmp_path / "truth")[2]
    words = ("--val-labels", tmp_path / "truth", "--val-per-class", 3)
    assert "--val-labels makes one validation list only" in run("list", images, tmp_path / "a", *words)[2]
