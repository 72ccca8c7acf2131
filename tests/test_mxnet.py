"""MXNet's files: every version by hand-made bytes, damaged and hostile ones, recognition, symbols of every age."""

import io
import json
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from resnet_v2.config.fields import Version
from resnet_v2.errors import ResnetError
from resnet_v2.interchange.graph import prove, read_graph
from resnet_v2.interchange.mxnet import (
    from_network,
    load_checkpoint,
    recognise,
    save_checkpoint,
    to_state,
)
from resnet_v2.interchange.params import parse_params, read_params, write_params
from resnet_v2.interchange.symbol import symbol_json
from resnet_v2.networks.architecture import IMAGENET_UNITS, Architecture
from resnet_v2.networks.finding import params_path
from resnet_v2.networks.resnet import ResNet, resnet

V1, V2, V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
TYPES = ["f4", "f8", "f2", "u1", "i4", "i1", "i8", "?", "i2", "u2", "u4", "u8"]
CIFAR_DEPTHS = (8, 11, 20, 29, 56, 110, 164, 1001)

ALL: list[Architecture] = [
    *(Architecture(depth, 1000, "imagenet", version) for depth in IMAGENET_UNITS for version in ("v1", "v2")),
    *(Architecture(depth, 10, "cifar", version) for depth in CIFAR_DEPTHS for version in ("v1", "v2")),
    Architecture(14, 10, "pooled", width=3),
    Architecture(11, 10, "dawn", width=2),
    Architecture(17, 10, "dawn"),
    Architecture(20, 10, "cifar", width=2),
    Architecture(18, 10, "imagenet", "v1", width=2),
    *(Architecture(depth, 1000, "gluon", "v1") for depth in IMAGENET_UNITS),
    *(Architecture(depth, 1000, "gluon", width=width) for depth in (18, 34) for width in (1, 2)),
]


def name_of(architecture: Architecture) -> str:
    return f"{architecture.stem}-{architecture.depth}-{architecture.version}-{architecture.width}"


def packed(version: int | None, shape: tuple[int, ...], dtype: int, data: bytes, storage: int = 0) -> bytes:
    """One array as MXNet saves it; `version` None is the form without one."""
    if version is None:
        start = struct.pack(f"<I{len(shape)}I", len(shape), *shape)
    else:
        start = struct.pack("<I", version) + (struct.pack("<i", storage) if version != V1 else b"")
        start += struct.pack(f"<i{len(shape)}q", len(shape), *shape)
    return start + struct.pack("<iii", 2, 1, dtype) + data


def file_of(*arrays: bytes, names: list[bytes] | None = None) -> bytes:
    names = [f"arg:{number}".encode() for number in range(len(arrays))] if names is None else names
    listed = b"".join(struct.pack("<Q", len(name)) + name for name in names)
    return struct.pack("<QQQ", 0x112, 0, len(arrays)) + b"".join(arrays) + struct.pack("<Q", len(names)) + listed


def parse(content: bytes) -> dict[str, npt.NDArray[Any]]:
    return parse_params(io.BytesIO(content), len(content), "bad.params")


@pytest.mark.parametrize("version", [None, V1, V2, V3], ids=["legacy", "V1", "V2", "V3"])
@pytest.mark.parametrize("dtype", range(12))
def test_every_version_and_type(version: int | None, dtype: int) -> None:
    values = np.arange(6).astype(TYPES[dtype]).reshape(2, 1, 3)
    array = parse(file_of(packed(version, (2, 1, 3), dtype, values.tobytes())))["arg:0"]
    assert (array.dtype, array.shape, array.tobytes()) == (values.dtype, values.shape, values.tobytes())


def test_bfloat16_becomes_the_float32_of_equal_value() -> None:
    values = np.array([1.0, -2.5, 3.140625, 0.0], np.float32)
    halves = (values.view(np.uint32) >> 16).astype(np.uint16)
    array = parse(file_of(packed(V2, (2, 2), 12, halves.tobytes())))["arg:0"]
    assert array.dtype == np.float32
    assert np.array_equal(array, values.reshape(2, 2))


@pytest.mark.parametrize("version", [None, V1, V2, V3], ids=["legacy", "V1", "V2", "V3"])
def test_arrays_without_values(version: int | None) -> None:
    assert parse(file_of(packed(version, (0, 3), 0, b"")))["arg:0"].shape == (0, 3)


