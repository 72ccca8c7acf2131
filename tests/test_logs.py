"""Logs and curves: our two files and MXNet's dialects give the same numbers; pictures are drawn."""

import gzip
import json
import os
import re
import signal
import tracemalloc
from pathlib import Path
from typing import Any

import cv2
import matplotlib.pyplot as plt
import pytest

from conftest import Run
from processes import Command
from resnet_v2.errors import ResnetError
from resnet_v2.logs import plot, runlog
from resnet_v2.logs.plot import follow, read_curves, table
from resnet_v2.logs.runlog import RunLog, read_curve

REAL_LOGS = Path(os.environ.get("RESNET_V2_SHARED", Path(__file__).parents[2] / "shared")) / "data" / "logs"

MXNET_2016 = """\
INFO:root:Namespace(batch_size=256, depth=50)
INFO:root:Epoch[0] Batch [50]	Speed: 226.19 samples/sec	Train-accuracy=0.100000
INFO:root:Epoch[0] Batch [50]	Speed: 226.19 samples/sec	Train-top_k_accuracy_5=0.300000
INFO:root:Epoch[0] Batch [100]	Speed: 226.19 samples/sec	Train-accuracy=0.200000
INFO:root:Epoch[0] Resetting Data Iterator
INFO:root:Epoch[0] Validation-accuracy=0.180000
INFO:root:Epoch[0] Validation-top_k_accuracy_5=0.400000
INFO:root:Epoch[1] Batch [50]	Speed: 226.19 samples/sec	Train-accuracy=0.900000
INFO:root:Namespace(batch_size=256, depth=50, model_load_epoch=1, retrain=True)
INFO:root:Epoch[1] Batch [50]	Speed: 226.19 samples/sec	Train-accuracy=0.400000
INFO:root:Epoch[1] Batch [100]	Speed: 226.19 samples/sec	Train-accuracy=0.600000
INFO:root:Epoch[1] Validation-accuracy=0.500000
INFO:root:Epoch[1] Validation-accuracy=0.600000
INFO:root:Epoch[3] Validation-accuracy=0.550000
"""


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_mxnet_log_with_a_resumed_epoch(tmp_path: Path) -> None:
    curve = read_curve(write(tmp_path / "a.log", MXNET_2016))
    assert curve.train_top1 == pytest.approx({0: 85.0, 1: 50.0})
    assert curve.train_top5 == pytest.approx({0: 70.0})
    assert curve.top1 == pytest.approx({0: 82.0, 1: 40.0, 3: 45.0})
    assert curve.summary() == {
        "log": "a.log",
        "epochs": 3,
        "best_epoch": 1,
        "checkpoint": 2,
        "top1_error": 40.0,
        "top5_error": None,
    }


@pytest.mark.parametrize("ending", [".log", ".jsonl"])
def test_a_packed_log_is_the_same_run(trained: str, tmp_path: Path, ending: str, run: Run) -> None:
    plain = Path(trained + ending)
    packed = tmp_path / f"{plain.name}.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert read_curve(packed).summary() | {"log": ""} == read_curve(plain).summary() | {"log": ""}
    assert read_curve(packed).label == "resnet-digits-8"
    page = tmp_path / "report.html"
    assert run("plot", "--logs", packed, "--out", page)[0] == 0
    assert '"learning_rate"' in page.read_text() or ending == ".log"
    packed.write_bytes(packed.read_bytes()[:-20])
    status, _, err = run("plot", "--logs", packed, "--out", page)
    assert status == 2
    assert "is no whole .gz file" in err


def test_mxnet_1x_log(tmp_path: Path) -> None:
    text = """\
INFO:root:Epoch[0] Batch [0-50]	Speed: 100.00 samples/sec	accuracy=0.1	Train-accuracy=0.250000
INFO:root:Epoch[0] Train-accuracy=0.990000
INFO:root:Epoch[0] Validation-accuracy=5.000000e-01	Validation-top_k_accuracy_5=0.9
"""
    curve = read_curve(write(tmp_path / "a.log", text))
    assert curve.train_top1 == {0: 75.0}
    assert curve.top1 == {0: 50.0}
    assert curve.top5 == pytest.approx({0: 10.0})


