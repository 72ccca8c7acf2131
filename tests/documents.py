"""The commands of README and docs, and small real things under the names that the documents use."""

import re
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2

from conftest import picture
from resnet_v2.config.fields import Stem, Version
from resnet_v2.config.packing import DataConfig, ListConfig, PackConfig
from resnet_v2.data.jpeg import encode
from resnet_v2.data.labels import Labels
from resnet_v2.data.records import IRHeader, pack, writing
from resnet_v2.interchange import mxnet
from resnet_v2.networks import weights
from resnet_v2.networks.architecture import Architecture
from resnet_v2.networks.finding import checkpoint_path, saved_epochs, split_path
from resnet_v2.networks.header import Header
from resnet_v2.networks.resnet import ResNet, initialize
from resnet_v2.packing.class_folders import make_lists
from resnet_v2.packing.pack import pack_list
from resnet_v2.packing.sources import CIFAR10_CLASSES, make_data
from test_archives import tar_of, tar_of_tars
from test_convert import faces
from test_convert import write as write_record
from test_sources import cifar_archive

ROOT = Path(__file__).parents[1]
DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))

BLOCK = re.compile(r"^```[^\n]*\n(?P<fenced>.*?)^```$|(?<=\n\n)(?P<indented>(?:    [^\n]*\n|\n(?=    ))+)", re.M | re.S)
# In a line's comment it marks the command, in the last sentence before a block all of the block.
MARK = re.compile(r"\bneeds? (?:a GPU|(?:two |four |several )?GPUs|ImageNet)\b")
COMMENT = re.compile(r"\s# .*$")
PYTHON_STARTS = ("import ", "from ")
# Blocks that are neither commands nor Python: the table that `plan` prints, a line of a log, changes of the program;
# and what asks a server, which tests/test_serve.py does.
OTHER_STARTS = ("plan      ", "+++ ", "Data: ", "# A client", "curl ")


@dataclass(frozen=True)
class Command:
    """A command line without its comment, or a block of Python; a marked one is not executed."""

    place: str
    text: str
    marked: bool = False
    python: bool = False


def commands(name: str, text: str) -> Iterator[Command]:
    """The commands of a Markdown text in their order; `name` is what their places begin with."""
    for block in BLOCK.finditer(text):
        kind = block.lastgroup or ""
        content = textwrap.dedent(block[kind])
        before = text[: block.start()].rstrip().rpartition("\n\n")[2]
        marked = MARK.search(re.split(r"(?<=[.:;])\s+", before)[-1]) is not None
        number = text.count("\n", 0, block.start(kind)) + 1
        if content.startswith(PYTHON_STARTS):
            yield Command(f"{name}:{number}", content, marked, python=True)
        elif not content.startswith(OTHER_STARTS):
            yield from _lines(name, content, number, marked)


def _lines(name: str, content: str, number: int, marked: bool) -> Iterator[Command]:
    for line in re.findall(r"(?:[^\n]*\\\n)*[^\n]*\n", content):
        if line.strip():
            whole = line.replace("\\\n", " ").rstrip()
            comment = COMMENT.search(whole)
            words = COMMENT.sub("", whole).rstrip()
            yield Command(f"{name}:{number}", words, marked or MARK.search(comment[0] if comment else "") is not None)
        number += line.count("\n")


def furnish(text: str) -> None:
    """Make the stand-ins that a command names and that are not there, below the working directory."""
    inputs = re.sub(r"--out \S+", "", text)
    for name, make in STAND_INS.items():
        if re.search(rf"(?<![\w./-]){re.escape(name)}(?![\w./-])", inputs) and not _is_there(name):
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            make(Path(name))


def _is_there(name: str) -> bool:
    prefix = split_path(Path(f"{name}.params"))[0]
    return Path(name).exists() or bool(saved_epochs(prefix))


CLASSES = ("n00000001", "n00000002")


def classes_of(path: Path) -> tuple[str, ...]:
    """CIFAR-10 has ten, as the recipes say; two everywhere else, so that every network fits every record."""
    return CIFAR10_CLASSES if "cifar10" in str(path) else CLASSES


