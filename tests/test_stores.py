"""What a record keeps its images as: every store, what `auto` takes and says, qualities, im2rec's words."""

import io
import json
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import pytest

from conftest import Run, picture
from resnet_v2.config.im2rec import pack_words
from resnet_v2.data.jpeg import decode, encode
from resnet_v2.data.records import RecordReader
from resnet_v2.packing.stores import LOOKED_AT, Look, decide, is_lossless, look

FORMATS = {"jpeg": "JPEG", "png": "PNG", "webp": "WEBP", "bmp": "BMP"}


def folder_of(root: Path, endings: list[str], side: int = 90) -> Path:
    """Pictures `0.jpg`, `1.png` ... of side x (side + 7) pixels and a list of them; gives the list."""
    for number, ending in enumerate(endings):
        PIL.Image.fromarray(picture(number, side, side + 7)).save(root / f"{number}{ending}")
    lst = root / "a.lst"
    lst.write_text("".join(f"{number}\t{number}\t{number}{ending}\n" for number, ending in enumerate(endings)))
    return lst


def kinds(rec: Path) -> set[str | None]:
    reader = RecordReader(rec)
    return {PIL.Image.open(io.BytesIO(reader.image(ordinal)[1])).format for ordinal in range(len(reader))}


@pytest.mark.parametrize("store", FORMATS)
def test_every_store_holds_what_it_says(tmp_path: Path, run: Run, store: str) -> None:
    lst = folder_of(tmp_path, [".png"] * 3, side=41)  # a BMP's rows of an odd width are filled up
    status, _, said = run("pack", lst, tmp_path, tmp_path / "a.rec", "--store", store)
    assert status == 0
    assert kinds(tmp_path / "a.rec") == {FORMATS[store]}
    found = decode(RecordReader(tmp_path / "a.rec").image(1)[1])
    difference = np.abs(found.astype(int) - picture(1, 41, 48)).max()
    assert (difference == 0) == (store != "jpeg")
    assert ("MXNet" in said) == (store == "webp")


def test_a_bmp_is_that_of_opencv() -> None:
    pixels = picture(1, 20, 31)
    assert encode(pixels, ".bmp", 0) == cv2.imencode(".bmp", pixels[..., ::-1])[1].tobytes()
    assert len(encode(pixels, ".bmp", 0)) == 54 + 20 * 96  # 24 bits


@pytest.mark.parametrize(
    ("endings", "side", "words", "format_", "reason"),
    [
        ([".jpg", ".jpg", ".png"], 57, [], "BMP", "none of 3 images looked at is larger than 64 x 64 pixels"),
        ([".jpg", ".jpg", ".png"], 90, ["--resize", "32"], "BMP", "none of 3"),
        ([".png", ".bmp", ".webp", ".tif", ".ppm", ".gif"], 58, [], "PNG", "the files of 6 images looked at have lost"),
        ([".jpg", ".png", ".png"], 90, ["--quality", "30"], "JPEG", "of 3 images looked at 1 come"),
    ],
)
def test_auto_decides_and_says_why(
    tmp_path: Path, run: Run, endings: list[str], side: int, words: list[str], format_: str, reason: str
) -> None:
    lst = folder_of(tmp_path, [ending for ending in endings if ending != ".webp"], side)
    if ".webp" in endings:
        PIL.Image.fromarray(picture(9, 90, 90)).save(tmp_path / "9.webp", lossless=True)
        lst.write_text(lst.read_text() + "9\t9\t9.webp\n")
    status, _, said = run("pack", lst, tmp_path, tmp_path / "a.rec", "--store", "auto", *words)
    assert status == 0
    assert reason in said
    assert kinds(tmp_path / "a.rec") == {format_}


def test_the_quality_of_auto_is_that_of_jpeg(tmp_path: Path, run: Run) -> None:
    lst = folder_of(tmp_path, [".png"] * 2)
    for name, words in (("a", ["--store", "auto", "--quality", "95"]), ("b", ["--store", "png"])):
        assert run("pack", lst, tmp_path, tmp_path / f"{name}.rec", *words)[0] == 0
    assert (tmp_path / "a.rec").read_bytes() == (tmp_path / "b.rec").read_bytes()


