"""What src/resnet_v2 takes from torch, and how much of it the torch of this environment has.

`torch-2.6-names.txt` beside this file is what the oldest supported torch has of it; `test_floor.py` reads it. After
something new of torch is used, make the list again in an environment with that torch:

    python3.11 -m venv /tmp/venv-torch26
    /tmp/venv-torch26/bin/pip install torch==2.6.0 numpy
    /tmp/venv-torch26/bin/python tests/floor_names.py > tests/torch-2.6-names.txt

It takes seconds, needs nothing else, and imports nothing of ours. Names that this torch lacks are told on standard
error, with their files, and the exit status is 1; the list is whole all the same, without them.

Seen are dotted names that begin at an import (`torch.cuda.Stream`, or `F.relu` as `torch.nn.functional.relu`), and the
keywords with which they are called (`torch.nn.parallel.DistributedDataParallel(device_ids)`). A keyword counts as
there when the old function takes any, or does not tell its own. Not seen are attributes and methods of objects
(`tensor.foo()`, `self.register_...`), their keywords, and what a name that is the same now does otherwise: only the
tests, run in that environment, tell those. What is used only where torch has it is written with `getattr`.
"""

import ast
import importlib
import inspect
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

SOURCES = Path(__file__).parents[1] / "src" / "resnet_v2"
ROOT = "torch"
OUR_OPERATORS = "torch.ops.resnet_v2"


def used(folder: Path = SOURCES) -> dict[str, list[str]]:
    """Every name below a folder, sorted, and where it is used: `networks/resnet.py, line 7`."""
    found: dict[str, list[str]] = {}
    for path in sorted(folder.rglob("*.py")):
        for name, line in names_of(path.read_text(encoding="utf-8")):
            if not name.startswith(OUR_OPERATORS):
                found.setdefault(name, []).append(f"{path.relative_to(folder).as_posix()}, line {line}")
    return dict(sorted(found.items()))


def names_of(source: str) -> Iterator[tuple[str, int]]:
    """The names in a Python source with their lines, in no order."""
    tree = ast.parse(source)
    known = dict(_imported(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom | ast.Import):
            for _, name in _imported(node):
                yield name, node.lineno
        elif isinstance(node, ast.Attribute | ast.Name) and (dotted := _dotted(node, known)):
            yield dotted, node.lineno
        elif isinstance(node, ast.Call) and (dotted := _dotted(node.func, known)):
            for keyword in node.keywords:
                if keyword.arg is not None:
                    yield f"{dotted}({keyword.arg})", keyword.value.lineno


def _imported(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """What a name in a file stands for: `("F", "torch.nn.functional")`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if _ours(alias.name):
                    yield (alias.asname, alias.name) if alias.asname else (ROOT, alias.name)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level and _ours(node.module):
            for alias in node.names:
                yield alias.asname or alias.name, f"{node.module}.{alias.name}"


def _ours(module: str) -> bool:
    return module == ROOT or module.startswith(f"{ROOT}.")


def _dotted(node: ast.AST, known: dict[str, str]) -> str:
    """`torch.nn.functional.relu` for `F.relu`; empty for what does not begin at an import."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name) or node.id not in known:
        return ""
    # `import torch.distributed` gives the name torch alone.
    start = ROOT if node.id == ROOT else known[node.id]
    return ".".join([start, *reversed(parts)])


def exists(name: str) -> bool:
    """Whether the torch of this environment has a name, or takes a keyword."""
    dotted, _, keyword = name.removesuffix(")").partition("(")
    try:
        found = _resolved(dotted)
    except (ImportError, AttributeError):
        return False
    return not keyword or _takes(found, keyword)


def _resolved(dotted: str) -> Any:
    # The longest module first: torch.optim.sgd is a module that a function of the same name hides.
    parts = dotted.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            found = getattr(found, part)
        return found
    raise ImportError(dotted)


def _takes(function: Callable[..., Any], keyword: str) -> bool:
    try:
        parameters = inspect.signature(function).parameters
    except (ValueError, TypeError):  # written in C
        return True
    return keyword in parameters or any(one.kind is one.VAR_KEYWORD for one in parameters.values())


def main() -> int:
    """Print the list; 1 when something is missing."""
    warnings.simplefilter("ignore")
    version = str(_resolved(f"{ROOT}.__version__")).partition("+")[0]
    lacks = 0
    print(f"# torch {version}; made by tests/floor_names.py, which says how")
    for name, places in used().items():
        if exists(name):
            print(name)
        else:
            lacks = 1
            print(f"torch {version} lacks {name}, which is used in {'; '.join(places)}", file=sys.stderr)
    return lacks


if __name__ == "__main__":
    sys.exit(main())
