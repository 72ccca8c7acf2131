"""Logs of a run: one JSON line per event (PREFIX.jsonl), and the text lines of MXNet (PREFIX.log) for old tools.

Epochs count from 0, as in MXNet's lines: `Epoch[3]` ends with checkpoint 4. `read_curve` reads either of our files and
MXNet's own logs, packed by gzip too.
"""

import contextlib
import errno
import gzip
import itertools
import json
import os
import re
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol

from resnet_v2.console import lasting
from resnet_v2.errors import ResnetError, naming, printable
from resnet_v2.files import not_written, open_regular, parse_json

# `Epoch[3] Batch [50]\tSpeed: ...\tTrain-accuracy=0.5`, `Epoch[3] Validation-top_k_accuracy_5=0.8`: MXNet of 2016 wrote
# one line per metric, 1.x several metrics on a line and batches as [0-50].
LINE = re.compile(r"Epoch\[(\d{1,9})\](?: Batch \[(?:\d+-)?(\d{1,9})\])?")
ACCURACY = re.compile(r"(Train|Validation)-(accuracy|top_k_accuracy_5)=(\d*\.?\d+(?:[eE][+-]?\d+)?)")
LARGEST_LOG_BYTES = 1 << 27  # a thousand epochs with a line for every second
LOG_ENDINGS = (".log", ".jsonl")
LONGEST_LINE_BYTES = 1 << 20
MOST_EPOCHS = 10**6
MOST_ACCURACY = 1e6  # a share is at most 1; errors beyond this are no errors, and sums of them no numbers
MOST_BYTES, LONGEST_SECONDS = 1 << 62, 1e12
MEASURES = {
    ("Train", "accuracy"): "train_top1",
    ("Train", "top_k_accuracy_5"): "train_top5",
    ("Validation", "accuracy"): "top1",
    ("Validation", "top_k_accuracy_5"): "top5",
}
# What a log tells: a field of `Curve`, the epoch, the batch (None: of the whole epoch) and an accuracy (a share).
Measure = tuple[str, int, int | None, float]


class Listener(Protocol):
    """Hears every event of a run as the JSON lines tell it."""

    def event(self, kind: str, values: dict[str, Any]) -> None:
        """`kind` is start, batch, train, validation, saved, skipped, mark or finished."""

    def close(self) -> None:
        """No event comes any more."""


