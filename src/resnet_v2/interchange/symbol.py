"""MXNet's `-symbol.json`: write the graph of a network, and prove that a graph somebody else wrote computes the same.

Layers carry the names of the 2016 symbols (`stage1_unit1_relu1`, `relu1`, `pool1`, `fc1`, `softmax`), because MXNet
users ask for features by them. A graph is compared by what its nodes compute, not by their names or order.
"""

import json
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from resnet_v2.data.labels import Labels
from resnet_v2.errors import ResnetError
from resnet_v2.files import parse_json
from resnet_v2.networks.architecture import EPSILON, Architecture
from resnet_v2.networks.description import INPUT, Operation
from resnet_v2.networks.units import operations

_MXNET_VERSION = 10901
_STATISTICS = ("moving_mean", "moving_var")
_LARGEST_SYMBOL_BYTES = 1 << 25
_LOSSES = ("SoftmaxOutput", "LogisticRegressionOutput")

# Operators under their later name; those of no arithmetic effect stand in _PASSING.
_NAMES = {
    "elemwise_add": "_Plus _plus _add broadcast_add ElementWiseSum add_n _grad_add",
    "Convolution": "Convolution_v1",
    "Pooling": "Pooling_v1",
    "BatchNorm": "BatchNorm_v1 CuDNNBatchNorm",
    "Flatten": "flatten",
    "SoftmaxOutput": "Softmax softmax SoftmaxActivation",
    "Cast": "cast",
    "identity": "_copy",
}
_ALIASES = {alias: name for name, aliases in _NAMES.items() for alias in aliases.split()}
_PASSING = {("identity", ""), ("Cast", "float16"), ("Cast", "float32"), ("Cast", "float64")}

# What decides the numbers in each operator, with MXNet's value when a file leaves it out.
_WINDOW = {"kernel": "", "stride": "(1,1)", "pad": "(0,0)", "layout": "NCHW"}
_ATTRIBUTES: dict[str, dict[str, str]] = {
    "Convolution": {**_WINDOW, "dilate": "(1,1)", "num_group": "1"},
    "BatchNorm": {"eps": "0.001", "axis": "1"},
    "Activation": {"act_type": ""},
    "Pooling": {"pool_type": "max", "global_pool": "False", **_WINDOW, "pooling_convention": "valid"},
    "FullyConnected": {"flatten": "True"},
    "slice_axis": {"axis": "", "begin": "", "end": ""},
    "Cast": {"dtype": ""},
}
_SPELLINGS = {"true": "True", "false": "False", "None": "NCHW"}


class Node(NamedTuple):
    """One node of a graph: a variable (`op` is `null`) or an operator; `inputs` are the numbers of earlier nodes."""

    op: str
    name: str
    attributes: dict[str, str]
    inputs: list[int]


class _Graph:
    """The nodes of a network in the order of its description, under MXNet's names."""

    def __init__(self) -> None:
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
        self.values[operation.name] = self._number(operation, name, inputs)

    def _number(self, operation: Operation, name: str, inputs: list[int]) -> int:
        kind, window = operation.kind, {key: f"({size}, {size})" for key, size in _window(operation).items()}
        if kind == "convolution":
            settings = {**window, "num_filter": str(operation.channels), "no_bias": "True"}
            return self.node("Convolution", name, inputs, ["weight"], **settings)
        if kind == "norm":
            settings = {"eps": str(EPSILON), "momentum": "0.9", "fix_gamma": str(operation.fixed_gamma)}
            return self.node("BatchNorm", name, inputs, ["gamma", "beta", *_STATISTICS], **settings)
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


def layers(architecture: Architecture, labels: Labels | None = None) -> list[Node]:
    """The layers of a network as MXNet names them, from the variable `data` to the node `softmax`.

    Of multi `labels` it is the node `logistic`, and tasks have the nodes `task0_softmax`, `task1_softmax` and so on,
    each behind its slice of `fc1`.
    """
    graph = _Graph()
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


def _outputs(nodes: Sequence[Node]) -> list[int]:
    return [number for number, node in enumerate(nodes) if node.op in _LOSSES]


