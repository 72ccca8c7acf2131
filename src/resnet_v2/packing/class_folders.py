"""Folders and tars with a folder per class, and the lists that are made of them.

Images on their way into a list are numbers in flat arrays, with their paths in one buffer: 14.2 million of them, all of
ImageNet, take less than 1 GiB.
"""

import re
import shlex
import unicodedata
from collections.abc import Iterable, Sequence, Set
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from resnet_v2.config.packing import ListConfig
from resnet_v2.console import agreeing, counted, following, say
from resnet_v2.data.lists import as_class_name, write_synset
from resnet_v2.errors import ResnetError, printable
from resnet_v2.packing.archives import Names, Tar
from resnet_v2.packing.image_names import IMAGE_ENDINGS, LeftOut, is_hidden, is_image, walk
from resnet_v2.packing.list_files import list_paths, refuse_other_classes, tell_of_older_lists, write_lists
from resnet_v2.packing.splitting import ClassFolders, Lines, shuffled_lines, split

# By preference, in any case; where one for validation is there, a folder of tests is left out.
TRAIN_FOLDERS = ("train", "training")
TRAIN_PART = re.compile(r"train(ing|set)?(?![a-z])", re.IGNORECASE)  # and not trains or trainers
VALIDATION_FOLDERS = ("val", "valid", "validation", "test", "testing")


def find_classes(root: Path, instead: str = "") -> ClassFolders:
    """The classes below a folder or in a tar: every folder (or inner tar) with images, in sorted order, as
    im2rec.py --recursive labels them.

    A class is named by its path below the root (`cats`, or `cats/siamese`). Raises ResnetError when there are none,
    which ends in what else can be done `instead`.
    """
    if not root.exists():
        raise ResnetError(f"{root} is no folder and no tar; give a folder that holds one folder of images per class.")
    left_out = LeftOut()
    classes = (
        _classes_of_tar(Tar(root, readable=False), left_out) if root.is_file() else _classes_of_folder(root, left_out)
    )
    if not classes.images_of:
        raise ResnetError(_no_classes(root, left_out) + f"{instead}.")
    for name in classes.images_of:
        as_class_name(name)
    _tell_of_one_name_in_two_spellings(classes.images_of)
    left_out.tell(root)
    return classes


def _no_classes(root: Path, left_out: LeftOut) -> str:
    if not left_out.strays:
        return (
            f"{root} has no class folders with images ({', '.join(IMAGE_ENDINGS)}); put those of each class into a "
            "folder of its own"
        )
    example = left_out.strays[0]
    return (
        f"{root} holds {counted(len(left_out.strays), 'image')} and no class folders; put those of each class into a "
        f"folder of its own there, such as {root / 'CLASS' / example}"
    )


def _tell_of_one_name_in_two_spellings(names: Iterable[str]) -> None:
    """A Mac and Linux spell ä in two ways, and a person writes Cat for cat: folders of one class, taken for two."""
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(unicodedata.normalize("NFC", name).casefold(), name)
        if other != name:
            say(
                f"warning: {other!a} and {name!a} are taken for two classes; where they are one, put their images into "
                "one folder."
            )


def _classes_of_folder(root: Path, left_out: LeftOut) -> ClassFolders:
    # Folders come in the order of the labels, so paths are added class after class.
    paths = Names()
    images: dict[str, NDArray[np.uint32]] = {}
    for name, files in following(walk(root), f"look into {root}", 0, "folders"):
        if name == ".":
            left_out.strays += filter(is_image, files)
            continue
        first = len(paths)
        for file in left_out.images(files):
            paths.append(f"{name}/{file}")
        if len(paths) > first:
            images[name] = np.arange(first, len(paths), dtype=np.uint32)
        elif not any(map(Path.is_dir, (root / name).iterdir())):
            say(f"warning: {printable(str(root / name))} holds no images; it is no class.")
    return ClassFolders(images, paths.__getitem__)


