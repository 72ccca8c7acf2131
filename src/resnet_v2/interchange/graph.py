"""Prove that a `-symbol.json` somebody else wrote computes the same as a network of ours.

A graph is compared by what its nodes compute, not by their names or order. Only what its answers are computed of
counts: a symbol may have more outputs, such as features, and nodes that do nothing outside of training.
"""

import itertools
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

from resnet_v2.data.labels import Labels
from resnet_v2.errors import ResnetError
from resnet_v2.files import parse_json
from resnet_v2.interchange.symbol import LOSSES, STATISTICS, Node, layers, losses
from resnet_v2.networks.architecture import Architecture

# Operators under their later name; those of no arithmetic effect stand in _PASSING.
_NAMES = {
    "elemwise_add": "_Plus _plus _add broadcast_add ElementWiseSum add_n _grad_add",
    "Convolution": "Convolution_v1",
    "Pooling": "Pooling_v1",
    "BatchNorm": "BatchNorm_v1 CuDNNBatchNorm",
    "Flatten": "flatten",
    "SoftmaxOutput": "Softmax softmax SoftmaxActivation",
    "Cast": "cast amp_cast",
    "identity": "_copy BlockGrad stop_gradient",
}
_ALIASES = {alias: name for name, aliases in _NAMES.items() for alias in aliases.split()}
_TYPES = ("float16", "float32", "float64")
# A dense layer flattens what it is given, so that Flatten before it changes nothing.
_PASSING = {("identity", ""), ("Flatten", ""), ("Dropout", ""), *(("Cast", dtype) for dtype in _TYPES)}

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
    "SoftmaxOutput": {"temperature": "1"},
}
_SPELLINGS = {"true": "True", "false": "False"}
_NONE = {"layout": "NCHW", "temperature": "1"}


class Graph(NamedTuple):
    """What a symbol JSON holds: its nodes, the numbers of its outputs, and the file for error messages."""

    nodes: list[Node]
    heads: list[int]
    source: str


class Proof(NamedTuple):
    """What a graph shows of the parameters, by our names: those it uses, and the gammas that count as 1."""

    used: frozenset[str]
    fixed_gammas: frozenset[str]


def read_graph(text: str, source: str) -> Graph:
    """A symbol JSON of any version; ResnetError, naming `source`, when the text is none."""
    try:
        graph = parse_json(text)
        nodes = [_read_node(entry, number) for number, entry in enumerate(graph["nodes"])]
        heads = [number for number, output, *_ in graph["heads"] if output == 0]
        if not heads or not all(isinstance(head, int) and 0 <= head < len(nodes) for head in heads):
            raise ValueError("its output is no node")
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"[:200]
        advice = "copy it again, or remove it to go by the shapes"
        raise ResnetError(f"{source} is no symbol JSON that can be read ({reason}); {advice}.") from None
    return Graph(nodes, heads, source)


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


def last_layer(graph: Graph) -> dict[str, str]:
    """The names of the last layer's weight and bias -> ours; what it does not have is left out.

    ResnetError when the outputs come from several dense layers.
    """
    found = {}
    for head in graph.heads:
        node = graph.nodes[head]
        while node.inputs and (_op(node) in (*LOSSES, "slice_axis") or _passes(node)):
            node = graph.nodes[node.inputs[0]]
        if _op(node) == "FullyConnected":
            found[node.name] = node
    if len(found) > 1:
        names = " and ".join(repr(name[:80]) for name in sorted(found))
        raise ResnetError(f"{graph.source} has several last layers ({names}); save it with one of them as its output.")
    inputs = [graph.nodes[number] for node in found.values() for number in node.inputs[1:3]]
    named = zip(inputs, ("fc1_weight", "fc1_bias"), strict=False)
    return {node.name: ours for node, ours in named if not node.inputs}


def labels_of(graph: Graph, classes: int) -> Labels:
    """What the labels were that a network of so many logits was trained on, by its graph's outputs.

    Where it ends in a softmax, or in features or logits alone, they are one class.
    """
    ends = [node for node in (graph.nodes[head] for head in graph.heads) if _op(node) in LOSSES and node.inputs]
    if [node.op for node in ends] == ["LogisticRegressionOutput"]:
        return Labels(classes, "multi")
    parts = [graph.nodes[node.inputs[0]] for node in ends if _op(node) == "SoftmaxOutput"]
    if not parts or len(parts) < len(ends) or any(part.op != "slice_axis" for part in parts):
        return Labels(classes)
    try:
        sizes = [int(part.attributes["end"]) - int(part.attributes["begin"]) for part in parts]
    except (KeyError, ValueError):
        return Labels(classes)
    whole = sum(sizes) == classes and min(sizes) > 0
    return Labels(classes, "tasks", tuple(sizes)) if whole else Labels(classes)


