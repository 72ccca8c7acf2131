"""The command `resnet-v2`: words of a command line -> settings, and errors -> sentences with flags and a status."""

import io
import itertools
import sys
from collections.abc import Sequence
from typing import Any

import tyro

from resnet_v2 import __version__, console
from resnet_v2.commands import COMMANDS, with_flags
from resnet_v2.config import im2rec, training
from resnet_v2.errors import ResnetError
from resnet_v2.files import told


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line: exit status 0, 1 for unreadable input, 2 for what the user can mend, 130 for Ctrl-C."""
    console.have_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Names hold any letter, but a console of ASCII and, in a pipe or a file, the output of Windows do not.
        sys.stdout.reconfigure(errors="backslashreplace")
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["train"]:
        words = [word for one, after in itertools.pairwise([*words, "--"]) for word in _whole_flag(one, after)]
    try:
        words = im2rec.pack_words(words) if words[:1] == ["pack"] else words
        words = im2rec.list_words(words) if words[:1] == ["list"] else words
        status: int = _run(words) or 0
        sys.stdout.flush()
        return status
    except ResnetError as error:
        return _fail(with_flags(error))
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever read the output, such as `head`, has enough; what Python still holds back goes nowhere.
        console.lead_nowhere(sys.stdout)
        return 0
    except OSError as error:
        if sentence := told(error):
            return _fail(sentence)
        raise


def _run(words: list[str]) -> Any:
    if words == ["--version"]:
        print(f"resnet-v2 {__version__}")
        return 0
    kinds: dict[str, Any] = {
        name: kind if kind is training.TrainConfig else tyro.conf.configure(tyro.conf.FlagCreatePairsOff)(kind)
        for name, (kind, _) in COMMANDS.items()
    }
    settings = tyro.extras.subcommand_cli_from_dict(
        kinds,
        prog="resnet-v2",
        args=words,
        description="ResNet-v2: pack, train, evaluate, predict.",
        config=(tyro.conf.OmitArgPrefixes,),
    )
    run: Any = COMMANDS[words[0]][1]
    return run(_typed(settings, words) if isinstance(settings, training.TrainConfig) else settings)


def _typed(settings: training.TrainConfig, words: Sequence[str]) -> dict[str, Any]:
    """The settings whose flags were typed: a default that is typed out counts as much as any other value."""
    names = {word.partition("=")[0].removeprefix("--").replace("-", "_") for word in words if word.startswith("--")}
    flat = settings.flat()
    names |= {"folder"} if flat["folder"] else set()  # it stands there without a flag
    return {name: value for name, value in flat.items() if name in names or f"no_{name}" in names}


def _whole_flag(word: str, after: str) -> tuple[str, ...]:
    """`--resume` alone says yes, before a flag or a folder."""
    return (word, "yes") if word == "--resume" and after not in ("no", "yes", "auto") else (word,)


def _fail(sentence: str) -> int:
    print(f"resnet-v2: {sentence}", file=sys.stderr)
    return 2
