"""The table and the picture of `resnet-v2 plan`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from resnet_v2.logs.layout import aligned, drawing


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows of `resnet-v2 plan` as aligned text."""
    lines = [("plan", "activations, MiB/image", "total, GB", "extra time", "largest batch", "segments", "levels")]
    for row in rows:
        largest, segments, levels = (
            "-" if row[name] is None else str(row[name]) for name in ("largest_batch", "segments", "levels")
        )
        size, total = f"{row['activations_mib_per_image']:.1f}", f"{row['total_bytes'] / 1e9:.2f}"
        lines.append((row["plan"], size, total, f"{row['extra_time_percent']:.1f} %", largest, segments, levels))
    return aligned(lines)


def whole_run_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows of `resnet-v2 plan --whole-run` as aligned text."""
    head = ("depth", "GPUs", "images/s", "hours", "euros", "disk, GB", "read, MB/s", "CPU cores")
    return aligned([head, *(tuple(map(str, row.values())) for row in rows)])


def draw(
    curves: Mapping[str, Sequence[tuple[float, int]]], out: Path, batch_size: int, fixed_bytes: int, budget: int | None
) -> None:
    """Draw memory in GB over one training step (see `drawing`); times are shares of the first curve's step.

    `curves`: (time, bytes per image) of every plan by its name, the plain network first.
    """
    step = max(time for time, _ in next(iter(curves.values())))
    with drawing(out) as axes:
        for name, timeline in curves.items():
            totals = [(fixed_bytes + batch_size * size) / 1e9 for _, size in timeline]
            axes.plot(
                [time / step for time, _ in timeline], totals, label=f"{name} ({max(totals):.1f} GB)", linewidth=1.2
            )
        if budget is not None:
            axes.axhline(budget / 1e9, color="black", linestyle=":", label=f"budget ({budget / 1e9:.1f} GB)")
        axes.set_xlabel("time, in steps of the plain network")
        axes.set_ylabel(f"memory at batch size {batch_size} (GB)")
        axes.set_ylim(bottom=0)
        axes.margins(x=0.01)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