def _classes_of_tar(tar: Tar, left_out: LeftOut) -> ClassFolders:
    found: dict[str, NDArray[np.uint32]] = {}
    for folder, members in zip(tar.folders, _by_folder(np.asarray(tar.folder_of, np.uint32)), strict=True):
        if not folder:
            left_out.strays += [name for member in members if is_image(name := tar.names[int(member)])]
        if not folder or any(map(is_hidden, folder.split("/"))):
            continue
        # A tar may hold a path twice; the last one counts.
        numbers = {name: int(member) for member in members if not is_hidden(name := tar.names[int(member)])}
        if names := sorted(left_out.images(numbers)):
            found[folder] = np.array([numbers[name] for name in names], np.uint32)
    names = sorted(found, key=lambda name: PurePosixPath(name).parts)
    return ClassFolders({name: found[name] for name in names}, tar.member)


def _by_folder(folder_of: NDArray[np.uint32]) -> Sequence[NDArray[np.uint32]]:
    """The numbers of each folder's members, in the order of the tar."""
    if (folder_of[1:] >= folder_of[:-1]).all():  # folder after folder, as nearly every tar has them
        order = np.arange(len(folder_of), dtype=np.uint32)
    else:
        order = folder_of.argsort(kind="stable").astype(np.uint32)
    return np.split(order, np.bincount(folder_of).cumsum()[:-1])


def ready_split(root: Path, classes: ClassFolders) -> tuple[str, str] | None:
    """The names of the train and validation folders when the classes lie in such, else None.

    Of several for validation and tests one counts, and standard error says which do not. Raises ResnetError when there
    are several to train on, or other folders of classes beside them.
    """
    folders = (
        {path.name for path in root.iterdir() if path.is_dir() and not is_hidden(path.name)} if root.is_dir() else set()
    )
    with_images = {name.split("/")[0] for name in classes.images_of}
    train = sorted(name for name in folders | with_images if name.lower() in TRAIN_FOLDERS)
    held_out = sorted(name for name in folders | with_images if name.lower() in VALIDATION_FOLDERS)
    held_out.sort(key=lambda name: VALIDATION_FOLDERS.index(name.lower()))
    others = sorted(with_images - {*train, *held_out})
    if not train or not held_out or (others and not _hold_classes(classes, train)):
        return None
    if others or len(train) > 1:
        raise ResnetError(
            f"{root} holds {train[0]} and {held_out[0]}, a split into two, and {(train[1:] + others)[0]} beside them; "
            "move or rename one of them."
        )
    if len(held_out) > 1:
        say(f"{root}: {held_out[0]} is for validation; {', '.join(held_out[1:])} is left out.")
    return train[0], held_out[0]


def check_no_split(root: Path, classes: ClassFolders) -> None:
    """Raise ResnetError where what is taken for classes are the parts of a split: `x/train/cat` and `x/dev/cat`."""
    seen: dict[tuple[str, ...], str] = {}
    for name in classes.images_of:
        parts = PurePosixPath(name).parts
        for place, folder in enumerate(parts[:-1]):
            around = "/".join(parts[:place])
            other = seen.setdefault((around, *parts[place + 1 :]), folder)
            if other != folder and any(map(TRAIN_PART.match, (folder, other))):
                raise ResnetError(
                    f"{root / around} holds {other} and {folder} with the same classes, which looks like a split; "
                    f"{_how_to_split(root, around, {other, folder})}; where they are classes, rename one."
                )


def _how_to_split(root: Path, around: str, folders: Set[str]) -> str:
    """What to do where a split lies around some folders below the one that was given, in words."""
    names = {name.lower() for name in folders}
    called = names & {*TRAIN_FOLDERS} and names & {*VALIDATION_FOLDERS}
    give = f"give {shlex.quote(str(root / around))} in place of {shlex.quote(str(root))}" if around else ""
    return " and ".join(part for part in ("" if called else "call its folders train and val", give) if part)


def _hold_classes(classes: ClassFolders, folders: Sequence[str]) -> bool:
    return any(name.split("/")[0] in folders and "/" in name for name in classes.images_of)


def large_enough(classes: ClassFolders, min_images: int) -> ClassFolders:
    """The classes that have at least `min_images` images; labels close up. Raises ResnetError when none is left."""
    kept = {name: images for name, images in classes.images_of.items() if len(images) >= min_images}
    if not kept:
        largest = max(map(len, classes.images_of.values()))
        raise ResnetError(
            f"No class has {counted(min_images, 'image')} (the largest has {largest}); lower `min_images`."
        )
    return ClassFolders(kept, classes.path)


