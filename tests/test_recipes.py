"""Recipes: their figures against the real logs, what `apply` fills in and tells, and the operations of a run."""

import json
import re
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from conftest import Run
from resnet_v2.errors import ResnetError
from resnet_v2.logs.runlog import read_curve
from resnet_v2.networks.architecture import Architecture
from resnet_v2.networks.resnet import ResNet
from resnet_v2.training import recipe_table, recipes
from resnet_v2.training.plan import decide, departures
from test_logs import REAL_LOGS


def test_an_unknown_recipe_names_those_that_exist(run: Run) -> None:
    with pytest.raises(ResnetError, match=r"imagenet-resnet-18, .*, cifar10-hour\.$"):
        decide({"recipe": "imagenet-50"})
    status, _, err = run("train", "--recipe", "imagenet-50")
    assert status == 2
    assert "There is no recipe 'imagenet-50'" in err


@pytest.mark.parametrize("recipe", recipes.ALL, ids=lambda recipe: recipe.name)
def test_every_recipe_is_a_run(recipe: recipes.Recipe) -> None:
    plan, _ = decide({"recipe": recipe.name})
    assert not departures(plan)
    assert plan.architecture == recipe.architecture
    assert all(milestone < plan.epochs for milestone in plan.schedule.milestones)
    version, kind = plan.architecture.version, plan.config.data.data_type
    assert plan.prefix == f"model/resnet-{'v1-' if version == 'v1' else ''}{kind}-{plan.architecture.depth}"
    assert recipe.source


@pytest.mark.skipif(not REAL_LOGS.is_dir(), reason="missing ../shared: the two logs of 2016")
@pytest.mark.parametrize("name", ["imagenet-resnet-50", "cifar10-resnet-164"])
def test_recipes_agree_with_the_real_logs(name: str) -> None:
    """Error, length, drops and settings as the log itself tells them."""
    recipe = recipes.find(name)
    path = REAL_LOGS / f"resnet-{recipe.settings['depth']}.log"
    curve, text = read_curve(path), path.read_text()
    summary = curve.summary()
    assert summary["epochs"] == recipe.settings["epochs"]
    assert summary["top1_error"] == pytest.approx(recipe.top1_error, abs=0.005)
    if recipe.top5_error is not None:
        assert summary["top5_error"] == pytest.approx(recipe.top5_error, abs=0.005)
    for setting in ("batch_size", "depth", "lr", "mom", "wd"):
        assert re.search(rf"Namespace\(.*\b{setting}={recipe.settings[setting]}\b", text), setting
    assert f"num_examples={recipe.images}" in text
    # At the first drop the training error falls more than in any of the five epochs before.
    drop = int(recipe.settings["milestones"].split(",")[0])
    falls = [curve.train_top1[epoch - 1] - curve.train_top1[epoch] for epoch in range(drop - 5, drop + 1)]
    assert max(falls) == falls[-1]


def test_operations() -> None:
    architecture = Architecture(50, 1000, "imagenet")
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        ResNet(architecture)(torch.empty(1, 3, 224, 224)).sum().backward()
    assert 6 * recipe_table.multiply_adds(architecture, 224) == counter.get_total_flops()
    recipe = recipes.find("imagenet-resnet-50")
    assert recipe_table.training_flops(recipe) == pytest.approx(6 * 4.089e9 * 1_281_167 * 126, rel=1e-3)
    assert recipe_table.gpu_hours(recipe) == pytest.approx(recipe_table.training_flops(recipe) / 20e12 / 3600)


def test_the_list(run: Run) -> None:
    status, text, _ = run("recipes")
    assert status == 0
    assert all(recipe.name in text for recipe in recipes.ALL)
    rows = {row["name"]: row for row in json.loads(run("recipes", "--json")[1])}
    assert rows["imagenet-resnet-200"]["top1_error"] == 22.14
    assert rows["cifar10-resnet-164"]["top5_error"] is None
    assert rows["cifar10-resnet-164"]["settings"]["data_dir"] == "data/cifar10"


def test_training_tells_what_differs(digits: Path, tmp_path: Path, run: Run) -> None:
    status, _, err = run(
        "train",
        "--recipe",
        "cifar10-resnet-164",
        "--data-dir",
        digits,
        "--data-type",
        "digits",
        "--depth",
        8,
        "--epochs",
        1,
        "--num-examples",
        32,
        "--batch-size",
        32,
        "--gpus",
        "",
        "--model-prefix",
        tmp_path / "m",
    )
    assert status == 0
    assert "--depth 8 is not the recipe's: cifar10-resnet-164 has --depth 164." in err
    assert "--data-dir" not in err
    assert '"milestones": "220,260,280"' in (tmp_path / "m.jsonl").read_text()
