"""When a run ends before its last epoch: `patience` epochs have brought no better validation."""

from collections.abc import Mapping
from typing import Any

from resnet_v2.config.training import TrainConfig
from resnet_v2.console import counted

Best = tuple[float, int] | None  # an error in percent, and the epoch behind which it was found


def is_over(config: TrainConfig, epoch: int, best: Best) -> bool:
    """Whether a run is over behind `epoch` epochs, all of them trained and validated."""
    return _is_over(config.flat(), epoch, best)


def was_over(training: Mapping[str, Any]) -> bool:
    """The same of the run of a checkpoint, by what its header tells."""
    position = training["position"]
    amid = position["step"] or position["trained"]
    return not amid and _is_over(training["settings"], position["epoch"], training["best"])


def _is_over(settings: Mapping[str, Any], epoch: int, best: Best) -> bool:
    patience = settings.get("patience", 0)
    # A retraining may have its best epoch far behind it when it begins.
    since = max(settings.get("model_load_epoch", 0), 0 if best is None else best[1])
    return bool(patience) and epoch - since >= patience


def sentence(config: TrainConfig, epoch: int, best: Best) -> str:
    """What is said of such an end; nothing of any other."""
    if best is None or epoch >= config.schedule.epochs or not is_over(config, epoch, best):
        return ""
    error, its = best
    return (
        f"Stopped after epoch {epoch}, since {counted(config.schedule.patience, 'epoch')} brought no better "
        "validation error than "
        f"the {error:.2f} % of epoch {its}: use {config.output.model_prefix}-best"
    )