def class_folders(root: Path, side: int = 40, images: int = 6) -> None:
    """As many images of every class as `data` needs to hold one out."""
    for label, name in enumerate(classes_of(root)):
        (root / name).mkdir(parents=True)
        for number in range(images):
            save_picture(root / name / f"{number}.jpg", 10 * label + number, side)


def save_picture(path: Path, seed: int = 0, side: int = 40) -> None:
    assert cv2.imwrite(str(path), picture(seed, side, side + 8))


def split_folders(root: Path) -> None:
    for part in ("train", "test"):
        class_folders(root / part, images=1)


def loose_pictures(root: Path) -> None:
    root.mkdir()
    for number in range(2):
        save_picture(root / f"{number}.jpg", number)


def data_set(folder: Path) -> None:
    """Records for `train --data-type NAME`."""
    source = Path("stand-ins") / folder.name
    split_folders(source)
    side = 256 if folder.name == "photos256" else 32
    make_data(DataConfig(str(source), folder, resize=side, threads=1))


def labelled(folder: Path, rows: Sequence[Sequence[float]]) -> None:
    """Records of several labels for `train --data-type NAME`."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in ("train", "val"):
        with writing(folder / f"{folder.name}_{part}.rec") as writer:
            for key, row in enumerate(rows):
                writer.write(key, pack(IRHeader(0, row, key, 0), encode(picture(key, 32, 32), ".png", 3)))


def tags(folder: Path) -> None:
    labelled(folder, [[1, 0], [1, 1], [0, 1], [0, 0]])
    synset(folder / "synset.txt")


def clothes(folder: Path) -> None:
    labelled(folder, [[9, 4], [0, 0], [3, 1], [5, 2]])


def leaves(folder: Path) -> None:
    """Records of two classes, of so many images that statistics can be estimated on them."""
    folder.mkdir(parents=True, exist_ok=True)
    synset(folder / "synset.txt")
    for part, count in (("train", 40), ("val", 6)):
        with writing(folder / f"leaves_{part}.rec") as writer:
            for key in range(count):
                data = encode(picture(key + len(part), 32, 32), ".png", 3)
                writer.write(key, pack(IRHeader(0, float(key % 2), key, 0), data))


def jpeg_copy(folder: Path) -> None:
    """Records for `train --data-type cifar10`, under the folder's own name."""
    source = Path("stand-ins") / folder.name
    split_folders(source)
    made = Path("stand-ins/jpeg/cifar10")
    make_data(DataConfig(str(source), made, threads=1))
    made.rename(folder)


def cifar10_archive(path: Path) -> None:
    cifar_archive(path, 20)


def record(path: Path, side: int) -> None:
    source = Path("stand-ins") / path.stem
    class_folders(source, images=1)
    lists = Path("stand-ins/lists") / path.stem  # a folder for each, since classes differ
    make_lists(ListConfig(source, lists / "a"))
    lst = lists / "a_train.lst"
    pack_list(PackConfig(lst, source, path, resize=side, threads=1, on_error="stop"))


def small_record(path: Path) -> None:
    record(path, 32)


def large_record(path: Path) -> None:
    record(path, 256)


def network(depth: int, stem: Stem, version: Version = "v2", classes: int = len(CLASSES)) -> ResNet:
    return initialize(ResNet(Architecture(depth, classes, stem, version)), 0)


def save_network(prefix: Path, made: ResNet, epoch: int, labels: Labels | None = None) -> None:
    """Under the number that the name ends with, else that of `epoch`."""
    numbered = re.fullmatch(r"(.+)-(\d{4})", str(prefix))
    start, epoch = (numbered[1], int(numbered[2])) if numbered else (str(prefix), epoch)
    header = Header.of_epoch(made.architecture, epoch, classes_of(prefix), labels)
    weights.save(checkpoint_path(start, epoch), weights.network_tensors(made), header)


def large_network(prefix: Path) -> None:
    """The smallest network with ImageNet's stem."""
    save_network(prefix, network(18, "imagenet"), 30)