def test_auto_looks_at_a_part_of_the_list_and_passes_over_the_bad() -> None:
    class Files:
        def read(self, path: str) -> bytes:
            asked.append(path)
            return encode(picture(0, 100, 100), ".png", 1) if path != "0" else b"no image"

        def place(self, path: str) -> str:
            return path

    asked: list[str] = []
    looks = look(Files(), map(str, range(1000)), 1000, 0)
    assert len(asked) <= LOOKED_AT
    assert (asked[0], int(asked[-1]) > 930) == ("0", True)
    assert looks == [Look(100, True)] * (len(asked) - 1)
    assert decide([])[0] == "jpeg"


def test_what_loses_something() -> None:
    image = PIL.Image.fromarray(picture(0, 30, 30))
    for kind, options, lossless in (
        ("WEBP", {"lossless": True}, True),
        ("WEBP", {"lossless": False}, False),
        ("WEBP", {"lossless": True, "exif": b"Exif\0\0"}, True),
        ("JPEG", {}, False),
        ("PNG", {}, True),
    ):
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        assert is_lossless(buffer.getvalue()) == lossless, (kind, options)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--store", "png", "--quality", "90"], "--quality of png is its compression, 0 to 9, not 90"),
        (["--store", "webp", "--quality", "9"], "webp loses nothing and has no quality"),
        (["--store", "bmp", "--quality", "0"], "bmp loses nothing and has no quality"),
        (["--store", "jpeg", "--quality", "0"], "--quality of JPEG must be 1 to 100, not 0"),
        (["--store", "auto", "--quality", "0"], "--quality of JPEG must be 1 to 100, not 0"),
        (["--store", "bmp", "--pass-through"], "give it without --store"),
        (["encoding=.gif"], "gif"),
    ],
)
def test_a_quality_without_meaning_is_refused(tmp_path: Path, run: Run, words: list[str], said: str) -> None:
    lst = folder_of(tmp_path, [".png"])
    status, _, err = run("pack", lst, tmp_path, tmp_path / "a.rec", *words)
    assert (status, said in err) == (2, True), err
    assert not (tmp_path / "a.rec").exists()


def test_the_compression_of_png_matters(tmp_path: Path, run: Run) -> None:
    lst = folder_of(tmp_path, [".png"] * 2)
    for level in (0, 9):
        assert run("pack", lst, tmp_path, tmp_path / f"{level}.rec", "--store", "png", "--quality", level)[0] == 0
    assert (tmp_path / "9.rec").stat().st_size < (tmp_path / "0.rec").stat().st_size


@pytest.mark.parametrize(
    "words", [["encoding=.png"], ["--encoding", ".png"], ["--encoding=.png"], ["encoding=.png", "quality=3"]]
)
def test_im2recs_word_for_a_store(tmp_path: Path, run: Run, words: list[str]) -> None:
    lst = folder_of(tmp_path, [".jpg"])
    assert run("pack", lst, tmp_path, tmp_path / "a.rec", *words)[0] == 0
    assert kinds(tmp_path / "a.rec") == {"PNG"}
    assert pack_words(["pack", "encoding=.jpg", "resize=9"]) == ["pack", "--store=jpeg", "--resize=9"]


def test_a_run_with_another_store_starts_anew(tmp_path: Path, run: Run) -> None:
    lst = folder_of(tmp_path, [".png", ".png"])
    (tmp_path / "1.png").write_bytes(b"no image")
    words = ("pack", lst, tmp_path, tmp_path / "a.rec", "--on-error", "stop")
    assert run(*words)[0] == 2
    assert json.loads((tmp_path / ".a.rec.journal").read_text().splitlines()[0])["store"] == "jpeg"
    assert "other settings (quality, store)" in run(*words, "--store", "bmp")[2]


@pytest.mark.parametrize("store", ["webp", "jpeg"])
def test_sizes_that_a_format_does_not_know(tmp_path: Path, run: Run, store: str) -> None:
    """A WebP has at most 16,383 pixels a side, a JPEG 65,500."""
    for name, width in (("long", 66000), ("short", 50)):
        PIL.Image.fromarray(np.zeros((3, width, 3), np.uint8)).save(tmp_path / f"{name}.png")
    (tmp_path / "a.lst").write_text("0\t0\tlong.png\n1\t1\tshort.png\n")
    status, out, said = run("pack", tmp_path / "a.lst", tmp_path, tmp_path / "a.rec", "--store", store)
    assert (status, "1 image packed, 1 skipped" in out) == (0, True)
    assert "long.png cannot be packed: 66000 x 3 pixels cannot be kept as" in said
