"""A run that ends when nothing gets better, and what a run that goes on finds."""

import json
from pathlib import Path
from typing import Any

import pytest

from conftest import Run, digits_run
from resnet_v2.config.training import TrainConfig
from resnet_v2.networks.header import read_header
from resnet_v2.training import checkpoint, early_stop, epoch
from resnet_v2.training.evaluation import Evaluation

ERRORS = (50.0, 40.0, 45.0, 40.0, 30.0, 60.0, 60.0)  # behind each epoch
SAID = (
    "Stopped after epoch 4, since 2 epochs brought no better validation error than the 40.00 % of epoch 2: use m-best"
)


class CrashError(Exception):
    pass


@pytest.fixture
def words(few_digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A run whose validations find `ERRORS`."""

    def found(*arguments: Any, **names: Any) -> Evaluation:
        path = checkpoint.latest_path("m")
        done = read_header(path).training["position"]["epoch"] if path.is_file() else 0
        return Evaluation(40, 1.0, ERRORS[done], 0.0)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(epoch, "evaluate", found)
    settings = {"device": "cpu", "epochs": 7, "batch_size": 16, "num_examples": 32, "workers": 0, "model_prefix": "m"}
    return digits_run(few_digits, **settings)


def events() -> list[str]:
    return [json.loads(line)["event"] for line in Path("m.jsonl").read_text().splitlines()]


def test_it_ends_well_and_names_the_best(words: list[str], run: Run) -> None:
    status, out, err = run(*words, "--patience", "2")
    assert status == 0, err
    assert SAID in out
    assert (events()[-1], Path("m-0004.safetensors").is_file(), Path("m-0005.safetensors").exists()) == (
        "finished",
        True,
        False,
    )
    assert read_header(checkpoint.best_path("m")).epoch == 2
    lines = Path("m.jsonl").read_text()
    for more in (["--resume"], ["--resume", "auto"]):
        status, _, err = run(*words, "--patience", "2", *more)
        assert (status, f"m is at its end, epoch 4. {SAID}" in err) == (0, True), err
    assert Path("m.jsonl").read_text() == lines
    status, _, err = run(*words, "--resume", "--patience", "3")
    assert (status, "`patience" in err or "--patience 3, was 2" in err) == (2, True), err
    status, _, err = run(*words, "--resume", "--patience", "0", "--force")
    assert (status, Path("m-0007.safetensors").is_file()) == (0, True), err
    assert read_header(checkpoint.best_path("m")).epoch == 5


def test_a_run_that_has_ended_early_is_no_unfinished_one(words: list[str], run: Run) -> None:
    assert run(*words, "--patience", "2")[0] == 0
    assert checkpoint.unfinished("m") is None
    status, _, err = run(*words, "--patience", "2")
    assert (status, "unfinished" in err) == (0, False), err


def test_killed_before_its_log_says_so_it_ends_its_log(
    words: list[str], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*words, "--patience", "2", "--resume", "auto", "--checkpoint-steps", "1"]
    assert run(*words)[0] == 0
    whole, latest = events(), checkpoint.latest_path("m").read_bytes()
    for path in Path().glob("m*"):
        path.unlink()
    ended = epoch.save

    def die(*arguments: Any) -> None:
        ended(*arguments)
        if arguments[1].epoch == 4 and not arguments[1].step:
            raise CrashError

    with monkeypatch.context() as patch:
        patch.setattr(epoch, "save", die)
        with pytest.raises(CrashError):
            run(*words)
    assert run(*words)[0] == 0
    assert events() == whole
    assert checkpoint.latest_path("m").read_bytes() == latest
    lines = Path("m.jsonl").read_text().splitlines(keepends=True)
    Path("m.jsonl").write_text("".join(lines[:-1]))  # as if it were killed right before its last line
    status, _, err = run(*words)
    assert (status, SAID in err) == (0, True), err
    assert events() == whole
    assert Path("m.log").read_text().count(SAID) == 1


def test_the_last_epoch_is_no_early_end(words: list[str], run: Run) -> None:
    status, out, err = run(*words, "--patience", "2", "--epochs", "4")
    assert (status, "Stopped" in out + err) == (0, False)


def test_when_it_is_over() -> None:
    config = TrainConfig.of(patience=3)
    assert [early_stop.is_over(config, done, (5.0, 2)) for done in (2, 4, 5, 6)] == [False, False, True, True]
    assert not early_stop.is_over(TrainConfig(), 100, (5.0, 2))
    # A retraining counts from where it began.
    again = TrainConfig.of(patience=3, retrain=True, model_load_epoch=20)
    assert [early_stop.is_over(again, done, (5.0, 2)) for done in (21, 22, 23)] == [False, False, True]
    place = {"epoch": 6, "step": 0, "trained": False}
    header = {"position": place, "settings": {"patience": 3}, "best": [5.0, 2]}
    assert early_stop.was_over(header)
    assert not early_stop.was_over({**header, "position": {**place, "step": 2}})
    assert not early_stop.was_over({**header, "settings": {}})