@pytest.mark.skipif(not REAL_LOGS.is_dir(), reason="missing ../shared: the two logs of 2016")
def test_real_logs_give_the_published_errors(tmp_path: Path, run: Run) -> None:
    logs = f"{REAL_LOGS / 'resnet-50.log'},{REAL_LOGS / 'resnet-164.log'}"
    status, out, _ = run("plot", "--logs", logs, "--out", tmp_path / "c.png", "--json")
    fifty, deep = json.loads(out)
    assert status == 0
    assert (fifty["top1_error"], fifty["top5_error"], fifty["epochs"]) == (pytest.approx(24.39, abs=0.005), 7.2365, 126)
    assert deep["top1_error"] == pytest.approx(4.68, abs=0.005)


@pytest.fixture
def our_log(tmp_path: Path) -> str:
    prefix = str(tmp_path / "deep" / "run")
    for part, (first, last) in enumerate(((0, 2), (2, 4))):
        log = RunLog(prefix, append=part > 0, echo=lambda line: None)
        log.start({"depth": 20}, "cpu")
        for epoch in range(first, last):
            for batch in (50, 100):
                log.batch(
                    epoch,
                    batch,
                    accuracy=0.1 * epoch + batch / 1000,
                    samples_per_second=123.4,
                    loss=1.0,
                    step_ms=1.0,
                    data_wait=0.01,
                    memory_mib=100.0,
                )
            log.trained(epoch, accuracy=0.1 * epoch + 0.075, seconds=12.0)
            log.validated(epoch, top1_error=50.0 - 7 * epoch, top5_error=10.0 - epoch, loss=1.0, images=100)
        log.close()
    return prefix


def test_our_two_files_tell_the_same(our_log: str) -> None:
    text, events = read_curve(Path(f"{our_log}.log")), read_curve(Path(f"{our_log}.jsonl"))
    assert text.train_top1 == pytest.approx(events.train_top1)
    assert text.top1 == pytest.approx(events.top1)
    assert text.top5 == pytest.approx(events.top5)
    assert events.top1 == pytest.approx({0: 50, 1: 43, 2: 36, 3: 29})
    assert events.best_epoch == 3


def test_old_tools_read_our_text(our_log: str) -> None:
    """The two expressions of the 2016 plot script."""
    lines = Path(f"{our_log}.log").read_text().splitlines()
    train = [match for line in lines if (match := re.match(r".*Epoch\[(\d+)\] .*Train-accuracy.*=([.\d]+)", line))]
    val = [match for line in lines if (match := re.match(r".*Epoch\[(\d+)\] Validation-accuracy.*=([.\d]+)", line))]
    assert [(int(match[1]), float(match[2])) for match in val] == [(0, 0.5), (1, 0.57), (2, 0.64), (3, 0.71)]
    assert len(train) == 12
    assert float(train[0][2]) == 0.05


@pytest.mark.parametrize(("idle", "told"), [(None, ""), (0.025, "\tGPU idle: 2.5%")])
def test_a_batch_is_told_in_full(tmp_path: Path, idle: float | None, told: str) -> None:
    lines: list[str] = []
    log = RunLog(str(tmp_path / "m"), append=False, echo=lines.append)
    log.batch(
        3,
        50,
        accuracy=0.25,
        samples_per_second=226.19,
        loss=2.30258,
        step_ms=12.34,
        data_wait=0.012,
        memory_mib=811.6,
        learning_rate=0.1,
        **({} if idle is None else {"gpu_idle": idle}),
    )
    log.close()
    line = (
        "Epoch[3] Batch [50]\tSpeed: 226.19 samples/sec\tTrain-accuracy=0.250000\tLoss: 2.3026\tStep: 12.3 ms"
        f"\tWaiting for data: 1.2%\tMemory: 812 MiB{told}"
    )
    assert lines == [line]
    assert (tmp_path / "m.log").read_text() == f"INFO:root:{line}\n"
    event = json.loads((tmp_path / "m.jsonl").read_text())
    assert event.pop("time") > 1e9
    measured = {
        "event": "batch",
        "epoch": 3,
        "batch": 50,
        "train_accuracy": 0.25,
        "samples_per_second": 226.19,
        "loss": 2.30258,
        "step_ms": 12.34,
        "data_wait": 0.012,
        "memory_mib": 811.6,
        "learning_rate": 0.1,
    }
    assert event == measured | ({} if idle is None else {"gpu_idle": idle})


