"""What the benchmarks of several systems make of their rounds: medians, ratios, a table."""

import json
import statistics
from collections.abc import Sequence


def rows(work: str, rounds: Sequence[dict[str, float]], ours: str) -> list[dict[str, str | float]]:
    """Images per second of every system, and how many times as fast `ours` is; medians over the rounds."""
    return [
        {
            "work": work,
            "system": name,
            "value": round(statistics.median(one[name] for one in rounds), 1),
            "unit": "images/s",
            "times": round(statistics.median(one[ours] / one[name] for one in rounds), 2),
        }
        for name in rounds[0]
    ]


def show(found: Sequence[dict[str, str | float]], as_json: bool) -> None:
    """Print rows as JSON or as a table."""
    if as_json:
        print(json.dumps(found))
        return
    for row in found:
        print(
            f"{row['work']:34} {row['system']:24} {row['value']:9.1f} {row['unit']}  ours is {row['times']:.2f} times"
        )