def symbol_json(architecture: Architecture, labels: Labels | None = None) -> str:
    """The network as MXNet 1.x symbol JSON; `mx.sym.load_json` reads it and `Module` binds it.

    Inputs `data` (N x 3 x H x W) and `softmax_label` (N); output `softmax_output` (N x classes). Of multi `labels` they
    are `logistic_label` (N x classes) and `logistic_output`, of tasks `task0_softmax_label` (N), `task0_softmax_output`
    and so on.
    """
    nodes = layers(architecture, labels)
    entries = []
    for node in nodes:
        entry: dict[str, Any] = {"op": node.op, "name": node.name}
        if node.attributes:
            entry["attrs"] = node.attributes
        # The last number is the version of a variable that its operator changes: 1 for moving statistics.
        entry["inputs"] = [[number, 0, int(nodes[number].name.endswith(_STATISTICS))] for number in node.inputs]
        entries.append(entry)
    graph = {
        "nodes": entries,
        "arg_nodes": [number for number, node in enumerate(nodes) if node.op == "null"],
        "heads": [[number, 0, 0] for number in _outputs(nodes)],
        "attrs": {"mxnet_version": ["int", _MXNET_VERSION]},
    }
    return json.dumps(graph, indent=1)


def fixed_gammas(text: str, architecture: Architecture, source: str) -> frozenset[str]:
    """The gammas that count as 1 whatever is stored (`fix_gamma`, MXNet's default), from a symbol JSON of any version.

    ResnetError, naming `source`, when the text is no symbol JSON or when its graph computes something else than our
    network of this architecture: another eps, order, stride, layer or parameter name.
    """
    nodes, heads = _read_graph(text, source)
    wanted = f"our ResNet-{architecture.depth} {architecture.version} ({architecture.stem})"
    advice = "its weights would give other numbers here, so use it with MXNet 1.9.1"
    known: dict[Hashable, int] = {}
    ours = layers(architecture, _labels_of(nodes, heads, architecture.classes))
    values = _values(ours, lambda key, node: known.setdefault(key, len(known)))
    outputs = [values[number] for number in _outputs(ours)]
    # The graph of an inference file may end in fc1 itself.
    logits = [values[number] for number, node in enumerate(ours) if node.name == "fc1"]

    def recognised(key: Hashable, node: Node) -> int:
        if key not in known:
            settings = " ".join(f"{name}={value}" for name, value in node.attributes.items())
            described = f"{node.name[:80]!r} ({node.op[:40]!r} {settings[:300]!r})"
            raise ResnetError(f"{source} is not {wanted}: node {described} differs or stands elsewhere; {advice}.")
        return known[key]

    try:
        theirs = _values(nodes, recognised)
    except (ValueError, IndexError) as error:
        raise ResnetError(f"{source} is damaged ({error}); copy it again, or remove it to go by the shapes.") from None
    if [theirs[head] for head in heads] not in (outputs, logits):
        names = ", ".join(nodes[head].name[:80] for head in heads[:8])
        raise ResnetError(f"{source} is not {wanted}: its output is {names!r}, not softmax; {advice}.")
    norms = [node for node in nodes if _ALIASES.get(node.op, node.op) == "BatchNorm"]
    return frozenset(nodes[node.inputs[1]].name for node in norms if _true(node.attributes.get("fix_gamma", "True")))


def _values(nodes: Sequence[Node], number: Callable[[Hashable, Node], int]) -> list[str | int]:
    """What each node computes: a variable's name, or the number of its operator, attributes and inputs taken together.

    Equal numbers mean equal arithmetic, whatever the nodes are called and in whichever order they stand.
    """
    values: list[str | int] = []
    for node in nodes:
        op = _ALIASES.get(node.op, node.op)
        inputs = [values[index] for index in node.inputs]
        if op == "null":
            values.append(node.name)
        elif (op, node.attributes.get("dtype", "")) in _PASSING and len(inputs) == 1:
            values.append(inputs[0])
        else:
            values.append(number((op, _settings(op, node.attributes), *_operands(op, node, inputs)), node))
    return values


def _operands(op: str, node: Node, inputs: list[str | int]) -> list[str | int]:
    if op == "elemwise_add":
        return sorted(inputs, key=str)
    if op in _LOSSES:
        return inputs[:1]
    if op == "BatchNorm" and len(inputs) == 3:
        # Before MXNet 0.9 the moving statistics were no nodes; they are named after their operator.
        return [*inputs, *(f"{node.name}_{statistic}" for statistic in _STATISTICS)]
    return inputs


