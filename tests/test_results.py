"""Answers in Python: tables, notebooks, pickles, threads."""

import ast
import base64
import copy
import json
import pickle
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import resnet_v2
from conftest import picture, read_image
from resnet_v2.data.records import IRHeader, pack, writing
from resnet_v2.inference.predict import TaskAnswer
from resnet_v2.inference.results import SHOWN, SIDE, Answers, Results


@pytest.fixture
def classifier() -> resnet_v2.Classifier:
    return resnet_v2.load()


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    made = [tmp_path / f"{number}.png" for number in range(4)]
    for number, path in enumerate(made):
        assert cv2.imwrite(str(path), picture(number, 32, 32))
    return made


def pictures_in(html: str) -> list[NDArray[np.uint8]]:
    found = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    data = [np.frombuffer(base64.b64decode(one), np.uint8) for one in found]
    return [np.asarray(cv2.imdecode(one, cv2.IMREAD_COLOR_RGB), np.uint8) for one in data]


def test_a_table_has_a_row_for_each_answer(classifier: resnet_v2.Classifier, paths: list[Path]) -> None:
    pandas = pytest.importorskip("pandas", reason="missing pandas: pip install -e '.[features]'")
    found = classifier.classify([*paths[:2], paths[2].read_bytes()], top=3)
    frame = found.to_frame()
    assert isinstance(frame, pandas.DataFrame)
    assert list(frame.columns) == ["image", "rank", "class", "name", "probability"]
    assert frame["image"].tolist() == [str(paths[0])] * 3 + [str(paths[1])] * 3 + ["2"] * 3
    assert frame["rank"].tolist() == [1, 2, 3] * 3
    assert frame["name"].tolist() == [answer.name for answers in found for answer in answers]
    assert frame["probability"].tolist() == [answer.probability for answers in found for answer in answers]
    alone = classifier.classify(paths[1], top=3)
    assert alone.to_frame()["name"].tolist() == frame["name"][3:6].tolist()
    assert alone.to_frame()["image"].tolist() == [str(paths[1])] * 3
    assert list(Results().to_frame().columns) == list(frame.columns)


def test_a_table_of_tasks() -> None:
    pytest.importorskip("pandas", reason="missing pandas: pip install -e '.[features]'")
    answers = [TaskAnswer(2, "red", 0.75, 0), TaskAnswer(0, "blue", 0.25, 0), TaskAnswer(1, "coat", 1.0, 1)]
    frame = Answers(answers, "a.jpg").to_frame()
    assert list(frame.columns) == ["image", "task", "rank", "class", "name", "probability"]
    assert frame.values.tolist() == [
        ["a.jpg", 0, 1, 2, "red", 0.75],
        ["a.jpg", 0, 2, 0, "blue", 0.25],
        ["a.jpg", 1, 1, 1, "coat", 1.0],
    ]


def test_without_pandas_a_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(resnet_v2.ResnetError, match=r"pandas is not installed; .*'\.\[features\]'"):
        Results().to_frame()


def test_a_notebook_shows_pictures_and_bars(classifier: resnet_v2.Classifier, paths: list[Path]) -> None:
    found = classifier.classify(paths, top=2)
    page = found._repr_html_()
    shown = pictures_in(page)
    assert [np.array_equal(one, read_image(path)) for one, path in zip(shown, paths, strict=True)] == [True] * 4
    for answers in found:
        for answer in answers:
            width, told = f"width:{100 * answer.probability:.1f}%", f"{100 * answer.probability:.2f} %"
            assert width in answers._repr_html_() and told in answers._repr_html_()
            assert width in page
    assert not re.search(r"https?:|<script|<link", page)
    assert found[0]._repr_html_().count("<img") == 1


