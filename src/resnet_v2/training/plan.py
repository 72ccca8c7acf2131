"""Everything that a run needs to know, decided once.

A setting is what was given, else the recipe's, else the checkpoint's that the run goes on from, else what the data on
disk and the kind of data say, else its default. Below this file nobody chooses.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from resnet_v2.config.fields import parse_labels
from resnet_v2.config.training import NEUTRAL, TRAIN_DEFAULTS, TrainConfig
from resnet_v2.console import counted
from resnet_v2.data.augment import Augmentation, augmentation, random_resized_crop
from resnet_v2.data.hands import usual_workers
from resnet_v2.data.labels import Labels
from resnet_v2.data.lists import read_synset
from resnet_v2.data.record_names import record_paths
from resnet_v2.errors import ResnetError, SettingError
from resnet_v2.logs.layout import aligned
from resnet_v2.networks import weights
from resnet_v2.networks.architecture import Architecture
from resnet_v2.storage import Address, as_path
from resnet_v2.training import checkpoint, ownership, recipes
from resnet_v2.training.checkpoint import Start
from resnet_v2.training.conflicts import check_together, told
from resnet_v2.training.distributed import ranks_of_environment, restarted
from resnet_v2.training.optim import Schedule
from resnet_v2.training.photos import Photos, find_photos

# Of the whole run: 30, 60, 90 of 120 epochs on ImageNet, 120 and 160 of 200 on CIFAR.
IMAGENET_DROPS, CIFAR_DROPS = (0.25, 0.5, 0.75), (0.6, 0.8)
# Found elsewhere on every machine, so that another value is no departure from a recipe.
PLACES = ("data_dir",)
# What `finetune` takes from its checkpoint.
ARCHITECTURE = ("depth", "stem", "width", "version")

Values = Mapping[str, Any]


@dataclass(frozen=True)
class RunPlan:
    """A run, with every setting decided; `sources` says by name where each comes from.

    `batch_size` counts the images of a step on all machines, `first_epoch` (from 0) is where it begins or goes on,
    `schedule` gives the learning rate, `processes` is the number of ranks on this machine, `photos` the folder that the
    records are made of, if it is one.
    """

    config: TrainConfig
    sources: Mapping[str, str]
    architecture: Architecture
    class_names: tuple[str, ...]
    schedule: Schedule
    first_epoch: int
    batch_size: int
    processes: int
    photos: Photos | None = None

    @property
    def prefix(self) -> str:
        """The start of the names of checkpoints and logs."""
        return self.config.output.model_prefix

    @property
    def labels(self) -> Labels:
        """What the labels of the records are."""
        data = self.config.data
        return Labels(self.architecture.classes, data.label_kind, data.task_classes)

    @property
    def image_size(self) -> int:
        """The side in pixels of the images that the network sees."""
        return self.config.network.image_size

    @property
    def workers(self) -> int:
        """The worker processes of each rank."""
        return int(self.config.devices.workers)

    @property
    def epochs(self) -> int:
        """The epochs in all."""
        return self.config.schedule.epochs

    def augmentation(self, epoch: int) -> Augmentation:
        """The augmentation of an epoch, counted from 0."""
        its, image_size = self.config.augmentation, self.image_size
        size = _at(its.sizes(image_size), epoch)
        if its.augment == "rrc":
            found = random_resized_crop(size)
        else:
            found = augmentation(_at(its.levels, epoch), image_size, self.architecture.large_images)
            found = replace(found, pad=its.pad).scaled(size)
        found = replace(found, trivial=its.trivial_augment, erasing=its.random_erasing)
        return replace(found, interpolation=its.interpolation, mirror=its.mirror, in_turns=its.mirror_in_turns)

    def records_of(self, epoch: int) -> Path:
        """The record, or the set, that an epoch reads: level 1 on ImageNet has its own, packed smaller."""
        its, data = self.config.augmentation, self.config.data
        if data.data_train:
            return as_path(data.data_train)
        if data.data_type != "imagenet":
            return data.data_dir / f"{data.data_type}_train.rec"
        small = its.augment == "levels" and _at(its.levels, epoch) == 1
        return data.data_dir / ("train_256_q90.rec" if small else "train_480_q90.rec")

    @property
    def validation_records(self) -> Path:
        """The record that is evaluated on."""
        data = self.config.data
        if data.data_val:
            return as_path(data.data_val)
        usual = data.data_dir / ("val_256_q90.rec" if data.data_type == "imagenet" else f"{data.data_type}_val.rec")
        if data.data_train and not isinstance(usual, Address) and not usual.exists():
            raise SettingError(f"`data_train` is given without `data_val`, and {usual} is missing; give `data_val`.")
        return usual

    def settings(self) -> dict[str, Any]:
        """All settings by name, as JSON holds them."""
        flat = self.config.flat()
        return {name: str(value) if isinstance(value, Path) else value for name, value in flat.items()}

    def saved(self) -> dict[str, Any]:
        """What a checkpoint tells of the plan: the settings that its numbers depend on, those among them that somebody
        gave, and the base of the learning rate.
        """
        kept = {name: value for name, value in self.settings().items() if name not in NEUTRAL}
        given = sorted(
            name for name in kept if self.sources[name].split()[0] in ("given", "recipe", "checkpoint", "photos")
        )
        return {
            "settings": kept,
            "given": given,
            "learning_rate": self.schedule.base,
            "weight_decay": self.config.optimisation.wd,
            "epochs": self.epochs,
        }

    def explained(self) -> str:
        """A line for every setting: its value, and where it comes from."""
        rows = [(name, str(value), self.sources[name]) for name, value in self.settings().items()]
        return aligned(rows, left=(0, 1, 2))


def _at(steps: tuple[tuple[int, int], ...], epoch: int) -> int:
    return [value for start, value in steps if start <= epoch][-1]


def decide(given: Values) -> tuple[RunPlan, Start | None]:
    """The plan of a run from the settings that were given, by name, and the checkpoint that it goes on from, if any.

    Raises SettingError for a setting that cannot be, and ResnetError for a checkpoint or a list that is not there or
    would be lost.
    """
    ranks = ranks_of_environment()
    config = TrainConfig.of(**given)  # says what cannot be before anything is looked for
    recipe = recipes.settings_of(given)
    asked = recipe | dict(given)
    photos = find_photos(asked)
    suited = dict(photos.choices) if photos is not None else {}
    prefix = asked.get("model_prefix") or _prefix_of(suited | asked)
    start = _find_start(prefix, asked)
    earlier = start.given() if start is not None else {}
    tuned = _tuned(suited | asked) if start is None else {}
    names, usual = _usual(suited | tuned | earlier | asked, photos)
    layers = (
        ("default", TRAIN_DEFAULTS),
        ("the data", usual),
        (f"photos {asked.get('folder')}", suited),
        (f"checkpoint {(suited | asked).get('finetune')}", tuned),
        (f"checkpoint {start.path if start is not None else ''}", earlier),
        (f"recipe {config.output.recipe}", recipe),
        ("given", given),
    )
    values = {name: value for _, layer in layers for name, value in layer.items()}
    sources = {name: source for source, layer in layers for name in layer}
    sources |= {name: "computed" for name in ("model_prefix", "workers") if name not in asked}
    values["num_classes"] = usual["num_classes"]  # 0, which may be given, asks for the lines of synset.txt
    if values["workers"] == "auto":
        on_cpu = values["device"] == "cpu" or not torch.cuda.is_available()
        values["workers"] = usual_workers(ranks.local_world_size, on_cpu)
    config = TrainConfig.of(**(values | {"model_prefix": prefix}))
    its = config.network
    architecture = Architecture(its.depth, config.data.num_classes, its.stem, its.version, its.width)
    check_together(config, architecture, ranks)
    resumed = start is not None and start.resumed
    plan = RunPlan(
        config=config,
        sources=sources,
        architecture=architecture,
        class_names=names,
        schedule=_schedule(config, asked, start),
        first_epoch=start.epoch if start is not None and resumed else config.output.model_load_epoch,
        batch_size=config.optimisation.batch_size * ranks.machines,
        processes=max(config.devices.nproc, _gpus(config)),
        photos=photos,
    )
    if start is not None and resumed and not config.output.force:
        _check_unchanged(start, plan, asked)
    return plan, start


def _gpus(config: TrainConfig) -> int:
    by_number = not config.devices.device and torch.cuda.is_available()
    return len(config.devices.gpu_numbers) if by_number else 1


def departures(plan: RunPlan) -> list[str]:
    """One sentence for every given setting in which a run departs from its recipe."""
    if not plan.config.output.recipe:
        return []
    recipe, values = recipes.find(plan.config.output.recipe), plan.config.flat()
    return [
        f"`{name}` {values[name]} is not the recipe's: {recipe.name} has `{name}` {value}."
        for name, value in recipe.settings.items()
        if plan.sources[name] == "given" and values[name] != value and name not in PLACES
    ]


def _prefix_of(asked: Values) -> str:
    _, usual = _usual(asked, classes_needed=False)
    found = usual | (_tuned(asked) if "depth" not in asked else {}) | dict(asked)
    version = found.get("version", "v2")
    kind = "" if version == "v2" else f"{version}-"
    return f"model/resnet-{kind}{found.get('data_type', 'imagenet')}-{found['depth']}"


def _tuned(asked: Values) -> dict[str, Any]:
    """The architecture of the checkpoint that is fine-tuned."""
    if not asked.get("finetune"):
        return {}
    its = weights.checkpoint_header(asked["finetune"]).architecture
    found = {name: getattr(its, name) for name in ARCHITECTURE}
    for name in found.keys() & asked.keys():
        if asked[name] != found[name]:
            raise SettingError(
                f"`finetune` {asked['finetune']} has `{name}` {found[name]}, not {asked[name]}; leave `{name}` out."
            )
    return found


def _usual(
    asked: Values, photos: Photos | None = None, classes_needed: bool = True
) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The class names, and the settings that follow from the kind of data and its files."""
    imagenet = asked.get("data_type", "imagenet") == "imagenet"
    found: dict[str, Any] = {
        "depth": 11 if asked.get("stem") == "dawn" else 50 if imagenet else 20,
        "stem": "imagenet" if imagenet else "cifar",
        "batch_size": 256 if imagenet else 128,
        "epochs": 120 if imagenet else 200,
        "aug_level": 2 if imagenet else 1,
        "list_dir": _folder_of_data(asked),
    }
    merged = found | dict(asked)
    shares = IMAGENET_DROPS if imagenet else CIFAR_DROPS
    found["milestones"] = ",".join(str(max(1, round(share * merged["epochs"]))) for share in shares)
    small = merged["stem"] in ("cifar", "pooled", "dawn")
    found["image_size"] = 32 if small else 224
    found["pad"] = asked.get("image_size", 32) // 8 if small and merged.get("augment", "levels") == "levels" else 0
    synset = as_path(merged["list_dir"]) / "synset.txt"
    names = read_synset(synset) if synset.is_file() else ()
    names = names if photos is None else photos.facts.class_names
    _, tasks = parse_labels(asked.get("labels", "class"))
    wanted = asked.get("num_classes", 0)
    if tasks and wanted not in (0, sum(tasks)):
        raise SettingError(
            f"`labels` {asked['labels']} has {counted(sum(tasks), 'class')} in all, but `num_classes` says {wanted}; "
            "leave `num_classes` out."
        )
    wanted = sum(tasks) or wanted
    classes = wanted or len(names) or (1000 if imagenet else 0)
    if classes_needed and not classes:
        raise ResnetError(
            f"The number of classes is unknown: {synset} is missing; check `data_dir` or give `num_classes`."
        )
    if classes_needed and names and len(names) != classes:
        if tasks:
            raise ResnetError(
                f"`labels` {asked['labels']} has {counted(classes, 'class')} in all, but {synset} names "
                f"{len(names)}; name those of the first task first."
            )
        raise ResnetError(f"`num_classes` says {classes}, but {synset} names {len(names)}; mend one of them.")
    return names, found | {"num_classes": classes}


