"""Training curves as a picture, and the table of best epochs."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from resnet_v2.console import say
from resnet_v2.errors import ResnetError, printable
from resnet_v2.logs.layout import aligned, drawing, literal
from resnet_v2.logs.runlog import Curve, read_curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes

METRIC_NAMES = {"top1": "top-1", "top5": "top-5"}


def log_paths(*logs: str) -> list[Path]:
    """The paths of a comma-separated list; ResnetError when it is empty."""
    paths = [Path(part.strip()) for names in logs for part in names.split(",") if part.strip()]
    if not paths:
        raise ResnetError("`logs` names no file; give log files, separated by blanks or commas.")
    return paths


def read_curves(*logs: str) -> list[Curve]:
    """The curves of log paths, which commas may separate too; names that occur twice get their folder in front."""
    paths = log_paths(*logs)
    curves = [read_curve(path) for path in paths]
    for path, curve in zip(paths, curves, strict=True):
        if sum(other.name == path.name for other in paths) > 1:
            curve.name = printable(str(path))
    return curves


def follow(paths: Sequence[Path], redraw: Callable[[], None], pause: Callable[[], None]) -> None:
    """Call `redraw` now and whenever one of the files has changed; `pause` waits between two looks or ends it all.

    What is wrong with a log, such as that it has no epoch yet, is told once and waited out.
    """
    seen: list[tuple[int, int] | None] | None = None
    told = ""
    while True:
        now = [_stamp(path) for path in paths]
        if now != seen:
            try:
                redraw()
                told = ""
            except ResnetError as error:
                if str(error) != told:
                    told = str(error)
                    say(f"waiting: {told}")
            seen = now
        pause()


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def draw(curves: Sequence[Curve], out: Path, metric: str, size: tuple[float, float] = (9, 5.5), dpi: int = 120) -> None:
    """Draw train (dashed) and validation error over epochs, `size` in inches; the ending of `out` chooses the format.

    Raises ResnetError when a log has no such error.
    """
    from matplotlib.ticker import MaxNLocator

    with drawing(out, size, dpi) as axes:
        for curve in curves:
            if not getattr(curve, metric):
                raise ResnetError(f"{curve.name} has no {METRIC_NAMES[metric]} error; draw it with `metric` top1.")
        for number, curve in enumerate(curves):
            _draw_curve(axes, curve, metric, f"C{number % 10}")
        axes.set_xlabel("epoch")
        axes.set_ylabel(f"{METRIC_NAMES[metric]} error (%)")
        axes.set_ylim(bottom=0)
        axes.margins(x=0.02)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)


def _draw_curve(axes: "Axes", curve: Curve, metric: str, colour: str) -> None:
    errors: dict[int, float] = getattr(curve, metric)
    train: dict[int, float] = getattr(curve, f"train_{metric}")
    if train:
        epochs = sorted(train)
        axes.plot(
            epochs,
            [train[epoch] for epoch in epochs],
            "--",
            color=colour,
            alpha=0.6,
            label=literal(f"{curve.label} train"),
        )
    epochs = sorted(errors)
    best = min(epochs, key=lambda epoch: (errors[epoch], epoch))
    label = literal(f"{curve.label} validation (best {errors[best]:.2f})")
    axes.plot(epochs, [errors[epoch] for epoch in epochs], color=colour, linewidth=2, label=label)
    axes.plot(best, errors[best], "o", color=colour, markersize=5)


def table(curves: Sequence[Curve]) -> str:
    """The rows of `Curve.summary` as aligned text."""
    rows: list[tuple[str, ...]] = [("network", "epochs", "best epoch", "checkpoint", "top-1 error", "top-5 error")]
    for curve in curves:
        row = curve.summary()
        top5 = "-" if row["top5_error"] is None else f"{row['top5_error']:.2f}"
        counts = (str(row[name]) for name in ("epochs", "best_epoch", "checkpoint"))
        rows.append((curve.label, *counts, f"{row['top1_error']:.2f}", top5))
    return aligned(rows)