def _settings(op: str, attributes: dict[str, str]) -> tuple[str, ...]:
    settings = {name: _spelling(name, attributes.get(name, usual)) for name, usual in _ATTRIBUTES.get(op, {}).items()}
    if settings.get("global_pool") == "True":
        return settings["pool_type"], "global"
    return tuple(settings.values())


def _spelling(name: str, value: str) -> str:
    # Python 2 wrote "(3L, 3L)"; floats come as 2e-05 or 0.00002.
    if name == "eps":
        return f"{float(value):.5g}"
    value = value.replace(" ", "").replace("L", "") if value.startswith("(") else value
    if value == "()":
        return "(0,0)" if name == "pad" else "(1,1)"
    if name in ("global_pool", "flatten"):
        return str(_true(value))
    return _SPELLINGS.get(value, value)


def _true(value: str) -> bool:
    return value in ("True", "true", "1")


def stored_labels(prefix: str, classes: int) -> Labels:
    """What the labels were that a network of so many logits was trained on, by the outputs of `PREFIX-symbol.json`.

    Without that file, or where it ends in a softmax, they are one class.
    """
    path = Path(f"{prefix}-symbol.json")
    if not path.is_file():
        return Labels(classes)
    return _labels_of(*_read_graph(symbol_text(path), str(path)), classes)


def _labels_of(nodes: Sequence[Node], heads: Sequence[int], classes: int) -> Labels:
    ends = [nodes[head] for head in heads]
    if [node.op for node in ends] == ["LogisticRegressionOutput"]:
        return Labels(classes, "multi")
    parts = [nodes[node.inputs[0]] for node in ends if node.op == "SoftmaxOutput" and node.inputs]
    if len(parts) < len(ends) or any(part.op != "slice_axis" for part in parts):
        return Labels(classes)
    try:
        sizes = [int(part.attributes["end"]) - int(part.attributes["begin"]) for part in parts]
    except (KeyError, ValueError):
        return Labels(classes)
    whole = sum(sizes) == classes and min(sizes) > 0
    return Labels(classes, "tasks", tuple(sizes)) if whole else Labels(classes)


def symbol_text(path: Path) -> str:
    """The text of a symbol JSON; ResnetError where it cannot be one."""
    try:
        if path.stat().st_size > _LARGEST_SYMBOL_BYTES:
            raise ResnetError(f"{path} is too large for a symbol; copy it again, or remove it to go by the shapes.")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise ResnetError(f"{path} cannot be read as text; copy it again, or remove it to go by the shapes.") from None


def _read_graph(text: str, source: str) -> tuple[list[Node], list[int]]:
    """The nodes of a symbol JSON and the numbers of its outputs."""
    try:
        graph = parse_json(text)
        nodes = [_read_node(entry, number) for number, entry in enumerate(graph["nodes"])]
        heads = [head for head, *_ in graph["heads"]]
        if not (heads and all(isinstance(head, int) and 0 <= head < len(nodes) for head in heads)):
            raise ValueError("its output is no node")
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"[:200]
        advice = "copy it again, or remove it to go by the shapes"
        raise ResnetError(f"{source} is no symbol JSON that can be read ({reason}); {advice}.") from None
    return nodes, heads


def _read_node(entry: dict[str, Any], number: int) -> Node:
    op, name = entry["op"], entry["name"]
    # The attributes were "param" and "attr" before MXNet 0.9, "attr" until 0.11 and "attrs" since.
    attributes: dict[str, str] = {}
    for place in ("param", "attr", "attrs"):
        attributes.update(entry.get(place) or {})
    inputs = []
    for index, output, *_ in entry["inputs"]:
        if not (isinstance(index, int) and 0 <= index < number and output == 0):
            raise ValueError(f"node {number} takes an input that is not before it")
        inputs.append(index)
    if not all(isinstance(value, str) for value in (op, name, *attributes, *attributes.values())):
        raise ValueError(f"node {number} has a name or attribute that is no text")
    if _ALIASES.get(op, op) == "BatchNorm" and len(inputs) < 3:
        raise ValueError(f"node {number} is a BatchNorm without gamma and beta")
    return Node(op, name, attributes, inputs)
