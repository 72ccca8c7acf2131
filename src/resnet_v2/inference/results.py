"""What `Classifier.classify` gives: lists of answers, which notebooks show beside the pictures; and tables of them."""

import base64
import html
import io
from collections.abc import Iterable, Iterator
from typing import Any

import cv2
import numpy as np
import PIL.Image
from numpy.typing import NDArray

from resnet_v2.data.jpeg import Image
from resnet_v2.inference.predict import Answer, TaskAnswer
from resnet_v2.interchange.optional import package

SHOWN = 32  # pictures of a batch that are kept for notebooks, and shown there
SIDE = 96  # pixels of such a picture at most
PICTURE = '<td style="text-align:left;vertical-align:top"><img alt="{}" src="data:image/png;base64,{}"></td>'
BAR = (
    '<div style="display:flex;align-items:center;gap:.5em"><span style="width:12em">{}</span>'
    '<span style="width:10em;border:1px solid #8888"><span style="display:block;height:.8em;width:{:.1f}%;'
    'background:#4a7ab5"></span></span><span>{:.2f} %</span></div>'
)


class Answers(list[Answer]):
    """What a picture shows, the most probable class first; a list of `Answer`, of several tasks of `TaskAnswer`.

    `image` is the picture's path, or its number in the batch. A notebook shows the picture, as the network saw it, and
    a bar for each class.
    """

    def __init__(self, answers: Iterable[Answer] = (), image: str = "", crop: Image | None = None) -> None:
        super().__init__(answers)
        self.image = image
        self._picture = None if crop is None else _small(crop)

    def to_frame(self) -> Any:
        """A pandas DataFrame with a row for each answer, with the columns of `Results.to_frame`."""
        return Results([self]).to_frame()

    def _repr_html_(self) -> str:
        return f"<table>{self._row()}</table>"

    def _row(self) -> str:
        about = html.escape(self.image)
        picture = "" if self._picture is None else PICTURE.format(about, _png(self._picture))
        task, lines = None, []
        for answer in self:
            if isinstance(answer, TaskAnswer) and answer.task != task:
                task = answer.task
                lines.append(f"<div>task {task}</div>")
            lines.append(BAR.format(html.escape(answer.name), *[100 * answer.probability] * 2))
        words = "".join(lines) or "<div>none of the classes</div>"
        return f'<tr>{picture}<td style="text-align:left"><div><b>{about}</b></div>{words}</td></tr>'


class Results(list[Answers]):
    """The answers for a batch: a list of `Answers`, in the order of the pictures."""

    def to_frame(self) -> Any:
        """A pandas DataFrame with a row for each answer: image, rank (from 1), class, name, probability; of several
        tasks also task. A picture that has none of the classes of multi labels has no row.

        Raises ResnetError where pandas is not installed.
        """
        pandas = package("pandas", "features")
        tasks = any(isinstance(answer, TaskAnswer) for answers in self for answer in answers)
        columns = ["image", *(["task"] if tasks else []), "rank", "class", "name", "probability"]
        rows = [row for answers in self for row in _rows(answers)]
        return pandas.DataFrame.from_records(rows, columns=columns)

    def _repr_html_(self) -> str:
        more = f"<p>and {len(self) - SHOWN} more</p>" if len(self) > SHOWN else ""
        return f"<table>{''.join(answers._row() for answers in self[:SHOWN])}</table>{more}"


def _rows(answers: Answers) -> Iterator[tuple[object, ...]]:
    task, rank = None, 0
    for answer in answers:
        if isinstance(answer, TaskAnswer):
            rank, task = (1 if answer.task != task else rank + 1), answer.task
            yield answers.image, task, rank, answer.class_index, answer.name, answer.probability
        else:
            rank += 1
            yield answers.image, rank, answer.class_index, answer.name, answer.probability


def _small(crop: Image) -> NDArray[np.uint8]:
    """At most SIDE pixels a side: of many pictures their crops would be much to keep."""
    if crop.shape[0] <= SIDE:
        return crop.copy()
    return np.asarray(cv2.resize(crop, (SIDE, SIDE), interpolation=cv2.INTER_AREA), np.uint8)


def _png(pixels: NDArray[np.uint8]) -> str:
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
