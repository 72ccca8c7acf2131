"""The page in the browser: a picture's classes, where the network saw them, and the curve of its training."""

import base64
import functools
import html
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from resnet_v2.config.serving import DemoConfig
from resnet_v2.console import say
from resnet_v2.data.jpeg import Image, encode
from resnet_v2.errors import ResnetError, printable
from resnet_v2.inference.card import about
from resnet_v2.inference.classifier import Classifier
from resnet_v2.inference.pictures import Picture, prepare
from resnet_v2.inference.predict import Answer
from resnet_v2.interchange.optional import package
from resnet_v2.logs import plot
from resnet_v2.networks import weights
from resnet_v2.networks.finding import run_prefix
from resnet_v2.networks.header import Header
from resnet_v2.serving.gradcam import heat_map, overlay
from resnet_v2.serving.listening import address, listen
from resnet_v2.serving.several import name_all, table
from resnet_v2.serving.uploads import PICTURES, Uploads
from resnet_v2.training.distributed import choose_device

Made = TypeVar("Made")
TOP = 5
SESSIONS = 100  # of which gradio remembers what they see
# A path would be that of gradio's copy, which says nothing to the person who dropped the picture.
NAME = "The picture"
# Small crops are shown enlarged, so that there is something to see.
SHOWN_PIXELS = 224
# What is wider than the screen moves by finger, mouse and keyboard, and the page stays.
SCROLLING = 'tabindex="0" style="overflow-x:auto"'


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
        answers = self.answers(self.shares(crop[None])[0], TOP, least=0.0)
        answered = time.perf_counter()
        heat = overlay(crop, heat_map(self.network, crop, answers[0].class_index))
        done = time.perf_counter()
        return Explained(answers, crop, heat, 1000 * (answered - started), 1000 * (done - answered))

    def compare(self, picture: Picture, this: int, other: int) -> Image:
        """The crop with the heat map of what speaks for one class rather than for another."""
        crop = prepare(picture, self.view, NAME)
        return overlay(crop, heat_map(self.network, crop, this, other))


def serve(settings: DemoConfig) -> None:
    """Show the page of a checkpoint until it is interrupted.

    Raises ResnetError when gradio or the network is missing, and for an address that cannot be listened at.
    """
    listening = listen(settings.host, settings.port)  # before anything is loaded
    path, header, tensors = weights.read_checkpoint(settings.prefix, settings.epoch)
    if header.tasks:
        listening.close()
        raise ResnetError(f"{path} answers several tasks, and the page shows one; use `resnet-v2 predict`.")
    explainer = Explainer(weights.build(path, header, tensors), header, choose_device("", settings.device or "cpu"))
    uploads = Uploads(settings.queue)
    # gradio makes a folder when it starts, in one that other users share, and has no use for it here.
    try:
        made = tempfile.TemporaryDirectory(prefix="resnet-v2-page-")
    except OSError as error:
        raise ResnetError(f"No temporary folder can be written ({error.strerror}); let TMPDIR name another.") from None
    with made as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        blocks = page(explainer, path, uploads, settings.queue)
        app = _application(blocks)
    from resnet_v2.serving import connections, guard  # need what gradio brings

    questions = {index: len(function.inputs) for index, function in blocks.fns.items()}
    guarded = guard.Guard(app, uploads, settings, questions, blocks._queue)
    say(f"The page: {address(settings.host, settings.port)} (Ctrl-C ends it)")
    connections.run(guarded, listening)


def _application(blocks: Any) -> Any:
    """The page without what it does not use of gradio, whatever the environment says."""
    unused = {"allowed_paths": [], "mcp_server": False, "ssr_mode": False, "run_history": False, "pwa": False}
    app = package("fastapi", "demo").FastAPI(openapi_url=None)
    shown = {"show_error": False, "footer_links": []}
    return package("gradio", "demo").mount_gradio_app(app, blocks, path="", **shown, **unused)


