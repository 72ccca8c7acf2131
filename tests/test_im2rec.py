"""im2rec's words: their spelling, and what they do to pixels, against OpenCV's own results."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
import pytest

from conftest import Run, picture
from resnet_v2.config.im2rec import list_words, pack_words
from resnet_v2.data.filling import Centred
from resnet_v2.data.index import index_path
from resnet_v2.data.jpeg import decode
from resnet_v2.data.loader import Reading, batches
from resnet_v2.data.records import RecordReader
from resnet_v2.data.sidecar import Rows, sidecar_path
from resnet_v2.errors import SettingError

PNG = ("encoding=.png", "quality=3")
SIZES = ((60, 40), (41, 60), (50, 50), (17, 90), (30, 31))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Five PNG files of different sizes in one folder, and one.lst, which names them."""
    (tmp_path / "img").mkdir()
    for number, (height, width) in enumerate(SIZES):
        PIL.Image.fromarray(picture(number, height, width)).save(tmp_path / "img" / f"{number}.png")
    (tmp_path / "one.lst").write_text("".join(f"{n}\t{n % 2}\t{n}.png\n" for n in range(len(SIZES))))
    return tmp_path


def stored(rec: Path) -> list[Any]:
    """The pixels of a record as OpenCV sees them, BGR."""
    reader = RecordReader(rec)
    images = [np.frombuffer(reader.image(n)[1], np.uint8) for n in range(len(reader))]
    return [cv2.imdecode(image, cv2.IMREAD_UNCHANGED) for image in images]


