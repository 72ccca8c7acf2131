"""The search against every plan that there is, on chains short enough to try them all."""

import time
from collections.abc import Iterator
from itertools import combinations, product

import pytest
import torch

from resnet_v2.networks.architecture import Architecture
from resnet_v2.networks.resnet import ResNet
from resnet_v2.recompute.costs import link_costs
from resnet_v2.recompute.plan import Plan, Segment, forecast
from resnet_v2.recompute.search import _options, find_plan, several_plans, smallest_plan


def every_plan(count: int, keeps: tuple[tuple[str, ...], ...], points: tuple[tuple[str, ...], ...]) -> Iterator[Plan]:
    """All plans of one level."""
    for cuts in (cuts for number in range(count) for cuts in combinations(range(1, count), number)):
        bounds = list(zip((0, *cuts), (*cuts, count), strict=True))
        options = [
            [Segment(start, stop, keep) for keep in keeps]
            + ([Segment(start, stop, points[start], activated=True)] if stop == start + 1 else [])
            for start, stop in bounds
        ]
        yield from (Plan(segments) for segments in product(*options))


@pytest.mark.parametrize("depth", [14, 20])
def test_no_plan_is_faster_within_the_same_memory(depth: int) -> None:
    with torch.device("meta"):
        links = ResNet(Architecture(depth, 10, "cifar")).links()
    if depth == 20:
        links = links[:6]
    costs = link_costs(links, 32)
    points = tuple(link.description.points[1:] for link in links)
    known = [forecast(links, costs, plan) for plan in every_plan(len(links), _options(links, costs), points)]
    assert len(known) > 1000
    least = min(one.peak_bytes for one in known)
    plain = forecast(links, costs, None).peak_bytes
    for limit in (least * 1.01, least * 1.1, least * 1.3, 0.5 * plain, 0.7 * plain, 0.9 * plain):
        found = find_plan(links, costs, limit)
        if limit < least * 1.05 and (found is None or found.levels == 2):
            continue
        assert found is not None and found.levels == 1
        its = forecast(links, costs, found)
        assert its.peak_bytes <= limit
        best = min(one.extra_time for one in known if one.peak_bytes <= limit)
        nearly = min(one.extra_time for one in known if one.peak_bytes <= 0.97 * limit or one.peak_bytes == least)
        assert best - 1e-9 <= its.extra_time <= nearly + 1e-9
    assert smallest_plan(links, costs)[1].peak_bytes <= 1.02 * least
    assert find_plan(links, costs, 0.3 * least) is None


def test_less_memory_takes_more_time() -> None:
    with torch.device("meta"):
        links = ResNet(Architecture(200, 1000, "imagenet")).links()
    costs = link_costs(links, 224)
    limits = [mib * 2**20 for mib in (200, 120, 80, 40, 28)]
    forecasts = [forecast(links, costs, plan) for plan in several_plans(links, costs, limits)]
    for one, other, limit in zip(forecasts, forecasts[1:], limits[1:], strict=False):
        assert other.peak_bytes <= 1.01 * limit
        assert other.extra_time > one.extra_time
    plan, its = smallest_plan(links, costs)
    assert its.peak_bytes < 19.5 * 2**20
    assert plan.levels == 2
    # The aims, as modelled.
    assert forecasts[-1].extra_time < 0.35
    assert forecasts[2].extra_time < 0.12


def test_a_timeline_goes_there_and_back() -> None:
    with torch.device("meta"):
        links = ResNet(Architecture(50, 1000, "imagenet")).links()
    costs = link_costs(links, 224)
    timeline = forecast(links, costs, None).timeline
    assert timeline == sorted(timeline, key=lambda event: event[0])
    # Forward, the head, backward; behind each link's backward pass its gradient alone.
    assert len(timeline) == len(links) + 1 + 2 * len(links)
    assert timeline[-1][1] == costs[0].output
    assert timeline[0][1] < max(held for _, held in timeline)


def test_1001_layers_take_seconds() -> None:
    started = time.process_time()
    with torch.device("meta"):
        links = ResNet(Architecture(1001, 10, "cifar")).links()
    costs = link_costs(links, 32)
    plan = find_plan(links, costs, 20 * 2**20)
    assert plan is not None
    assert forecast(links, costs, plan).peak_bytes <= 20 * 2**20
    assert time.process_time() - started < 10  # 2 s on a quiet machine
