"""Whole ways of people who have never met the program, command by command, as docs/using.md tells and times them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from conftest import Run
from resnet_v2.data.index import index_path
from resnet_v2.data.records import RecordReader
from test_export import needs_onnx


@pytest.fixture
def folder_of_2016(trained: str, digits: Path, tmp_path: Path, run: Run) -> Path:
    """What is left of a project of the MXNet years: records with their lists, a model, its log, the classes' names."""
    folder = tmp_path / "2016"
    folder.mkdir()
    for part in ("train", "val"):
        for ending in (".rec", ".lst"):
            shutil.copy(digits / f"digits_{part}{ending}", folder / f"digits_{part}{ending}")
        shutil.copy(index_path(digits / f"digits_{part}.rec"), folder)
    shutil.copy(digits / "synset.txt", folder)
    shutil.copy(f"{trained}.log", folder / "resnet-8.log")
    assert run("export", "--prefix", trained, "--epoch", 4, "--to", "mxnet", "--out", folder / "resnet-8")[0] == 0
    return folder


@needs_onnx
def test_a_veteran_comes_to_curves_evaluation_and_onnx(
    folder_of_2016: Path, trained: str, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in folder_of_2016.iterdir()}
    monkeypatch.chdir(folder_of_2016)
    status, out, _ = run("plot", "--logs", "resnet-8.log", "--out", tmp_path / "curves.png")
    assert (status, (tmp_path / "curves.png").read_bytes()[:4]) == (0, b"\x89PNG")
    assert "resnet-8" in out
    status, out, _ = run(
        "evaluate", "--prefix", "resnet-8", "--epoch", 4, "--rec", "digits_val.rec", "--gpus", "", "--json"
    )
    assert status == 0
    own = run("evaluate", "--prefix", trained, "--epoch", 4, "--rec", "digits_val.rec", "--gpus", "", "--json")[1]
    assert json.loads(out)["top1_error"] == json.loads(own)["top1_error"]
    assert {path.name: path.read_bytes() for path in folder_of_2016.iterdir()} == before
    status, out, _ = run("export", "--prefix", "resnet-8", "--epoch", 4, "--to", "onnx")
    assert (status, "resnet-8-0004.onnx" in out) == (0, True)
    words = (
        "predict",
        "--prefix",
        "resnet-8",
        "--epoch",
        4,
        "--img",
        "digits_val.rec",
        "--json",
        "--synset",
        "synset.txt",
    )
    by_torch, by_onnx = (json.loads(run(*words, "--engine", engine)[1]) for engine in ("torch", "onnx"))
    assert len(by_torch) == len(RecordReader(Path("digits_val.rec"))) == 364
    firsts = [[one["top"][0]["probability"] for one in answers] for answers in (by_torch, by_onnx)]
    np.testing.assert_allclose(firsts[0], firsts[1], atol=1e-4)
    assert by_onnx[0]["top"][0]["name"] in Path("synset.txt").read_text().split("\n")
