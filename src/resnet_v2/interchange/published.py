"""Networks that others have published become checkpoints of ours."""

from pathlib import Path

from resnet_v2.console import say
from resnet_v2.errors import ResnetError
from resnet_v2.interchange import timm
from resnet_v2.networks import weights
from resnet_v2.networks.finding import checkpoint_path
from resnet_v2.networks.header import Header
from resnet_v2.networks.published import NETWORKS, URL, download

RESIZE, CROP = 235, 224  # pixels: 224 / 0.95, and the centre


def fetch(name: str, file: Path | None, out: str, synset: Path | None) -> Path:
    """Write a published network as our checkpoint OUT-0000.safetensors (default: model/NAME) and return its path.

    `file` is a copy that is at hand, so that nothing is downloaded. Raises ResnetError for an unknown name, a
    download that fails, and weights of another network.
    """
    if name not in NETWORKS:
        raise ResnetError(f"There is no published network {name!r}; there are {', '.join(NETWORKS)}.")
    target = checkpoint_path(out or f"model/{name.rpartition('/')[2]}", 0)
    if file is not None:
        return _convert(file, NETWORKS[name], target, synset)
    downloaded = target.with_suffix(".download")
    try:
        say(f"downloading {URL.format(name)}")
        download(URL.format(name), downloaded)
        return _convert(downloaded, NETWORKS[name], target, synset)
    finally:
        downloaded.unlink(missing_ok=True)


def _convert(file: Path, depth: int, target: Path, synset: Path | None) -> Path:
    architecture, tensors = timm.read_timm(file)
    if architecture.depth != depth:
        raise ResnetError(f"{file} holds {architecture.depth} layers, not {depth}; it is another network's file.")
    header = Header(architecture, 0, RESIZE, CROP)
    if synset is not None:
        header = header.named(synset)
    network = weights.build(file, header, tensors)
    weights.save(target, weights.network_tensors(network), header)
    return target
