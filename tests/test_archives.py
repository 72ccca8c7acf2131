"""Images in tars and tars of tars: the same lists and records as from folders; damage of every kind is named."""

import hashlib
import io
import tarfile
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from conftest import Run
from resnet_v2.config.packing import ListConfig
from resnet_v2.data.sidecar import Rows
from resnet_v2.errors import ResnetError
from resnet_v2.packing.archives import MOST_HEADER_BYTES, Folder, Names, Tar, open_images
from resnet_v2.packing.class_folders import make_lists


def tar_of(files: dict[str, bytes], path: Path, mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def tar_of_tars(folder: Path, path: Path) -> Path:
    inner = {}
    for name in sorted(folder.iterdir(), reverse=True):
        file = tar_of({image.name: image.read_bytes() for image in name.iterdir()}, path.with_suffix(".inner"))
        inner[f"{name.name}.tar"] = file.read_bytes()
    return tar_of(inner, path)


@pytest.fixture
def tars(class_folder: Path, tmp_path: Path) -> list[Path]:
    """The class folders as a tar, as `tar -C images .` makes it, and as a tar of tars."""
    flat = tmp_path / "flat.tar"
    with tarfile.open(flat, "w") as archive:
        archive.add(class_folder, ".")
    return [flat, tar_of_tars(class_folder, tmp_path / "nested.tar")]


def test_lists_and_records_equal_those_of_the_folder(
    tars: list[Path], class_folder: Path, tmp_path: Path, run: Run
) -> None:
    written, rows = [], []
    for number, root in enumerate((class_folder, *tars)):
        prefix = tmp_path / str(number) / "a"
        assert run("list", root, prefix, "--val-per-class", 2, "--min-images", 5)[0] == 0
        assert run("pack", f"{prefix}_train.lst", root, f"{prefix}.rec", "--resize", 30, "--threads", 3)[0] == 0
        rows.append(Rows(Path(f"{prefix}.rec")))
        written.append({path.name: path.read_bytes() for path in prefix.parent.iterdir() if path.suffix != ".rows"})
    assert set(written[0]) == {"a_train.lst", "a_val.lst", "synset.txt", "a.rec", "a.idx"}
    assert written[0] == written[1] == written[2]
    assert rows[0].sums().tolist() == rows[1].sums().tolist() == rows[2].sums().tolist()
    assert len({one.origin() for one in rows}) == 3  # each tells its own list and folder


def test_a_tar_with_train_and_val_keeps_its_split(class_folder: Path, tmp_path: Path, run: Run) -> None:
    root = tmp_path / "root"
    root.mkdir()
    class_folder.rename(root / "train")
    (root / "val" / "ant").mkdir(parents=True)
    (root / "train" / "ant" / "000.jpg").rename(root / "val" / "ant" / "000.jpg")
    with tarfile.open(tmp_path / "root.tar", "w") as archive:
        archive.add(root, ".")
    assert run("list", root, tmp_path / "a" / "x")[0] == 0
    assert run("list", tmp_path / "root.tar", tmp_path / "b" / "x")[0] == 0
    for name in ("x_train.lst", "x_val.lst", "synset.txt"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_long_number_in_a_header_takes_no_time(tmp_path: Path) -> None:
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 100_352
    member = tarfile.TarInfo("a.jpg").tobuf(tarfile.USTAR_FORMAT)
    (tmp_path / "a.tar").write_bytes(header.tobuf(tarfile.USTAR_FORMAT) + b"9" * header.size + member + bytes(1024))
    before = time.process_time()
    with pytest.raises(ResnetError, match="a number of more than 255 digits"):
        Tar(tmp_path / "a.tar")
    assert time.process_time() - before < 2


def test_threads_read_what_is_there(tmp_path: Path) -> None:
    files = {f"c{number % 7}/{number}.bin": bytes([number % 256]) * number for number in range(500)}
    tar = open_images(tar_of(files, tmp_path / "a.tar"))
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(tar.read, files)) == list(files.values())
    assert tar.read("./c1/1.bin") == b"\x01"


def test_names_of_every_length_and_alphabet(tmp_path: Path) -> None:
    files = {f"ü/{'long' * 50}é.jpg": b"1", "ü/b.jpg": b"22", "\udcff.jpg": b"333"}
    tar = Tar(tar_of(files, tmp_path / "a.tar"))
    assert [tar.member(index) for index in range(3)] == list(files)
    assert [tar.read(path) for path in files] == list(files.values())
    names = Names()
    for name in ("", "a", "\udcff", "é" * 300):
        names.append(name)
    assert [names[index] for index in range(len(names))] == ["", "a", "\udcff", "é" * 300]


def test_the_last_of_two_members_counts(tmp_path: Path, run: Run) -> None:
    path = tar_of({"a/1.jpg": b"old", "b/1.jpg": b"other"}, tmp_path / "a.tar")
    tar_of({"a/1.jpg": b"new"}, path, "a")
    assert Tar(path).read("a/1.jpg") == b"new"
    assert run("list", path, tmp_path / "x")[0] == 0
    assert len((tmp_path / "x_train.lst").read_text().splitlines()) == 2


def test_what_is_not_there_is_named(tars: list[Path], class_folder: Path) -> None:
    with pytest.raises(ResnetError, match=r"flat\.tar holds no ant/no\.jpg"):
        Tar(tars[0]).read("ant/no.jpg")
    with pytest.raises(ResnetError, match=r"no\.jpg cannot be read"):
        Folder(class_folder).read("ant/no.jpg")


@pytest.mark.parametrize(("mode", "name"), [("w:gz", "gzip"), ("w:bz2", "bzip2"), ("w:xz", "xz")])
def test_compressed_tars_are_refused(tmp_path: Path, run: Run, mode: str, name: str) -> None:
    path = tar_of({"a/1.jpg": b"1"}, tmp_path / "a.tar", mode)
    status, _, err = run("list", path, tmp_path / "x")
    assert status == 2
    assert f"is compressed ({name})" in err
    outer = tar_of({"a.tar.gz": path.read_bytes()}, tmp_path / "outer.tar")
    assert "outer.tar: a.tar.gz is compressed" in run("list", outer, tmp_path / "x")[2]


def test_every_cut_is_noticed(tars: list[Path], tmp_path: Path) -> None:
    for path in tars:
        data = path.read_bytes()
        whole = len(data.rstrip(b"\0")) + 512 - len(data.rstrip(b"\0")) % 512
        for length in (0, 1, 511, 512, 1024, whole // 3, whole // 3 // 512 * 512, whole - 512, whole - 1, whole):
            (tmp_path / "cut.tar").write_bytes(data[:length])
            with pytest.raises(ResnetError, match=r"cut\.tar.* is damaged"):
                Tar(tmp_path / "cut.tar")


def test_a_damaged_header_is_noticed(tars: list[Path]) -> None:
    for path in tars:
        with tarfile.open(path) as archive:
            headers = [member.offset for member in archive]
        with path.open("rb+") as file:
            file.seek(headers[2] + 100)
            file.write(b"damaged!")
        with pytest.raises(ResnetError, match="is damaged or cut short at byte"):
            Tar(path)


def test_no_tar_at_all(tmp_path: Path, run: Run) -> None:
    (tmp_path / "a.tar").write_bytes(b"hello " * 1000)
    status, _, err = run("list", tmp_path / "a.tar", tmp_path / "x")
    assert status == 2
    assert "a.tar is damaged or no tar" in err
    flat = tar_of({"1.jpg": b"1"}, tmp_path / "flat.tar")
    assert "no class folders" in run("list", flat, tmp_path / "x")[2]


@pytest.mark.parametrize(
    "size",
    [
        b"\xff" * 11 + b"\x80",
        b"\xff" * 10 + b"\xfc\x00",
        b"\x80" + b"\0" * 3 + b"\x7f" + b"\xff" * 7,
        b"z" * 11 + b"\0",
    ],
)
def test_sizes_that_lie(tmp_path: Path, size: bytes) -> None:
    headers = []
    for name in ("a/0.png", "b/1.png"):
        member = tarfile.TarInfo(name)
        member.size = 100
        headers.append(bytearray(member.tobuf(tarfile.GNU_FORMAT)[:512]))
    headers[1][124:136] = size
    headers[1][148:156] = b" " * 8
    headers[1][148:156] = b"%06o\0 " % sum(headers[1])
    (tmp_path / "a.tar").write_bytes(b"".join(bytes(header) + bytes(512) for header in headers) + bytes(1024))
    with pytest.raises(ResnetError, match="damaged"):
        Tar(tmp_path / "a.tar")


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
def test_a_name_longer_than_any_is_not_read(tmp_path: Path, kind: bytes) -> None:
    member = tarfile.TarInfo("long")
    member.type, member.size = kind, MOST_HEADER_BYTES + 1
    with (tmp_path / "a.tar").open("wb") as file:
        file.write(member.tobuf(tarfile.GNU_FORMAT))
        file.truncate(512 + MOST_HEADER_BYTES + 512)
        file.seek(0, io.SEEK_END)
        file.write(tarfile.TarInfo("a/1.jpg").tobuf() + bytes(1024))
    with pytest.raises(ResnetError, match="a header of more than 1048576 bytes"):
        Tar(tmp_path / "a.tar")


def test_a_map_of_holes_without_an_end_is_not_read(tmp_path: Path) -> None:
    sparse = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "a.jpg", "GNU.sparse.realsize": "5"}
    member = tarfile.TarInfo("a.jpg")
    member.pax_headers, data = sparse, b"99999999999\n" + b"1\n" * (1 << 20)
    member.size = len(data)
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(member, io.BytesIO(data))
    with pytest.raises(ResnetError, match="a header of more than 1048576 bytes"):
        Tar(tmp_path / "a.tar")


def test_many_members_without_contents_are_no_long_header(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for number in range(2 * MOST_HEADER_BYTES // tarfile.BLOCKSIZE):
            archive.addfile(tarfile.TarInfo(f"{number}.jpg"))
    assert len(Tar(tmp_path / "a.tar")) == 2 * MOST_HEADER_BYTES // tarfile.BLOCKSIZE


@pytest.mark.parametrize("leaves", ["../1.jpg", "a/../../1.jpg", "/../1.jpg"])
def test_a_list_does_not_leave_its_folder(tmp_path: Path, leaves: str) -> None:
    (tmp_path / "1.jpg").write_bytes(b"outside")
    (tmp_path / "in").mkdir()
    with pytest.raises(ResnetError, match="is not below"):
        Folder(tmp_path / "in").read(leaves)
    (tmp_path / "in" / "2.jpg").symlink_to(tmp_path / "1.jpg")
    assert Folder(tmp_path / "in").read("2.jpg") == b"outside"
    assert Folder(Path("/")).read(str(tmp_path / "1.jpg")) == b"outside"


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.GNUTYPE_SPARSE])
def test_images_that_are_no_plain_files_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: bytes
) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.GNU_FORMAT) as archive:
        for name in ("a.jpg", "b.jpg", "c.txt"):
            member = tarfile.TarInfo(f"cat/{name}")
            member.type = tarfile.REGTYPE if name == "a.jpg" else kind
            archive.addfile(member)
    tar = Tar(tmp_path / "a.tar")
    assert [tar.member(number) for number in range(len(tar))] == ["cat/a.jpg"]
    assert (
        "a.tar holds 1 image that is a link or a sparse file and left out, such as cat/b.jpg;"
        in capsys.readouterr().err
    )


