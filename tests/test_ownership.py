"""A run owns its prefix: nobody writes beside it, nothing of an earlier run is taken for it, nothing of it is lost."""

import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import Run, digits_run
from processes import Command
from resnet_v2.data.records import RecordReader, pack, unpack, writing
from resnet_v2.data.sidecar import sidecar_path, write_rows
from resnet_v2.errors import ResnetError
from resnet_v2.networks import weights
from resnet_v2.networks.finding import checkpoint_path, find_checkpoint, saved_epochs
from resnet_v2.networks.header import read_header
from resnet_v2.training import checkpoint
from resnet_v2.training.ownership import READ_WHOLE, fingerprint, is_another, make_room, owned


def short(few_digits: Path, **changes: Any) -> list[str]:
    """A run of 3 steps per epoch with the prefix m."""
    return digits_run(few_digits, **{"num_examples": 48, "batch_size": 16, "gpus": "", "model_prefix": "m"} | changes)


def test_a_second_run_is_refused(few_digits: Path, tmp_path: Path) -> None:
    words = short(few_digits, epochs=1000, checkpoint_steps=1, resume="auto")
    first = Command(words, tmp_path)
    first.wait_for(lambda: checkpoint.latest_path(str(tmp_path / "m")).exists(), "it trains")
    status, output = Command(words, tmp_path).finish()
    assert status == 2
    assert "m belongs to another run, which still goes on; wait for its end, or give another --model-prefix" in output
    first.send_signal(signal.SIGKILL)
    first.finish()
    assert (tmp_path / ".m.lock").exists()  # a dead process holds it no more
    second = Command([*words, "--epochs", "1001", "--force"], tmp_path)
    second.wait_for(lambda: "Saved" in second.output or "Epoch" in second.output, "it goes on")
    second.send_signal(signal.SIGTERM)
    assert second.finish()[0] == 0
    assert not (tmp_path / ".m.lock").exists()


def test_a_lock_leaves_nothing_behind(tmp_path: Path) -> None:
    prefix = str(tmp_path / "model" / "m")
    with owned(prefix), pytest.raises(ResnetError, match="belongs to another run"), owned(prefix):
        pass
    assert not list(tmp_path.iterdir())
    with owned(prefix):
        Path(f"{prefix}.log").touch()
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["m.log"]


def test_what_an_earlier_run_left_is_set_aside(
    few_digits: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*short(few_digits, epochs=3))[0] == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert run(*short(few_digits, epochs=3))[0] == 0  # the same command: the same files again
    assert not Path("m-earlier-1").exists()
    assert all(Path(name).read_bytes() == data for name, data in before.items() if name.endswith("safetensors"))

    status, _, err = run(*short(few_digits, epochs=1, lr=0.05))
    assert status == 0
    assert "what an earlier run left at m is now in m-earlier-1: m-0001.safetensors, m-0002.safetensors" in err
    assert sorted(path.name for path in Path("m-earlier-1").iterdir()) == sorted(before)
    assert saved_epochs("m") == [1]
    assert read_header(find_checkpoint("m")).training["learning_rate"] == 0.05
    assert run(*short(few_digits, epochs=1, lr=0.06))[0] == 0
    assert Path("m-earlier-2").is_dir()


def test_a_retraining_sets_later_epochs_aside_and_keeps_the_best(
    few_digits: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*short(few_digits, epochs=4, lr=0.02))[0] == 0
    retrain = ("--retrain", "--model-load-epoch", 2, "--lr", 100, "--epochs", 3)
    path, header, tensors = weights.read_checkpoint("m", 2)
    best = {**header.training, "best": (1.5, 1)}
    weights.save(path, tensors, type(header)(**(vars(header) | {"training": best})))
    assert run(*short(few_digits), *retrain)[0] == 0
    assert saved_epochs("m") == [1, 2, 3]
    assert {"m-0003.safetensors", "m-0004.safetensors"} <= {path.name for path in Path("m-earlier-1").iterdir()}
    assert not Path("m-earlier-1/m.log").exists()  # it is continued
    assert read_header(checkpoint.best_path("m")).epoch == 1
    assert read_header(checkpoint.latest_path("m")).training["best"] == [1.5, 1]

    checkpoint_path("m", 1).unlink()  # as `keep` does; the best that is still there is the epoch itself
    checkpoint.best_path("m").unlink()
    assert run(*short(few_digits, seed=2), *retrain)[0] == 0
    assert read_header(checkpoint.best_path("m")).epoch == 2


def test_half_written_files_of_another_run_stay(tmp_path: Path) -> None:
    names = [".m-0001.safetensors.0a.tmp", ".m-latest.safetensors.1b.tmp", ".m-wide-0001.safetensors.2c.tmp"]
    for name in names:
        (tmp_path / name).touch()
    checkpoint.tidy(str(tmp_path / "m"), 1, keep=0)
    assert [path.name for path in tmp_path.iterdir()] == names[2:]


