"""What `inspect` prints: lines for a person, JSON for a program."""

from typing import Any

from resnet_v2.config.inspecting import InspectConfig
from resnet_v2.console import agreeing, counted, say
from resnet_v2.errors import printable
from resnet_v2.inspection.inspection import Inspection

GROUPS_NAMED, MOST_NAMED = 3, 5
CALIBRATION = ("temperature", "pictures", "error_before", "error_after", "chance")


def as_json(found: Inspection) -> dict[str, Any]:
    """What `inspect --json` prints: see docs/inspect.md."""
    looked, its = found.looked, found.calibration

    def at(index: int) -> dict[str, Any]:
        place = looked.at(index)
        return {
            "file": str(place.file),
            "record": place.record,
            "image": place.image,
            "label": int(looked.labels[index]),
        }

    findings: list[dict[str, Any]] = [
        {"kind": "label", **at(one.index), "suggested": one.suggested, "probability": one.probability}
        | {"given_probability": one.given_probability, "name": found.name(one.given)}
        | {"suggested_name": found.name(one.suggested)}
        for one in found.wrong.found
    ]
    findings += [
        {"kind": "double", "exact": group.exact, "across": found.across(group), "pictures": [*map(at, group.members)]}
        for group in found.doubles
    ]
    findings += [{"kind": one.kind, **at(one.index), "score": one.score} for one in found.odd]
    findings += [
        {"kind": "unreadable", "file": str(place.file), "record": place.record, "problem": problem}
        for _, place, problem in looked.unreadable
    ]
    return {
        "pictures": [int((looked.parts == part).sum()) for part in range(len(looked.sets))],
        "classes": [
            {"class": label, "name": found.name(label), "pictures": found.counts[:, label].tolist()}
            for label in range(found.counts.shape[1])
        ],
        "findings": findings,
        "trained_on": found.trained,
        "top1_error": found.error,
        "confusions": [
            {"label": one.given, "taken_for": one.taken, "pictures": len(one.pictures)} for one in found.confusions
        ],
        "calibration": None if its is None else {name: getattr(its, name) for name in CALIBRATION},
        "left_out": [problem for problem in (found.wrong.problem, found.silence, found.uncalibrated) if problem],
    }


def tell_of_unreadable(found: Inspection) -> None:
    """Say on the standard error which pictures could not be read, the first of them by their sentences."""
    its = found.looked.unreadable
    for _, _, problem in its[:MOST_NAMED]:
        say(f"unreadable: {problem}")
    if its:
        say(f"warning: {counted(len(its), 'picture')} cannot be read and {agreeing(len(its), 'is', 'are')} left out")


def _first_doubles(found: Inspection) -> list[str]:
    """A line for each of the first groups of doubles; those across both sets come first."""
    groups = sorted(found.doubles, key=lambda group: not found.across(group))
    lines = []
    for group in groups[:GROUPS_NAMED]:
        named = [printable(found.looked.at(one).image or str(found.looked.at(one))) for one in group.members[:2]]
        more = f" and {len(group.members) - 2} more" if len(group.members) > 2 else ""
        lines.append(f"              {', '.join(named)}{more}")
    left = len(groups) - len(lines)
    return [*lines, f"              and {counted(left, 'more group')}"] if left else lines


def text(found: Inspection, settings: InspectConfig) -> str:
    """What was found, in a few lines, where the page is, and what to do next."""
    looked, wrong, its = found.looked, found.wrong, found.calibration
    across = sum(map(found.across, found.doubles))
    extra = sum(len(group.members) - 1 for group in found.doubles)
    present = int((found.counts.sum(0) > 0).sum())
    lines = [
        f"pictures      {len(looked)} of {counted(present, 'class')}, {len(looked.unreadable)} unreadable",
        f"wrong labels  {f'not looked for: {wrong.problem}' if wrong.problem else len(wrong.found)}",
        f"doubles       {extra} in {counted(len(found.doubles), 'group')}"
        + (f", {across} of them across both sets" if len(looked.sets) > 1 else ""),
        *_first_doubles(found),
        f"odd pictures  {len({one.index for one in found.odd})}",
    ]
    if found.error is not None:
        seen = " on pictures that it was trained on" if found.trained else ""
        lines.append(f"top-1 error   {found.error:.2f} %{seen}")
    if its is not None:
        lines.append(
            f"calibration   off by {100 * its.error_before:.2f} points, "
            f"by {100 * its.error_after:.2f} with temperature {its.temperature:.3f} "
            f"(chance alone: {100 * its.chance:.2f})"
        )
    lines += [f"left out      {problem}" for problem in (found.silence, found.uncalibrated) if problem]
    lines.append(f"page          {printable(str(settings.out))}")
    if settings.calibrate is not None:
        lines.append(f"network       {printable(str(settings.calibrate))}, with its temperature")
    elif (
        its is not None
        and its.error_after < its.error_before
        and not found.trained
        and not (settings.val or settings.rec).is_dir()
    ):
        lines.append("next          --calibrate OUT.safetensors writes the network with this temperature")
    return "\n".join(lines)
