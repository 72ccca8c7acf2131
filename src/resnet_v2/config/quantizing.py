"""Settings of the command that makes a network of whole numbers."""

from typing import Annotated, Literal

from resnet_v2.config.fields import Place, Range, settings
from resnet_v2.config.using import BatchSize, Epoch, Prefix


@settings
class QuantizeConfig:
    """Make the int8 form of a network for the engines onnx and openvino, and keep it if its errors are few enough."""

    calibrate: Place
    """the .rec whose images show how large values become; 512 of its training images are enough"""
    rec: Place
    """the .rec to measure errors on"""
    prefix: Prefix = ""
    epoch: Epoch = None
    engine: Literal["both", "onnx", "openvino"] = "both"
    """what runs the network while errors are measured; the file is one, which both read"""
    max_loss: Annotated[float, Range(0, 100)] = 0.3
    """most points of top-1 error that int8 may lose against float32, of labels multi of mean average precision"""
    batch_size: BatchSize = 128
