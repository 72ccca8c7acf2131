"""Real ImageNet pictures, from `list` to `predict`; skipped where the sample of 400 is not at hand."""

import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from conftest import Run
from resnet_v2.cli import main
from resnet_v2.data.augment import augmentation
from resnet_v2.data.filling import Augmented
from resnet_v2.data.loader import Reading, batches
from resnet_v2.data.records import RecordReader
from resnet_v2.networks.architecture import IMAGENET_UNITS
from resnet_v2.networks.resnet import resnet
from resnet_v2.training.feed import array_to_input
from resnet_v2.training.optim import nesterov_sgd

SAMPLE = (
    Path(os.environ.get("RESNET_V2_SHARED", Path(__file__).parents[2] / "shared")) / "data" / "imagenet-sample-400.tar"
)

pytestmark = pytest.mark.skipif(not SAMPLE.is_file(), reason="missing ../shared: the sample of ImageNet")


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records of 8 pictures of 8 classes under ImageNet's names, and the pictures in class folders."""
    folder = tmp_path_factory.mktemp("imagenet")
    with tarfile.open(SAMPLE) as archive:
        for member in sorted(archive.getmembers(), key=lambda member: member.name)[:8]:
            content = archive.extractfile(member)
            assert content is not None
            target = folder / "images" / member.name.split("_")[0] / member.name
            target.parent.mkdir(parents=True)
            target.write_bytes(content.read())
    assert main(["list", str(folder / "images"), str(folder / "all")]) == 0
    for name, resize in (("train_480_q90", 480), ("train_256_q90", 256), ("val_256_q90", 256)):
        lst, out = str(folder / "all_train.lst"), str(folder / f"{name}.rec")
        assert main(["pack", lst, str(folder / "images"), out, f"resize={resize}", "quality=90"]) == 0
    return folder


STEPS = [*((depth, 2) for depth in IMAGENET_UNITS), (50, 1)]


@pytest.mark.parametrize(
    ("depth", "level"), [pytest.param(*step, marks=pytest.mark.slow if step[0] > 34 else ()) for step in STEPS]
)
def test_every_depth_trains_a_step(imagenet: Path, depth: int, level: int) -> None:
    reader = RecordReader(imagenet / ("train_256_q90.rec" if level == 1 else "train_480_q90.rec"))
    preprocess = Augmented(augmentation(level, 224, imagenet=True), 0, 0)
    (batch,) = batches(reader, [np.arange(8)], preprocess, (224, 224, 3), 8, Reading())
    network = resnet(depth, classes=8)
    before = {name: tensor.clone() for name, tensor in network.named_parameters()}
    optimizer = nesterov_sgd(network, 0.1, 0.9, 1e-4)
    loss = F.cross_entropy(network(array_to_input(batch.images, torch.device("cpu"))), torch.from_numpy(batch.labels))
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    assert 0.1 < loss.item() < 20
    unchanged = [name for name, tensor in network.named_parameters() if torch.equal(tensor, before[name])]
    assert not unchanged


def test_resnet_18_from_records_to_names(imagenet: Path, run: Run) -> None:
    prefix = imagenet / "resnet-18"
    status, out, _ = run(
        "train",
        "--data-dir",
        imagenet,
        "--depth",
        18,
        "--epochs",
        2,
        "--batch-size",
        4,
        "--gpus",
        "",
        "--model-prefix",
        prefix,
        "--lr",
        0.01,
    )
    assert status == 0
    assert "on 8 images" in out
    status, out, _ = run("evaluate", "--prefix", prefix, "--epoch", 2, "--rec", imagenet / "val_256_q90.rec", "--json")
    assert status == 0
    assert json.loads(out)["images"] == 8
    status, out, _ = run("predict", "--img", imagenet / "images", "--prefix", prefix, "--epoch", 2, "--format", "jsonl")
    rows = [json.loads(line) for line in out.splitlines()]
    assert status == 0
    assert len(rows) == 8
    assert {len(row["top"]) for row in rows} == {5}
    assert all(one["name"].startswith("n0") for row in rows for one in row["top"])
