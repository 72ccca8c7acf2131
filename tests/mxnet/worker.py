"""MXNet's side of the parity suite: a process in MXNet's own Python that answers one JSON line per JSON line.

A request is `{"command": NAME, "settings": {...}, "arrays": "in.npz", "answer": "out.npz"}`; the reply is
`{"answer": {...}}` or `{"error": "..."}`. Arrays go through .npz files without pickle. Nothing of resnet_v2 is used.
"""

import contextlib
import importlib
import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

import data_commands
import gluon_commands
import numpy as np
import symbols

# A type checker would take this folder for the package.
mx: Any = importlib.import_module("mxnet")

Arrays = dict[Any, Any]
Answer = tuple[dict[str, Any], Arrays]


def _symbol(settings: dict[str, Any]) -> Any:
    if "json" in settings:
        return mx.sym.load_json(settings["json"])
    names = ("stem", "depth", "classes", "version", "width")
    return symbols.resnet(*(settings[name] for name in names))


def _bind(symbol: Any, settings: dict[str, Any], arrays: Arrays, grad_req: str) -> Any:
    """An executor with the arrays `arg:...` and `aux:...` put in, everything in `settings["dtype"]`."""
    dtype = settings.get("dtype", "float32")
    names = symbol.list_arguments()
    request = {name: "null" if name in ("data", "softmax_label") else grad_req for name in names}
    types = dict.fromkeys(names, dtype)
    executor = symbol.simple_bind(mx.cpu(), grad_req=request, type_dict=types, data=arrays["data"].shape)
    for key, places in (("arg", executor.arg_dict), ("aux", executor.aux_dict)):
        for name, place in places.items():
            if f"{key}:{name}" in arrays:
                place[:] = mx.nd.array(arrays[f"{key}:{name}"], dtype=place.dtype)
    executor.arg_dict["data"][:] = mx.nd.array(arrays["data"], dtype=dtype)
    return executor


def shapes(settings: dict[str, Any], arrays: Arrays) -> Answer:
    """The names and shapes that MXNet infers for one image of `settings["size"]` pixels."""
    symbol = _symbol(settings)
    inferred = symbol.infer_shape(data=(1, 3, settings["size"], settings["size"]))
    names = [f"arg:{name}" for name in symbol.list_arguments()]
    names += [f"aux:{name}" for name in symbol.list_auxiliary_states()]
    return {"shapes": dict(zip(names, inferred[0] + inferred[2]))}, {}  # noqa: B905


def logits(settings: dict[str, Any], arrays: Arrays) -> Answer:
    """The input of the softmax, in inference mode."""
    executor = _bind(_symbol(settings).get_internals()["fc1_output"], settings, arrays, "null")
    return {}, {"logits": executor.forward(is_train=False)[0].asnumpy()}


def gradients(settings: dict[str, Any], arrays: Arrays) -> Answer:
    """The gradient of the mean cross entropy for every argument, and the moving statistics after the one forward.

    `gate:NAME` says where each ReLU let its input pass, as packed bits; `pooled` is the input of the maximum pool.
    """
    symbol = _symbol(settings)
    relus = [name for name in symbol.get_internals().list_outputs() if "relu" in name]
    watched = [mx.sym.BlockGrad(symbol.get_internals()[name]) for name in relus]
    executor = _bind(mx.sym.Group([symbol, *watched]), settings, arrays, "write")
    executor.arg_dict["softmax_label"][:] = mx.nd.array(arrays["labels"])
    outputs = executor.forward(is_train=True)
    executor.backward()
    found = {f"arg:{name}": gradient.asnumpy() for name, gradient in executor.grad_dict.items() if gradient is not None}
    found = {name: gradient / len(arrays["labels"]) for name, gradient in found.items()}
    found.update({f"gate:{name}": np.packbits(output.asnumpy() > 0) for name, output in zip(relus, outputs[1:])})  # noqa: B905
    if "relu0_output" in relus:
        found["pooled"] = outputs[1 + relus.index("relu0_output")].asnumpy()
    return {}, {**found, **{f"aux:{name}": array.asnumpy() for name, array in executor.aux_dict.items()}}