def _folder_of_data(asked: Values) -> Path:
    """Where the class names lie unless it is said: with the records."""
    if asked.get("data_train") and "data_dir" not in asked:
        return record_paths(asked["data_train"])[0].parent
    return as_path(asked.get("data_dir", TRAIN_DEFAULTS["data_dir"]))


def _find_start(prefix: str, asked: Values) -> Start | None:
    """The checkpoint to go on from, if any; a ResnetError says why there is none or what would be lost."""
    if asked.get("find_lr"):
        return None
    resume = "auto" if restarted() else asked.get("resume", "no")
    retrain, load_epoch = asked.get("retrain", False), asked.get("model_load_epoch", 0)
    if retrain and not load_epoch:
        raise SettingError("`retrain` goes on from the epoch of `model_load_epoch`; give it too.")
    if retrain and asked.get("finetune"):
        raise SettingError("`finetune` starts a run and `retrain` goes on with one; give one of them.")
    latest = checkpoint.find_latest(prefix) if resume != "no" else None
    # Before its first saving, a retraining finds the run that it goes on from.
    if latest is not None and (not retrain or latest.began_with(retrain, load_epoch)):
        return latest
    if retrain:
        return Start(*weights.read_checkpoint(prefix, load_epoch))
    path = checkpoint.latest_path(prefix)
    if resume == "yes":
        raise ResnetError(f"{path} is missing, so there is no run to go on with; leave `resume` out to start one.")
    where = checkpoint.unfinished(prefix)
    if where is not None and not asked.get("force"):
        raise ResnetError(
            f"{path} holds an unfinished run ({where}); give `resume` to go on with it, or `force` to start anew."
        )
    return None


