"""A model card: what a checkpoint is, as Markdown with the front matter that model hubs read."""

import json
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from resnet_v2.config.training import NEUTRAL, TRAIN_DEFAULTS
from resnet_v2.config.using import CardConfig
from resnet_v2.console import counted, say
from resnet_v2.data.record_names import record_paths
from resnet_v2.errors import ResnetError, printable
from resnet_v2.files import write_text
from resnet_v2.inference import report
from resnet_v2.inference.classifier import Classifier
from resnet_v2.logs.runlog import Curve, read_curve
from resnet_v2.networks import weights
from resnet_v2.networks.finding import FOLDER_WEIGHTS, run_prefix
from resnet_v2.networks.header import Header
from resnet_v2.networks.resnet import ResNet
from resnet_v2.packing.origin import origin_of, sentence

PAPERS = {
    "v2": "[Identity Mappings in Deep Residual Networks](https://arxiv.org/abs/1603.05027)",
    "v1": "[Deep Residual Learning for Image Recognition](https://arxiv.org/abs/1512.03385)",
}
STEMS = {
    "imagenet": "7x7 stem for large images",
    "timm": "timm's 7x7 stem",
    "gluon": "Gluon's 7x7 stem",
    "cifar": "3x3 stem for small images",
    "pooled": "3x3 stem with max pooling for small images",
    "dawn": "3x3 stem for small images and max pooling in every stage",
}
# Told always; of all others that a run's numbers depend on, those that are not the default.
ALWAYS_TOLD = ("batch_size", "epochs", "lr", "milestones", "schedule", "optimizer", "mom", "wd", "augment", "aug_level")
TOLD_ELSEWHERE = {"data_dir", "data_type", "list_dir", "depth", "stem", "version", "width", "num_classes"}
ANSWERS = {
    "class": "",
    "soft": "",
    "multi": ", any number of them in an image",
    "tasks": " of several tasks in all",
}
NAMES_SHOWN = 20
USE = """## Use

```python
import resnet_v2

network = resnet_v2.load("path/of/this/folder")
network.classify("picture.jpg", top=5)
```

    resnet-v2 predict --prefix path/of/this/folder --img picture.jpg"""
# Of what a checkpoint's header tells of its run: what the card shows, not what the trainer would need to go on.
KEPT = ("settings", "learning_rate", "weight_decay", "origins")


@dataclass(frozen=True)
class Card:
    """The Markdown of a checkpoint, its header and its network; `half`: its weights are numbers of 16 bits."""

    markdown: str
    header: Header
    network: ResNet
    half: bool


def make_card(asked: CardConfig) -> Card:
    """The card of a checkpoint: from its header, from the log beside it, and from an evaluation where `rec` is given.

    `note` is a paragraph about data and licence. With `half` weights are rounded to float16 before the evaluation.
    """
    path, header, tensors = weights.read_checkpoint(asked.prefix, asked.epoch)
    network = weights.build(path, header, tensors)
    if asked.half:
        network = network.half().float()
        if not all(bool(tensor.isfinite().all()) for tensor in weights.network_tensors(network).values()):
            raise ResnetError(f"{path} holds numbers that 16 bits cannot; leave `half` out.")
    settings = header.training.get("settings", {})
    data = asked.data_name or str(settings.get("data_type", "")) or (asked.rec.stem if asked.rec is not None else "")
    title = header.network + (f", {data}" if data else "")
    parts = [f"# {title}", _summary(header, network)]
    errors = dict(header.errors)
    if asked.rec is not None:
        (row,) = report.evaluate_all([Classifier(network, header, torch.device("cpu"))], asked.rec)
        errors = row.verdicts.evaluation().figures
        parts += [_results(errors, data), "## Errors by class", report.class_table(row)]
    elif errors:
        parts.append(_results(errors, data))
    parts.append(USE)
    if settings:
        parts.append(_training(header))
    if origins := _origins(header, asked.rec):
        parts.append(origins)
    log = Path(f"{run_prefix(path)}.jsonl")
    if log.exists() and header.label_kind != "multi":  # whose best epoch the log's errors do not tell
        try:
            parts.append(_course(read_curve(log)))
        except ResnetError as error:  # there may be no epoch in it yet
            say(f"warning: the card shows no course of the training: {error}")
    if header.class_names:
        parts.append(_classes(header))
    if asked.note:
        parts.append(f"## Data and licence\n\n{asked.note}")
    front = _front_matter(title, errors, data, asked.license)
    return Card("\n\n".join([front, *parts]) + "\n", replace(header, errors=errors), network, asked.half)


def about(header: Header, network: ResNet) -> str:
    """What a checkpoint is, in Markdown, as far as everybody may know it: no name of a file or folder is in it."""
    parts = ["## The network", _summary(header, network)]
    if {"top1_error", "top5_error"} <= header.errors.keys():
        parts.append(_results(dict(header.errors), ""))
    if header.class_names:
        names = header.class_names
        more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
        parts.append(f"## Classes\n\n{', '.join(map(_plain, names[:NAMES_SHOWN]))}{more}")
    return "\n\n".join(parts)


