"""Evaluations as people read them: Markdown tables, errors by class, the confusion matrix as a picture, comparisons."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from resnet_v2.config import Range, parse_numbers
from resnet_v2.data.records import RecordReader
from resnet_v2.errors import ResnetError
from resnet_v2.files import replacing
from resnet_v2.inference.engines import Engine
from resnet_v2.inference.evaluate import Verdicts, View, judge, plan_view
from resnet_v2.interchange.header import Header

# Above this many classes their names would be too small to read.
MOST_NAMES = 60

# Probabilities below are told as such: far smaller ones cannot be told from 0 in floating point.
SMALLEST_TOLD = 1e-16


@dataclass(frozen=True)
class Row:
    """One evaluation: what was evaluated, how, and what came of it. `mxnet_batch` as `Verdicts.error` takes it."""

    header: Header
    view: View
    verdicts: Verdicts
    mxnet_batch: int = 0

    @property
    def network(self) -> str:
        """As papers call it: ResNet-50-v2."""
        return f"ResNet-{self.header.architecture.depth}-{self.header.architecture.version}"

    def as_json(self, per_class: bool = False) -> dict[str, object]:
        """images, loss, top1_error, top5_error; with `per_class` also `classes`, a list in label order."""
        verdicts = self.verdicts
        result: dict[str, object] = {"images": len(verdicts.labels), "loss": verdicts.loss}
        result |= {f"top{top}_error": verdicts.error(top, self.mxnet_batch) for top in (1, 5)}
        return result | ({"classes": class_errors(self)} if per_class else {})


def evaluate_all(
    engines: Iterable[Engine],
    rec: Path,
    crop: str = "",
    resize: str = "",
    ten_crop: bool = False,
    batch_size: int = 128,
    threads: int = 0,
    mxnet_batch: int = 0,
) -> list[Row]:
    """Every engine with every crop (`"224,320"`; the empty text is the checkpoint's) over a record.

    `resize` is one number for all crops or one for each.
    """
    crops = parse_numbers(crop, int, "crop", Range(1)) or (0,)
    sides = parse_numbers(resize, int, "resize", Range(1)) or (0,)
    sides = sides * len(crops) if len(sides) == 1 else sides
    if len(sides) != len(crops):
        raise ResnetError(f"--resize {resize} has {len(sides)} sizes for {len(crops)} crops; give one for each.")
    reader = RecordReader(rec)
    if not len(reader):
        raise ResnetError(f"{rec} holds no records; pack it again.")
    rows = []
    for engine in engines:
        for one_crop, side in zip(crops, sides, strict=True):
            view = plan_view(engine.header, one_crop, side, ten_crop)
            verdicts = judge(engine, reader, view, batch_size=batch_size, threads=threads)
            rows.append(Row(engine.header, view, verdicts, mxnet_batch))
    return rows


def text(row: Row) -> str:
    """The figures of one evaluation on lines of their own."""
    result = row.as_json()
    padded = f" (MXNet's count in batches of {row.mxnet_batch})" if row.mxnet_batch else ""
    return (
        f"images       {result['images']}\nloss         {result['loss']:.4f}\n"
        f"top-1 error  {result['top1_error']:.2f} %{padded}\ntop-5 error  {result['top5_error']:.2f} %{padded}"
    )


def table(rows: Sequence[Row]) -> str:
    """A Markdown table: network, crop size, top-1 and top-5 error in percent."""
    lines = ["| network | crop-size | top-1 | top-5 |", "|---|---|---|---|"]
    for row in rows:
        errors = " | ".join(f"{row.verdicts.error(top, row.mxnet_batch):.2f}" for top in (1, 5))
        lines.append(f"| {row.network} | {row.view} | {errors} |")
    return "\n".join(lines)


def class_table(row: Row) -> str:
    """A Markdown table of the classes, the worst first, and what each is most often taken for instead."""
    images, errors = row.verdicts.class_errors()
    header = row.header
    lines = ["| class | images | top-1 error | most often taken for |", "|---|---|---|---|"]
    seen = np.flatnonzero(images)
    for index in seen[np.argsort(-errors[seen], kind="stable")]:
        mine = row.verdicts.labels == index
        wrong = row.verdicts.predictions[mine & (row.verdicts.predictions != index)]
        taken = int(np.bincount(wrong).argmax()) if len(wrong) else None
        instead = "" if taken is None else f"{header.name(taken)} ({(wrong == taken).sum()})"
        lines.append(f"| {header.name(index)} | {images[index]} | {errors[index]:.2f} | {instead} |")
    return "\n".join(lines)


def class_errors(row: Row) -> list[dict[str, object]]:
    """What `class_table` shows, in the order of the classes: class, name, images, top1_error (None: no images)."""
    images, errors = row.verdicts.class_errors()
    return [
        {"class": index, "name": row.header.name(index), "images": int(count),
         "top1_error": float(errors[index]) if count else None}
        for index, count in enumerate(images)
    ]  # fmt: skip


def draw_confusion(row: Row, out: Path) -> None:
    """Draw the confusion matrix, each class's row as shares of its images; the ending chooses the format."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    if out.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise ResnetError(f"{out} has no ending that is a picture format; name it .png, .svg or .pdf.")
    counts = row.verdicts.confusion()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure, axes = plt.subplots(figsize=(8, 7), layout="constrained")
    # The square root, so that a few confusions show beside many right answers.
    picture = axes.imshow(np.sqrt(shares), cmap="Blues", vmin=0, vmax=1)
    axes.set_xlabel("taken for")
    axes.set_ylabel("is")
    axes.set_title(f"{row.network}, {row.view}: {row.verdicts.error(1):.2f} % top-1 error")
    if len(counts) <= MOST_NAMES:
        names = [row.header.name(index) for index in range(len(counts))]
        axes.set_xticks(range(len(counts)), names, rotation=90)
        axes.set_yticks(range(len(counts)), names)
    if len(counts) <= 20:
        for (is_class, taken), count in np.ndenumerate(counts):
            if count:
                dark = shares[is_class, taken] > 0.3
                axes.text(taken, is_class, str(count), ha="center", va="center", color="white" if dark else "black")
    bar = figure.colorbar(picture, ticks=np.sqrt([0, 0.01, 0.05, 0.2, 0.5, 1]), shrink=0.8)
    bar.ax.set_yticklabels(["0", "1 %", "5 %", "20 %", "50 %", "100 %"])
    with replacing(out) as temporary:
        figure.savefig(temporary, format=out.suffix[1:].lower(), dpi=100)
    plt.close(figure)


def pairs_of(first: str, second: str) -> list[tuple[str, str]]:
    """`"a,b"`, `"c,d"` -> `[(a, c), (b, d)]`."""
    firsts, seconds = ([part.strip() for part in names.split(",") if part.strip()] for names in (first, second))
    if not firsts or len(firsts) != len(seconds):
        raise ResnetError(f"{len(firsts)} networks cannot be compared with {len(seconds)}; give as many of each.")
    return list(zip(firsts, seconds, strict=True))


def compare(rows: Sequence[Row], pairs: int) -> str:
    """The table of `rows` (pair after pair, each network with all its crops), and a sentence on every pair."""
    crops = len(rows) // (2 * pairs)
    matched = [
        (rows[2 * pair * crops + crop], rows[(2 * pair + 1) * crops + crop])
        for pair in range(pairs)
        for crop in range(crops)
    ]
    lines = [table([row for match in matched for row in match]), ""]
    return "\n".join(lines + [comparison(first, second) for first, second in matched])


def comparison(first: Row, second: Row) -> str:
    """A sentence on whether two networks differ on the same images, by the images that only one of them gets right.

    The sign test (McNemar's exact test): how probable so uneven a count is if neither network is better.
    """
    first_right, second_right = first.verdicts.ranks == 0, second.verdicts.ranks == 0
    only_first, only_second = int((first_right & ~second_right).sum()), int((second_right & ~first_right).sum())
    chance = sign_test(only_first, only_second)
    difference = second.verdicts.error(1) - first.verdicts.error(1)
    verdict = "which chance explains" if chance > 0.05 else "more than chance explains"
    told = f"p = {chance:.2g}" if chance >= SMALLEST_TOLD else f"p < {SMALLEST_TOLD:g}"
    return (
        f"{second.network} against {first.network}, {second.view}: {difference:+.2f} points of top-1 error. Of "
        f"{len(first_right)} images the first alone is right on {only_first}, the second alone on {only_second}, "
        f"{verdict} (sign test, {told})."
    )


def sign_test(ones: int, others: int) -> float:
    """The two-sided probability of a split at least as uneven when both sides are equally likely."""
    total, less = ones + others, min(ones, others)
    logs = [_log_choose(total, k) - total * math.log(2) for k in range(less + 1)]
    return min(1.0, 2 * math.fsum(math.exp(log) for log in logs))


def _log_choose(total: int, chosen: int) -> float:
    return math.lgamma(total + 1) - math.lgamma(chosen + 1) - math.lgamma(total - chosen + 1)
