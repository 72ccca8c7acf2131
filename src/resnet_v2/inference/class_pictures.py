"""Pictures whose class is told: those of records, and those of class folders, whose classes go by their names."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from resnet_v2.data.lists import read_synset
from resnet_v2.errors import ResnetError
from resnet_v2.inference.places import Named, find_pictures
from resnet_v2.packing.class_folders import find_classes, ready_split


def class_names(places: Sequence[str], synset: Path | None = None) -> tuple[str, ...]:
    """The names of the classes, in the order of their numbers: those of `synset`, else those of the first place, which
    its class folders tell, or the synset.txt beside it; none where neither does.
    """
    if synset is not None:
        return read_synset(synset)
    first = Path(places[0])
    if first.is_dir():
        return tuple(find_classes(first).images_of)
    beside = first.with_name("synset.txt")
    return read_synset(beside) if beside.is_file() else ()


def refuse_other_names(names: Sequence[str], places: Sequence[str]) -> None:
    """Raise ResnetError for a record beside which synset.txt names other classes than `names`."""
    for place in places:
        beside = Path(place).with_name("synset.txt")
        if names and not Path(place).is_dir() and beside.is_file() and read_synset(beside) != tuple(names):
            raise ResnetError(
                f"{beside} names other classes than {', '.join(names[:3])}, ..., so one number would mean two things; "
                "give records of the same classes, or `synset`."
            )


def find_labelled(names: Sequence[str], places: Sequence[str]) -> list[Named]:
    """What `find_pictures` finds, but of a folder the pictures of its class folders, each with the number of its class.

    Raises ResnetError for a folder of a split, and for a class folder that is none of `names`.
    """
    return [named for place in places for named in (_of_folder(Path(place), names) or find_pictures([place]))]


def _of_folder(root: Path, names: Sequence[str]) -> list[Named]:
    """The pictures of class folders, sorted by class; none where it is no folder."""
    if not root.is_dir():
        return []
    classes = find_classes(root)
    if (parts := ready_split(root, classes)) is not None:
        train, val = (root / part for part in parts)
        raise ResnetError(
            f"{root} holds {parts[0]} and {parts[1]}, a split into two; give {train}, and {val} as `val`."
        )
    if others := [name for name in classes.images_of if name not in names]:
        known = f"none of {', '.join(names)}" if names else "no class whose number is known"
        raise ResnetError(f"{root / others[0]} is {known}; give folders of the same classes, or `synset`.")
    return [
        Named(str(root / path), partial(Path, root / path), label=names.index(name))
        for name, images in classes.images_of.items()
        for path in (classes.path(int(number)) for number in images)
    ]
