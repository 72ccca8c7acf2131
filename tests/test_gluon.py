"""Networks of Gluon's model zoo under its names, and the refusal of its neighbours.

Real MXNet writes and reads them in tests/mxnet/test_mxnet_gluon.py.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from conftest import Run
from resnet_v2.config.fields import Version
from resnet_v2.errors import ResnetError
from resnet_v2.interchange import gluon
from resnet_v2.interchange.inputs import ZOO, scaling_of
from resnet_v2.interchange.mxnet import from_network, parameter_names, read_checkpoint, save_gluon
from resnet_v2.interchange.params import read_params, write_params
from resnet_v2.interchange.symbol import GLUON_EPSILON
from resnet_v2.networks import weights
from resnet_v2.networks.architecture import Architecture
from resnet_v2.networks.finding import checkpoint_path
from resnet_v2.networks.header import Header
from resnet_v2.networks.resnet import ResNet, initialize

Arrays = dict[str, npt.NDArray[Any]]
# What save_parameters and export of MXNet 1.9.1 call them.
NAMES: dict[tuple[int, Version], dict[str, str]] = {
    (18, "v1"): {
        "features.4.0.body.0.weight": "stage1_conv0_weight",
        "features.5.0.downsample.0.weight": "stage2_conv2_weight",
        "features.5.0.downsample.1.running_var": "stage2_batchnorm2_running_var",
        "features.1.gamma": "batchnorm0_gamma",
    },
    (50, "v1"): {
        "features.4.0.body.0.bias": "stage1_conv0_bias",
        "features.4.0.body.6.weight": "stage1_conv2_weight",
        "features.4.0.body.7.beta": "stage1_batchnorm2_beta",
        "features.4.1.body.3.weight": "stage1_conv5_weight",
    },
    (18, "v2"): {
        "features.0.running_mean": "batchnorm0_running_mean",
        "features.6.0.downsample.weight": "stage2_conv2_weight",
        "features.9.gamma": "batchnorm2_gamma",
    },
    (50, "v2"): {
        "features.5.0.conv3.weight": "stage1_conv2_weight",
        "features.5.0.downsample.weight": "stage1_conv3_weight",
        "features.5.1.bn1.gamma": "stage1_batchnorm3_gamma",
    },
}


@pytest.mark.parametrize("network", NAMES, ids=str)
def test_names(network: tuple[int, Version]) -> None:
    layers = [*gluon.layers(gluon.architecture_of(*network, 10))]
    found = {f"features.{dotted}": counted for layer in layers for counted, dotted, _ in layer.names()}
    assert len(found) == sum(len([*layer.names()]) for layer in layers)
    assert {name: found[name] for name in NAMES[network]} == NAMES[network]


def drawn(network: ResNet) -> ResNet:
    """With statistics, gammas, betas and biases of all kinds."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor in (module.weight, module.running_var):
                    if tensor is not None:
                        tensor.uniform_(0.5, 1.5, generator=generator)
                for tensor in (module.bias, cast(torch.Tensor, module.running_mean)):
                    tensor.uniform_(-0.3, 0.3, generator=generator)
        network.get_buffer("bn_data.running_mean").fill_(0.03)
        network.get_buffer("bn_data.running_var").fill_(1.2)
        network.bn_data.bias.zero_()
    return network.eval()


def gluons(architecture: Architecture) -> tuple[ResNet, Arrays]:
    """A network that computes as Gluon's does, in float64 on scaled images, and its arrays by our names."""
    network = drawn(initialize(ResNet(architecture), 0))
    arrays = {name[4:]: array for name, array in from_network(network).items()}
    for layer in gluon.layers(architecture):
        if layer.biased:
            module = network.get_submodule(layer.ours.replace("_", "."))
            module.bias = nn.Parameter(torch.linspace(-0.4, 0.4, arrays[f"{layer.ours}_weight"].shape[0]))
            arrays[f"{layer.ours}_bias"] = module.bias.detach().numpy()
    if architecture.version == "v1":
        network.add_module("bn_data", nn.Identity())
        arrays = {name: array for name, array in arrays.items() if not name.startswith("bn_data")}
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = GLUON_EPSILON
    return network.double(), arrays


