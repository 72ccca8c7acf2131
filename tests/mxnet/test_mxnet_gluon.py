"""Gluon's model zoo both ways, and Module's checkpoints in the forms of those years, against MXNet 1.9.1."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from parity import MXNet, difference, random_images, random_network

from resnet_v2.interchange.export import export
from resnet_v2.interchange.inputs import LESS_MEAN, RAW, SIGNED, UNIT, ZOO, Scaling
from resnet_v2.interchange.mxnet import save_checkpoint
from resnet_v2.networks import weights
from resnet_v2.networks.architecture import Architecture
from resnet_v2.networks.finding import checkpoint_path
from resnet_v2.networks.header import Header

pytest_plugins = ["mxnet_process"]

DEPTHS = (18, 34, 50, 101, 152)
LARGEST_DIFFERENCE = 1e-5
NAMES = [f"resnet{depth}_{version}" for depth in DEPTHS for version in ("v1", "v2")]


def scaling_settings(scaling: Scaling) -> dict[str, Any]:
    return {"mean": scaling.mean, "deviation": scaling.deviation}


def logits_of(prefix: str, images: np.ndarray, epoch: int | None = None, dtype: str = "float32") -> np.ndarray:
    network, _ = weights.load(prefix, epoch)
    with torch.inference_mode():
        logits: np.ndarray = network.to(getattr(torch, dtype))(torch.from_numpy(images.astype(dtype))).numpy()
    return logits


@pytest.mark.parametrize("name", NAMES)
def test_we_read_every_form_of_the_zoo_and_it_reads_ours(name: str, mxnet: MXNet, tmp_path: Path) -> None:
    images = random_images(4, 64, seed=1)
    settings = {"name": name, "classes": 12, **scaling_settings(ZOO)}
    _, theirs = mxnet.ask("gluon_write", {"data": images}, seed=2, folder=str(tmp_path), **settings)
    for form in ("saved", "old", "exported"):
        found = difference(logits_of(str(tmp_path / form), images), theirs["logits"])
        print(f"{name} {form}: logits up to {np.abs(theirs['logits']).max():.3g} differ by {found:.1e}")
        assert found < LARGEST_DIFFERENCE
    # What is left without the rounding of sums is that of the weights, which are made up for in float32.
    exact = difference(logits_of(str(tmp_path / "saved"), images, dtype="float64"), theirs["exact"])
    print(f"{name} in float64: {exact:.1e}")
    assert exact < 1e-6
    export(str(tmp_path / "saved"), None, "gluon", str(tmp_path / "back"))
    _, back = mxnet.ask("gluon_read", {"data": images}, prefix=str(tmp_path / "back"), epoch=0, **settings)
    for way in ("zoo", "block", "module"):
        assert difference(back[way], theirs["logits"]) < LARGEST_DIFFERENCE, way
    export(str(tmp_path / "saved"), None, "mxnet", str(tmp_path / "module"))
    _, module = mxnet.ask("module_probabilities", {"data": images}, prefix=str(tmp_path / "module"), epoch=0)
    probabilities = torch.from_numpy(theirs["logits"]).softmax(1).numpy()
    assert difference(module["probabilities"], probabilities) < 1e-4
    again = difference(logits_of(str(tmp_path / "module"), images), theirs["logits"])
    assert again < LARGEST_DIFFERENCE


@pytest.mark.parametrize(
    ("scaling", "version"),
    [(RAW, "v2"), (LESS_MEAN, "v2"), (UNIT, "v2"), (SIGNED, "v2"), (RAW, "v1"), (LESS_MEAN, "v1"), (UNIT, "v1")],
    ids=lambda value: value if isinstance(value, str) else value.words[:16],
)
def test_the_first_batch_norm_shows_the_scaling(scaling: Scaling, version: str, mxnet: MXNet, tmp_path: Path) -> None:
    images = random_images(4, 64, seed=1)
    settings = {"name": f"resnet18_{version}", "classes": 5, "seed": 3, "folder": str(tmp_path)}
    _, theirs = mxnet.ask("gluon_write", {"data": images}, **settings, **scaling_settings(scaling))
    assert difference(logits_of(str(tmp_path / "saved"), images), theirs["logits"]) < LARGEST_DIFFERENCE


@pytest.mark.parametrize(
    "architecture",
    [Architecture(50, 9, "imagenet"), Architecture(18, 9, "gluon"), Architecture(50, 9, "gluon", "v1")],
    ids=["50 v2", "18 v2", "50 v1"],
)
def test_networks_trained_here(architecture: Architecture, mxnet: MXNet, tmp_path: Path) -> None:
    """What Gluon's zoo has a network for it reads; a v1 whose images have statistics of their own it has none for."""
    images = random_images(4, 64, seed=1)
    network = random_network(architecture, images, seed=5)
    prefix = str(tmp_path / "ours")
    weights.save(checkpoint_path(prefix, 3), weights.network_tensors(network), Header.of_epoch(architecture, 3))
    name = f"resnet{architecture.depth}_{architecture.version}"
    settings = {"name": name, "classes": 9, "prefix": f"{prefix}-gluon", "epoch": 3, **scaling_settings(ZOO)}
    if architecture.version == "v1":
        with pytest.raises(Exception, match="does not normalise its images itself"):
            export(prefix, 3, "gluon", f"{prefix}-gluon")
        assert not list(tmp_path.glob("*gluon*"))
        return
    assert name in export(prefix, 3, "gluon", f"{prefix}-gluon")
    _, back = mxnet.ask("gluon_read", {"data": images}, **settings)
    ours = logits_of(prefix, images)
    for way in ("zoo", "block", "module"):
        assert difference(back[way], ours) < LARGEST_DIFFERENCE, way


@pytest.mark.parametrize("with_symbol", [True, False], ids=["symbol", "shapes alone"])
@pytest.mark.parametrize("variant", ["fc", "dropout", "pair", "bare", "dict"])
def test_forms_of_module_checkpoints(variant: str, with_symbol: bool, mxnet: MXNet, tmp_path: Path) -> None:
    images = random_images(3, 32, seed=1)
    network = random_network(Architecture(20, 10, "cifar"), images, seed=2)
    save_checkpoint(str(tmp_path / "plain"), 0, network)
    settings = {"from": str(tmp_path / "plain"), "prefix": str(tmp_path / variant), "variant": variant}
    _, theirs = mxnet.ask("write_variant", {"data": images}, **settings)
    if not with_symbol:
        (tmp_path / f"{variant}-symbol.json").unlink()
    ours = torch.from_numpy(logits_of(str(tmp_path / variant), images, 0)).softmax(1).numpy()
    assert difference(ours, theirs["probabilities"]) < LARGEST_DIFFERENCE
    export(str(tmp_path / variant), 0, "mxnet", str(tmp_path / "back"))
    _, back = mxnet.ask("module_probabilities", {"data": images}, prefix=str(tmp_path / "back"), epoch=0)
    assert difference(back["probabilities"], theirs["probabilities"]) < LARGEST_DIFFERENCE
    _, block = mxnet.ask("symbol_block", {"data": images}, prefix=str(tmp_path / "back"), epoch=0)
    assert difference(block["probabilities"], theirs["probabilities"]) < LARGEST_DIFFERENCE