@pytest.mark.parametrize(
    "unset",
    [
        struct.pack("<I", 0),
        struct.pack("<Ii", V1, 0),
        struct.pack("<Iii", V2, 0, 0),
        struct.pack("<Iii", V3, 0, -1),
        struct.pack("<Iiiqq", V3, 0, 2, -1, 3),
    ],
)
def test_unset_arrays_end_after_their_shape(unset: bytes) -> None:
    arrays = parse(file_of(unset, packed(V2, (1,), 3, b"\7")))
    assert arrays["arg:0"].size == 0
    assert arrays["arg:1"].tolist() == [7]


def test_scalar_of_version_3() -> None:
    assert parse(file_of(packed(V3, (), 1, struct.pack("<d", 2.5))))["arg:0"] == 2.5


def test_no_arrays() -> None:
    assert parse(file_of()) == {}


GOOD = packed(V2, (2,), 3, b"ab")
HUGE = 1 << 62
DAMAGED = {
    "empty": b"",
    "short header": b"\x12\1",
    "web page": b"<!DOCTYPE html><html><head><title>404 Not Found</title></head></html>",
    "no arrays for the count": struct.pack("<QQQ", 0x112, 0, 1 << 63),
    "more arrays than bytes": struct.pack("<QQQ", 0x112, 0, 100) + bytes(50),
    "cut in the values": file_of(packed(V2, (10,), 0, b"abc"))[:70],
    "product overflow": file_of(packed(V2, (1 << 32, 1 << 32), 0, b"")),
    "negative product": file_of(packed(V2, (HUGE, 2), 0, b"")),
    "negative dimension": file_of(packed(V2, (-5,), 0, b"")),
    "two negative dimensions": file_of(packed(V1, (-1, -4), 0, b"abcdefghijklmnop")),
    "unknown dimension of V2": file_of(packed(V2, (-1,), 0, b"")),
    "zero beside absurd": file_of(packed(V2, (0, HUGE, HUGE), 0, b"")),
    "legacy dimensions": file_of(struct.pack("<I", 0xFFFFFFFF)),
    "many dimensions": file_of(packed(V2, (1,) * 33, 0, b"abcd")),
    "negative ndim": file_of(struct.pack("<Iii", V2, 0, -7)),
    "ndim past the end": file_of(struct.pack("<Iii", V2, 0, 0x7FFFFFFF)),
    "unknown type": file_of(packed(V2, (2,), 13, b"abcdefghijklmnop")),
    "negative type": file_of(packed(V2, (2,), -1, b"abcdefghijklmnop")),
    "unknown storage": file_of(packed(V2, (2,), 3, b"ab", storage=7)),
    "trailing bytes": file_of(GOOD) + b"x",
    "fewer names": file_of(GOOD, GOOD, names=[b"arg:a"]),
    "more names": file_of(GOOD, names=[b"arg:a", b"arg:b"]),
    "name past the end": file_of(GOOD, names=[b"arg:a"])[:-2],
    "name of huge length": file_of(GOOD, names=[])[:-8] + struct.pack("<QQ", 1, 1 << 63),
    "same name twice": file_of(GOOD, GOOD, names=[b"arg:a", b"arg:a"]),
    "name that is no text": file_of(GOOD, names=[b"\xff\xfe"]),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_damage_is_said_in_one_sentence(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.params"
    path.write_bytes(DAMAGED[damage])
    with pytest.raises(ResnetError, match=r"^\S*bad\.params is damaged or no MXNet \.params file: [^\n]{5,300}; copy"):
        read_params(path)


@pytest.mark.parametrize("storage", [1, 2])
def test_sparse_arrays_are_refused(storage: int) -> None:
    with pytest.raises(ResnetError, match=r"sparse.*tostype"):
        parse(file_of(packed(V2, (2,), 3, b"ab", storage=storage)))


def test_list_without_names_is_refused() -> None:
    with pytest.raises(ResnetError, match="without names"):
        parse(file_of(GOOD, names=[]))


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(ResnetError, match=r"none\.params is missing"):
        read_params(tmp_path / "none.params")
    with pytest.raises(ResnetError, match="cannot be read"):
        read_params(tmp_path)


def test_every_truncation_is_refused() -> None:
    content = file_of(packed(V2, (2, 3), 0, bytes(24)), packed(None, (3,), 2, bytes(6)), packed(V1, (1,), 1, bytes(8)))
    assert len(parse(content)) == 3
    for length in range(len(content)):
        with pytest.raises(ResnetError):
            parse(content[:length])


def allocated(read: Callable[[], Any]) -> int:
    """The most bytes that a call had allocated at one time."""
    tracemalloc.start()
    try:
        read()
    except ResnetError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peak


@pytest.mark.parametrize("dtype", [0, 1, 2, 3, 7, 12])
def test_reading_allocates_twice_the_file_at_most(dtype: int, tmp_path: Path) -> None:
    path = tmp_path / "large.params"
    width = 2 if dtype == 12 else np.dtype(TYPES[dtype]).itemsize
    count = 24_000_000 // width
    path.write_bytes(file_of(packed(V2, (count,), dtype, bytes(count * width))))
    assert allocated(lambda: read_params(path)) < 2.2 * path.stat().st_size


@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_counts_allocate_nothing(damage: str) -> None:
    # Beyond the file there is the error's own text.
    assert allocated(lambda: parse(DAMAGED[damage])) < 20_000


SEEDS = [
    file_of(packed(V2, (2, 2), 0, bytes(16)), packed(V3, (), 1, bytes(8))),
    file_of(packed(None, (3,), 2, bytes(6)), packed(V1, (1, 2), 12, bytes(4)), names=[b"arg:w", b"aux:v"]),
    file_of(packed(V2, (0, 5), 7, b"")),
]
EDITS = st.lists(st.tuples(st.integers(0, 200), st.binary(min_size=1, max_size=9), st.booleans()), max_size=4)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.binary(max_size=200), st.sampled_from(SEEDS)), EDITS, st.integers(0, 200))
def test_any_bytes_are_read_or_refused(content: bytes, edits: list[tuple[int, bytes, bool]], cut: int) -> None:
    for place, inserted, replaces in edits:
        place %= len(content) + 1
        content = content[:place] + inserted + content[place + len(inserted) * replaces :]
    content = content[: len(content) - cut] if cut < 20 else content
    try:
        arrays = parse(content)
    except ResnetError as error:
        assert "\n" not in str(error)
    else:
        assert sum(array.nbytes for array in arrays.values()) <= 2 * len(content)


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.text(max_size=20).filter(lambda text: text.isprintable()),
        st.tuples(st.lists(st.integers(0, 4), min_size=1, max_size=4), st.sampled_from(TYPES[:8]), st.integers(0, 99)),
        max_size=5,
    )
)
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, plan: dict[str, Any]) -> None:
    path = tmp_path_factory.mktemp("params") / "x.params"
    arrays = {
        name: np.random.default_rng(seed).integers(0, 2**16, shape).astype(dtype)
        for name, (shape, dtype, seed) in plan.items()
    }
    write_params(path, arrays)
    found = read_params(path)
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == array.tobytes()


