"""Settings that are right each for itself and do not go together."""

from typing import Any

from resnet_v2.config.training import TrainConfig
from resnet_v2.console import counted
from resnet_v2.errors import SettingError
from resnet_v2.networks.architecture import Architecture
from resnet_v2.training.distributed import Ranks


def check_together(config: TrainConfig, architecture: Architecture, ranks: Ranks) -> None:
    """Raise SettingError for the first of them, naming what to leave out."""
    memory, devices, output, optimisation = config.memory, config.devices, config.output, config.optimisation
    epochs, pad, gpus = config.schedule.epochs, config.augmentation.pad, len(devices.gpu_numbers)
    largest_pad = config.network.image_size // 2 - 1
    several = max(ranks.world_size, devices.nproc, gpus) > 1
    not_alone = several or optimisation.accumulate > 1 or optimisation.clip_norm > 0
    not_nag = optimisation.amp == "fp16" or optimisation.optimizer == "muon"
    refusals = [
        (
            output.retrain and output.model_load_epoch >= epochs,
            f"`model_load_epoch` {output.model_load_epoch} is not before the end, `epochs` {epochs}; mend one of them.",
        ),
        (
            output.model_load_epoch and not output.retrain,
            f"`model_load_epoch` {output.model_load_epoch} does nothing without `retrain`; add it.",
        ),
        (
            output.find_lr and (output.dry_run or output.retrain or output.resume != "no"),
            "`find_lr` tries the rates of a new run, and does not go with `dry_run`, `resume` or `retrain`; leave one "
            "of them out.",
        ),
        (
            config.network.finetune and (config.network.zero_init_residual or config.network.whiten_stem),
            "`zero_init_residual` and `whiten_stem` are for new weights, `finetune` takes a checkpoint's; give one or "
            "the other.",
        ),
        (
            pad and config.augmentation.augment == "rrc",
            "`pad` does nothing with `augment` rrc, which takes a box; give `pad` 0.",
        ),
        (pad > largest_pad, f"`pad` {pad} is no padding here; give 0 to {largest_pad} pixels."),
        (
            memory.fused_backward and (not_alone or not_nag),
            "`fused_backward` updates each weight as its gradient comes, and so does not go with several ranks, "
            "`clip_norm`, `accumulate`, `amp` fp16 or `optimizer` muon; leave it or them out.",
        ),
        (
            optimisation.label_smoothing and config.data.label_kind == "multi",
            "`label_smoothing` does not go with `labels` multi, where a class is a yes or no; leave one of them out.",
        ),
        (
            config.augmentation.mixes and config.data.label_kind == "tasks",
            "`mixup` and `cutmix` do not go with `labels` tasks, where an image has several classes; leave one of them "
            "out.",
        ),
        (
            config.augmentation.mixes and optimisation.batch_size < 2,
            "`mixup` and `cutmix` mix two images of a step, but `batch_size` is 1; give more.",
        ),
        (
            optimisation.class_weights != "none" and config.data.label_kind == "multi",
            "`class_weights` does not go with `labels` multi, where an image has any number of classes; leave one of "
            "them out.",
        ),
        (
            optimisation.sync_bn and several and memory.planned,
            "`sync_bn` and an activation plan do not go together; leave one of them out.",
        ),
        (
            not devices.device and gpus > 1 and devices.nproc not in (1, gpus),
            f"`gpus` {devices.gpus} names {counted(gpus, 'GPU')}, but `nproc` says {devices.nproc}; give one of them.",
        ),
        (
            ranks.machines > 1 and devices.kv_store != "dist_sync",
            f"{ranks.machines} machines take part; give `kv_store` dist_sync, so that they know it.",
        ),
    ]
    for holds, sentence in refusals:
        if holds:
            raise SettingError(sentence)
    _ = config.augmentation.sizes(config.network.image_size)


def told(value: Any) -> Any:
    """A setting's value as a sentence says it."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value
