"""Checkpoints of MXNet's Module in the forms that scripts of those years left: heads, outputs and names of other kinds.

Real MXNet writes and reads them in tests/mxnet/test_mxnet_gluon.py.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from conftest import Run
from resnet_v2.errors import ResnetError
from resnet_v2.interchange.inputs import ALL, LESS_MEAN, RAW, SIGNED, UNIT, ZOO, Scaling, behind_stem, scaling_of
from resnet_v2.interchange.mxnet import from_network, read_checkpoint
from resnet_v2.interchange.params import write_params
from resnet_v2.interchange.symbol import symbol_json
from resnet_v2.networks.architecture import Architecture
from resnet_v2.networks.resnet import ResNet, initialize

ARCHITECTURE = Architecture(8, 10, "cifar")
Arrays = dict[str, Any]
Change = Callable[[Any, Arrays], Any]


def network() -> ResNet:
    """A network of whose values no two are alike, whose images have the statistics of photographs."""
    made = initialize(ResNet(ARCHITECTURE), 0)
    with torch.no_grad():
        made.fc1.bias.copy_(torch.linspace(-1, 1, 10))
        made.get_buffer("bn_data.running_mean").fill_(120)
        made.get_buffer("bn_data.running_var").fill_(3500)
    return made.eval()


def write(folder: Path, change: Change, with_symbol: bool = True) -> Path:
    """Write the network's two files after `change(graph, arrays)`; returns the path of the parameters."""
    graph, arrays = json.loads(symbol_json(ARCHITECTURE)), dict(from_network(network()))
    change(graph, arrays)
    if with_symbol:
        (folder / "net-symbol.json").write_text(json.dumps(graph))
    write_params(folder / "net-0003.params", arrays)
    return folder / "net-0003.params"


def node_of(graph: Any, name: str) -> Any:
    return next(node for node in graph["nodes"] if node["name"] == name)


def number_of(graph: Any, name: str) -> int:
    return [node["name"] for node in graph["nodes"]].index(name)


def append(graph: Any, op: str, name: str, *inputs: str, **attributes: str) -> int:
    numbers = [[number_of(graph, each), 0, 0] for each in inputs]
    graph["nodes"].append({"op": op, "name": name, "inputs": numbers, "attrs": attributes})
    return len(graph["nodes"]) - 1


def call_last_layer(name: str) -> Change:
    def change(graph: Any, arrays: Arrays) -> None:
        node_of(graph, "fc1")["name"] = name
        for kind in ("weight", "bias"):
            node_of(graph, f"fc1_{kind}")["name"] = f"{name}_{kind}"
            arrays[f"arg:{name}_{kind}"] = arrays.pop(f"arg:fc1_{kind}")

    return change


def drop_out(graph: Any, arrays: Arrays) -> None:
    """`fc1(Dropout(flatten0))`."""
    node = {"op": "Dropout", "name": "drop", "attrs": {"p": "0.5"}, "inputs": [[number_of(graph, "flatten0"), 0, 0]]}
    at = number_of(graph, "flatten0") + 1
    for other in graph["nodes"]:
        other["inputs"] = [[index + (index >= at), *rest] for index, *rest in other["inputs"]]
    graph["nodes"].insert(at, node)
    node_of(graph, "fc1")["inputs"][0][0] = at
    graph["heads"] = [[len(graph["nodes"]) - 1, 0, 0]]


def give_features(first: bool) -> Change:
    """A second output, before or behind the first one, as `mx.sym.Group` with features makes it."""

    def change(graph: Any, arrays: Arrays) -> None:
        features = append(graph, "BlockGrad", "features", "flatten0")
        graph["heads"].insert(0 if first else 1, [features, 0, 0])

    return change


def train_more(graph: Any, arrays: Arrays) -> None:
    """A second loss on another layer, whose weights stand in the file too."""
    for kind in ("weight", "bias"):
        append(graph, "null", f"side_{kind}")
        arrays[f"arg:side_{kind}"] = np.ones((10, 16) if kind == "weight" else 10, np.float32)
    side = append(graph, "Convolution", "side", "relu1", "side_weight", "side_bias", kernel="(1, 1)", num_filter="10")
    graph["heads"].append([side, 0, 0])