@pytest.mark.parametrize("array", [np.zeros(()), np.zeros(3, np.uint32), np.zeros(3, np.complex64)])
def test_what_mxnet_cannot_read_is_not_written(array: npt.NDArray[Any], tmp_path: Path) -> None:
    with pytest.raises(ResnetError, match="cannot read arg:x"):
        write_params(tmp_path / "x.params", {"arg:x": array})
    assert list(tmp_path.iterdir()) == []


def shaped(architecture: Architecture) -> dict[str, npt.NDArray[np.float32]]:
    """The arrays of a network without the memory for them: one zero, seen in every place."""
    with torch.device("meta"):
        network = ResNet(architecture)
    zero = np.zeros((), np.float32)
    arrays = {}
    for name, tensor in network.state_dict().items():
        module, _, kind = name.rpartition(".")
        norm = isinstance(network.get_submodule(module), torch.nn.BatchNorm2d)
        endings = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_var"}
        if kind in endings:
            place = "aux" if kind.startswith("running") else "arg"
            ending = endings[kind] if norm else kind
            arrays[f"{place}:{module.replace('.', '_')}_{ending}"] = np.broadcast_to(zero, tensor.shape)
    return arrays


@pytest.mark.parametrize("architecture", ALL, ids=name_of)
def test_every_architecture_is_recognised_and_named(architecture: Architecture) -> None:
    arrays = shaped(architecture)
    assert recognise(arrays) == architecture
    nodes = json.loads(symbol_json(architecture))["nodes"]
    variables = {node["name"] for node in nodes if node["op"] == "null"} - {"data", "softmax_label"}
    inputs = {"bn_data_gamma"} if architecture.norm_of_images else set()
    assert {name.partition(":")[2] for name in arrays} == variables - inputs


