"""A network as an ONNX model, written from its description."""

from typing import Any

import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from resnet_v2.interchange.seal import sealed
from resnet_v2.networks.description import INPUT, Operation
from resnet_v2.networks.header import METADATA_KEY, Header
from resnet_v2.networks.modules import gamma
from resnet_v2.networks.resnet import ResNet
from resnet_v2.networks.units import operations

# The oldest that has everything used here, for the oldest runtimes.
OPSET, IR_VERSION = 13, 8
IMAGES, LOGITS = "images", "logits"
PLAIN = {"relu": "Relu", "sigmoid": "Sigmoid", "add": "Add", "multiply": "Mul", "mean": "GlobalAveragePool"}


def onnx_model(network: ResNet, header: Header, checkpoint: str = "") -> bytes:
    """A network, folded or not, as an ONNX model; its metadata entry `resnet_v2` is the header, `checkpoint` as given.

    Input `images`: N x 3 x H x W float32, RGB, 0-255; N, H and W are free. Output `logits`: N x classes float32.
    """
    graph = _Graph(network)
    for operation in operations(network.architecture):
        graph.add(operation)
    images = helper.make_tensor_value_info(IMAGES, TensorProto.FLOAT, ["N", 3, "H", "W"])
    logits = helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, ["N", network.architecture.classes])
    made = helper.make_graph(graph.nodes, "resnet-v2", [images], [logits], graph.parameters)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="resnet-v2")
    model.ir_version = IR_VERSION
    helper.set_model_props(model, {METADATA_KEY: header.to_json(), "checkpoint": checkpoint})
    onnx.checker.check_model(model)
    return sealed(bytes(model.SerializeToString()))


class _Graph:
    """ONNX nodes and parameters, and under which name the output of each operation so far is found."""

    def __init__(self, network: ResNet) -> None:
        self.network = network
        self.nodes: list[onnx.NodeProto] = []
        self.parameters: list[onnx.TensorProto] = []
        self.outputs = {INPUT: IMAGES}

    def add(self, operation: Operation) -> None:
        """Add an operation of a description."""
        name, inputs = operation.name.replace(".", "_"), [self.outputs[each] for each in operation.inputs]
        self.outputs[operation.name] = self._output(operation, name, inputs)

    def _output(self, operation: Operation, name: str, inputs: list[str]) -> str:
        kind, window = operation.kind, _window(operation)
        if kind in PLAIN:
            return self._node(PLAIN[kind], name, inputs)
        if kind == "max_pool":
            return self._node("MaxPool", name, inputs, **window)
        layer = self.network.get_submodule(operation.name)
        if isinstance(layer, nn.BatchNorm2d):
            return self._batch_norm(name, inputs[0], layer)
        if isinstance(layer, nn.Identity):
            return inputs[0]  # a BatchNorm that was folded
        if kind == "norm":
            window["group"] = layer.groups  # a convolution in its place
        inputs += [self._parameter(f"{name}_{each}", values) for each, values in layer.named_parameters()]
        if kind in ("convolution", "norm"):
            return self._node("Conv", name, inputs, **window)
        inputs[0] = self._node("Flatten", f"{name}_flatten", inputs[:1])
        return self._node("Gemm", LOGITS, inputs, transB=1)

    def _batch_norm(self, name: str, x: str, norm: nn.BatchNorm2d) -> str:
        parameters = {"gamma": gamma(norm), "beta": norm.bias, "moving_mean": norm.running_mean}
        parameters["moving_var"] = norm.running_var
        names = [self._parameter(f"{name}_{kind}", values) for kind, values in parameters.items()]
        return self._node("BatchNormalization", name, [x, *names], epsilon=norm.eps)

    def _parameter(self, name: str, values: Any) -> str:
        array = values.detach().cpu().float().contiguous().numpy()
        self.parameters.append(numpy_helper.from_array(array, name))
        return name

    def _node(self, kind: str, name: str, inputs: list[str], **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name


def _window(operation: Operation) -> dict[str, Any]:
    kernel, stride, pad = operation.kernel, operation.stride, operation.kernel // 2
    return {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [pad] * 4}
