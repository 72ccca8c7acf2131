"""What runs a network: PyTorch, ONNX Runtime or OpenVINO. Each is imported only when it is asked for."""

import os
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from resnet_v2.config import EngineName, Precision
from resnet_v2.errors import ResnetError
from resnet_v2.interchange.finding import find_checkpoint
from resnet_v2.interchange.header import Header, read_header

if TYPE_CHECKING:
    import torch

    from resnet_v2.networks.resnet import ResNet

Images = NDArray[np.uint8]
Logits = NDArray[np.float32]


class Engine(Protocol):
    """A network that is ready to answer."""

    header: Header

    def logits(self, images: Images) -> Logits:
        """n x H x W x 3 images (uint8, RGB) -> n x classes logits."""


def open_engine(
    name: EngineName,
    prefix: str,
    epoch: int | None = None,
    *,
    device: str = "",
    gpus: str = "",
    precision: Precision = "float32",
) -> Engine:
    """The engine of a checkpoint; `device` and `gpus` say where PyTorch runs, the others use the CPU.

    ONNX Runtime and OpenVINO take PREFIX-NNNN.onnx beside the checkpoint when it is no older, and PyTorch is then not
    even imported; else they make it in memory. Raises ResnetError when the checkpoint or the engine is not there.
    """
    if name == "torch":
        return _torch_engine(prefix, epoch, device, gpus, precision)
    path = find_checkpoint(prefix, epoch)
    exported = path.with_suffix(".onnx")
    newer = exported.is_file() and exported.stat().st_mtime_ns >= path.stat().st_mtime_ns
    if newer and path.suffix == ".safetensors":
        model, header = exported.read_bytes(), read_header(path)
    else:
        from resnet_v2.inference.export import onnx_of

        model, header = onnx_of(prefix, epoch)
    return OnnxEngine(model, header, precision) if name == "onnx" else OpenvinoEngine(model, header, precision)


def _torch_engine(prefix: str, epoch: int | None, device: str, gpus: str, precision: Precision) -> Engine:
    from resnet_v2.interchange import weights
    from resnet_v2.interchange.folding import folded
    from resnet_v2.training.distributed import choose_device

    network, header = weights.load(prefix, epoch)
    return TorchEngine(folded(network), header, choose_device(gpus, device), precision)


class TorchEngine:
    """PyTorch, on the CPU or a GPU."""

    def __init__(
        self, network: "ResNet", header: Header, device: "torch.device", precision: Precision = "float32"
    ) -> None:
        self.network, self.header, self.device = network.to(device), header, device
        self._autocast = precision == "bfloat16"

    def logits(self, images: Images) -> Logits:
        """n x H x W x 3 images (uint8, RGB) -> n x classes logits."""
        import torch

        from resnet_v2.training.evaluate import array_to_input

        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=self._autocast):
            result: Logits = self.network(array_to_input(images, self.device)).float().cpu().numpy()
        return result


class OnnxEngine:
    """ONNX Runtime on the CPU."""

    def __init__(self, model: bytes, header: Header, precision: Precision = "float32") -> None:
        self.header = header
        if precision != "float32":
            raise ResnetError(
                f"ONNX Runtime does not compute in {precision} on a CPU; take --engine openvino or torch."
            )
        runtime = _import("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS", "0"))
        self._session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def logits(self, images: Images) -> Logits:
        """n x H x W x 3 images (uint8, RGB) -> n x classes logits."""
        (result,) = self._session.run(None, {"images": _planes(images)})
        return np.asarray(result, np.float32)


class OpenvinoEngine:
    """OpenVINO on the CPU; bfloat16 needs a processor that has it, and is float32 on others."""

    def __init__(self, model: bytes, header: Header, precision: Precision = "float32") -> None:
        self.header = header
        self._precision = {"float32": "f32", "bfloat16": "bf16"}[precision]
        self._core = _import("openvino").Core()
        self._model = self._core.read_model(model)
        # One program for each shape: it is faster than one for all of them.
        self._requests: dict[tuple[int, ...], Any] = {}

    def logits(self, images: Images) -> Logits:
        """n x H x W x 3 images (uint8, RGB) -> n x classes logits."""
        planes = _planes(images)
        if planes.shape not in self._requests:
            self._requests[planes.shape] = self._compile(planes.shape)
        request = self._requests[planes.shape]
        request.infer([planes], share_inputs=True)
        return np.array(request.get_output_tensor().data, np.float32)

    def _compile(self, shape: tuple[int, ...]) -> Any:
        settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": self._precision}
        if threads := os.environ.get("OMP_NUM_THREADS"):
            settings["INFERENCE_NUM_THREADS"] = threads
        model = self._model.clone()
        model.reshape(list(shape))
        return self._core.compile_model(model, "CPU", settings).create_infer_request()


def _planes(images: Images) -> Logits:
    """n x H x W x 3 uint8 -> n x 3 x H x W float32."""
    return images.transpose(0, 3, 1, 2).astype(np.float32, order="C")


def _import(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError:
        raise ResnetError(f"{name} is not installed; install it with pip install 'resnet-v2[onnx]'.") from None
