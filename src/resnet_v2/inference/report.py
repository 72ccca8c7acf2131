"""Evaluations as people read them: Markdown tables, errors by class, the confusion matrix as a picture, comparisons."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from resnet_v2.config.fields import OnError
from resnet_v2.console import say
from resnet_v2.data.record_set import open_records
from resnet_v2.errors import SettingError, printable
from resnet_v2.inference.evaluate import tell_of_other_classes
from resnet_v2.inference.pictures import View
from resnet_v2.inference.predict import Predictor
from resnet_v2.inference.verdicts import MultiVerdicts, TasksVerdicts, Verdicts
from resnet_v2.logs.layout import drawing, literal
from resnet_v2.networks.header import Header
from resnet_v2.training.evaluation import told_errors

# Above this many classes their names would be too small to read.
MOST_NAMES = 60

BAR = r"\|"  # in a cell of a table


@dataclass(frozen=True)
class ClassError:
    """What became of the images of one class; `top1_error` is in percent, None where there are none.

    `taken_for` is the class that most of the wrong ones, `times` of them, are taken for; None where none is wrong. Of
    multi labels `top1_error` is None and `average_precision`, in percent, is not.
    """

    class_index: int
    name: str
    images: int
    top1_error: float | None
    taken_for: str | None
    times: int
    average_precision: float | None = None


@dataclass(frozen=True)
class Row:
    """One evaluation: what was evaluated, how, and what came of it. `mxnet_batch` as `Verdicts.error` takes it.

    `name` is what the checkpoint is called, where that has to tell it from others of one architecture.
    """

    header: Header
    view: View
    verdicts: Verdicts
    mxnet_batch: int = 0
    name: str = ""

    def error(self, top: int) -> float:
        """The top-`top` error in percent."""
        return self.verdicts.error(top, self.mxnet_batch)

    def classes(self) -> list[ClassError]:
        """Errors by class, in the order of the classes."""
        images, errors = self.verdicts.class_errors()
        if isinstance(self.verdicts, MultiVerdicts):
            precisions = zip(images.tolist(), (100 - errors).tolist(), strict=True)
            return [
                ClassError(index, self.header.name(index), count, None, None, 0, precision if count else None)
                for index, (count, precision) in enumerate(precisions)
            ]
        confusion = self.verdicts.confusion()
        np.fill_diagonal(confusion, 0)
        found = []
        for index, (count, error, wrong) in enumerate(zip(images.tolist(), errors.tolist(), confusion, strict=True)):
            taken, times = int(wrong.argmax()), int(wrong.max())
            instead = self.header.name(taken) if times else None
            found.append(ClassError(index, self.header.name(index), count, error if count else None, instead, times))
        return found

    def as_json(self, per_class: bool = False) -> dict[str, object]:
        """images, loss (None: no number), top1_error, top5_error; with `per_class` also `classes`, in label order.

        Of tasks also `tasks`, the errors of each, of multi labels `mean_average_precision`, in percent.
        """
        loss = self.verdicts.loss if np.isfinite(self.verdicts.loss) else None
        result: dict[str, object] = {"images": len(self.verdicts.labels), "loss": loss}
        result |= {f"top{top}_error": self.error(top) for top in (1, 5)}
        if isinstance(self.verdicts, TasksVerdicts):
            result["tasks"] = [
                {f"top{top}_error": task.error(top, self.mxnet_batch) for top in (1, 5)} for task in self.verdicts.tasks
            ]
        if isinstance(self.verdicts, MultiVerdicts):
            result["mean_average_precision"] = self.verdicts.mean_average_precision
        if per_class:
            figure = "average_precision" if isinstance(self.verdicts, MultiVerdicts) else "top1_error"
            result["classes"] = [
                {"class": one.class_index, "name": one.name, "images": one.images, figure: getattr(one, figure)}
                for one in self.classes()
            ]
        return result


def evaluate_all(
    predictors: Iterable[Predictor],
    rec: str | Path,
    sizes: Sequence[tuple[int, int]] = ((0, 0),),
    ten_crop: bool = False,
    batch_size: int = 128,
    workers: int | Literal["auto"] = "auto",
    mxnet_batch: int = 0,
    on_error: OnError = "stop",
) -> list[Row]:
    """Every network with every pair of a crop and a shorter side over a record, or several (see `open_records`); 0 is
    the checkpoint's.
    """
    reader, rows = open_records(rec), []
    for remark in reader.remarks:
        say(remark)
    for predictor in predictors:
        tell_of_other_classes(reader, predictor.header)
        for crop, side in sizes:
            view = View.of(predictor.header, crop, side, ten_crop)
            verdicts = predictor.judge(reader, view, batch_size, workers, on_error)
            rows.append(Row(predictor.header, view, verdicts, mxnet_batch, predictor.name))
    return rows


def names_of(rows: Sequence[Row]) -> list[str]:
    """What the rows' networks are called: by their checkpoints too where several have one architecture."""
    checkpoints = defaultdict(set)
    for row in rows:
        checkpoints[row.header.network].add(row.name)
    return [
        row.header.network if len(checkpoints[row.header.network]) == 1 else f"{row.header.network}, {row.name}"
        for row in rows
    ]


