"""From the flags of `train` to the settings of a run: defaults by data type, paths, classes, milestones."""

from dataclasses import dataclass, replace
from pathlib import Path

from resnet_v2.config import TrainConfig, parse_numbers
from resnet_v2.data.augment import Augmentation, augmentation, random_resized_crop
from resnet_v2.data.lists import read_synset
from resnet_v2.errors import ResnetError
from resnet_v2.interchange import weights
from resnet_v2.networks.architecture import Architecture

# Of the whole run: 30, 60, 90 of 120 epochs on ImageNet, 120 and 160 of 200 on CIFAR.
IMAGENET_DROPS, CIFAR_DROPS = (0.25, 0.5, 0.75), (0.6, 0.8)


@dataclass(frozen=True)
class RunSettings:
    """A TrainConfig with every default filled in; learning rate and weight decay may still come from a checkpoint."""

    prefix: str
    architecture: Architecture
    class_names: tuple[str, ...]
    batch_size: int
    epochs: int
    milestones: tuple[int, ...]
    aug_levels: tuple[tuple[int, int], ...]
    sizes: tuple[tuple[int, int], ...]
    augment: str
    pad: int | None
    interpolation: str
    start_epoch: int
    records: Path
    records_level_1: Path
    validation_records: Path

    def augmentation(self, epoch: int) -> Augmentation:
        """The augmentation of an epoch, counted from 0."""
        size = _at(self.sizes, epoch)
        if self.augment == "rrc":
            plan = random_resized_crop(size)
        else:
            plan = augmentation(self._level(epoch), self.architecture.image_size, self.architecture.large_images)
            plan = (plan if self.pad is None else replace(plan, pad=self.pad)).scaled(size)
        return replace(plan, interpolation=self.interpolation)

    def records_of(self, epoch: int) -> Path:
        """The record that an epoch reads: level 1 on ImageNet has its own, packed smaller."""
        return self.records_level_1 if self.augment == "levels" and self._level(epoch) == 1 else self.records

    def _level(self, epoch: int) -> int:
        return _at(self.aug_levels, epoch)


def _at(schedule: tuple[tuple[int, int], ...], epoch: int) -> int:
    return [value for start, value in schedule if start <= epoch][-1]


def resolve(config: TrainConfig) -> RunSettings:
    """Fill in the defaults of a config; a ResnetError says which setting makes no sense."""
    imagenet = config.is_imagenet()
    names = _class_names(config)
    classes = config.num_classes or len(names) or (1000 if imagenet else 0)
    if not classes:
        raise ResnetError(
            f"The number of classes is unknown: {_list_dir(config) / 'synset.txt'} is missing; check --data-dir "
            "or give --num-classes."
        )
    if names and len(names) != classes:
        raise ResnetError(
            f"{_list_dir(config) / 'synset.txt'} names {len(names)} classes, but --num-classes says {classes}; "
            "mend one of them."
        )
    epochs = config.epochs if config.epochs is not None else 120 if imagenet else 200
    batch_size = config.batch_size if config.batch_size is not None else 256 if imagenet else 128
    if epochs < 1 or batch_size < 1 or config.frequent < 1 or config.seed < 0:
        raise ResnetError("--epochs, --batch-size and --frequent must be 1 or more, --seed 0 or more.")
    if config.retrain and not 1 <= config.model_load_epoch < epochs:
        raise ResnetError(
            f"--retrain goes on from --model-load-epoch, which must be from 1 to {epochs - 1} for --epochs {epochs}, "
            f"not {config.model_load_epoch}."
        )
    if config.model_load_epoch and not config.retrain:
        raise ResnetError(f"--model-load-epoch {config.model_load_epoch} does nothing without --retrain; add it.")
    architecture = _architecture(config, classes)
    name = f"{'' if architecture.version == 'v2' else 'v1-'}{config.data_type}-{architecture.depth}"
    train, level_1, val = (
        ("train_480_q90", "train_256_q90", "val_256_q90")
        if imagenet
        else (f"{config.data_type}_train", f"{config.data_type}_train", f"{config.data_type}_val")
    )
    return RunSettings(
        prefix=config.model_prefix or f"model/resnet-{name}",
        architecture=architecture,
        class_names=names,
        batch_size=batch_size,
        epochs=epochs,
        milestones=_milestones(config, epochs),
        aug_levels=_aug_levels(config),
        sizes=_sizes(config, architecture),
        augment=config.augment,
        pad=_pad(config, architecture),
        interpolation=config.interpolation,
        start_epoch=config.model_load_epoch,
        records=config.data_dir / f"{train}.rec",
        records_level_1=config.data_dir / f"{level_1}.rec",
        validation_records=config.data_dir / f"{val}.rec",
    )


