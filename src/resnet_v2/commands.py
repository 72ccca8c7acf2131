"""What each command does: its settings -> words for the standard output, and an exit status where it has one.

Heavy imports wait until their command runs.
"""

import json
import os
import sys
from collections.abc import Mapping
from typing import Any

from resnet_v2 import console
from resnet_v2.config import converting, forecast, packing, serving, training, using
from resnet_v2.errors import ResnetError
from resnet_v2.networks.finding import find_checkpoint


def with_flags(sentence: object) -> str:
    """A sentence with settings spelled as flags: `batch_size` -> --batch-size."""
    return ResnetError(sentence).spelled(lambda name: f"--{name.replace('_', '-')}")


def data(settings: packing.DataConfig) -> None:
    from resnet_v2.packing.sources import SOURCES, make_data

    folder = make_data(settings)
    name = settings.source if settings.source in SOURCES else folder.resolve().name
    print(f"{folder} is ready: resnet-v2 train --data-dir {folder} --data-type {name}")


def make_list(settings: packing.ListConfig) -> None:
    from resnet_v2.packing.class_folders import make_lists
    from resnet_v2.packing.groundtruth import make_validation_list

    if settings.val_labels is not None:
        images = make_validation_list(settings.root, settings.prefix, settings.val_labels, settings.synset)
        print(f"{settings.prefix}_val.lst: {images} images")
        return
    classes, train, validation = make_lists(settings)
    chunk = "" if settings.chunks == 1 else f"_0 to _{settings.chunks - 1}"
    print(f"{settings.prefix}{chunk}_train.lst: {train} images of {classes} classes")
    if validation:
        print(f"{settings.prefix}{chunk}_val.lst: {validation} images")
    else:
        print("nothing is held out for validation; --val-per-class or --val-ratio would")


def pack(settings: packing.PackConfig) -> None:
    from resnet_v2.packing.pack import pack_list

    done = pack_list(settings)
    print(f"{settings.written}: {done.images} images packed, {len(done.skipped)} skipped")


def index(settings: packing.IndexConfig) -> None:
    from resnet_v2.data.index import index_path
    from resnet_v2.packing.pack import write_index

    count, lost = write_index(settings.rec, settings.out)
    damage = f"; {lost} bytes are damaged and left out" if lost else ""
    print(f"{settings.out or index_path(settings.rec)}: {count} records{damage}")


def verify(settings: packing.VerifyConfig) -> int:
    from resnet_v2.networks.sums import verify_checkpoint
    from resnet_v2.packing.repair import repair
    from resnet_v2.packing.verify import files_to_verify, verify_record

    paths = files_to_verify(settings)
    listed, found = [], 0
    for path in paths:
        is_checkpoint = path.suffix == ".safetensors"
        report = verify_checkpoint(path) if is_checkpoint else verify_record(path, settings)
        found += len(report.findings)
        listed.append(report.as_json())
        if not settings.json:
            print(report)
    if settings.repair is not None:
        print(repair(report, settings.repair), file=sys.stderr if settings.json else sys.stdout)
    if settings.json:
        print(json.dumps(listed))
    return 1 if found else 0


def convert(settings: converting.ConvertConfig) -> None:
    from resnet_v2.packing.convert import convert as write

    print("\n".join(write(settings)))


def unpack(settings: converting.UnpackConfig) -> None:
    from resnet_v2.packing.unpack import unpack as write

    print(write(settings))


def train(given: Mapping[str, Any]) -> None:
    from resnet_v2.training.fit import fit
    from resnet_v2.training.interruption import Stopped
    from resnet_v2.training.plan import decide

    if given.get("explain"):
        print(decide(given)[0].explained())
        return
    try:
        result = fit(given, lambda sentence: console.say(with_flags(sentence)))
    except Stopped as stopped:
        if sentence := str(stopped):
            console.say(f"\n{with_flags(sentence)}")
        raise SystemExit(stopped.status) from None
    if result is None or int(os.environ.get("RANK", "0")):
        return  # a dry run, or not the rank that talks
    console.echo(str(result))


def list_recipes(settings: forecast.RecipesConfig) -> None:
    from resnet_v2.training import recipe_table

    if settings.json:
        print(json.dumps(recipe_table.rows()))
    else:
        print(recipe_table.markdown() if settings.markdown else recipe_table.table())


def evaluate(settings: using.EvaluateConfig) -> None:
    from resnet_v2.inference import report
    from resnet_v2.inference.predict import Predictor

    for prefix in settings.prefix:
        find_checkpoint(prefix, settings.epoch)  # before the first of them is evaluated
    predictors = (
        Predictor.open(prefix, settings.epoch, settings.engine, settings.device, settings.gpus, settings.precision)
        for prefix in settings.prefix
    )
    rows = report.evaluate_all(
        map(report.refuse_confusion, predictors) if settings.confusion is not None else predictors,
        settings.rec,
        settings.sizes,
        settings.ten_crop,
        settings.batch_size,
        settings.workers,
        settings.mxnet_count,
        settings.on_error,
    )
    if settings.json:
        results = [row.as_json(settings.per_class) for row in rows]
        print(json.dumps(results[0] if len(results) == 1 else results))
    elif settings.table or len(rows) > 1:
        print(report.table(rows))
    else:
        print(report.text(rows[0]))
    if settings.per_class and not settings.json:
        print(report.class_table(rows[-1]))
    if settings.confusion is not None:
        report.draw_confusion(rows[-1], settings.confusion)


