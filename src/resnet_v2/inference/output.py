"""Predictions as text, as JSON and as CSV."""

import csv
import io
import json
import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

from resnet_v2.console import say
from resnet_v2.errors import printable
from resnet_v2.inference.predict import Prediction

CSV_HEADER = "image,rank,class,name,probability"


def print_all(predictions: Iterable[Prediction], form: str) -> int:
    """Print predictions as they come, in a form of WRITERS, or as one JSON `list`; returns how many were unreadable."""
    listed, unreadable = [], 0
    if form == "csv":
        print(CSV_HEADER)
    for prediction in predictions:
        if prediction.problem:
            unreadable += 1
            say(f"resnet-v2: {prediction.problem}")
        elif form == "list":
            listed.append(as_json(prediction))
        else:
            tqdm.write(WRITERS[form](prediction))
    if form == "list":
        print(json_text(listed))
    return unreadable


def as_json(prediction: Prediction) -> dict[str, Any]:
    """{"image": name, "top": [{"class": number, "name": name, "probability": share}, ...]}."""
    top = [{"class": a.class_index, "name": a.name, "probability": a.probability} for a in prediction.answers]
    return {"image": prediction.name, "top": top}


def text(prediction: Prediction) -> str:
    """The name, and a line for each class."""
    lines = [f"  {100 * answer.probability:6.2f} %  {printable(answer.name)}" for answer in prediction.answers]
    return "\n".join([printable(prediction.name), *lines])


def json_line(prediction: Prediction) -> str:
    """What `as_json` gives, on one line."""
    return json_text(as_json(prediction))


def json_text(value: Any) -> str:
    """JSON with letters as they are, where standard output has them all."""
    return json.dumps(value, ensure_ascii=not (sys.stdout.encoding or "").lower().startswith("utf"))


def csv_rows(prediction: Prediction) -> str:
    """One row for each class; names with commas or quotes are quoted (RFC 4180)."""
    lines = []
    for rank, answer in enumerate(prediction.answers, start=1):
        line = io.StringIO()
        # Not "\n" alone: a name with the other end of line in it must be quoted too.
        row = [prediction.name, rank, answer.class_index, answer.name, f"{answer.probability:.6f}"]
        csv.writer(line, lineterminator="\r\n").writerow(row)
        lines.append(line.getvalue().removesuffix("\r\n"))
    return "\n".join(lines)


WRITERS = {"text": text, "jsonl": json_line, "csv": csv_rows}