@pytest.mark.parametrize("depth", [8, 11, 18, 50])
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_weights_survive_both_ways(depth: int, version: Version, tmp_path: Path) -> None:
    network = resnet(depth, 7, version)
    with torch.no_grad():
        for number, tensor in enumerate(network.state_dict().values()):
            if tensor.is_floating_point():
                tensor += number / 64
    prefix = str(tmp_path / "made" / "net")
    save_checkpoint(prefix, 12, network)
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == ["net-0012.params", "net-symbol.json"]
    architecture, state = load_checkpoint(prefix, 12)
    assert architecture == network.architecture
    expected = {name: tensor for name, tensor in network.state_dict().items() if not name.endswith("tracked")}
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())


def test_names_of_2016() -> None:
    arrays = from_network(resnet(20, 10))
    assert arrays["arg:stage1_unit1_sc_weight"].shape == (16, 16, 1, 1)
    assert arrays["arg:bn_data_gamma"].tolist() == [1, 1, 1]
    assert arrays["aux:stage3_unit3_bn2_moving_var"].shape == (64,)
    assert arrays["arg:fc1_bias"].shape == (10,)


def test_half_and_double_precision_become_single() -> None:
    arrays = from_network(resnet(8, 10))
    for dtype in (np.float16, np.float64):
        state = to_state({name: array.astype(dtype) for name, array in arrays.items()}, recognise(arrays))
        assert all(tensor.dtype == torch.float32 for tensor in state.values())


NOT_OURS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "nothing": lambda arrays: arrays.clear(),
    "no fc1": lambda arrays: arrays.pop("arg:fc1_weight"),
    "flat fc1": lambda arrays: arrays.update({"arg:fc1_weight": np.zeros(3, np.float32)}),
    "no classes": lambda arrays: arrays.update({"arg:fc1_weight": np.zeros((0, 64), np.float32)}),
    "neither v1 nor v2": lambda arrays: arrays.pop("arg:bn_data_beta"),
    "both v1 and v2": lambda arrays: arrays.update({"arg:stage1_unit1_conv1sc_weight": np.zeros(1, np.float32)}),
    "uneven stages": lambda arrays: arrays.pop("arg:stage2_unit2_conv1_weight"),
    "bottleneck of 20 layers": lambda arrays: arrays.update({"arg:stage1_unit1_conv3_weight": np.zeros(1, np.float32)}),
    "imagenet stem": lambda arrays: arrays.update({"arg:conv0_weight": np.zeros((16, 3, 7, 7), np.float32)}),
}


@pytest.mark.parametrize("change", NOT_OURS)
def test_other_networks_are_not_recognised(change: str) -> None:
    arrays: dict[str, Any] = dict(from_network(resnet(14, 10)))
    NOT_OURS[change](arrays)
    with pytest.raises(ResnetError, match="is not one of our residual networks"):
        recognise(arrays, "other.params")


DIFFERENT: dict[str, Callable[[dict[str, Any]], Any]] = {
    "fc1_bias is missing": lambda arrays: arrays.pop("arg:fc1_bias"),
    "bn1_moving_var is missing": lambda arrays: arrays.pop("aux:bn1_moving_var"),
    "holds 'arg:conv0_bias'": lambda arrays: arrays.update({"arg:conv0_bias": np.zeros(16, np.float32)}),
    r"conv0_weight has shape \(16, 3, 5, 5\)": lambda arrays: arrays.update(
        {"arg:conv0_weight": np.zeros((16, 3, 5, 5), np.float32)}
    ),
    "fc1_bias has shape .* int8": lambda arrays: arrays.update({"arg:fc1_bias": np.zeros(10, np.int8)}),
}