def outputs(settings: dict[str, Any], arrays: Arrays) -> Answer:
    """All outputs of a symbol in inference mode by name, and the gradient of fc1's bias for the labels `label:NAME`."""
    symbol = _symbol(settings)
    executor = _bind(symbol, settings, arrays, "write")
    found = [output.asnumpy() for output in executor.forward(is_train=False)]
    for name in executor.arg_dict:
        if f"label:{name}" in arrays:
            executor.arg_dict[name][:] = mx.nd.array(arrays[f"label:{name}"])
    executor.forward(is_train=True)
    executor.backward()
    by_name = dict(zip(symbol.list_outputs(), found))  # noqa: B905
    return {"names": symbol.list_outputs()}, {**by_name, "gradient": executor.grad_dict["fc1_bias"].asnumpy()}


def _rule_of_2016(optimizer: Any) -> Callable[[int, Any, Any], None]:
    """The update of 2016 in array arithmetic: the learning rate stays outside the momentum."""
    momenta: Arrays = {}

    def update(index: int, gradient: Any, weight: Any) -> None:
        step = gradient * optimizer.rescale_grad + optimizer._get_wd(index) * weight
        momenta[index] = optimizer.momentum * momenta[index] + step if index in momenta else step
        weight[:] = weight - optimizer.lr * (step + optimizer.momentum * momenta[index])

    return update


def train(settings: dict[str, Any], arrays: Arrays) -> Answer:
    """Nesterov momentum over `batches` (steps x N x 3 x H x W) and `labels` (steps x N), one rate per step.

    `rule` is MXNet's own NAG ("1.9.1") or that of 2016. Gives the loss of each step before its update, and all weights
    and moving statistics at the end.
    """
    symbol = _symbol(settings)
    executor = _bind(symbol, settings, {**arrays, "data": arrays["batches"][0]}, "write")
    learned = [name for name in symbol.list_arguments() if name not in ("data", "softmax_label")]
    optimizer = mx.optimizer.NAG(
        momentum=settings["momentum"],
        wd=settings["weight_decay"],
        rescale_grad=1 / arrays["labels"].shape[1],
        param_idx2name=dict(enumerate(learned)),
    )
    updater = {"1.9.1": mx.optimizer.get_updater, "2016": _rule_of_2016}[settings["rule"]](optimizer)
    losses = []
    for images, labels, rate in zip(arrays["batches"], arrays["labels"], settings["rates"]):  # noqa: B905
        executor.arg_dict["data"][:] = mx.nd.array(images)
        executor.arg_dict["softmax_label"][:] = mx.nd.array(labels)
        probabilities = executor.forward(is_train=True)[0].asnumpy()
        losses.append(-np.log(probabilities[np.arange(len(labels)), labels]).mean())
        executor.backward()
        optimizer.lr = rate
        for index, name in enumerate(learned):
            updater(index, executor.grad_dict[name], executor.arg_dict[name])
    weights = {f"arg:{name}": executor.arg_dict[name].asnumpy() for name in learned}
    return {}, {
        **weights,
        **{f"aux:{k}": v.asnumpy() for k, v in executor.aux_dict.items()},
        "losses": np.array(losses),
    }


def initialize(settings: dict[str, Any], arrays: Arrays) -> Answer:
    """What Module.init_params draws with Xavier(gaussian, in, 2)."""
    mx.random.seed(settings["seed"])
    module = mx.mod.Module(_symbol(settings), context=mx.cpu())
    size = settings["size"]
    module.bind([("data", (1, 3, size, size))], [("softmax_label", (1,))], for_training=False)
    module.init_params(mx.init.Xavier(rnd_type="gaussian", factor_type="in", magnitude=2))
    arguments, statistics = module.get_params()
    found = {f"arg:{name}": array.asnumpy() for name, array in arguments.items()}
    return {}, {**found, **{f"aux:{name}": array.asnumpy() for name, array in statistics.items()}}