def save_inputs(graph: Any, arrays: Arrays) -> None:
    """An executor's whole arg_dict."""
    arrays["arg:data"] = np.ones((2, 3, 32, 32), np.float32)
    arrays["arg:softmax_label"] = np.ones(2, np.float32)


def save_bare(graph: Any, arrays: Arrays) -> None:
    for name in [*arrays]:
        arrays[name[4:]] = arrays.pop(name)


def keep_half(graph: Any, arrays: Arrays) -> None:
    """float16 with Cast at both ends, as train_imagenet.py --dtype float16 has it."""
    for node in graph["nodes"][1:]:
        node["inputs"] = [[index + (index > 0), *rest] for index, *rest in node["inputs"]]
    data = {"op": "Cast", "name": "cast0", "inputs": [[0, 0, 0]], "attrs": {"dtype": "float16"}}
    graph["nodes"].insert(1, data)
    for node in graph["nodes"][2:]:
        node["inputs"] = [[index or 1, *rest] for index, *rest in node["inputs"]]
    graph["heads"] = [[len(graph["nodes"]) - 1, 0, 0]]
    arrays.update({name: array.astype(np.float16) for name, array in arrays.items()})


FORMS: dict[str, Change] = {
    "fine-tune.py": call_last_layer("fc"),
    "another name": call_last_layer("fc_flowers"),
    "dropout": drop_out,
    "features first": give_features(first=True),
    "features last": give_features(first=False),
    "inputs": save_inputs,
    "without arg: and aux:": save_bare,
}
WITH_SYMBOL_ALONE: dict[str, Change] = {"second loss": train_more, "float16": keep_half}


@pytest.mark.parametrize("with_symbol", [True, False], ids=["symbol", "shapes alone"])
@pytest.mark.parametrize("form", FORMS)
def test_other_forms_are_the_same_network(form: str, with_symbol: bool, tmp_path: Path) -> None:
    architecture, state = read_checkpoint(write(tmp_path, FORMS[form], with_symbol))
    assert architecture == ARCHITECTURE
    wanted = {name: tensor for name, tensor in network().state_dict().items() if "num_batches" not in name}
    assert state.keys() == wanted.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in wanted.items())


@pytest.mark.parametrize("form", WITH_SYMBOL_ALONE)
def test_what_only_the_symbol_shows(form: str, tmp_path: Path) -> None:
    architecture, state = read_checkpoint(write(tmp_path, WITH_SYMBOL_ALONE[form]))
    assert architecture == ARCHITECTURE
    assert torch.allclose(state["fc1.weight"], network().fc1.weight, atol=1e-3)


def test_a_last_layer_without_a_bias(tmp_path: Path) -> None:
    def change(graph: Any, arrays: Arrays) -> None:
        node_of(graph, "fc1").update(attrs={"num_hidden": "10", "no_bias": "True"})
        node_of(graph, "fc1")["inputs"].pop()
        arrays.pop("arg:fc1_bias")

    _, state = read_checkpoint(write(tmp_path, change))
    assert torch.equal(state["fc1.bias"], torch.zeros(10))
    (tmp_path / "net-symbol.json").unlink()
    with pytest.raises(ResnetError, match="fc1_bias is missing"):
        read_checkpoint(tmp_path / "net-0003.params")


def two_heads(graph: Any, arrays: Arrays) -> None:
    """A second classifier beside the first."""
    for kind in ("weight", "bias"):
        append(graph, "null", f"fc_{kind}")
        arrays[f"arg:fc_{kind}"] = arrays[f"arg:fc1_{kind}"] * 2
    graph["heads"].append([append(graph, "FullyConnected", "fc", "flatten0", "fc_weight", "fc_bias"), 0, 0])


def write_twice(graph: Any, arrays: Arrays) -> None:
    arrays["fc1_weight"] = arrays["arg:fc1_weight"]


def cut_out(graph: Any, arrays: Arrays) -> None:
    arrays.pop("aux:stage2_unit1_bn1_moving_mean")


def swap_dimensions(graph: Any, arrays: Arrays) -> None:
    arrays["arg:stage2_unit1_conv1_weight"] = arrays["arg:stage2_unit1_conv1_weight"].swapaxes(0, 1)


