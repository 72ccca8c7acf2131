"""Settings of the commands that listen: `resnet-v2 serve` and `resnet-v2 demo`."""

from typing import Annotated

from tyro.conf import arg

from resnet_v2.config.fields import OnGpus, Range, settings
from resnet_v2.config.using import Device, EngineName, Epoch, OneGpu, Precision, Prefix, Synset

# What both have, each with its help.
Host = Annotated[str, arg(help="address to listen on; 0.0.0.0 answers everybody who can reach this machine")]
Port = Annotated[int, Range(1, 65535), arg(help="port to listen on")]
UploadMb = Annotated[int, Range(1, 1024), arg(help="largest request that is taken, in MB")]
Seconds = Annotated[int, Range(1, 3600), arg(help="longest time of an upload, and of the wait for an answer")]
Queue = Annotated[int, Range(1, 10**4), arg(help="pictures that may wait at a time; more are turned away")]


@settings
class ServeConfig(OnGpus):
    """Answer pictures that come over HTTP: POST /predict, and the answer is the JSON of `predict --json`."""

    prefix: Prefix = ""
    epoch: Epoch = None
    gpus: OneGpu = "0"
    device: Device = ""
    engine: EngineName = "torch"
    precision: Precision = "float32"
    synset: Synset = None
    host: Host = "127.0.0.1"
    port: Port = 8000
    batch_size: Annotated[int, Range(1, 1024)] = 32
    """pictures that the network is given at once, at most"""
    wait_ms: Annotated[int, Range(0, 1000)] = 2
    """milliseconds that a picture waits for others to come"""
    queue: Queue = 256
    upload_mb: UploadMb = 20
    seconds: Seconds = 60


@settings
class DemoConfig:
    """Show a page in the browser: drop a picture, see its classes and where the network saw them."""

    prefix: Prefix = ""
    epoch: Epoch = None
    device: str = ""
    """torch device (default: the CPU)"""
    host: Host = "127.0.0.1"
    port: Port = 7860
    upload_mb: UploadMb = 20
    requests_per_minute: Annotated[int, Range(1, 10**6)] = 3000
    """uploads and questions of one address; each picture takes two"""
    seconds: Seconds = 60
    queue: Queue = 200
