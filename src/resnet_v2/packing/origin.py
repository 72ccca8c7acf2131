"""Where records came from, as the text that their `.rows` holds: JSON, without a time, so the same command gives the
same bytes."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from resnet_v2 import __version__
from resnet_v2.config.converting import ConvertConfig
from resnet_v2.config.packing import DataConfig, PackConfig
from resnet_v2.data.sidecar import MOST_ORIGIN_BYTES, Rows
from resnet_v2.errors import ResnetError, printable
from resnet_v2.files import parse_json

NEUTRAL = ("threads", "mirror")  # settings that no byte of a record depends on
MOST_STEPS, FILES_TOLD, MOST_LETTERS = 6, 3, 1000  # of steps and files that a sentence tells, and of a file's name


def of_pack(settings: PackConfig, list_sha256: str) -> str:
    """What `pack` notes: the list and its SHA-256, the folder, the settings that are not the default, the version."""
    told = {"list": str(settings.lst), "list_sha256": list_sha256, "root": str(settings.root)}
    return _text({"command": "pack", **told, "flags": _flags(settings, ("lst", "root", "out"))})


def of_data(settings: DataConfig) -> str:
    """What `data` notes: the data set or the folder, the settings that are not the default, the version."""
    return _text({"command": "data", "source": settings.source, "flags": _flags(settings, ("source", "out"))})


def of_convert(settings: ConvertConfig, origins: Sequence[str]) -> str:
    """What `convert` notes: the files it was given, the settings, the version, and what these files said."""
    told: dict[str, object] = {"files": settings.files[:-1], "flags": _flags(settings, ("files",))}
    before = [parsed for text in dict.fromkeys(origins) if (parsed := _parsed(text))]
    text = _text({"command": "convert", **told, "from": before})
    return text if len(text.encode()) <= MOST_ORIGIN_BYTES else _text({"command": "convert", **told})


def _flags(settings: Any, left_out: Sequence[str]) -> dict[str, object]:
    fields = [field for field in dataclasses.fields(settings) if field.name not in (*left_out, *NEUTRAL)]
    values = {field.name: getattr(settings, field.name) for field in fields if field.default is not dataclasses.MISSING}
    changed = {field.name for field in fields if values.get(field.name) != field.default}
    return {name: str(value) if isinstance(value, Path) else value for name, value in values.items() if name in changed}


def _text(told: Mapping[str, object]) -> str:
    return json.dumps({**told, "version": __version__}, separators=(",", ":"))


def _parsed(text: str) -> dict[str, Any]:
    """What an untrusted text says, nothing where it is none of ours."""
    try:
        found = parse_json(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def origin_of(rec: Path) -> str:
    """The text in the `.rows` of a record; empty where there is none, or none that can be read."""
    try:
        return Rows(rec).origin()
    except ResnetError:
        return ""


def of_repair(rec: Path) -> str:
    """What `verify --repair` notes: the damaged record, and what its `.rows` said."""
    before = _parsed(origin_of(rec))
    return _text({"command": "repair", "files": [str(rec)], "flags": {}, "from": [before] if before else []})


def sentence(text: str) -> str:
    """`packed from train.lst (SHA-256 ...), images below images, resize 480, by resnet-v2 0.1.0`; or nothing."""
    return printable("; before that ".join(_steps(_parsed(text))[:MOST_STEPS]))


def _flag(name: object, value: object) -> str:
    """`faces`, `no pack_label`, `resize 480`."""
    if isinstance(value, bool):
        return f"{'' if value else 'no '}{name}"
    return f"{name} {value}"


def _some(files: Sequence[object]) -> str:
    more = f" and {len(files) - FILES_TOLD} more" if len(files) > FILES_TOLD else ""
    return ", ".join(str(file)[:MOST_LETTERS] for file in files[:FILES_TOLD]) + more


def _steps(told: Mapping[str, Any], depth: int = 0) -> list[str]:
    """The last thing that was done to some records, and those before it."""
    match told:
        case {"command": "pack", "list": lst, "list_sha256": sha256, "root": root}:
            made = f"packed from {lst} (SHA-256 {sha256}), images below {root}"
        case {"command": "convert" | "repair" as command, "files": [*files]}:
            made = f"{'converted' if command == 'convert' else 'repaired'} from {_some(files)}"
        case {"command": "data", "source": source}:
            made = f"made from {source}"
        case _:
            return []
    flags, before = told.get("flags"), told.get("from")
    words = [_flag(name, value)[:MOST_LETTERS] for name, value in flags.items()] if isinstance(flags, dict) else []
    step = ", ".join([made, *words, f"by resnet-v2 {told.get('version')}"])
    earlier = before if isinstance(before, list) and depth < MOST_STEPS else []
    return [step, *(one for each in earlier if isinstance(each, dict) for one in _steps(each, depth + 1))]
