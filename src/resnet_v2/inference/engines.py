"""What runs a network: PyTorch, ONNX Runtime or OpenVINO. Each is imported only when it is asked for."""

import functools
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from resnet_v2.config.using import Epoch, Precision
from resnet_v2.console import say
from resnet_v2.errors import ResnetError
from resnet_v2.files import read_bytes, sha256
from resnet_v2.interchange.optional import package
from resnet_v2.interchange.seal import INT8, is_sealed
from resnet_v2.networks.finding import find_checkpoint, find_exported, find_int8, int8_path
from resnet_v2.networks.header import Header, read_header

if TYPE_CHECKING:
    import torch

    from resnet_v2.networks.resnet import ResNet

Images = NDArray[np.uint8]
Logits = NDArray[np.float32]


class Engine(Protocol):
    """A network that is ready to answer; `where` says by what and where it runs."""

    where: str

    def logits(self, images: Images) -> Logits:
        """n x H x W x 3 images (uint8, RGB) -> n x classes logits."""


def onnx_of_checkpoint(prefix: str, epoch: Epoch | None, precision: Precision = "float32") -> tuple[bytes, Header]:
    """The checkpoint's own export beside it, and PyTorch is then not even imported, or else one made in memory.

    For int8 it is what `resnet-v2 quantize` wrote; a ResnetError says so where that is missing or another's.
    """
    path = find_checkpoint(prefix, epoch)
    if precision == "int8":
        return _int8_of_checkpoint(path), _header(path, prefix, epoch)
    exported = find_exported(path, ".onnx")
    if exported is not None and path.suffix == ".safetensors":
        model = read_bytes(exported)
        checksum = sha256(path)  # else it is another's, or this one's of before
        if is_sealed(model) and checksum.encode() in model and (INT8 + checksum).encode() not in model:
            return model, read_header(path)
    from resnet_v2.interchange.export import onnx_of
    from resnet_v2.networks import weights

    network, header = weights.load(prefix, epoch)
    return onnx_of(network, header, path), header


def decided(precision: Precision, computes_in_bfloat16: bool) -> Precision:
    """What a precision is where it is auto, which is said: bfloat16 on a device that computes in it, else float32."""
    if precision != "auto":
        return precision
    if computes_in_bfloat16:
        _say_once("`precision` auto is bfloat16, in which this device computes")
        return "bfloat16"
    _say_once("`precision` auto is float32, since bfloat16 is not faster here")
    return "float32"


# The networks of an ensemble are opened one after the other.
_say_once = functools.cache(say)


class Calibrated:
    """An engine whose logits are divided by the temperature of a network's header; by 1 they stay as they are."""

    def __init__(self, engine: Engine, temperature: float) -> None:
        self.where, self._engine, self._temperature = engine.where, engine, np.float32(temperature)

    def logits(self, images: Images) -> Logits:
        return self._engine.logits(images) / self._temperature


def _int8_of_checkpoint(path: Path) -> bytes:
    made, again = find_int8(path), "make it with `resnet-v2 quantize`"
    if made is None:
        raise ResnetError(f"{int8_path(path)} is missing, the int8 form of {path}; {again}.")
    model = read_bytes(made)
    if not is_sealed(model):
        raise ResnetError(f"{made} is damaged or was not written by resnet-v2; {again}.")
    if (INT8 + sha256(path)).encode() not in model:
        raise ResnetError(f"{made} is no int8 form of {path} as it is now, but of another network; {again}.")
    return model


def _header(path: Path, prefix: str, epoch: Epoch | None) -> Header:
    if path.suffix == ".safetensors":
        return read_header(path)
    from resnet_v2.networks import weights

    return weights.checkpoint_header(prefix, epoch)


class TorchEngine:
    """PyTorch, on the CPU or a GPU; the network is left in the mode, training or evaluation, in which it was.

    Threads that ask at once wait for each other: the mode is the network's, so that one would change it under another.
    """

    def __init__(self, network: "ResNet", device: "torch.device", precision: Precision = "float32") -> None:
        if precision == "int8":
            raise ResnetError("PyTorch does not compute in int8 here; take engine onnx or openvino.")
        self.network, self.device = network.to(device), device
        self.where, self._autocast = f"torch on {device}", precision == "bfloat16"
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        """All but the lock, which no pickle can hold."""
        return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.Lock())

    def logits(self, images: Images) -> Logits:
        return self.run(self.network, images)

    def run(self, forward: Any, images: Images) -> Logits:
        """What `forward`, the network or a method of it, makes of n x H x W x 3 images (uint8, RGB)."""
        import torch

        from resnet_v2.training.evaluate import evaluating
        from resnet_v2.training.feed import array_to_input

        autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=self._autocast)
        with self._lock, evaluating(self.network), autocast:
            result: Logits = forward(array_to_input(images, self.device)).float().cpu().numpy()
        return result


class OnnxEngine:
    """ONNX Runtime on the CPU."""

    where = "ONNX Runtime on cpu"

    def __init__(self, model: bytes, precision: Precision = "float32") -> None:
        precision = decided(precision, computes_in_bfloat16=False)
        if precision == "bfloat16":
            raise ResnetError(f"ONNX Runtime does not compute in {precision} on a CPU; take engine openvino or torch.")
        runtime = package("onnxruntime", "onnx")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = _threads()
        self._session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def logits(self, images: Images) -> Logits:
        return np.asarray(self._session.run(None, {"images": planes_of(images)})[0], np.float32)


class OpenvinoEngine:
    """OpenVINO on the CPU; bfloat16 needs a processor that has it, and is float32 on others."""

    where = "OpenVINO on cpu"

    def __init__(self, model: bytes, precision: Precision = "float32") -> None:
        self._core = _core(package("openvino", "onnx"))
        native = "BF16" in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        self._precision = "bf16" if decided(precision, native) == "bfloat16" else "f32"  # where it is not int8
        self._model = self._core.read_model(model)
        # One program for each shape: it is faster than one for all of them.
        self._requests: dict[tuple[int, ...], Any] = {}

    def logits(self, images: Images) -> Logits:
        planes = planes_of(images)
        if planes.shape not in self._requests:
            self._requests[planes.shape] = self._compile(planes.shape)
        request = self._requests[planes.shape]
        request.infer([planes], share_inputs=True)
        return np.array(request.get_output_tensor().data, np.float32)

    def _compile(self, shape: tuple[int, ...]) -> Any:
        settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": self._precision}
        if threads := _threads():
            settings["INFERENCE_NUM_THREADS"] = str(threads)
        model = self._model.clone()
        model.reshape(list(shape))
        return self._core.compile_model(model, "CPU", settings).create_infer_request()


@functools.cache
def _core(openvino: Any) -> Any:
    """OpenVINO's core, one for the process, which does not end before it.

    A core lays down a stack for the handlers of signals, and at its end puts back the one that it found. Of two that
    end in the order in which they began the second puts back the stack of the first, which is gone: the next signal
    with a handler, such as Ctrl-C, would be a segmentation fault.
    """
    return openvino.Core()


def _threads() -> int:
    """What OMP_NUM_THREADS says of the outermost level, as OpenMP reads it; 0 where it says nothing."""
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(first) if first.isdecimal() else 0


def planes_of(images: Images) -> Logits:
    """n x H x W x 3 uint8 -> n x 3 x H x W float32."""
    return images.transpose(0, 3, 1, 2).astype(np.float32, order="C")
