"""Several networks that answer as one, and networks whose weights are averaged."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import resnet_v2
from conftest import Run, picture
from resnet_v2.data.jpeg import encode
from resnet_v2.data.labels import Labels
from resnet_v2.data.records import IRHeader, pack, writing
from resnet_v2.inference.tally import logits_of_mean, probabilities
from resnet_v2.networks import weights
from resnet_v2.networks.architecture import Architecture
from resnet_v2.networks.header import Header
from resnet_v2.networks.resnet import ResNet, initialize

COLOURS = ("red", "green", "blue")


def save(prefix: Path, seed: int, depth: int = 8, **told: Any) -> Path:
    """A network of three colours with drawn weights, as epoch 1 of a prefix."""
    network = initialize(ResNet(Architecture(depth, 3, "cifar")), seed)
    network.fc1.weight.data *= 0.002  # its statistics are those of no images: it would be sure of everything
    header = replace(Header.of_epoch(network.architecture, 1, COLOURS), **told)
    weights.save(Path(f"{prefix}-0001.safetensors"), weights.network_tensors(network), header)
    return prefix


def quiet(run: Run) -> Run:
    """The same without the lines that tell on a slow machine how far it is."""

    def call(*words: object) -> tuple[int, str, str]:
        status, out, err = run(*words)
        return status, out, re.sub(r"^\w+: \d+ of \d+ \w+, .*\n", "", err, flags=re.MULTILINE)

    return call


@pytest.fixture(name="run")
def _run(run: Run) -> Run:
    return quiet(run)


def record(path: Path, images: int = 12, side: int = 32) -> Path:
    with writing(path) as writer:
        for key in range(images):
            writer.write(key, pack(IRHeader(0, float(key % 3), key, 0), encode(picture(key, side, side), ".png", 3)))
    return path


def test_the_mean_of_probabilities(tmp_path: Path, run: Run) -> None:
    first, second = save(tmp_path / "a", 1), save(tmp_path / "b", 2, depth=14)
    rec, image = record(tmp_path / "v.rec"), tmp_path / "1.png"
    image.write_bytes(encode(picture(1, 32, 32), ".png", 3))
    both = [resnet_v2.load(first), resnet_v2.load(second)]
    pictures = [picture(key, 32, 32) for key in range(12)]
    shares = (
        np.array(
            [
                [one.probability for one in sorted(its, key=lambda one: one.class_index)]
                for network in both
                for its in network.classify(pictures)
            ]
        )
        .reshape(2, 12, 3)
        .mean(0)
    )
    status, out, _ = run("predict", "--img", image, "--prefix", f"{first},{second}", "--json", "--device", "cpu")
    assert status == 0
    for one in json.loads(out)[0]["top"]:
        assert one["probability"] == pytest.approx(shares[1, one["class"]], rel=1e-4)
    words = ("evaluate", "--rec", rec, "--device", "cpu")
    status, out, err = run(*words, "--prefix", f"{first},{second}", "--json")
    assert (status, err) == (0, "")
    found, truth = json.loads(out), np.arange(12) % 3
    assert found["images"] == 12
    assert found["top1_error"] == pytest.approx(100 * np.mean(shares.argmax(1) != truth))
    assert found["loss"] == pytest.approx(-np.log(shares[np.arange(12), truth]).mean(), rel=1e-4)
    table = run(*words, "--prefix", f"{first},{second}", first, "--table")[1]
    assert "| ResNet-8-v2 + ResNet-14-v2 | 32x32 |" in table and table.count("\n") == 4


@pytest.mark.parametrize(
    "labels", [Labels(4), Labels(4, "multi"), Labels(4, "soft"), Labels(4, "tasks", (1, 3))], ids=str
)
def test_its_logits_give_the_mean(labels: Labels) -> None:
    rng = np.random.default_rng(0)
    several = [rng.normal(0, 3, (5, 4)).astype(np.float32) for _ in range(3)]
    wanted = np.mean([probabilities(one, labels) for one in several], 0)
    assert np.allclose(probabilities(logits_of_mean(several, labels), labels), wanted, atol=1e-6)


def test_networks_that_cannot_answer_as_one(tmp_path: Path, run: Run) -> None:
    first = save(tmp_path / "a", 1)
    save(tmp_path / "names", 1, class_names=("red", "green", "grey"))
    save(tmp_path / "multi", 1, label_kind="multi")
    save(tmp_path / "view", 1, resize=40)
    rec = record(tmp_path / "v.rec")
    for other, sentence in (
        ("names", f"Class 2 is 'blue' to {first} and 'grey' to {tmp_path}/names; give networks of the same classes."),
        ("multi", f"{first} tells 3 classes (--labels class) and {tmp_path}/multi 3 classes (--labels multi); give"),
        ("view", f"{first} sees pictures at 32 of 32 pixels and {tmp_path}/view at 32 of 40; evaluate each alone."),
        ("none", f"There is no checkpoint {tmp_path}/none: no file starts with"),
    ):
        status, out, err = run("evaluate", "--rec", rec, "--prefix", f"{first},{tmp_path / other}", "--device", "cpu")
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert err.startswith(f"resnet-v2: {sentence}")


def test_a_name_with_a_comma_is_one_checkpoint(tmp_path: Path, run: Run) -> None:
    prefix, rec = save(tmp_path / "a,b", 1), record(tmp_path / "v.rec")
    status, out, err = run("evaluate", "--rec", rec, "--prefix", prefix, "--table", "--device", "cpu")
    assert (status, err) == (0, "") and "| ResNet-8-v2 |" in out


def test_one_without_names_takes_those_of_the_other(tmp_path: Path, run: Run) -> None:
    first, second, rec = save(tmp_path / "a", 1, class_names=()), save(tmp_path / "b", 2), record(tmp_path / "v.rec")
    out = run("evaluate", "--rec", rec, "--prefix", f"{first},{second}", "--per-class", "--device", "cpu")[1]
    assert all(f"| {name} | 4 |" in out for name in COLOURS)


def tensors(prefix: Path) -> dict[str, torch.Tensor]:
    return weights.read_checkpoint(prefix)[2]


def test_an_average(tmp_path: Path, run: Run) -> None:
    prefixes = [save(tmp_path / name, seed) for name, seed in (("a", 1), ("b", 2), ("c", 3))]
    status, out, err = run("average", *prefixes, "--out", tmp_path / "m", "--device", "cpu")
    assert (status, err) == (0, "")
    assert out.startswith(f"{tmp_path}/m-0000.safetensors: the mean of 3 networks; BatchNorm's statistics are the mean")
    all_of_them, found = [tensors(prefix) for prefix in prefixes], tensors(tmp_path / "m")
    assert found.keys() == all_of_them[0].keys()
    for name, tensor in found.items():
        mean = torch.stack([one[name].double() for one in all_of_them]).mean(0).float()
        assert torch.equal(tensor, mean), name
    header = resnet_v2.load(tmp_path / "m").header
    assert (header.class_names, header.errors, header.epoch) == (COLOURS, {}, 0)
    assert run("average", *prefixes, "--out", tmp_path / "m", "--device", "cpu")[0] == 0, "it may be made anew"


def test_statistics_are_those_of_the_images(tmp_path: Path, run: Run) -> None:
    prefixes, rec = [save(tmp_path / "a", 1), save(tmp_path / "b", 2)], record(tmp_path / "t.rec", images=70)
    words = ("--out", tmp_path / "m", "--rec", rec, "--batch-size", 35, "--device", "cpu")
    status, out, err = run("average", *prefixes, *words)
    assert (status, err) == (0, "") and f"statistics are those of 70 images of {rec}" in out
    run("average", *prefixes, "--out", tmp_path / "plain", "--device", "cpu")
    found, plain = tensors(tmp_path / "m"), tensors(tmp_path / "plain")
    moved = {name for name in found if not torch.equal(found[name], plain[name])}
    assert moved == {name for name in found if "running" in name}
    pixels = torch.stack([torch.from_numpy(picture(key, 32, 32)) for key in range(70)]).double().flatten(0, 2)
    assert torch.allclose(found["bn_data.running_mean"].double(), pixels.mean(0), rtol=1e-5)
    assert torch.allclose(found["bn_data.running_var"].double(), pixels.var(0), rtol=0.05)
    network = resnet_v2.load(tmp_path / "plain").network.train()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        network(torch.stack([torch.from_numpy(picture(key, 32, 32)) for key in range(70)]).permute(0, 3, 1, 2).float())
    assert torch.allclose(found["bn1.running_mean"], network.get_buffer("bn1.running_mean"), atol=0.15)
    before = Path(f"{tmp_path}/m-0000.safetensors").read_bytes()
    run("average", *prefixes, *words)
    assert Path(f"{tmp_path}/m-0000.safetensors").read_bytes() == before


def test_what_has_no_average(tmp_path: Path, run: Run) -> None:
    first = save(tmp_path / "a", 1)
    save(tmp_path / "deep", 1, depth=14)
    save(tmp_path / "names", 1, class_names=("red", "green", "grey"))
    save(tmp_path / "nan", 1)
    path, header, broken = weights.read_checkpoint(tmp_path / "nan")
    broken["fc1.bias"][0] = np.nan
    weights.save(path, broken, header)
    words = ("--out", tmp_path / "m", "--device", "cpu")
    for others, told in (
        ((), "The average of one network is that network; give two or more."),
        ((tmp_path / "deep",), "only networks of one architecture have an average."),
        ((tmp_path / "names",), "give networks of the same classes."),
        ((tmp_path / "nan",), "fc1.bias has what is no number; take another epoch."),
        ((tmp_path / "none",), "or get a published one with `resnet-v2 fetch`."),
        ((first, "--rec", record(tmp_path / "few.rec", 31)), "too few for statistics; give a training record."),
        ((first, "--rec", tmp_path / "no.rec"), "make it with `resnet-v2 pack` or `resnet-v2 data`."),
    ):
        status, out, err = run("average", first, *others, *words)
        assert (status, out, err.count("\n")) == (2, "", 1) and err.endswith(f"{told}\n"), err
    status, _, err = run("average", first, first, "--out", first, "--device", "cpu")
    assert status == 2 and "has the checkpoints of a run; give another name." in err
    mine = Path(f"{tmp_path}/mine-0000.safetensors")
    mine.write_bytes(Path(f"{first}-0001.safetensors").read_bytes())
    status, _, err = run("average", first, mine, "--out", tmp_path / "mine", "--device", "cpu")
    assert status == 2 and err == f"resnet-v2: {mine} is one of the networks that are averaged; give another --out.\n"
    assert not list(tmp_path.glob("m-*"))
