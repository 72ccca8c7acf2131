"""The page in the browser: a picture's classes, where the network saw them, and the curve of its training."""

import os
import socket
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from resnet_v2.config.using import Epoch
from resnet_v2.data.jpeg import Image, decode
from resnet_v2.errors import ResnetError
from resnet_v2.inference.classifier import Classifier
from resnet_v2.inference.gradcam import heat_map, overlay
from resnet_v2.inference.pictures import Picture, prepare
from resnet_v2.inference.predict import Answer
from resnet_v2.interchange.optional import package
from resnet_v2.logs.plot import draw, read_curves, table
from resnet_v2.networks import weights
from resnet_v2.networks.finding import run_prefix
from resnet_v2.training.distributed import choose_device

Made = TypeVar("Made")
TOP = 5
LARGEST_UPLOAD = "20mb"
# A path would be that of gradio's copy, which says nothing to the person who dropped the picture.
NAME = "The picture"
# Small crops are shown enlarged, so that there is something to see.
SHOWN_PIXELS = 224


@dataclass(frozen=True)
class Explained:
    """What the page shows of one picture: answers, the crop, the heat maps over it, and the time in milliseconds."""

    answers: tuple[Answer, ...]
    crop: Image
    heat: Image
    answer_ms: float
    heat_ms: float


class Explainer(Classifier):
    """A network that tells what it sees and where."""

    def explain(self, picture: Picture) -> Explained:
        """The answers for a picture and the heat map of the first; ResnetError when it is no picture."""
        started = time.perf_counter()
        crop = prepare(picture, self.view, NAME)
        (answers,) = self._answers(crop[None], TOP)
        answered = time.perf_counter()
        heat = overlay(crop, heat_map(self.network, crop, answers[0].class_index))
        done = time.perf_counter()
        return Explained(answers, crop, heat, 1000 * (answered - started), 1000 * (done - answered))

    def compare(self, picture: Picture, this: int, other: int) -> Image:
        """The crop with the heat map of what speaks for one class rather than for another."""
        crop = prepare(picture, self.view, NAME)
        return overlay(crop, heat_map(self.network, crop, this, other))


def serve(prefix: str, epoch: Epoch | None, device: str, host: str, port: int) -> None:
    """Show the page of a checkpoint until it is interrupted.

    Raises ResnetError when gradio or the network is missing, and for an address that cannot be listened at.
    """
    _check_address(host, port)  # before anything is loaded
    path, header, tensors = weights.read_checkpoint(prefix, epoch)
    explainer = Explainer(weights.build(path, header, tensors), header, choose_device("", device or "cpu"))
    shown = {"share": False, "quiet": False, "footer_links": [], "show_error": True}
    page(explainer, path).launch(server_name=host, server_port=port, max_file_size=LARGEST_UPLOAD, **shown)


def _check_address(host: str, port: int) -> None:
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            if os.name == "posix":  # a page that has just been closed does not block its port
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise ResnetError(f"Nothing can listen at {host}, port {port}: {why}; give another.") from None


def page(explainer: Explainer, checkpoint: Path) -> Any:
    """The gradio page of a network; `checkpoint` is its file, whose run's log the second tab shows."""
    # Nobody is told that the page is open, and no font is fetched.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    gradio = package("gradio", "demo")
    header = explainer.header
    classes = header.architecture.classes
    choices = [(header.name(index), index) for index in range(classes)]
    with gradio.Blocks(title="resnet-v2", analytics_enabled=False) as blocks:
        gradio.Markdown(f"## resnet-v2\n{header.network}, {classes} classes, `{checkpoint.name}`")
        with gradio.Tab("Picture"), gradio.Row():
            with gradio.Column():
                sources = ["upload", "webcam", "clipboard"]
                picture = gradio.Image(type="filepath", image_mode=None, sources=sources, label="Picture", height=260)
                label = gradio.Label(num_top_classes=TOP, label="What it is")
                taken = gradio.Markdown()
            with gradio.Column():
                with gradio.Row():
                    crop = _output("what the network is given", gradio)
                    heat = _output("where it saw the first class", gradio)
                with gradio.Row():
                    this = gradio.Dropdown(choices, label="What speaks for", type="value")
                    other = gradio.Dropdown(choices, label="rather than for", type="value")
                between = _output("one class against another", gradio, height=240)
        with gradio.Tab("Training curve"):
            again = gradio.Button("Read the log again", size="sm")
            curve = gradio.Image(show_label=False, interactive=False, buttons=[])
            figures = gradio.Markdown()

        def explain(path: str | None) -> tuple[Any, ...]:
            if not path:
                return None, "", None, None, None, None, None
            found = _shown(gradio, lambda: explainer.explain(path))
            first, second = found.answers[0].class_index, found.answers[min(1, len(found.answers) - 1)].class_index
            bars = {answer.name: answer.probability for answer in found.answers}
            words = f"answer {found.answer_ms:.0f} ms, heat map {found.heat_ms:.0f} ms"
            return bars, words, enlarged(found.crop), enlarged(found.heat), first, second, contrast(path, first, second)

        def contrast(path: str | None, one: int | None, another: int | None) -> Image | None:
            if not path or one is None or another is None:
                return None
            return enlarged(_shown(gradio, lambda: explainer.compare(path, one, another)))

        picture.change(explain, picture, [label, taken, crop, heat, this, other, between], api_visibility="private")
        for choice in (this, other):
            choice.input(contrast, [picture, this, other], between, api_visibility="private")
        for event in (blocks.load, again.click):
            event(lambda: training_curve(checkpoint), None, [curve, figures], api_visibility="private")
    return blocks


def _output(caption: str, gradio: Any, height: int | None = None) -> Any:
    # The caption stands above, because gradio's own labels hide a corner of the image.
    with gradio.Column(min_width=120):
        gradio.Markdown(caption)
        return gradio.Image(show_label=False, interactive=False, buttons=[], height=height)


def _shown(gradio: Any, work: Callable[[], Made]) -> Made:
    try:
        return work()
    except ResnetError as error:
        raise gradio.Error(str(error), print_exception=False) from error


def enlarged(image: Image) -> Image:
    """Small images with every pixel repeated until they are large enough to be looked at."""
    times = max(1, SHOWN_PIXELS // image.shape[0])
    return image.repeat(times, axis=0).repeat(times, axis=1)


def training_curve(checkpoint: Path) -> tuple[Image | None, str]:
    """The picture of the run's curve and its figures; without a log there is none, and a sentence says so."""
    prefix = run_prefix(checkpoint)
    logs = [path for path in (Path(f"{prefix}.jsonl"), Path(f"{prefix}.log")) if path.is_file()]
    if not logs:
        return None, f"There is no log {prefix}.jsonl or {prefix}.log beside the checkpoint."
    try:
        curves = read_curves(str(logs[0]))
    except ResnetError as error:
        return None, str(error)
    with tempfile.TemporaryDirectory() as folder:
        draw(curves, Path(folder) / "curve.png", "top1")
        pixels = decode((Path(folder) / "curve.png").read_bytes())
    return pixels, f"```\n{table(curves)}\n```"
