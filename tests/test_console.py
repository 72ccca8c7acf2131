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


def test_a_line_every_ten_seconds_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with console.Progress("epoch 1/3", 40, done=10) as progress, console.Progress("other", 9, shown=False) as hidden:
        for _ in range(5):
            now += 4
            progress.update(2)
            hidden.update(1)
    assert capsys.readouterr() == ("", "epoch 1/3: 16 of 40 img, 0.5 img/s\n")


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with console.Progress("epoch 1/3", 40) as progress:
        progress.update(40, "loss 0.500")
    assert "epoch 1/3" in terminal.getvalue()