def test_what_a_notebook_shows_is_escaped_and_bounded(classifier: resnet_v2.Classifier, tmp_path: Path) -> None:
    page = Answers([resnet_v2.Answer(0, "<i>&", 0.5)], '"><script>')._repr_html_()
    assert "<script>" not in page and "<i>" not in page and "&lt;i&gt;&amp;" in page
    assert "none of the classes" in Answers([], "a")._repr_html_()
    many = classifier.classify(np.zeros((SHOWN + 3, 32, 32, 3), np.uint8), top=1)
    assert many._repr_html_().count("<img") == SHOWN and "and 3 more" in many._repr_html_()
    large = Answers([], "a", picture(1, 224, 224))
    assert pictures_in(large._repr_html_())[0].shape == (SIDE, SIDE, 3)


def test_a_batch_that_is_reused_does_not_change_what_was_shown(classifier: resnet_v2.Classifier) -> None:
    batch = np.stack([picture(1, 32, 32)])
    found, before = classifier.classify(batch), batch[0].copy()
    batch[:] = 0
    assert np.array_equal(pictures_in(found._repr_html_())[0], before)


@pytest.mark.parametrize("made", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])  # noqa: S301
def test_copies_and_pickles(
    classifier: resnet_v2.Classifier, paths: list[Path], made: Callable[[Any], Any], tmp_path: Path
) -> None:
    other, found = made(classifier), classifier.classify(paths)
    assert repr(other) == repr(classifier) and other.header == classifier.header
    again = other.classify(paths)
    assert again == found == made(found)
    assert made(found)._repr_html_() == found._repr_html_() and made(found[0]).image == found[0].image
    assert made(found[0][0]) == found[0][0]
    with writing(tmp_path / "a.rec") as writer:
        writer.write(0, pack(IRHeader(0, 1.0, 0, 0), paths[0].read_bytes()))
    result = classifier.evaluate(tmp_path / "a.rec")
    assert made(result) == result
    other.network.reset_classifier(3)
    assert other.header.class_names == () and len(classifier.class_names) == 10


@pytest.mark.parametrize("training", [False, True])
def test_fifty_threads_get_the_answers_of_one(classifier: resnet_v2.Classifier, training: bool) -> None:
    images = [picture(seed, 32, 32) for seed in range(60)]
    wanted = [classifier.classify(image) for image in images]
    classifier.network.train(training)
    state = {name: tensor.clone() for name, tensor in classifier.network.state_dict().items()}
    with ThreadPoolExecutor(50) as pool:
        found = list(pool.map(classifier.classify, images))
    assert found == wanted
    assert all(module.training == training for module in classifier.network.modules())
    assert all(torch.equal(tensor, state[name]) for name, tensor in classifier.network.state_dict().items())


def last_values(cells: list[str]) -> list[Any]:
    """What each cell of a notebook shows: the value of its last line, where that is an expression."""
    names: dict[str, Any] = {}
    shown = []
    for cell in cells:
        *before, last = ast.parse(cell).body
        assert isinstance(last, ast.Expr)
        exec(compile(ast.Module(list(before), []), "cell", "exec"), names)
        shown.append(eval(compile(ast.Expression(last.value), "cell", "eval"), names))
    return shown


def test_the_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pandas", reason="missing pandas: pip install -e '.[features]'")
    notebook = json.loads((Path(__file__).parents[1] / "examples" / "answers.ipynb").read_text())
    assert notebook["nbformat"] == 4
    (tmp_path / "pictures").mkdir()
    for number in range(2):
        assert cv2.imwrite(str(tmp_path / "pictures" / f"{number}.jpg"), picture(number, 60, 50))
    monkeypatch.chdir(tmp_path)
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    network, answers, frame, shape, module = last_values(cells)
    assert repr(network).startswith("Classifier(ResNet-14-v2") and isinstance(module, torch.nn.Module)
    assert answers._repr_html_().count("<img") == 2 and frame._repr_html_().count("pictures/") == 6
    assert shape == network.features(np.zeros((2, 32, 32, 3), np.uint8)).shape