def prove(graph: Graph, architecture: Architecture, names: Mapping[str, str], gluon: bool = False) -> Proof:
    """What a graph shows of its parameters, once it is known to compute what a network of this architecture does.

    `names` gives our names of its variables where they differ; `gluon`: it is compared with what Gluon builds.
    ResnetError when it computes something else: another eps, order, stride, layer or parameter name.
    """
    known: dict[Hashable, int] = {}
    ours = layers(architecture, labels_of(graph, architecture.classes), gluon)
    values = _values(ours, {}, lambda key: known.setdefault(key, len(known)))
    answers = [values[number] for number in losses(ours)]
    # The graph of an inference file may end in fc1 itself.
    logits = next(values[number] for number, node in enumerate(ours) if node.name == "fc1")
    unknown = itertools.count(-1, -1)
    try:
        values = _values(graph.nodes, names, lambda key: known[key] if key in known else next(unknown))
    except (ValueError, IndexError) as error:
        advice = "copy it again, or remove it to go by the shapes"
        raise ResnetError(f"{graph.source} is damaged ({error}); {advice}.") from None
    by_value = {values[head]: head for head in reversed(graph.heads)}
    if not by_value.keys() >= set(answers) and logits not in by_value:
        raise _something_else(graph, values, architecture)
    heads = [by_value[answer] for answer in answers] if by_value.keys() >= set(answers) else [by_value[logits]]
    used = [graph.nodes[number] for number in sorted({below for head in heads for below in _below(graph, head)})]
    gammas = [(node, values[node.inputs[1]]) for node in used if _op(node) == "BatchNorm"]
    fixed = {str(gamma) for node, gamma in gammas if _true(node.attributes.get("fix_gamma", "True"))}
    variables = {names.get(node.name, node.name) for node in used if _op(node) == "null"}
    hidden = {name for node in used for name in _hidden_statistics(node)}
    return Proof(frozenset(variables | hidden), frozenset(fixed))


def _something_else(graph: Graph, values: Sequence[str | int], architecture: Architecture) -> ResnetError:
    wanted = f"our ResNet-{architecture.depth} {architecture.version} ({architecture.stem})"
    advice = "its weights would give other numbers here, so use it with MXNet 1.9.1"
    head = graph.heads[0]
    for number in _below(graph, head):
        value, node = values[number], graph.nodes[number]
        if isinstance(value, int) and value < 0:
            settings = " ".join(f"{name}={value}" for name, value in node.attributes.items())
            described = f"{node.name[:80]!r} ({node.op[:40]!r} {settings[:300]!r})"
            return ResnetError(
                f"{graph.source} is not {wanted}: node {described} differs or stands elsewhere; {advice}."
            )
    output = graph.nodes[head].name[:80]
    return ResnetError(f"{graph.source} is not {wanted}: its output is {output!r}, not softmax; {advice}.")


def _below(graph: Graph, head: int) -> list[int]:
    """The numbers of the nodes that an output is computed of, with it, ascending."""
    found, waiting = {head}, [head]
    while waiting:
        more = [number for number in graph.nodes[waiting.pop()].inputs if number not in found]
        found.update(more)
        waiting += more
    return sorted(found)


def _values(nodes: Sequence[Node], names: Mapping[str, str], number: Callable[[Hashable], int]) -> list[str | int]:
    """What each node computes: a variable's name, or the number of its operator, attributes and inputs taken together.

    Equal numbers mean equal arithmetic, whatever the nodes are called and in whichever order they stand.
    """
    values: list[str | int] = []
    for node in nodes:
        op = _op(node)
        inputs = [values[index] for index in node.inputs]
        if op == "null":
            values.append(names.get(node.name, node.name))
        elif _passes(node):
            values.append(inputs[0])
        else:
            values.append(number((op, _settings(op, node.attributes), *_operands(op, node, inputs))))
    return values


def _op(node: Node) -> str:
    return _ALIASES.get(node.op, node.op)


def _passes(node: Node) -> bool:
    """Whether it gives what it is given; Dropout does outside of training, unless it is told to work always."""
    known = (_op(node), node.attributes.get("dtype", "")) in _PASSING and len(node.inputs) == 1
    return known and node.attributes.get("mode") != "always"


def _operands(op: str, node: Node, inputs: list[str | int]) -> list[str | int]:
    if op == "elemwise_add":
        return sorted(inputs, key=str)
    if op in LOSSES:
        return inputs[:1]
    if op == "FullyConnected" and len(inputs) == 2:
        return [*inputs, "fc1_bias"]  # the last layer's, of zeros
    return [*inputs, *_hidden_statistics(node)]


def _hidden_statistics(node: Node) -> list[str]:
    """Before MXNet 0.9 the moving statistics were no nodes; they are named after their operator."""
    hidden = _op(node) == "BatchNorm" and len(node.inputs) == 3
    return [f"{node.name}_{statistic}" for statistic in STATISTICS] if hidden else []


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
    return _NONE.get(name, value) if value == "None" else _SPELLINGS.get(value, value)


def _true(value: str) -> bool:
    return value in ("True", "true", "1")