def _architecture(config: TrainConfig, classes: int) -> Architecture:
    """What the flags ask for, or the checkpoint's that --finetune names, with these classes."""
    if config.finetune:
        if config.zero_init_residual:
            raise ResnetError(
                "--zero-init-residual is for new weights, --finetune takes a checkpoint's; give one of them."
            )
        if config.retrain:
            raise ResnetError("--finetune starts a run and --retrain goes on with one; give one of them.")
        found = weights.read_checkpoint(config.finetune)[1].architecture
        if config.depth not in (None, found.depth):
            raise ResnetError(f"{config.finetune} has {found.depth} layers, not {config.depth}; leave --depth out.")
        return replace(found, classes=classes)
    depth = config.depth if config.depth is not None else 50 if config.is_imagenet() else 20
    stem = config.stem or ("imagenet" if config.is_imagenet() else "cifar")
    return Architecture(depth, classes, stem, config.version, config.width)


def _pad(config: TrainConfig, architecture: Architecture) -> int | None:
    if config.pad is not None and config.augment == "rrc":
        raise ResnetError("--pad does nothing with --augment rrc, which takes a box; leave one of them out.")
    largest = architecture.image_size // 2 - 1
    if config.pad is not None and not 0 <= config.pad <= largest:
        raise ResnetError(f"--pad {config.pad} is no padding here; give 0 to {largest} pixels.")
    return config.pad


def _list_dir(config: TrainConfig) -> Path:
    return config.list_dir or config.data_dir


def _class_names(config: TrainConfig) -> tuple[str, ...]:
    path = _list_dir(config) / "synset.txt"
    return read_synset(path) if path.is_file() else ()


def _milestones(config: TrainConfig, epochs: int) -> tuple[int, ...]:
    if config.milestones is not None:
        return parse_numbers(config.milestones, int, "--milestones")
    shares = IMAGENET_DROPS if config.is_imagenet() else CIFAR_DROPS
    return tuple(max(1, round(share * epochs)) for share in shares)


def _aug_levels(config: TrainConfig) -> tuple[tuple[int, int], ...]:
    level: int = config.aug_level or (2 if config.is_imagenet() else 1)
    return _schedule("--aug-schedule", config.aug_schedule, level, range(1, 4), "0:2,95:1")


def _sizes(config: TrainConfig, architecture: Architecture) -> tuple[tuple[int, int], ...]:
    size = architecture.image_size
    return _schedule("--size-schedule", config.size_schedule, size, range(8, size + 1), f"0:{size * 3 // 4},6:{size}")


def _schedule(flag: str, text: str, default: int, allowed: range, example: str) -> tuple[tuple[int, int], ...]:
    """(first epoch, value) pairs in order, the first at epoch 0."""
    pairs = {0: default}
    for part in filter(None, text.split(",")):
        epoch, _, value = (word.strip() for word in part.partition(":"))
        if not epoch.isdigit() or not value.isdigit() or int(value) not in allowed:
            raise ResnetError(
                f"{flag} {text!r} is not pairs of an epoch and a value from {allowed[0]} to {allowed[-1]}; write it "
                f"like {example}."
            )
        pairs[int(epoch)] = int(value)
    return tuple(sorted(pairs.items()))
