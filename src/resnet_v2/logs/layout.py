"""What tables and pictures have in common."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from resnet_v2.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def aligned(rows: Sequence[Sequence[str]], left: Collection[int] = (0,)) -> str:
    """A line for every row, in columns of equal width; the columns of these numbers are flush left, all else right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def literal(text: str) -> str:
    """A text that matplotlib draws letter by letter: dollars enclose no mathematics, and a legend shows a first _."""
    text = text.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


@contextmanager
def drawing(out: Path, size: tuple[float, float] = (9, 5.5), dpi: int = 120) -> Iterator["Axes"]:
    """Axes of a picture of `size` inches, which is then written; the ending of `out` chooses the format."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=size, layout="constrained")
    try:
        yield axes
        with replacing(out) as temporary:
            figure.savefig(temporary, format=out.suffix[1:].lower(), dpi=dpi)
    finally:
        plt.close(figure)
