"""Milliseconds from one prepared image to its logits on the CPU: int8 against float32 in the same engine.

The network has drawn weights and is calibrated on noise: how fast it is does not depend on them. All take turns in one
process, ten calls each after three that are not counted, so that what slows the machine slows them all.

    OMP_NUM_THREADS=2 python benchmarks/int8.py --depth 50 --rounds 6
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from resnet_v2.inference.engines import OnnxEngine, OpenvinoEngine, planes_of
from resnet_v2.interchange.export import onnx_of
from resnet_v2.interchange.int8 import int8_of
from resnet_v2.networks import weights
from resnet_v2.networks.finding import checkpoint_path
from resnet_v2.networks.header import Header
from resnet_v2.networks.resnet import resnet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depth", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=6)
    options = parser.parse_args()
    torch.manual_seed(0)
    network = resnet(options.depth).eval()
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
    engines = {
        (kind.where, precision): kind(model)
        for kind in (OnnxEngine, OpenvinoEngine)
        for precision, model in (("float32", exact), ("int8", rough))
    }
    times: dict[tuple[str, str], list[float]] = {name: [] for name in engines}
    for _ in range(options.rounds):
        for name, engine in engines.items():
            for call in range(13):
                started = time.perf_counter()
                engine.logits(images[:1])
                if call >= 3:
                    times[name].append(1000 * (time.perf_counter() - started))
    for (where, precision), measured in times.items():
        median, least = statistics.median(measured), min(measured)
        faster = statistics.median(times[where, "float32"]) / median
        print(f"{where:20} {precision:8} median {median:7.2f} ms   least {least:7.2f} ms   {faster:.2f} times as fast")


if __name__ == "__main__":
    main()
