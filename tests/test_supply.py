"""Where code comes from: pins, a reason for each dependency, and nothing that runs what a file says."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from resnet_v2.errors import install

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
OURS = "resnet-v2"
# They build objects, or run code, as a file says. torch.jit and torch.package read pickles too.
MODULES = {
    "pickle",
    "cPickle",
    "dill",
    "cloudpickle",
    "joblib",
    "marshal",
    "shelve",
    "yaml",
    "subprocess",
    "code",
    "pty",
}
NAMES = {"eval", "exec", "compile", "__import__"}
CALLS = {
    "torch.load",
    "torch.hub.load",
    "torch.hub.load_state_dict_from_url",
    "torch.jit.load",
    "torch.package.PackageImporter",
    "numpy.load",
    "np.load",
    "os.system",
    "os.popen",
}
# Ranks that send each other objects send pickles.
OBJECTS = re.compile(r"(broadcast|gather|scatter|send|recv)_object|object_list")


def pinned(path: Path) -> dict[str, str]:
    """The versions that a file of constraints names."""
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return {canonicalize_name(line.partition("==")[0]): line.partition("==")[2] for line in lines}


def project() -> Any:
    """What pyproject.toml says."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def direct() -> list[Requirement]:
    """All that pyproject.toml asks for, but for the package itself."""
    said = project()
    groups = [said["build-system"]["requires"], said["project"]["dependencies"]]
    groups += said["project"]["optional-dependencies"].values()
    wanted = [Requirement(line) for group in groups for line in group]
    return [requirement for requirement in wanted if requirement.name != OURS]


def installed() -> set[str]:
    """The packages that the package with its tests needs here, directly or not."""
    found: set[str] = set()
    waiting = [Requirement(f"{OURS}[dev]"), Requirement("setuptools")]
    seen: set[tuple[str, str]] = set()
    while waiting:
        wanted = waiting.pop()
        for extra in ("", *wanted.extras):
            name = canonicalize_name(wanted.name)
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            found.add(name)
            for line in metadata.requires(name) or []:
                needed = Requirement(line)
                if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                    waiting.append(needed)
    return found - {OURS}


def test_every_version_is_pinned_within_what_the_project_asks_for() -> None:
    pins = pinned(ROOT / "constraints.txt")
    for requirement in direct():
        assert canonicalize_name(requirement.name) in pins, f"{requirement} has no pin in constraints.txt"
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), f"{requirement} and its pin"


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="missing Python 3.11: constraints.txt is made with it")
def test_what_the_tests_run_with_is_what_is_pinned() -> None:
    pins = pinned(ROOT / "constraints.txt")
    needed = installed()
    for name in sorted(needed):
        assert name in pins, f"{name} is installed and has no pin in constraints.txt"
        assert metadata.version(name).partition("+")[0] == pins[name], f"{name}: constraints.txt was changed; run make"
    # What only another platform or Python needs has a pin too, but not much.
    assert len(set(pins) - needed) <= 5, sorted(set(pins) - needed)


@pytest.mark.parametrize("environment", ["mxnet", "timm"])
def test_the_environments_of_the_peers_are_pinned(environment: str) -> None:
    makefile = (ROOT / "Makefile").read_text()
    (line,) = (line for line in makefile.splitlines() if f".venv-{environment}/bin/pip install" in line)
    constraints = f"tests/{environment}/constraints.txt"
    assert f"--constraint {constraints} " in line
    assert environment in pinned(ROOT / constraints)
    assert all(pinned(ROOT / constraints).values())


def test_make_installs_what_is_pinned() -> None:
    lines = [line for line in (ROOT / "Makefile").read_text().splitlines() if "$(BIN)/pip install" in line]
    tools = [line for line in lines if "--constraint constraints.txt" not in line]
    # `make mutants`, `make latency` and the like take the newest of a tool; `make check` does not call them.
    checked = re.search(r"^check:\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert checked is not None
    assert len(lines) - len(tools) == 3
    assert not re.search(r"MAKE\) (mutants|latency|fuzz|bench)", checked[1])


def test_each_dependency_has_its_reason() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    section = text.partition("## Dependencies")[2].partition("\n## ")[0]
    reasons = dict(re.findall(r"^- `([^`]+)`: (\S.{9,})$", section, re.MULTILINE))
    wanted = {canonicalize_name(requirement.name) for requirement in direct()}
    assert {canonicalize_name(name) for name in reasons} == wanted


# A process and the workers that it has started, which read no file to that end: their pipes have no name.
OWN_PROCESSES = [
    f"src/resnet_v2/{name}"
    for name in (
        "data/worker.py: pickle",
        "data/workers.py: pickle",
        "data/workers.py: subprocess",
        "packing/making.py: pickle",
        "packing/making.py: subprocess",
    )
]


def dotted(node: ast.expr) -> str:
    """`a.b.c` as it is written, or nothing for another expression."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def dangerous(tree: ast.AST) -> Iterator[str]:
    """What a module does that could run what a file says."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.partition(".")[0] in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            yield from (name for name in imported if name.partition(".")[0] in MODULES or name in CALLS)
        elif isinstance(node, ast.Attribute) and (dotted(node) in CALLS or OBJECTS.search(node.attr)):
            yield dotted(node)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in NAMES:
            yield node.func.id


def test_nothing_runs_what_a_file_says() -> None:
    found = [f"{path.relative_to(ROOT)}: {name}" for path in SOURCES for name in dangerous(ast.parse(path.read_text()))]
    assert sorted(found) == OWN_PROCESSES
    assert len(SOURCES) > 50


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from torch import load",
        "import torch\ntorch.load('x')",
        "x = eval('1')",
        "import torch.distributed as dist\ndist.all_gather_object([], 1)",
        "np.load('x')",
    ],
)
def test_the_search_finds(code: str) -> None:
    assert list(dangerous(ast.parse(code)))


def test_messages_name_extras_that_there_are() -> None:
    """Each is told by `errors.install` or `optional.package`, in the form that works in a clone."""
    told = [name for path in SOURCES for name in named_extras(path.read_text())]
    assert len(told) > 15
    assert set(told) <= set(project()["project"]["optional-dependencies"])
    assert [path for path in SOURCES if "resnet-v2[" in path.read_text()] == []
    assert install("onnx") == "pip install -e '.[onnx]' in the clone of resnet-v2"


def named_extras(code: str) -> Iterator[str]:
    """The last word that is given to `install` and `package` in a program."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("install", "package"):
            last = node.args[-1]
            if isinstance(last, ast.Constant):
                yield str(last.value)
