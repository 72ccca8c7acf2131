"""Milliseconds from one and from eight prepared images to their logits on the CPU: ours and the runtimes used by hand.

By hand: the network as PyTorch's own exporter writes it (needs onnxscript), run by ONNX Runtime and by OpenVINO, which
fold and fuse for themselves; and PyTorch itself. They get a float32 batch that is ready; ours get uint8 images.
OpenVINO left to itself computes in bfloat16 where the processor can, so it is measured both ways. All take turns in one
process, ten calls each after three that are not counted, so that what slows the machine slows them all.

    OMP_NUM_THREADS=2 python benchmarks/latency.py --depth 50 --rounds 6
"""

import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import figures
import numpy as np
import onnxruntime
import openvino
import torch

from resnet_v2.inference.engines import Images
from resnet_v2.inference.predict import Predictor
from resnet_v2.networks import weights
from resnet_v2.networks.finding import checkpoint_path
from resnet_v2.networks.header import Header
from resnet_v2.networks.resnet import ResNet

Call = Callable[[], object]


def main() -> None:
    network, rounds = figures.drawn_network(__doc__)
    side = network.architecture.image_size
    for count in (1, 8):
        images = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
        with tempfile.TemporaryDirectory() as folder:
            calls = by_hand(network, images, Path(folder)) | ours(network, images, f"{folder}/net")
            print(f"batches of {count}")
            report(figures.milliseconds(calls, rounds))


def by_hand(network: ResNet, images: Images, folder: Path) -> dict[str, Call]:
    planes = images.transpose(0, 3, 1, 2).astype(np.float32, order="C")
    batch = torch.from_numpy(planes)
    path = folder / "by_hand.onnx"
    torch.onnx.export(network, (batch,), path, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(path)
    name = session.get_inputs()[0].name
    core = openvino.Core()
    exact = core.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}).create_infer_request()
    default = core.compile_model(path, "CPU").create_infer_request()
    channels_last = batch.to(memory_format=torch.channels_last)

    def pytorch() -> torch.Tensor:
        with torch.inference_mode():
            return network(channels_last)  # type: ignore[no-any-return]

    return {
        "PyTorch by hand": pytorch,
        "ONNX Runtime by hand": lambda: session.run(None, {name: planes}),
        "OpenVINO by hand": lambda: exact.infer([planes]),
        "OpenVINO by hand, bfloat16": lambda: default.infer([planes]),
    }


def ours(network: ResNet, images: Images, prefix: str) -> dict[str, Call]:
    header = Header.of_epoch(network.architecture, 1)
    weights.save(checkpoint_path(prefix, 1), weights.network_tensors(network), header)
    kinds = [("torch", "float32"), ("onnx", "float32"), ("openvino", "float32"), ("openvino", "bfloat16")]
    calls: dict[str, Call] = {}
    for name, precision in kinds:
        predictor = Predictor.open(prefix, 1, engine=name, precision=precision)  # type: ignore[arg-type]
        label = f"--engine {name}" + (", bfloat16" if precision == "bfloat16" else "")
        calls[label] = partial(predictor.engine.logits, images)
    return calls


def report(times: dict[str, list[float]]) -> None:
    for name, measured in times.items():
        fast, middle, slow = (float(np.percentile(measured, share)) for share in (5, 50, 95))
        print(f"{name:28} median {middle:7.2f} ms   5% {fast:7.2f}   95% {slow:7.2f}")
    for precision in ("float32", "bfloat16"):
        chosen = {
            name: value for name, value in times.items() if name.endswith("bfloat16") == (precision == "bfloat16")
        }
        peer = min(statistics.median(value) for name, value in chosen.items() if "by hand" in name)
        best = min(statistics.median(value) for name, value in chosen.items() if "--engine" in name)
        print(f"{precision}: our fastest / the fastest by hand: {best / peer:.3f}")


if __name__ == "__main__":
    main()
