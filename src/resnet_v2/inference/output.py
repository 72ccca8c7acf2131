"""Predictions as text, as JSON and as CSV."""

import csv
import io
import json
from collections.abc import Callable
from typing import Any, Literal

from resnet_v2.inference.predict import Prediction

Form = Literal["text", "jsonl", "csv"]
CSV_HEADER = "image,rank,class,name,probability"


def writer(form: Form) -> Callable[[Prediction], str]:
    """The function that makes the lines of one prediction."""
    return {"text": _text, "jsonl": _json_line, "csv": _csv_rows}[form]


def as_json(prediction: Prediction) -> dict[str, Any]:
    """{"image": name, "top": [{"class": number, "name": name, "probability": share}, ...]}."""
    top = [{"class": a.class_index, "name": a.name, "probability": a.probability} for a in prediction.answers]
    return {"image": prediction.name, "top": top}


def _text(prediction: Prediction) -> str:
    lines = [f"  {100 * answer.probability:6.2f} %  {answer.name}" for answer in prediction.answers]
    return "\n".join([prediction.name, *lines])


def _json_line(prediction: Prediction) -> str:
    return json.dumps(as_json(prediction), ensure_ascii=False)


def _csv_rows(prediction: Prediction) -> str:
    """One row for each class; names with commas or quotes are quoted (RFC 4180)."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    for rank, answer in enumerate(prediction.answers, start=1):
        rows.writerow([prediction.name, rank, answer.class_index, answer.name, f"{answer.probability:.6f}"])
    return text.getvalue().removesuffix("\n")
