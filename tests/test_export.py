"""Exported networks give the logits of the network, and the engines those of PyTorch."""

import importlib.util
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from conftest import Run
from resnet_v2.config.using import EngineName, Precision
from resnet_v2.errors import ResnetError
from resnet_v2.inference import engines
from resnet_v2.inference.predict import Predictor
from resnet_v2.interchange.export import Format, export
from resnet_v2.interchange.folding import folded
from resnet_v2.networks import weights
from resnet_v2.networks.architecture import Architecture
from resnet_v2.networks.finding import SHIPPED, checkpoint_path
from resnet_v2.networks.header import Header
from resnet_v2.networks.resnet import ResNet, initialize

needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxruntime", "openvino")),
    reason="missing onnx, onnxruntime or openvino: pip install -e '.[onnx]'",
)
ARCHITECTURES = [
    Architecture(20, 10, "cifar"),
    Architecture(29, 10, "cifar"),
    Architecture(20, 10, "cifar", "v1"),
    Architecture(17, 10, "dawn"),
    Architecture(18, 1000, "imagenet"),
    Architecture(50, 1000, "imagenet"),
    Architecture(50, 1000, "imagenet", "v1"),
    Architecture(50, 1000, "timm"),
    Architecture(18, 1000, "gluon"),
    Architecture(50, 1000, "gluon", "v1"),
]


MORE = [one for one in ARCHITECTURES if one.depth == 50 and (one.stem, one.version) != ("imagenet", "v2")]
FEW = [one for one in ARCHITECTURES if one not in MORE]


def name_of(architecture: Architecture) -> str:
    return f"{architecture.stem}-{architecture.depth}-{architecture.version}"


def random_network(architecture: Architecture) -> ResNet:
    """A network with drawn weights whose BatchNorms all do something."""
    torch.manual_seed(0)
    network = initialize(ResNet(architecture), 0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.bias, -0.5, 0.5)
            if module.weight is not None:
                nn.init.uniform_(module.weight, 0.5, 1.0)
    with torch.no_grad():
        network(torch.rand(4, 3, 64, 64) * 255)
    return network.eval()


def saved(network: ResNet, prefix: Path) -> str:
    header = Header.of_epoch(network.architecture, 1)
    weights.save(checkpoint_path(str(prefix), 1), weights.network_tensors(network), header)
    return str(prefix)


def images_of(architecture: Architecture, count: int = 2) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    side = min(architecture.image_size, 64)
    shape = (count, side, side, 3)
    return np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)


def difference(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=name_of)
def test_folding_keeps_the_logits(architecture: Architecture) -> None:
    network = random_network(architecture)
    x = torch.from_numpy(images_of(architecture)).permute(0, 3, 1, 2).float()
    before = sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    with torch.inference_mode():
        wanted, found = network(x).numpy(), folded(network)(x).numpy()
    assert difference(found, wanted) < 1e-5
    left = sum(isinstance(module, nn.BatchNorm2d) for module in folded(network).modules())
    units = sum(architecture.units)
    # v2 keeps bn_data, bn1, the first of every unit and those behind a pool, v1 at most bn_data; the network keeps all.
    pools = 3 * architecture.stages_pool
    assert left == (units + 2 + pools if architecture.version == "v2" else architecture.norm_of_images)
    assert before == sum(isinstance(module, nn.BatchNorm2d) for module in network.modules()) > left


@needs_onnx
@pytest.mark.parametrize(
    "architecture", [*FEW, *(pytest.param(one, marks=pytest.mark.slow) for one in MORE)], ids=name_of
)
def test_engines_agree(architecture: Architecture, tmp_path: Path) -> None:
    network = random_network(architecture)
    prefix = saved(network, tmp_path / "net")
    predictors = [Predictor.open(prefix, 1, engine=name) for name in ("torch", "onnx", "openvino")]
    for count in (1, 3):
        images = images_of(architecture, count)
        with torch.inference_mode():
            wanted = network(torch.from_numpy(images).permute(0, 3, 1, 2).float()).numpy()
        for predictor in predictors:
            assert difference(predictor.engine.logits(images), wanted) < 1e-4, predictor.engine.where


