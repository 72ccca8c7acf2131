"""Logs -> curves, as a picture, or as an interactive page: one HTML file without a server or a network."""

import html
import json
import math
import re
import time
from collections.abc import Sequence
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import Any

from resnet_v2.config.using import PlotConfig
from resnet_v2.files import parse_json, write_text
from resnet_v2.logs import plot
from resnet_v2.logs.runlog import LINE, Curve, read_lines

ERRORS = ("train_top1", "top1", "train_top5", "top5")
# Of the events `train` and `validation`: the field in the log and its name in the page.
TRAINED = {"loss": "train_loss", "learning_rate": "learning_rate", "samples_per_second": "samples_per_second"}
VALIDATED = {"loss": "loss"}
SPEED = re.compile(r"Speed: (\d{0,20}\.?\d{1,20}) samples/sec")

# `plot --follow`: how often it looks at the logs, and how often its page loads itself again.
LOOK_SECONDS, PAGE_SECONDS = 1.0, 15

Series = dict[str, dict[int, float]]


def show(settings: PlotConfig) -> None:
    """Draw the logs' curves and print their table, once or, with `follow`, whenever a log has become longer."""
    if settings.follow:
        paths = plot.log_paths(*settings.logs)
        plot.follow(paths, lambda: _show_once(settings), lambda: time.sleep(LOOK_SECONDS))
    else:
        _show_once(settings)


def _show_once(settings: PlotConfig) -> None:
    curves = plot.read_curves(*settings.logs)
    if settings.out.suffix.lower() == ".html":
        refresh = PAGE_SECONDS if settings.follow else 0
        write_report(plot.log_paths(*settings.logs), curves, settings.out, settings.metric, refresh)
    else:
        plot.draw(curves, settings.out, settings.metric)
    if settings.json:
        print(json.dumps([curve.summary() for curve in curves]), flush=True)
    else:
        print(plot.table(curves))
        print(f"curve: {settings.out}", flush=True)


def write_report(paths: Sequence[Path], curves: Sequence[Curve], out: Path, metric: str, refresh: int = 0) -> None:
    """Write the page of some logs and the curves that were read from them (`plot.read_curves`).

    It shows error, loss, learning rate and images per second over epochs, as far as the logs tell them: the events of
    a `.jsonl`, also one beside a text log, and what a text log says itself. `metric` (top1 or top5) is the error it
    opens with; `refresh` is the seconds after which the page loads itself again, 0: never.
    """
    runs = [
        {"name": curve.label, "summary": curve.summary(), "series": _points(_series(path, curve))}
        for path, curve in zip(paths, curves, strict=True)
    ]
    count = "1 run" if len(runs) == 1 else f"{len(runs)} runs"
    about = f"{count}, as of {datetime.now():%Y-%m-%d %H:%M}. Epochs count from 0, as in the logs."
    data = {"runs": runs, "metric": metric, "about": about}
    # In a script element only `<` can end the data too early.
    text = json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    names = html.escape(", ".join(str(run["name"]) for run in runs))
    parts = {
        "<!-- REFRESH -->": f'<meta http-equiv="refresh" content="{refresh}">' if refresh else "",
        "<title>": f"<title>{names}: ",
        "/* STYLE */": _part("css"),
        "/* SCRIPT */": _part("js"),
        "/* DATA */": text,
    }
    places = "|".join(re.escape(place) for place in parts)
    page = re.sub(places, lambda place: parts[place[0]], _part("html"))
    write_text(out, page)


def _part(ending: str) -> str:
    return resources.files("resnet_v2.logs").joinpath(f"report.{ending}").read_text(encoding="utf-8")


def _series(path: Path, curve: Curve) -> Series:
    """Every measure of a run by epoch; errors in percent."""
    series: Series = {name: getattr(curve, name) for name in ERRORS}
    events = path if ".jsonl" in path.suffixes else path.with_suffix(".jsonl")
    if events.is_file():
        return series | _event_series(events)
    return series | {"samples_per_second": _speeds(path)}


def _event_series(path: Path) -> Series:
    # Lines that are no events are passed over: a kill may have cut one, and `read_curve` has judged the file.
    series: Series = {}
    for line in read_lines(path):
        try:
            event: dict[str, Any] = parse_json(line)
            names = {"train": TRAINED, "validation": VALIDATED}.get(event["event"], {})
            for field, name in names.items():
                if field in event:
                    series.setdefault(name, {})[int(event["epoch"])] = float(event[field])
        except (ValueError, KeyError, TypeError, OverflowError):
            continue
    return series


def _speeds(path: Path) -> dict[int, float]:
    """Images per second of each epoch from a text log: its lines cover equal numbers of images."""
    seconds: dict[int, list[float]] = {}
    for line in read_lines(path):
        place, speed = LINE.search(line), SPEED.search(line)
        if place and place[2] and speed and float(speed[1]) > 0:
            seconds.setdefault(int(place[1]), []).append(1 / float(speed[1]))
    return {epoch: len(shares) / sum(shares) for epoch, shares in seconds.items()}


def _points(series: Series) -> dict[str, list[tuple[int, float]]]:
    finite = {
        name: [(epoch, float(f"{values[epoch]:.6g}")) for epoch in sorted(values) if math.isfinite(values[epoch])]
        for name, values in series.items()
    }
    return {name: points for name, points in finite.items() if points}
