"""Every command of README and docs: executed on small stand-ins, or marked there as needing a GPU or ImageNet.

Of marked commands, benchmarks, make and pip only the words are checked. A document marks a command by its comment, or a
block by the sentence before it (`documents.MARK`).
"""

import argparse
import asyncio
import gc
import re
import runpy
import shlex
import shutil
import sys
import tomllib
import types
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import Run
from documents import CLASSES, DOCUMENTS, ROOT, Command, commands, furnish
from resnet_v2 import cli
from resnet_v2.commands import COMMANDS
from resnet_v2.files import sha256
from test_published import save_timm

# Which commands have been performed, with their working directory: what two documents tell alike is done once.
Done = tuple[Path, set[str]]
Perform = Callable[[Command], None]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Done]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # with so little to do two threads wait for each other most of the time
    folder = tmp_path_factory.mktemp("documents")
    shutil.copytree(ROOT / "docs" / "runs", folder / "docs" / "runs")  # the logs of our own runs
    yield folder, set()
    torch.set_num_threads(threads)


@pytest.fixture
def perform(done: Done, run: Run, monkeypatch: pytest.MonkeyPatch) -> Perform:
    """Executes or checks a command; the test fails with its place when it does not work."""
    folder, performed = done
    monkeypatch.chdir(folder)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # `--nproc` would set it for good
    stand_in_for_the_world(monkeypatch)

    def call(command: Command) -> None:
        if command.text in performed:
            return
        try:
            if command.python and not command.marked:
                furnish(command.text)
                exec(compile(command.text, command.place, "exec"), {})
            elif not command.python:
                perform_words(command, run, monkeypatch)
        except (Exception, SystemExit) as error:
            pytest.fail(f"{command.place}: {command.text}\n{type(error).__name__}: {error}", pytrace=False)
        performed.add(command.text)

    return call


