"""A network of whole numbers: ONNX Runtime's own quantisation of our ONNX model, which OpenVINO reads as well."""

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_v2.errors import ResnetError
from resnet_v2.files import sha256
from resnet_v2.interchange.export import refuse_too_large
from resnet_v2.interchange.folding import folded, norms_as_convolutions, with_temperature
from resnet_v2.interchange.optional import package
from resnet_v2.interchange.seal import INT8, sealed
from resnet_v2.networks.header import METADATA_KEY, Header
from resnet_v2.networks.resnet import ResNet

Planes = NDArray[np.float32]
# What is computed in whole numbers. The head is not: its logits would have 256 values.
OPERATIONS = ["Conv", "Add", "Relu", "MaxPool"]


def int8_of(network: ResNet, header: Header, path: Path, batches: Iterable[Planes]) -> bytes:
    """The network of a checkpoint as an ONNX model in int8, with what `batches` (n x 3 x H x W) show of its values.

    Weights have a scale for each channel, activations one for each value: the mean, over the batches, of the smallest
    and the largest number. Weights have 7 bits, since processors without VNNI add up products of 8 in 16 bits, and
    would be wrong in silence; so the file is the same on every machine. A ResnetError says so when a package is
    missing or the network cannot be quantised.
    """
    refuse_too_large(network, path)
    quantization = package("onnxruntime.quantization", "onnx")
    import onnx

    from resnet_v2.interchange.onnx_graph import IMAGES, onnx_model

    network, header = with_temperature(network, header)
    ready = norms_as_convolutions(folded(network))
    with tempfile.TemporaryDirectory() as folder, _quiet():
        before, after = Path(folder, "float32.onnx"), Path(folder, "int8.onnx")
        before.write_bytes(onnx_model(ready, header))
        try:
            quantization.quantize_static(
                before,
                after,
                _Reader({IMAGES: batch} for batch in batches),
                op_types_to_quantize=OPERATIONS,
                per_channel=True,
                reduce_range=True,
                # OpenVINO fuses activations of these alone; those of QInt8 are several times slower there.
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                extra_options={"CalibMovingAverage": True},
            )
        except (ValueError, TypeError, RuntimeError, AssertionError) as error:
            raise ResnetError(f"{path} cannot be quantised: {error}; its weights may be damaged.") from None
        model = onnx.load(after)
    onnx.helper.set_model_props(model, {METADATA_KEY: header.to_json(), "checkpoint": INT8 + sha256(path)})
    return sealed(bytes(model.SerializeToString()))


class _Reader:
    """Batches as ONNX Runtime asks for them."""

    def __init__(self, batches: Iterator[dict[str, Planes]]) -> None:
        self._batches = batches

    def get_next(self) -> dict[str, Any] | None:
        return next(self._batches, None)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without ONNX Runtime's advice to prepare the model, which does nothing for ours.

    NumPy is quiet too: of values that are no numbers it would speak before ONNX Runtime refuses them.
    """
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore", category=RuntimeWarning):
            yield
    finally:
        logging.disable(before)