def page(explainer: Explainer, checkpoint: Path, uploads: Uploads | None = None, queue: int = 200) -> Any:
    """The gradio page of a network; `checkpoint` is its file, whose run's log the last tab shows.

    Pictures are read from `uploads`, by their tokens; `queue` of them may wait.
    """
    gradio = _gradio()
    header = explainer.header
    names = unique_names(header)
    choices = [(name, index) for index, name in enumerate(names)]
    with gradio.Blocks(title="resnet-v2", analytics_enabled=False) as blocks:
        title = f"{header.network}, {len(names)} classes, {checkpoint.name}"
        gradio.HTML(f"<h1>resnet-v2</h1>{html.escape(printable(title))}")
        with gradio.Tab("Picture"), gradio.Row():
            with gradio.Column():
                sources = ["upload", "webcam", "clipboard"]
                picture = gradio.Image(type="filepath", sources=sources, label="Picture", height=260)
                label = gradio.Label(num_top_classes=TOP, label="What it is")
                taken = gradio.Markdown()
            with gradio.Column():
                with gradio.Row():
                    crop = _output("what the network is given", gradio)
                    heat = _output("where it saw the first class", gradio)
                with gradio.Row():
                    this = gradio.Dropdown(choices, label="What speaks for", type="value")
                    other = gradio.Dropdown(choices, label="rather than for", type="value")
                between = _output("one class against another", gradio)
        with gradio.Tab("Several"):
            many = gradio.File(
                file_count="multiple", file_types=["image"], label=f"Pictures, up to {PICTURES}", height=200
            )
            answers = gradio.HTML()
        with gradio.Tab("Network"):
            gradio.Markdown(about(header, explainer.network))
        with gradio.Tab("Curve"):
            again = gradio.Button("Read the log again", size="sm")
            curve = gradio.HTML()
        # gradio would look for a file, open it and tell its path; and it would check the class by itself, aloud.
        store = Uploads(queue) if uploads is None else uploads
        picture.data_model, picture.api_info = None, dict
        picture.preprocess = lambda token: None if token is None else _shown(gradio, lambda: store.read(token))
        for plain in (this, other, many):
            plain.preprocess = lambda value: value
        many.data_model, many.api_info = None, dict

        # gradio has 40 threads, and each that decodes keeps memory for the largest image that it has met.
        worker = ThreadPoolExecutor(1)

        def explain(given: str | bytes | None) -> tuple[Any, ...]:
            if given is None:
                return None, "", "", "", None, None, ""
            found = _shown(gradio, lambda: worker.submit(explainer.explain, given).result())
            first, second = found.answers[0].class_index, found.answers[min(1, len(found.answers) - 1)].class_index
            bars = {names[answer.class_index]: answer.probability for answer in found.answers}
            words = f"answer {found.answer_ms:.0f} ms, heat map {found.heat_ms:.0f} ms"
            seen = shown(found.crop, "What the network is given")
            heat = shown(found.heat, f"The same, red where the network saw {names[first]}")
            return bars, words, seen, heat, first, second, contrast(given, first, second)

        def contrast(given: str | bytes | None, one: object, another: object) -> str:
            if given is None or one not in range(len(names)) or another not in range(len(names)):
                return ""
            this, other = cast(int, one), cast(int, another)
            image = _shown(gradio, lambda: worker.submit(explainer.compare, given, this, other).result())
            return shown(image, f"The same, red where {names[this]} is more likely than {names[other]}")

        def name_several(tokens: list[str] | None) -> str:
            pictures = [(store.name(token) or NAME, functools.partial(store.read, token)) for token in tokens or ()]
            if not pictures:
                return ""
            return table(worker.submit(lambda: list(name_all(explainer, pictures, TOP))).result())

        one_at_a_time = {"api_visibility": "private", "concurrency_id": "network", "concurrency_limit": 1}
        # The browser would else leave out a question that comes while it waits for the answer to the one before.
        one_at_a_time["trigger_mode"] = "multiple"
        picture.change(explain, picture, [label, taken, crop, heat, this, other, between], **one_at_a_time)
        for choice in (this, other):
            choice.input(contrast, [picture, this, other], between, **one_at_a_time)
        many.change(name_several, many, answers, **one_at_a_time)
        for event in (blocks.load, again.click):
            event(lambda: training_curve(checkpoint), None, curve, api_visibility="private", concurrency_id="curve")
    blocks.queue(max_size=queue, default_concurrency_limit=1)
    blocks.state_session_capacity = SESSIONS
    return blocks