def im2rec(path: Path, flag: int, crop: bool, side: int, method: Callable[[int, int, int, int], int]) -> Any:
    """What im2rec.cc makes of a file; `method` gives the interpolation by the old and the new height and width."""
    pixels = cv2.imread(str(path), flag)
    assert pixels is not None
    height, width = pixels.shape[:2]
    if crop:
        shorter = min(height, width)
        top, left = (height - shorter) // 2, (width - shorter) // 2
        pixels, height, width = pixels[top : top + shorter, left : left + shorter], shorter, shorter
    if not side:
        return pixels
    new = (side, height * side // width) if height > width else (width * side // height, side)
    return cv2.resize(pixels, new, interpolation=method(height, width, new[1], new[0]))


def automatic(height: int, width: int, new_height: int, new_width: int) -> int:
    if new_height > height and new_width > width:
        return cv2.INTER_CUBIC
    return cv2.INTER_AREA if new_height < height and new_width < width else cv2.INTER_LINEAR


@pytest.mark.parametrize(
    ("words", "made"),
    [
        ([], (1, False, 0, None)),
        (["color=1"], (1, False, 0, None)),
        (["color=0"], (0, False, 0, None)),
        (["--color", "0"], (0, False, 0, None)),
        (["color=-1"], (-1, False, 0, None)),
        (["--color", "-1"], (-1, False, 0, None)),
        (["center_crop=1"], (1, True, 0, None)),
        (["--center-crop"], (1, True, 0, None)),
        (["--center-crop", "True"], (1, True, 0, None)),
        (["center_crop=0"], (1, False, 0, None)),
        (["center_crop=1", "color=0", "resize=20", "inter_method=1"], (0, True, 20, 1)),
        (["center_crop=1", "resize=70", "inter_method=9"], (1, True, 70, 9)),
        *((["resize=20", f"inter_method={method}"], (1, False, 20, method)) for method in (0, 1, 2, 3, 4, 9)),
        *((["resize=45", f"inter_method={method}"], (1, False, 45, method)) for method in (0, 1, 2, 4, 9)),
        (["--resize", "30", "--inter-method", "9"], (1, False, 30, 9)),
    ],
)
def test_pixels_are_those_of_im2rec(
    pictures: Path, run: Run, words: list[str], made: tuple[int, bool, int, Any]
) -> None:
    status, _, err = run("pack", pictures / "one.lst", pictures / "img", pictures / "a.rec", *PNG, *words)
    assert status == 0, err
    flag, crop, side, number = made
    method = automatic if number == 9 else lambda *_: number
    wanted = [im2rec(pictures / "img" / f"{n}.png", flag, crop, side, method) for n in range(len(SIZES))]
    found = stored(pictures / "a.rec")
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert np.array_equal(one, other)


def test_a_random_interpolation_is_one_of_five_and_the_same_each_time(pictures: Path, run: Run) -> None:
    lines = [f"{n}\t0\t0.png\n" for n in range(40)]
    (pictures / "many.lst").write_text("".join(lines))
    methods = [
        im2rec(pictures / "img" / "0.png", 1, False, 17, lambda *_, method=method: method) for method in range(5)
    ]
    for name, threads in (("a", 1), ("b", 3)):
        out, words = pictures / f"{name}.rec", ("resize=17", "inter_method=10", "--threads", threads)
        assert run("pack", pictures / "many.lst", pictures / "img", out, *PNG, *words)[0] == 0
        seen = [[np.array_equal(one, made) for made in methods].index(True) for one in stored(out)]
        assert set(seen) == set(range(5))
    assert (pictures / "a.rec").read_bytes() == (pictures / "b.rec").read_bytes()


def test_the_channels_and_bits_of_the_file_are_kept(tmp_path: Path, run: Run) -> None:
    pixels = picture(1, 30, 40)
    (tmp_path / "img").mkdir()
    kinds: dict[str, Any] = {
        "grey": pixels[..., 0],
        "deep": pixels.astype(np.uint16) * 257,
        "clear": np.dstack([pixels, pixels[..., 0]]),
        "deep_grey": pixels[..., 1].astype(np.uint16) * 200,
    }
    for name, made in kinds.items():
        assert cv2.imwrite(str(tmp_path / "img" / f"{name}.png"), made)
    (tmp_path / "a.lst").write_text("".join(f"{n}\t{n}\t{name}.png\n" for n, name in enumerate(kinds)))
    assert run("pack", tmp_path / "a.lst", tmp_path / "img", tmp_path / "a.rec", *PNG, "color=-1")[0] == 0
    for one, other in zip(stored(tmp_path / "a.rec"), kinds.values(), strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert np.array_equal(one, other)
    for store in ("jpeg", "bmp", "webp"):  # OpenCV would make white of them
        command = (
            "pack",
            tmp_path / "a.lst",
            tmp_path / "img",
            tmp_path / f"{store}.rec",
            "color=-1",
            "--store",
            store,
        )
        status, out, err = run(*command)
        assert (status, "2 images packed, 2 skipped" in out) == (0, True)
        assert err.count("16 bits in a channel cannot be kept as") == 2


@pytest.mark.parametrize(
    ("words", "shape"),
    [([], (40, 30)), (["inter_method=1"], (40, 30)), (["color=0"], (40, 30)), (["color=-1"], (30, 40))],
)
def test_an_image_is_upright_unless_it_is_kept_as_it_is(
    tmp_path: Path, run: Run, words: list[str], shape: tuple[int, int]
) -> None:
    image, exif = PIL.Image.fromarray(picture(1, 30, 40)), PIL.Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.jpg", exif=exif)
    (tmp_path / "a.lst").write_text("0\t0\ta.jpg\n")
    assert run("pack", tmp_path / "a.lst", tmp_path, tmp_path / "a.rec", *PNG, *words)[0] == 0
    assert stored(tmp_path / "a.rec")[0].shape[:2] == shape
    flag = {"color=0": 0, "color=-1": -1}.get("".join(words), 1)
    pixels: Any = cv2.imread(str(tmp_path / "a.jpg"), flag)
    assert np.array_equal(stored(tmp_path / "a.rec")[0], pixels)


@pytest.mark.parametrize("store", ["jpeg", "png", "bmp", "webp", "auto"])
def test_grey_records_are_read_as_what_they_are(tmp_path: Path, run: Run, store: str) -> None:
    (tmp_path / "img").mkdir()
    for n, width in enumerate((184, 203, 168, 177)):  # an odd and an even number of blocks of 8 pixels
        PIL.Image.fromarray(picture(n, 150 + n, width)).save(tmp_path / "img" / f"{n}.png")
    (tmp_path / "a.lst").write_text("".join(f"{n}\t{n}\t{n}.png\n" for n in range(4)))
    command = ("pack", tmp_path / "a.lst", tmp_path / "img", tmp_path / "a.rec", "color=0")
    assert run(*command, "--store", store)[0] == 0
    reader = RecordReader(tmp_path / "a.rec")
    whole = [decode(reader.image(n)[1]) for n in range(4)]
    if store == "jpeg":
        assert all(Rows.of(reader).segments(n).size for n in range(4))  # so a part of each is read
    centred = next(iter(batches(reader, np.arange(4)[None], Centred(64), (64, 64, 3), 4, Reading())))
    for pixels, crop in zip(whole, centred.images, strict=True):
        assert (pixels == pixels[..., :1]).all()
        top, left = (pixels.shape[0] - 64) // 2, (pixels.shape[1] - 64) // 2
        assert np.array_equal(crop, pixels[top : top + 64, left : left + 64])


@pytest.mark.parametrize("words", [["unchanged=1"], ["pass_through=1"], ["--pass-through"], ["--unchanged", "1"]])
def test_files_go_in_unchanged(pictures: Path, run: Run, words: list[str]) -> None:
    assert run("pack", pictures / "one.lst", pictures / "img", pictures / "a.rec", *words)[0] == 0
    reader = RecordReader(pictures / "a.rec")
    for n in range(len(SIZES)):
        assert bytes(reader.image(n)[1]) == (pictures / "img" / f"{n}.png").read_bytes()


def test_parts_make_the_whole(pictures: Path, run: Run) -> None:
    lines = [f"{n}\t{n % 2}\t{'/' * (n % 4)}{n % 5}.png\n" for n in range(23)]
    (pictures / "all.lst").write_text("".join(lines))
    command = ("pack", pictures / "all.lst", pictures / "img")
    found = []
    for part in range(4):
        assert run(*command, pictures / "p.rec", "nsplit=4", f"part={part}")[0] == 0
        rec = pictures / f"p.rec.part{part:03d}"
        assert index_path(rec) == pictures / f"p.idx.part{part:03d}"
        assert run("verify", rec)[0] == 0
        assert Rows.of(RecordReader(rec)).has_sums
        found.append(RecordReader(rec).keys.tolist())
    assert [key for keys in found for key in keys] == list(range(23))
    # dmlc's InputSplit gives a line to the part in which the byte before it lies.
    starts = np.cumsum([0, *map(len, lines)])
    step = -(-starts[-1] // 4)
    assert found == [[n for n in range(23) if max(0, starts[n] - 1) // step == part] for part in range(4)]
    names = {f"p.{ending}.part{part:03d}" for part in range(4) for ending in ("rec", "idx", "rows")}
    assert {path.name for path in pictures.glob("p.*")} == names
    assert not list(pictures.glob(".p*"))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n"])
def test_no_line_is_in_two_parts_or_in_none(pictures: Path, run: Run, end: str) -> None:
    (pictures / "all.lst").write_bytes("".join(f"{n}\t0\t0.png{end}" for n in range(10, 17)).encode())
    size = (pictures / "all.lst").stat().st_size
    for nsplit in (1, 2, 3, 5, 7):
        keys = []
        for part in range(nsplit):
            words = (f"nsplit={nsplit}", f"part={part}")
            status, _, err = run("pack", pictures / "all.lst", pictures / "img", pictures / "p.rec", *words)
            if nsplit == 7 and status:  # a part of one line's length may have none
                assert f"part {part} of 7, is empty" in err
                continue
            rec = pictures / ("p.rec" if nsplit == 1 else f"p.rec.part{part:03d}")
            keys += RecordReader(rec).keys.tolist()
            if (nsplit, part) == (7, 0):  # the second line begins where the part ends
                assert keys == ([10, 11] if end == "\n" else keys)
        assert keys == list(range(10, 17))
    status, _, err = run("pack", pictures / "all.lst", pictures / "img", pictures / "e.rec", f"nsplit={size}", "part=1")
    assert (status, "all.lst, part 1 of" in err, "is empty; give a smaller --nsplit." in err) == (2, True, True)


def test_side_files_are_a_records_own(pictures: Path, run: Run) -> None:
    lines = (pictures / "one.lst").read_text().splitlines(keepends=True)
    names = ("p.rec.part000", "p.rec.part001", "p.rec", "v1.5", "v1.6", "w1.5.rec", "w1.6.rec", "q", "Q.REC")
    for number, name in enumerate(names):
        (pictures / "some.lst").write_text("".join(lines[: 1 + number % 5]))
        assert run("pack", pictures / "some.lst", pictures / "img", pictures / name)[0] == 0
    for number, name in enumerate(names):
        reader = RecordReader(pictures / name)
        assert len(reader) == len(index_path(reader.path).read_text().splitlines()) == 1 + number % 5
        assert Rows.of(reader).has_sums
    assert index_path(pictures / "w1.5.rec").name == "w1.5.idx"  # as MXNet's
    assert len({index_path(pictures / name) for name in names}) == len(names)
    assert len({sidecar_path(pictures / name) for name in names}) == len(names)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["resize=-5"], "--resize must be 0 to 65535, not -5"),
        (["--resize=-5"], "--resize must be 0 to 65535, not -5"),
        (["resize=ten"], "--resize 'ten' is not a whole number"),
        (["resize="], "--resize '' is not a whole number"),
        (["color=2"], "--color must be -1 to 1, not 2"),
        (["inter_method=5"], "--inter-method must be 0 to 4, 9 or 10, not 5"),
        (["center_crop=yes"], "--center-crop must be 1 or 0, not 'yes'"),
        (["label_width=0"], "--label-width must be"),
        (["pack_label=1", "label_width=1"], "give it with a --label-width above 1"),
        (["nsplit=2", "part=2"], "--part must be below --nsplit, which is 2, not 2"),
        (["part=1"], "--part must be below --nsplit, which is 1, not 1"),
        (["nsplit=0"], "--nsplit must be"),
        (["encoding=.gif"], "--encoding must be .jpg or .png, not '.gif'"),
        (["--encoding", "jpeg2"], "--encoding must be .jpg or .png, not 'jpeg2'"),
        (["unchanged=1", "color=0"], "give it without --color"),
        (["--pass-through", "--center-crop"], "give it without --center-crop"),
        (["shuffle=1"], "--shuffle says how a list is made"),
        (["--recursive"], "--recursive says how a list is made"),
        (["--chunks", "2"], "--chunks says how a list is made"),
        (["part=-1"], "--part must be"),
        (["size=3"], "'size=3' is no word of `resnet-v2 pack` nor of im2rec"),
    ],
)
def test_words_that_say_nothing_are_refused(pictures: Path, run: Run, words: list[str], sentence: str) -> None:
    before = sorted(pictures.iterdir())
    status, out, err = run("pack", pictures / "one.lst", pictures / "img", pictures / "a.rec", *words)
    assert (status, sentence in err, "0.png" in err) == (2, True, False), err
    assert out == ""
    assert sorted(pictures.iterdir()) == before


def test_a_new_folder_is_no_record(pictures: Path, run: Run) -> None:
    before = sorted(pictures.iterdir())
    status, _, err = run("pack", pictures / "one.lst", pictures / "img", f"{pictures}/new/", "resize=20")
    assert (status, f"--out {pictures}/new/ is a folder; add a name" in err) == (2, True)
    assert sorted(pictures.iterdir()) == before


def test_words_are_spelled_as_ours() -> None:
    given = {
        "resize=480 quality=90": "--resize=480 --quality=90",
        "--num-thread 8": "--threads=8",
        "--num_thread=8": "--threads=8",
        "encoding=.jpg": "--store=jpeg",
        "--encoding .png": "--store=png",
        "unchanged=1": "--pass-through",
        "unchanged=0": "",
        "--pack-label": "--pack-label",
        "--pack-label --resize 5": "--pack-label --resize=5",
        "pack_label=0 center_crop=1": "--center-crop",
        "--on-error skip": "--on-error=skip",
        "on_error=stop": "--on-error=stop",
        "--help": "--help",
    }
    for words, ours in given.items():
        assert pack_words(["pack", "a.lst", "img", "a.rec", *words.split()]) == [
            "pack",
            "a.lst",
            "img",
            "a.rec",
            *ours.split(),
        ]


def test_a_path_is_no_word(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("split=train", "resize=20", "a b=c"):
        (tmp_path / folder / "img").mkdir(parents=True)
        PIL.Image.fromarray(picture(1, 30, 40)).save(tmp_path / folder / "img" / "0.png")
        (tmp_path / folder / "color=1").write_text("0\t0\t0.png\n")
        assert run("pack", f"{folder}/color=1", f"{folder}/img", f"{folder}/a.rec", "resize=20")[0] == 0
        os.chdir(folder)
        assert run("pack", "color=1", "img", "x=1", "resize=20", *PNG)[0] == 0
        assert stored(Path("x=1"))[0].shape == (20, 26, 3)
        os.chdir(tmp_path)


def test_words_of_lists() -> None:
    given = {
        "--list --recursive img a": "img a",
        "--list True --recursive 1 img a": "img a",
        "--shuffle 1 img a": "img a",
        "img a --train-ratio 0.9": "img a --val-ratio=0.1",
        "img a --train-ratio=0.75 --chunks 3": "img a --val-ratio=0.25 --chunks 3",
        "img a --train-ratio 1": "img a --val-ratio=0.0",
        "img a --seed 3": "img a --seed 3",
    }
    for words, ours in given.items():
        assert list_words(["list", *words.split()]) == ["list", *ours.split()]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--resize 5", "`resize` says how images are packed"),
        ("--num-thread=5", "`num_thread` says how images are packed"),
        ("--test-ratio 0.1", "`val_ratio` holds out images"),
        ("--exts .jpg", "known by their endings"),
        ("--no-shuffle", "sorted ones ruin a training"),
        ("--shuffle False", "lists are shuffled"),
        ("--recursive 0", "every folder with images is a class"),
        ("--train-ratio", "is not a number"),
        ("--train-ratio nan", "must be above 0 and at most 1, not nan"),
        ("--train-ratio 0", "must be above 0 and at most 1, not 0"),
        ("--train-ratio 1.5", "must be above 0 and at most 1, not 1.5"),
    ],
)
def test_words_that_list_does_not_do(words: str, sentence: str) -> None:
    with pytest.raises(SettingError, match=sentence):
        list_words(["list", "img", "a", *words.split()])


def test_a_part_of_a_larger_set_is_not_mixed_in(pictures: Path, run: Run) -> None:
    (pictures / "all.lst").write_text("".join(f"{n}\t{n % 2}\t{n % 5}.png\n" for n in range(12)))
    command = ("pack", pictures / "all.lst", pictures / "img", pictures / "p.rec")
    for part in (0, 2):
        assert run(*command, "nsplit=3", f"part={part}")[0] == 0
    status, _, err = run(*command, "nsplit=2", "part=0")
    assert status == 2
    assert f"{pictures}/p.rec.part002 is there, of a set of more parts than 2; remove it." in err
    assert run(*command, "nsplit=3", "part=1")[0] == 0
