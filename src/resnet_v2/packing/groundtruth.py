"""Labels of validation images that lie in no class folders, as ImageNet's do: a file of its own says their classes."""

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from resnet_v2.console import counted
from resnet_v2.data.lists import ListEntry, read_synset, write_list, write_synset
from resnet_v2.errors import ResnetError
from resnet_v2.files import read_bytes
from resnet_v2.packing.archives import Tar
from resnet_v2.packing.image_names import is_image, walk

WNID = re.compile(r"n\d{8}\b")
MOST_DIGITS = 18  # of the number of a class


def make_validation_list(root: Path, prefix: Path, truth: Path, synset: Path | None = None) -> int:
    """Write PREFIX_val.lst for the images below a folder or in a tar, in the order of their names; returns their count.

    `truth` has a line per image: a class; or the image's name and its class, separated by a space or a comma. Without
    names the lines follow the images in sorted order. A class is a WNID or any word, or a number: the place in `synset`
    (one class per line, its first word a WNID), counted from 0 when a 0 occurs, from 1 when the number of classes does.
    Labels are places in the synset.txt beside the list, which is made (sorted, as for class folders) when it is
    missing. Raises ResnetError when lines, images and classes do not belong together.
    """
    images = find_images(root)
    classes = _class_names(truth, _class_per_image(truth, images, root), synset)
    known = prefix.parent / "synset.txt"
    if not known.is_file():
        write_synset(known, sorted(set(_words(synset) if synset else classes)))
    label_of = {name: label for label, name in enumerate(_words(known))}
    if unknown := sorted(set(classes) - set(label_of)):
        raise ResnetError(
            f"{truth} names the class {unknown[0]}, which {known} does not; give a PREFIX beside its own."
        )
    entries = (
        ListEntry(i, (float(label_of[name]),), path) for i, (path, name) in enumerate(zip(images, classes, strict=True))
    )
    write_list(prefix.with_name(f"{prefix.name}_val.lst"), entries)
    return len(images)


def find_images(root: Path) -> list[str]:
    """The paths of all images below a folder or in a tar, sorted by name. Raises ResnetError when there are none."""
    if root.is_file():
        tar = Tar(root)
        found = {path for path in map(tar.member, range(len(tar))) if is_image(path)}
    else:
        found = {
            (PurePosixPath(folder) / file).as_posix()
            for folder, files in walk(root)
            for file in filter(is_image, files)
        }
    if not found:
        raise ResnetError(f"{root} holds no images; give the folder or the tar of the validation images.")
    return sorted(found, key=lambda path: (PurePosixPath(path).name, path))


def _class_per_image(truth: Path, images: Sequence[str], root: Path) -> list[str]:
    """The word in `truth` that stands for the class of each image, in the order of the images."""
    rows = _rows(truth)
    if len(rows) != len(images):
        raise ResnetError(
            f"{truth} has {counted(len(rows), 'line')} but {root} has {counted(len(images), 'image')}; give the file "
            "of this set."
        )
    if len(rows[0]) == 1:
        return [row[0] for row in rows]
    by_name = {PurePosixPath(row[0]).name: row[1] for row in rows if len(row) > 1}
    names = [PurePosixPath(image) for image in images]
    words = [by_name.get(name.name) or by_name.get(name.stem) for name in names]
    if None in words:
        raise ResnetError(f"{truth} has no line `NAME CLASS` for {images[words.index(None)]}; add one.")
    return [word for word in words if word is not None]


def _rows(truth: Path) -> list[list[str]]:
    try:
        lines = read_bytes(truth).decode("utf-8", "replace").splitlines()
    except OSError as error:
        raise ResnetError(f"{truth} cannot be read ({error.strerror}); it holds one class per image.") from None
    rows = [line.replace(",", " ").split()[:2] for line in lines]
    rows = [row for row in rows if row and row[0] != "ImageId"]  # the first line of Kaggle's LOC_val_solution.csv
    if not rows:
        raise ResnetError(f"{truth} is empty; it must hold one class per image.")
    return rows


def _class_names(truth: Path, classes: Sequence[str], synset: Path | None) -> list[str]:
    if not all(word.isdecimal() for word in classes):
        return list(classes)
    if longest := max((word for word in classes if len(word) > MOST_DIGITS), default="", key=len):
        raise ResnetError(f"{truth} holds the number {longest[:20]}..., which is no class; give the file of this set.")
    if synset is None:
        raise ResnetError(
            f"{truth} holds numbers; give `synset` FILE with the classes in the order that the numbers count "
            "(the devkit counts in an order of its own, map_clsloc.txt, not in that of synset.txt)."
        )
    names, numbers = _words(synset), [int(word) for word in classes]
    first = 0 if min(numbers) == 0 else 1
    if max(numbers) - first >= len(names) or (first == 1 and max(numbers) != len(names)):
        raise ResnetError(
            f"{truth} holds numbers from {min(numbers)} to {max(numbers)}, but {synset} has "
            f"{counted(len(names), 'class')}; they "
            f"must go from 0 to {len(names) - 1} or from 1 to {len(names)}."
        )
    return [names[number - first] for number in numbers]


def _words(synset: Path) -> list[str]:
    """The classes of a synset file: the WNID where a line starts with one, else the whole line."""
    return [match[0] if (match := WNID.match(line)) else line for line in read_synset(synset)]