class RunLog:
    """The two log files of a run. A run that starts anew replaces them, one that goes on appends to them.

    `echo` is called with every text line too, without MXNet's `INFO:root:`; `listener` hears the events.
    """

    def __init__(
        self, prefix: str | None, append: bool, echo: Callable[[str], object], listener: Listener | None = None
    ) -> None:
        text, self._events_path = (Path(os.devnull if prefix is None else prefix + end) for end in LOG_ENDINGS)
        text.parent.mkdir(parents=True, exist_ok=True)
        for path in (text, self._events_path):
            if prefix is not None and path.exists() and not path.is_file():  # a pipe would wait for a reader
                raise ResnetError(f"{path} is no file that a log can be written to; remove it, or give another prefix.")
        mode = "a" if append else "w"
        self._text, self._events = (
            path.open(mode, encoding="utf-8", newline="\n") for path in (text, self._events_path)
        )
        self._echo = echo
        self._listener = listener

    @classmethod
    def nowhere(cls) -> "RunLog":
        """A log that keeps nothing, for the ranks that do not write."""
        return cls(None, append=False, echo=lambda line: None)

    def mark(self, place: Mapping[str, Any], clock: Mapping[str, Any], path: Path | None = None) -> None:
        """Note that the run is at a place, and what the clock says there; on the disk when this returns.

        A checkpoint that is then written names the place, by which `go_back` finds the mark again; `path` is that of
        one of which the log will say that it is saved.
        """
        with self._told():
            os.fsync(self._text.fileno())
        size = os.fstat(self._text.fileno()).st_size
        saves = {} if path is None else {"saves": str(path)}
        self._write([], "mark", {"place": dict(place), "text_bytes": size, "clock": dict(clock)} | saves)
        with self._told():
            os.fsync(self._events.fileno())

    def go_back(self, place: Mapping[str, Any]) -> dict[str, Any] | None:
        """Remove what was written after the last mark of a place, which a killed run did after its last checkpoint and
        does again; returns what the clock said there. A log without the mark stays as it is: None.
        """
        found, end = None, 0
        with naming(self._events_path), self._events_path.open("rb") as file:
            for line in file:
                end += len(line)
                event = _marked(line)
                if event is not None and event["place"] == place:
                    found, sizes = event, (event["text_bytes"], end)
        if found is None:
            return None
        for file_of, size in zip((self._text, self._events), sizes, strict=True):
            self._cut(file_of, size)
        if "saves" in found:  # it is there, since the run goes on from it; killed at once the run could not say so
            self.saved(Path(found["saves"]))
        return dict(found["clock"])

    def cut(self, sizes: Mapping[str, int]) -> None:
        """Remove what stands behind these sizes in bytes, by ending: so the first version of checkpoints had it."""
        for end, file in zip(LOG_ENDINGS, (self._text, self._events), strict=True):
            self._cut(file, sizes[end])

    def _cut(self, file: IO[str], size: int) -> None:
        if os.fstat(file.fileno()).st_size > size:
            with self._told():
                file.truncate(size)

    def close(self) -> None:
        """Close both files and the listener."""
        for one in (self._text, self._events, self._listener):
            if one is not None:
                with contextlib.suppress(OSError):  # of lines that could not be written before, which was said then
                    one.close()

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Say which log cannot be written; the checkpoints need the same disk, so the run ends."""
        try:
            yield
        except OSError as error:
            raise not_written(f"{self._text.name} or {self._events.name}", error) from None

    def _write(self, lines: list[str], event: str, values: dict[str, Any]) -> None:
        with self._told():
            # The text first: killed in between, a run goes by the events, and writes both anew.
            self._text.writelines(f"INFO:root:{line}\n" for line in lines)
            self._text.flush()
            self._events.write(json.dumps({"event": event, "time": round(time.time(), 3)} | values) + "\n")
            self._events.flush()
        for line in lines:
            self._echo(line)
        if self._listener is not None:
            self._listener.event(event, values)

    def start(self, settings: dict[str, Any], device: str) -> None:
        """The settings of the run and what it runs on."""
        pairs = ", ".join(f"{name}={value!r}" for name, value in sorted(settings.items()))
        with self._told():
            self._text.write(f"INFO:root:Namespace({pairs})\n")
        self._write([f"Start training with [{device}]"], "start", {"settings": settings, "device": device})

    def batch(self, epoch: int, batch: int, *, accuracy: float, **measured: float) -> None:
        """Measured since the last such line: training `accuracy`, a share, `samples_per_second`, the mean `loss`,
        milliseconds per step (`step_ms`) and the share of time spent waiting for data (`data_wait`); the most memory so
        far (`memory_mib`); and, on a GPU, the share of time in which it had nothing to do (`gpu_idle`). What else is
        given goes to the JSON line alone.
        """
        line = (
            f"Epoch[{epoch}] Batch [{batch}]\tSpeed: {measured['samples_per_second']:.2f} samples/sec"
            f"\tTrain-accuracy={accuracy:f}\tLoss: {measured['loss']:.4f}\tStep: {measured['step_ms']:.1f} ms"
            f"\tWaiting for data: {measured['data_wait']:.1%}\tMemory: {measured['memory_mib']:.0f} MiB"
        )
        if "gpu_idle" in measured:
            line += f"\tGPU idle: {measured['gpu_idle']:.1%}"
        self._write([line], "batch", {"epoch": epoch, "batch": batch, "train_accuracy": accuracy} | measured)

    def trained(self, epoch: int, accuracy: float, seconds: float, **values: float) -> None:
        """Training accuracy (a share) over the whole epoch, and its time; `values` go to the JSON line alone."""
        lines = [f"Epoch[{epoch}] Train-accuracy={accuracy:f}", f"Epoch[{epoch}] Time cost={seconds:.3f}"]
        self._write(lines, "train", {"epoch": epoch, "train_accuracy": accuracy, "seconds": seconds} | values)

    def finished(self, seconds: float, data_wait: float, said: str = "") -> None:
        """The end of a run: what is said of it, its time, and the share of that spent waiting for data."""
        hours = f" ({lasting(seconds)})" if seconds >= 3600 else ""
        line = (
            f"Finished after {seconds:.0f} s{hours} of training, of which {data_wait:.1%} were spent waiting for data"
        )
        self._write([said, line] if said else [line], "finished", {"seconds": seconds, "data_wait": data_wait})

    def skipped(self, sentence: str) -> None:
        """A record could not be used."""
        self._write([f"skipped: {sentence}"], "skipped", {"reason": sentence})

    def data(self, sentence: str, epoch: int, **values: object) -> None:
        """Where the time of loading went, or what would make it less."""
        self._write([f"Epoch[{epoch}] {sentence}"], "data", {"epoch": epoch, "sentence": sentence} | values)

    def saved(self, path: Path) -> None:
        """A checkpoint was written."""
        self._write([f'Saved checkpoint to "{path}"'], "saved", {"path": str(path)})

    def validated(self, epoch: int, top1_error: float, top5_error: float, **values: Any) -> None:
        """Figures of a validation in percent after an epoch; the lines tell shares, accuracies as MXNet's."""
        shares = {"accuracy": 1 - top1_error / 100, "top_k_accuracy_5": 1 - top5_error / 100}
        shares |= {f"task{task}-accuracy": 1 - one / 100 for task, one in enumerate(values.get("task_errors", ()))}
        if "mean_average_precision" in values:
            shares["mAP"] = values["mean_average_precision"] / 100
        lines = [f"Epoch[{epoch}] Validation-{name}={share:f}" for name, share in shares.items()]
        measured = {"epoch": epoch, "top1_error": top1_error, "top5_error": top5_error}
        self._write(lines, "validation", measured | values)


