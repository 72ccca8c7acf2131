"""Predictions as text, as JSON and as CSV."""

import csv
import io
import json
from typing import Any

from resnet_v2.inference.predict import Prediction

CSV_HEADER = "image,rank,class,name,probability"


def as_json(prediction: Prediction) -> dict[str, Any]:
    """{"image": name, "top": [{"class": number, "name": name, "probability": share}, ...]}."""
    top = [{"class": a.class_index, "name": a.name, "probability": a.probability} for a in prediction.answers]
    return {"image": prediction.name, "top": top}


def text(prediction: Prediction) -> str:
    """The name, and a line for each class."""
    lines = [f"  {100 * answer.probability:6.2f} %  {answer.name}" for answer in prediction.answers]
    return "\n".join([prediction.name, *lines])


def json_line(prediction: Prediction) -> str:
    """What `as_json` gives, on one line."""
    return json.dumps(as_json(prediction), ensure_ascii=False)


def csv_rows(prediction: Prediction) -> str:
    """One row for each class; names with commas or quotes are quoted (RFC 4180)."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    for rank, answer in enumerate(prediction.answers, start=1):
        rows.writerow([prediction.name, rank, answer.class_index, answer.name, f"{answer.probability:.6f}"])
    return text.getvalue().removesuffix("\n")


WRITERS = {"text": text, "jsonl": json_line, "csv": csv_rows}