def text(row: Row) -> str:
    """The figures of one evaluation on lines of their own."""
    padded = f" (MXNet's count in batches of {row.mxnet_batch})" if row.mxnet_batch else ""
    lines = [f"images       {len(row.verdicts.labels)}", f"loss         {row.verdicts.loss:.4f}"]
    tops = told_errors(row.verdicts.choices)
    lines += [f"top-{top} error  {row.error(top):.2f} %{padded}" for top in tops]
    if isinstance(row.verdicts, TasksVerdicts):
        for task, its in enumerate(row.verdicts.tasks):
            errors = (f"top-{top} error {its.error(top, row.mxnet_batch):.2f} %" for top in tops)
            lines.append(f"task {task}: " + ", ".join(errors))
    if isinstance(row.verdicts, MultiVerdicts):
        lines.insert(2, f"mAP          {row.verdicts.mean_average_precision:.2f} %")
    return "\n".join(lines)


def table(rows: Sequence[Row]) -> str:
    """A Markdown table: network, crop size, top-1 and top-5 error in percent, and of multi labels the mean average
    precision.
    """
    precise = any(isinstance(row.verdicts, MultiVerdicts) for row in rows)
    lines = ["| network | crop-size | top-1 | top-5 |", "|---|---|---|---|"]
    lines = [line + end for line, end in zip(lines, (" mAP |", "---|"), strict=True)] if precise else lines
    for row, name in zip(rows, names_of(rows), strict=True):
        line = f"| {printable(name).replace('|', BAR)} | {row.view} | {row.error(1):.2f} | {row.error(5):.2f} |"
        its = row.verdicts
        its_map = f"{its.mean_average_precision:.2f}" if isinstance(its, MultiVerdicts) else "-"
        lines.append(f"{line} {its_map} |" if precise else line)
    return "\n".join(lines)


def class_table(row: Row) -> str:
    """A Markdown table of the classes that have images, the worst first, and what each is most often taken for.

    Of multi labels it tells the average precision of each.
    """
    if isinstance(row.verdicts, MultiVerdicts):
        return _precision_table(row)
    lines = ["| class | images | top-1 error | most often taken for |", "|---|---|---|---|"]
    seen = [(one, one.top1_error) for one in row.classes() if one.top1_error is not None]
    for one, error in sorted(seen, key=lambda pair: -pair[1]):
        instead = "" if one.taken_for is None else f"{one.taken_for} ({one.times})"
        name, instead = (printable(word).replace("|", BAR) for word in (one.name, instead))
        lines.append(f"| {name} | {one.images} | {error:.2f} | {instead} |")
    return "\n".join(lines)


def _precision_table(row: Row) -> str:
    lines = ["| class | images | average precision |", "|---|---|---|"]
    seen = [(one, one.average_precision) for one in row.classes() if one.average_precision is not None]
    for one, precision in sorted(seen, key=lambda pair: pair[1]):
        name = printable(one.name).replace("|", BAR)
        lines.append(f"| {name} | {one.images} | {precision:.2f} % |")
    return "\n".join(lines)


def refuse_confusion(predictor: Predictor) -> Predictor:
    """The same; a SettingError before it is evaluated where it will have no confusion matrix."""
    if predictor.header.labels.kind == "multi":
        raise SettingError("`confusion` is of one class; of `labels` multi none is taken for another, so leave it out.")
    return predictor


def draw_confusion(row: Row, out: Path) -> None:
    """Draw the confusion matrix, each class's row as shares of its images; the ending chooses the format."""
    counts = row.verdicts.confusion()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    with drawing(out, (8, 7), dpi=100) as axes:
        # The square root, so that a few confusions show beside many right answers.
        picture = axes.imshow(np.sqrt(shares), cmap="Blues", vmin=0, vmax=1)
        axes.set_xlabel("taken for")
        axes.set_ylabel("is")
        axes.set_title(f"{row.header.network}, {row.view}: {row.verdicts.error(1):.2f} % top-1 error")
        if len(counts) <= MOST_NAMES:
            names = [literal(row.header.name(index)) for index in range(len(counts))]
            axes.set_xticks(range(len(counts)), names, rotation=90)
            axes.set_yticks(range(len(counts)), names)
        if len(counts) <= 20:
            for (is_class, taken), count in np.ndenumerate(counts):
                if count:
                    dark = shares[is_class, taken] > 0.3
                    axes.text(taken, is_class, str(count), ha="center", va="center", color="white" if dark else "black")
        bar = axes.figure.colorbar(picture, ticks=np.sqrt([0, 0.01, 0.05, 0.2, 0.5, 1]), shrink=0.8)
        bar.ax.set_yticklabels(["0", "1 %", "5 %", "20 %", "50 %", "100 %"])
