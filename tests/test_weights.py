"""Weight files: what goes in comes out, and what is wrong with a bad one is said."""

import dataclasses
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from resnet_v2.config.fields import Version
from resnet_v2.errors import ResnetError
from resnet_v2.interchange.export import Format, export
from resnet_v2.networks import weights
from resnet_v2.networks.architecture import Architecture
from resnet_v2.networks.finding import checkpoint_path, find_checkpoint, saved_epochs
from resnet_v2.networks.header import METADATA_KEY, Header, read_header
from resnet_v2.networks.resnet import ResNet, resnet


def header(network: ResNet, epoch: int = 3) -> Header:
    return Header(network.architecture, epoch, 32, 32, ("ä", "b", "c"), {"top1_error": 1.5}, {"lr": 0.1})


@pytest.fixture
def saved(tmp_path: Path) -> tuple[str, ResNet]:
    network = resnet(20, 3)
    network(torch.rand(4, 3, 32, 32) * 255)  # moving statistics that are not the initial ones
    prefix = str(tmp_path / "net-20")
    weights.save(checkpoint_path(prefix, 3), weights.network_tensors(network), header(network))
    return prefix, network


def test_networks_come_back(saved: tuple[str, ResNet]) -> None:
    prefix, network = saved
    loaded, found = weights.load(prefix, 3)
    assert found == header(network)
    assert not loaded.training
    weight = loaded.get_parameter("stage1.unit1.conv1.weight")
    assert weight.is_contiguous(memory_format=torch.channels_last)
    x = torch.rand(2, 3, 32, 32) * 255
    assert torch.equal(loaded(x), network.eval()(x))


def test_names_are_those_of_the_design(saved: tuple[str, ResNet]) -> None:
    tensors = safetensors.torch.load_file(f"{saved[0]}-0003.safetensors")
    assert {
        "bn_data.bias",
        "conv0.weight",
        "stage1.unit1.sc.weight",
        "stage3.unit3.bn2.running_var",
        "bn1.weight",
        "fc1.bias",
    } <= set(tensors)
    assert not any("num_batches" in name for name in tensors)


def test_a_missing_epoch_lists_those_there(saved: tuple[str, ResNet]) -> None:
    prefix, network = saved
    weights.save(checkpoint_path(prefix, 12), weights.network_tensors(network), header(network, 12))
    with pytest.raises(ResnetError, match=r"net-20-0005\.safetensors is missing: saved epochs are 3, 12"):
        weights.load(prefix, 5)
    with pytest.raises(ResnetError, match="no checkpoint starts with"):
        weights.load(prefix + "x", 5)
    with pytest.raises(ResnetError, match="no checkpoint starts with"):
        weights.load("nowhere/net", 5)


