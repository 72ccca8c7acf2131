"""Inputs -> image files, byte for byte, in class folders or a tar of them; a list beside them packs the same again."""

import contextlib
import io
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resnet_v2.config.converting import UnpackConfig
from resnet_v2.console import Progress, agreeing, counted, say
from resnet_v2.data import records as recordio
from resnet_v2.data.exact import EXACT_LABELS
from resnet_v2.data.lists import ListEntry, write_list
from resnet_v2.errors import DamagedError, ResnetError, naming
from resnet_v2.files import make_folder, replacing
from resnet_v2.packing.choosing import check_classes, without_class, without_class_words
from resnet_v2.packing.convert import LARGEST_KEY, class_names
from resnet_v2.packing.inputs import Inputs, find_inputs
from resnet_v2.packing.naming import FileNames, ending_of, folder_names
from resnet_v2.portable import kept

Add = Callable[[str, bytes], None]  # writes a file under a path


def unpack(settings: UnpackConfig) -> str:
    """Write the images of records as files; returns a sentence about it.

    The folder, or the tar, and the list appear under their names when all is written. Raises ResnetError where one of
    them is there already, for a damaged record when `on_error` is "stop", and when there is no sound one.
    """
    out, lst = settings.out, list_path(settings.out)
    _refuse_taken(out, lst)
    paths = find_inputs([settings.rec])
    names = class_names(paths)
    skipped: list[str] = []

    def skip(sentence: str) -> None:
        skipped.append(sentence)
        say(f"skipped: {sentence}")

    records = Inputs(paths, skip if settings.on_error == "skip" else None)
    records.refuse_boxes()
    records.tell()
    numbers = _with_class(records, skip if settings.on_error == "skip" else None)
    folders = folder_names(records, numbers, names)
    files = FileNames(records, numbers, folders)
    writing = _writing_tar if _is_tar(out) else _writing_folder
    with writing(out) as add, Progress(out.name, len(numbers)) as progress, replacing(lst) as temporary:
        written = _written(records, progress.over(numbers.tolist()), files, add, skip, settings.on_error)
        write_list(temporary, _with_own_index(written, records.ids[numbers]))
        if len(skipped) == len(records):
            raise ResnetError(
                f"None of {counted(len(records), 'image')} could be read, {out} is not written: {skipped[0]}"
            )
    return f"{out}: {counted(len(records) - len(skipped), 'image')}, {len(skipped)} skipped; {lst} names them"


def list_path(out: Path) -> Path:
    """`flowers` and `flowers.tar` -> `flowers.lst`."""
    return out.with_suffix(".lst") if _is_tar(out) else out.with_name(f"{out.name}.lst")


def _is_tar(out: Path) -> bool:
    return out.suffix.lower() == ".tar"


def _refuse_taken(out: Path, lst: Path) -> None:
    empty = not _is_tar(out) and out.is_dir() and not any(out.iterdir())
    for path in (lst, *([] if empty else [out])):
        if path.exists() or path.is_symlink():
            raise ResnetError(f"{path} is there already, it is not written; give another name, or remove it.")


def _with_class(records: Inputs, skip: Callable[[str], object] | None) -> NDArray[np.int64]:
    """The images whose label is a class; of the others each is skipped, unless they are many."""
    numbers = records.numbers
    bad = without_class(records, numbers)
    if skip is None or 2 * len(bad) > len(numbers):
        check_classes(records, numbers)
    else:
        for number in bad.tolist():
            skip(f"{without_class_words(records, number)}.")
    return np.setdiff1d(numbers, bad)


def _with_own_index(entries: Iterator[ListEntry], ids: NDArray[np.uint64]) -> Iterator[ListEntry]:
    """The lines of a list, numbered anew where two have one index, or one that no list holds."""
    if len(np.unique(ids)) == len(ids) and int(ids.max(initial=0)) <= LARGEST_KEY:
        yield from entries
        return
    say(
        "some records have the same id, or a larger one than a list holds: the list numbers all anew from 0, in "
        "their order"
    )
    for index, entry in enumerate(entries):
        yield replace(entry, index=index)


def _written(
    records: Inputs,
    numbers: Iterator[int],
    files: FileNames,
    add: Add,
    skip: Callable[[str], object],
    on_error: str,
) -> Iterator[ListEntry]:
    """The lines of the list, after each image's file is written."""
    others = several = 0
    for number in numbers:
        try:
            header, image = _image(records, number)
        except DamagedError as error:
            if on_error == "stop":
                raise
            skip(str(error))
            continue
        path = files.path(number, ending_of(image))
        add(path, bytes(image))
        labels = (float(records.labels[number]), *np.ravel(header.label).tolist()[1:])
        several += len(labels) > 1
        others += header.flag == 1 or header.id2 != (labels[0] if labels[0] >= EXACT_LABELS else 0)
        yield ListEntry(header.id, labels, path)
    if several:
        say(
            f"warning: {counted(several, 'image')} {agreeing(several, 'has', 'have')} several labels: each lies in "
            "the folder of its first, the list has all"
        )
    if others:
        say(
            f"{counted(others, 'image')} "
            f"{agreeing(others, 'is whole, but its header has', 'are whole, but their headers have')} an id2, or one "
            "label as an array, which no list holds"
        )


def _image(records: Inputs, number: int) -> tuple[recordio.IRHeader, memoryview]:
    header, image = recordio.unpack(records.read(number))
    if not ending_of(image):
        raise DamagedError(f"{records.name(number)} holds no image of a known kind; `resnet-v2 verify` tells more.")
    return header, image


@contextlib.contextmanager
def _writing_folder(out: Path) -> Iterator[Add]:
    """What writes files into a folder that has its name when all are written."""
    unfinished = out.with_name(f".{out.name}.part")
    make_folder(out.parent)
    with contextlib.ExitStack() as afterwards, kept(out.with_name(f".{out.name}.lock")) as lock:
        if lock is None:
            raise ResnetError(f"{out} is being written by another run; wait for its end or stop it.")
        afterwards.callback(out.with_name(f".{out.name}.lock").unlink, missing_ok=True)
        shutil.rmtree(unfinished, ignore_errors=True)  # what a killed run left
        try:
            with naming(out):
                unfinished.mkdir()

                def add(path: str, data: bytes) -> None:
                    target = unfinished / path
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with target.open("xb") as file:
                        file.write(data)

                yield add
                if hasattr(os, "sync"):
                    os.sync()  # once, and not for each of a million files
                if out.is_dir():
                    out.rmdir()  # it is empty
                unfinished.replace(out)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


@contextlib.contextmanager
def _writing_tar(out: Path) -> Iterator[Add]:
    """What writes files into a tar, in which no time stands: the same record gives the same bytes."""
    with replacing(out) as temporary, tarfile.open(temporary, "w", format=tarfile.GNU_FORMAT) as archive:

        def add(path: str, data: bytes) -> None:
            member = tarfile.TarInfo(path)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))

        yield add
