"""Every long command tells in a file how far it is, on the standard error alone."""

from pathlib import Path

import pytest

from conftest import Run
from resnet_v2 import console


@pytest.fixture(autouse=True)
def talkative(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every unit gets its line."""
    monkeypatch.setattr(console, "SHORTEST_SILENCE", 0.0)
    monkeypatch.setattr(console, "LONGEST_SILENCE", 0.0)


def test_the_commands_of_records(class_folder: Path, tmp_path: Path, run: Run) -> None:
    prefix, rec = tmp_path / "a", tmp_path / "a_train.rec"
    told = {
        "list": (class_folder, prefix),
        "pack": (f"{prefix}_train.lst", class_folder, rec),
        "index": (rec,),
        "verify": (rec,),
        "convert": (rec, tmp_path / "b.rec"),
        "unpack": (rec, tmp_path / "files"),
    }
    wanted = {
        "list": "a_train.lst: 24 of 24 img, ",
        "pack": "a_train.rec: 24 of 24 img, ",
        "index": " MB, ",
        "verify": " MB, ",
        "convert": "b.rec: 24 of 24 img, ",
        "unpack": "files: 24 of 24 img, ",
    }
    nexts = {
        "list": f"next: resnet-v2 pack {prefix}_train.lst {class_folder} {prefix}_train.rec",
        "pack": f"next: resnet-v2 verify {rec}",
        "convert": f"next: resnet-v2 verify {tmp_path / 'b.rec'}",
    }
    for command, words in told.items():
        status, out, err = run(command, *words)
        assert status == 0, err
        assert wanted[command] in err, command
        assert "img/s" not in out
        assert "MB/s" not in out
        assert "\r" not in err  # no bar in a file
        if command in nexts:
            assert err.splitlines()[-1] == nexts[command]


def test_the_commands_of_networks(trained: str, few_digits: Path, run: Run) -> None:
    val = few_digits / "digits_val.rec"
    for words, line in (
        (("evaluate", "--prefix", trained, "--rec", val, "--workers", 0), "evaluate: 40 of 40 img, "),
        (("predict", "--prefix", trained, "--img", val), "predict: 40 of 40 img, "),
        (("compare", trained, trained, "--rec", val), "evaluate: 40 of 40 img, "),
        (("card", "--prefix", trained, "--rec", val), "evaluate: 40 of 40 img, "),
    ):
        status, out, err = run(*words)
        assert status == 0, err
        assert line in err
        assert "img/s" not in out
