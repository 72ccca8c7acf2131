"""Checkpoint files both ways: what MXNet 1.9.1 writes we read to the bit, and it loads what we write."""

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from parity import Arrays, MXNet, difference, random_images, random_network, settings_of, weights_of

from resnet_v2.errors import ResnetError
from resnet_v2.interchange.export import export
from resnet_v2.interchange.mxnet import load_checkpoint, save_checkpoint
from resnet_v2.interchange.params import read_params, write_params
from resnet_v2.networks import weights
from resnet_v2.networks.architecture import Architecture
from resnet_v2.networks.header import Header
from resnet_v2.networks.resnet import ResNet

pytest_plugins = ["mxnet_process"]

NETWORKS = [
    Architecture(18, 1000, "imagenet"),
    Architecture(50, 11_221, "imagenet"),
    Architecture(20, 10, "cifar"),
    Architecture(164, 10, "cifar"),
    Architecture(50, 1000, "imagenet", "v1"),
    Architecture(14, 10, "pooled", width=3),
    Architecture(17, 10, "dawn", width=2),
    Architecture(18, 1000, "gluon"),
    Architecture(50, 1000, "gluon", "v1"),
]
DTYPES = ["float32", "float64", "float16", "uint8", "int8", "int32", "int64", "bool"]


def name_of(architecture: Architecture) -> str:
    return f"{architecture.stem}-{architecture.depth}-{architecture.version}"


def bits(arrays: Arrays) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    return {name: (array.dtype.str, array.shape, array.tobytes()) for name, array in arrays.items()}


