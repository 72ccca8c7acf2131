"""The oldest torch and the oldest Python that pyproject.toml promises have what the sources use.

Only names and keywords, as `floor_names` sees them: a method of a tensor that a later torch brought is not noticed
here, but by the tests in an environment with the old one.
"""

import ast
import re
import tomllib
from pathlib import Path

import pytest

import floor_names

ROOT = Path(__file__).parents[1]
(LIST,) = Path(__file__).parent.glob("torch-*-names.txt")
THE_LIST_IS_OLD = (
    "{name}, in {places}, is not in " + LIST.name + ": do without it, or, if that torch has it, make the list again as "
    "tests/floor_names.py says."
)


def listed_version() -> str:
    """The version in the list's name."""
    found = re.fullmatch(r"torch-(\d+\.\d+)-names\.txt", LIST.name)
    assert found is not None
    return found[1]


def lacking(used: dict[str, list[str]], listed: set[str]) -> list[str]:
    """A sentence for every name that the list has not."""
    lost = {name: places for name, places in used.items() if name not in listed}
    return [THE_LIST_IS_OLD.format(name=name, places="; ".join(places)) for name, places in lost.items()]


def test_the_oldest_torch_has_every_name() -> None:
    first, *names = LIST.read_text(encoding="utf-8").splitlines()
    assert first.startswith(f"# torch {listed_version()}.0;")
    used = floor_names.used()
    assert len(used) > 100
    assert "\n".join(lacking(used, set(names))) == ""


def test_the_oldest_torch_is_the_one_that_is_promised() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert f"torch>={listed_version()}" in project["dependencies"]


@pytest.mark.parametrize("path", sorted((ROOT / "src").rglob("*.py")), ids=lambda path: path.stem)
def test_the_oldest_python_parses(path: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["requires-python"] == ">=3.11"
    ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 11))


def test_a_new_name_is_told(tmp_path: Path) -> None:
    source = "import torch\nimport torch.nn.functional as F\ny = torch.brand_new(F.relu(x), speed=2)\n"
    (tmp_path / "a.py").write_text(source, encoding="utf-8")
    listed = {"torch", "torch.nn.functional", "torch.nn.functional.relu"}
    sentences = lacking(floor_names.used(tmp_path), listed)
    assert [sentence.partition(",")[0] for sentence in sentences] == ["torch.brand_new", "torch.brand_new(speed)"]
    assert "in a.py, line 3," in sentences[0]
    assert "make the list again as tests/floor_names.py says" in sentences[0]


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("import torch.distributed as dist\ndist.barrier()", {"torch.distributed", "torch.distributed.barrier"}),
        (
            "import torch.distributed\ntorch.Tensor.view",
            {"torch.distributed", "torch", "torch.Tensor", "torch.Tensor.view"},
        ),
        (
            "def f():\n    from torch.nn import functional as F\n    return F.relu",
            {"torch.nn.functional", "torch.nn.functional.relu"},
        ),
        (
            "from torch import Tensor as T\nT.view(x, dtype=3)",
            {"torch.Tensor", "torch.Tensor.view", "torch.Tensor.view(dtype)"},
        ),
        ("import safetensors.torch\nsafetensors.torch.save(x)\nx.torch.y\nfrom . import torch", set()),
    ],
)
def test_names_are_found(source: str, names: set[str]) -> None:
    assert {name for name, _ in floor_names.names_of(source)} == names


def test_names_that_are_not_there_do_not_exist() -> None:
    for name in ("torch.nn.functional.relu", "torch.optim.sgd.sgd", "torch.nn.Linear(bias)", "torch.zeros(device)"):
        assert floor_names.exists(name)
    for name in ("torch.brand_new", "torch.nope.relu", "torch.nn.Linear(speed)"):
        assert not floor_names.exists(name)
