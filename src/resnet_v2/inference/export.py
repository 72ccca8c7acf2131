"""Checkpoint -> the files of other systems: ONNX, torch.export, MXNet; and safetensors of the weights alone."""

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from resnet_v2.errors import ResnetError
from resnet_v2.files import replacing
from resnet_v2.inference.engines import OnnxEngine, TorchEngine
from resnet_v2.interchange import mxnet, weights
from resnet_v2.interchange.finding import checkpoint_path, params_path, split_path
from resnet_v2.interchange.folding import folded
from resnet_v2.interchange.header import METADATA_KEY, Header
from resnet_v2.networks.resnet import ResNet

Format = Literal["onnx", "torch", "mxnet", "safetensors"]
# Of the largest logit.
LARGEST_DIFFERENCE = 1e-4


def export(prefix: str, epoch: int | None, to: Format, out: str = "") -> str:
    """Write the network of a checkpoint in another form, OUT-NNNN.* (default: beside it); returns a sentence about it.

    - onnx: OUT-NNNN.onnx, which ONNX Runtime, OpenVINO and TensorRT read; see `onnx_graph.onnx_model`
    - torch: OUT-NNNN.pt2, for `torch.export.load(...).module()`, images as in onnx
    - mxnet: OUT-NNNN.params and OUT-symbol.json
    - safetensors: OUT-NNNN.safetensors without the optimiser's momentum

    ONNX and torch have their BatchNorms folded, and their logits are compared with the network's before the file
    appears; ResnetError when they differ by more than 1e-4 of the largest.
    """
    path, header, tensors = weights.read_checkpoint(prefix, epoch)
    network, header = weights.build(path, header, tensors), replace(header, training={})
    start, number = split_path(path)
    start = out or start
    if to == "mxnet":
        mxnet.save_checkpoint(start, number, network)
        return str(params_path(start, number))
    if to == "safetensors":
        target = checkpoint_path(start, number)
        if target.exists() and target.samefile(path):
            raise ResnetError(f"{target} is the checkpoint itself; give --out another name.")
        weights.save(target, weights.network_tensors(network), header)
        return str(target)
    target = Path(f"{start}-{number:04d}.{'onnx' if to == 'onnx' else 'pt2'}")
    data, logits = _onnx(network, header) if to == "onnx" else _exported_program(network, header)
    difference = _difference(network, header, logits)
    if not difference <= LARGEST_DIFFERENCE:
        raise ResnetError(
            f"{target} is not written: its logits differ from the network's by {difference:.1e} of the largest, more "
            f"than {LARGEST_DIFFERENCE:.0e}; the weights may be damaged, evaluate them first."
        )
    with replacing(target) as temporary:
        temporary.write_bytes(data)
    return f"{target} (logits within {difference:.0e} of the network's)"


def onnx_of(prefix: str, epoch: int | None) -> tuple[bytes, Header]:
    """The ONNX model of a checkpoint, BatchNorms folded, and its header."""
    network, header = weights.load(prefix, epoch)
    return _onnx_model(network, header), header


def _onnx_model(network: ResNet, header: Header) -> bytes:
    try:
        from resnet_v2.interchange.onnx_graph import onnx_model
    except ImportError:
        raise ResnetError("onnx is not installed; install it with pip install 'resnet-v2[onnx]'.") from None
    return onnx_model(folded(network), header)


Answer = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


def _onnx(network: ResNet, header: Header) -> tuple[bytes, Answer]:
    data = _onnx_model(network, header)
    return data, OnnxEngine(data, header).logits


def _exported_program(network: ResNet, header: Header) -> tuple[bytes, Answer]:
    images = torch.zeros(2, 3, header.crop, header.crop)
    # In plain memory: PyTorch warns of tensors in channels-last memory, and the runtime lays them out for itself.
    plain = folded(network).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    program = torch.export.export(plain, (images,), dynamic_shapes=({0: torch.export.Dim("N", min=1)},))
    file = io.BytesIO()
    torch.export.save(program, file, extra_files={METADATA_KEY: header.to_json()})
    loaded: Any = torch.export.load(io.BytesIO(file.getvalue())).module()
    return file.getvalue(), TorchEngine(loaded, header, torch.device("cpu")).logits


def _difference(network: ResNet, header: Header, logits: Answer) -> float:
    """The largest difference of the logits of one image and of three, relative to the largest logit."""
    engine = TorchEngine(network, header, torch.device("cpu"))
    noise = np.random.default_rng(0).integers(0, 256, (3, header.crop, header.crop, 3), dtype=np.uint8)
    differences = []
    for images in (noise[:1], noise):
        ours = engine.logits(images)
        differences.append(float(np.abs(logits(images) - ours).max() / np.abs(ours).max()))
    return max(differences)
