"""Run by MXNet's Python from step.py: training steps of Module; reads how many, prints their seconds."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import mxnet as mx

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "mxnet"))
import symbols


def main() -> None:
    stem = sys.argv[1]
    depth, classes, batch_size = map(int, sys.argv[2:5])
    size = 224 if stem == "imagenet" else 32
    shape = (batch_size, 3, size, size)
    module: Any = mx.mod.Module(symbols.resnet(stem, depth, classes, "v2"), context=mx.cpu())
    module.bind([("data", shape)], [("softmax_label", (batch_size,))])
    module.init_params(mx.init.Xavier(rnd_type="gaussian", factor_type="in", magnitude=2))
    module.init_optimizer(
        kvstore=None, optimizer="nag", optimizer_params={"learning_rate": 0.01, "momentum": 0.9, "wd": 0.0001}
    )
    generator = np.random.default_rng(0)
    images = mx.nd.array(generator.integers(0, 256, shape).astype(np.float32))
    batch = mx.io.DataBatch([images], [mx.nd.array(generator.integers(0, classes, batch_size))])
    for line in sys.stdin:
        started = time.perf_counter()
        for _ in range(int(line)):
            module.forward_backward(batch)
            module.update()
            mx.nd.waitall()
        print(json.dumps({"seconds": time.perf_counter() - started, "waited": 0.0}), flush=True)


if __name__ == "__main__":
    main()
