"""Which files are images and which folders are classes, by their names; and a word about those that are not."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from resnet_v2.console import agreeing, counted, say
from resnet_v2.data import heif
from resnet_v2.data.lists import as_line
from resnet_v2.errors import ResnetError, printable

# What OpenCV decodes; versions before 4.11 do not know GIF and say so of each file.
IMAGE_ENDINGS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp"),
    *(".tif", ".tiff", ".ppm", ".pgm", ".avif", ".jp2"),
)
MOST_TOLD = 6


def is_image(name: str) -> bool:
    """Whether a file's name says that it is an image, and neither it nor a folder above it is hidden."""
    endings = (*IMAGE_ENDINGS, *heif.ENDINGS) if heif.available() else IMAGE_ENDINGS
    return name.lower().endswith(endings) and not any(map(is_hidden, name.split("/")))


def is_hidden(name: str) -> bool:
    """Whether a file or a folder is none that its owner made, such as .git, or what a Mac puts into zips."""
    return name.startswith(".") or name in ("__MACOSX", "lost+found")


def walk(root: Path) -> Iterator[tuple[str, list[str]]]:
    """Every folder below a folder that is not hidden, in sorted order, by its path from there (`.`: itself), and its
    files that are not hidden, sorted. A link that leads back to a folder above it is left out, and that is said.

    Raises ResnetError for a folder that cannot be read.
    """
    above = {root: frozenset([_identity(root)])}
    for folder, subfolders, files in os.walk(root, onerror=_refuse, followlinks=True):
        chain, visible = above.pop(Path(folder)), sorted(name for name in subfolders if not is_hidden(name))
        subfolders.clear()
        for path in (Path(folder, name) for name in visible):
            if (identity := _identity(path)) in chain:
                say(f"warning: {printable(str(path))} leads back to a folder above it; it is left out.")
                continue
            above[path] = chain | {identity}
            subfolders.append(path.name)
        yield Path(folder).relative_to(root).as_posix(), sorted(name for name in files if not is_hidden(name))


def _refuse(error: OSError) -> None:
    raise ResnetError(f"{error.filename} cannot be read ({error.strerror}); mend that, or take the folder away.")


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


class LeftOut:
    """Files below class folders that are no images by their names, counted by their endings; and `strays`, the images
    that lie in no class folder.
    """

    def __init__(self) -> None:
        self._endings: Counter[str] = Counter()
        self.strays: list[str] = []

    def images(self, names: Iterable[str]) -> Iterator[str]:
        """Those of the names that are images'; the others are counted. Raises ResnetError for one that fits no list."""
        for name in names:
            if is_image(name):
                yield as_line(name)
            else:
                self._endings[PurePosixPath(name).suffix.lower() or "without an ending"] += 1

    def tell(self, root: Path) -> None:
        """Say on standard error what was left out, if anything was."""
        if self.strays:
            say(
                f"warning: {counted(len(self.strays), 'image')} in {root} itself "
                f"{agreeing(len(self.strays), 'is', 'are')} in no class and left out."
            )
        if self._endings:
            told = [f"{count} {ending}" for ending, count in self._endings.most_common(MOST_TOLD)]
            more = ["others"] if len(self._endings) > MOST_TOLD else []
            if any(self._endings[ending] for ending in heif.ENDINGS):
                say(f"{heif.MISSING}.")
            count = sum(self._endings.values())
            files = (
                "a file that is not taken for an image"
                if count == 1
                else f"{count} files that are not taken for images"
            )
            say(f"warning: {root} holds {files} ({', '.join(told + more)}); images end in {', '.join(IMAGE_ENDINGS)}.")