def write_folder(card: Card, folder: Path) -> str:
    """Write README.md, config.json and model.safetensors, the layout of model hubs; `resnet_v2.load(folder)` reads it.

    The optimiser's momentum and the run's position are left behind. Returns a sentence about it.
    """
    if folder.exists() and not folder.is_dir():
        raise ResnetError(f"{folder} is a file; give a folder.")
    write_text(folder / "README.md", card.markdown)
    write_text(folder / "config.json", json.dumps(_config(card.header), indent=2, ensure_ascii=False) + "\n")
    tensors = weights.network_tensors(card.network)
    if card.half:
        tensors = {name: tensor.half() for name, tensor in tensors.items()}
    kept = {name: value for name, value in card.header.training.items() if name in KEPT}
    weights.save(folder / FOLDER_WEIGHTS, tensors, replace(card.header, training=kept))
    return f"{folder} is ready to be pushed: README.md, config.json, {FOLDER_WEIGHTS}"


def _front_matter(title: str, errors: dict[str, float], data: str, license_name: str) -> str:
    # JSON strings are YAML strings too, whatever stands in a name.
    lines = ["---", "library_name: resnet-v2", "pipeline_tag: image-classification"]
    if license_name:
        lines.append(f"license: {json.dumps(license_name)}")
    lines += ["tags:", "- image-classification", "- resnet", "- pytorch"]
    if errors:
        name = json.dumps(data or "unknown")
        lines += ["model-index:", f"- name: {json.dumps(title)}", "  results:", "  - task:"]
        lines += ["      type: image-classification", "    dataset:", f"      name: {name}", f"      type: {name}"]
        lines.append("    metrics:")
        for number in (1, 5):
            accuracy = 1 - errors[f"top{number}_error"] / 100
            lines += ["    - type: accuracy", f"      name: top-{number} accuracy", f"      value: {accuracy:.4f}"]
        if (precision := errors.get("mean_average_precision")) is not None:
            lines += ["    - type: map", "      name: mean average precision", f"      value: {precision / 100:.4f}"]
    return "\n".join([*lines, "---"])


def _summary(header: Header, network: ResNet) -> str:
    architecture = header.architecture
    parameters = sum(parameter.numel() for parameter in network.parameters())
    width = f" and {architecture.width} times their width" if architecture.width > 1 else ""
    return (
        f"A residual network of {architecture.depth} layers{width} ({PAPERS[architecture.version]}), "
        f"{STEMS[architecture.stem]}, {parameters / 1e6:.2f} million parameters, "
        f"{counted(architecture.classes, 'class')}"
        f"{ANSWERS[header.label_kind]}, epoch {header.epoch}. It takes raw RGB from 0 to 255: the shorter side "
        f"{header.resize} pixels, the centre {header.crop} x {header.crop}.{_calibrated(header)}"
    )


def _calibrated(header: Header) -> str:
    if header.temperature == 1:
        return ""
    return f" It is calibrated: probabilities are the softmax of its logits divided by {header.temperature:g}."


def _results(errors: dict[str, float], data: str) -> str:
    where = f" on the validation images of {data}" if data else ""
    precision = errors.get("mean_average_precision")
    told = "" if precision is None else f"Mean average precision {precision:.2f} %. "
    return (
        f"## Results\n\n{told}Single centre crop{where}, every image once:\n\n"
        "| top-1 error | top-5 error |\n|---|---|\n"
        f"| {errors['top1_error']:.2f} % | {errors['top5_error']:.2f} % |"
    )


def _training(header: Header) -> str:
    settings = header.training["settings"]
    told = {name: settings.get(name) for name in ALWAYS_TOLD}
    told |= {
        name: value
        for name, value in settings.items()
        if name not in TOLD_ELSEWHERE | NEUTRAL and value != TRAIN_DEFAULTS.get(name)
    }
    told |= {"lr": header.training.get("learning_rate"), "wd": header.training.get("weight_decay")}
    lines = [f"| {name} | {json.dumps(value)} |" for name, value in told.items() if value not in (None, "")]
    return "\n".join(["## Training", "", "| setting | value |", "|---|---|", *lines])


def _origins(header: Header, rec: Path | None) -> str:
    """Where the records of the training, and the one that was evaluated on, came from, as far as it is known."""
    told = dict(header.training.get("origins", {}))
    if rec is not None and (said := sentence(origin_of(record_paths(str(rec))[0]))):
        told[rec.name] = said
    lines = [f"- {_plain(name)}: {_plain(text)}" for name, text in told.items()]
    return "\n".join(["## Where the records came from", "", *lines]) if lines else ""


def _plain(text: str) -> str:
    """A text of a file as Markdown that shows it and does nothing else."""
    return re.sub(r"([\\`*\[\]<>])", r"\\\1", printable(text))


def _course(curve: Curve) -> str:
    row = curve.summary()
    return (
        f"Of {counted(row['epochs'], 'epoch')} the best so far is checkpoint {row['checkpoint']}, with a top-1 error "
        "of "
        f"{row['top1_error']:.2f} %."
    )


def _classes(header: Header) -> str:
    names = header.class_names
    more = f" and {len(names) - NAMES_SHOWN} more (in config.json)" if len(names) > NAMES_SHOWN else ""
    return f"## Classes\n\n{', '.join(names[:NAMES_SHOWN])}{more}"


def _config(header: Header) -> dict[str, object]:
    names = {str(index): header.name(index) for index in range(header.architecture.classes)}
    return {
        "library_name": "resnet-v2",
        "architecture": asdict(header.architecture),
        "num_classes": header.architecture.classes,
        **({} if header.label_kind == "class" else {"labels": str(header.labels)}),
        "input": {"channels": "RGB", "range": [0, 255], "resize": header.resize, "crop": header.crop},
        **({} if header.temperature == 1 else {"temperature": header.temperature}),
        "errors": dict(header.errors),
        "id2label": names,
    }
