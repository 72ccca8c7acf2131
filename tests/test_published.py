"""Published networks: timm's names become ours, and what is wrong with a file or a download is said.

The logits are compared with timm's own in tests/timm.
"""

import contextlib
import http.server
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from conftest import Run
from resnet_v2.errors import ResnetError
from resnet_v2.files import sha256
from resnet_v2.interchange import mxnet, published
from resnet_v2.interchange.timm import our_name, read_timm
from resnet_v2.networks import weights
from resnet_v2.networks.architecture import EPSILON, Architecture
from resnet_v2.networks.resnet import ResNet, initialize

NAME = "timm/resnetv2_50.a1h_in1k"


def timm_name(name: str) -> str:
    """The inverse of `our_name`, written for the test."""
    unit = re.fullmatch(r"stage(\d)\.unit(\d+)\.(bn(\d)|sc|conv\d)\.(.+)", name)
    if unit:
        layer = "downsample.conv" if unit[3] == "sc" else f"norm{unit[4]}" if unit[4] else unit[3]
        return f"stages.{int(unit[1]) - 1}.blocks.{int(unit[2]) - 1}.{layer}.{unit[5]}"
    return name.replace("conv0.", "stem.conv.").replace("bn1.", "norm.").replace("fc1.", "head.fc.")


def save_timm(path: Path, classes: int) -> None:
    """Write a file in timm's form: random weights of a ResNet-50."""
    torch.manual_seed(0)
    network = initialize(ResNet(Architecture(50, classes, "timm")), 0)
    tensors = {
        timm_name(name): tensor
        for name, tensor in weights.network_tensors(network).items()
        if not name.startswith("bn_data")
    }
    tensors["head.fc.weight"] = tensors["head.fc.weight"][:, :, None, None]
    tensors["norm.num_batches_tracked"] = torch.tensor(3)
    safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)


@pytest.fixture
def timm_file(tmp_path: Path) -> Path:
    """A file in timm's form with 7 classes."""
    save_timm(tmp_path / "timm.st", 7)
    return tmp_path / "timm.st"


def test_names() -> None:
    network = ResNet(Architecture(50, 7, "timm"))
    for name in weights.network_tensors(network):
        if not name.startswith("bn_data"):
            assert our_name(timm_name(name)) == name
    assert our_name("stages.3.blocks.0.downsample.conv.weight") == "stage4.unit1.sc.weight"


def test_a_file_at_hand(timm_file: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "synset.txt").write_text("\n".join("abcdefg"))
    out = tmp_path / "ours"
    status, printed, _ = run("fetch", NAME, "--from", timm_file, "--out", out, "--synset", tmp_path / "synset.txt")
    assert (status, printed) == (0, f"{out}-0000.safetensors\n")
    network, header = weights.load(str(out))
    assert header.architecture == Architecture(50, 7, "timm")
    assert (header.resize, header.crop, header.class_names) == (235, 224, tuple("abcdefg"))
    # The images' scale is in the first BatchNorm: 0 to 255 becomes -1 to 1.
    x = torch.tensor([0.0, 127.5, 255.0])[:, None, None, None].expand(3, 3, 2, 2)
    with torch.inference_mode():
        assert network.bn_data(x)[:, 0, 0, 0].tolist() == pytest.approx([-1, 0, 1], abs=1e-6)
        variance = network.get_buffer("bn1.running_var") + EPSILON
        assert torch.allclose(variance, torch.full_like(variance, 1 + 1e-5))


def test_the_stem_goes_to_mxnet_and_back(timm_file: Path, tmp_path: Path) -> None:
    architecture, tensors = read_timm(timm_file)
    network = ResNet(architecture)
    weights.fill(timm_file, network, tensors)
    mxnet.save_checkpoint(str(tmp_path / "mx"), 0, network)
    again, state = mxnet.load_checkpoint(str(tmp_path / "mx"), 0)
    assert again == architecture
    assert all(torch.equal(state[name], tensors[name]) for name in state)


