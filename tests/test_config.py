"""Settings refuse what they cannot be: every number and path of every command, in a sentence, writing nothing."""

import ast
import dataclasses
import math
import re
import typing
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest

import resnet_v2
from conftest import Run
from resnet_v2 import commands
from resnet_v2.config.fields import Count, Range, checked, hints, parse_numbers, settings
from resnet_v2.config.packing import IndexConfig, ListConfig, PackConfig
from resnet_v2.config.training import TrainConfig, arguments_of
from resnet_v2.errors import ResnetError, SettingError
from resnet_v2.machine import parse_bytes

SOURCE = Path(resnet_v2.__file__).parent
# What each command cannot do without.
NEEDED: dict[str, list[str]] = {
    "data": ["data", "digits"],
    "list": ["list", "ROOT", "PREFIX"],
    "pack": ["pack", "LST", "ROOT", "OUT"],
    "index": ["index", "REC"],
    "verify": ["verify", "FILE"],
    "convert": ["convert", "IN", "OUT.rec"],
    "unpack": ["unpack", "IN", "OUT"],
    "train": ["train", "--device", "cpu"],
    "plan": ["plan"],
    "evaluate": ["evaluate", "--rec", "REC", "--device", "cpu"],
    "compare": ["compare", "a", "b", "--rec", "REC", "--device", "cpu"],
    "inspect": ["inspect", "REC", "--device", "cpu"],
    "quantize": ["quantize", "--calibrate", "REC", "--rec", "REC"],
    "predict": ["predict", "--img", "PIC", "--device", "cpu"],
    "plot": ["plot", "--logs", "LOG"],
    "features": ["features", "IMG", "--device", "cpu"],
    "head": ["head", "REC", "--out", "a", "--device", "cpu"],
    "average": ["average", "a", "b", "--out", "c", "--device", "cpu"],
    "export": ["export", "--prefix", "a", "--to", "onnx"],
    "fetch": ["fetch", "timm/resnetv2_50.a1h_in1k", "--from", "FILE"],
    "card": ["card"],
    "demo": ["demo"],
    "serve": ["serve", "--device", "cpu"],
    "recipes": ["recipes"],
}


def fields(kind: Any) -> dict[str, Any]:
    """Every setting of a command with its type, those in groups too."""
    found: dict[str, Any] = {}
    for name, hint in hints(kind).items():
        found |= fields(hint) if dataclasses.is_dataclass(hint) else {name: hint}
    return found


def numbers() -> list[tuple[str, str, Range]]:
    found = []
    for command, (kind, _) in commands.COMMANDS.items():
        for name, hint in fields(kind).items():
            marks = getattr(hint, "__metadata__", ())
            found += [(command, name, mark) for mark in marks if isinstance(mark, Range)]
    return found


def paths() -> list[tuple[str, str]]:
    found = []
    for command, (kind, _) in commands.COMMANDS.items():
        for name, hint in fields(kind).items():
            plain = typing.get_args(hint)[0] if hasattr(hint, "__metadata__") else hint
            if plain is Path or Path in typing.get_args(plain):
                found.append((command, name))
    return found


def test_every_number_has_its_range() -> None:
    known = {(command, name) for command, name, _ in numbers()}
    for command, (kind, _) in commands.COMMANDS.items():
        for name, hint in fields(kind).items():
            plain = typing.get_args(hint)[0] if hasattr(hint, "__metadata__") else hint
            assert (command, name) in known or plain not in (int, float), (command, name)
    assert len(known) > 50