def take_features_alone(graph: Any, arrays: Arrays) -> None:
    graph["heads"] = [[number_of(graph, "flatten0"), 0, 0]]


def forget_the_weights(graph: Any, arrays: Arrays) -> None:
    for name in [*arrays]:
        if name.endswith("weight"):
            arrays.pop(name)


REFUSED: dict[str, tuple[Change, str]] = {
    "two classifiers": (two_heads, r"net-symbol\.json has several last layers \('fc' and 'fc1'\)"),
    "with and without arg:": (write_twice, r"holds 'fc1_weight' with and without 'arg:'"),
    "a part": (cut_out, "aux:stage2_unit1_bn1_moving_mean is missing"),
    "swapped": (swap_dimensions, r"stage2_unit1_conv1_weight has shape \(16, 32, 3, 3\)"),
    "features alone": (take_features_alone, r"its output is 'flatten0', not softmax"),
    "no weights": (forget_the_weights, "it lacks conv0_weight or fc1_weight"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_network_of_ours_is_said_in_a_sentence(kind: str, run: Run, tmp_path: Path) -> None:
    change, words = REFUSED[kind]
    write(tmp_path, change)
    assert cv2.imwrite(str(tmp_path / "a.png"), np.zeros((32, 32, 3), np.uint8))
    with pytest.raises(ResnetError, match=words):
        read_checkpoint(tmp_path / "net-0003.params")
    status, out, err = run("predict", "--prefix", tmp_path / "net", "--epoch", 3, "--img", tmp_path / "a.png")
    assert (status, out, err.count("\n")) == (2, "", 1), err


def test_two_classifiers_without_the_symbol(tmp_path: Path) -> None:
    """Which one is meant nobody can know; one of them is called fc1, and MXNet's script would take that."""
    path = write(tmp_path, two_heads, with_symbol=False)
    with pytest.raises(ResnetError, match="holds 'arg:fc_bias', which a ResNet-8 v2"):
        read_checkpoint(path)


@pytest.mark.parametrize(("units", "name"), [((3, 4, 14, 3), "r50 "), ((3, 13, 30, 3), "r100 "), ((3, 4, 6, 3), "")])
def test_networks_of_faces_are_refused_by_name(units: tuple[int, ...], name: str, tmp_path: Path) -> None:
    """InsightFace's symbols call their layers as ours do: fresnet.py, version_output E and version_unit 3."""
    arrays: Arrays = {"arg:conv0_weight": np.zeros((64, 3, 3, 3)), "arg:relu0_gamma": np.zeros(64)}
    arrays |= {"arg:pre_fc1_weight": np.zeros((512, 16)), "arg:fc1_gamma": np.zeros(512)}
    for stage, count in enumerate(units, start=1):
        for unit in range(1, count + 1):
            arrays |= {f"arg:stage{stage}_unit{unit}_conv{number}_weight": np.zeros((1, 1, 3, 3)) for number in (1, 2)}
    write_params(tmp_path / "model-0000.params", {key: array.astype(np.float32) for key, array in arrays.items()})
    with pytest.raises(ResnetError, match=rf"model-0000\.params is InsightFace's face network {name}\(\["):
        read_checkpoint(tmp_path / "model-0000.params")


PHOTOGRAPHS = (torch.tensor([123.0, 116.0, 104.0]), torch.tensor([3400.0, 3200.0, 3400.0]))


def scaled(scaling: Scaling, mean: torch.Tensor, variance: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The statistics of pixels -> those of scaled images."""
    deviation = torch.tensor(scaling.deviation)
    return (mean / 255 - torch.tensor(scaling.mean)) / deviation, variance / (255 * deviation) ** 2


@pytest.mark.parametrize("usual", [RAW, ZOO], ids=["module", "gluon"])
@pytest.mark.parametrize("scaling", ALL, ids=lambda scaling: scaling.words[:16])
def test_statistics_of_photographs_show_their_scaling(scaling: Scaling, usual: Scaling) -> None:
    assert scaling_of(*scaled(scaling, *PHOTOGRAPHS), usual) == scaling


@pytest.mark.parametrize(("mean", "variance"), [(33, 6100), (78, 7000), (2, 400), (0, 0), (250, 900), (0.3, 0.22)])
def test_pixels_of_anything_are_pixels(mean: float, variance: float) -> None:
    """Digits, drawings, black images: whatever pixels can be, Module's images are taken for."""
    assert scaling_of(torch.full((3,), float(mean)), torch.full((3,), float(variance)), RAW) == RAW


@pytest.mark.parametrize("scaling", [LESS_MEAN, UNIT, SIGNED, ZOO], ids=["less mean", "unit", "signed", "zoo"])
def test_a_network_of_scaled_images_takes_pixels_here(
    scaling: Scaling, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mean, variance = scaled(scaling, *PHOTOGRAPHS)

    def change(graph: Any, arrays: Arrays) -> None:
        arrays |= {"aux:bn_data_moving_mean": mean.numpy(), "aux:bn_data_moving_var": variance.numpy()}

    found = ResNet(ARCHITECTURE).eval()
    found.load_state_dict(read_checkpoint(write(tmp_path, change))[1], strict=False)
    assert scaling.words in capsys.readouterr().err
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 255
    theirs = network()
    theirs.get_buffer("bn_data.running_mean").copy_(mean)
    theirs.get_buffer("bn_data.running_var").copy_(variance)
    middle, deviation = (torch.tensor(values)[:, None, None] for values in scaling[1:])
    with torch.inference_mode():
        wanted = theirs((pixels / 255 - middle) / deviation)
        assert torch.allclose(found(pixels), wanted, atol=1e-5 * float(wanted.abs().max()))


def test_a_network_that_saw_no_image_yet_takes_pixels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def change(graph: Any, arrays: Arrays) -> None:
        arrays["aux:bn_data_moving_mean"] = np.zeros(3, np.float32)
        arrays["aux:bn_data_moving_var"] = np.ones(3, np.float32)

    _, state = read_checkpoint(write(tmp_path, change))
    assert state["bn_data.running_var"].tolist() == [1, 1, 1]
    assert capsys.readouterr().err == ""


def behind(scaling: Scaling, grey: float = 116, seed: int = 0) -> dict[str, torch.Tensor]:
    """`conv0` of a v1, and the statistics of what it gives for smooth scaled images."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(64, 3, 7, 7, generator=generator) / 12
    coarse = torch.randn(8, 3, 8, 8, generator=generator).repeat_interleave(8, 2).repeat_interleave(8, 3)
    middle, deviation = (torch.tensor(values)[:, None, None] for values in scaling[1:])
    images = ((grey + grey / 2 * coarse).clamp(0, 255) / 255 - middle) / deviation
    given = torch.nn.functional.conv2d(images, weight, stride=2, padding=3).transpose(0, 1).flatten(1)
    return {"conv0.weight": weight, "bn0.running_mean": given.mean(1), "bn0.running_var": given.var(1)}


@pytest.mark.parametrize("scaling", [RAW, LESS_MEAN, ZOO, UNIT], ids=lambda scaling: scaling.words[:16])
def test_the_statistics_behind_the_first_convolution_show_the_scaling(scaling: Scaling) -> None:
    for seed in range(5):
        assert behind_stem(behind(scaling, seed=seed)) == scaling
    assert behind_stem(behind(RAW, grey=40)) == RAW  # digits
    fresh = {"bn0.running_mean": torch.zeros(64), "bn0.running_var": torch.ones(64)}
    assert behind_stem(behind(scaling) | fresh) is None
    assert behind_stem(behind(scaling) | {"bn0.running_mean": torch.full((64,), torch.nan)}) is None


@pytest.mark.parametrize("scaling", [RAW, LESS_MEAN], ids=["pixels", "less mean"])
def test_a_v1_of_scaled_images_is_spoken_of(
    scaling: Scaling, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = initialize(ResNet(Architecture(18, 3, "imagenet", "v1")), 0)
    found.load_state_dict(behind(scaling), strict=False)
    write_params(tmp_path / "net-0000.params", from_network(found))
    _, state = read_checkpoint(tmp_path / "net-0000.params")
    assert all(torch.equal(state[name], found.state_dict()[name]) for name in state)
    warned = "net-0000.params was trained on images less the mean 123.68, 116.779, 103.939, by its bn0; here v1"
    assert (warned in capsys.readouterr().err) == (scaling == LESS_MEAN)
