"""Figures in the documents are those of what they come from: recipes, logs, the shipped network, other tables."""

import json
import os
import re
import runpy
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import resnet_v2
from conftest import Run
from resnet_v2.logs.runlog import read_curve, read_lines
from resnet_v2.networks.finding import SHIPPED
from resnet_v2.networks.header import read_header
from resnet_v2.training import recipe_table, recipes

ROOT = Path(__file__).parents[1]
RUNS = ROOT / "docs" / "runs"
CIFAR = Path(os.environ.get("RESNET_V2_SHARED", ROOT.parent / "shared")) / "data" / "cifar10-jpeg.tar.gz"

README, RESULTS = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/results.md"))
results = SimpleNamespace(**runpy.run_path(str(ROOT / "docs" / "results.py")))
MEASURED = [recipe for recipe in recipes.ALL if recipe.measured is not None]


def cells(text: str, start: str) -> list[str]:
    """The cells of the one table row of a document whose first cell is `start`."""
    (line,) = (line for line in text.splitlines() if line.startswith(f"| {start} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def events(log: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in read_lines(RUNS / f"{log}.jsonl.gz")]


def settings(log: str) -> dict[str, object]:
    found = events(log)[0]["settings"]
    assert isinstance(found, dict)
    return found


def flags(command: str) -> dict[str, str]:
    return {name.replace("-", "_"): value for name, value in re.findall(r"--(\S+)(?: ([^-\s]\S*))?", command)}


def as_typed(value: object) -> str:
    """1 for 1.0, nothing for True as for a flag without a value."""
    text = ",".join(map(str, value)) if isinstance(value, list) else str("" if value is True else value)
    return f"{float(text):g}" if re.fullmatch(r"-?\d+(\.\d+)?", text) else text


@pytest.mark.slow
def test_the_page_has_the_table_of_the_recipes(run: Run) -> None:
    status, printed, _ = run("recipes", "--markdown")
    assert status == 0
    assert f"\n{printed.strip()}\n" in RESULTS


def test_the_pages_are_what_make_results_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A figure changed by hand is not. The table of the recipes, which takes seconds, has the test above."""
    (recipes_table,) = re.findall(r"^\| recipe \|.*\n(?:\|.*\n)+", RESULTS, re.MULTILINE)
    monkeypatch.setattr(recipe_table, "markdown", recipes_table.strip)
    for path, text in results.pages(ROOT / "docs").items():
        assert path.read_text(encoding="utf-8") == text, f"run `make results`: {path} is not what its files make"


@pytest.fixture
def docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of what the pages are made of."""
    monkeypatch.setattr(recipe_table, "markdown", lambda: "")  # takes seconds
    shutil.copytree(RUNS, tmp_path / "runs")
    for path in (ROOT / "docs").glob("*.md"):
        shutil.copy(path, tmp_path)
    return tmp_path


def test_each_figure_has_a_file(docs: Path) -> None:
    page = docs / "results.md"
    for name in ("loader.json", "r20-200.jsonl.gz", "v2-56-s1.jsonl.gz"):
        kept = (docs / "runs" / name).rename(docs / name)
        with pytest.raises(SystemExit, match=f"{name} is missing"):
            results.pages(docs)
        kept.rename(docs / "runs" / name)
    page.write_text(f"{RESULTS}\n| work | speed |\n|---|---|\n| all | 9 |\n", encoding="utf-8")
    with pytest.raises(SystemExit, match=r"figures of no file, \| work \| speed \|"):
        results.pages(docs)
    page.write_text(f"{RESULTS}\n| work | speed |\n|---|---|\n| all | good |\n", encoding="utf-8")
    results.pages(docs)
    (docs / "runs" / "more.jsonl.gz").touch()
    with pytest.raises(SystemExit, match=r"no page shows, more\.jsonl\.gz;"):
        results.pages(docs)


@pytest.mark.parametrize("key", ["commands", "hardware", "committed", "repeats"])
def test_each_table_tells_how_it_was_measured(key: str, docs: Path) -> None:
    path = docs / "runs" / "memory.json"
    told = json.loads(path.read_text())
    told.pop(key)
    path.write_text(json.dumps(told))
    with pytest.raises(SystemExit, match=f"does not tell the {key.replace('committed', 'date')};"):
        results.pages(docs)


def test_a_table_of_seeds(docs: Path) -> None:
    errors = [read_curve(RUNS / f"v2-56-s{seed}.jsonl.gz").top1[9] for seed in range(3)]
    text = results.pages(docs)[docs / "results.md"]
    _, epochs, seeds, each, mean, spread = cells(text, "v2, depth 56")
    assert (epochs, seeds, each) == ("10", "0, 1, 2", ", ".join(f"{error:.2f}" for error in errors))
    assert (mean, spread) == (f"{np.mean(errors):.2f}", f"{np.std(errors, ddof=1):.2f}")


@pytest.mark.parametrize("path", sorted(RUNS.glob("*.json")), ids=lambda path: path.name)
def test_commands_are_those_of_their_logs(path: Path) -> None:
    """A page gives the command of a run with the settings that its log has; runs of a mean differ by their seed."""
    told = json.loads(path.read_text())
    for command in told["commands"]:
        if command.startswith("resnet-v2 train"):
            typed = flags(command)
            recipe = dict(recipes.find(typed["recipe"]).settings) if "recipe" in typed else {}
            logged = settings(typed.get("model_prefix", f"model/{typed.get('recipe')}").removeprefix("model/"))
            assert "amp" in recipe | typed, "the default depends on the machine"
            for name, value in (recipe | typed).items():
                if name not in ("recipe", "data_dir"):
                    assert as_typed(logged[name]) == as_typed(value), name
    for row in told["rows"]:
        for name, value in flags(row.get("changed", "").strip("`")).items():
            assert as_typed(settings(row["log"])[name]) == as_typed(value), name
        first, *others = [settings(log) for log in row.get("logs", ())] or [{}]
        for other in others:
            differing = {name for name in first if first[name] != other[name]}
            assert differing <= {"seed", "model_prefix", "prefix"}


@pytest.mark.parametrize("recipe", MEASURED, ids=lambda recipe: recipe.name)
def test_measured_recipes_are_what_their_logs_tell(recipe: recipes.Recipe) -> None:
    assert recipe.measured is not None
    told = events(recipe.measured.log)
    summary = read_curve(RUNS / f"{recipe.measured.log}.jsonl.gz").summary()
    assert round(summary["top1_error"], 2) == recipe.measured.top1_error
    assert round(summary["top5_error"], 2) == recipe.measured.top5_error
    assert round(results.minutes(told)) == recipe.measured.minutes
    assert summary["epochs"] == recipe.settings["epochs"]
    logged = settings(recipe.measured.log)
    for name, value in recipe.settings.items():
        if name not in ("data_dir", "num_classes", "milestones"):
            assert logged[name] == value, name


def shipped() -> Path:
    (path,) = SHIPPED.glob("*.safetensors")
    return path


def test_the_network_that_ships_is_small_and_described(run: Run) -> None:
    path = shipped()
    header = read_header(path)
    assert path.stat().st_size <= 4_000_000
    card = path.with_suffix(".md").read_text(encoding="utf-8")
    assert f"| {header.errors['top1_error']:.2f} % | {header.errors['top5_error']:.2f} % |" in card
    assert "## Data and licence" in card
    assert "license:" in card
    assert len(header.class_names) == header.architecture.classes == 10
    row = " ".join(cells(README, "the network in the package, CIFAR-10"))
    assert f"{header.errors['top1_error']:.2f} %" in row
    assert f"{path.stat().st_size / 1e6:.1f} MB" in row
    assert resnet_v2.load("").header == header


@pytest.mark.skipif(not CIFAR.is_file(), reason="missing ../shared: the JPEG copy of CIFAR-10")
@pytest.mark.slow
def test_the_card_has_the_error_to_the_last_digit(tmp_path: Path, run: Run) -> None:
    import tarfile

    with tarfile.open(CIFAR) as archive:
        members = [member for member in archive if member.name.split("/")[-3:-2] == ["test"]]
        archive.extractall(tmp_path, members, filter="data")
    (root,) = (path.parent for path in tmp_path.rglob("test"))
    (root / "train").symlink_to(root / "test")
    assert run("list", root, tmp_path / "cifar10")[0] == 0
    rec = tmp_path / "cifar10_val.rec"
    assert run("pack", tmp_path / "cifar10_val.lst", root, rec, "--pass-through")[0] == 0
    measured = json.loads(run("evaluate", "--rec", rec, "--gpus", "", "--json")[1])
    card = shipped().with_suffix(".md").read_text(encoding="utf-8")
    assert measured["images"] == 10_000  # so two digits are all there are
    errors = f"{measured['top1_error']:.2f} % (top-1) and {measured['top5_error']:.2f} % (top-5)"
    assert f"On the JPEG copy they are {errors}" in " ".join(card.split())


def test_the_readme_has_the_figures_of_the_results() -> None:
    """Speeds and memory are measured by hand; what is checked is that both documents say the same."""
    ours, mxnet, dali, _ = (
        re.findall(r"[\d.]+", cell)
        for cell in cells(RESULTS, "level 2 from 480: scale, aspect, crop, colours, mirror")[1:]
    )
    row = " ".join(cells(README, "loading ImageNet at level 2, images/s"))
    assert re.findall(r"[\d.]+", row)[1:] == [mxnet[0], dali[0], ours[0]]
    plan = cells(RESULTS, "28")
    row = " ".join(cells(README, "ResNet-200, memory per image, 224 pixels"))
    assert f"{plan[1]} MiB" in row
    assert f"{plan[5].removesuffix(' %')} %" in row
    for recipe in MEASURED:
        assert recipe.measured is not None
        (line,) = (line for line in README.splitlines() if f"`{recipe.name}`" in line and line.startswith("|"))
        assert f"{recipe.measured.top1_error:.2f} %" in line
        assert re.findall(r"(\d+) minutes", line) in ([], [f"{recipe.measured.minutes}"])
    curve = read_curve(RUNS / "r20-200.jsonl.gz")
    whole = cells(README, "ResNet-20, CIFAR-10, the script of 2016 to its end: 200 epochs, on a GPU")
    assert (len(curve.top1), whole[2]) == (200, f"{curve.top1[199]:.2f} % error")
    line = next(line for line in README.splitlines() if line.startswith("| CIFAR-10 in 45 minutes on two CPU cores"))
    once, mirrored = (
        cells(RESULTS, name) for name in ("`dawn30-0`", "the image and its mirror image (ten crops of 32 pixels)")
    )
    assert re.findall(r"(\d+) minutes", line) == [once[4]]
    assert re.findall(r"[\d.]+ %", line) == [f"{once[5]} %", f"{mirrored[1]} %"]
    fifty = recipes.find("imagenet-resnet-50")
    assert f"{fifty.top1_error:.2f}" in " ".join(cells(README, "ResNet-50, ImageNet, top-1 error"))
    assert f"{recipe_table.gpu_hours(fifty):.0f} GPU hours" in " ".join(
        cells(README, "ResNet-50, ImageNet, top-1 error")
    )
