"""What `--tensorboard` writes, read back with TensorBoard's own reader."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from conftest import Run
from resnet_v2.logs.runlog import RunLog
from resnet_v2.logs.tensorboard import TAGS, open_writer

SMALL = ["--depth", 8, "--batch-size", 32, "--num-examples", 64, "--gpus", "", "--frequent", 1, "--tensorboard"]


def scalars(prefix: Path) -> dict[str, list[tuple[int, float]]]:
    reading: Any = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="missing tensorboard: pip install tensorboard"
    )
    found = reading.EventAccumulator(f"{prefix}.tensorboard")
    found.Reload()
    return {tag: [(one.step, one.value) for one in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def train(digits: Path, prefix: Path, run: Run, *more: object) -> None:
    words = ["train", "--data-dir", digits, "--data-type", "digits", *SMALL, "--model-prefix", prefix, *more]
    assert run(*words)[0] == 0


def test_a_run_in_two_parts(digits: Path, tmp_path: Path, run: Run) -> None:
    pytest.importorskip("tensorboard", reason="missing tensorboard: pip install tensorboard")
    prefix = tmp_path / "m"
    train(digits, prefix, run, "--epochs", 2)
    train(digits, prefix, run, "--epochs", 3, "--retrain", "--model-load-epoch", 2)
    found = scalars(prefix)
    events = [json.loads(line) for line in (tmp_path / "m.jsonl").read_text().splitlines()]
    for kind, tags in TAGS.items():
        for name, tag in tags.items():
            if name == "mean_average_precision":  # of multi labels alone
                assert tag not in found
                continue
            logged = [(event["epoch"], event[name]) for event in events if event["event"] == kind]
            assert [epoch for epoch, _ in logged] == [0, 1, 2]
            assert dict(found[tag]) == pytest.approx(dict(logged), rel=1e-6)


def test_a_run_that_starts_anew_replaces_it_and_a_kill_loses_nothing(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="missing tensorboard: pip install tensorboard")
    prefix = tmp_path / "m"
    for errors in ((50.0, 40.0, 30.0), (20.0,)):
        log = RunLog(str(prefix), append=False, echo=lambda line: None, listener=open_writer(str(prefix), append=False))
        log.start({"depth": 20}, "cpu")
        for epoch, error in enumerate(errors):
            log.validated(epoch, top1_error=error, top5_error=1.0, images=10)
        assert scalars(prefix)["error/top-1 (%)"] == list(enumerate(errors))  # the log is still open
        log.close()
    assert scalars(prefix)["error/top-1 (%)"] == [(0, 20.0)]


def test_without_the_package(digits: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard.summary.writer.event_file_writer", None)
    status, _, err = run(
        "train", "--data-dir", digits, "--data-type", "digits", *SMALL, "--model-prefix", tmp_path / "m"
    )
    assert status == 2
    assert "pip install -e '.[tensorboard]'" in err
    assert not (tmp_path / "m.log").exists()