def make_lists(settings: ListConfig, unless_split: float = 0.0) -> tuple[int, int, int]:
    """Write PREFIX_train.lst, PREFIX_val.lst (when anything is held out) and synset.txt beside them.

    The root is a folder, a tar, or a tar of tars. One with folders train and val (or test) keeps that split; else
    images are held out from every class, without a word of the settings the share `unless_split`. With `chunks` each
    list is cut into so many. Returns the counts of classes, training and validation images. Raises ResnetError where
    there are fewer images than chunks, and where the classes are not those of a synset.txt by which other files go.
    """
    root, prefix, seed, chunks = settings.root, settings.prefix, settings.seed, settings.chunks
    if not root.exists() and prefix.is_dir():
        raise ResnetError(f"{root} is not there, and {prefix} is a folder: give the folder first, then the prefix.")
    classes = find_classes(root, ", or list a validation set without folders by `val_labels`")
    folders = ready_split(root, classes)
    if folders is not None and (settings.val_per_class or settings.val_ratio):
        raise ResnetError(
            f"{root} is split already, into {folders[0]} and {folders[1]}; give no `val_per_class` or `val_ratio`, or "
            f"give {root / folders[0]}."
        )
    if folders is None:
        check_no_split(root, classes)
        classes = large_enough(classes, settings.min_images)
        share = settings.val_ratio or unless_split
        train, validation = split(classes, lambda count: settings.val_per_class or round(share * count), seed)
    else:
        classes, train, validation = lines_of_ready_split(root, classes, folders, settings.min_images, seed)
    names = tuple(classes.images_of)
    if len(names) == 1:
        say(f"warning: {root} has one class, {printable(names[0])}, and a network tells at least two apart.")
    tell_of_classes_without_validation(names, validation)
    parts = {part: lines for part, lines in (("train", train), ("val", validation)) if len(lines)}
    paths = {part: list_paths(prefix, part, chunks) for part in parts}
    written = [path for some in paths.values() for path in some]
    if few := [len(lines) for lines in parts.values() if len(lines) < chunks]:
        raise ResnetError(f"`chunks` is {chunks}, more than the {counted(few[0], 'image')} of a list; lower it.")
    refuse_other_classes(prefix.parent, [path.name for path in written], names)
    for part, lines in parts.items():
        write_lists(paths[part], lines.entries(classes.path), len(lines))
    write_synset(prefix.parent / "synset.txt", names)
    tell_of_older_lists(prefix, written)
    return len(names), len(train), len(validation)


def tell_of_classes_without_validation(names: Sequence[str], validation: Lines) -> None:
    """Say on standard error how many classes have no image that is held out."""
    without = np.setdiff1d(np.arange(len(names)), validation.labels)
    if len(validation) and len(without):
        say(
            f"warning: {len(without)} of {len(names)} classes {agreeing(len(without), 'has', 'have')} no image for "
            "validation, such as "
            f"{printable(names[without[0]])}: the errors say nothing of them."
        )


def lines_of_ready_split(
    root: Path, classes: ClassFolders, folders: tuple[str, str], min_images: int, seed: int
) -> tuple[ClassFolders, Lines, Lines]:
    """The classes by their names within the folders of a split, and the lines of its two sides."""
    train, validation = (_within(classes, root, folder) for folder in folders)
    if unknown := sorted(validation.images_of.keys() - train.images_of.keys()):
        raise ResnetError(
            f"{root / folders[1]} has a class {unknown[0]} that {root / folders[0]} has not; add or remove it."
        )
    train = large_enough(train, min_images)
    label_of = {name: label for label, name in enumerate(train.images_of)}
    held_out = [(label_of[name], images) for name, images in validation.images_of.items() if name in label_of]
    if not held_out:
        raise ResnetError(
            f"{root / folders[1]} has no class with {counted(min_images, 'training image')}; lower `min_images`."
        )
    generator = np.random.default_rng(seed)
    lines = shuffled_lines(list(enumerate(train.images_of.values())), generator)
    return train, lines, shuffled_lines(held_out, generator)


def _within(classes: ClassFolders, root: Path, folder: str) -> ClassFolders:
    start = f"{folder}/"
    kept = {name.removeprefix(start): images for name, images in classes.images_of.items() if name.startswith(start)}
    if not kept:
        raise ResnetError(f"{root / folder} has no class folders with images ({', '.join(IMAGE_ENDINGS)}).")
    return ClassFolders(kept, classes.path)
