"""Lists of images (`.lst`: index, label or labels, path) and of class names (synset.txt: one name per line)."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from resnet_v2.files import ResnetError, replacing, write_text

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
VALIDATION_FOLDERS = ("val", "test", "valid", "validation")


@dataclass(frozen=True)
class ListEntry:
    """One line of a list: an image's index, its labels (nearly always one) and its path below the root."""

    index: int
    labels: tuple[float, ...]
    path: str


@dataclass(frozen=True)
class ClassFolders:
    """Class names in label order, and the paths of each class's images below the root, sorted."""

    names: tuple[str, ...]
    paths: tuple[tuple[str, ...], ...]


def read_list(path: Path) -> Iterator[ListEntry]:
    """The entries of a `.lst`, one by one; a ResnetError names the line that is wrong.

    Fields are separated by tabs; a line without tabs is split at white space, as MXNet's C++ im2rec did.
    """
    try:
        with path.open(encoding="utf-8", errors="surrogateescape") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield _parse_line(path, number, line.strip("\r\n"))
    except OSError as error:
        raise ResnetError(f"{path} cannot be read ({error.strerror}); make it with `resnet-v2 list`.") from None


def _parse_line(path: Path, number: int, line: str) -> ListEntry:
    fields = line.split("\t") if "\t" in line else line.split(None, 2)
    try:
        index, *labels, name = fields
        if not labels:
            raise ValueError
        return ListEntry(int(index), tuple(float(label) for label in labels), name.strip())
    except ValueError:
        raise ResnetError(
            f"{path}, line {number}: {line[:80]!r} is not index, label and path separated by tabs; mend or remove it."
        ) from None


def write_list(path: Path, entries: Iterable[ListEntry]) -> None:
    """Write a `.lst` with tabs, labels as MXNet's im2rec.py prints them (6 decimals)."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", errors="surrogateescape") as file:
        for entry in entries:
            labels = "\t".join(f"{label:.6f}" for label in entry.labels)
            file.write(f"{entry.index}\t{labels}\t{entry.path}\n")


def read_synset(path: Path) -> tuple[str, ...]:
    """The class names of a synset.txt, in label order; a ResnetError when it is missing or empty."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise ResnetError(f"{path} cannot be read ({error.strerror}); it holds one class name per line.") from None
    names = tuple(line.strip() for line in lines if line.strip())
    if not names:
        raise ResnetError(f"{path} is empty; it must hold one class name per line, in label order.")
    return names


def write_synset(path: Path, names: Iterable[str]) -> None:
    """Write one class name per line."""
    write_text(path, "".join(f"{name}\n" for name in names))


def find_classes(root: Path) -> ClassFolders:
    """The classes below a folder: every folder with images, in sorted order, as im2rec.py --recursive labels them.

    A class is named by its path below the root (`cats`, or `cats/siamese`). Raises ResnetError when there are none.
    """
    if not root.is_dir():
        raise ResnetError(f"{root} is no folder; give a folder that holds one folder of images per class.")
    found: dict[str, tuple[str, ...]] = {}
    for folder, subfolders, files in os.walk(root, followlinks=True):
        subfolders.sort()
        name = Path(folder).relative_to(root).as_posix()
        images = sorted(file for file in files if file.lower().endswith(IMAGE_ENDINGS) and not file.startswith("."))
        if images and name != ".":
            found[name] = tuple(f"{name}/{image}" for image in images)
    if not found:
        raise ResnetError(f"{root} has no class folders with images ({', '.join(IMAGE_ENDINGS)}).")
    names = tuple(sorted(found, key=lambda name: PurePosixPath(name).parts))
    return ClassFolders(names, tuple(found[name] for name in names))


def ready_split(root: Path) -> tuple[str, str] | None:
    """The names of the train and validation folders when a root is laid out as such, else None."""
    if not root.is_dir():
        return None
    folders = {path.name for path in root.iterdir() if path.is_dir()}
    validation = next((name for name in VALIDATION_FOLDERS if name in folders), None)
    return ("train", validation) if "train" in folders and validation and len(folders) == 2 else None


def large_enough(classes: ClassFolders, min_images: int) -> ClassFolders:
    """The classes that have at least `min_images` images; labels close up. Raises ResnetError when none is left."""
    kept = [(name, paths) for name, paths in zip(classes.names, classes.paths, strict=True) if len(paths) >= min_images]
    if not kept:
        largest = max(map(len, classes.paths))
        raise ResnetError(f"No class has {min_images} images (the largest has {largest}); lower --min-images.")
    return ClassFolders(tuple(name for name, _ in kept), tuple(paths for _, paths in kept))