@needs_onnx
def test_exported_onnx_is_what_the_engines_take(trained: str, digits: Path, tmp_path: Path, run: Run) -> None:
    status, out, _ = run("export", "--prefix", trained, "--epoch", 4, "--to", "onnx")
    path = Path(f"{trained}-0004.onnx")
    assert status == 0
    assert out.startswith(f"{path} (logits within ")
    image = digits / "examples" / "7.png"
    code = f"""import sys
from resnet_v2.cli import main
status = main(["predict", "--img", {str(image)!r}, "--prefix", {trained!r}, "--epoch", "4", "--engine", "onnx"])
assert "torch" not in sys.modules, "PyTorch was imported"
sys.exit(status)"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == run("predict", "--img", image, "--prefix", trained, "--epoch", 4)[1]
    # Another checkpoint's export is not taken for it, however new.
    assert run("export", "--prefix", trained, "--epoch", 1, "--to", "onnx", "--out", tmp_path / "other")[0] == 0
    shutil.copy(tmp_path / "other-0001.onnx", path)
    assert run("predict", "--img", image, "--prefix", trained, "--epoch", 4, "--engine", "onnx")[1] == done.stdout
    path.unlink()
    # The best one's is found under the name that it is given.
    assert run("export", "--prefix", f"{trained}-best", "--to", "onnx")[1].startswith(f"{trained}-best.onnx")
    code = code.replace('"--epoch", "4"', '"--epoch", "best"')
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
    # Also under that of earlier versions.
    Path(f"{trained}-best.onnx").rename(f"{trained}-best-0000.onnx")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
    Path(f"{trained}-best-0000.onnx").unlink()


@needs_onnx
def test_onnx_files_say_what_they_are(tmp_path: Path) -> None:
    import onnxruntime

    network = random_network(Architecture(20, 10, "cifar"))
    export(saved(network, tmp_path / "net"), 1, "onnx", str(tmp_path / "out"))
    session = onnxruntime.InferenceSession(tmp_path / "out-0001.onnx", providers=["CPUExecutionProvider"])
    text = session.get_modelmeta().custom_metadata_map["resnet_v2"]
    assert Header.from_json(text, tmp_path).architecture == network.architecture
    assert session.get_inputs()[0].shape == ["N", 3, "H", "W"]
    larger = session.run(None, {"images": np.zeros((2, 3, 40, 48), np.float32)})[0]
    assert larger.shape == (2, 10)


@needs_onnx
def test_a_network_too_large_for_onnx_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prefix = saved(random_network(Architecture(20, 10, "cifar")), tmp_path / "net")
    monkeypatch.setattr("resnet_v2.interchange.export.LARGEST_ONNX_BYTES", 1 << 20)
    with pytest.raises(ResnetError, match="bytes of weights; an ONNX file holds no more"):
        export(prefix, 1, "onnx", str(tmp_path / "out"))
    assert not list(tmp_path.glob("out*"))


def test_exported_programs(tmp_path: Path) -> None:
    network = random_network(Architecture(20, 10, "cifar"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        export(saved(network, tmp_path / "net"), 1, "torch")
    program = torch.export.load(tmp_path / "net-0001.pt2").module()
    x = torch.rand(5, 3, 32, 32) * 255
    with torch.inference_mode():
        assert difference(program(x).numpy(), network(x).numpy()) < 1e-4


def test_an_export_that_would_differ_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = random_network(Architecture(20, 10, "cifar"))
    prefix = saved(network, tmp_path / "net")
    nn.init.zeros_(network.fc1.bias)
    network.fc1.bias.data += 1
    monkeypatch.setattr("resnet_v2.interchange.export.folded", lambda _: network)
    with pytest.raises(ResnetError, match="is not written: its logits differ"):
        export(prefix, 1, "torch")
    assert not (tmp_path / "net-0001.pt2").exists()


def test_a_checkpoint_is_not_overwritten_by_its_own_export(tmp_path: Path) -> None:
    prefix = saved(random_network(Architecture(20, 10, "cifar")), tmp_path / "net")
    with pytest.raises(ResnetError, match="is the checkpoint itself"):
        export(prefix, 1, "safetensors")
    told = export(prefix, 1, "mxnet", str(tmp_path / "mx"))
    assert told == f"{tmp_path}/mx-0001.params and {tmp_path}/mx-symbol.json"
    written = {path: path.read_bytes() for path in tmp_path.glob("mx*")}
    assert len(written) == 2
    with pytest.raises(ResnetError, match="is the checkpoint itself"):
        export(str(tmp_path / "mx"), 1, "mxnet")
    assert all(path.read_bytes() == data for path, data in written.items())


def test_a_network_that_ships_is_exported_into_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(SHIPPED.iterdir())
    monkeypatch.chdir(tmp_path)
    formats: tuple[Format, ...] = ("mxnet", "safetensors", "onnx")
    for to in formats:
        export("", None, to)
    (name,) = (path.stem for path in before if path.suffix == ".safetensors")
    wanted = {f"{name}-0000.params", f"{name}-symbol.json", f"{name}-0000.safetensors", f"{name}.onnx"}
    assert {path.name for path in tmp_path.iterdir()} == wanted
    assert sorted(SHIPPED.iterdir()) == before


def test_a_folder_is_no_start_of_a_name(tmp_path: Path) -> None:
    prefix = saved(random_network(Architecture(20, 10, "cifar")), tmp_path / "net")
    (tmp_path / "d").mkdir()
    for out in (f"{tmp_path}/d/", "/", "."):
        with pytest.raises(ResnetError, match="is a folder; give the start of a name"):
            export(prefix, 1, "safetensors", out)
    assert not list((tmp_path / "d").iterdir())


@needs_onnx
@pytest.mark.parametrize("engine", ["onnx", "openvino"])
def test_openmps_threads_may_be_none_or_of_several_levels(
    engine: EngineName, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = random_network(Architecture(20, 10, "cifar"))
    prefix, images = saved(network, tmp_path / "net"), images_of(network.architecture)
    for value in ("", "2,1", "many"):
        monkeypatch.setenv("OMP_NUM_THREADS", value)
        assert Predictor.open(prefix, 1, engine=engine).engine.logits(images).shape == (len(images), 10)


@needs_onnx
def test_precisions(tmp_path: Path) -> None:
    network = random_network(Architecture(20, 10, "cifar"))
    prefix, images = saved(network, tmp_path / "net"), images_of(network.architecture)
    exact = Predictor.open(prefix, 1).engine.logits(images)
    for name in ("torch", "openvino"):
        rough = Predictor.open(prefix, 1, engine=name, precision="bfloat16").engine.logits(images)
        assert difference(rough, exact) < 0.1
    with pytest.raises(ResnetError, match="does not compute in bfloat16"):
        Predictor.open(prefix, 1, engine="onnx", precision="bfloat16")


@needs_onnx
@pytest.mark.parametrize("native", [True, False])
def test_precision_auto_is_what_the_processor_computes_in_and_says_so(
    native: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA")
    network = random_network(Architecture(20, 10, "cifar"))
    prefix, images = saved(network, tmp_path / "net"), images_of(network.architecture)

    def logits(engine: EngineName, precision: Precision) -> Any:
        return Predictor.open(prefix, 1, engine=engine, device="cpu", precision=precision).engine.logits(images)

    engines._say_once.cache_clear()
    meant: Precision = "bfloat16" if native else "float32"
    assert np.array_equal(logits("torch", "auto"), logits("torch", meant))
    assert capsys.readouterr().err.count(f"`precision` auto is {meant}") == 1
    engines._say_once.cache_clear()
    assert np.array_equal(logits("onnx", "auto"), logits("onnx", "float32"))
    assert "`precision` auto is float32" in capsys.readouterr().err


@needs_onnx
def test_a_signal_after_two_networks_of_openvino_does_no_harm() -> None:
    code = """
import gc, signal
import numpy as np
from resnet_v2.inference.predict import Predictor
images = np.zeros((1, 32, 32, 3), np.uint8)
networks = [Predictor.open("", engine="openvino") for _ in range(2)]
assert all(network.engine.logits(images).any() for network in networks)
while networks:
    networks.pop(0)
    gc.collect()
received = []
signal.signal(signal.SIGTERM, lambda *_: received.append(True))
signal.raise_signal(signal.SIGTERM)
assert received
"""
    subprocess.run([sys.executable, "-X", "faulthandler", "-c", code], check=True, timeout=100)


def test_a_missing_engine_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prefix = saved(random_network(Architecture(20, 10, "cifar")), tmp_path / "net")
    for module in ("onnx", "onnxruntime", "openvino", "resnet_v2.interchange.onnx_graph"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ResnetError, match=r"pip install -e '\.\[onnx\]'"):
        Predictor.open(prefix, 1, engine="onnx")
