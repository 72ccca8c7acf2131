"""What the header of a checkpoint says of its run. Files come from strangers: all of it is checked when it is read."""

from collections.abc import Callable, Mapping
from typing import Any

Fits = Callable[[Any], bool]

LARGEST = 10**15  # of what a run counts
LARGEST_SETTING = (1 << 63) - 1  # a seed
SUMS = {"loss", "correct", "images", "steps"}
CLOCK = {"seconds", "waited", "idle"}
PLACE = {"epoch", "step", "seed", "batch_size", "images", "records"}
RESULT = {"images", "loss", "top1_error", "top5_error"}
NEEDED = {"position", "loader", "meters", "best", "settings"}  # of whatever a run goes on from


def check_training(training: Mapping[str, Any]) -> None:
    """Raise ValueError for a part on training that `TrainState` and `RunPlan` cannot have written."""
    for name, fits in ENTRIES.items():
        if name in training and not fits(training[name]):
            raise ValueError(f"{name} is not what a run is told by")
    if "position" in training and (missing := NEEDED - training.keys()):
        raise ValueError(f"{min(missing)} of the run is missing")
    if "log" in training and not ("spent" in training and all(_has(CLOCK)(each[0]) for each in _meters(training))):
        raise ValueError("the times of the run are missing")


def _meters(training: Mapping[str, Any]) -> list[list[dict[str, float]]]:
    return list(training.get("meters", {}).values())


def _number(value: object) -> bool:
    return isinstance(value, float) or _whole(value)  # also inf and nan: the loss of a validation may be


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= LARGEST_SETTING


def _finite(value: Any) -> bool:
    return _number(value) and abs(value) < LARGEST


def _count(value: Any) -> bool:
    return _whole(value) and 0 <= value < LARGEST


def _text(value: object) -> bool:
    return isinstance(value, str)


def _plain(value: object) -> bool:
    return value is None or isinstance(value, str | bool) or _number(value)


def _all(fits: Fits) -> Fits:
    return lambda value: isinstance(value, dict) and all(map(fits, value.values()))


def _each(fits: Fits) -> Fits:
    return lambda value: isinstance(value, list) and all(map(fits, value))


def _has(names: set[str]) -> Fits:
    return lambda value: names <= value.keys() and all(_number(value[name]) for name in names)


def _is_position(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == {"epoch", "step", "trained"}
        and _count(value["epoch"])
        and _count(value["step"])
        and isinstance(value["trained"], bool)
    )


def _is_loader(value: Any) -> bool:
    if not _all(_number)(value):
        return False
    return not value or (_has(PLACE)(value) and all(_count(value[name]) for name in value.keys() - {"seed"}))


def _are_meters(value: Any) -> bool:
    """By name the sums of every rank, all with the same entries."""
    if not (_all(_each(_all(_number)))(value) and value.keys() == {"whole", "recent"} and all(value.values())):
        return False
    sums = [(state, states[0].keys()) for states in value.values() for state in states]
    return all(
        _has(SUMS)(state) and state.keys() == keys and all(_finite(state[name]) for name in SUMS - {"loss"})
        for state, keys in sums
    )


def _is_best(value: Any) -> bool:
    pair = isinstance(value, list) and len(value) == 2 and _finite(value[0]) and _count(value[1])
    return value is None or pair


def _is_result(value: Any) -> bool:
    if value is None or not isinstance(value, dict):
        return value is None
    numbers = {name: one for name, one in value.items() if name not in ("task_errors", "average_precision")}
    if not _all(_number)(numbers):
        return False
    if "average_precision" in value:
        each = _each(lambda one: one is None or _number(one))(value["average_precision"])
        return each and numbers.keys() == RESULT | {"mean_average_precision"}
    return numbers.keys() == RESULT and _each(_number)(value.get("task_errors", []))


ENTRIES: dict[str, Fits] = {
    "version": _count,
    "position": _is_position,
    "loader": _is_loader,
    "meters": _are_meters,
    "best": _is_best,
    "amp": _text,
    "scaler": _all(_number),
    "evaluation": _is_result,
    "settings": _all(_plain),
    "given": _each(_text),
    "learning_rate": lambda value: _finite(value) and value >= 0,
    "weight_decay": _number,
    "epochs": _count,
    "data": _all(_text),
    "origins": _all(_text),
    "log": lambda value: _all(_count)(value) and value.keys() == {".log", ".jsonl"},
    "spent": lambda value: _each(_number)(value) and len(value) == 2,
}
