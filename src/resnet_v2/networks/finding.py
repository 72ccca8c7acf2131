"""Which file a checkpoint's name means: PREFIX and epoch, a file, a folder, or a network that ships with the package.

No torch.
"""

import contextlib
import functools
import operator
import os
import re
from importlib import resources
from pathlib import Path

from resnet_v2.config.using import Epoch
from resnet_v2.console import say
from resnet_v2.errors import ResnetError

ENDINGS = (".safetensors", ".params")
INT8_ENDING = ".int8.onnx"
NUMBERED = re.compile(r"(.+)-(\d{4,})\.(safetensors|params|onnx|pt2)")
# What lies beside checkpoints, or is one; the group is the start of their names.
OTHER_FILE = re.compile(
    r"(.+?)(?:-symbol\.json|(?:-\d{4,})?\.(?:safetensors|params|onnx|pt2|json|jsonl|log|rec|idx|lst))"
)
# What model hubs call the weights of a folder.
FOLDER_WEIGHTS = "model.safetensors"
SHIPPED = Path(str(resources.files("resnet_v2"))) / "pretrained"


def checkpoint_path(prefix: str, epoch: int) -> Path:
    """`model/resnet-cifar10-20`, 30 -> `model/resnet-cifar10-20-0030.safetensors`."""
    return Path(f"{prefix}-{epoch:04d}.safetensors")


def params_path(prefix: str, epoch: int) -> Path:
    """`model/resnet-50`, 0 -> `model/resnet-50-0000.params`, MXNet's."""
    return Path(f"{prefix}-{epoch:04d}.params")


def split_path(path: Path) -> tuple[str, int]:
    """`model/resnet-50-0000.params` -> `model/resnet-50`, 0; a file without a number is its own prefix at epoch 0."""
    numbered = NUMBERED.fullmatch(path.name)
    if numbered is None:
        return str(path.with_suffix("")), 0
    return str(path.with_name(numbered[1])), int(numbered[2])


def exported_path(checkpoint: Path, ending: str, start: str = "") -> Path:
    """What a checkpoint's export is called: `model/a-best.safetensors`, `.onnx` -> `model/a-best.onnx`.

    It has a number where the checkpoint has one, where a `start` is given, and where it is a checkpoint itself.
    """
    own, epoch = split_path(checkpoint)
    numbered = start or ending in ENDINGS or NUMBERED.fullmatch(checkpoint.name)
    return Path(f"{start or own}-{epoch:04d}{ending}" if numbered else f"{own}{ending}")


def find_exported(checkpoint: Path, ending: str) -> Path | None:
    """The export that lies beside a checkpoint, if any; earlier versions gave a number to that of `PREFIX-best` too."""
    own, epoch = split_path(checkpoint)
    paths = (exported_path(checkpoint, ending), Path(f"{own}-{epoch:04d}{ending}"))
    return next((path for path in paths if path.is_file()), None)


def int8_path(checkpoint: Path) -> Path:
    """What a checkpoint's int8 form is called: `model/a-0030.int8.onnx`; of one that ships, in the current folder."""
    return exported_path(written_beside(checkpoint), INT8_ENDING)


def find_int8(checkpoint: Path) -> Path | None:
    """The int8 form of a checkpoint, if it is there."""
    return find_exported(written_beside(checkpoint), INT8_ENDING)


def written_beside(checkpoint: Path) -> Path:
    """The file beside which a checkpoint's exports go: itself, or its name in the current folder where it ships."""
    return Path(checkpoint.name) if checkpoint.parent == SHIPPED else checkpoint


def run_prefix(checkpoint: Path) -> str:
    """The prefix of the run that a checkpoint is of, and so of its logs, also of PREFIX-best and PREFIX-latest."""
    return re.sub("-(best|latest)$", "", split_path(checkpoint)[0])


def saved_epochs(prefix: str) -> list[int]:
    """The epochs of which checkpoints with this prefix are there, ours or MXNet's, ascending."""
    start = Path(prefix)
    if not start.parent.is_dir():
        return []
    names = re.compile(re.escape(start.name) + r"-(\d{4,})\.(safetensors|params)")
    return sorted({int(match[1]) for path in start.parent.iterdir() if (match := names.fullmatch(path.name))})


def find_checkpoint(prefix: str | Path, epoch: Epoch | None = None) -> Path:
    """The file of a checkpoint, ours before MXNet's; a ResnetError tells what is there when there is none.

    `epoch` is a number, `"best"` (PREFIX-best, the lowest top-1 error) or `"latest"` (PREFIX-latest, a run's last
    state, or its last epoch). Without it `prefix` may also be a file (its ending may be left out) or a folder that
    holds model.safetensors; of a run's prefix it is the last epoch, else the last state, else the best. What no file is
    called may be the name of a network that ships with the package; the empty prefix is the first of these.
    """
    prefix = os.fspath(prefix)
    if epoch is None:
        return _find_named(prefix)
    epochs = saved_epochs(prefix)
    if epoch in ("best", "latest"):
        candidates = [Path(f"{prefix}-{epoch}.safetensors")]
        if epoch == "latest" and epochs:
            candidates += [checkpoint_path(prefix, epochs[-1]), params_path(prefix, epochs[-1])]
    else:
        number = _number(epoch)
        candidates = [checkpoint_path(prefix, number), params_path(prefix, number)]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    if (rank := _rank_zero(prefix, epoch)) is not None:
        return rank
    _refuse_file(prefix)
    of_mxnet = bool(epochs) and _numbered(prefix, epochs[-1]).suffix == ".params" and len(candidates) > 1
    missing = candidates[1 if of_mxnet else 0]
    raise ResnetError(f"{missing} is missing: {_there(prefix)}; check the prefix and the epoch.")


