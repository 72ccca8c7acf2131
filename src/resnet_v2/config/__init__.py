"""Every setting once, with its default, unit and help: the flags of each command and the configs saved with a run.

One frozen dataclass per command. The line below a field is its help text in `resnet-v2 COMMAND --help`.
"""

from resnet_v2.config.fields import (
    Count,
    CountOrNone,
    Range,
    Side,
    Stem,
    Version,
    checked,
    parse_bytes,
    parse_gpus,
    parse_numbers,
)
from resnet_v2.config.forecast import PlanConfig, RecipesConfig
from resnet_v2.config.packing import DataConfig, IndexConfig, ListConfig, PackConfig
from resnet_v2.config.training import NEUTRAL, TRAIN_DEFAULTS, Memory, TrainConfig, arguments_of
from resnet_v2.config.using import (
    CardConfig,
    CompareConfig,
    DemoConfig,
    EngineName,
    Epoch,
    EvaluateConfig,
    ExportConfig,
    FetchConfig,
    PlotConfig,
    Precision,
    PredictConfig,
)

__all__ = [
    "NEUTRAL",
    "TRAIN_DEFAULTS",
    "CardConfig",
    "CompareConfig",
    "Count",
    "CountOrNone",
    "DataConfig",
    "DemoConfig",
    "EngineName",
    "Epoch",
    "EvaluateConfig",
    "ExportConfig",
    "FetchConfig",
    "IndexConfig",
    "ListConfig",
    "Memory",
    "PackConfig",
    "PlanConfig",
    "PlotConfig",
    "Precision",
    "PredictConfig",
    "Range",
    "RecipesConfig",
    "Side",
    "Stem",
    "TrainConfig",
    "Version",
    "arguments_of",
    "checked",
    "parse_bytes",
    "parse_gpus",
    "parse_numbers",
]
