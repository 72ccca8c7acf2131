"""A run that is killed, again and again, ends as one that never was; one that is told to stop says where it is."""

import itertools
import json
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from conftest import Run
from processes import Command, perform_on_a_slow_disk
from resnet_v2.config.training import arguments_of
from resnet_v2.errors import ResnetError
from resnet_v2.logs import runlog
from resnet_v2.networks import weights
from resnet_v2.networks.architecture import Architecture
from resnet_v2.networks.finding import checkpoint_path, saved_epochs
from resnet_v2.networks.header import Header, read_header
from resnet_v2.training import checkpoint, epoch, evaluate
from resnet_v2.training.step import Trainer

# What a clock or the machine says.
MEASURED = {"time", "seconds", "samples_per_second", "step_ms", "data_wait", "memory_mib", "clock", "text_bytes"}


def command(digits: Path, **changes: Any) -> list[str]:
    """A run of 20 steps per epoch that saves where it is after every second one."""
    settings: dict[str, object] = {
        "data_dir": digits,
        "data_type": "digits",
        "depth": 8,
        "device": "cpu",
        "batch_size": 16,
        "num_examples": 320,
        "epochs": 10,
        "milestones": "6,8",
        "frequent": 3,
        "checkpoint_steps": 2,
        "workers": 0,
        "resume": "auto",
        "model_prefix": "m",
        "aug_level": 3,
        "ema": 0.9,
        "clip_norm": 5.0,
    }
    return ["train", *arguments_of(settings | changes)]


def place(folder: Path) -> tuple[int, int]:
    """Epoch and step of the last saving."""
    path = checkpoint.latest_path(str(folder / "m"))
    if not path.is_file():
        return 0, 0
    position = read_header(path).training["position"]
    return position["epoch"], position["step"]


def events(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "m.jsonl").read_text().splitlines()
    return [{name: value for name, value in json.loads(line).items() if name not in MEASURED} for line in lines]


def text(folder: Path) -> str:
    """The text log without what a clock said."""
    log = (folder / "m.log").read_text()
    return re.sub(r"(Speed:|cost=|Step:|data:|Memory:|after|which) ?[\d.]+", r"\1", log)


@pytest.mark.parametrize(("kills", "epochs"), [(2, 3), pytest.param(20, 10, marks=pytest.mark.slow)])
def test_killed_again_and_again_it_ends_with_the_same_bits(
    few_digits: Path, tmp_path: Path, kills: int, epochs: int
) -> None:
    words = command(few_digits, epochs=epochs, milestones=f"{epochs - 2},{epochs - 1}")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    status, output = Command(words, whole).finish()
    assert status == 0, output

    chance = random.Random(1)
    while_writing = 0
    for number in range(kills):
        before = place(killed) if killed.exists() else (0, 0)
        run = Command(words, killed, perform_on_a_slow_disk)
        run.wait_for(lambda before=before: place(killed) > before, "it goes on", 0.002)  # type: ignore[misc]
        if number % 2:
            time.sleep(chance.uniform(0, 0.15))
        else:  # in the middle of writing a checkpoint
            run.wait_for(lambda: list(killed.glob(".m-*.tmp")), "it writes a checkpoint", 0.001)
            while_writing += bool(list(killed.glob(".m-*.tmp")))
        run.kill()
    assert while_writing >= kills // 4
    assert (0, 0) < place(killed) < (epochs, 0)
    status, output = Command(words, killed).finish()
    assert status == 0, output

    assert sorted(path.name for path in whole.iterdir()) == sorted(path.name for path in killed.iterdir())
    _, tensors = weights.read(checkpoint_path(str(killed / "m"), epochs))
    assert any(name.startswith("momentum.") for name in tensors)
    assert any(name.startswith("raw.") for name in tensors)
    for path in whole.glob("*.safetensors"):
        assert path.read_bytes() == (killed / path.name).read_bytes(), path.name
    assert events(whole) == events(killed)
    assert text(whole) == text(killed)
    best = read_header(killed / "m-best.safetensors")
    assert best.errors["top1_error"] == min(event["top1_error"] for event in events(killed) if "top1_error" in event)

    status, output = Command(words, killed).finish()
    assert (status, f"m is at its end, epoch {epochs}" in output) == (0, True)


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130), (signal.SIGHUP, 0), (signal.SIGUSR1, 0)]
)
def test_told_to_stop_it_saves_and_says_so(few_digits: Path, tmp_path: Path, number: int, status: int) -> None:
    run = Command(command(few_digits, checkpoint_steps=0, resume="no", epochs=100), tmp_path)
    run.wait_for(lambda: "Batch [6]" in run.output, "it trains")
    run.send_signal(number)
    found, output = run.finish()
    assert found == status, output
    stopped = re.search(r"stopped in epoch (\d+), batch (\d+); it is all in m-latest\.safetensors", output)
    assert stopped
    assert place(tmp_path) == (int(stopped[1]), int(stopped[2]))
    assert "Traceback" not in output


