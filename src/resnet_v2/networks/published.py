"""Where the networks that others have published lie, and how one of their files is fetched."""

import re
from pathlib import Path

from resnet_v2.errors import ResnetError
from resnet_v2.files import download as get
from resnet_v2.files import read_bytes, sha256

# Names and depths. After "ResNet strikes back" (arXiv 2110.00476): 80.4 and 82.0 % top-1 by timm's account.
NETWORKS = {f"timm/resnetv2_{depth}.a1h_in1k": depth for depth in (50, 101)}
URL = "https://huggingface.co/{}/resolve/main/model.safetensors"
INSTEAD = "copy it by other means and give `from`"
POINTER_BYTES = 1 << 12


def download(url: str, path: Path) -> None:
    """Fetch a file from Hugging Face; it gets its name only when it has the SHA-256 that the hub states.

    The hub gives a file at .../resolve/... and what git holds of it, its SHA-256, at .../raw/...
    (https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md). Raises ResnetError when either cannot be fetched, or
    when they do not belong together.
    """
    wanted = _stated_sha256(url.replace("/resolve/", "/raw/"), path.with_name(f"{path.name}.sha256"))

    def check(file: Path) -> None:
        if (found := sha256(file)) != wanted:
            raise ResnetError(f"{url} has the SHA-256 {found}, not {wanted}, which its server states; try again later.")

    get(url, path, INSTEAD, check)


def _stated_sha256(url: str, path: Path) -> str:
    try:
        get(url, path, INSTEAD, most_bytes=POINTER_BYTES)
        stated = re.search(rb"^oid sha256:([0-9a-f]{64})$", read_bytes(path), re.MULTILINE)
    finally:
        path.unlink(missing_ok=True)
    if stated is None:
        raise ResnetError(f"{url} states no SHA-256, so that the file could not be checked; {INSTEAD}.")
    return stated[1].decode()