def test_other_data_is_noticed_and_another_spelling_is_none(
    few_digits: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for path in few_digits.glob("*.*"):
        (data / path.name).write_bytes(path.read_bytes())
    monkeypatch.chdir(tmp_path)
    assert run(*short(data, epochs=1))[0] == 0
    resume = ("--resume", "--epochs", 2, "--force")
    assert run(*short(Path("data"), epochs=1), "--resume")[0] == 0
    reader = RecordReader(data / "digits_val.rec")
    turned = [bytes(reader[ordinal]) for ordinal in reversed(range(len(reader)))]
    before = fingerprint([reader])
    with writing(data / "digits_val.rec") as writer:
        for ordinal, payload in enumerate(turned):
            writer.write(ordinal, payload)
    assert fingerprint([RecordReader(data / "digits_val.rec")]) != before
    # A run that is at its end reads nothing, so one epoch more is asked for.
    header, tensors = weights.read(checkpoint.latest_path("m"))
    saved = {**header.training["settings"], "epochs": 2}
    more = type(header)(**(vars(header) | {"training": {**header.training, "settings": saved, "epochs": 2}}))
    weights.save(checkpoint.latest_path("m"), tensors, more)
    (data / "synset.txt").write_text("".join(f"{name}\n" for name in reversed("0123456789")))
    status, _, err = run(*short(data, epochs=2), "--resume")
    assert (status, "made with another digits_val.rec and another synset.txt than" in err) == (2, True), err
    assert run(*short(data), *resume)[0] == 0
    assert np.all(read_header(Path("m-0002.safetensors")).class_names == tuple(reversed("0123456789")))


def relabelled(rec: Path, ordinals: range) -> None:
    """The same record with other labels in some places: as many images and bytes, at the same places."""
    reader = RecordReader(rec)
    payloads = [bytes(reader[ordinal]) for ordinal in range(len(reader))]
    for ordinal in ordinals:
        header, image = unpack(payloads[ordinal])
        payloads[ordinal] = pack(header._replace(label=float(np.ravel(header.label)[0]) + 1), bytes(image))
    with writing(rec) as writer:
        for ordinal, payload in enumerate(payloads):
            writer.write(ordinal, payload)
    assert RecordReader(rec).file_bytes == reader.file_bytes


@pytest.mark.parametrize("changed", [range(40), range(7, 8)])
def test_other_labels_are_other_data(few_digits: Path, tmp_path: Path, changed: range) -> None:
    rec = tmp_path / "digits_val.rec"
    for path in few_digits.glob("digits_val.*"):
        shutil.copy(path, tmp_path)
    sidecar_path(rec).unlink(missing_ok=True)
    before = fingerprint([RecordReader(rec)])[rec.name]
    write_rows(rec)
    assert not is_another(before, fingerprint([RecordReader(rec)])[rec.name])  # a side file more is the same data
    relabelled(rec, changed)
    assert is_another(before, fingerprint([RecordReader(rec)])[rec.name])
    assert not is_another(before.split("-")[0], fingerprint([RecordReader(rec)])[rec.name])  # by an earlier version


def test_one_other_label_among_many_is_told_by_the_side_file(digits: Path, tmp_path: Path) -> None:
    rec = tmp_path / "digits_train.rec"
    for path in digits.glob("digits_train.*"):
        shutil.copy(path, tmp_path)
    assert len(RecordReader(rec)) > 2 * READ_WHOLE
    write_rows(rec)
    before = fingerprint([RecordReader(rec)])[rec.name]
    relabelled(rec, range(1, 2))
    write_rows(rec)
    assert is_another(before, fingerprint([RecordReader(rec)])[rec.name])


def test_epochs_of_mxnet_are_not_taken_for_the_run_s(
    few_digits: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("m-0000.params", "m-0009.params", "m-symbol.json"):
        Path(name).write_text(name)
    status, _, err = run(*short(few_digits, epochs=1))
    assert (status, "is now in m-earlier-1: m-0009.params" in err) == (0, True), err
    assert find_checkpoint("m") == Path("m-0001.safetensors")
    assert Path("m-earlier-1/m-0009.params").read_text() == "m-0009.params"
    assert Path("m-0000.params").exists()  # a run begins behind it
    assert Path("m-symbol.json").exists()


@pytest.mark.parametrize("moved", range(4))
def test_a_kill_while_files_move_loses_no_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moved: int) -> None:
    names = ["m-0001.safetensors", "m-0002.safetensors", "m.jsonl", "m.log"]
    for name in names:
        (tmp_path / name).write_text(name)
    rename, left = Path.rename, [None] * moved

    def rename_or_die(path: Path, target: Path) -> Path:
        left.pop()  # IndexError: killed
        return rename(path, target)

    with monkeypatch.context() as patch, pytest.raises(IndexError):
        patch.setattr(Path, "rename", rename_or_die)
        make_room(str(tmp_path / "m"), 0, {}, lambda sentence: None)
    make_room(str(tmp_path / "m"), 0, {}, lambda sentence: None)
    assert sorted(path.name for path in tmp_path.glob("m-earlier-*/*")) == names
    assert not list(tmp_path.glob("m.*"))
