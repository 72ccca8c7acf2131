"""`train FOLDER`: a folder of photos -> records in a folder beside the checkpoints, and settings that suit them.

The records are used again as long as no file of the folder has changed. What was measured for these rules stands in
docs/photos.md.
"""

import hashlib
import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from resnet_v2.config.packing import DataConfig
from resnet_v2.config.training import TRAIN_DEFAULTS
from resnet_v2.console import agreeing, counted
from resnet_v2.errors import ResnetError, SettingError
from resnet_v2.files import parse_json, read_bytes, write_text
from resnet_v2.machine import free_memory, processors
from resnet_v2.networks import weights
from resnet_v2.networks.architecture import Architecture
from resnet_v2.packing.image_names import walk
from resnet_v2.packing.origin import of_data
from resnet_v2.packing.photo_folder import Found, look_at, write
from resnet_v2.packing.staging import PARTS
from resnet_v2.recompute.budget import Workload

NETWORK = "cifar10-resnet-14"  # that ships
NOTES, NOTES_VERSION, MOST_NOTES_BYTES = "photos.json", 1, 1 << 27
SPLIT_SEED = 0  # the same split whatever `seed` trains
SHARE, ENOUGH = 5, 50  # a fifth of a class is held out, of large classes a tenth, but no fewer than 50
IMAGES_SEEN, FEWEST_EPOCHS, MOST_EPOCHS = 6_000, 5, 15
MINUTES = 8
PATIENCE = 8  # epochs without a better one
SMALLEST_BATCH, LARGEST_BATCH, STEPS = 16, 64, 20  # images, and steps of an epoch
RATE = 0.01  # for a batch of 16; for larger ones as the root of their size
MEMORY_SHARE = 0.5  # of what is free
PLACES = ("data_dir", "data_type", "data_train", "data_val", "list_dir", "num_classes", "labels")
OTHERWISE = ("recipe", "resume", "model_load_epoch")  # each of them may name the data too
MADE = ("finetune", "recipe", "depth", "stem", "width", "version")  # whoever gives one of them chooses the network


@dataclass(frozen=True)
class Facts:
    """What is known of a folder: the names of its classes, how many pictures are on either side of the split and how
    many were left out, their middle shorter side in pixels."""

    class_names: tuple[str, ...]
    train: int
    validation: int
    middle_side: int
    left_out: int = 0


@dataclass(frozen=True)
class Photos:
    """A folder, what it holds, where its records lie, and the settings that suit it; `reasons` has a sentence for some.

    `found` is None where the records were made before.
    """

    folder: Path
    records: Path
    name: str
    listing: str
    facts: Facts
    found: Found | None = None
    choices: Mapping[str, Any] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)

    def make(self, side: int) -> None:
        """Have the records ready, packed at a shorter side of so many pixels."""
        notes = self._notes(side)
        if _read_notes(self.records) == notes and all(map(Path.is_file, self._files())):
            return
        found = self.found or look_at(self.folder, held_out, SPLIT_SEED)
        # Killed before the end, the next run knows the folder for its own, and makes the records again.
        write_text(self.records / NOTES, json.dumps(notes | {"listing": ""}))
        origin = of_data(DataConfig(str(self.folder), resize=side))
        write(found, self.records, self.name, side, origin=origin)
        write_text(self.records / NOTES, json.dumps(notes))

    def next_steps(self, prefix: str) -> str:
        """What was reached, where it is, and what to do with it."""
        best = weights.checkpoint_header(prefix, "best")
        start, folder, rec = (shlex.quote(str(path)) for path in (prefix, self.folder, self._files()[1]))
        return (
            f"best epoch {best.epoch}: error {best.error:.1f} % of the {counted(self.facts.validation, 'photo')} "
            "held out; "
            f"{prefix}-best.safetensors\n"
            f"next: resnet-v2 predict --prefix {start} --epoch best --img {folder}\n"
            f"      resnet-v2 evaluate --prefix {start} --epoch best --rec {rec} --per-class\n"
            f"      resnet-v2 demo --prefix {start} --epoch best   # a page in the browser\n"
            f"      resnet-v2 serve --prefix {start} --epoch best   # answers over HTTP"
        )

    def _files(self) -> list[Path]:
        return [self.records / f"{self.name}_{part}.rec" for part in PARTS]

    def _notes(self, side: int) -> dict[str, Any]:
        facts = asdict(self.facts) | {"class_names": list(self.facts.class_names)}
        return {"version": NOTES_VERSION, "listing": self.listing, "side": side, "facts": facts}