def named(arrays: Arrays, architecture: Architecture, form: str) -> Arrays:
    """The same arrays as save_parameters, versions before 1.3, or export would name them."""
    dots = form == "dots"
    table = {
        ours: dotted if dots else counted
        for layer in gluon.layers(architecture)
        for counted, dotted, ours in layer.names()
    }
    table = {ours: f"features.{name}" if dots else name for ours, name in table.items()}
    table |= {f"fc1_{kind}": f"output.{kind}" if dots else f"dense0_{kind}" for kind in ("weight", "bias")}
    if form == "export":
        network = f"resnet{architecture.version}0"
        table = {ours: f"{'aux' if 'running' in name else 'arg'}:{network}_{name}" for ours, name in table.items()}
    return {table[ours]: array for ours, array in arrays.items()}


@pytest.mark.parametrize("form", ["dots", "counted", "export"])
@pytest.mark.parametrize("network", NAMES, ids=str)
def test_every_form_gives_the_logits(
    network: tuple[int, Version], form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    architecture = gluon.architecture_of(*network, 7)
    theirs, arrays = gluons(architecture)
    write_params(tmp_path / "net.params", named(arrays, architecture, form))
    found, state = read_checkpoint(tmp_path / "net.params")
    assert found == architecture
    said = capsys.readouterr().err
    assert said.startswith(f"{tmp_path / 'net.params'} is Gluon's and wants images {ZOO.words}, by its first BatchNorm")
    ours = ResNet(architecture).eval()
    ours.load_state_dict(state, strict=False)
    pixels = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 255
    middle, deviation = (torch.tensor(values, dtype=torch.float64)[:, None, None] for values in ZOO[1:])
    with torch.inference_mode():
        wanted = theirs((pixels / 255 - middle) / deviation)
        assert float((ours.double()(pixels) - wanted).abs().max() / wanted.abs().max()) < 1e-6


def shapes_of(architecture: Architecture, form: str = "dots") -> dict[str, tuple[int, ...]]:
    """The shapes of Gluon's arrays, without the memory for them."""
    with torch.device("meta"):
        network = ResNet(architecture)
    state = network.state_dict()
    shapes = {name[4:]: tuple(state[ours].shape) for name, ours in parameter_names(network).items()}
    shapes["bn_data_gamma"] = (3,)
    for layer in gluon.layers(architecture):
        if layer.biased:
            shapes[f"{layer.ours}_bias"] = shapes[f"{layer.ours}_weight"][:1]
    known = {ours for layer in gluon.layers(architecture) for *_, ours in layer.names()} | {"fc1_weight", "fc1_bias"}
    zeros = {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items() if name in known}
    return {name: array.shape for name, array in named(zeros, architecture, form).items()}


@pytest.mark.parametrize("form", ["dots", "counted"])
def test_all_ten_are_recognised(form: str) -> None:
    for depth in gluon.DEPTHS:
        versions: tuple[Version, Version] = ("v1", "v2")
        for version in versions:
            architecture = gluon.architecture_of(depth, version, 12)
            found = gluon.recognise(shapes_of(architecture, form), "x")
            assert found is not None
            assert found[0] == architecture
            assert len({*found[1].values()}) == len(found[1])


def test_others_are_left_to_others() -> None:
    assert gluon.recognise({"conv0_weight": (64, 3, 7, 7), "stage1_unit1_conv1_weight": (1, 1, 1, 1)}, "x") is None
    assert gluon.recognise({}, "x") is None


def without(name: str) -> dict[str, tuple[int, ...]]:
    shapes = shapes_of(gluon.architecture_of(18, "v2", 10))
    del shapes[name]
    return shapes


def beside(**more: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    return shapes_of(gluon.architecture_of(18, "v2", 10)) | {f"other.{name}": shape for name, shape in more.items()}


REFUSED: dict[str, tuple[dict[str, tuple[int, ...]], str]] = {
    "cut": (
        without("features.8.1.bn2.beta"),
        r"nearest is Gluon's resnet18_v2, and 'features.8.1.bn2.beta' is missing",
    ),
    "no head": (without("output.weight"), "is Gluon's resnet18_v2, but for a last layer it has 'output.bias'"),
    "no bias": (without("output.bias"), "for a last layer it has 'output.weight'"),
    "two heads": (beside(weight=(5, 512), bias=(5,)), "it has 'other.bias', 'other.weight', 'output.bias'"),
    "something else": (beside(gamma=(5,)), "it has 'other.gamma'"),
    "v1b": (
        {"conv1.weight": (64, 3, 7, 7), "layer1.0.conv1.weight": (64, 64, 3, 3)},
        "is a ResNet v1b or a later kind",
    ),
    "v1b exported": ({"resnetv1b0_layers1_conv0_weight": (64, 64, 3, 3)}, "is a ResNet v1b or a later kind of GluonCV"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_neighbours_are_refused(kind: str) -> None:
    shapes, words = REFUSED[kind]
    with pytest.raises(ResnetError, match=rf"x\.params .*{words}"):
        gluon.recognise(shapes, "x.params")


SHAPES = shapes_of(gluon.architecture_of(18, "v1", 10), "counted")


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(st.sampled_from([*SHAPES]), st.none() | st.text(max_size=12), min_size=1, max_size=3),
    st.lists(st.integers(0, 3), max_size=4),
)
def test_any_change_of_names_and_shapes_is_read_or_refused(renamed: dict[str, str | None], shape: list[int]) -> None:
    found = {renamed.get(name, name): tuple(shape) if name in renamed else its for name, its in SHAPES.items()}
    shapes = {name: its for name, its in found.items() if name is not None}
    try:
        result = gluon.recognise(shapes, "x.params")
        assert result is None or result[1].keys() == shapes.keys()
    except ResnetError as error:
        assert str(error).startswith("x.params ")
        assert "\n" not in str(error)


DAMAGED: dict[str, tuple[str, Callable[[npt.NDArray[Any]], npt.NDArray[Any]], str]] = {
    "swapped": ("stage2_conv0_weight", lambda array: array.swapaxes(0, 1), "stage2_unit1_conv1_weight has shape"),
    "integers": ("batchnorm0_gamma", lambda array: array.astype(np.int32), "bn0_gamma has shape .* int32"),
    "bias too long": ("stage1_conv0_bias", lambda array: np.zeros(65, np.float32), r"a bias of shape \(65,\)"),
    "bias of integers": ("stage1_conv0_bias", lambda array: np.zeros(64, np.int32), "a bias of shape .* int32"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_arrays_are_refused(kind: str, run: Run, tmp_path: Path) -> None:
    name, change, words = DAMAGED[kind]
    architecture = gluon.architecture_of(50, "v1", 3)
    shapes = shapes_of(architecture, "counted")
    arrays: Arrays = {each: np.zeros(shape, np.float32) for each, shape in shapes.items()}
    arrays[name] = change(arrays[name])
    write_params(tmp_path / "net-0000.params", arrays)
    with pytest.raises(ResnetError, match=words):
        read_checkpoint(tmp_path / "net-0000.params")
    status, out, err = run("export", "--prefix", tmp_path / "net", "--epoch", 0, "--to", "onnx")
    assert (status, out, err.count("\n")) == (2, "", 1), err


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The prefix of a checkpoint of ours that Gluon's model zoo has a network for."""
    prefix = str(tmp_path_factory.mktemp("model") / "net")
    network = drawn(initialize(ResNet(Architecture(18, 5, "gluon")), 0))
    network.get_buffer("bn_data.running_mean").fill_(118)
    network.get_buffer("bn_data.running_var").fill_(3300)
    weights.save(checkpoint_path(prefix, 2), weights.network_tensors(network), Header.of_epoch(network.architecture, 2))
    return prefix


def test_the_command_line_both_ways(ours: str, run: Run, tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    assert cv2.imwrite(str(tmp_path / "a.png"), picture)
    status, out, err = run("export", "--prefix", ours, "--to", "gluon", "--out", tmp_path / "zoo")
    assert (status, err) == (0, "")
    assert out == f"{tmp_path}/zoo-0002.params and {tmp_path}/zoo-symbol.json (vision.resnet18_v2)\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "zoo-0002.params", "zoo-symbol.json"]
    answers = []
    for prefix in (ours, tmp_path / "zoo"):
        status, out, err = run("predict", "--prefix", prefix, "--img", tmp_path / "a.png", "--json")
        assert status == 0
        answers.append({each["class"]: each["probability"] for each in json.loads(out)[0]["top"]})
    assert err.count("is Gluon's and wants images scaled to 0 to 1, less the mean 0.485") == 1
    assert answers[0] == pytest.approx(answers[1], abs=1e-5)


def test_what_export_writes_is_read_to_the_same_network(ours: str, tmp_path: Path) -> None:
    network, _ = weights.load(ours)
    for round in (1, 2):
        save_gluon(str(tmp_path / f"zoo{round}"), 0, network)
        architecture, state = read_checkpoint(tmp_path / f"zoo{round}-0000.params")
        assert architecture == network.architecture
        for name, tensor in state.items():
            assert torch.allclose(tensor, network.state_dict()[name], rtol=1e-6, atol=1e-6), name
        network.load_state_dict(state, strict=False)
    names = read_params(tmp_path / "zoo1-0000.params")
    assert {"arg:stage1_conv0_weight", "aux:batchnorm0_running_var", "arg:dense0_bias"} <= names.keys()


def test_a_symbol_of_another_network_beside_it(ours: str, tmp_path: Path) -> None:
    network, _ = weights.load(ours)
    save_gluon(str(tmp_path / "zoo"), 0, network)
    path = tmp_path / "zoo-symbol.json"
    right = path.read_text()
    path.write_text(right.replace('"eps": "1e-05"', '"eps": "2e-05"', 3))
    with pytest.raises(ResnetError, match=r"zoo-symbol\.json is not our ResNet-18 v2 \(gluon\): node 'bn_data'"):
        read_checkpoint(tmp_path / "zoo-0000.params")
    path.write_text(right[: len(right) // 2])
    with pytest.raises(ResnetError, match="is no symbol JSON"):
        read_checkpoint(tmp_path / "zoo-0000.params")


@pytest.mark.parametrize(
    "architecture",
    [Architecture(20, 10, "cifar"), Architecture(18, 10, "imagenet"), Architecture(50, 10, "imagenet", "v1")],
    ids=lambda architecture: f"{architecture.stem}-{architecture.depth}-{architecture.version}",
)
def test_what_the_zoo_has_no_network_for(architecture: Architecture, run: Run, tmp_path: Path) -> None:
    prefix = tmp_path / "net"
    network = initialize(ResNet(architecture), 0)
    weights.save(checkpoint_path(str(prefix), 0), weights.network_tensors(network), Header.of_epoch(architecture, 0))
    status, out, err = run("export", "--prefix", prefix, "--to", "gluon", "--out", tmp_path / "zoo")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "Gluon's model zoo has no network like this" in err
    assert not [*tmp_path.glob("zoo*")]


def test_statistics_nobody_moved_are_taken_for_the_zoos() -> None:
    assert scaling_of(torch.zeros(3), torch.ones(3), ZOO) == ZOO


def test_the_stem_is_for_what_the_zoo_has() -> None:
    with pytest.raises(ResnetError, match="gluon stem of v2 is for depths 18 and 34"):
        Architecture(50, 10, "gluon")
