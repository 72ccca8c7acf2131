"""What each command does: its settings -> words for the standard output, and an exit status where it has one.

Heavy imports wait until their command runs.
"""

import contextlib
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from resnet_v2 import console
from resnet_v2.config import averaging, converting, forecast, inspecting, packing, quantizing, serving, training, using
from resnet_v2.config import features as using_features
from resnet_v2.errors import ResnetError
from resnet_v2.storage import Address


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
    from resnet_v2.packing.list_files import told_lists

    if settings.val_labels is not None:
        images = make_validation_list(settings.root, settings.prefix, settings.val_labels, settings.synset)
        print(f"{settings.prefix}_val.lst: {console.counted(images, 'image')}")
        console.suggest("resnet-v2", "pack", f"{settings.prefix}_val.lst", settings.root, f"{settings.prefix}_val.rec")
        return
    print(told_lists(settings, *make_lists(settings)))
    part = f"{settings.prefix}{'' if settings.chunks == 1 else '_0'}_train"
    console.suggest("resnet-v2", "pack", f"{part}.lst", settings.root, f"{part}.rec")


def pack(settings: packing.PackConfig) -> None:
    from resnet_v2.packing.pack import pack_list

    done = pack_list(settings)
    print(f"{settings.written}: {console.counted(done.images, 'image')} packed, {len(done.skipped)} skipped")
    if not isinstance(settings.written, Address):
        console.suggest("resnet-v2", "verify", settings.written)


def index(settings: packing.IndexConfig) -> None:
    from resnet_v2.data.index import index_path
    from resnet_v2.packing.pack import write_index

    count, lost = write_index(settings.rec, settings.out)
    damage = (
        f"; {console.counted(lost, 'byte')} {console.agreeing(lost, 'is', 'are')} damaged and left out" if lost else ""
    )
    print(f"{settings.out or index_path(settings.rec)}: {console.counted(count, 'record')}{damage}")
    if lost:
        console.suggest("resnet-v2", "verify", settings.rec)


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
    elif found and len(paths) == 1 and not is_checkpoint:
        if all(finding.kind == "index" for finding in report.findings):  # the records themselves are whole
            console.suggest("resnet-v2", "index", paths[0])
        else:
            sound = paths[0].with_name(f"{paths[0].stem}-sound.rec")
            console.suggest("resnet-v2", "verify", paths[0], "--repair", sound)
    if settings.json:
        print(json.dumps(listed))
    return 1 if found else 0


def convert(settings: converting.ConvertConfig) -> None:
    from resnet_v2.packing.convert import convert as write

    print("\n".join(write(settings)))
    if not isinstance(settings.out, Address) and settings.out.is_file():
        console.suggest("resnet-v2", "verify", settings.out)


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
    console.echo(f"after the last epoch: {result}")


def list_recipes(settings: forecast.RecipesConfig) -> None:
    from resnet_v2.training import recipe_table

    if settings.json:
        print(json.dumps(recipe_table.rows()))
    else:
        print(recipe_table.markdown() if settings.markdown else recipe_table.table())


def evaluate(settings: using.EvaluateConfig) -> None:
    from resnet_v2.inference import evaluations, report

    rows = evaluations.evaluate(settings)
    print(evaluations.told(rows, settings))
    if settings.confusion is not None:  # after the figures, which stay where the picture cannot be drawn
        report.draw_confusion(rows[-1], settings.confusion)


def compare(settings: using.CompareConfig) -> None:
    from resnet_v2.inference import evaluations

    print(evaluations.compare(settings))


def inspect(settings: inspecting.InspectConfig) -> None:
    from resnet_v2.inspection import words
    from resnet_v2.inspection.inspecting import inspect as find

    found = find(settings)
    words.tell_of_unreadable(found)
    print(json.dumps(words.as_json(found)) if settings.json else words.text(found, settings))


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
    progress = console.Progress("predict", len(pictures), shown=len(pictures) > settings.batch_size)
    answers = predictor.predict(pictures, settings.top, settings.batch_size, settings.threads)
    with contextlib.closing(answers), progress:
        shown = progress.over(answers)
        form = "list" if settings.json else settings.format
        return 1 if output.print_all(shown, form, bool(predictor.header.tasks)) else 0


def features(settings: using_features.FeaturesConfig) -> int:
    from resnet_v2.inference import similar
    from resnet_v2.inference.classifier import open_once
    from resnet_v2.inference.features import Places, write_features

    load = open_once(settings.prefix, settings.epoch, settings.device, settings.gpus)
    places = Places(settings.images, load, settings.batch_size, settings.threads)
    if settings.out is not None:
        print(write_features(places, settings.out))
        return 1 if places.unreadable else 0
    found, unreadable = similar.look_alikes(settings, places, load)
    if settings.json:
        print(json.dumps([asdict(one) for one in found]))
    else:
        print(*found, sep="\n", end="\n" if found else "")
    return 1 if unreadable else 0


def head(settings: using_features.HeadConfig) -> None:
    from resnet_v2.inference.classifier import open_once
    from resnet_v2.inference.head import make_head

    load = open_once(settings.prefix, settings.epoch, settings.device, settings.gpus)
    print(with_flags(make_head(settings, load)))


def average(settings: averaging.AverageConfig) -> None:
    from resnet_v2.inference.averaging import average as write

    print(write(settings))


def export(settings: using.ExportConfig) -> None:
    from resnet_v2.interchange.export import export as write

    print(write(settings.prefix, settings.epoch, settings.to, settings.out))


def quantize(settings: quantizing.QuantizeConfig) -> None:
    from resnet_v2.inference.quantize import quantize as write

    print(write(settings))


def fetch(settings: using.FetchConfig) -> None:
    from resnet_v2.interchange.published import fetch as get

    path = get(settings.name, settings.file, settings.out, settings.synset)
    print(path)
    console.suggest("resnet-v2", "card", "--prefix", path)


def card(settings: using.CardConfig) -> None:
    from resnet_v2.inference.card import make_card, write_folder

    made = make_card(settings)
    print(made.markdown if settings.out is None else write_folder(made, settings.out))


def demo(settings: serving.DemoConfig) -> None:
    from resnet_v2.serving.demo import serve

    serve(settings)


def serve(settings: serving.ServeConfig) -> None:
    from resnet_v2.serving.serve import serve as answer

    answer(settings)


def plot(settings: using.PlotConfig) -> None:
    from resnet_v2.logs.report import show

    show(settings)


def plan(settings: forecast.PlanConfig) -> None:
    from resnet_v2.logs import memory
    from resnet_v2.recompute import budget as budgets
    from resnet_v2.recompute.measured import workload_of
    from resnet_v2.recompute.whole_run import whole_runs

    workload = workload_of(settings)
    if settings.whole_run:
        runs = whole_runs(settings.depth, workload, settings.epochs, settings.euros_per_hour)
        print(json.dumps(runs) if settings.json else memory.whole_run_table(runs))
        return
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
    "inspect": (inspecting.InspectConfig, inspect),
    "predict": (using.PredictConfig, predict),
    "plot": (using.PlotConfig, plot),
    "features": (using_features.FeaturesConfig, features),
    "head": (using_features.HeadConfig, head),
    "average": (averaging.AverageConfig, average),
    "export": (using.ExportConfig, export),
    "quantize": (quantizing.QuantizeConfig, quantize),
    "fetch": (using.FetchConfig, fetch),
    "card": (using.CardConfig, card),
    "demo": (serving.DemoConfig, demo),
    "serve": (serving.ServeConfig, serve),
}