def test_what_keeps_a_run_from_going_on(
    few_digits: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = command(few_digits, resume="no", epochs=1, num_examples=80)
    assert run(*words[:1], *words[1:], "--resume")[::2] == (
        2,
        "resnet-v2: m-latest.safetensors is missing, so there is no run to go on with; leave --resume out to start "
        "one.\n",
    )
    assert run(*words)[0] == 0
    path = checkpoint.latest_path("m")
    header, tensors = weights.read(path)
    position = {"epoch": 0, "step": 4, "trained": False}
    unfinished = dict(header.training) | {"position": position}
    weights.save(path, tensors, Header(**(vars(header) | {"training": unfinished})))

    status, _, err = run(*words)
    assert (status, "holds an unfinished run (epoch 0 of 1); give --resume to go on with it" in err) == (2, True)
    status, _, err = run(*words, "--resume", "--lr", "0.3", "--aug-level", "1", "--workers", "1")
    assert status == 2
    assert "made with other settings (--lr 0.3, was 0.1; --aug-level 1, was 3)" in err
    # A program that did not know a setting yet did as its default does.
    unfinished["settings"] = {name: value for name, value in unfinished["settings"].items() if name != "bn_wd"}
    weights.save(path, tensors, Header(**(vars(header) | {"training": unfinished})))
    status, _, err = run(*words, "--resume", "--no-bn-wd")
    assert status == 2
    assert "made with other settings (" in err and "bn-wd" in err
    # The default is that of such a run: digits are padded by 4 pixels, ImageNet by none.
    unfinished["settings"].pop("pad")
    weights.save(path, tensors, Header(**(vars(header) | {"training": unfinished})))
    assert "made with other settings (--pad 2, was 4)" in run(*words, "--resume", "--pad", "2")[2]
    assert run(*words, "--force")[0] == 0


def test_only_the_wanted_epochs_are_kept(
    few_digits: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".m-latest.safetensors.0.tmp").write_bytes(b"of a killed run")
    monkeypatch.chdir(tmp_path)
    assert run(*command(few_digits, epochs=4, keep=2, num_examples=48))[0] == 0
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [
        "m-0003.safetensors",
        "m-0004.safetensors",
        "m-best.safetensors",
        "m-latest.safetensors",
        "m.jsonl",
        "m.log",
    ]


def test_the_files_of_a_longer_run_before_do_not_push_out_new_ones(tmp_path: Path) -> None:
    prefix = str(tmp_path / "m")
    for number in (1, 2, 3, 7, 8, 9):
        checkpoint_path(prefix, number).write_bytes(b"")
    checkpoint.tidy(prefix, 3, keep=2)
    assert saved_epochs(prefix) == [2, 3, 7, 8, 9]


def test_a_second_name_takes_no_room(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"weights")
    (tmp_path / "b").write_bytes(b"old")
    checkpoint.name_also(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a").samefile(tmp_path / "b")


def test_names_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "a").write_bytes(b"weights")
    (tmp_path / "b").write_bytes(b"old")
    checkpoint.name_also(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"weights"


class CrashError(Exception):
    pass


def crashing(step: Any, number: int) -> Any:
    steps = itertools.count(1)

    def crash(*arguments: Any) -> Any:
        if next(steps) == number:
            raise CrashError
        return step(*arguments)

    return crash


def test_a_retraining_that_crashes_goes_on_with_the_same_command(
    few_digits: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = {}
    for name in ("whole", "crashed"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        first = command(few_digits, epochs=4, num_examples=48, frequent=1, checkpoint_steps=1)
        assert run(*first)[0] == 0
        again = [*first, "--retrain", "--model-load-epoch", "2", "--lr", "0.0005", "--epochs", "6"]
        if name == "crashed":
            with monkeypatch.context() as patch:
                patch.setattr(Trainer, "step", crashing(Trainer.step, 5))
                with pytest.raises(CrashError):
                    run(*again)
            assert place(Path()) == (3, 1)
        assert run(*again)[0] == 0
        ended[name] = weights.read(checkpoint_path("m", 6))[1]
        rates = [event["learning_rate"] for event in events(Path()) if event["event"] == "train"]
        assert rates[-4:] == [0.0005] * 4
    assert all(torch.equal(ended["whole"][name], ended["crashed"][name]) for name in ended["whole"])


def test_a_run_told_to_stop_in_its_last_validation_ends_without_its_log(
    few_digits: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = command(few_digits, epochs=2, num_examples=48, checkpoint_steps=0)
    validated = evaluate.evaluate

    def told_to_stop(*arguments: Any, **names: Any) -> Any:
        if place(tmp_path) == (1, 0):
            signal.raise_signal(signal.SIGTERM)
        return validated(*arguments, **names)

    with monkeypatch.context() as patch:
        patch.setattr(epoch, "evaluate", told_to_stop)
        run(*words)
    assert read_header(checkpoint.latest_path("m")).training["position"] == {"epoch": 1, "step": 3, "trained": True}
    for ending in ("log", "jsonl"):
        Path(f"m.{ending}").unlink()
    assert run(*words)[0] == 0
    assert (place(tmp_path), events(tmp_path)[-1]["event"]) == ((2, 0), "finished")


def test_a_run_killed_after_its_last_checkpoint_ends_its_log_and_its_epochs(
    few_digits: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = command(few_digits, epochs=2, num_examples=48, keep=1)
    assert run(*words)[0] == 0
    whole, names = events(tmp_path), sorted(path.name for path in tmp_path.iterdir())
    lines = Path("m.jsonl").read_text().splitlines(keepends=True)
    assert [json.loads(line)["event"] for line in lines[-2:]] == ["saved", "finished"]
    for kept in (lines[:-1], lines[:-2]):
        Path("m.jsonl").write_text("".join(kept))
        Path("m-0001.safetensors").write_bytes(Path("m-0002.safetensors").read_bytes())
        Path(".m.lock").touch()
        status, _, said = run(*words)
        assert (status, "is at its end" in said) == (0, True)
        assert events(tmp_path) == whole
        assert sorted(path.name for path in tmp_path.iterdir()) == names
    again = Path("m.jsonl").read_bytes()
    assert run(*words)[0] == 0
    assert Path("m.jsonl").read_bytes() == again


def test_fewer_epochs_than_a_stopped_run_has_behind_it(
    few_digits: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = command(few_digits, epochs=3, num_examples=48, checkpoint_steps=1)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", crashing(Trainer.step, 6))
        with pytest.raises(CrashError):
            run(*words)
    assert place(tmp_path) == (1, 2)
    status, _, err = run(*words, "--epochs", "1", "--force")
    assert (status, "m-latest.safetensors is amid epoch 1, behind --epochs 1; give more" in err) == (2, True), err


def test_killed_between_the_names_of_a_checkpoint_the_best_is_the_best(
    few_digits: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = command(few_digits, epochs=3, num_examples=160, checkpoint_steps=0, ema=0.0, lr=0.02)
    named = checkpoint.name_also

    def die_after_the_first_of_the_last_epoch(path: Path, other: Path) -> None:
        named(path, other)
        if read_header(path).epoch == 3:
            raise CrashError

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "name_also", die_after_the_first_of_the_last_epoch)
        with pytest.raises(CrashError):
            run(*words)
    assert run(*words)[0] == 0
    assert read_header(checkpoint.latest_path("m")).training["best"][1] == 3
    assert read_header(checkpoint.best_path("m")).epoch == 3


def test_a_file_that_is_no_state_of_a_run(
    few_digits: Path, trained: str, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = command(few_digits, epochs=1, num_examples=48)
    _, header, tensors = weights.read_checkpoint(trained)
    path = checkpoint.latest_path("m")
    newer = {**header.training, "version": checkpoint.VERSION + 1}
    unknown = {**header.training, "given": ["depth", "upside_down"]}
    for training, sentence in (
        ({}, "holds weights alone"),
        (newer, "was written by a newer resnet-v2"),
        (unknown, "was made with --upside-down, which this resnet-v2 does not know; update it"),
    ):
        weights.save(path, tensors, replace(header, training=training))
        status, _, err = run(*words)
        assert (status, f"m-latest.safetensors {sentence}" in err) == (2, True), err


def test_a_damaged_latest_state_loses_no_run(
    few_digits: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = command(few_digits, epochs=3, num_examples=48, checkpoint_steps=1, resume="no")
    assert run(*words)[0] == 0
    whole = checkpoint_path("m", 3).read_bytes(), text(tmp_path)
    for name in ("m-0003.safetensors", "m-latest.safetensors"):
        Path(name).unlink()
        Path(name).write_bytes(whole[0][:1000])
    status, _, err = run(*words)
    assert (status, "unfinished run (damaged, but its newest sound epoch may be there); give --resume" in err) == (2, 1)
    status, _, err = run(*words, "--resume")
    assert (status, "m-latest.safetensors is damaged: the run goes on from m-0002.safetensors" in err) == (0, True)
    assert (checkpoint_path("m", 3).read_bytes(), text(tmp_path)) == whole
    for path in Path().glob("*.safetensors"):
        path.unlink()
        path.write_bytes(b"")
    assert run(*words, "--resume")[0] == 2
    assert len(list(Path().glob("*.safetensors"))) == 5


@pytest.mark.parametrize("instead", [Path.mkdir, lambda path: path.symlink_to("nowhere")])
def test_what_is_no_file_in_place_of_the_latest_state_loses_no_run(
    few_digits: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, instead: Callable[[Path], None]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = command(few_digits, epochs=2, num_examples=48, resume="auto")
    assert run(*words)[0] == 0
    before = {path.name: path.read_bytes() for path in Path().glob("m-0*.safetensors")}
    Path("m-latest.safetensors").unlink()
    instead(Path("m-latest.safetensors"))
    status, _, err = run(*words)
    assert (status, "the run goes on from m-0002.safetensors" in err, "m is at its end" in err) == (0, True, True), err
    assert {path.name: path.read_bytes() for path in Path().glob("m-0*.safetensors")} == before


def test_a_validation_that_is_no_number_is_not_saved(
    few_digits: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    # The only step of an epoch has a finite loss, and then the weights are beyond what the next look can hold.
    words = command(few_digits, epochs=1, num_examples=16, lr=1e9, clip_norm=0.0, ema=0.0, checkpoint_steps=0)
    status, _, err = run(*words)
    assert (status, "The validation's loss is nan in epoch 0, which is not saved" in err) == (2, True), err
    assert not list(tmp_path.glob("*.safetensors"))


def test_the_log_names_no_checkpoint_that_is_not_there(
    few_digits: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = command(few_digits, epochs=2, num_examples=48, checkpoint_steps=0)
    assert run(*words)[0] == 0
    whole = text(tmp_path)
    for path in tmp_path.glob("m*"):
        path.unlink()

    def die(*_: object, **__: object) -> None:
        raise CrashError

    for module, name in ((weights, "save"), (runlog.RunLog, "saved")):  # before the file is there, and after that
        with monkeypatch.context() as patch:
            patch.setattr(module, name, die)
            with pytest.raises(CrashError):
                run(*words)
        assert "Saved" not in text(tmp_path)
    assert checkpoint_path("m", 1).is_file()
    checkpoint.name_also(checkpoint_path("m", 1), checkpoint.latest_path("m"))
    checkpoint.name_also(checkpoint_path("m", 1), checkpoint.best_path("m"))
    assert run(*words)[0] == 0
    assert text(tmp_path) == whole


def test_a_reader_that_goes_away_ends_no_run(few_digits: Path, tmp_path: Path) -> None:
    words = command(few_digits, epochs=3, num_examples=48, resume="no")
    piped = f"{shlex.join([sys.executable, '-m', 'resnet_v2', *words])} 2>&1 | head -n 1"
    subprocess.run(["bash", "-o", "pipefail", "-c", piped], cwd=tmp_path, check=True, capture_output=True)
    assert place(tmp_path) == (3, 0)


def test_a_loss_that_is_no_number_is_not_saved(few_digits: Path, tmp_path: Path, run: Run, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    status, _, err = run(*command(few_digits, lr=1e6, clip_norm=0.0, epochs=1, frequent=1000, checkpoint_steps=16))
    assert (status, "the run has diverged" in err) == (2, True)
    assert not list(tmp_path.glob("*.safetensors"))


def test_a_full_disk_leaves_the_last_good_checkpoint(
    few_digits: Path, tmp_path: Path, monkeypatch: Any, run: Run
) -> None:
    monkeypatch.chdir(tmp_path)
    words = command(few_digits, resume="no", epochs=2, num_examples=48, checkpoint_steps=0)
    written = Path.write_bytes

    def write_once(path: Path, data: bytes) -> int:
        if "m-0002" in path.name:
            written(path, b"half")
            raise OSError(28, "No space left on device")
        return written(path, data)

    monkeypatch.setattr(Path, "write_bytes", write_once)
    status, _, err = run(*words)
    assert (status, "m-0002.safetensors is not written: the disk is full" in err) == (2, True)
    assert place(tmp_path) == (1, 0)
    assert sorted(path.name for path in tmp_path.glob("*.safetensors")) == [
        "m-0001.safetensors",
        "m-best.safetensors",
        "m-latest.safetensors",
    ]
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert run(*words, "--resume")[0] == 0
    assert place(tmp_path) == (2, 0)


def test_what_reads_back_differently_is_no_checkpoint(tmp_path: Path, monkeypatch: Any) -> None:
    saved = safetensors.torch.save

    def save_other(tensors: Any, metadata: Any) -> bytes:
        return saved({name: tensor + 1 for name, tensor in tensors.items()}, metadata)

    monkeypatch.setattr(safetensors.torch, "save", save_other)
    header = Header.of_epoch(Architecture(8, 10, "cifar"), 1)
    with pytest.raises(ResnetError, match=r"a\.safetensors is not written: x reads back differently"):
        weights.save(tmp_path / "a.safetensors", {"x": torch.ones(3)}, header, check=True)
    assert not list(tmp_path.iterdir())
