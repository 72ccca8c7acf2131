"""The words of MXNet's im2rec, in C++ (`resize=480`) and in Python (`--num-thread 8`), in our spelling."""

import os
import re
from collections.abc import Iterator, Sequence

from resnet_v2.config.fields import refuse_folder
from resnet_v2.errors import SettingError

WORD = re.compile(r"([a-z_]+)=(.*)", re.DOTALL)
FLAG = re.compile(r"--([a-z][a-z_-]*)(?:=(.*))?", re.DOTALL)
PLACES = 3  # LST ROOT OUT.rec
OUR_NAMES = {"encoding": "store", "unchanged": "pass_through", "num_thread": "threads"}
SWITCHES = ("pass_through", "pack_label", "center_crop")
NUMBERS = ("resize", "quality", "color", "label_width", "inter_method", "nsplit", "part", "threads")
ENCODINGS = {".jpg": "jpeg", "jpg": "jpeg", "jpeg": "jpeg", ".png": "png", "png": "png"}
YES_OR_NO = {"1": True, "True": True, "0": False, "False": False}
TO_PACK = (*SWITCHES, *NUMBERS, "store")
# What im2rec.py takes when it makes a list, and passes over when it packs.
TO_LIST = ("list", "recursive", "train_ratio", "test_ratio", "chunks", "exts", "no_shuffle", "shuffle")


def pack_words(words: Sequence[str]) -> list[str]:
    """The words of `pack` with those of im2rec among them in our spelling.

    `resize=480` is `--resize=480`, `encoding=.jpg` is `--store=jpeg`, `center_crop=1` is `--center-crop`. A path may
    look like such a word. Raises SettingError for a word that says nothing here.
    """
    return [word for name, value in _pairs(words) for word in _ours(name, value)]


def _pairs(words: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """Each flag and its value, None where it has none; other words alike, as they are."""
    left, places = list(words[1:]), 0
    yield words[0], None
    while left:
        word = left.pop(0)
        flag, said = FLAG.fullmatch(word), WORD.fullmatch(word)
        if flag is not None:
            yield word.partition("=")[0], left.pop(0) if flag[2] is None and _takes(_name(flag[1]), left) else flag[2]
        elif said is not None and (places >= PLACES or _is_meant(word, _name(said[1]))):
            if _name(said[1]) not in (*TO_PACK, *TO_LIST, "on_error"):
                raise SettingError(f"{word!r} is no word of `resnet-v2 pack` nor of im2rec; its --help tells all.")
            yield f"--{said[1]}", said[2]
        else:
            places += 1
            if places == PLACES and word:
                refuse_folder("out", word)  # a path forgets the slash at its end
            yield word, None


def _name(word: str) -> str:
    """The setting that a word means."""
    name = word.replace("-", "_")
    return OUR_NAMES.get(name, name)


def _takes(name: str, after: Sequence[str]) -> bool:
    """Whether a flag has the next word for its value; im2rec.py of 2016 had one for a switch too."""
    if name in SWITCHES:
        return bool(after) and after[0] in YES_OR_NO
    return bool(after) and name not in (*TO_LIST, "help")


def _is_meant(word: str, name: str) -> bool:
    """Whether a word among the paths is one of im2rec's, and not the path that it could be."""
    return name in TO_PACK and os.sep not in word and "/" not in word and not os.path.exists(word)  # noqa: PTH110


def _ours(word: str, value: str | None) -> list[str]:
    if FLAG.fullmatch(word) is None:
        return [word]
    name = _name(word.removeprefix("--"))
    if name in TO_LIST:
        raise SettingError(f"`{name}` says how a list is made; give it to `resnet-v2 list`, or leave it out.")
    flag = f"--{name.replace('_', '-')}"
    if value is None:
        return [flag]
    if name in SWITCHES:
        if value not in YES_OR_NO:
            raise SettingError(f"`{name}` must be 1 or 0, not {value!r}.")
        return [flag] if YES_OR_NO[value] else []
    if name in NUMBERS and not re.fullmatch(r"[+-]?\d{1,20}", value):
        raise SettingError(f"`{name}` {value!r} is not a whole number.")
    if word.removeprefix("--") == "encoding":
        if value not in ENCODINGS:
            raise SettingError(f"`encoding` must be .jpg or .png, not {value!r}.")
        value = ENCODINGS[value]
    return [f"{flag}={value}"]


def list_words(words: Sequence[str]) -> list[str]:
    """The words of `list` with those of im2rec.py --list among them in our spelling.

    `--list`, `--recursive` and `--shuffle` are what `list` does; `--train-ratio 0.9` is `--val-ratio=0.1`. Raises
    SettingError for what it does not do.
    """
    left, found = list(words), list[str]()
    while left:
        word = left.pop(0)
        flag = FLAG.fullmatch(word)
        name = _name(flag[1]) if flag is not None else ""
        if flag is None or name not in (*TO_PACK, *TO_LIST) or name == "chunks":
            found.append(word)
        elif name in TO_PACK:
            typed = word.partition("=")[0].removeprefix("--").replace("-", "_")
            raise SettingError(f"`{typed}` says how images are packed; give it to `resnet-v2 pack`, or leave it out.")
        elif name == "train_ratio":
            found.append(f"--val-ratio={_rest(left.pop(0) if flag[2] is None and left else flag[2] or '')}")
        elif name not in ALWAYS or not _is_wanted(flag[2], left):
            raise SettingError(f"`{name}` is im2rec's; {INSTEAD[name]}.")
    return found


def _is_wanted(value: str | None, after: list[str]) -> bool:
    """Whether a switch is on, which had a value in im2rec.py of 2016; a value behind it is taken away."""
    if value is None and after and after[0] in YES_OR_NO:
        value = after.pop(0)
    return YES_OR_NO.get(value or "1", False)


ALWAYS = ("list", "recursive", "shuffle")
INSTEAD = {
    "list": "`resnet-v2 list` makes lists, and `resnet-v2 pack` records",
    "recursive": "every folder with images is a class, and images beside them need `val_labels`",
    "test_ratio": "`val_ratio` holds out images, and one list of them is written",
    "exts": "images are known by their endings, and what is left out is told",
    "shuffle": "lists are shuffled with `seed`",
    "no_shuffle": "lists are shuffled with `seed`, since sorted ones ruin a training",
}


def _rest(share: str) -> float:
    try:
        ratio = float(share)
    except ValueError:
        raise SettingError(f"`train_ratio` {share!r} is not a number.") from None
    if not 0 < ratio <= 1:
        raise SettingError(f"`train_ratio` must be above 0 and at most 1, not {share}.")
    return round(1 - ratio, 9)
