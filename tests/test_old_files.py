"""Files of earlier versions, which users hold: a checkpoint amid an epoch with its logs, a record, a list.

tests/files/version-1 was written by the version before the header had a number: `train --data-dir digits --data-type
digits --depth 8 --device cpu --batch-size 32 --num-examples 96 --epochs 3 --milestones 2 --frequent 2 --threads 1
--wd 0.0005 --model-prefix m`, stopped in epoch 1, batch 2; whole.jsonl is the log of the run that was not stopped.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import resnet_v2
from conftest import Run
from resnet_v2.data.lists import read_list
from resnet_v2.data.records import RecordReader
from resnet_v2.data.sidecar import Rows
from resnet_v2.logs.runlog import read_curve
from resnet_v2.networks.header import read_header

FILES = Path(__file__).parent / "files" / "version-1"


def events(path: Path, kind: str) -> list[dict[str, Any]]:
    return [event for event in map(json.loads, path.read_text().splitlines()) if event["event"] == kind]


def test_a_stopped_run_goes_on(digits: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("m-latest.safetensors", "m.log", "m.jsonl"):
        shutil.copy(FILES / name, tmp_path)
    (tmp_path / "digits").symlink_to(digits)
    monkeypatch.chdir(tmp_path)
    with Path("m.log").open("a") as file:
        file.write("INFO:root:of what the run did after its last checkpoint\n")
    status, _, err = run("train", "--model-prefix", "m", "--resume", "--device", "cpu")
    assert status == 0, err
    text = Path("m.log").read_text()
    assert "of what the run did" not in text
    assert text.count("Epoch[1] Batch [2]") == 1
    for kind in ("train", "validation"):
        ours, whole = events(Path("m.jsonl"), kind), events(FILES / "whole.jsonl", kind)
        assert [event["epoch"] for event in ours] == [0, 1, 2]
        # Other processors round otherwise; a lost momentum or place would show in the second digit.
        assert [event["loss"] for event in ours] == pytest.approx([event["loss"] for event in whole], rel=0.003)
    before = read_header(FILES / "m-latest.safetensors").training["meters"]["whole"][0]["seconds"]
    assert events(Path("m.jsonl"), "train")[1]["seconds"] > before
    header = read_header(Path("m-0003.safetensors"))
    assert header.training["version"] == 2
    assert header.training["weight_decay"] == 0.0005


def test_a_checkpoint_answers(digits: Path) -> None:
    classifier = resnet_v2.load(FILES / "m-latest.safetensors")
    assert len(classifier.classify(digits / "examples" / "3.png", top=10)) == 10


def test_logs_are_read() -> None:
    assert read_curve(FILES / "m.log").top1 == pytest.approx(read_curve(FILES / "m.jsonl").top1, abs=1e-3)
    assert sorted(read_curve(FILES / "whole.jsonl").top1) == [0, 1, 2]


def test_a_record_and_its_list_are_read() -> None:
    reader, entries = RecordReader(FILES / "small.rec"), list(read_list(FILES / "small.lst"))
    assert len(reader) == len(entries) == 4
    rows = Rows.of(reader)
    for ordinal, entry in enumerate(entries):
        header, data = reader.image(ordinal)
        assert float(np.ravel(header.label)[0]) == entry.labels[0]
        assert bytes(data[:2]) == b"\xff\xd8"
        assert len(rows.segments(ordinal)) >= 0