def _gradio() -> Any:
    """gradio, which asks no other server for anything and does nothing that only the environment tells it to do."""
    for name in [name for name in os.environ if name.startswith("GRADIO_") and name != "GRADIO_TEMP_DIR"]:
        del os.environ[name]
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_ANALYTICS_MAX_EVENTS": "100"}
    return package("gradio", "demo")


def unique_names(header: Header) -> list[str]:
    """The names of the classes; with their numbers where two are equal, as ImageNet's cranes are."""
    names = [printable(header.name(index)) for index in range(header.architecture.classes)]
    return names if len(set(names)) == len(names) else [f"{index} {name}" for index, name in enumerate(names)]


def _output(caption: str, gradio: Any) -> Any:
    with gradio.Column(min_width=120):
        gradio.Markdown(caption)
        return gradio.HTML(min_height=SHOWN_PIXELS // 2)


def _shown(gradio: Any, work: Callable[[], Made]) -> Made:
    try:
        return work()
    except ResnetError as error:
        raise gradio.Error(str(error), print_exception=False) from error


def shown(image: Image, words: str) -> str:
    """An image as a part of the page, so that no file is written and none is asked for; `words` say what it shows."""
    if image.shape[0] < SHOWN_PIXELS:
        return _embedded(encode(enlarged(image), ".png", 3), "png", words)
    return _embedded(encode(image, ".jpg", 92), "jpeg", words)


def _embedded(data: bytes, kind: str, words: str) -> str:
    return f'<img alt="{html.escape(words)}" src="data:image/{kind};base64,{base64.b64encode(data).decode()}">'


def enlarged(image: Image) -> Image:
    """Small images with every pixel repeated until they are large enough to be looked at."""
    times = max(1, SHOWN_PIXELS // image.shape[0])
    return image.repeat(times, axis=0).repeat(times, axis=1)


def training_curve(checkpoint: Path) -> str:
    """The picture of the run's curve and its figures; without a log a sentence says so. No path is told."""
    prefix = run_prefix(checkpoint)
    logs = [path for path in (Path(f"{prefix}.jsonl"), Path(f"{prefix}.log")) if path.is_file()]
    name = Path(prefix).name
    if not logs:
        return html.escape(printable(f"There is no log {name}.jsonl or {name}.log beside the checkpoint."))
    status = logs[0].stat()
    try:
        return _drawn(logs[0], status.st_size, status.st_mtime_ns)
    except ResnetError as error:
        return html.escape(str(error).replace(printable(str(logs[0])), printable(logs[0].name)))
    except OSError:  # the log has gone, or the temporary folder takes nothing
        return "The curve cannot be drawn now."


@functools.lru_cache(1)
def _drawn(log: Path, size: int, changed: int) -> str:
    """The curve of a log of this size and time; each visitor asks for it."""
    curves = plot.read_curves(str(log))
    with tempfile.TemporaryDirectory() as folder:
        # Few inches of many dots: its words can be read at the width of a telephone.
        plot.draw(curves, Path(folder) / "curve.png", "top1", size=(5, 3.2), dpi=180)
        png = (Path(folder) / "curve.png").read_bytes()
    words = "Error over the epochs; the table below has the figures"
    return f"{_embedded(png, 'png', words)}<pre {SCROLLING}>{html.escape(plot.table(curves))}</pre>"
