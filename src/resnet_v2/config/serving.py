"""Settings of `resnet-v2 serve`."""

from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from resnet_v2.config.fields import OnGpus, Range, Usual, settings
from resnet_v2.config.using import Device, EngineName, Epoch, Gpu, Precision, Prefix


@settings
class ServeConfig(OnGpus):
    """Answer pictures that come over HTTP: POST /predict, and the answer is the JSON of `predict --json`."""

    prefix: Prefix = ""
    epoch: Epoch = None
    gpus: Annotated[Gpu, arg(aliases=["--gpu"])] = "0"
    device: Device = ""
    engine: EngineName = "torch"
    precision: Precision = "float32"
    synset: Annotated[Path | None, Usual("the names saved in the checkpoint")] = None
    """file with one class name per line"""
    host: str = "127.0.0.1"
    """address to listen on; 0.0.0.0 answers everybody who can reach this machine"""
    port: Annotated[int, Range(1, 65535)] = 8000
    """port to listen on"""
    batch_size: Annotated[int, Range(1, 1024)] = 32
    """pictures that the network is given at once, at most"""
    wait_ms: Annotated[int, Range(0, 1000)] = 2
    """milliseconds that a picture waits for others to come"""
    queue: Annotated[int, Range(1, 10**4)] = 256
    """pictures that may wait at a time; who comes then is told to come again (status 503)"""
    upload_mb: Annotated[int, Range(1, 1024)] = 20
    """largest request that is taken, in MB"""
    seconds: Annotated[int, Range(1, 3600)] = 60
    """longest time of an upload, and of the wait for an answer"""
