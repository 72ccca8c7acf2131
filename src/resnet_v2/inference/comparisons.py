"""Whether two networks, or two kinds of networks, differ by more than chance explains."""

import math
from collections.abc import Sequence
from statistics import mean, stdev, variance

from resnet_v2.console import counted
from resnet_v2.errors import ResnetError
from resnet_v2.inference.report import Row, names_of, table
from resnet_v2.inference.verdicts import MultiVerdicts, TasksVerdicts

SMALLEST_TOLD = 1e-16  # probabilities below are told as such
TINY = 1e-300


def pairs_of(first: str, second: str) -> list[tuple[str, str]]:
    """`"a,b"`, `"c,d"` -> `[(a, c), (b, d)]`."""
    firsts, seconds = ([part.strip() for part in names.split(",") if part.strip()] for names in (first, second))
    if not firsts or len(firsts) != len(seconds):
        raise ResnetError(
            f"{counted(len(firsts), 'network')} cannot be compared with {len(seconds)}; give as many of each."
        )
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
    lines += [comparison(first, second) for first, second in matched]
    return "\n".join(lines + [of_seeds(matched[crop::crops]) for crop in range(crops) if pairs > 1])


def comparison(first: Row, second: Row) -> str:
    """A sentence on whether two networks differ on the same images, by the images that only one of them gets right.

    The sign test (McNemar's exact test): how probable so uneven a count is if neither network is better.
    """
    for row in (first, second):
        if isinstance(row.verdicts, TasksVerdicts | MultiVerdicts):
            raise ResnetError(
                f"{row.header.network} was trained with `labels` {row.header.labels}, and the sign test is for one "
                "answer about an image; evaluate both instead."
            )
    first_right, second_right = first.verdicts.ranks == 0, second.verdicts.ranks == 0
    only_first, only_second = int((first_right & ~second_right).sum()), int((second_right & ~first_right).sum())
    chance = sign_test(only_first, only_second)
    difference = second.verdicts.error(1) - first.verdicts.error(1)
    name, other = names_of([second, first])
    verdict = "which chance explains" if chance > 0.05 else "more than chance explains"
    told = f"p = {chance:.2g}" if chance >= SMALLEST_TOLD else f"p < {SMALLEST_TOLD:g}"
    return (
        f"{name} against {other}, {second.view}: {difference:+.2f} points of top-1 "
        f"error. Of {counted(len(first_right), 'image')} the first alone is right on {only_first}, the second alone on "
        f"{only_second}, {verdict} (sign test, {told})."
    )


def of_seeds(matched: Sequence[tuple[Row, Row]]) -> str:
    """A sentence on whether two kinds of networks differ, by several runs of each (Welch's t-test)."""
    sides = [[row.error(1) for row in side] for side in zip(*matched, strict=True)]
    told = [f"{mean(errors):.2f} +- {stdev(errors):.2f} %" for errors in sides]
    chance = welch_test(*sides)
    verdict = "which chance explains" if chance > 0.05 else "more than chance explains"
    return (
        f"Top-1 error of {len(matched)} networks each, {matched[0][0].view}, mean +- standard deviation: the first "
        f"{told[0]}, the second {told[1]}, {mean(sides[1]) - mean(sides[0]):+.2f} points, {verdict} (Welch's t-test, "
        f"p = {chance:.2g})."
    )


def welch_test(ones: Sequence[float], others: Sequence[float]) -> float:
    """The two-sided probability of means at least as far apart where both samples, of two or more, have the same mean.

    The variances may differ: Welch's t-test, with the degrees of freedom of Welch and Satterthwaite.
    """
    shares = [variance(some) / len(some) for some in (ones, others)]
    apart = abs(mean(ones) - mean(others))
    if not sum(shares):
        return 0.0 if apart else 1.0
    freedom = sum(shares) ** 2 / sum(
        share**2 / (len(some) - 1) for share, some in zip(shares, (ones, others), strict=True)
    )
    squared = apart**2 / sum(shares)
    return _incomplete_beta(freedom / 2, 0.5, freedom / (freedom + squared))


def _incomplete_beta(first: float, second: float, share: float) -> float:
    """The regularised incomplete beta function, by its continued fraction (DLMF 8.17.22, Lentz's method)."""
    if share >= 1:
        return 1.0
    if share > (first + 1) / (first + second + 2):  # where the fraction of the other side is the quick one
        return 1 - _incomplete_beta(second, first, 1 - share)
    logs = math.lgamma(first + second) - math.lgamma(first) - math.lgamma(second)
    front = math.exp(logs + first * math.log(share) + second * math.log1p(-share)) / first
    value, upper, lower = 1.0, 1.0, 0.0
    for step in range(1000):
        half = step // 2
        if step == 0:
            factor = 1.0
        elif step % 2 == 0:
            factor = half * (second - half) * share / ((first + step - 1) * (first + step))
        else:
            factor = -(first + half) * (first + second + half) * share / ((first + step - 1) * (first + step))
        lower = 1 / (1 + factor * lower or TINY)
        upper = 1 + factor / upper or TINY
        value *= upper * lower
        if abs(upper * lower - 1) < 1e-14:
            break
    return front * (value - 1)


def sign_test(ones: int, others: int) -> float:
    """The two-sided probability of a split at least as uneven when both sides are equally likely."""
    total, ways, uneven = ones + others, 1, 0
    for fewer in range(min(ones, others) + 1):  # whole numbers: no rounding, however many images
        uneven += ways
        ways = ways * (total - fewer) // (fewer + 1)
    return min(1.0, 2 * uneven / (1 << total))
