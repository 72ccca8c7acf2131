"""Whoever reads may go away; who reads a file is told that it goes on."""

import io
import os
import sys
import time

import pytest

from resnet_v2 import console


def test_a_reader_that_has_gone_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    stream = os.fdopen(writing, "w")
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", stream)
    os.close(reading)
    console.echo("one")
    console.say("two")
    stream.write("three")
    stream.close()  # to nowhere


def test_lines_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with console.Progress("epoch 1/3", 40, done=10) as progress, console.Progress("other", 9, shown=False) as hidden:
        for _ in range(3):
            now += 2
            progress.update(2)
            hidden.update(1)
    assert capsys.readouterr() == ("", "epoch 1/3: 14 of 40 img, 1.0 img/s, 00:26 left\n")


def test_no_silence_is_long_and_no_log_is_full_of_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    told = []
    with console.Progress("evaluate", 36_000) as progress:
        for second in range(3600):
            now += 1
            progress.update(10)
            if capsys.readouterr().err:
                told.append(second + 1)
    assert told[:5] == [3, 6, 9, 12, 16]
    assert len([second for second in told if second <= 40]) == 8
    assert {after - before for before, after in zip(told[-100:], told[-99:], strict=False)} == {20}


def test_bytes_are_told_in_megabytes_and_what_has_no_end_without_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with console.Progress("a.rec", 9_000_000, "B") as progress, console.Progress("a.lst", 0, "lines") as endless:
        now = 4
        progress.update(3_000_000)
        endless.update(8)
    assert capsys.readouterr().err == "a.rec: 3.0 of 9.0 MB, 0.8 MB/s, 00:08 left\na.lst: 8 lines, 2.0 lines/s\n"


def test_what_is_next_can_be_pasted(capsys: pytest.CaptureFixture[str]) -> None:
    console.suggest("resnet-v2", "verify", "my data/a.rec")
    assert capsys.readouterr() == ("", "next: resnet-v2 verify 'my data/a.rec'\n")


def test_units_one_by_one(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    for _ in console.following(range(3), "a.lst", 3):
        now += 2
    assert capsys.readouterr().err == "a.lst: 2 of 3 img, 0.5 img/s, 00:02 left\n"


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with console.Progress("epoch 1/3", 40) as progress:
        progress.update(40, "loss 0.500")
    assert "epoch 1/3" in terminal.getvalue()


def test_one_of_a_thing_is_told_in_the_singular() -> None:
    told = [console.counted(count, noun) for count in (0, 1, 2) for noun in ("image", "class", "identity")]
    assert told[:3] == ["0 images", "0 classes", "0 identities"]
    assert told[3:6] == ["1 image", "1 class", "1 identity"]
    assert told[6:] == ["2 images", "2 classes", "2 identities"]
    assert [console.agreeing(count, "is", "are") for count in (0, 1, 2)] == ["are", "is", "are"]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(40, "40 s"), (59.9, "60 s"), (60, "1 min"), (3590, "1 h 0 min"), (3600, "1 h 0 min"), (187_400, "52 h 3 min")],
)
def test_times_as_people_say_them(seconds: float, said: str) -> None:
    assert console.lasting(seconds) == said