def test_a_log_that_goes_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    log = RunLog.nowhere()
    log.skipped("a record")
    log.close()
    assert not list(tmp_path.iterdir())


def test_a_run_that_starts_anew_replaces_its_log(our_log: str) -> None:
    RunLog(our_log, append=False, echo=lambda line: None).close()
    assert not Path(f"{our_log}.log").read_text()


def test_a_line_cut_by_a_kill_is_passed_over(our_log: str) -> None:
    path = Path(f"{our_log}.jsonl")
    path.write_text(path.read_text()[:-20])
    assert sorted(read_curve(path).top1) == [0, 1, 2]
    path.write_text('{"event": "validation"}\n' + path.read_text())
    with pytest.raises(ResnetError, match="line 1 is no event"):
        read_curve(path)


def test_an_accuracy_at_the_end_of_a_sentence(tmp_path: Path) -> None:
    text = "INFO:root:Epoch[0] Validation-accuracy=0.5.\nINFO:root:Epoch[0] Validation-top_k_accuracy_5=9e-1.\n"
    curve = read_curve(write(tmp_path / "a.log", text))
    assert curve.top1 == {0: 50.0}
    assert curve.top5 == pytest.approx({0: 10.0})


@pytest.mark.parametrize("epoch", ['"a"', "NaN", "Infinity", "null", "[1]"])
def test_an_epoch_that_is_no_number(our_log: str, epoch: str, run: Run) -> None:
    path = Path(f"{our_log}.jsonl")
    with path.open("a") as file:
        file.write(f'{{"event": "train", "epoch": {epoch}, "train_accuracy": 0.5, "loss": 1.0}}\n')
    for out in ("c.png", "c.html"):  # the last line may be cut by a kill, in whatever way
        assert run("plot", "--logs", path, "--out", path.with_name(out))[0] == 0
    path.write_text(path.read_text() + '{"event": "finished"}\n')
    status, _, err = run("plot", "--logs", path, "--out", path.with_name("d.png"))
    assert status == 2
    assert f"line {len(path.read_text().splitlines()) - 1} is no event" in err


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_an_error_that_is_no_number_is_no_epoch(our_log: str, number: str, run: Run) -> None:
    path = Path(f"{our_log}.jsonl")
    path.write_text(path.read_text().replace('"top1_error": 29.0', f'"top1_error": {number}'))
    for out in ("c.png", "c.html"):
        status, text, _ = run("plot", "--logs", path, "--out", path.with_name(out), "--json")
        (row,) = json.loads(text, parse_constant=pytest.fail)
        assert status == 0
        assert (row["epochs"], row["best_epoch"], row["top1_error"]) == (3, 2, 36.0)
    path.write_text(f'{{"event": "validation", "epoch": 0, "top1_error": {number}, "top5_error": {number}}}\n')
    assert "has no epochs" in run("plot", "--logs", path, "--out", path.with_name("d.html"))[2]


