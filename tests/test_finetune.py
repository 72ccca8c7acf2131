"""Fine-tuning: all weights but the last layer's come from a checkpoint, and a small real folder is learned."""

from pathlib import Path

import pytest
import torch

import resnet_v2
from conftest import Run
from resnet_v2.networks import weights


def train(class_folder: Path, prefix: Path, run: Run, *flags: object) -> tuple[int, str, str]:
    return run(
        "train",
        "--data-dir",
        class_folder.parent / "pets",
        "--data-type",
        "pets",
        "--gpus",
        "",
        "--epochs",
        1,
        "--batch-size",
        4,
        "--lr",
        0.01,
        "--model-prefix",
        prefix,
        *flags,
    )


@pytest.fixture
def packed(class_folder: Path, run: Run) -> Path:
    """The records of three classes, in the folder `pets` beside the images."""
    assert run("data", class_folder, "--out", class_folder.parent / "pets", "--val-ratio", 0.2)[0] == 0
    return class_folder


def test_finetuning_starts_from_the_checkpoint(packed: Path, trained: str, tmp_path: Path, run: Run) -> None:
    status, _, err = train(packed, tmp_path / "tuned", run, "--finetune", trained, "--lr", 0)
    assert status == 0, err
    network, header = weights.load(str(tmp_path / "tuned"), 1)
    before = weights.load(trained, 4)[0]
    assert (header.architecture.depth, header.architecture.classes) == (8, 3)
    assert header.class_names == ("ant", "bee", "cat")
    assert network.fc1.weight.shape == (3, 64)
    name = "stage2.unit1.conv1.weight"
    assert torch.equal(network.get_parameter(name), before.get_parameter(name))


def test_finetuning_trains_every_layer(packed: Path, trained: str, tmp_path: Path, run: Run) -> None:
    assert train(packed, tmp_path / "tuned", run, "--finetune", f"{trained}-0004", "--num-classes", 3)[0] == 0
    after, before = (weights.load(prefix)[0] for prefix in (str(tmp_path / "tuned"), trained))
    name = "stage2.unit1.conv1.weight"
    assert not torch.equal(after.get_parameter(name), before.get_parameter(name))


def test_a_network_sees_larger_pictures_than_it_was_made_for(
    class_folder: Path, trained: str, tmp_path: Path, run: Run
) -> None:
    pets = class_folder.parent / "pets"
    assert run("data", class_folder, "--out", pets, "--val-ratio", 0.2, "--resize", 48)[0] == 0
    status, _, err = train(class_folder, tmp_path / "tuned", run, "--finetune", trained, "--image-size", 48)
    assert (status, "shorter side" in err) == (0, False), err
    header = weights.load(str(tmp_path / "tuned"), 1)[1]
    assert (header.crop, header.resize) == (48, 48)
    found = resnet_v2.load(str(tmp_path / "tuned"), 1).evaluate(pets / "pets_val.rec")
    assert found.top1_error == pytest.approx(header.errors["top1_error"])


def test_what_does_not_fit(packed: Path, trained: str, tmp_path: Path, run: Run) -> None:
    for flags, words in (
        (["--finetune", trained, "--depth", 20], "has --depth 8, not 20"),
        (["--finetune", "nothing"], "There is no checkpoint nothing"),
        (["--finetune", trained, "--retrain", "--model-load-epoch", 1, "--epochs", 2], "give one of them"),
        (["--finetune", trained, "--zero-init-residual"], "are for new weights"),
        (["--finetune", trained, "--num-classes", 4], "pets/synset.txt names 3"),
    ):
        status, _, err = train(packed, tmp_path / "bad", run, *flags)
        assert status == 2
        assert words in err
    assert not list(tmp_path.glob("bad*"))


def test_a_new_head() -> None:
    network = resnet_v2.resnet(20, classes=10)
    body = network.conv0.weight.clone()
    network.reset_classifier(4, seed=1)
    assert network.architecture.classes == 4
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 4)
    assert torch.equal(network.conv0.weight, body)
    again = resnet_v2.resnet(20, classes=10)
    again.reset_classifier(4, seed=1)
    assert torch.equal(network.fc1.weight, again.fc1.weight)
