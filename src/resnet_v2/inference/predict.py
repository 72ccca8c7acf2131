"""Pictures -> class names and probabilities, with the preprocessing of evaluation."""

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Literal, NamedTuple, TypeVar, overload

import cv2
import numpy as np
from numpy.typing import NDArray

from resnet_v2.config.fields import Count, CountOrNone, OnError, checked
from resnet_v2.config.using import EngineName, Epoch, Precision
from resnet_v2.console import say
from resnet_v2.data.jpeg import Image
from resnet_v2.data.loader import stored_side
from resnet_v2.data.record_set import Records
from resnet_v2.errors import ResnetError, SettingError
from resnet_v2.inference.engines import (
    Calibrated,
    Engine,
    Images,
    OnnxEngine,
    OpenvinoEngine,
    TorchEngine,
    decided,
    onnx_of_checkpoint,
)
from resnet_v2.inference.ensemble import Ensemble, agreed
from resnet_v2.inference.evaluate import NO_NUMBER, judge
from resnet_v2.inference.pictures import (
    Batch,
    Picture,
    Several,
    View,
    listed,
    prepare,
    prepare_sized,
    several,
    too_small,
)
from resnet_v2.inference.places import STANDARD_INPUT, Named
from resnet_v2.inference.tally import probabilities
from resnet_v2.inference.verdicts import Verdicts
from resnet_v2.machine import processors
from resnet_v2.networks.finding import find_members
from resnet_v2.networks.header import Header

BATCH_SIZE = 32
Loaded = TypeVar("Loaded")
YES = 0.5  # the probability from which on a class of multi labels is named


@dataclass(frozen=True)
class Answer:
    """A class by its number and name, and its probability."""

    class_index: int
    name: str
    probability: float