@pytest.mark.parametrize("message", DIFFERENT)
def test_arrays_that_do_not_fit_are_refused(message: str) -> None:
    arrays: dict[str, Any] = dict(from_network(resnet(14, 10)))
    DIFFERENT[message](arrays)
    with pytest.raises(ResnetError, match=message):
        to_state(arrays, Architecture(14, 10, "cifar"), source="other.params")


def index_of(graph: Any, name: str) -> int:
    return [node["name"] for node in graph["nodes"]].index(name)


def graph_of(architecture: Architecture) -> Any:
    return json.loads(symbol_json(architecture))


def checked(graph: Any, architecture: Architecture) -> frozenset[str]:
    return fixed_gammas(json.dumps(graph), architecture, "x-symbol.json")


def fixed_gammas(text: str, architecture: Architecture, source: str) -> frozenset[str]:
    return prove(read_graph(text, source), architecture, {}).fixed_gammas


@pytest.mark.parametrize("architecture", ALL, ids=name_of)
def test_our_symbols_are_of_their_own_architecture_only(architecture: Architecture) -> None:
    graph = graph_of(architecture)
    assert checked(graph, architecture) == ({"bn_data_gamma"} if architecture.norm_of_images else frozenset())
    depth = 34 if architecture.large_images else 29 if architecture.stem == "dawn" else 26
    other = Architecture(depth, 10, architecture.stem, architecture.version)
    if other.depth != architecture.depth:
        with pytest.raises(ResnetError, match=r"x-symbol\.json is not our ResNet"):
            checked(graph, other)


def in_the_form_of_2016(graph: Any) -> Any:
    """The same graph as MXNet 0.7 saved it: other keys and operator names, statistics hidden, tuples without spaces."""
    hidden = ("_moving_mean", "_moving_var")
    kept = [number for number, node in enumerate(graph["nodes"]) if not node["name"].endswith(hidden)]
    moved = {number: place for place, number in enumerate(kept)}
    nodes = []
    for number in kept:
        node = graph["nodes"][number]
        attributes = dict(node.get("attrs", {}))
        if attributes.get("kernel") == "(3, 3)":
            attributes["kernel"] = "(3L,3L)"
        if node["op"] == "Convolution":
            attributes |= {"cudnn_off": "False", "dilate": "(1,1)", "num_group": "1", "workspace": "512"}
            attributes["layout"] = "None"
        inputs = [[moved[index], 0] for index, *_ in node["inputs"] if index in moved]
        op = {"elemwise_add": "_Plus"}.get(node["op"], node["op"])
        nodes.append({"op": op, "param": attributes, "name": node["name"], "inputs": inputs, "backward_source_id": -1})
        if node["name"].endswith("_relu1"):
            nodes[-1]["attr"] = {"mirror_stage": "True"}
    return {"nodes": nodes, "arg_nodes": [], "heads": [[len(nodes) - 1, 0]]}


@pytest.mark.parametrize("architecture", [a for a in ALL if a.depth in (18, 50, 20, 164)], ids=name_of)
def test_symbols_of_2016(architecture: Architecture) -> None:
    expected = {"bn_data_gamma"} if architecture.norm_of_images else set()
    assert checked(in_the_form_of_2016(graph_of(architecture)), architecture) == expected


def node_of(graph: Any, name: str) -> Any:
    return next(node for node in graph["nodes"] if node["name"] == name)


def swap_inputs(graph: Any, first: str, second: str) -> None:
    one, other = node_of(graph, first), node_of(graph, second)
    one["inputs"], other["inputs"] = other["inputs"], one["inputs"]