def perform_words(command: Command, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    text = re.sub("^torchrun .* -m resnet_v2 ", "resnet-v2 ", command.text) if command.marked else command.text
    text = re.sub("--num-examples [0-9]+", "--num-examples 8", text)  # the stand-ins have few images
    if not command.marked:
        # Two epochs show that it works where no later command names one; ranks are test_ranks's matter.
        if "--finetune" in text:
            text = re.sub("--epochs [0-9]+", "--epochs 2", text)
        if "train --recipe" in text or "train photos" in text:
            text += " --epochs 2"
        text = text.replace(" --nproc 2", "")
    match shlex.split(text):
        case ["resnet-v2", *words] if not command.marked:
            furnish(command.text)
            with warnings.catch_warnings():
                if words[0] == "demo":  # gradio leaves event loops open
                    warnings.simplefilter("ignore", ResourceWarning)
                status, _, err = run(*words)
                if words[0] == "demo":
                    asyncio.set_event_loop(None)  # it is the last of those
                    gc.collect()
            assert status == (130 if "--follow" in words else 0), f"status {status}: {err}"
        case ["resnet-v2", *words]:
            with monkeypatch.context() as patch:
                patch.setattr(cli, "COMMANDS", {name: (kind, lambda _: 0) for name, (kind, _) in COMMANDS.items()})
                status, _, err = run(*words)
            assert status == 0, f"the flags are wrong: {err}"
        case ["/usr/bin/time", "-v", "python", script, *words] | ["python", script, *words] if script.endswith(".py"):
            check_flags(ROOT / script, words, monkeypatch)
        case ["python", "-m", "pytest", *paths]:
            assert all((ROOT / path).exists() for path in paths)
        case ["make", *targets]:
            there = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
            assert targets and set(targets) <= set(there)
        case ["pip", "install", *_]:
            extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
            named = re.findall(r"\[(.+?)\]", command.text)
            assert set(",".join(named).split(",")) <= {"", *extras}
        case _:
            raise AssertionError("no test knows how to execute this; mark it if it needs a GPU or ImageNet")


def stand_in_for_the_world(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small file for a download, an end for `--follow` and the page, few digits."""

    def download(url: str, timeout: float) -> Any:
        assert re.search(r"/resnetv2_50\.a1h_in1k/(resolve|raw)/main/model\.safetensors$", url), (
            f"{url} has no stand-in"
        )
        save_timm(Path("timm.safetensors"), len(CLASSES))
        Path("pointer").write_text(f"oid sha256:{sha256(Path('timm.safetensors'))}\n")
        served = Path("pointer" if "/raw/" in url else "timm.safetensors").absolute()
        return urllib.request.urlopen(served.as_uri(), timeout=timeout)

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("resnet_v2.files._HTTP", types.SimpleNamespace(open=download))
    monkeypatch.setattr("resnet_v2.logs.report.time", types.SimpleNamespace(sleep=interrupt))
    monkeypatch.setattr("resnet_v2.serving.connections.run", lambda _, listening, *__: listening.close())
    from sklearn import datasets

    pixels, labels = datasets.load_digits(return_X_y=True)
    monkeypatch.setattr(datasets, "load_digits", lambda **_: (pixels[:100], labels[:100]))


class Understood(Exception):  # noqa: N818 (no error)
    """A script has understood its words."""


def check_flags(script: Path, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a script up to where its parser has read the words."""
    parse = argparse.ArgumentParser.parse_args

    def parse_and_end(parser: argparse.ArgumentParser) -> None:
        parse(parser)
        raise Understood

    with monkeypatch.context() as patch:
        patch.syspath_prepend(script.parent)
        patch.setattr(sys, "argv", [str(script), *words])
        patch.setattr(argparse.ArgumentParser, "parse_args", parse_and_end)
        with pytest.raises(Understood):
            runpy.run_path(str(script), run_name="__main__")


# A minute of training and figures between them.
LONG = ("README.md", "index.md", "training.md", "results.md", "int8.md")
PARTS = [pytest.param(path, marks=pytest.mark.slow if path.name in LONG else (), id=path.name) for path in DOCUMENTS]


@pytest.mark.parametrize("document", PARTS)
def test_every_command(document: Path, perform: Perform) -> None:
    for command in commands(str(document.relative_to(ROOT)), document.read_text()):
        perform(command)


SAMPLE = """# Title

Text with `resnet-v2 inline`.

    resnet-v2 plan --depth 20   # a comment
    resnet-v2 train \\
        --depth 20              # as ever (needs ImageNet)

Another. This needs a GPU:

```sh
make demo
```

A need. This does not:

    import resnet_v2

    resnet_v2.resnet(20)

    resnet-v2 frobnicate
"""


def test_what_is_collected() -> None:
    found = list(commands("a.md", SAMPLE))
    assert [command.place for command in found] == ["a.md:5", "a.md:6", "a.md:12", "a.md:17"]
    assert [command.marked for command in found] == [False, True, True, False]
    assert [command.python for command in found] == [False, False, False, True]
    assert shlex.split(found[1].text) == ["resnet-v2", "train", "--depth", "20"]
    count = {document.name: len(list(commands("", document.read_text()))) for document in DOCUMENTS}
    assert count["README.md"] >= 30
    assert sum(count.values()) >= 75


@pytest.mark.parametrize(
    "text",
    [
        "resnet-v2 frobnicate",
        "resnet-v2 plan --frobnicate",
        "resnet-v2 index missing.rec",
        "make nothing",
        "torchrun -m resnet_v2 train",
        "pip install '.[nothing]'",
        "python benchmarks/step.py --frobnicate",
        "frobnicate",
    ],
)
def test_what_does_not_work_is_reported(text: str, perform: Perform) -> None:
    with pytest.raises(pytest.fail.Exception, match=re.escape(f"a.md:1: {text}")):
        perform(Command("a.md:1", text))


def test_marked_flags_are_checked(perform: Perform) -> None:
    perform(Command("a.md:1", "resnet-v2 train --depth 200 --gpus 0,1", marked=True))
    with pytest.raises(pytest.fail.Exception, match="the flags are wrong"):
        perform(Command("a.md:1", "resnet-v2 train --frobnicate 200", marked=True))