def _marked(line: bytes) -> dict[str, Any] | None:
    """The event of a line that is a whole mark."""
    if b'"event": "mark"' not in line:
        return None
    with contextlib.suppress(ValueError):
        event = parse_json(line)
        match event:
            case {"event": "mark", "place": dict(), "text_bytes": int(size), "clock": dict(clock)}:
                meters = (clock.get("whole"), clock.get("recent"))
                right = _are_seconds(clock, "seconds", "waited")
                right &= all(_are_seconds(meter, "seconds", "waited", "idle") for meter in meters)
                return event if right and 0 <= size < MOST_BYTES and isinstance(event.get("saves", ""), str) else None
    return None


def _are_seconds(values: object, *names: str) -> bool:
    if not isinstance(values, dict):
        return False
    found = [values.get(name) for name in names]
    return all(isinstance(value, (int, float)) and abs(value) < LONGEST_SECONDS for value in found)


def has_ended(prefix: str) -> bool:
    """Whether the log of a run says that it has finished, or there is none."""
    try:
        with Path(prefix + LOG_ENDINGS[1]).open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - LONGEST_LINE_BYTES))
            lines = file.read().splitlines()
    except OSError:
        return True
    return not lines or b'"event": "finished"' in lines[-1]


@dataclass
class Curve:
    """Errors in percent by epoch, as far as a log has them."""

    name: str
    train_top1: dict[int, float] = field(default_factory=dict)
    train_top5: dict[int, float] = field(default_factory=dict)
    top1: dict[int, float] = field(default_factory=dict)
    top5: dict[int, float] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The name of the run: the log's without its endings."""
        return self.name.removesuffix(".gz").removesuffix(".log").removesuffix(".jsonl")

    @property
    def best_epoch(self) -> int:
        """The (first) epoch with the lowest validation top-1 error, counted from 0 as the log counts."""
        return min(self.top1, key=lambda epoch: (self.top1[epoch], epoch))

    def summary(self) -> dict[str, Any]:
        """One row of the table: log, epochs, best_epoch, checkpoint, top1_error and top5_error (None if not logged)."""
        best = self.best_epoch
        top5 = self.top5.get(best)
        return {
            "log": self.name,
            "epochs": len(self.top1),
            "best_epoch": best,
            "checkpoint": best + 1,
            "top1_error": round(self.top1[best], 4),
            "top5_error": None if top5 is None else round(top5, 4),
        }