def values_of(dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    drawn = np.random.default_rng(0).normal(0, 50, shape)
    return np.abs(drawn).astype(dtype) if dtype == "uint8" else drawn.astype(dtype)


@pytest.mark.parametrize("architecture", NETWORKS, ids=name_of)
def test_module_loads_our_checkpoint(architecture: Architecture, mxnet: MXNet, tmp_path: Path) -> None:
    images = random_images(2, architecture.image_size, seed=1)
    network = random_network(architecture, images, seed=2)
    prefix = str(tmp_path / "ours")
    save_checkpoint(prefix, 7, network)
    answer, theirs = mxnet.ask("module_probabilities", {"data": images}, prefix=prefix, epoch=7)
    with torch.inference_mode():
        ours = network(torch.from_numpy(images)).softmax(1).numpy()
    assert difference(ours, theirs["probabilities"]) < 1e-4
    features = {
        "relu1_output",
        "pool1_output",
        "flatten0_output",
        "fc1_output",
        "softmax_output",
        "stage3_unit2_conv1_output",
    }
    assert features - set(answer["outputs"]) == (set() if architecture.version == "v2" else {"relu1_output"})


def test_module_gives_the_probabilities_of_a_calibrated_network(mxnet: MXNet, tmp_path: Path) -> None:
    architecture = Architecture(20, 10, "cifar")
    images = random_images(2, architecture.image_size, seed=1)
    network = random_network(architecture, images, seed=2).eval()
    header = Header(architecture, epoch=7, resize=32, crop=32, temperature=2.5)
    weights.save(tmp_path / "ours-0007.safetensors", weights.network_tensors(network), header)
    export(str(tmp_path / "ours"), 7, "mxnet", str(tmp_path / "theirs"))
    _, theirs = mxnet.ask("module_probabilities", {"data": images}, prefix=str(tmp_path / "theirs"), epoch=7)
    with torch.inference_mode():
        logits = network(torch.from_numpy(images))
    assert difference((logits / 2.5).softmax(1).numpy(), theirs["probabilities"]) < 1e-4
    assert difference(logits.softmax(1).numpy(), theirs["probabilities"]) > 1e-2


@pytest.mark.parametrize("with_symbol", [True, False], ids=["symbol", "shapes alone"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
@pytest.mark.parametrize("architecture", NETWORKS, ids=name_of)
def test_we_load_their_checkpoint(
    architecture: Architecture, dtype: str, with_symbol: bool, mxnet: MXNet, tmp_path: Path
) -> None:
    images = random_images(2, architecture.image_size, seed=1)
    network = random_network(architecture, images, seed=2).to(getattr(torch, dtype)).float()
    arrays = {name: array.astype(dtype) for name, array in weights_of(network).items()}
    prefix = str(tmp_path / "theirs")
    mxnet.ask("save_checkpoint", arrays, **settings_of(architecture), prefix=prefix, epoch=3)
    assert bits(read_params(Path(f"{prefix}-0003.params"))) == bits(arrays)
    if not with_symbol:
        Path(f"{prefix}-symbol.json").unlink()
    found, state = load_checkpoint(prefix, 3)
    assert found == architecture
    loaded = ResNet(found).eval()
    loaded.load_state_dict(state, strict=False)
    with torch.inference_mode():
        images_in = torch.from_numpy(images)
        assert torch.equal(loaded(images_in), network.eval()(images_in))


@pytest.mark.parametrize("numpy_shapes", [False, True], ids=["V2", "V3"])
def test_every_type_and_shape_that_they_save(numpy_shapes: bool, mxnet: MXNet, tmp_path: Path) -> None:
    path = tmp_path / "saved.params"
    arrays = {f"arg:{dtype}": values_of(dtype, (3, 2, 5)) for dtype in DTYPES}
    arrays["aux:näme"] = values_of("float32", (7,))
    if numpy_shapes:
        arrays["arg:scalar"] = np.array(2.5, np.float32)
        arrays["arg:none"] = np.zeros((3, 0, 2), np.float32)
    mxnet.ask("save", arrays, path=str(path), numpy_shapes=numpy_shapes)
    assert path.read_bytes()[24:28] == bytes.fromhex("cafa93f9" if numpy_shapes else "c9fa93f9")
    assert bits(read_params(path)) == bits(arrays)


def test_bfloat16_that_they_save(mxnet: MXNet, tmp_path: Path) -> None:
    path = tmp_path / "saved.params"
    _, expected = mxnet.ask("save_bfloat16", {"arg:x": values_of("float32", (50, 3))}, path=str(path))
    assert bits(read_params(path)) == bits(expected)


def test_they_read_every_type_that_we_write(mxnet: MXNet, tmp_path: Path) -> None:
    path = tmp_path / "written.params"
    arrays = {f"arg:{dtype}": values_of(dtype, (3, 2, 5)) for dtype in DTYPES}
    write_params(path, arrays)
    _, theirs = mxnet.ask("load", path=str(path))
    assert bits(theirs) == bits(arrays)


@pytest.mark.parametrize("version", ["legacy", "V1"])
def test_files_of_2016_mean_the_same_to_both(version: str, mxnet: MXNet, tmp_path: Path) -> None:
    """MXNet 1.9.1 cannot write these versions any more, but it reads them: hand-made bytes, read by both."""
    path = tmp_path / "old.params"
    arrays = {
        "arg:a": values_of("float32", (2, 3)),
        "aux:b": values_of("float16", (4,)),
        "arg:c": values_of("float64", (1, 1, 2)),
    }
    body = b""
    for dtype, array in zip((0, 2, 1), arrays.values(), strict=True):
        layout = f"<I{array.ndim}I" if version == "legacy" else f"<Ii{array.ndim}q"
        start = (array.ndim,) if version == "legacy" else (0xF993FAC8, array.ndim)
        # Saved on the third GPU.
        body += struct.pack(layout, *start, *array.shape) + struct.pack("<iii", 2, 3, dtype) + array.tobytes()
    names = b"".join(struct.pack("<Q", len(name)) + name.encode() for name in arrays)
    path.write_bytes(struct.pack("<QQQ", 0x112, 0, 3) + body + struct.pack("<Q", 3) + names)
    _, theirs = mxnet.ask("load", path=str(path))
    assert bits(theirs) == bits(arrays)
    assert bits(read_params(path)) == bits(arrays)


@pytest.mark.parametrize("storage", ["row_sparse", "csr"])
def test_sparse_arrays_are_refused(storage: str, mxnet: MXNet, tmp_path: Path) -> None:
    path = tmp_path / "sparse.params"
    mxnet.ask("save_sparse", {"dense": np.eye(3, dtype=np.float32)}, path=str(path), storage=storage)
    with pytest.raises(ResnetError, match="sparse"):
        read_params(path)