def _check_unchanged(start: Start, plan: RunPlan, asked: Values) -> None:
    """A run goes on with the settings that it began with."""
    saved, now = start.header.training["settings"], plan.settings()
    # Records that a checkpoint tells are looked at, wherever they lie.
    passed = NEUTRAL | (set(ownership.FOLDERS) if "data" in start.header.training else set())
    # What the program that began it did not know yet, it did as the default does.
    before: Values = {**TRAIN_DEFAULTS, **_usual(asked, classes_needed=False)[1], **saved}
    changed = [
        f"`{name}` {told(now[name])}, was {told(before[name])}"
        for name in asked
        if name not in passed and before[name] not in (now[name], None)
    ]
    if changed:
        raise ResnetError(
            f"{start.path} was made with other settings ({'; '.join(changed)}); mend them, or give `force` to go on "
            "with the new ones."
        )


def _schedule(config: TrainConfig, asked: Values, start: Start | None) -> Schedule:
    """The learning rate: with `retrain` one that is asked for is that of the epoch it goes on from, else the base."""
    its = config.schedule
    schedule = Schedule(its.lr, its.epochs, its.schedule, its.drops, its.warmup_epochs)
    if start is None or "learning_rate" not in start.header.training:
        return schedule
    if "lr" in asked and not (start.resumed and start.header.training["settings"].get("lr") == its.lr):
        return schedule.through(its.lr, config.output.model_load_epoch) if config.output.retrain else schedule
    return replace(schedule, base=float(start.header.training["learning_rate"]))