def read_curve(path: Path) -> Curve:
    """The curve of a log: JSON lines, our text or MXNet's, each also as .gz; where a run was resumed, the later epoch
    counts.

    Raises ResnetError when the file cannot be read or has no epoch with a validation accuracy.
    """
    lines = read_lines(path)
    blank, first = next(((number, line) for number, line in enumerate(lines) if line.strip()), (0, ""))
    is_json, lines = first.lstrip().startswith("{"), itertools.chain(itertools.repeat("", blank), [first], lines)
    curve = _from_measures(printable(path.name), _json_measures(path, lines) if is_json else _text_measures(lines))
    if not curve.top1:
        raise ResnetError(f"{path} has no epochs: no line with Validation-accuracy is in it; give a training log.")
    return curve


def read_lines(path: Path) -> Iterator[str]:
    """The lines of a log, one by one, unpacked when its name ends in .gz; a ResnetError says why it cannot be read.

    A line of more than `LONGEST_LINE_BYTES`, which no log has, comes in pieces.
    """
    try:
        with os.fdopen(open_regular(path, LARGEST_LOG_BYTES), "rb") as packed, contextlib.ExitStack() as opened:
            file = opened.enter_context(gzip.open(packed)) if path.suffix == ".gz" else packed
            left = LARGEST_LOG_BYTES
            while line := file.readline(LONGEST_LINE_BYTES):
                left -= len(line)
                if left < 0:
                    raise OSError(errno.EFBIG, f"it unpacks to more than {LARGEST_LOG_BYTES} bytes")
                yield from line.decode("utf-8", "replace").splitlines()
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise ResnetError(f"{path} is no whole .gz file; copy it again.") from None
    except OSError as error:
        raise ResnetError(f"{path} cannot be read ({error.strerror}); give the path of a training log.") from None


def _text_measures(lines: Iterable[str]) -> Iterator[Measure]:
    for line in lines:
        if place := LINE.search(line):
            batch = int(place[2]) if place[2] else None
            for part, metric, accuracy in ACCURACY.findall(line):
                yield MEASURES[part, metric], int(place[1]), batch, float(accuracy)


def _json_measures(path: Path, lines: Iterable[str]) -> Iterator[Measure]:
    wrong = 0  # the number of a line that is no event; the last line may be one, cut by a kill
    for number, line in enumerate(lines, start=1):
        if wrong:
            raise ResnetError(f"{path}, line {wrong} is no event of a run; is it a log of resnet-v2?")
        try:
            event = parse_json(line)
            kind = event["event"]
            if kind == "train":
                yield "train_top1", int(event["epoch"]), None, float(event["train_accuracy"])
            elif kind == "validation":
                yield "top1", int(event["epoch"]), None, 1 - event["top1_error"] / 100
                yield "top5", int(event["epoch"]), None, 1 - event["top5_error"] / 100
        except (ValueError, KeyError, TypeError, OverflowError):
            wrong = number


def _from_measures(name: str, measures: Iterator[Measure]) -> Curve:
    curve = Curve(name)
    # Speedometer lines tell the accuracy since the last line, so an epoch's is their mean; a line for a batch not
    # behind the last one means that the epoch was begun anew.
    sums: dict[tuple[str, int], tuple[float, int]] = {}
    last_batch: dict[tuple[str, int], int] = {}
    for what, epoch, batch, accuracy in measures:
        if not abs(accuracy) < MOST_ACCURACY or not 0 <= epoch <= MOST_EPOCHS:  # nor one that is no number
            continue
        errors: dict[int, float] = getattr(curve, what)
        key = (what, epoch)
        if batch is not None:
            total, count = sums.get(key, (0.0, 0)) if batch > last_batch.get(key, -1) else (0.0, 0)
            last_batch[key], sums[key] = batch, (total + accuracy, count + 1)
            errors[epoch] = 100 * (1 - (total + accuracy) / (count + 1))
        elif key not in sums:
            errors[epoch] = 100 * (1 - accuracy)
    return curve
