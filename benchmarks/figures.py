"""What benchmarks of several systems share: turns taken in one process, medians, ratios, a table."""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch

from resnet_v2.networks.resnet import ResNet, resnet


def drawn_network(description: str | None) -> tuple[ResNet, int]:
    """A network of drawn weights and the number of rounds, as the command line asks for them."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depth", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=6)
    options = parser.parse_args()
    torch.manual_seed(0)
    return resnet(options.depth).eval(), options.rounds


def milliseconds(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """The times of each call: in every round all take turns, ten calls each after three that are not counted."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            times[name] += [1000 * _seconds(call) for _ in range(13)][3:]
    return times


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


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