CHANGES: dict[str, Callable[[Any], Any]] = {
    "eps": lambda graph: node_of(graph, "stage2_unit1_bn2")["attrs"].update(eps="0.001"),
    "default eps": lambda graph: node_of(graph, "bn0")["attrs"].pop("eps"),
    "stride": lambda graph: node_of(graph, "stage2_unit1_conv1")["attrs"].update(stride="(1, 1)"),
    "dilation": lambda graph: node_of(graph, "stage4_unit2_conv2")["attrs"].update(dilate="(2, 2)"),
    "groups": lambda graph: node_of(graph, "conv0")["attrs"].update(num_group="3"),
    "activation": lambda graph: node_of(graph, "relu1")["attrs"].update(act_type="tanh"),
    "pool": lambda graph: node_of(graph, "pooling0")["attrs"].update(pool_type="avg"),
    "ceiling": lambda graph: node_of(graph, "pooling0")["attrs"].update(pooling_convention="full"),
    "local pool": lambda graph: node_of(graph, "pool1")["attrs"].update(global_pool="False"),
    "operator": lambda graph: node_of(graph, "flatten0").update(op="LRN"),
    "dropout at all times": lambda graph: node_of(graph, "flatten0").update(op="Dropout", attrs={"mode": "always"}),
    "temperature": lambda graph: node_of(graph, "softmax").update(op="softmax", attrs={"temperature": "2.0"}),
    "weights of another layer": lambda graph: node_of(graph, "stage1_unit1_conv1_weight").update(name="other_weight"),
    "two layers swapped": lambda graph: swap_inputs(graph, "stage1_unit1_relu2", "stage1_unit2_relu1"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_graphs_that_compute_something_else_are_refused(change: str) -> None:
    architecture = Architecture(18, 10, "imagenet")
    graph = graph_of(architecture)
    CHANGES[change](graph)
    with pytest.raises(ResnetError, match=r"x-symbol\.json (is not our ResNet-18 v2|is no symbol JSON)"):
        checked(graph, architecture)


def test_head_elsewhere_is_refused_but_fc1_is_a_head() -> None:
    architecture = Architecture(18, 10, "imagenet")
    graph = graph_of(architecture)
    graph["heads"] = [[index_of(graph, "fc1"), 0, 0]]
    assert checked(graph, architecture) == {"bn_data_gamma"}
    graph["heads"] = [[index_of(graph, "flatten0"), 0, 0]]
    with pytest.raises(ResnetError, match="its output is 'flatten0'"):
        checked(graph, architecture)


def test_names_of_operators_and_passing_nodes_do_not_matter() -> None:
    architecture = Architecture(20, 10, "cifar")
    graph = graph_of(architecture)
    for node in graph["nodes"]:
        if node["op"] == "elemwise_add":
            node["name"] += "_renamed"
            node["inputs"].reverse()
    # The data pass a node of no effect first, as in MXNet's later examples.
    for node in graph["nodes"]:
        node["inputs"] = [[index + (index > 0 or node["op"] == "BatchNorm"), 0, 0] for index, *_ in node["inputs"]]
    graph["nodes"].insert(1, {"op": "_copy", "name": "id", "inputs": [[0, 0, 0]]})
    graph["heads"][0][0] += 1
    assert checked(graph, architecture) == {"bn_data_gamma"}


NO_SYMBOL = [
    "",
    "{",
    "[]",
    "null",
    "1",
    '"text"',
    "{}",
    '{"nodes": 3}',
    '{"nodes": [], "heads": []}',
    "[" * 100_000,
    '{"nodes": [], "heads": [[0, 0]]}',
    '{"nodes": [{"op": "null", "name": 5, "inputs": []}], "heads": [[0, 0]]}',
    '{"nodes": [{"op": "Flatten", "name": "a", "inputs": [[0, 0]]}], "heads": [[0, 0]]}',
    '{"nodes": [{"op": "null", "name": "a", "inputs": []}], "heads": [[-1, 0]]}',
    '{"nodes": [{"op": "null", "name": "a", "inputs": [], "attrs": [3]}], "heads": [[0, 0]]}',
    '{"nodes": [{"op": "BatchNorm", "name": "a", "inputs": []}], "heads": [[0, 0]]}',
    '{"nodes": [' + "9" * 5000 + '], "heads": [[0, 0]]}',
]


@pytest.mark.parametrize("text", NO_SYMBOL, ids=range(len(NO_SYMBOL)))
def test_broken_symbols_are_refused(text: str) -> None:
    with pytest.raises(ResnetError, match=r"x-symbol\.json"):
        fixed_gammas(text, Architecture(20, 10, "cifar"), "x-symbol.json")


JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-2, 30), st.text(max_size=5), st.sampled_from(["BatchNorm", "null"])
    ),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_change_of_a_symbol_is_read_or_refused(data: st.DataObject) -> None:
    architecture = Architecture(8, 10, "cifar")
    graph = graph_of(architecture)
    node = data.draw(st.sampled_from(graph["nodes"]))
    node[data.draw(st.sampled_from(["op", "name", "inputs", "attrs", "param"]))] = data.draw(JSON)
    if data.draw(st.booleans()):
        graph["heads"] = data.draw(JSON)
    try:
        assert checked(graph, architecture) <= {f"{node['name']}_gamma" for node in graph["nodes"]}
    except ResnetError as error:
        assert "x-symbol.json" in str(error)
        assert "\n" not in str(error)