def compare(settings: using.CompareConfig) -> None:
    from resnet_v2.inference import report
    from resnet_v2.inference.predict import Predictor

    pairs = report.pairs_of(settings.first, settings.second)
    names = [prefix for pair in pairs for prefix in pair]
    for name in names:
        find_checkpoint(name)  # before the first of them is evaluated
    predictors = (Predictor.open(prefix, device=settings.device, gpus=settings.gpus) for prefix in names)
    rows = report.evaluate_all(predictors, settings.rec, settings.sizes, batch_size=settings.batch_size)
    print(report.compare(rows, len(pairs)))


def predict(settings: using.PredictConfig) -> int:
    from resnet_v2.inference import output
    from resnet_v2.inference.places import find_pictures
    from resnet_v2.inference.predict import Predictor

    pictures = find_pictures(settings.img)
    predictor = Predictor.open(
        settings.prefix, settings.epoch, settings.engine, settings.device, settings.gpus, settings.precision
    )
    if settings.synset is not None:
        predictor.header = predictor.header.named(settings.synset)
    predictions = predictor.predict(pictures, settings.top, settings.batch_size, settings.threads)
    with console.Progress("predict", len(pictures), shown=len(pictures) > settings.batch_size) as progress:
        shown = progress.over(predictions)
        form = "list" if settings.json else settings.format
        return 1 if output.print_all(shown, form, bool(predictor.header.tasks)) else 0


def export(settings: using.ExportConfig) -> None:
    from resnet_v2.interchange.export import export as write

    print(write(settings.prefix, settings.epoch, settings.to, settings.out))


def fetch(settings: using.FetchConfig) -> None:
    from resnet_v2.interchange.published import fetch as get

    print(get(settings.name, settings.file, settings.out, settings.synset))


def card(settings: using.CardConfig) -> None:
    from resnet_v2.inference.card import make_card, write_folder

    made = make_card(settings)
    print(made.markdown if settings.out is None else write_folder(made, settings.out))


def demo(settings: using.DemoConfig) -> None:
    from resnet_v2.inference.demo import serve

    serve(settings)


def serve(settings: serving.ServeConfig) -> None:
    from resnet_v2.inference.serve import serve as answer

    answer(settings)


def plot(settings: using.PlotConfig) -> None:
    from resnet_v2.logs.report import show

    show(settings)


def plan(settings: forecast.PlanConfig) -> None:
    from resnet_v2.logs import memory
    from resnet_v2.networks.architecture import Architecture
    from resnet_v2.networks.resnet import default_stem
    from resnet_v2.recompute import budget as budgets
    from resnet_v2.recompute import measured, speeds

    stem = settings.stem or default_stem(settings.depth)
    architecture = Architecture(settings.depth, settings.num_classes, stem, settings.version, settings.width)
    device = measured.named(settings.gpu)
    taken = budgets.PROCESS_BYTES if device == speeds.CPU else budgets.CONTEXT_BYTES
    workload = budgets.Workload(
        architecture,
        settings.image,
        settings.amp == "bf16",
        settings.fused_backward,
        device,
        settings.batch_size,
        taken,
    )
    budget = settings.budget_bytes or None
    choices = budgets.choices(workload, budget, settings.batch_size)
    rows = [budgets.row(workload, choice, settings.batch_size, budget) for choice in choices]
    print(json.dumps(rows) if settings.json else memory.table(rows))
    if settings.out is not None:
        curves = {choice.name: choice.forecast.timeline for choice in choices}
        memory.draw(curves, settings.out, settings.batch_size, workload.fixed_bytes, budget)
        if not settings.json:
            print(f"picture: {settings.out}")


COMMANDS = {
    "data": (packing.DataConfig, data),
    "list": (packing.ListConfig, make_list),
    "pack": (packing.PackConfig, pack),
    "index": (packing.IndexConfig, index),
    "verify": (packing.VerifyConfig, verify),
    "convert": (converting.ConvertConfig, convert),
    "unpack": (converting.UnpackConfig, unpack),
    "train": (training.TrainConfig, train),
    "plan": (forecast.PlanConfig, plan),
    "recipes": (forecast.RecipesConfig, list_recipes),
    "evaluate": (using.EvaluateConfig, evaluate),
    "compare": (using.CompareConfig, compare),
    "predict": (using.PredictConfig, predict),
    "plot": (using.PlotConfig, plot),
    "export": (using.ExportConfig, export),
    "fetch": (using.FetchConfig, fetch),
    "card": (using.CardConfig, card),
    "demo": (using.DemoConfig, demo),
    "serve": (serving.ServeConfig, serve),
}
