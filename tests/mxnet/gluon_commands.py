"""MXNet's side of the parity tests of Gluon's model zoo and of symbols in other forms; used by worker.py."""

import importlib
from typing import Any

import numpy as np

mx: Any = importlib.import_module("mxnet")
vision: Any = importlib.import_module("mxnet.gluon.model_zoo.vision")

Arrays = dict[Any, Any]
Answer = tuple[dict[str, Any], Arrays]


def _scaled(settings: dict[str, Any], arrays: Arrays, dtype: str = "float32") -> Any:
    """`data` (N x 3 x H x W, 0 to 255) as the network wants its images."""
    mean, deviation = (np.array(settings[name], np.float64)[:, None, None] for name in ("mean", "deviation"))
    return mx.nd.array((arrays["data"].astype(np.float64) / 255 - mean) / deviation, dtype=dtype)


def _trained(settings: dict[str, Any], images: Any) -> Any:
    """A network of the zoo as training leaves it: statistics near those of the images, drawn gammas, betas, biases.

    The ends of all branches are small, so that rounding does not grow with the depth.
    """
    mx.random.seed(settings["seed"])
    net = vision.get_model(settings["name"], classes=settings["classes"])
    net.initialize(mx.init.Xavier(rnd_type="gaussian", factor_type="in", magnitude=2))
    net(images)
    parameters = net._collect_params_with_prefix()
    for name, parameter in parameters.items():
        low, high = {"gamma": (0.5, 1.5), "beta": (-0.3, 0.3), "bias": (-0.5, 0.5)}.get(name.rpartition(".")[2], (0, 0))
        if high and not (name.startswith("features.0.") and settings["name"].endswith("v2")):
            parameter.set_data(mx.nd.random.uniform(low, high, parameter.shape))
        if name.endswith(("conv3.weight", "body.7.gamma")):
            parameter.set_data(parameter.data() * 0.15)
    net.apply(lambda block: block._kwargs.update(momentum=0.0) if isinstance(block, mx.gluon.nn.BatchNorm) else None)
    images.attach_grad()
    with mx.autograd.record(train_mode=True):
        answers = net(images)
    answers.backward()  # where MXNet on the CPU moves the statistics, as far as there are gradients
    for name, parameter in parameters.items():
        if name.endswith("running_var"):
            parameter.set_data(parameter.data() * mx.nd.random.uniform(0.8, 1.25, parameter.shape))
    return net


def gluon_write(settings: dict[str, Any], arrays: Arrays) -> Answer:
    """Save a network of the zoo in all of Gluon's forms below `folder`; gives its `logits`, and those in float64.

    `saved.params` is save_parameters', `old.params` that of versions before 1.3, `exported` the two files of export.
    """
    images = _scaled(settings, arrays)
    net = _trained(settings, images)
    logits = net(images).asnumpy()
    folder = settings["folder"]
    net.save_parameters(f"{folder}/saved.params")
    net.collect_params().save(f"{folder}/old.params", strip_prefix=net.prefix)
    net.hybridize()
    net(images)
    net.export(f"{folder}/exported", epoch=7)
    net.cast("float64")
    return {}, {"logits": logits, "exact": net(_scaled(settings, arrays, "float64")).asnumpy()}


def gluon_read(settings: dict[str, Any], arrays: Arrays) -> Answer:
    """The logits of a checkpoint that somebody wrote for Gluon, by all three of MXNet's ways to load it."""
    images, prefix, epoch = _scaled(settings, arrays), settings["prefix"], settings["epoch"]
    net = vision.get_model(settings["name"], classes=settings["classes"])
    net.load_parameters(f"{prefix}-{epoch:04d}.params")
    block = mx.gluon.SymbolBlock.imports(f"{prefix}-symbol.json", ["data"], f"{prefix}-{epoch:04d}.params")
    module = mx.mod.Module.load(prefix, epoch, label_names=None)
    module.bind([("data", images.shape)], for_training=False)
    module.forward(mx.io.DataBatch([images]), is_train=False)
    found = {"zoo": net(images), "block": block(images), "module": module.get_outputs()[0]}
    return {}, {name: logits.asnumpy() for name, logits in found.items()}


def symbol_block(settings: dict[str, Any], arrays: Arrays) -> Answer:
    """The answers of a Module's checkpoint in Gluon, with its own names of inputs."""
    prefix = settings["prefix"]
    names = ["data", "softmax_label"]
    block = mx.gluon.SymbolBlock.imports(f"{prefix}-symbol.json", names, f"{prefix}-{settings['epoch']:04d}.params")
    data = mx.nd.array(arrays["data"])
    return {}, {"probabilities": block(data, mx.nd.zeros(len(data))).asnumpy()}


def write_variant(settings: dict[str, Any], arrays: Arrays) -> Answer:
    """Save a checkpoint whose head is another one than its `symbol` has, as scripts of those years did.

    `variant`: "fc" is fine-tune.py's head, "dropout" one behind Dropout, "pair" has features for a second output,
    "bare" saves names without arg: and aux:, "dict" an executor's whole arg_dict. Gives MXNet's own `probabilities`.
    """
    symbol, arguments, statistics = mx.model.load_checkpoint(settings["from"], 0)
    variant, internals = settings["variant"], symbol.get_internals()
    if variant in ("fc", "dropout"):
        flat = internals["flatten0_output"]
        flat = mx.sym.Dropout(flat, p=0.5, name="drop") if variant == "dropout" else flat
        head = "fc" if variant == "fc" else "fc1"
        dense = mx.sym.FullyConnected(flat, num_hidden=len(arguments["fc1_bias"]), name=head)
        symbol = mx.sym.SoftmaxOutput(dense, name="softmax")
        for kind in ("weight", "bias"):
            arguments[f"{head}_{kind}"] = arguments.pop(f"fc1_{kind}")
    if variant == "pair":
        symbol = mx.sym.Group([mx.sym.BlockGrad(internals["flatten0_output"]), symbol])
    data = arrays["data"]
    executor = symbol.simple_bind(mx.cpu(), grad_req="null", data=data.shape)
    executor.copy_params_from(arguments, statistics)
    probabilities = executor.forward(is_train=False, data=mx.nd.array(data))[-1].asnumpy()
    prefix = settings["prefix"]
    symbol.save(f"{prefix}-symbol.json")
    if variant == "bare":
        mx.nd.save(f"{prefix}-0000.params", {**arguments, **statistics})
    else:
        arguments = dict(executor.arg_dict) if variant == "dict" else arguments
        mx.model.save_checkpoint(prefix, 0, symbol, arguments, statistics)
    return {}, {"probabilities": probabilities}


COMMANDS = (gluon_write, gluon_read, symbol_block, write_variant)