def held_out(count: int) -> int:
    """How many of a class's pictures are held out: a fifth, of many a tenth, one of two, and none of one."""
    return min(max(round(count / SHARE), 1), max(count // 10, ENOUGH), count - 1)


def refuse_nothing(given: Mapping[str, Any]) -> None:
    """Raise SettingError where no data is named, nor there by the default's name, and no run goes on with its own."""
    named = any(given.get(name, "no") not in ("no", "", 0) for name in ("folder", *PLACES[:4], *OTHERWISE))
    if not named and not Path(TRAIN_DEFAULTS["data_dir"]).exists():
        raise SettingError(
            "There is nothing to train on; give a folder of photos (`resnet-v2 train FOLDER`), or records by "
            "`data_dir` and `data_type` (`resnet-v2 data` makes them)."
        )


def find_photos(asked: Mapping[str, Any]) -> Photos | None:
    """What `folder` of the settings that are given holds, and what to train on it with; None where none is given.

    Raises ResnetError for a folder that nothing can be trained on, and SettingError for settings that it decides.
    """
    if not asked.get("folder"):
        return None
    folder = Path(asked["folder"])
    for name in PLACES:
        if name in asked:
            raise SettingError(f"`{name}` does not go with a folder of photos, {folder}; leave one of them out.")
    _refuse_no_photos(folder)
    own = folder.resolve().name
    name = "photos" if own in ("", "imagenet") else own  # the latter is a kind of data
    records = Path(asked.get("model_prefix") or "model/a").parent / f"{name}-records"
    listing = _listing(folder)
    notes = _read_notes(records)
    if notes.get("listing") == listing:
        facts, found = Facts(**(notes["facts"] | {"class_names": tuple(notes["facts"]["class_names"])})), None
    else:
        _refuse_strangers(records)
        found = look_at(folder, held_out, SPLIT_SEED)
        facts = Facts(
            tuple(found.classes.images_of), len(found.train), len(found.validation), found.middle_side, found.left_out
        )
    _refuse_too_few(folder, facts)
    photos = Photos(folder, records, name, listing, facts, found)
    return _choose(photos, asked)


def _refuse_no_photos(folder: Path) -> None:
    if not folder.is_dir():
        raise ResnetError(f"{folder} is no folder; give one that holds a folder of photos for each class.")
    if records := sorted(folder.glob("*_train.rec")):
        name = records[0].name.removesuffix("_train.rec")
        raise ResnetError(f"{folder} holds records and no photos; give `data_dir` {folder} and `data_type` {name}.")


def _listing(folder: Path) -> str:
    """What tells whether any file of a folder has changed: the SHA-256 of their paths, sizes and times."""
    total = hashlib.sha256(str(folder.resolve()).encode(errors="surrogateescape"))
    for name, files in walk(folder):
        for file in files:
            status = (folder / name / file).stat() if (folder / name / file).exists() else None
            told = [name, file, status and status.st_size, status and status.st_mtime_ns]
            total.update(json.dumps(told).encode())
    return total.hexdigest()


def _read_notes(records: Path) -> dict[str, Any]:
    """What was noted when the records were made; nothing where that cannot be read, or is of another version."""
    try:
        notes = parse_json(read_bytes(records / NOTES, MOST_NOTES_BYTES))
        right = notes["version"] == NOTES_VERSION and notes["facts"].keys() == Facts.__annotations__.keys()
        return notes if right else {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def _refuse_strangers(records: Path) -> None:
    """A folder that is not of an earlier run on photos is left as it is."""
    if (records.is_dir() and any(records.glob("*.rec")) and not (records / NOTES).is_file()) or records.is_file():
        raise ResnetError(
            f"{records} holds records that were not made of a folder of photos; give another `model_prefix`."
        )


def _refuse_too_few(folder: Path, facts: Facts) -> None:
    if len(facts.class_names) < 2:
        raise ResnetError(
            f"{folder} has one class, {facts.class_names[0]}, and a network tells at least two apart; add a folder of "
            "photos of what it is not."
        )
    if not facts.validation:
        raise ResnetError(
            f"{folder} has no class with two photos that differ, so none can be held out for validation; add photos."
        )


def _choose(photos: Photos, asked: Mapping[str, Any]) -> Photos:
    facts = photos.facts
    choices: dict[str, Any] = {"data_dir": photos.records, "list_dir": photos.records, "data_type": photos.name}
    choices |= {"schedule": "cosine", "keep": 1, "patience": PATIENCE}
    reasons = {
        "data_dir": f"{counted(facts.train, 'photo')} of {counted(len(facts.class_names), 'class')} "
        f"{agreeing(facts.train, 'is', 'are')} trained on, {facts.validation} "
        f"{agreeing(facts.validation, 'is', 'are')} "
        f"held out for validation; their records lie in {photos.records}{_left_out(facts)}"
    }
    if not any(asked.get(name) for name in MADE):
        choices["finetune"] = NETWORK
        reasons["finetune"] = (
            f"network: {NETWORK}, which ships and has learned to see; all of its layers go on learning"
        )
    architecture, size = _network(choices | dict(asked), len(facts.class_names))
    if "image_size" not in asked:
        choices["image_size"] = size
        reasons["image_size"] = (
            f"images of {size} pixels: the network learned at that size (the photos' middle shorter side is "
            f"{facts.middle_side})"
        )
    size = asked.get("image_size", size)
    work = Workload(architecture, size)
    batch = asked.get("batch_size") or _batch_size(facts.train, work)
    choices["batch_size"] = batch
    reasons["batch_size"] = f"batches of {batch}: {counted(-(-facts.train // batch), 'step')} in an epoch"
    choices["lr"] = round(RATE * (batch / SMALLEST_BATCH) ** 0.5, 3) if "finetune" in choices | dict(asked) else 0.1
    choices["epochs"], reasons["epochs"] = _epochs(facts, work)
    choices = {name: value for name, value in choices.items() if name not in asked}
    return Photos(photos.folder, photos.records, photos.name, photos.listing, facts, photos.found, choices, reasons)


def _left_out(facts: Facts) -> str:
    """That photos were left out, which is said by each run and not by the one alone that looked at them."""
    if not facts.left_out:
        return ""
    return (
        f"; {counted(facts.left_out, 'photo')} could not be used and {agreeing(facts.left_out, 'is', 'are')} left out"
    )


def _network(settings: Mapping[str, Any], classes: int) -> tuple[Architecture, int]:
    """What is trained, and at which size it sees its images."""
    if settings.get("finetune"):
        header = weights.checkpoint_header(str(settings["finetune"]))
        its = header.architecture
        return Architecture(its.depth, classes, its.stem, its.version, its.width), header.crop
    its = Architecture(
        settings.get("depth", 20),
        classes,
        settings.get("stem", "cifar"),
        settings.get("version", "v2"),
        settings.get("width", 1),
    )
    return its, its.image_size


def _batch_size(images: int, work: Workload) -> int:
    """About STEPS steps in an epoch, within what memory allows."""
    batch = SMALLEST_BATCH
    while batch < LARGEST_BATCH and images // (2 * batch) >= STEPS:
        batch *= 2
    free = free_memory()
    costs = work.plain().forecast
    while free and batch > 1 and work.total_bytes(costs, batch) > MEMORY_SHARE * free:
        batch //= 2
    return batch


def _epochs(facts: Facts, work: Workload) -> tuple[int, str]:
    wanted = min(max(round(IMAGES_SEEN / facts.train), FEWEST_EPOCHS), MOST_EPOCHS)
    if torch.cuda.is_available():
        return wanted, counted(wanted, "epoch")
    each = sum(cost.forward + cost.backward for cost in work.costs) * 2 / processors()  # they are of two cores
    minutes = each * (facts.train + facts.validation / 3) / 60
    epochs = max(FEWEST_EPOCHS, min(wanted, int(MINUTES / minutes)))
    why = "" if epochs == wanted else f", fewer than {wanted} for the sake of time"
    whole = max(1, round(epochs * minutes))
    told = "a minute" if whole == 1 else f"{whole} minutes"
    return epochs, f"{counted(epochs, 'epoch')}: about {told} on {counted(processors(), 'core')}{why}"