def find_members(prefix: str, epoch: Epoch | None = None) -> list[str]:
    """`"a,b"`, several checkpoints that answer as one -> `["a", "b"]`; of a single one, whatever its name, itself.

    Raises ResnetError as `find_checkpoint` does where one of them is not there.
    """
    names = [name.strip() for name in prefix.split(",") if name.strip()]
    if len(names) > 1:
        with contextlib.suppress(ResnetError):
            find_checkpoint(prefix, epoch)  # its own name has a comma
            return [prefix]
    names = names if len(names) > 1 else [prefix]
    for name in names:
        find_checkpoint(name, epoch)
    return names


def refuse_taken(start: str) -> None:
    """Raise ResnetError where START-0000.safetensors, which is no run's, would stand among the checkpoints of a run."""
    if [number for number in saved_epochs(start) if number] or _unnumbered(start):
        raise ResnetError(f"`out` {start} has the checkpoints of a run; give another name.")


def _number(epoch: Epoch) -> int:
    try:
        number = operator.index(epoch)  # type: ignore[arg-type]  # what people pass in Python may be anything
    except TypeError:
        number = -1
    if number < 0:
        raise ResnetError(f"There is no epoch {epoch!r}; give the number of a saved one, 'best' or 'latest'.")
    return number


def _find_named(name: str) -> Path:
    if not name:
        return _find_shipped()
    given = Path(name)
    files = [given] if given.suffix in ENDINGS else [Path(f"{name}{ending}") for ending in ENDINGS]
    epochs = saved_epochs(name)
    last = [path(name, epochs[-1]) for path in (checkpoint_path, params_path)] if epochs else _unnumbered(name)
    for candidate in (*files, given / FOLDER_WEIGHTS, *last, SHIPPED / f"{name}.safetensors"):
        if candidate.is_file():
            return candidate
    if (rank := _rank_zero(name, "latest")) is not None:
        return rank
    _refuse_file(name)
    raise ResnetError(
        f"There is no checkpoint {name}: no file starts with {name}- and no network of that name ships with resnet-v2; "
        "check the prefix, or get a published one with `resnet-v2 fetch`."
    )


def _there(prefix: str) -> str:
    """What checkpoints of a prefix there are, in words."""
    epochs = saved_epochs(prefix)
    others = " and ".join(map(str, _unnumbered(prefix)))
    if not epochs:
        return f"there is {others}" if others else f"no checkpoint starts with {prefix}-"
    last = _numbered(prefix, epochs[-1])
    return f"there is {last}" if len(epochs) == 1 else f"saved epochs are {_ranges(epochs)}, the last in {last}"


def _numbered(prefix: str, epoch: int) -> Path:
    """The file of a saved epoch, ours before MXNet's."""
    ours = checkpoint_path(prefix, epoch)
    return ours if ours.is_file() else params_path(prefix, epoch)


def _ranges(epochs: list[int]) -> str:
    """`[1, 2, 3, 7, 8]` -> `1 to 3, 7, 8`."""
    starts = [number for number in epochs if number - 1 not in epochs]
    ends = [number for number in epochs if number + 1 not in epochs]
    pairs = zip(starts, ends, strict=True)
    middles = {1: ", ", 0: ""}  # of two neighbours, and of one alone
    return ", ".join(f"{a}{middles.get(b - a, ' to ')}{b if a < b else ''}" for a, b in pairs)


def _refuse_file(name: str) -> None:
    """Raise ResnetError for a name that is a file's, and is no start of checkpoints' names."""
    match = OTHER_FILE.fullmatch(name)
    if match is None:
        return
    if name.endswith(ENDINGS):
        start = split_path(Path(name))[0]
        if Path(name).is_file():
            raise ResnetError(f"{name} is a file, which has one epoch; leave `epoch` out, or give `prefix` {start}.")
        raise ResnetError(f"{name} is missing: {_there(start)}; check the prefix and the epoch.")
    start = match[1]
    there = (
        f"{_there(start)}; give `prefix` {start}" if saved_epochs(start) or _unnumbered(start) else "give another file"
    )
    raise ResnetError(f"{name} holds no weights: {there}.")


def _rank_zero(prefix: str, epoch: Epoch) -> Path | None:
    """MXNet's checkpoint PREFIX-0-NNNN of the first of several ranks, where the script of 2016 wrote one for each.

    None where there is another of this prefix.
    """
    epochs = saved_epochs(f"{prefix}-0")
    if epoch == "best" or not epochs or saved_epochs(prefix):
        return None
    path = params_path(f"{prefix}-0", epochs[-1] if epoch == "latest" else _number(epoch))
    if not path.is_file():
        return None
    _tell_of_ranks(prefix, path)
    return path


@functools.cache
def _tell_of_ranks(prefix: str, path: Path) -> None:
    """Once, however often the same checkpoint is looked for."""
    say(f"{prefix} has checkpoints of ranks alone, and that of rank 0 is taken: {path}")


def _unnumbered(prefix: str) -> list[Path]:
    """A run's last state and its best epoch, as far as they are there."""
    paths = (Path(f"{prefix}-{which}.safetensors") for which in ("latest", "best"))
    return [path for path in paths if path.is_file()]


def _find_shipped() -> Path:
    shipped = sorted(SHIPPED.glob("*.safetensors"))
    if not shipped:
        raise ResnetError(
            "No network ships with this version of resnet-v2 yet; give a prefix, such as that of `make demo`: "
            "model/resnet-digits-14."
        )
    return shipped[0]