@dataclass(frozen=True)
class TaskAnswer(Answer):
    """A class of one task, of a network of several tasks.

    `task` is the task's number, from 0. `class_index` is the class's number within this task, from 0 too.
    """

    task: int


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of a picture, the first one first, of tasks those of each task; or why there are none.

    Of multi labels they are all classes with a probability of 0.5 or more, which may be none. `warning` says what makes
    an answer mean little.
    """

    name: str
    answers: tuple[Answer, ...]
    problem: str = ""
    warning: str = ""


class _Ready(NamedTuple):
    crop: Image
    warning: str


class Predictor:
    """A network that is ready to answer, with its preprocessing and its class names.

    Commands, the page and Python's `Classifier` all answer through it. A picture is a path, the bytes of an image file,
    an array (H x W x 3, uint8, RGB) or a PIL image; a list of them, or an N x H x W x 3 array, is a batch. `name` is
    what its checkpoint was called when it was opened.
    """

    def __init__(self, engine: Engine, header: Header, name: str = "") -> None:
        self.engine, self._header, self.name = engine, header, name

    @property
    def header(self) -> Header:
        """What the checkpoint says of itself."""
        return self._header

    @header.setter
    def header(self, header: Header) -> None:
        self._header = header

    @classmethod
    def open(
        cls,
        prefix: str,
        epoch: Epoch | None = None,
        engine: EngineName = "torch",
        device: str = "",
        gpus: str = "",
        precision: Precision = "float32",
    ) -> "Predictor":
        """The predictor of a checkpoint, its BatchNorms folded; `device` and `gpus` say where PyTorch runs it.

        Of several, `a,b`, it answers with the mean of their probabilities. ONNX Runtime and OpenVINO use the CPU.
        Raises ResnetError when a checkpoint or the engine is not there, and where checkpoints cannot answer as one.
        """
        names = find_members(prefix, epoch)
        if len(names) > 1:
            members = [cls.open(name, epoch, engine, device, gpus, precision) for name in names]
            alike = agreed([member.header for member in members], names)
            return Predictor(Ensemble([member.calibrated for member in members], alike.labels), alike)
        if engine != "torch":
            model, header = onnx_of_checkpoint(prefix, epoch, precision)
            kind = OnnxEngine if engine == "onnx" else OpenvinoEngine
            # An export divides its logits by the temperature itself.
            return Predictor(kind(model, precision), replace(header, temperature=1.0), prefix)
        from resnet_v2.interchange.folding import folded
        from resnet_v2.networks import weights
        from resnet_v2.training.distributed import choose_device
        from resnet_v2.training.gpu import computes_in_bf16

        network, header = weights.load(prefix, epoch)
        where = choose_device(gpus, device)
        precision = decided(precision, computes_in_bf16(where))
        return Predictor(TorchEngine(folded(network), where, precision), header, prefix)

    def __repr__(self) -> str:
        """What the network is, what it sees and where it runs, on one line."""
        header, (_, *made) = self.header, vars(self.header.architecture).items()
        details = ", ".join(f"{name} {value}" for name, value in made if name != "version")
        view = f"crop {header.crop} of {header.resize}"
        return f"{type(self).__name__}({header.network}, {details}, epoch {header.epoch}, {view}, {self.engine.where})"

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name per class, or none."""
        return self.header.class_names

    @property
    def calibrated(self) -> Engine:
        """What answers with logits whose softmax are the probabilities: the engine, its logits over the temperature."""
        return Calibrated(self.engine, self.header.temperature)

    @property
    def view(self) -> View:
        """What is seen of a picture."""
        return View(self.header.crop, self.header.resize)

    @overload
    def classify(self, images: Several, top: int = 5) -> Sequence[list[Answer]]: ...
    @overload
    def classify(self, images: NDArray[Any], top: int = 5) -> Any: ...
    @overload
    def classify(self, images: Picture, top: int = 5) -> list[Answer]: ...

    def classify(self, images: Picture | Several, top: int = 5) -> Any:
        """The `top` most probable classes: a list of `Answer` for one picture, a list of such lists for a batch.

        Of several tasks it is a list of `TaskAnswer`, `top` for each task, and of multi labels every class with a
        probability of 0.5 or more, whatever `top` says.

        >>> resnet_v2.load("model/resnet-digits-14").classify("7.png")[0].name
        '7'
        """
        checked("top", Count, top)
        images = listed(images)
        if not several(images):
            return self.classify([images], top)[0]
        return [list(found) for crops in self._crops(images) for found in self._answers(crops, top)]

    def predict(
        self, pictures: Iterable[Named], top: int = 5, batch_size: int = BATCH_SIZE, threads: int = 0
    ) -> Generator[Prediction]:
        """The `top` classes of every picture, in the order given; one that is unreadable has its `problem` instead.

        `threads` (0: one per core) read pictures while the network works on those before.
        """
        checked("top", Count, top)
        checked("batch_size", Count, batch_size)
        if isinstance(pictures, str | os.PathLike | bytes):
            raise SettingError("`pictures` is one picture; `classify` answers it, and `predict` a list of them.")
        return self._predictions(
            iter(pictures), top, batch_size, checked("threads", CountOrNone, threads) or processors()
        )

    def _predictions(self, left: Iterator[Named], top: int, batch_size: int, threads: int) -> Generator[Prediction]:
        for loaded in loaded_batches(left, self._load, batch_size, threads):
            crops = [one.crop for _, one in loaded if not isinstance(one, str)]
            found = iter(self._answers(np.stack(crops), top) if crops else ())
            for named, one in loaded:
                if isinstance(one, str):
                    yield Prediction(named.name, (), problem=one)
                else:
                    yield Prediction(named.name, next(found), warning=one.warning)

    def judge(
        self,
        reader: Records,
        view: View,
        batch_size: int = 128,
        workers: int | Literal["auto"] = "auto",
        on_error: OnError = "stop",
    ) -> Verdicts:
        """What the network says of every record, which `workers` processes read, 0: this one.

        Raises ResnetError where images are stored so large that the view would see another thing than `classify` does.
        """
        self.refuse_other_sizes(reader, view, self.header)
        return judge(self.calibrated, reader, view, self.header.labels, batch_size, workers, on_error)

    @staticmethod
    def refuse_other_sizes(reader: Records, view: View, header: Header) -> None:
        """Raise ResnetError where images are stored so large that a view sees another thing than `classify` does."""
        side = stored_side(reader) if len(reader) and (view.crop, view.resize) == (header.crop, 0) else 0
        if found := header.stored_otherwise(side):
            if side >= 2 * header.resize:
                raise ResnetError(f"{reader.path} {found}; give `resize` {header.resize}, or pack it so.")
            say(f"warning: {reader.path} {found}; a resize to {header.resize} sees the same.")

    def _crops(self, images: Batch | NDArray[Any]) -> Iterator[Images]:
        for start in range(0, len(images), BATCH_SIZE):
            yield np.stack([prepare(image, self.view) for image in images[start : start + BATCH_SIZE]])

    def _load(self, named: Named) -> "_Ready | str":
        name = "Standard input" if named.name == STANDARD_INPUT else named.name
        try:
            crop, size = prepare_sized(named.read(), self.view, name)
            return _Ready(crop, too_small(size))
        except ResnetError as error:
            return str(error)

    def shares(self, crops: Images) -> NDArray[np.float64]:
        """The probabilities of all classes, n x classes; ResnetError where the network answers with no numbers."""
        shares = probabilities(self.calibrated.logits(crops), self.header.labels)
        if not np.isfinite(shares).all():
            raise ResnetError(NO_NUMBER)
        return shares

    def answers(self, shares: NDArray[np.float64], top: int, least: float = YES) -> tuple[Answer, ...]:
        """The `top` classes of one picture's probabilities; among equals the lower class comes first.

        `least`: of multi labels the probability from which on a class is named.
        """
        return tuple(self._of_row(shares, top, least))

    def _answers(self, crops: Images, top: int) -> list[tuple[Answer, ...]]:
        return [self.answers(row, top) for row in self.shares(crops)]

    def _of_row(self, row: NDArray[np.float64], top: int, least: float) -> Iterator[Answer]:
        labels = self.header.labels
        for task, place in enumerate(labels.places):
            for one in _best(row[place], top):
                name = self.header.name(place.start + one) if self.header.class_names else str(one)
                yield TaskAnswer(one, name, float(row[place][one]), task)
        if labels.tasks:
            return
        every = labels.kind == "multi" and least == YES
        for one in _best(row, len(row) if every else top):
            if labels.kind != "multi" or row[one] >= least:
                yield Answer(one, self.header.name(one), float(row[one]))


def loaded_batches(
    left: Iterator[Named], load: Callable[[Named], Loaded], batch_size: int, threads: int
) -> Generator[list[tuple[Named, Loaded]]]:
    """Pictures in batches, each with what `load` makes of it; threads make a batch ahead while the last one is used."""
    cv2.setNumThreads(0)  # the threads are ours; OpenCV's own would only fight with them
    pool = ThreadPoolExecutor(threads, thread_name_prefix="pictures")

    def begun() -> list[tuple[Named, Future[Loaded]]]:
        return [(named, pool.submit(load, named)) for named in islice(left, batch_size)]

    try:
        now, ahead = begun(), begun()
        while now:
            yield [(named, future.result()) for named, future in now]
            now, ahead = ahead, begun()
    finally:
        # Where nobody asks for more it is the garbage collector that comes here, and whom it interrupts may hold a lock
        # that the threads need to end; so nothing waits for them.
        pool.shutdown(wait=False, cancel_futures=True)


def _best(shares: NDArray[np.float64], top: int) -> list[int]:
    return [int(one) for one in np.argsort(-shares, kind="stable")[:top]]
