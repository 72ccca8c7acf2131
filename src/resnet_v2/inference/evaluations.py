"""What the commands `evaluate` and `compare` are asked: networks that are evaluated, and their answer as text."""

import json
from collections.abc import Sequence

from resnet_v2.config.using import CompareConfig, EvaluateConfig
from resnet_v2.inference import comparisons, report
from resnet_v2.inference.predict import Predictor
from resnet_v2.networks.finding import find_checkpoint, find_members


def evaluate(settings: EvaluateConfig) -> list[report.Row]:
    """The evaluations of each network over the record, with every crop.

    Raises ResnetError, before the first network is evaluated, where there is no such checkpoint.
    """
    for prefix in settings.prefix:
        find_members(prefix, settings.epoch)
    predictors = (
        Predictor.open(prefix, settings.epoch, settings.engine, settings.device, settings.gpus, settings.precision)
        for prefix in settings.prefix
    )
    return report.evaluate_all(
        map(report.refuse_confusion, predictors) if settings.confusion is not None else predictors,
        settings.rec,
        settings.sizes,
        settings.ten_crop,
        settings.batch_size,
        settings.workers,
        settings.mxnet_count,
        settings.on_error,
    )


def told(rows: Sequence[report.Row], settings: EvaluateConfig) -> str:
    """Evaluations in the form that the settings ask for."""
    if settings.json:
        results = [row.as_json(settings.per_class) for row in rows]
        return json.dumps(results[0] if len(results) == 1 else results)
    figures = report.table(rows) if settings.table or len(rows) > 1 else report.text(rows[0])
    return f"{figures}\n{report.class_table(rows[-1])}" if settings.per_class else figures


def compare(settings: CompareConfig) -> str:
    """The table of all pairs of networks, and what of their difference chance explains.

    Raises ResnetError, before the first network is evaluated, where there is no such checkpoint.
    """
    pairs = comparisons.pairs_of(settings.first, settings.second)
    names = [prefix for pair in pairs for prefix in pair]
    for name in names:
        find_checkpoint(name)
    predictors = (Predictor.open(prefix, device=settings.device, gpus=settings.gpus) for prefix in names)
    rows = report.evaluate_all(predictors, settings.rec, settings.sizes, batch_size=settings.batch_size)
    return comparisons.compare(rows, len(pairs))
