"""Which files are meant by the name of a set of records: one, a pattern, a list with commas, the parts of im2rec."""

import glob
import itertools
import re
from collections.abc import Sequence
from pathlib import Path

from resnet_v2.data.index import is_record
from resnet_v2.errors import ResnetError, SettingError
from resnet_v2.storage import BETWEEN, Address, as_path

PART = re.compile(r"(.*\.rec)\.part(\d+)", re.IGNORECASE)  # im2rec's nsplit and part: a.rec.part000
BESIDE = {".idx": "the index of a record", ".lst": "a list of images", ".rows": "what lies beside a record"}
WILD = re.compile(r"[*?\[]")
ONE_SLASH = re.compile(r"^(s3|gs|https?):/+")  # a path makes one slash of two


def names_records(text: str) -> bool:
    """Whether a text names one or more records."""
    return all(is_record(Path(part)) or _is_pattern_of_records(part) for part in _parts(text))


def _is_pattern_of_records(part: str) -> bool:
    return WILD.search(part) is not None and ".rec" in Path(part).name.lower()


def record_paths(text: str) -> list[Path]:
    """The files of a set, in its order: those of a list as they are given, those of a pattern and parts by name,
    numbers as numbers.

    Raises ResnetError where a pattern finds none, a part is missing between others, or a file is named twice.
    """
    found = [path for part in _parts(text) for path in _files(part)]
    seen: dict[object, Path] = {}
    for path in found:
        if path in seen.values() or seen.setdefault(_identity(path), path) != path:
            first = seen.get(_identity(path), path)
            raise ResnetError(f"{text} names {path} twice (as {first}); name every file once.")
    return found


def _parts(text: str) -> list[str]:
    if ONE_SLASH.match(text):
        parts = BETWEEN.split(text)
    elif "," not in text or Path(text).exists():
        return [text]
    else:
        parts = text.split(",")
    return [ONE_SLASH.sub(r"\1://", part.strip()) for part in parts]


def _identity(path: Path) -> object:
    if isinstance(path, Address) or not path.is_file():
        return str(path)
    status = path.stat()
    return status.st_dev, status.st_ino


def _files(part: str) -> list[Path]:
    if not part:
        raise ResnetError("A list of records has an empty name; write it like a.rec,b.rec.")
    path = as_path(part)
    if kind := BESIDE.get(path.suffix.lower()):
        raise ResnetError(f"{path} is {kind} and no record; give the .rec, such as {path.with_suffix('.rec')}.")
    if isinstance(path, Address):
        if WILD.search(path.name):
            raise SettingError(f"{part} is a pattern, which no storage takes; give the addresses, separated by commas.")
        return [path]
    if path.exists():
        return [path]
    if WILD.search(part):
        matching = Path(path.anchor).glob(str(path.relative_to(path.anchor)))
        found = sorted((one for one in matching if is_record(one) and one.is_file()), key=_by_name)
        if not found:
            raise ResnetError(f"No record is named like {part}; check the pattern.")
        return _with_all_parts(found)
    return _with_all_parts(parts_of(path)) or [path]


def parts_of(path: Path) -> list[Path]:
    """The parts of im2rec that lie beside a record, or in its place, in their order; none of what is no record."""
    split = path.parent.glob(f"{glob.escape(path.name)}.part*") if path.suffix.lower() == ".rec" else ()
    return sorted((one for one in split if PART.fullmatch(one.name)), key=_by_name)


def _by_name(path: Path) -> tuple[list[tuple[int, int | str]], str]:
    """Sorts by name, numbers as numbers, and files of the same name by folder."""
    words = re.split(r"(\d+)", path.name)
    return [(0, int(word)) if word.isdecimal() else (1, word) for word in words], str(path)


def _with_all_parts(paths: Sequence[Path]) -> list[Path]:
    """The same; a ResnetError where a part of im2rec is missing before the last of them."""
    numbers: dict[str, list[int]] = {}
    for path in paths:
        if match := PART.fullmatch(path.name):
            numbers.setdefault(str(path.with_name(match[1])), []).append(int(match[2]))
    for name, there in numbers.items():
        missing = next((one for one in itertools.count() if one not in there), 0)
        if missing < max(there):
            raise ResnetError(
                f"{name}.part{missing:03d} is missing, but {name}.part{max(there):03d} is there; copy it too, or name "
                "the parts, separated by commas."
            )
    return list(paths)