def grown(path: Path, members: int) -> Path:
    """A tar of one tar per class with so many images in all, 1,000 in each class."""
    with path.open("wb") as file:
        for first in range(0, members, 1000):
            number = first // 1000
            inner = b"".join(
                tarfile.TarInfo(f"n{number:08d}_{image:05d}.JPEG").tobuf(tarfile.USTAR_FORMAT) for image in range(1000)
            )
            member = tarfile.TarInfo(f"n{number:08d}.tar")
            member.size = len(inner) + 1024
            file.write(member.tobuf(tarfile.USTAR_FORMAT) + inner + bytes(1024))
        file.write(bytes(1024))
    return path


def test_lists_of_millions_take_few_bytes_each(tmp_path: Path) -> None:
    """What grows with the images: 14.2 million of them must stay below 1 GiB (benchmarks/lists.py)."""
    peaks = []
    for count in (2_000, 10_000):
        settings = ListConfig(grown(tmp_path / "a.tar", count), tmp_path / "a", val_per_class=50, min_images=500)
        make_lists(settings)  # what is imported and kept once
        tracemalloc.start()
        classes, train, validation = make_lists(settings)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert (classes, train, validation) == (count // 1000, count // 1000 * 950, count // 1000 * 50)
    assert (peaks[1] - peaks[0]) / 8_000 < 68


def test_the_split_comes_from_the_seed(tmp_path: Path) -> None:
    tar = grown(tmp_path / "a.tar", 3_000)
    written = []
    for folder, seed in (("a", 3), ("b", 3), ("c", 4)):
        make_lists(ListConfig(tar, tmp_path / folder / "l", val_per_class=50, min_images=500, seed=seed))
        written.append([(tmp_path / folder / f"l_{part}.lst").read_bytes() for part in ("train", "val")])
    assert written[0] == written[1]
    assert all(one != other for one, other in zip(written[0], written[2], strict=True))
    lines = [line.split("\t") for part in written[0] for line in part.decode().splitlines()]
    assert len({path for *_, path in lines}) == len(lines) == 3_000
    assert all(float(label) == int(path[1:9]) for _, label, path in lines)
    assert hashlib.sha256(b"".join(written[0])).hexdigest()[:16] == "fa3a61c79d5d0dfb"  # of all later versions too
