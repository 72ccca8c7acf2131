"""The page's answers for several pictures at once: a table, and the same as CSV."""

import base64
import html
from collections.abc import Callable, Iterable, Iterator

from resnet_v2.errors import ResnetError, printable
from resnet_v2.inference.output import CSV_HEADER, csv_rows
from resnet_v2.inference.pictures import prepare
from resnet_v2.inference.predict import Prediction, Predictor

# gradio shows it as it is, among rules of its own for tables and lists, which are overruled.
# The bars are pictures of the numbers beside them, so a screen reader passes them over.
STYLE = """<style>
.several{width:100%;table-layout:fixed;border-collapse:collapse;margin:0 0 .8rem!important}
.several tr{border:0!important}
.several th:first-child{width:30%}
.several th,.several td{text-align:left;vertical-align:top;padding:.4rem!important;overflow-wrap:anywhere}
.several th,.several td{border:0 solid var(--border-color-primary,#8888)!important;border-bottom-width:1px!important}
.several ol{list-style:none;margin:0!important;padding:0!important}
.several li{margin:0!important;padding:0!important;display:grid;gap:.5rem;align-items:center}
.several li{grid-template-columns:minmax(0,3fr) 4.2rem minmax(0,2fr)}
.several li b{font-weight:inherit;text-align:right;white-space:nowrap}
.several i{display:block;height:.7rem;background:var(--color-accent,#c2410c)}
</style>"""


def name_all(
    predictor: Predictor, pictures: Iterable[tuple[str, Callable[[], bytes]]], top: int
) -> Iterator[Prediction]:
    """The `top` classes of each picture, which is read when its turn comes; one that is none has its problem."""
    for name, read in pictures:
        try:
            shares = predictor.shares(prepare(read(), predictor.view, name)[None])
        except ResnetError as error:
            yield Prediction(name, (), problem=str(error))
        else:
            yield Prediction(name, predictor.answers(shares[0], top, least=0.0))


def table(predictions: list[Prediction]) -> str:
    """The answers as HTML: a row for each picture, with bars."""
    rows = [f'<tr><th scope="row">{_text(one.name)}</th><td>{_answer(one)}</td></tr>' for one in predictions]
    head = '<tr><th scope="col">picture</th><th scope="col">what it is</th></tr>'
    return f'{STYLE}<table class="several">{head}{"".join(rows)}</table>{csv_link(predictions)}'


def csv_link(predictions: list[Prediction]) -> str:
    """A link to the answers as `predict --format csv` prints them; its address holds them, so nothing is asked for."""
    rows = [CSV_HEADER, *(csv_rows(one) for one in predictions if one.answers)]
    data = base64.b64encode(("\n".join(rows) + "\n").encode("utf-8", "backslashreplace")).decode()
    return f'<p><a download="answers.csv" href="data:text/csv;charset=utf-8;base64,{data}">Answers as CSV</a></p>'


def _answer(prediction: Prediction) -> str:
    if prediction.problem:
        return _text(prediction.problem)
    bars = [
        f"<li><span>{_text(one.name)}</span><b>{100 * one.probability:.2f} %</b>"
        f'<i aria-hidden="true" style="width:{100 * one.probability:.1f}%"></i></li>'
        for one in prediction.answers
    ]
    return f"<ol>{''.join(bars)}</ol>"


def _text(text: str) -> str:
    return html.escape(printable(text))
