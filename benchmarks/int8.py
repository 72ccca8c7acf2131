"""Milliseconds from one prepared image to its logits on the CPU: int8 against float32 in the same engine.

The network has drawn weights and is calibrated on noise: how fast it is does not depend on them. All take turns in one
process, ten calls each after three that are not counted, so that what slows the machine slows them all.

    OMP_NUM_THREADS=2 python benchmarks/int8.py --depth 50 --rounds 6
"""

import statistics
import tempfile
from functools import partial
from pathlib import Path

import figures
import numpy as np
import torch

from resnet_v2.inference.engines import OnnxEngine, OpenvinoEngine, planes_of
from resnet_v2.interchange.export import onnx_of
from resnet_v2.interchange.int8 import int8_of
from resnet_v2.networks import weights
from resnet_v2.networks.finding import checkpoint_path
from resnet_v2.networks.header import Header


def main() -> None:
    network, rounds = figures.drawn_network(__doc__)
    side = network.architecture.image_size
    images = np.random.default_rng(0).integers(0, 256, (8, side, side, 3), dtype=np.uint8)
    with torch.inference_mode():  # BatchNorms as after training: activations of about 1
        network.train()(torch.from_numpy(planes_of(images)))
        network.eval()
    with tempfile.TemporaryDirectory() as folder:
        header, path = Header.of_epoch(network.architecture, 1), checkpoint_path(f"{folder}/net", 1)
        weights.save(path, weights.network_tensors(network), header)
        exact = onnx_of(network, header, Path(path))
        rough = int8_of(network, header, Path(path), [planes_of(images)])
    times = figures.milliseconds(
        {
            f"{kind.where}, {precision}": partial(kind(model).logits, images[:1])
            for kind in (OnnxEngine, OpenvinoEngine)
            for precision, model in (("float32", exact), ("int8", rough))
        },
        rounds,
    )
    for name, measured in times.items():
        median, least = statistics.median(measured), min(measured)
        faster = statistics.median(times[f"{name.rpartition(', ')[0]}, float32"]) / median
        print(f"{name:28} median {median:7.2f} ms   least {least:7.2f} ms   {faster:.2f} times as fast")


if __name__ == "__main__":
    main()
