"""Networks that others have published, and what they need to know besides their weights."""

import http.client
import sys
import urllib.request
from pathlib import Path

from tqdm import tqdm

from resnet_v2.errors import ResnetError
from resnet_v2.files import replacing
from resnet_v2.interchange import timm
from resnet_v2.networks import weights
from resnet_v2.networks.finding import checkpoint_path
from resnet_v2.networks.header import Header

CHUNK_BYTES = 1 << 20
# More than any of these networks; a longer answer is none of them.
MOST_BYTES = 1 << 30


# Names and depths. After "ResNet strikes back" (arXiv 2110.00476): 80.4 and 82.0 % top-1 by timm's account.
NETWORKS = {f"timm/resnetv2_{depth}.a1h_in1k": depth for depth in (50, 101)}
URL = "https://huggingface.co/{}/resolve/main/model.safetensors"
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


def download(url: str, path: Path) -> None:
    """Fetch a file, with progress; it appears only when it is whole. A ResnetError says what went wrong."""
    print(f"downloading {url}", file=sys.stderr)
    try:
        with urllib.request.urlopen(url, timeout=60) as answer, replacing(path) as temporary:
            length = int(answer.headers.get("Content-Length") or 0)
            bar = tqdm(total=length or None, unit="B", unit_scale=True, leave=False, disable=None)
            with temporary.open("wb") as file, bar as progress:
                while chunk := answer.read(CHUNK_BYTES):
                    file.write(chunk)
                    progress.update(len(chunk))
                    if file.tell() > MOST_BYTES:
                        raise ResnetError(f"{url} is larger than any network of ours; it is not downloaded.")
                if length and file.tell() != length:
                    raise ResnetError(f"{url} ended after {file.tell()} of {length} bytes; try again.")
    except (OSError, http.client.HTTPException) as error:
        raise ResnetError(
            f"{url} cannot be downloaded ({getattr(error, 'reason', error)}); copy it by other means and give `from`."
        ) from None
