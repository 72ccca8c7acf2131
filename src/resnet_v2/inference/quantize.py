"""A checkpoint -> its int8 form, which is written only when its errors are few enough."""

import shlex
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from resnet_v2.config.quantizing import QuantizeConfig
from resnet_v2.config.using import Precision
from resnet_v2.console import Progress, counted, say
from resnet_v2.data.loader import Reading, batches
from resnet_v2.data.order import split
from resnet_v2.data.record_set import Records, not_empty, open_records
from resnet_v2.errors import ResnetError
from resnet_v2.files import refuse_no_file, replacing
from resnet_v2.inference.engines import Engine, OnnxEngine, OpenvinoEngine, planes_of
from resnet_v2.inference.evaluate import tell_of_other_classes
from resnet_v2.inference.pictures import View, Viewed
from resnet_v2.inference.predict import Predictor
from resnet_v2.interchange.export import onnx_of
from resnet_v2.interchange.int8 import Planes, int8_of
from resnet_v2.interchange.optional import package
from resnet_v2.networks import weights
from resnet_v2.networks.finding import int8_path
from resnet_v2.networks.header import Header

# Of them the calibration sees so many, spread over the record, so many at a time.
IMAGES, BATCH = 512, 16
FEW_IMAGES = 100
ENGINES: dict[str, type[OnnxEngine] | type[OpenvinoEngine]] = {"onnx": OnnxEngine, "openvino": OpenvinoEngine}


def quantize(settings: QuantizeConfig) -> str:
    """Write the int8 form of a checkpoint beside it; returns what it loses in the engines, and how it is used.

    Raises ResnetError, and nothing is written, where it loses more than `max_loss` points in one of them.
    """
    names = list(ENGINES) if settings.engine == "both" else [settings.engine]
    for name in ("onnx", "onnxruntime", *({"openvino"} & {*names})):
        package(name, "onnx")
    path, header, tensors = weights.read_checkpoint(settings.prefix, settings.epoch)
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ResnetError(f"{path} is not quantised: {name} has what is no number; take another epoch.")
    network, target = weights.build(path, header, tensors), int8_path(path)
    refuse_no_file(target)
    calibration, validation = (_opened(rec, header) for rec in (settings.calibrate, settings.rec))
    if calibration.path == validation.path:
        say(f"{calibration.path} calibrates and measures at once: on other images int8 may lose more")
    exact = onnx_of(network, header, path)
    rough = int8_of(network, header, path, _calibration(calibration, header))
    lines = [_measured(ENGINES[name], exact, rough, header, validation, settings, str(target)) for name in names]
    with replacing(target) as temporary:
        temporary.write_bytes(rough)
    words = ["resnet-v2", "evaluate", "--rec", str(settings.rec), "--engine", names[-1], "--precision", "int8"]
    words += ["--prefix", settings.prefix] if settings.prefix else []
    words += ["--epoch", str(settings.epoch)] if settings.epoch is not None else []
    size = f"{len(rough) / 1e6:.1f} MB instead of {len(exact) / 1e6:.1f} MB in float32"
    return "\n".join([*lines, f"{target} is written, {size}; use it: {shlex.join(words)}"])


def _opened(rec: object, header: Header) -> Records:
    """A record with images as the network sees pictures; ResnetError where there are none."""
    records = not_empty(open_records(str(rec)))
    for remark in records.remarks:
        say(remark)
    tell_of_other_classes(records, header)
    Predictor.refuse_other_sizes(records, View.of(header), header)
    return records


def _calibration(records: Records, header: Header) -> Iterator[Planes]:
    """Some images of a record, as the network takes them."""
    count, view = min(IMAGES, len(records)), View.of(header)
    if count < FEW_IMAGES:
        say(f"{records.path} has {counted(len(records), 'image')}; {IMAGES} show better how large values become")
    ordinals = np.linspace(0, len(records) - 1, count).astype(np.int64)
    found = batches(records, split(ordinals, BATCH), Viewed(view), view.slot, header.labels, Reading())
    with Progress("calibrate", count) as progress:
        for batch in found:
            yield planes_of(np.ascontiguousarray(batch.images[:, 0]))
            progress.update(len(batch.labels))


def _measured(
    kind: type[OnnxEngine] | type[OpenvinoEngine],
    exact: bytes,
    rough: bytes,
    header: Header,
    records: Records,
    settings: QuantizeConfig,
    target: str,
) -> str:
    """What int8 loses in an engine, in words; a ResnetError where it is more than it may be."""
    where, errors = kind.where.removesuffix(" on cpu"), []
    what = "100 % less the mean average precision" if header.label_kind == "multi" else "top-1 error"
    models: tuple[tuple[Precision, bytes], ...] = (("float32", exact), ("int8", rough))
    for precision, model in models:
        say(f"{where}, {precision}:")
        engine: Engine = kind(model, precision)
        # The model divides its logits by the temperature itself.
        predictor = Predictor(engine, replace(header, temperature=1.0))
        judged = predictor.judge(records, View.of(header), settings.batch_size)
        errors.append(judged.evaluation().error)
    before, after = errors
    told = f"{where}: {what} {before:.2f} % in float32, {after:.2f} % in int8, {after - before:+.2f} points"
    if after - before > settings.max_loss + 1e-9:  # a loss of just as much may be a rounding more
        raise ResnetError(
            f"{target} is not written: {told}, more than `max_loss` {settings.max_loss:g}; calibrate with more "
            "images of the kind that it will see, or give a larger `max_loss`."
        )
    return told