def saved(tmp_path: Path, depth: int = 20, version: Version = "v2") -> tuple[str, ResNet]:
    network = resnet(depth, 10, version)
    save_checkpoint(str(tmp_path / "net"), 0, network)
    return str(tmp_path / "net"), network


def rewrite(prefix: str, change: Callable[[Any], Any]) -> None:
    path = Path(f"{prefix}-symbol.json")
    graph = json.loads(path.read_text())
    change(graph)
    path.write_text(json.dumps(graph))


def test_fixed_gammas_count_as_one(tmp_path: Path) -> None:
    prefix, network = saved(tmp_path)
    arrays = from_network(network)
    for name in ("stage1_unit1_bn1_gamma", "stage1_unit1_bn2_gamma", "bn_data_gamma"):
        arrays[f"arg:{name}"] = arrays[f"arg:{name}"] + 3
    write_params(params_path(prefix, 0), arrays)
    # fix_gamma is MXNet's default where the file does not say.
    rewrite(prefix, lambda graph: node_of(graph, "stage1_unit1_bn1")["attrs"].pop("fix_gamma"))
    _, state = load_checkpoint(prefix, 0)
    assert torch.equal(state["stage1.unit1.bn1.weight"], torch.ones(16))
    assert torch.equal(state["stage1.unit1.bn2.weight"], torch.full((16,), 4.0))


def test_learned_gamma_of_the_images_is_refused(tmp_path: Path) -> None:
    prefix, network = saved(tmp_path)
    rewrite(prefix, lambda graph: node_of(graph, "bn_data")["attrs"].update(fix_gamma="False"))
    load_checkpoint(prefix, 0)
    write_params(
        params_path(prefix, 0), {**from_network(network), "arg:bn_data_gamma": np.array([1, 2, 1], np.float32)}
    )
    with pytest.raises(ResnetError, match="gamma of bn_data"):
        load_checkpoint(prefix, 0)


def test_checkpoint_without_its_symbol(tmp_path: Path) -> None:
    prefix, network = saved(tmp_path)
    Path(f"{prefix}-symbol.json").unlink()
    assert load_checkpoint(prefix, 0)[0] == network.architecture


def test_small_v1_network_needs_its_symbol(tmp_path: Path) -> None:
    prefix, network = saved(tmp_path, version="v1")
    assert load_checkpoint(prefix, 0)[0] == network.architecture
    Path(f"{prefix}-symbol.json").unlink()
    with pytest.raises(ResnetError, match=r"put .*net-symbol\.json beside it"):
        load_checkpoint(prefix, 0)


def test_small_v1_network_of_mxnets_own_example_is_refused(tmp_path: Path) -> None:
    """It has no ReLU behind bn0."""
    prefix, _ = saved(tmp_path, version="v1")

    def without_relu(graph: Any) -> None:
        relu, norm = index_of(graph, "relu0"), index_of(graph, "bn0")
        for node in graph["nodes"]:
            node["inputs"] = [[norm if index == relu else index, 0, 0] for index, *_ in node["inputs"]]

    rewrite(prefix, without_relu)
    with pytest.raises(ResnetError, match=r"net-symbol\.json is not our ResNet-20 v1 \(cifar\)"):
        load_checkpoint(prefix, 0)


def test_symbol_that_is_no_text(tmp_path: Path) -> None:
    prefix, _ = saved(tmp_path)
    Path(f"{prefix}-symbol.json").write_bytes(b"\xff\xfe\0")
    with pytest.raises(ResnetError, match="cannot be read as text"):
        load_checkpoint(prefix, 0)


def test_the_stretched_network_is_known_by_its_units() -> None:
    architecture = Architecture(1001, 10, "imagenet")
    assert recognise(shaped(architecture)) == architecture
    assert fixed_gammas(symbol_json(architecture), architecture, "a.json") == {"bn_data_gamma"}
