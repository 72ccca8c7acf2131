"""Figures in the documents are those of what they come from: recipes, logs, the shipped network, other tables."""

import itertools
import json
import os
import re
from pathlib import Path

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
MEASURED = [recipe for recipe in recipes.ALL if recipe.measured is not None]


def cells(text: str, start: str) -> list[str]:
    """The cells of the one table row of a document whose first cell is `start`."""
    (line,) = (line for line in text.splitlines() if line.startswith(f"| {start} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def events(log: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in read_lines(RUNS / f"{log}.jsonl.gz")]


@pytest.mark.slow
def test_the_page_has_the_table_of_the_recipes(run: Run) -> None:
    status, printed, _ = run("recipes", "--markdown")
    assert status == 0
    assert f"\n{printed.strip()}\n" in RESULTS


def minutes(told: list[dict[str, object]]) -> float:
    """Of training and validation; not those between the sittings of a run that was stopped and resumed."""
    seconds = 0.0
    for before, event in itertools.pairwise(told):
        if event["event"] == "train":
            seconds += float(str(event["seconds"]))
        elif event["event"] == "validation":
            seconds += float(str(event["time"])) - float(str(before["time"]))
    return seconds / 60


@pytest.mark.parametrize("recipe", MEASURED, ids=lambda recipe: recipe.name)
def test_measured_recipes_are_what_their_logs_tell(recipe: recipes.Recipe) -> None:
    assert recipe.measured is not None
    told = events(recipe.measured.log)
    summary = read_curve(RUNS / f"{recipe.measured.log}.jsonl.gz").summary()
    assert round(summary["top1_error"], 2) == recipe.measured.top1_error
    assert round(summary["top5_error"], 2) == recipe.measured.top5_error
    assert round(minutes(told)) == recipe.measured.minutes
    assert summary["epochs"] == recipe.settings["epochs"]
    settings = told[0]["settings"]
    assert isinstance(settings, dict)
    for name, value in recipe.settings.items():
        if name not in ("data_dir", "num_classes", "milestones"):
            assert settings[name] == value, name


@pytest.mark.parametrize("path", sorted(RUNS.glob("*.jsonl.gz")), ids=lambda path: path.name)
def test_plot_reads_every_log_to_the_figures_of_the_page(path: Path, tmp_path: Path, run: Run) -> None:
    status, printed, _ = run("plot", "--logs", path, "--out", tmp_path / "curve.png", "--json")
    assert status == 0
    (row,) = json.loads(printed)
    label = path.name.removesuffix(".jsonl.gz")
    errors = f"{row['top1_error']:.2f} | {row['top5_error']:.2f}"
    assert re.search(rf"^\| `{re.escape(label)}` \|.*\| {re.escape(errors)} \|", RESULTS, re.MULTILINE), label


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
    fifty = recipes.find("imagenet-resnet-50")
    assert f"{fifty.top1_error:.2f}" in " ".join(cells(README, "ResNet-50, ImageNet, top-1 error"))
    assert f"{recipe_table.gpu_hours(fifty):.0f} GPU hours" in " ".join(
        cells(README, "ResNet-50, ImageNet, top-1 error")
    )