def small_network(prefix: Path) -> None:
    version: Version = "v1" if "-v1-" in prefix.name else "v2"
    save_network(prefix, network(14, "cifar", version, len(classes_of(prefix))), 20)


def multi_network(prefix: Path) -> None:
    save_network(prefix, network(20, "cifar"), 30, Labels(len(CLASSES), "multi"))


def mxnet_model(prefix: Path) -> None:
    mxnet.save_checkpoint(str(prefix), 0, network(18, "imagenet"))


def log(path: Path) -> None:
    path.write_text(
        "".join(
            f"INFO:root:Epoch[{epoch}] Train-accuracy=0.{epoch}5\nINFO:root:Epoch[{epoch}] Time cost=9.000\n"
            f"INFO:root:Epoch[{epoch}] Validation-accuracy=0.{epoch}2\n"
            for epoch in range(3)
        )
    )


def synset(path: Path) -> None:
    path.write_text("".join(f"{name}\n" for name in CLASSES))


def ground_truth(path: Path) -> None:
    path.write_text("1\n2\n2\n1\n")


def train_tar(path: Path) -> None:
    class_folders(Path("stand-ins/tar"), images=1)
    tar_of_tars(Path("stand-ins/tar"), path)


def validation_tar(path: Path) -> None:
    photo = Path("stand-ins/val.jpg")
    photo.parent.mkdir(exist_ok=True)
    save_picture(photo)
    tar_of({f"ILSVRC2012_val_{number:08d}.JPEG": photo.read_bytes() for number in range(1, 5)}, path)


def photo_record(path: Path) -> None:
    """Two classes of four images."""
    source = Path("stand-ins") / path.stem
    class_folders(source, images=4)
    make_lists(ListConfig(source, source))
    lst = source.with_name(f"{source.name}_train.lst")
    pack_list(PackConfig(lst, source, path, threads=1, on_error="stop"))


def face_record(path: Path) -> None:
    write_record(path, faces(), names=())


STAND_INS: dict[str, Callable[[Path], None]] = {
    "photos": class_folders,
    "cifar10-jpeg": split_folders,
    "pictures/": loose_pictures,
    **dict.fromkeys(("a.jpg", "cat.jpg", "7.png", "8.png"), save_picture),
    **dict.fromkeys(("data/cifar10", "data/digits", "data/photos256"), data_set),
    "data/cifar10-jpeg": jpeg_copy,
    "data/tags": tags,
    "data/clothes": clothes,
    "data/tags/tags_val.rec": lambda path: tags(path.parent),
    "model/resnet-tags-20": multi_network,
    **dict.fromkeys(("data/leaves/leaves_train.rec", "data/leaves/leaves_val.rec"), lambda path: leaves(path.parent)),
    **dict.fromkeys(("model/leaves-a", "model/leaves-b"), small_network),
    "cifar-10-binary.tar.gz": cifar10_archive,
    "data/digits/digits_val.rec": lambda path: data_set(path.parent),
    **dict.fromkeys(("cifar10_val.rec", "more.rec"), small_record),
    **dict.fromkeys(("train.rec", "val.rec", "val_256_q90.rec", "val_480_q95.rec"), large_record),
    **dict.fromkeys(("model/a", "model/b", "model/b-0030", "model/resnet-50-0000"), large_network),
    **dict.fromkeys(("model/resnet-digits-14", "model/resnet-photos-20"), small_network),
    **dict.fromkeys(("model/resnet-cifar10-20", "model/resnet-v1-cifar10-20"), small_network),
    "photos.rec": photo_record,
    "faces.rec": face_record,
    "resnet-50": mxnet_model,
    **dict.fromkeys(("a.log", "b.log", "resnet-50.log", "model/resnet-cifar10-20.log"), log),
    **dict.fromkeys(("synset.txt", "imagenet-synset.txt", "map_clsloc.txt"), synset),
    "ILSVRC2012_validation_ground_truth.txt": ground_truth,
    "ILSVRC2012_img_train.tar": train_tar,
    "ILSVRC2012_img_val.tar": validation_tar,
}