@pytest.mark.parametrize(("command", "name", "limits"), numbers(), ids=lambda value: str(value).replace(" ", "-"))
def test_no_number_is_believed(
    command: str, name: str, limits: Range, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outside = [limits.least - 1, limits.most + 1, *([limits.most] if limits.open else [])]
    for value in (*map(str, outside), "nan", "", "x", "1e300"):
        words = NEEDED[command] if (command, name) != ("train", "device") else ["train"]
        status, out, err = run(*words, f"--{name.replace('_', '-')}={value}")
        assert status == 2, value
        assert not out
        assert "Traceback" not in err
        if value in map(str, outside) and "." not in value:
            assert err.count("\n") == 1, err
            assert f"--{name.replace('_', '-')} must be" in err
        assert not list(tmp_path.iterdir()), value


@pytest.mark.parametrize(("command", "name"), paths())
def test_an_empty_path_is_a_mistake(
    command: str, name: str, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = list(NEEDED[command])
    if name.upper() in words:
        words[words.index(name.upper())] = ""
    else:
        words += ["--from" if name == "file" else f"--{name.replace('_', '-')}", ""]
    status, out, err = run(*words)
    assert (status, out) == (2, "")
    assert err.endswith("is empty; give a path.\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words",
    [
        ["list", "OTHER", "lists"],
        ["pack", "OTHER", ".", "out.rec"],
        ["index", "OTHER"],
        ["verify", "OTHER"],
        ["data", "OTHER"],
        ["data", "cifar10", "--archive", "OTHER"],
        ["data", "fashion-mnist", "--archive", "OTHER"],
        ["train", "--data-dir", "OTHER", "--device", "cpu"],
        ["train", "--data-dir", ".", "--list-dir", "OTHER", "--data-type", "x", "--device", "cpu"],
        ["train", "--finetune", "OTHER", "--device", "cpu"],
        ["train", "--model-prefix", "OTHER/m", "--data-dir", "DIGITS", "--data-type", "digits", "--device", "cpu"],
        ["evaluate", "--rec", "OTHER", "--device", "cpu"],
        ["evaluate", "--rec", "DIGITS/digits_val.rec", "--prefix", "OTHER", "--device", "cpu"],
        ["compare", "OTHER", "OTHER", "--rec", "DIGITS/digits_val.rec", "--device", "cpu"],
        ["predict", "--img", "DIGITS/examples/1.png", "--synset", "OTHER", "--device", "cpu"],
        ["features", "OTHER", "--duplicates", "1", "--device", "cpu"],
        ["features", "DIGITS/examples/1.png", "--neighbours", "1", "--among", "OTHER", "--device", "cpu"],
        ["head", "OTHER", "--out", "m", "--device", "cpu"],
        ["average", "OTHER", "OTHER", "--out", "m", "--device", "cpu"],
        ["plot", "--logs", "OTHER"],
        ["export", "--prefix", "OTHER", "--to", "onnx"],
        ["fetch", "timm/resnetv2_50.a1h_in1k", "--from", "OTHER"],
        ["card", "--rec", "OTHER"],
        ["card", "--out", "OTHER"],
    ],
    ids=" ".join,
)
def test_a_file_of_another_kind_is_told(
    words: list[str], digits: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("other.bin").write_bytes(bytes(range(256)) * 4)
    status, out, err = run(*(word.replace("OTHER", "other.bin").replace("DIGITS", str(digits)) for word in words))
    assert (status, out) == (2, ""), err
    assert "Traceback" not in err
    sentences = [line for line in err.splitlines() if line.startswith("resnet-v2: ")]
    assert len(sentences) == 1, err
    assert sentences[0].endswith(".")
    assert [path.name for path in tmp_path.iterdir()] == ["other.bin"]


def test_values_that_python_may_pass() -> None:
    for value in ("5", 2.5, True, None, math.nan, 0, -1, 10**12):
        with pytest.raises(SettingError, match="`batch_size`"):
            TrainConfig.of(batch_size=value)
    with pytest.raises(SettingError, match="`stem` 'round' is not imagenet, cifar"):
        TrainConfig.of(stem="round")
    with pytest.raises(SettingError, match="`memonger` 1 is not on or off"):
        TrainConfig.of(memonger=1)
    with pytest.raises(SettingError, match="no setting `learning_rate`"):
        TrainConfig.of(learning_rate=0.1)
    assert TrainConfig.of(lr=1, data_dir="a").data.data_dir == Path("a")
    numpys = TrainConfig.of(depth=np.int64(18), lr=np.float32(0.5), seed=np.uint8(3)).flat()
    assert [(numpys[name], type(numpys[name])) for name in ("depth", "lr", "seed")] == [
        (18, int),
        (0.5, float),
        (3, int),
    ]
    assert TrainConfig.of(lr=0.5).changed(lr=0.25, depth=18).schedule.lr == 0.25


def test_a_range_shows_in_the_help_and_in_the_error() -> None:
    @settings
    class Some:
        share: Annotated[float, Range(0, 1, open=True)] = 0.5
        count: Count = 3

    assert "0 or more and below 1; default: 0.5" in str(hints(Some)["share"].__metadata__[-1].help_behavior_hint("0.5"))
    with pytest.raises(SettingError, match="`share` must be 0 or more and below 1, not 1"):
        Some(share=1)
    with pytest.raises(SettingError, match="`count` must be 1 or more, not 0"):
        Some(count=0)
    assert checked("count", Count, 4) == 4


def test_lists_and_amounts() -> None:
    assert parse_numbers("1, 2,3", int, "crop", Range(1)) == (1, 2, 3)
    with pytest.raises(SettingError, match="`crop` '1,0' has a number that is not from 1 to"):
        parse_numbers("1,0", int, "crop", Range(1))
    with pytest.raises(SettingError, match="`crop` '1;2' is not a list of numbers"):
        parse_numbers("1;2", int, "crop", Range(1))
    amounts = {"": 0, "7": 7, "12GB": 12 * 10**9, "1.5 gib": 3 * 2**29, "2K": 2000, "3 MB": 3 * 10**6, "1tb": 10**12}
    amounts |= {"2KiB": 2048, "3MiB": 3 * 2**20, "0.5TiB": 2**39}
    assert {text: parse_bytes(text, "budget") for text in amounts} == amounts


def test_values_that_no_run_can_have() -> None:
    """By number, where the walk above takes the range from the field."""
    shares = {"mom": (-0.5, 1), "ema": (-0.5, 1), "bn_mom": (-0.1, 1.1), "label_smoothing": (-0.1, 1.1)}
    amounts = dict.fromkeys(("wd", "lr", "clip_norm"), (-1e-09,))
    counts = dict.fromkeys(("accumulate", "epochs", "frequent", "nproc", "batch_size", "depth", "width"), (0,))
    counts |= dict.fromkeys(("workers", "keep", "num_classes", "num_examples", "pad", "checkpoint_steps"), (-1,))
    for name, values in (shares | amounts | counts).items():
        for value in values:
            with pytest.raises(SettingError, match=f"`{name}` must be"):
                TrainConfig.of(**{name: value})


def test_settings_stay_as_they_are() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainConfig().schedule.lr = 1  # type: ignore[misc]


def test_flags_of_what_was_given() -> None:
    given = {"depth": 18, "memonger": True, "tf32": False, "data_dir": Path("a b"), "gpus": ""}
    assert arguments_of(given) == ["--depth=18", "--memonger", "--no-tf32", "--data-dir=a b", "--gpus="]


def test_only_the_command_line_knows_flags() -> None:
    """Below it a setting is named by its Python name; `commands.with_flags` spells it."""
    assert commands.with_flags("give `batch_size` 3, or run `resnet-v2 list`").startswith(
        "give --batch-size 3, or run `res"
    )
    assert str(ResnetError("`lr` 3")) == "`lr` 3"
    for path in SOURCE.rglob("*.py"):
        if path.name == "cli.py" or path.parent.name == "config":
            continue
        tree = ast.parse(path.read_text())
        for raised in ast.walk(tree):
            if isinstance(raised, ast.Raise):
                words = [node.value for node in ast.walk(raised) if isinstance(node, ast.Constant)]
                told = " ".join(word for word in words if isinstance(word, str))
                assert " --" not in f" {told}" or "`resnet-v2 " in told, (path, raised.lineno, told)


def test_a_prefix_that_is_a_folder() -> None:
    with pytest.raises(SettingError, match="`model_prefix` m/run/ is a folder; add a name"):
        TrainConfig.of(model_prefix="m/run/")


@pytest.mark.parametrize("folder", [".", "..", "a/.."])
def test_a_folder_is_no_name_of_a_file(folder: str) -> None:
    path = Path(folder)
    for make in (
        partial(IndexConfig, path),
        partial(ListConfig, path, path),
        partial(PackConfig, path, path, path),
        partial(TrainConfig.of, model_prefix=folder),
    ):
        with pytest.raises(SettingError, match=f"{re.escape(folder)} is a folder; add a name"):
            make()
