"""A network as an ONNX model, written from the same list of layers as MXNet's symbol."""

import ast
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from resnet_v2.interchange.header import METADATA_KEY, Header
from resnet_v2.interchange.symbol import Node, layers
from resnet_v2.networks.resnet import ResNet

# The oldest that has everything used here, for the oldest runtimes.
OPSET, IR_VERSION = 13, 8
INPUT, OUTPUT = "images", "logits"


def onnx_model(network: ResNet, header: Header) -> bytes:
    """A network, folded or not, as an ONNX model; its metadata entry `resnet_v2` is the header.

    Input `images`: N x 3 x H x W float32, RGB, 0-255; N, H and W are free. Output `logits`: N x classes float32.
    """
    graph = _Graph(network)
    for node in layers(network.architecture):
        graph.add(node)
    images = helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["N", 3, "H", "W"])
    logits = helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["N", network.architecture.classes])
    made = helper.make_graph(graph.nodes, "resnet-v2", [images], [logits], graph.parameters)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="resnet-v2")
    model.ir_version = IR_VERSION
    helper.set_model_props(model, {METADATA_KEY: header.to_json()})
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


class _Graph:
    """ONNX nodes and parameters, and under which name the output of each layer so far is found."""

    def __init__(self, network: ResNet) -> None:
        self.modules = {name.replace(".", "_"): module for name, module in network.named_modules()}
        self.nodes: list[onnx.NodeProto] = []
        self.parameters: list[onnx.TensorProto] = []
        self.outputs: list[str] = []

    def add(self, node: Node) -> None:
        """Add one of MXNet's layers; variables and the softmax have nothing to add."""
        inputs = [self.outputs[number] for number in node.inputs]
        self.outputs.append(self._output(node, inputs))

    def _output(self, node: Node, inputs: list[str]) -> str:
        module = self.modules.get(node.name)
        if node.op in ("null", "SoftmaxOutput"):
            return INPUT if node.name == "data" else ""
        if isinstance(module, nn.BatchNorm2d):
            return self._batch_norm(node.name, inputs[0], module)
        if isinstance(module, nn.Conv2d | nn.Linear):
            return self._weighted(node, inputs[0], module)
        if node.op == "BatchNorm":
            return inputs[0]  # it was folded
        return self._plain(node, inputs)

    def _plain(self, node: Node, inputs: list[str]) -> str:
        if node.op == "Pooling" and node.attributes["pool_type"] == "max":
            return self._node("MaxPool", node.name, inputs, **_window(node))
        kinds = {"Activation": "Relu", "elemwise_add": "Add", "Pooling": "GlobalAveragePool", "Flatten": "Flatten"}
        return self._node(kinds[node.op], node.name, inputs)

    def _batch_norm(self, name: str, x: str, norm: nn.BatchNorm2d) -> str:
        # The BatchNorm of the raw images has no gamma of its own.
        gamma = np.ones(norm.num_features, np.float32) if norm.weight is None else norm.weight
        parameters = {"gamma": gamma, "beta": norm.bias, "moving_mean": norm.running_mean,
                      "moving_var": norm.running_var}  # fmt: skip
        names = [self._parameter(f"{name}_{kind}", values) for kind, values in parameters.items()]
        return self._node("BatchNormalization", name, [x, *names], epsilon=norm.eps)

    def _weighted(self, node: Node, x: str, layer: nn.Conv2d | nn.Linear) -> str:
        inputs = [x, self._parameter(f"{node.name}_weight", layer.weight)]
        if layer.bias is not None:
            inputs.append(self._parameter(f"{node.name}_bias", layer.bias))
        if isinstance(layer, nn.Linear):
            return self._node("Gemm", OUTPUT, inputs, transB=1)
        return self._node("Conv", node.name, inputs, **_window(node))

    def _parameter(self, name: str, values: Any) -> str:
        array = values if isinstance(values, np.ndarray) else values.detach().cpu().float().contiguous().numpy()
        self.parameters.append(numpy_helper.from_array(array, name))
        return name

    def _node(self, kind: str, name: str, inputs: list[str], **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name


def _window(node: Node) -> dict[str, list[int]]:
    kernel, stride, pad = (list(ast.literal_eval(node.attributes[key])) for key in ("kernel", "stride", "pad"))
    return {"kernel_shape": kernel, "strides": stride, "pads": pad + pad}