@pytest.mark.parametrize(("ending", "start"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")])
def test_pictures(our_log: str, tmp_path: Path, run: Run, ending: str, start: bytes) -> None:
    out = tmp_path / f"curve{ending}"
    status, text, _ = run("plot", "--logs", f"{our_log}.log,{our_log}.jsonl", "--out", out, "--metric", "top5")
    assert status == 0
    assert run("plot", "--logs", f"{our_log}.log", f"{our_log}.jsonl", "--out", out, "--metric", "top5")[1] == text
    assert out.read_bytes().startswith(start)
    assert "29.00" in text
    if ending == ".png":
        image = cv2.imread(str(out))
        assert image is not None
        assert len({tuple(colour) for colour in image.reshape(-1, 3)}) > 20


class EnoughError(Exception):
    """Ends a `follow`."""


def test_following_draws_when_a_log_has_grown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log, drawn = tmp_path / "a.log", []
    lines = MXNET_2016.splitlines(keepends=True)
    # What happens between two looks: nothing is there, no epoch yet, one epoch, nothing new, the rest.
    steps = [None, "".join(lines[:4]), "".join(lines[:7]), None, MXNET_2016]

    def redraw() -> None:
        drawn.append(len(read_curves(str(log))[0].top1))

    def pause() -> None:
        if not steps:
            raise EnoughError
        text = steps.pop(0)
        if text is not None:
            log.write_text(text)

    with pytest.raises(EnoughError):
        follow([log], redraw, pause)
    assert drawn == [1, 3]
    err = capsys.readouterr().err
    assert err.count("waiting: ") == 2
    assert "cannot be read" in err
    assert "has no epochs" in err


def test_follow_until_ctrl_c(our_log: str, tmp_path: Path) -> None:
    out = tmp_path / "c.html"
    words = ["plot", "--logs", f"{our_log}.log", "--out", str(out), "--follow"]
    command = Command(words, tmp_path)
    command.wait_for(lambda: "29.00" in command.output, "the table of four epochs")
    assert '<meta http-equiv="refresh"' in out.read_text()
    log = RunLog(our_log, append=True, echo=lambda line: None)
    log.validated(4, top1_error=22.0, top5_error=5.0)
    log.close()
    command.wait_for(lambda: "22.00" in command.output, "the table of five epochs")
    command.send_signal(signal.SIGINT)
    status, output = command.finish()
    assert status == 130
    assert "Traceback" not in output


def test_bad_logs(tmp_path: Path, run: Run) -> None:
    empty = write(
        tmp_path / "empty.log", "INFO:root:Epoch[0] Batch [50]	Speed: 1 samples/sec	Train-accuracy=0.5\n"
    )
    full = write(tmp_path / "a.log", MXNET_2016)
    plain = write(tmp_path / "b.log", "INFO:root:Epoch[1] Validation-accuracy=0.5\n")
    for logs, out, metric, words in (
        (empty, "c.png", "top1", "has no epochs"),
        (tmp_path / "none.log", "c.png", "top1", "cannot be read"),
        (",", "c.png", "top1", "names no file"),
        (full, "c.gif", "top1", "has no ending of a picture"),
        (plain, "c.png", "top5", "has no top-5 error"),
    ):
        status, _, err = run("plot", "--logs", logs, "--out", tmp_path / out, "--metric", metric)
        assert status == 2
        assert words in err
        assert not (tmp_path / out).exists()


@pytest.mark.parametrize("ending", [".log", ".log.gz", ".jsonl"])
def test_a_log_is_read_line_by_line(tmp_path: Path, ending: str) -> None:
    text = "Epoch[0] Validation-accuracy=0.5\n"
    if ending == ".jsonl":
        text = json.dumps({"event": "validation", "epoch": 0, "top1_error": 50.0, "top5_error": 5.0}) + "\n"
    data = (text + ("{}\n" if ending == ".jsonl" else "ab\n") * 300_000 + text).encode()
    path = tmp_path / f"a{ending}"
    path.write_bytes(gzip.compress(data, 1) if ending == ".log.gz" else data)
    tracemalloc.start()
    try:
        if ending == ".jsonl":
            with pytest.raises(ResnetError, match="line 2 is no event"):
                read_curve(path)
        else:
            assert read_curve(path).top1 == {0: 50}
        assert tracemalloc.get_traced_memory()[1] < 1 << 19  # of 1 MB
    finally:
        tracemalloc.stop()


def test_a_log_that_unpacks_to_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runlog, "LARGEST_LOG_BYTES", 1000)
    (tmp_path / "a.log.gz").write_bytes(gzip.compress(b"Epoch[0] Validation-accuracy=0.5\n" * 100))
    with pytest.raises(ResnetError, match="cannot be read"):
        read_curve(tmp_path / "a.log.gz")


def test_table_names_logs_apart(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "run.log", MXNET_2016)
    text = table(read_curves(f"{tmp_path}/x/run.log,{tmp_path}/y/run.log"))
    assert f"{tmp_path}/x/run" in text
    assert f"{tmp_path}/y/run" in text


def test_dollars_and_a_first_underscore_are_letters(
    our_log: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    close = plt.close

    def look(figure: Any) -> None:
        seen.extend(text.get_text() for text in figure.axes[0].get_legend().get_texts())
        close(figure)

    monkeypatch.setattr(plt, "close", look)
    for name in ("run_$5_and_$6.log", "$\\alpha{$.log", "_run.log"):
        path = tmp_path / name
        path.write_bytes(Path(f"{our_log}.log").read_bytes())
        plot.draw([read_curve(path)], tmp_path / "p.png", "top1")
    assert any("_run" in text for text in seen)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="missing /dev/full: Linux has it")
@pytest.mark.parametrize("name", ["_text", "_events"])
def test_a_log_that_cannot_be_written_is_named(name: str, tmp_path: Path) -> None:
    log = RunLog(str(tmp_path / "m"), append=False, echo=lambda line: None)
    getattr(log, name).close()
    setattr(log, name, Path("/dev/full").open("w"))  # noqa: SIM115
    with pytest.raises(ResnetError, match=r"(m\.log or /dev/full|/dev/full or .*m\.jsonl) is not written: the disk"):
        log.start({}, "cpu")
    with pytest.raises(ResnetError, match="is not written"):
        log.mark({"epoch": 0}, {})
    log.close()
    assert log._text.closed and log._events.closed


def test_marks_that_are_none_are_passed_over(tmp_path: Path) -> None:
    meter = {"seconds": 1.0, "waited": 0.0, "idle": 0.0}
    clock: dict[str, object] = {"seconds": 1.0, "waited": 0.5, "whole": meter, "recent": meter}
    deep: dict[str, object] = {}
    for _ in range(900):
        deep = {"a": deep}
    others = [
        {},
        clock | {"seconds": {"a": 1}},
        clock | {"whole": deep},
        clock | {"recent": [1]},
        clock | {"waited": 1e300},
    ]
    for number, one in enumerate([clock, *others]):
        mark = {"event": "mark", "place": {"epoch": 0}, "text_bytes": 0, "clock": one}
        (tmp_path / f"{number}.jsonl").write_text(json.dumps(mark) + "\n")
        log = RunLog(str(tmp_path / str(number)), append=True, echo=lambda line: None)
        assert log.go_back({"epoch": 0}) == (clock if number == 0 else None)
        log.close()


@pytest.mark.parametrize("ending", [".log", ".jsonl"])
def test_a_log_is_not_written_to_what_is_no_file(tmp_path: Path, ending: str) -> None:
    (tmp_path / f"a{ending}").mkdir()
    with pytest.raises(ResnetError, match=f"a{ending} is no file that a log can be written to"):
        RunLog(str(tmp_path / "a"), append=False, echo=lambda line: None)


def test_a_text_line_is_there_before_its_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A run that is killed in between goes by its events: what they hold is not written again.
    log, texts = RunLog(str(tmp_path / "m"), append=False, echo=lambda line: None), list[str]()
    monkeypatch.setattr(log._events, "flush", lambda: texts.append((tmp_path / "m.log").read_text()))
    log.finished(2.0, 0.5)
    assert "Finished after 2 s" in texts[0]
    log.close()