def test_files_of_other_networks(timm_file: Path, tmp_path: Path) -> None:
    tensors = safetensors.torch.load_file(timm_file)
    for change, words in (
        ({"stem.conv1.weight": torch.zeros(3)}, "which a plain resnetv2 does not have"),
        ({"stages.0.blocks.3.conv1.weight": torch.zeros(3)}, "none of timm's resnetv2"),
        ({"head.fc.weight": torch.zeros(7, 3, 1, 1)}, "does not fit"),
        ({"head.fc.weight": torch.zeros(7)}, "none of timm's resnetv2"),
        ({"head.fc.weight": torch.zeros(())}, "none of timm's resnetv2"),
        ({"more": torch.zeros(3, dtype=torch.bool)}, "numbers of the type BOOL"),
        ({"more": torch.zeros(3).to(torch.float8_e4m3fn)}, "numbers of the type F8_E4M3"),
    ):
        safetensors.torch.save_file(tensors | change, tmp_path / "other.st")
        with pytest.raises(ResnetError, match=words):
            published.fetch(NAME, tmp_path / "other.st", str(tmp_path / "o"), None)
    with pytest.raises(ResnetError, match="holds 50 layers, not 101"):
        published.fetch("timm/resnetv2_101.a1h_in1k", timm_file, str(tmp_path / "o"), None)
    ours = published.fetch(NAME, timm_file, str(tmp_path / "ours"), None)
    with pytest.raises(ResnetError, match="is a checkpoint of resnet-v2, and not timm's"):
        published.fetch(NAME, ours, str(tmp_path / "o"), None)
    (tmp_path / "text.st").write_text("no weights")
    for path, words in ((tmp_path / "text.st", "damaged or no safetensors"), (tmp_path / "none.st", "is missing")):
        with pytest.raises(ResnetError, match=words):
            published.fetch(NAME, path, str(tmp_path / "o"), None)
    with pytest.raises(ResnetError, match="no published network"):
        published.fetch("timm/vit", None, "", None)
    assert not list(tmp_path.glob("o-*"))


@pytest.fixture
def server(timm_file: Path) -> Iterator[str]:
    """An address that serves `timm_file` under resolve/ and what git holds of it under raw/, right or with a fault."""
    data = timm_file.read_bytes()
    other = bytes([*data[:-1], data[-1] ^ 1])
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256(timm_file)}\nsize {len(data)}\n".encode()
    served = {
        "/right/resolve/": data,
        "/right/raw/": pointer,
        "/half/resolve/": data[: len(data) // 2],
        "/half/raw/": pointer,
        "/other/resolve/": other,
        "/other/raw/": pointer,
        "/unstated/resolve/": data,
        "/unstated/raw/": data[:1000],
        "/unbounded/resolve/": data,
        "/unbounded/raw/": data,
    }

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = served.get(self.path)
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Length", str(len(data) if self.path == "/half/resolve/" else len(body or b"")))
            self.end_headers()
            with contextlib.suppress(OSError):  # who asks may have heard enough
                self.wfile.write(body or b"")

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()


def test_downloads(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def at(url: str) -> None:
        monkeypatch.setattr(published, "URL", url)

    at(f"{server}/right/resolve/")
    path = published.fetch(NAME, None, str(tmp_path / "ours"), None)
    assert np.isfinite(weights.load(str(path))[0].fc1.weight.detach().numpy()).all()
    for url, words in (
        (f"{server}/half/resolve/", "ended after|cannot be downloaded"),
        (f"{server}/other/resolve/", "has the SHA-256 .*, not .*, which its server states"),
        (f"{server}/unstated/resolve/", "states no SHA-256"),
        (f"{server}/unbounded/resolve/", "larger than 4096 bytes"),
        (f"{server}/none/resolve/", "cannot be downloaded .*`from`"),
        ("http://127.0.0.1:1/x", "cannot be downloaded"),
    ):
        at(url)
        with pytest.raises(ResnetError, match=words):
            published.fetch(NAME, None, str(tmp_path / "broken"), None)
    assert not list(tmp_path.glob("*broken*"))
