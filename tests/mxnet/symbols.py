"""The networks as MXNet symbols, built from the published description; runs inside MXNet's Python.

Written apart from `resnet_v2.interchange.symbol`, so that one checks the other: pre-activation units (arXiv 1603.05027)
and post-activation units (arXiv 1512.03385) with MXNet's stride and naming.
"""

import importlib
from typing import Any

# A type checker would take this folder for the package.
mx: Any = importlib.import_module("mxnet")

UNITS = {
    18: [2, 2, 2, 2],
    34: [3, 4, 6, 3],
    50: [3, 4, 6, 3],
    101: [3, 4, 23, 3],
    152: [3, 8, 36, 3],
    200: [3, 24, 36, 3],
    269: [3, 30, 48, 8],
}


def norm(x: Any, name: str, fix_gamma: bool = False) -> Any:
    return mx.sym.BatchNorm(x, name=name, eps=2e-5, momentum=0.9, fix_gamma=fix_gamma)


def conv(x: Any, name: str, filters: int, side: int, stride: int) -> Any:
    shape = {"kernel": (side, side), "stride": (stride, stride), "pad": (side // 2, side // 2)}
    return mx.sym.Convolution(x, name=name, num_filter=filters, no_bias=True, **shape)


def relu(x: Any, name: str) -> Any:
    return mx.sym.Activation(x, act_type="relu", name=name)


def unit_v2(x: Any, name: str, filters: int, stride: int, first: bool, bottleneck: bool) -> Any:
    """BatchNorm, ReLU, convolution, two or three times; the 3x3 that comes first has the stride."""
    active = relu(norm(x, name + "_bn1"), name + "_relu1")
    plan = [(filters // 4, 1, 1), (filters // 4, 3, stride), (filters, 1, 1)]
    if not bottleneck:
        plan = [(filters, 3, stride), (filters, 3, 1)]
    y = conv(active, name + "_conv1", *plan[0])
    for number, layer in enumerate(plan[1:], start=2):
        y = conv(relu(norm(y, f"{name}_bn{number}"), f"{name}_relu{number}"), f"{name}_conv{number}", *layer)
    return y + (conv(active, name + "_sc", filters, 1, stride) if first else x)


def unit_v1(x: Any, name: str, filters: int, stride: int, first: bool, bottleneck: bool) -> Any:
    """Convolution and BatchNorm, two or three times, the first with the stride; ReLU between them and after the sum."""
    plan = [(filters // 4, 1, stride), (filters // 4, 3, 1), (filters, 1, 1)]
    if not bottleneck:
        plan = [(filters, 3, stride), (filters, 3, 1)]
    y = norm(conv(x, name + "_conv1", *plan[0]), name + "_bn1")
    for number, layer in enumerate(plan[1:], start=2):
        y = relu(y, f"{name}_relu{number - 1}")
        y = norm(conv(y, f"{name}_conv{number}", *layer), f"{name}_bn{number}")
    if first:
        x = norm(conv(x, name + "_conv1sc", filters, 1, stride), name + "_sc")
    return relu(y + x, name + "_relu3")


def unit_dawn(x: Any, name: str, filters: int) -> Any:
    """BatchNorm, ReLU, convolution and pooling; to what they give two more of the former three are added."""
    x = conv(relu(norm(x, name + "_bn1"), name + "_relu1"), name + "_conv1", filters, 3, 1)
    x = y = mx.sym.Pooling(x, kernel=(3, 3), stride=(2, 2), pad=(1, 1), pool_type="max")
    for number in (2, 3):
        y = relu(norm(y, f"{name}_bn{number}"), f"{name}_relu{number}")
        y = conv(y, f"{name}_conv{number}", filters, 3, 1)
    return y + x


def resnet(stem: str, depth: int, classes: int, version: str, width: int = 1) -> Any:
    """The whole network: `data` (N x 3 x H x W, 0-255) and `softmax_label` -> softmax; `fc1_output` are the logits."""
    large = stem in ("imagenet", "gluon")
    if large:
        bottleneck = depth >= 50
        units = UNITS[depth]
        filters = [64, 256, 512, 1024, 2048] if bottleneck else [64, 64, 128, 256, 512]
    else:
        bottleneck = depth >= 164
        units = [(depth - 2) // (9 if bottleneck else 6)] * 3
        filters = [16, 64, 128, 256] if bottleneck else [16, 16, 32, 64]
    if stem == "dawn":
        units, filters = [(depth - 5) // 6] * 3, [16, 32, 64, 128]
    filters = [width * count for count in filters]

    x = mx.sym.Variable("data")
    if version == "v2" or stem == "gluon":
        x = norm(x, "bn_data", fix_gamma=True)
    x = conv(x, "conv0", filters[0], 7, 2) if large else conv(x, "conv0", filters[0], 3, 1)
    if large or stem == "pooled" or version == "v1":
        x = relu(norm(x, "bn0"), "relu0")
    if large or stem == "pooled":
        x = mx.sym.Pooling(x, kernel=(3, 3), stride=(2, 2), pad=(1, 1), pool_type="max")
    unit = unit_v2 if version == "v2" else unit_v1
    for stage, count in enumerate(units, start=1):
        for number in range(1, count + 1):
            if stem == "dawn" and number == 1:
                x = unit_dawn(x, f"stage{stage}_unit1", filters[stage])
                continue
            stride = 2 if stage > 1 and number == 1 else 1
            projected = number == 1 and (stem != "gluon" or stage > 1 or bottleneck)
            x = unit(x, f"stage{stage}_unit{number}", filters[stage], stride, projected, bottleneck)
    if version == "v2":
        x = relu(norm(x, "bn1"), "relu1")
    x = mx.sym.Pooling(x, kernel=(7, 7), pool_type="avg", global_pool=True, name="pool1")
    x = mx.sym.FullyConnected(mx.sym.Flatten(x), num_hidden=classes, name="fc1")
    return mx.sym.SoftmaxOutput(x, name="softmax")