def module_probabilities(settings: dict[str, Any], arrays: Arrays) -> Answer:
    """Load a checkpoint as MXNet's users do, predict the batch `data`; nothing may be missing or superfluous."""
    symbol, arguments, statistics = mx.model.load_checkpoint(settings["prefix"], settings["epoch"])
    data = arrays["data"]
    module = mx.mod.Module(symbol, context=mx.cpu())
    module.bind([("data", data.shape)], [("softmax_label", data.shape[:1])], for_training=False)
    module.set_params(arguments, statistics, allow_missing=False, allow_extra=False)
    module.forward(mx.io.DataBatch([mx.nd.array(data)]), is_train=False)
    return {"outputs": symbol.get_internals().list_outputs()}, {"probabilities": module.get_outputs()[0].asnumpy()}


def save_checkpoint(settings: dict[str, Any], arrays: Arrays) -> Answer:
    """Write `arg:...` and `aux:...` with mx.model.save_checkpoint."""
    kinds: dict[str, Arrays] = {"arg": {}, "aux": {}}
    for name, array in arrays.items():
        kinds[name[:3]][name[4:]] = mx.nd.array(array, dtype=array.dtype)
    mx.model.save_checkpoint(settings["prefix"], settings["epoch"], _symbol(settings), kinds["arg"], kinds["aux"])
    return {}, {}


def save(settings: dict[str, Any], arrays: Arrays) -> Answer:
    """Write the arrays with mx.nd.save: V2, or V3 when `settings["numpy_shapes"]`."""
    numpy_shapes = mx.util.np_shape(True) if settings["numpy_shapes"] else contextlib.nullcontext()
    with numpy_shapes:
        mx.nd.save(settings["path"], {name: mx.nd.array(array, dtype=array.dtype) for name, array in arrays.items()})
    return {}, {}


def save_bfloat16(settings: dict[str, Any], arrays: Arrays) -> Answer:
    """Write the upper halves of float32 arrays as bfloat16; gives back the values of the halves as float32."""
    kind = np.dtype([("bfloat16", np.uint16)])
    halves = {name: (array.view(np.uint32) >> 16).astype(np.uint16) for name, array in arrays.items()}
    mx.nd.save(settings["path"], {name: mx.nd.array(half.view(kind), dtype=kind) for name, half in halves.items()})
    return {}, {name: (half.astype(np.uint32) << 16).view(np.float32) for name, half in halves.items()}


def load(settings: dict[str, Any], arrays: Arrays) -> Answer:
    """Read a .params file with mx.nd.load."""
    return {}, {name: array.asnumpy() for name, array in mx.nd.load(settings["path"]).items()}


def save_sparse(settings: dict[str, Any], arrays: Arrays) -> Answer:
    """Write one row_sparse or csr array."""
    mx.nd.save(settings["path"], {"arg:sparse": mx.nd.array(arrays["dense"]).tostype(settings["storage"])})
    return {}, {}


COMMANDS = (
    shapes,
    logits,
    outputs,
    gradients,
    train,
    initialize,
    module_probabilities,
    save_checkpoint,
    save,
    save_bfloat16,
    load,
    save_sparse,
    *data_commands.COMMANDS,
    *gluon_commands.COMMANDS,
)


def answer(request: dict[str, Any]) -> dict[str, Any]:
    command = next(function for function in COMMANDS if function.__name__ == request["command"])
    with np.load(request["arrays"]) as file:
        arrays = dict(file)
    found, result = command(request["settings"], arrays)
    np.savez(request["answer"], **result)
    return {"answer": found}


def main() -> None:
    """Answer until the input ends. What MXNet prints goes to the errors, so that replies stay apart."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        try:
            reply = answer(json.loads(line))
        except Exception:
            reply = {"error": traceback.format_exc()}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


if __name__ == "__main__":
    main()