@pytest.mark.parametrize("damage", ["truncated", "text", "empty"])
def test_damaged_files(saved: tuple[str, ResNet], damage: str) -> None:
    path = Path(f"{saved[0]}-0003.safetensors")
    data = path.read_bytes()
    path.write_bytes({"truncated": data[: len(data) // 2], "text": b"hello world", "empty": b""}[damage])
    with pytest.raises(ResnetError, match="is damaged or no safetensors file"):
        weights.load(saved[0], 3)


def test_foreign_and_unfitting_files(saved: tuple[str, ResNet]) -> None:
    prefix, network = saved
    path = checkpoint_path(prefix, 3)
    tensors = weights.network_tensors(network)
    safetensors.torch.save_file(tensors, path)
    with pytest.raises(ResnetError, match="has no resnet-v2 header"):
        weights.load(prefix, 3)
    weights.save(path, {name: tensor for name, tensor in tensors.items() if name != "fc1.bias"}, header(network))
    with pytest.raises(ResnetError, match=r"fc1\.bias is missing, expected \(3,\)"):
        weights.load(prefix, 3)
    weights.save(path, tensors | {"fc1.bias": torch.zeros(4)}, header(network))
    with pytest.raises(ResnetError, match=r"fc1\.bias has shape \(4,\) .* expected \(3,\)"):
        weights.load(prefix, 3)


def test_a_claimed_depth_costs_no_time(saved: tuple[str, ResNet]) -> None:
    path, network = checkpoint_path(saved[0], 3), saved[1]
    deep = dataclasses.replace(header(network), architecture=Architecture(9992, 3, "cifar"))
    weights.save(path, weights.network_tensors(network), deep)
    before = time.process_time()
    with pytest.raises(ResnetError, match=r"does not fit its header: \d+ tensors for Architecture\(depth=9992"):
        weights.load(path)
    assert time.process_time() - before < 1


def test_a_type_that_torch_has_not(saved: tuple[str, ResNet]) -> None:
    text = json.dumps(
        {
            "__metadata__": {METADATA_KEY: header(saved[1]).to_json()},
            "a": {"dtype": "F6_E2M3", "shape": [4], "data_offsets": [0, 3]},
        }
    ).encode()
    path = checkpoint_path(saved[0], 3)
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(3))
    with pytest.raises(ResnetError, match="is damaged"):
        weights.load(path)


@pytest.mark.parametrize(
    "change",
    [
        *({"architecture": 3}, {"unknown": 1}, {"errors": None}, {"training": []}),
        *({"class_names": value} for value in (None, ["a", "b"])),
        *({"crop": value} for value in (0, "x", 10**6)),
        *({"resize": value} for value in (-5, 32.5)),
        *({"epoch": value} for value in (-1, None)),
    ],
    ids=str,
)
def test_headers_that_cannot_be_read(saved: tuple[str, ResNet], change: dict[str, object]) -> None:
    prefix, network = saved
    text = json.dumps(dataclasses.asdict(header(network)) | change)
    path = checkpoint_path(prefix, 3)
    safetensors.torch.save_file(weights.network_tensors(network), path, {METADATA_KEY: text})
    with pytest.raises(ResnetError, match="header that cannot be read"):
        weights.load(prefix, 3)


RUN: dict[str, Any] = {
    "version": 2,
    "position": {"epoch": 1, "step": 2, "trained": False},
    "loader": {"epoch": 1, "step": 2, "seed": (1 << 63) - 1, "batch_size": 4, "images": 16, "records": 20},
    "meters": {name: [{"loss": 1.5, "correct": 3, "images": 8, "steps": 2}] * 2 for name in ("whole", "recent")},
    "best": [50.0, 1],
    "scaler": {},
    "evaluation": None,
    "settings": {"lr": 0.1, "depth": 8, "seed": (1 << 63) - 1},
    "given": ["depth"],
    "learning_rate": 0.1,
    "data": {"a.rec": "0123"},
}


def told(network: ResNet, training: dict[str, Any]) -> Header:
    return dataclasses.replace(header(network), training=training)


@pytest.mark.parametrize("loss", [1.5, 1e30, math.inf])
def test_a_run_is_read_from_a_header(saved: tuple[str, ResNet], loss: float) -> None:
    run = RUN | {"evaluation": {"images": 20, "loss": loss, "top1_error": 50.0, "top5_error": 10.0}}
    path = checkpoint_path(saved[0], 3)
    weights.save(path, {"fc1.bias": torch.zeros(3)}, told(saved[1], run))
    assert read_header(path).training == run


@pytest.mark.parametrize("name", sorted(RUN))
@pytest.mark.parametrize("value", ["", [1], {"a": [1]}, [[]], math.nan, 10**400], ids=lambda value: str(value)[:9])
def test_a_run_that_cannot_be_is_refused(saved: tuple[str, ResNet], name: str, value: object) -> None:
    path = checkpoint_path(saved[0], 3)
    weights.save(path, {"fc1.bias": torch.zeros(3)}, told(saved[1], RUN | {name: value}))
    with pytest.raises(ResnetError, match=rf"header that cannot be read \({name} is not what a run is told by\)"):
        read_header(path)


@pytest.mark.parametrize(
    "change",
    [
        {"position": {"epoch": 1, "step": 2}},
        {"position": {"epoch": 1.5, "step": 2, "trained": True}},
        {"loader": {"epoch": 1}},
        {"meters": {"whole": [], "recent": []}},
        {"meters": {"whole": [{"loss": 1}], "recent": [{"loss": 1}]}},
        {"best": [50.0]},
        {"evaluation": {"top1_error": 5.0}},
        {"log": {".log": 5, ".jsonl": 5}},
    ],
    ids=str,
)
def test_what_of_a_run_does_not_belong_together(saved: tuple[str, ResNet], change: dict[str, Any]) -> None:
    path = checkpoint_path(saved[0], 3)
    weights.save(path, {"fc1.bias": torch.zeros(3)}, told(saved[1], RUN | change))
    with pytest.raises(ResnetError, match="header that cannot be read"):
        read_header(path)
    for name in ("loader", "meters", "best", "settings"):
        less = {entry: value for entry, value in RUN.items() if entry not in (name, "given")}
        weights.save(path, {"fc1.bias": torch.zeros(3)}, told(saved[1], less))
        with pytest.raises(ResnetError, match=f"{name} of the run is missing"):
            read_header(path)


@pytest.mark.parametrize("version", ["v2", "v1"])
def test_conversion_goes_both_ways(tmp_path: Path, version: Version) -> None:
    network = resnet(20, 3, version)
    network(torch.rand(4, 3, 32, 32) * 255)
    prefix, mxnet, back = (str(tmp_path / name) for name in ("ours", "mxnet", "back"))
    weights.save(checkpoint_path(prefix, 3), weights.network_tensors(network), header(network))
    symbol = tmp_path / "mxnet-symbol.json"
    assert export(prefix, 3, "mxnet", mxnet) == f"{tmp_path / 'mxnet-0003.params'} and {symbol}"
    assert symbol.is_file()
    assert export(mxnet, 3, "safetensors", back) == str(tmp_path / "back-0003.safetensors")
    expected, found = weights.network_tensors(network), weights.network_tensors(weights.load(back, 3)[0])
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert saved_epochs(mxnet) == [3]


def test_our_file_comes_before_mxnets(saved: tuple[str, ResNet]) -> None:
    prefix, _ = saved
    export(prefix, 3, "mxnet")
    assert find_checkpoint(prefix, 3).suffix == ".safetensors"
    checkpoint_path(prefix, 3).unlink()
    assert find_checkpoint(prefix, 3).suffix == ".params"
    assert weights.load(prefix, 3)[1] == Header.of_epoch(saved[1].architecture, 3)


def test_a_file_without_permission(trained: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # root may open everything
    with pytest.raises(ResnetError, match=r"0004\.safetensors cannot be read \(Permission denied\)"):
        weights.read(Path(f"{trained}-0004.safetensors"))


@pytest.mark.parametrize("kind", [torch.int32, torch.bool])
def test_weights_are_floating_point_numbers(saved: tuple[str, ResNet], kind: torch.dtype) -> None:
    prefix, network = saved
    tensors = {name: tensor.to(kind) for name, tensor in weights.network_tensors(network).items()}
    weights.save(checkpoint_path(prefix, 3), tensors, header(network))
    with pytest.raises(ResnetError, match="of floats"):
        weights.load(prefix, 3)


@pytest.mark.parametrize("claim", [{"classes": 10**12}, {"classes": 3.0}, {"depth": 10**9 + 1}, {"width": 1.5}])
def test_architectures_that_cannot_be(claim: dict[str, Any]) -> None:
    with pytest.raises(ResnetError, match="whole number up to"):
        Architecture(**{"depth": 20, "classes": 3, "stem": "cifar", **claim})


@pytest.mark.skipif(sys.platform != "linux", reason="missing names that are no UTF-8: a file system of Linux")
def test_a_name_that_is_no_utf8(saved: tuple[str, ResNet], tmp_path: Path) -> None:
    prefix, network = saved
    path = tmp_path / "m\udcff-0003.safetensors"
    weights.save(path, weights.network_tensors(network), header(network), check=True)
    assert path.read_bytes() == checkpoint_path(prefix, 3).read_bytes()
    weight = weights.load(tmp_path / "m\udcff", 3)[0].get_parameter("fc1.weight")
    assert torch.equal(weight, network.get_parameter("fc1.weight"))


@pytest.mark.parametrize("to", ["mxnet", "safetensors"])
def test_no_checkpoint_is_written_over_unasked(tmp_path: Path, to: Format) -> None:
    """A network that was converted lies beside the file that it came from."""
    network = resnet(8, 3)
    ours, theirs = str(tmp_path / "net"), str(tmp_path / "other")
    weights.save(checkpoint_path(ours, 3), weights.network_tensors(network), header(network))
    export(ours, 3, "mxnet", theirs)
    ending = {"mxnet": "params", "safetensors": "safetensors"}[to]
    kept = tmp_path / f"other-0003.{ending}"
    if to == "mxnet":
        weights.save(checkpoint_path(theirs, 3), weights.network_tensors(network), header(network))
        source = str(checkpoint_path(theirs, 3))
    else:
        kept.write_bytes(b"trained")
        source = str(tmp_path / "other-0003.params")
    before = kept.read_bytes()
    with pytest.raises(ResnetError, match=f"{kept.name} is there already; give `out`"):
        export(source, None, to)
    assert kept.read_bytes() == before
    export(source, None, to, theirs)
    assert kept.read_bytes() != b"trained"


@pytest.mark.parametrize("to", ["mxnet", "gluon"])
def test_no_symbol_of_another_network_is_written_over_unasked(tmp_path: Path, to: Format) -> None:
    network = resnet(18, 3, stem="gluon")
    ours, symbol = str(tmp_path / "net"), tmp_path / "net-symbol.json"
    for epoch in (1, 2, 3):
        weights.save(checkpoint_path(ours, epoch), weights.network_tensors(network), header(network))
    export(ours, 1, to)
    same = symbol.read_bytes()
    export(ours, 2, to)  # the network's own symbol is there
    symbol.write_bytes(b"{}")
    with pytest.raises(ResnetError, match=r"net-symbol.json is there already and says otherwise; give `out`"):
        export(ours, 3, to)
    assert symbol.read_bytes() == b"{}"
    assert not (tmp_path / "net-0003.params").exists()
    export(ours, 3, to, ours)
    assert symbol.read_bytes() == same
