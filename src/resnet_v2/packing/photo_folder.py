"""A folder of class folders -> the records NAME_train and NAME_val: its pictures are looked at, split, and packed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from resnet_v2.config.packing import PackConfig
from resnet_v2.console import agreeing, counted, say
from resnet_v2.data.lists import write_list, write_synset
from resnet_v2.errors import ResnetError, printable
from resnet_v2.packing.archives import open_images
from resnet_v2.packing.class_folders import (
    check_no_split,
    find_classes,
    lines_of_ready_split,
    ready_split,
    tell_of_classes_without_validation,
)
from resnet_v2.packing.doubles import tell_of_doubles
from resnet_v2.packing.list_files import refuse_other_classes
from resnet_v2.packing.pack import pack_list
from resnet_v2.packing.splitting import ClassFolders, Lines, split
from resnet_v2.packing.staging import PARTS, RECORD_ENDINGS, begun, staged
from resnet_v2.packing.survey import MOST_NAMED, Survey, survey, tell_of_left_out

QUALITY = 95  # of JPEG: small pictures have little to lose


@dataclass(frozen=True)
class Found:
    """What a folder holds: its classes, the two sides of its split, the pictures' middle shorter side in pixels, and
    how many pictures were left out.
    """

    root: Path
    classes: ClassFolders
    train: Lines
    validation: Lines
    middle_side: int
    left_out: int


def look_at(root: Path, held_out: Callable[[int], int], seed: int, threads: int = 0, leave_out: bool = False) -> Found:
    """Look at every picture of a folder, and split it unless it has folders for training and validation.

    Of a class of n pictures `held_out(n)` are held out, less where pictures look alike: these stay on one side, unless
    none could be held out then. Those that cannot be read are left out and counted. Raises ResnetError for a folder
    without pictures in class folders.
    """
    classes = find_classes(root)
    folders = ready_split(root, classes)
    if folders is None:
        check_no_split(root, classes)
    found = survey(open_images(root), classes, threads)
    tell_of_left_out(root, classes, found)
    classes, there = _readable(root, classes, found), sum(map(len, classes.images_of.values()))
    left_out = there - sum(map(len, classes.images_of.values()))
    if folders is None:
        train, validation = split(classes, held_out, seed, found.groups)
        if not len(validation):  # drawings of one kind, or frames of a film: all look alike, which is said
            train, validation = split(classes, held_out, seed)
    else:
        classes, train, validation = lines_of_ready_split(root, classes, folders, 0, seed)
    _tell_of_likeness(root, found, classes, train, validation)
    if len(validation):
        tell_of_classes_without_validation(tuple(classes.images_of), validation)
    return Found(root, classes, train, validation, int(np.median(found.sides[train.images])), left_out)


def _readable(root: Path, classes: ClassFolders, found: Survey) -> ClassFolders:
    kept = found.readable(classes)
    if not kept.images_of:
        raise ResnetError(f"{root} has no picture that can be read; give a folder that holds one folder per class.")
    lost = [name for name in classes.images_of if name not in kept.images_of]
    if lost:
        say(
            f"warning: {counted(len(lost), 'class')} "
            f"{agreeing(len(lost), 'has no picture left and is', 'have no picture left and are')} none any more, "
            f"such as {lost[0]}"
        )
    return kept


def _tell_of_likeness(root: Path, found: Survey, classes: ClassFolders, train: Lines, validation: Lines) -> None:
    """Say how many pictures look like another one, and of a split that lies there how many do so across it, and which
    are the first of them.
    """
    if found.groups is None:
        return
    numbers = np.concatenate([train.images, validation.images])
    _, counts = np.unique(found.groups[numbers], return_counts=True)
    if alike := int(counts[counts > 1].sum()):
        across = np.sort(validation.images[np.isin(found.groups[validation.images], found.groups[train.images])])
        them = agreeing(len(across), "it", "them")
        where = (
            f"{len(across)} of those to validate with {agreeing(len(across), 'looks', 'look')} like one to train on: "
            f"the errors on {them} say little; remove {them}"
            if len(across)
            else "they stay on one side of the split"
        )
        say(f"{alike} pictures of {root} look like another one, in {counted((counts > 1).sum(), 'group')}; {where}")
        for number in across[:MOST_NAMED]:
            like = train.images[found.groups[train.images] == found.groups[number]].min()
            say(f"alike: {printable(classes.path(int(number)))} and {printable(classes.path(int(like)))}")
        if len(across) > MOST_NAMED:
            say(f"alike: and {len(across) - MOST_NAMED} more")


def write(found: Found, folder: Path, name: str, resize: int, threads: int = 0, origin: str = "") -> None:
    """Pack what was found: NAME_train and NAME_val (.rec, .idx, .lst) and synset.txt appear in a folder, or nothing.

    `resize` is the shorter side in pixels, 0: as it is. Raises ResnetError where other records there go by other
    classes.
    """
    with staged(folder, name) as staging:
        refuse_others(folder, name, begun(staging), tuple(found.classes.images_of))
        for part, lines in zip(PARTS, (found.train, found.validation), strict=True):
            write_list(staging / f"{name}_{part}.lst", lines.entries(found.classes.path))
        write_synset(staging / "synset.txt", found.classes.images_of)
        for part in PARTS:
            lst = staging / f"{name}_{part}.lst"
            rec = lst.with_suffix(".rec")
            config = PackConfig(lst, found.root, rec, resize, store="auto", quality=QUALITY, threads=threads)
            done = pack_list(config, origin)
            say(f"{folder / rec.name}: {counted(done.images, 'image')}, {len(done.skipped)} skipped")
        tell_of_doubles(folder, *(staging / f"{name}_{part}.rec" for part in PARTS))


def refuse_others(folder: Path, name: str, unfinished: bool, classes: Sequence[str]) -> None:
    """Raise ResnetError where other records than those of the data set `name` go by other classes."""
    own = [f"{name}_{part}{ending}" for part in PARTS for ending in RECORD_ENDINGS]
    refuse_other_classes(folder, own, classes, unfinished)
