"""Named runs: the settings, hardware and error of every network in the tables of 2016, of later recipes, and our own.

They stand in recipes.toml. Where the figures of 2016 come from, all of github.com/tornadomeet/ResNet: the tables of its
README.md, the table of runs in log/README.md, the first lines of log/resnet-NN.log, and the defaults of
train_resnet.py. What none of them says is not made up here: `notes` says what is missing, and what of a later recipe
our settings cannot say. Our own figures are those of the logs in docs/runs.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from resnet_v2.errors import SettingError
from resnet_v2.networks.architecture import Architecture


@dataclass(frozen=True)
class Measured:
    """Errors in percent of a run of ours, its time in minutes, validation included, and its log in docs/runs."""

    top1_error: float
    top5_error: float
    minutes: float
    log: str


@dataclass(frozen=True)
class Recipe:
    """A run that was published or made here: `settings` are TrainConfig's, errors are in percent (None: unpublished).

    `images` is the number of training images, `hardware` what the run used, `source` where settings and errors stand.
    `evidence` is what stands in for a run that was not repeated, or tells of our own.
    """

    name: str
    settings: Mapping[str, Any]
    images: int
    hardware: str
    source: str
    top1_error: float | None = None
    top5_error: float | None = None
    notes: str = ""
    evidence: str = ""
    measured: Measured | None = None

    @property
    def architecture(self) -> Architecture:
        """The network that the settings ask for."""
        its = self.settings
        stem = its.get("stem", "imagenet" if its["data_type"] == "imagenet" else "cifar")
        return Architecture(its["depth"], its["num_classes"], stem, its.get("version", "v2"), its.get("width", 1))


def _read() -> tuple[Recipe, ...]:
    rows = tomllib.loads(resources.files("resnet_v2.training").joinpath("recipes.toml").read_text(encoding="utf-8"))
    found = []
    for name, row in rows.items():
        row["settings"]["data_dir"] = Path(row["settings"]["data_dir"])
        measured = Measured(**row.pop("measured")) if "measured" in row else None
        found.append(Recipe(name, **row, measured=measured))
    return tuple(found)


ALL = _read()


def find(name: str) -> Recipe:
    """The recipe of a name; a SettingError names those that exist."""
    for recipe in ALL:
        if recipe.name == name:
            return recipe
    raise SettingError(f"There is no recipe {name!r}; recipes are {', '.join(recipe.name for recipe in ALL)}.")


def settings_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """What the recipe that is given says; with `retrain` but for rate and decay, which are the checkpoint's."""
    if not given.get("recipe"):
        return {}
    settings = find(given["recipe"]).settings
    return {name: value for name, value in settings.items() if not (given.get("retrain") and name in ("lr", "wd"))}
