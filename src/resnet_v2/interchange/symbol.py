"""MXNet's `-symbol.json` written for a network.

Layers carry the names of the 2016 symbols (`stage1_unit1_relu1`, `relu1`, `pool1`, `fc1`, `softmax`), because MXNet
users ask for features by them.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from resnet_v2.data.labels import Labels
from resnet_v2.networks.architecture import EPSILON, Architecture
from resnet_v2.networks.description import INPUT, Operation
from resnet_v2.networks.units import operations

GLUON_EPSILON = 1e-5
STATISTICS = ("moving_mean", "moving_var")
_COUNTED = (*STATISTICS, "running_mean", "running_var")  # the latter are Gluon's
LOSSES = ("SoftmaxOutput", "LogisticRegressionOutput")
_MXNET_VERSION = 10901


class Node(NamedTuple):
    """One node of a graph: a variable (`op` is `null`) or an operator; `inputs` are the numbers of earlier nodes."""

    op: str
    name: str
    attributes: dict[str, str]
    inputs: list[int]


class _Graph:
    """The nodes of a network in the order of its description, under MXNet's names; `gluon`: as Gluon builds it."""

    def __init__(self, architecture: Architecture, gluon: bool) -> None:
        self.epsilon = GLUON_EPSILON if gluon else EPSILON
        # Gluon's v1 gets its images normalised, and has biases before some BatchNorms.
        self.absent = {"bn_data"} if gluon and architecture.version == "v1" else set()
        self.biased = ("conv1", "conv3") if self.absent and architecture.bottleneck else ()
        self.nodes: list[Node] = []
        self.values: dict[str, int] = {}
        self.named_by_count: Counter[str] = Counter()

    def node(self, op: str, name: str, inputs: Sequence[int], parameters: Sequence[str] = (), **attributes: str) -> int:
        variables = [self.node("null", f"{name}_{parameter}", []) for parameter in parameters]
        self.nodes.append(Node(op, name, attributes, [*inputs, *variables]))
        return len(self.nodes) - 1

    def add(self, operation: Operation) -> None:
        """Add an operation of a description."""
        name, inputs = operation.name.replace(".", "_"), [self.values[each] for each in operation.inputs]
        absent = operation.name in self.absent
        self.values[operation.name] = inputs[0] if absent else self._number(operation, name, inputs)

    def _number(self, operation: Operation, name: str, inputs: list[int]) -> int:
        kind, window = operation.kind, {key: f"({size}, {size})" for key, size in _window(operation).items()}
        if kind == "convolution":
            biased = name.endswith(self.biased)
            settings = {**window, "num_filter": str(operation.channels), "no_bias": str(not biased)}
            return self.node("Convolution", name, inputs, ["weight", "bias"] if biased else ["weight"], **settings)
        if kind == "norm":
            settings = {"eps": str(self.epsilon), "momentum": "0.9", "fix_gamma": str(operation.fixed_gamma)}
            return self.node("BatchNorm", name, inputs, ["gamma", "beta", *STATISTICS], **settings)
        if kind in ("relu", "sigmoid"):
            return self.node("Activation", name, inputs, act_type=kind)
        if kind == "max_pool":
            return self.node("Pooling", name, inputs, **window, pool_type="max")
        if kind == "mean":
            # MXNet wants a kernel even where the pool is global.
            return self.node("Pooling", name, inputs, kernel="(7, 7)", pool_type="avg", global_pool="True")
        if kind == "dense":
            flat = self.node("Flatten", self._counted("flatten"), inputs)
            settings = {"num_hidden": str(operation.channels)}
            return self.node("FullyConnected", name, [flat], ["weight", "bias"], **settings)
        op, counted = {"add": ("elemwise_add", "_plus"), "multiply": ("broadcast_mul", "broadcast_mul")}[kind]
        return self.node(op, self._counted(counted), inputs)

    def _counted(self, kind: str) -> str:
        """The name that MXNet makes up: of the first sum `_plus0`, of the next one `_plus1`."""
        self.named_by_count[kind] += 1
        return f"{kind}{self.named_by_count[kind] - 1}"


def _window(operation: Operation) -> dict[str, int]:
    return {"kernel": operation.kernel, "stride": operation.stride, "pad": operation.kernel // 2}


def layers(architecture: Architecture, labels: Labels | None = None, gluon: bool = False) -> list[Node]:
    """The layers of a network as MXNet names them, from the variable `data` to the node `softmax`.

    Of multi `labels` it is the node `logistic`, and tasks have the nodes `task0_softmax`, `task1_softmax` and so on,
    each behind its slice of `fc1`. `gluon`: with what Gluon's model zoo has in their places, another eps and biases,
    but under the same names.
    """
    graph = _Graph(architecture, gluon)
    graph.values[INPUT] = graph.node("null", "data", [])
    for operation in operations(architecture):
        graph.add(operation)
    logits = len(graph.nodes) - 1
    if labels is not None and labels.kind == "multi":
        graph.node("LogisticRegressionOutput", "logistic", [logits], ["label"])
        return graph.nodes
    for task, place in enumerate(labels.places if labels is not None else ()):
        ends = {"axis": "1", "begin": str(place.start), "end": str(place.stop)}
        part = graph.node("slice_axis", f"task{task}", [logits], **ends)
        graph.node("SoftmaxOutput", f"task{task}_softmax", [part], ["label"])
    if labels is None or not labels.tasks:
        graph.node("SoftmaxOutput", "softmax", [logits], ["label"])
    return graph.nodes


def losses(nodes: Sequence[Node]) -> list[int]:
    """The numbers of the nodes that make answers of logits."""
    return [number for number, node in enumerate(nodes) if node.op in LOSSES]


def symbol_json(architecture: Architecture, labels: Labels | None = None) -> str:
    """The network as MXNet 1.x symbol JSON; `mx.sym.load_json` reads it and `Module` binds it.

    Inputs `data` (N x 3 x H x W) and `softmax_label` (N); output `softmax_output` (N x classes). Of multi `labels` they
    are `logistic_label` (N x classes) and `logistic_output`, of tasks `task0_softmax_label` (N), `task0_softmax_output`
    and so on.
    """
    nodes = layers(architecture, labels)
    return _json(nodes, losses(nodes))


def gluon_json(architecture: Architecture, names: Mapping[str, str]) -> str:
    """The network as Gluon's model zoo builds it, its variables renamed; `SymbolBlock.imports` reads it.

    Input `data` (N x 3 x H x W, normalised); output `fc1_output` (N x classes logits).
    """
    nodes = layers(architecture, gluon=True)[:-2]  # without the softmax and its labels
    return _json([node._replace(name=names.get(node.name, node.name)) for node in nodes], [len(nodes) - 1])


def _json(nodes: Sequence[Node], heads: Sequence[int]) -> str:
    entries = []
    for node in nodes:
        entry: dict[str, Any] = {"op": node.op, "name": node.name}
        if node.attributes:
            entry["attrs"] = node.attributes
        # The last number is the version of a variable that its operator changes: 1 for moving statistics.
        entry["inputs"] = [[number, 0, int(nodes[number].name.endswith(_COUNTED))] for number in node.inputs]
        entries.append(entry)
    graph = {
        "nodes": entries,
        "arg_nodes": [number for number, node in enumerate(nodes) if node.op == "null"],
        "heads": [[number, 0, 0] for number in heads],
        "attrs": {"mxnet_version": ["int", _MXNET_VERSION]},
    }
    return json.dumps(graph, indent=1)
