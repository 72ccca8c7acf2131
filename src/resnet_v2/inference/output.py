"""Predictions as text, as JSON and as CSV."""

import csv
import io
import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from tqdm import tqdm

from resnet_v2.console import counted, say
from resnet_v2.errors import printable
from resnet_v2.inference.predict import Answer, Prediction, TaskAnswer

CSV_HEADER, TASKS_CSV_HEADER = "image,rank,class,name,probability", "image,task,rank,class,name,probability"


def print_all(predictions: Iterable[Prediction], form: str, tasks: bool = False) -> int:
    """Print predictions as they come, in a form of WRITERS, or as one JSON `list`; returns how many were unreadable.

    `tasks`: they are of several tasks.
    """
    listed, unreadable, warned = [], 0, list[Prediction]()
    if form == "csv":
        print(TASKS_CSV_HEADER if tasks else CSV_HEADER)
    for prediction in predictions:
        warned += [prediction] if prediction.warning else []
        if prediction.problem:
            unreadable += 1
            say(f"resnet-v2: {prediction.problem}")
        elif form == "list":
            listed.append(as_json(prediction))
        elif form != "csv" or prediction.answers:  # a picture may have none of the classes, and so no row
            tqdm.write(WRITERS[form](prediction))
    if form == "list":
        print(json_text(listed))
    _tell_of(warned)
    return unreadable


def _tell_of(warned: Sequence[Prediction]) -> None:
    """One sentence for all of them: of thousands a sentence each would hide what else is said."""
    if warned:
        others = len(warned) - 1
        more = f"; the same holds for {counted(others, 'other picture')}" if others else ""
        say(f"warning: {printable(warned[0].name)}: {warned[0].warning}{more}.")


def as_json(prediction: Prediction) -> dict[str, Any]:
    """{"image": name, "top": [{"class": number, "name": name, "probability": share}, ...]}.

    It has a "warning" where there is one. Of several tasks it has "tasks" in place of "top": a list of such lists.
    """
    warning = {"warning": prediction.warning} if prediction.warning else {}
    by_task = _by_task(prediction)
    if not by_task:
        return {"image": prediction.name, "top": [_entry(answer) for answer in prediction.answers]} | warning
    return {"image": prediction.name, "tasks": [[_entry(answer) for answer in its] for its in by_task]} | warning


def _entry(answer: Answer) -> dict[str, Any]:
    return {"class": answer.class_index, "name": answer.name, "probability": answer.probability}


def _by_task(prediction: Prediction) -> list[list[Answer]]:
    """The answers of each task, none where there are no tasks."""
    tasks: dict[int, list[Answer]] = {}
    for answer in prediction.answers:
        if isinstance(answer, TaskAnswer):
            tasks.setdefault(answer.task, []).append(answer)
    return list(tasks.values())


def text(prediction: Prediction) -> str:
    """The name, and a line for each class; of several tasks below a line for each of them."""
    lines = [printable(prediction.name)]
    by_task = _by_task(prediction)
    for task, answers in enumerate(by_task):
        lines += [f"  task {task}", *map(_line, answers)]
    if not by_task:
        lines += [*map(_line, prediction.answers)] or ["  none of the classes"]
    return "\n".join(lines)


def _line(answer: Answer) -> str:
    return f"  {100 * answer.probability:6.2f} %  {printable(answer.name)}"


def json_line(prediction: Prediction) -> str:
    """What `as_json` gives, on one line."""
    return json_text(as_json(prediction))


def json_text(value: Any) -> str:
    """JSON with letters as they are, where standard output has them all."""
    return json.dumps(value, ensure_ascii=not (sys.stdout.encoding or "").lower().startswith("utf"))


def csv_rows(prediction: Prediction) -> str:
    """One row for each class; names with commas or quotes are quoted (RFC 4180)."""
    lines = []
    answers = [one for its in _by_task(prediction) or [list(prediction.answers)] for one in enumerate(its, start=1)]
    for rank, answer in answers:
        line, task = io.StringIO(), [answer.task] if isinstance(answer, TaskAnswer) else []
        # Not "\n" alone: a name with the other end of line in it must be quoted too.
        row = [prediction.name, *task, rank, answer.class_index, answer.name, f"{answer.probability:.6f}"]
        csv.writer(line, lineterminator="\r\n").writerow(row)
        lines.append(line.getvalue().removesuffix("\r\n"))
    return "\n".join(lines)


WRITERS = {"text": text, "jsonl": json_line, "csv": csv_rows}
