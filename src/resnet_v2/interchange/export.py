"""Checkpoint -> the files of other systems: ONNX, torch.export, MXNet; and safetensors of the weights alone."""

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from resnet_v2.config.using import Epoch
from resnet_v2.errors import ResnetError
from resnet_v2.files import replacing, sha256
from resnet_v2.interchange import mxnet
from resnet_v2.interchange.folding import folded, with_temperature
from resnet_v2.interchange.optional import package
from resnet_v2.networks import weights
from resnet_v2.networks.finding import exported_path, split_path, written_beside
from resnet_v2.networks.header import METADATA_KEY, Header
from resnet_v2.networks.resnet import ResNet

Format = Literal["onnx", "torch", "mxnet", "gluon", "safetensors"]
ENDINGS: dict[Format, str] = {
    "onnx": ".onnx",
    "torch": ".pt2",
    "mxnet": ".params",
    "gluon": ".params",
    "safetensors": ".safetensors",
}
Forward = Callable[[Tensor], Tensor]
# Of the largest logit.
LARGEST_DIFFERENCE = 1e-4
# A message of Protocol Buffers has fewer than 2 GiB; a megabyte is more than all but the weights takes.
LARGEST_ONNX_BYTES = (1 << 31) - (1 << 20)


def export(prefix: str, epoch: Epoch | None, to: Format, out: str = "") -> str:
    """Write the network of a checkpoint in another form, OUT-NNNN.*; returns a sentence about it.

    By default it is written beside the checkpoint; that of a network that ships into the current folder. A checkpoint
    without a number, such as PREFIX-best, then gives PREFIX-best.onnx and PREFIX-best.pt2.

    - onnx: OUT-NNNN.onnx, which ONNX Runtime, OpenVINO and TensorRT read; see `onnx_graph.onnx_model`
    - torch: OUT-NNNN.pt2, for `torch.export.load(...).module()`; N is free, the images are `header.crop` pixels a side
    - mxnet: OUT-NNNN.params and OUT-symbol.json
    - gluon: the same two as the network of Gluon's model zoo, by Gluon's names, for images normalised as there
    - safetensors: OUT-NNNN.safetensors without the optimiser's momentum

    Logits of all but safetensors are divided by the temperature of the checkpoint's header. ONNX and torch have their
    BatchNorms folded, and their logits are compared with the network's before the file appears; ResnetError when they
    differ by more than 1e-4 of the largest.
    """
    path, header, tensors = weights.read_checkpoint(prefix, epoch)
    network, header = weights.build(path, header, tensors), replace(header, training={})
    if to != "safetensors":
        network, header = with_temperature(network, header)
    beside = written_beside(path)
    start, number = split_path(beside)
    start = out or start
    if not Path(start).name or start.endswith(("/", "\\")):
        raise ResnetError(f"`out` {out} is a folder; give the start of a name, such as {Path(start) / 'network'}.")
    target = exported_path(beside, ENDINGS[to], out)
    if target.exists() and target.samefile(path):
        raise ResnetError(f"{target} is the checkpoint itself; export it under another name, with `out`.")
    # These may be checkpoints that somebody trained, and not what an export wrote.
    if target.exists() and not out and to in ("mxnet", "gluon", "safetensors"):
        raise ResnetError(f"{target} is there already; give `out`, the same name to write it anew.")
    if to == "mxnet":
        mxnet.save_checkpoint(start, number, network, header.labels, overwrite=bool(out))
        return f"{target} and {start}-symbol.json"
    if to == "gluon":
        mxnet.save_gluon(start, number, network, overwrite=bool(out))
        zoo = f"vision.resnet{header.architecture.depth}_{header.architecture.version}"
        return f"{target} and {start}-symbol.json ({zoo})"
    if to == "safetensors":
        weights.save(target, weights.network_tensors(network), header)
        return str(target)
    data, forward = _onnx(network, header, path) if to == "onnx" else _exported_program(network, header)
    difference = _difference(network, forward, header.crop)
    if not difference <= LARGEST_DIFFERENCE:
        raise ResnetError(
            f"{target} is not written: its logits differ from the network's by {difference:.1e} of the largest, more "
            f"than {LARGEST_DIFFERENCE:.0e}; the weights may be damaged, evaluate them first."
        )
    with replacing(target) as temporary:
        temporary.write_bytes(data)
    return f"{target} (logits within {difference:.0e} of the network's)"


def onnx_of(network: ResNet, header: Header, path: Path) -> bytes:
    """The network of a checkpoint as an ONNX model, its BatchNorms and its temperature folded; it names the
    checkpoint's SHA-256.

    A ResnetError says so when onnx is not installed, and when the network is too large for the format.
    """
    refuse_too_large(network, path)
    from resnet_v2.interchange.onnx_graph import onnx_model

    network, header = with_temperature(network, header)
    return onnx_model(folded(network), header, sha256(path))


def refuse_too_large(network: ResNet, path: Path) -> None:
    """Raise ResnetError where onnx is not installed, and for a network that does not go into the format."""
    package("onnx", "onnx")
    if (size := sum(tensor.nbytes for tensor in weights.network_tensors(network).values())) > LARGEST_ONNX_BYTES:
        raise ResnetError(f"{path} has {size} bytes of weights; an ONNX file holds no more than {LARGEST_ONNX_BYTES}.")


def _onnx(network: ResNet, header: Header, path: Path) -> tuple[bytes, Forward]:
    data = onnx_of(network, header, path)
    session = package("onnxruntime", "onnx").InferenceSession(data, providers=["CPUExecutionProvider"])
    return data, lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def _exported_program(network: ResNet, header: Header) -> tuple[bytes, Forward]:
    images = torch.zeros(2, 3, header.crop, header.crop)
    # In plain memory: PyTorch warns of tensors in channels-last memory, and the runtime lays them out for itself.
    plain = folded(network).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    program = torch.export.export(plain, (images,), dynamic_shapes=({0: torch.export.Dim("N", min=1)},))
    file = io.BytesIO()
    torch.export.save(program, file, extra_files={METADATA_KEY: header.to_json()})
    return file.getvalue(), torch.export.load(io.BytesIO(file.getvalue())).module()


@torch.inference_mode()
def _difference(network: ResNet, forward: Forward, crop: int) -> float:
    """The largest difference of the logits of one image and of three, relative to the largest logit."""
    noise = np.random.default_rng(0).integers(0, 256, (3, crop, crop, 3), dtype=np.uint8)
    three = torch.from_numpy(noise).permute(0, 3, 1, 2).float().contiguous()
    pairs = [(forward(images), network(images)) for images in (three[:1], three)]
    return max(float((theirs - ours).abs().max() / ours.abs().max()) for theirs, ours in pairs)