def split(
    classes: ClassFolders, val_per_class: int, val_ratio: float, seed: int
) -> tuple[list[ListEntry], list[ListEntry]]:
    """Shuffled entries for training and validation; from every class `val_per_class` images, or the share `val_ratio`,
    are held out. The same seed gives the same lists. Raises ResnetError when a class would have no image to train on.
    """
    generator = np.random.default_rng(seed)
    train: list[tuple[int, str]] = []
    validation: list[tuple[int, str]] = []
    for label, (name, paths) in enumerate(zip(classes.names, classes.paths, strict=True)):
        held_out = val_per_class or round(val_ratio * len(paths))
        if held_out >= len(paths):
            raise ResnetError(
                f"Class {name} has {len(paths)} images, too few to hold out {held_out} for validation; "
                f"give a smaller share or --min-images {held_out + 1}."
            )
        order = generator.permutation(len(paths))
        validation += [(label, paths[index]) for index in order[:held_out]]
        train += [(label, paths[index]) for index in order[held_out:]]
    return shuffled(train, generator), shuffled(validation, generator)


def shuffled(pairs: list[tuple[int, str]], generator: np.random.Generator) -> list[ListEntry]:
    """(label, path) pairs in a random order, indexed by it."""
    order = generator.permutation(len(pairs))
    return [ListEntry(index, (float(pairs[at][0]),), pairs[at][1]) for index, at in enumerate(order)]


def is_sorted_by_class(labels: np.ndarray[tuple[int], np.dtype[np.generic]]) -> bool:
    """Whether images come class after class, which ruins training wherever they are read in order."""
    changes = int(np.count_nonzero(labels[1:] != labels[:-1]))
    classes = len(np.unique(labels))
    return classes > 1 and len(labels) > 2 * classes and changes < 2 * classes


def make_lists(
    root: Path, prefix: Path, *, val_per_class: int = 0, val_ratio: float = 0.0, min_images: int = 0, seed: int = 0
) -> tuple[int, int, int]:
    """Write PREFIX_train.lst, PREFIX_val.lst (when anything is held out) and synset.txt beside them.

    A root with folders train and val (or test) keeps that split; else images are held out from every class. Returns
    the counts of classes, training and validation images.
    """
    if not 0 <= val_ratio < 1:
        raise ResnetError(f"--val-ratio {val_ratio} is no share; give a number from 0 to 1, such as 0.1.")
    folders = ready_split(root)
    if folders is not None and (val_per_class or val_ratio):
        raise ResnetError(
            f"{root} is split already, into {folders[0]} and {folders[1]}; give no --val-per-class or --val-ratio, or "
            f"give {root / folders[0]}."
        )
    if folders is None:
        classes = large_enough(find_classes(root), min_images)
        train, validation = split(classes, val_per_class, val_ratio, seed)
    else:
        classes, train, validation = _lists_of_ready_split(root, folders, min_images, seed)
    write_list(prefix.with_name(f"{prefix.name}_train.lst"), train)
    if validation:
        write_list(prefix.with_name(f"{prefix.name}_val.lst"), validation)
    write_synset(prefix.parent / "synset.txt", classes.names)
    return len(classes.names), len(train), len(validation)


def _lists_of_ready_split(
    root: Path, folders: tuple[str, str], min_images: int, seed: int
) -> tuple[ClassFolders, list[ListEntry], list[ListEntry]]:
    classes = large_enough(find_classes(root / folders[0]), min_images)
    label_of = {name: label for label, name in enumerate(classes.names)}
    generator = np.random.default_rng(seed)
    lists = []
    for folder in folders:
        found = classes if folder == folders[0] else find_classes(root / folder)
        unknown = [name for name in found.names if name not in label_of]
        if unknown and not min_images:
            raise ResnetError(
                f"{root / folder} has a class {unknown[0]} that {root / folders[0]} has not; add or remove it."
            )
        pairs = [
            (label_of[name], f"{folder}/{path}")
            for name, paths in zip(found.names, found.paths, strict=True)
            if name in label_of
            for path in paths
        ]
        lists.append(shuffled(pairs, generator))
    return classes, lists[0], lists[1]
