"""Training curves as a picture, and the table of best epochs."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from resnet_v2.errors import ResnetError
from resnet_v2.files import replacing
from resnet_v2.logs.runlog import Curve, read_curve

METRIC_NAMES = {"top1": "top-1", "top5": "top-5"}


def log_paths(logs: str) -> list[Path]:
    """The paths of a comma-separated list; ResnetError when it is empty."""
    paths = [Path(part.strip()) for part in logs.split(",") if part.strip()]
    if not paths:
        raise ResnetError("`logs` names no file; give log files separated by commas.")
    return paths


def read_curves(logs: str) -> list[Curve]:
    """The curves of comma-separated log paths; names that occur twice get their folder in front."""
    paths = log_paths(logs)
    curves = [read_curve(path) for path in paths]
    for path, curve in zip(paths, curves, strict=True):
        if sum(other.name == path.name for other in paths) > 1:
            curve.name = str(path)
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
                    print(f"waiting: {told}", file=sys.stderr)
            seen = now
        pause()


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def draw(curves: Sequence[Curve], out: Path, metric: str) -> None:
    """Draw train (dashed) and validation error over epochs; the ending of `out` chooses the format.

    Raises ResnetError when a log has no such error or the format is unknown.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import MaxNLocator

    if out.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise ResnetError(f"{out} has no ending that is a picture format; name it .png, .svg, .pdf or .html.")
    for curve in curves:
        if not getattr(curve, metric):
            raise ResnetError(f"{curve.name} has no {METRIC_NAMES[metric]} error; draw it with `metric` top1.")
    figure, axes = plt.subplots(figsize=(9, 5.5), layout="constrained")
    for number, curve in enumerate(curves):
        _draw_curve(axes, curve, metric, f"C{number % 10}")
    axes.set_xlabel("epoch")
    axes.set_ylabel(f"{METRIC_NAMES[metric]} error (%)")
    axes.set_ylim(bottom=0)
    axes.margins(x=0.02)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    with replacing(out) as temporary:
        figure.savefig(temporary, format=out.suffix[1:].lower(), dpi=120)
    plt.close(figure)


def _draw_curve(axes: "matplotlib.axes.Axes", curve: Curve, metric: str, colour: str) -> None:  # type: ignore[name-defined]  # noqa: F821
    errors: dict[int, float] = getattr(curve, metric)
    train: dict[int, float] = getattr(curve, f"train_{metric}")
    if train:
        epochs = sorted(train)
        axes.plot(
            epochs, [train[epoch] for epoch in epochs], "--", color=colour, alpha=0.6, label=f"{curve.label} train"
        )
    epochs = sorted(errors)
    best = min(epochs, key=lambda epoch: (errors[epoch], epoch))
    label = f"{curve.label} validation (best {errors[best]:.2f})"
    axes.plot(epochs, [errors[epoch] for epoch in epochs], color=colour, linewidth=2, label=label)
    axes.plot(best, errors[best], "o", color=colour, markersize=5)


def table(curves: Sequence[Curve]) -> str:
    """The rows of `Curve.summary` as aligned text."""
    rows = [("network", "epochs", "best epoch", "checkpoint", "top-1 error", "top-5 error")]
    for curve in curves:
        row = curve.summary()
        top5 = "-" if row["top5_error"] is None else f"{row['top5_error']:.2f}"
        rows.append(
            (
                curve.label,
                str(row["epochs"]),
                str(row["best_epoch"]),
                str(row["checkpoint"]),
                f"{row['top1_error']:.2f}",
                top5,
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
