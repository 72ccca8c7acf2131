"""The int8 form of a network: what it loses is measured, and it is used for its own checkpoint alone."""

import functools
import importlib.util
import logging
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from conftest import Run, picture
from resnet_v2.data.jpeg import encode
from resnet_v2.data.labels import Labels
from resnet_v2.data.records import IRHeader, RecordReader, pack, writing
from resnet_v2.errors import ResnetError
from resnet_v2.inference import quantize as quantizing
from resnet_v2.inference.engines import OnnxEngine, OpenvinoEngine, planes_of
from resnet_v2.interchange import export as exporting
from resnet_v2.interchange.export import onnx_of
from resnet_v2.interchange.folding import folded, norms_as_convolutions
from resnet_v2.interchange.int8 import int8_of
from resnet_v2.networks import weights
from resnet_v2.networks.architecture import Architecture
from resnet_v2.networks.finding import SHIPPED, checkpoint_path, exported_path, find_exported, find_int8, int8_path
from resnet_v2.networks.header import Header
from resnet_v2.packing.photos import read_upright
from test_export import difference, images_of, random_network, saved

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxruntime", "openvino")),
    reason="missing onnx, onnxruntime or openvino: pip install -e '.[onnx]'",
)


@pytest.fixture
def own(trained: str, tmp_path: Path) -> Path:
    """The start of a trained checkpoint's name in a folder of its own."""
    for path in Path(trained).parent.glob(f"{Path(trained).name}-000*.safetensors"):
        shutil.copy(path, tmp_path)
    return tmp_path / Path(trained).name


def record(path: Path, images: int, side: int = 32, labels: tuple[float, ...] = (0.0,)) -> Path:
    with writing(path) as writer:
        for number in range(images):
            header = IRHeader(0, labels[0] if len(labels) == 1 else np.array(labels, np.float32), number, 0)
            writer.write(number, pack(header, encode(picture(number, side, side), ".jpg", 95)))
    return path


def test_a_network_is_quantised_measured_and_used(own: Path, digits: Path, few_digits: Path, run: Run) -> None:
    train, val = digits / "digits_val.rec", few_digits / "digits_val.rec"
    words = ("quantize", "--prefix", own, "--epoch", 4, "--calibrate", train, "--rec", val, "--max-loss", 20)
    status, out, err = run(*words)
    assert status == 0, err
    made = Path(f"{own}-0004.int8.onnx")
    assert made.is_file()
    for where in ("ONNX Runtime", "OpenVINO"):
        assert f"{where}: top-1 error " in out
    assert f"{made} is written" in out
    smaller, larger = (float(size) for size in re.findall(r"([\d.]+) MB", out))
    assert smaller == round(made.stat().st_size / 1e6, 1) < larger
    again = made.read_bytes()
    assert run(*words)[0] == 0
    assert made.read_bytes() == again  # the same command writes the same bytes
    command = out.rpartition("use it: ")[2].split()[1:]
    assert " ".join(command[3:]).startswith(f"--engine openvino --precision int8 --prefix {own} --epoch 4")
    assert run(*command, "--json")[0] == 0
    for engine in ("onnx", "openvino"):
        image = digits / "examples" / "7.png"
        how = ("predict", "--img", image, "--prefix", own, "--epoch", 4, "--engine", engine)
        assert run(*how, "--precision", "int8")[1] != run(*how)[1]  # whole numbers are rounder
    # Not taken for float32 under the name of a plain export, nor for another checkpoint.
    plain = run(*how)[1]
    shutil.copy(made, f"{own}-0004.onnx")
    assert run(*how)[1] == plain
    shutil.copy(made, f"{own}-0001.int8.onnx")
    status, _, err = run(
        "predict", "--img", image, "--prefix", own, "--epoch", 1, "--engine", "onnx", "--precision", "int8"
    )
    assert status == 2
    assert "is no int8 form of" in err
    made.write_bytes(again[:-9] + b"x" + again[-8:])
    status, _, err = run(*how, "--precision", "int8")
    assert status == 2
    assert "is damaged or was not written by resnet-v2" in err


def test_what_loses_too_much_is_not_written(
    own: Path, digits: Path, few_digits: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = int8_path(Path(f"{own}-0004.safetensors"))

    def spoilt(network: nn.Module, header: Header, path: Path, batches: object) -> bytes:
        nn.init.zeros_(network.fc1.weight)  # type: ignore[arg-type, union-attr]
        return int8_of(network, header, path, batches)  # type: ignore[arg-type]

    monkeypatch.setattr(quantizing, "int8_of", spoilt)
    records = ("--calibrate", digits / "digits_val.rec", "--rec", few_digits / "digits_val.rec")
    status, _, err = run("quantize", "--prefix", own, "--epoch", 4, *records)
    assert status == 2
    assert f"{made} is not written: ONNX Runtime: top-1 error " in err
    assert "more than --max-loss 0.3" in err
    assert not made.exists()


@pytest.mark.parametrize(("engine", "other"), [("onnx", "OpenVINO"), ("openvino", "ONNX Runtime")])
def test_one_engine_alone_is_measured(
    own: Path, digits: Path, few_digits: Path, run: Run, monkeypatch: pytest.MonkeyPatch, engine: str, other: str
) -> None:
    if engine == "onnx":
        monkeypatch.setitem(sys.modules, "openvino", None)  # not installed
    words = ("--calibrate", digits / "digits_val.rec", "--rec", few_digits / "digits_val.rec", "--max-loss", 20)
    status, out, err = run("quantize", "--prefix", own, "--epoch", 4, "--engine", engine, *words)
    assert status == 0, err
    assert other not in out + err
    assert f"--engine {engine} --precision int8" in out
    assert out.count("top-1 error") == 1


@pytest.mark.parametrize("engine", ["torch", "onnx", "openvino"])
def test_int8_is_made_first(own: Path, digits: Path, run: Run, engine: str) -> None:
    image = digits / "examples" / "7.png"
    words = ("predict", "--img", image, "--prefix", own, "--epoch", 4, "--engine", engine, "--precision", "int8")
    status, out, err = run(*words)
    assert (status, out) == (2, "")
    assert ("does not compute in int8" if engine == "torch" else "is missing, the int8 form of") in err


def test_bad_input_is_refused(own: Path, digits: Path, few_digits: Path, run: Run, tmp_path: Path) -> None:
    val = few_digits / "digits_val.rec"
    damaged = tmp_path / "damaged.rec"
    shutil.copy(val, damaged)
    shutil.copy(val.with_suffix(".idx"), damaged.with_suffix(".idx"))
    damaged.write_bytes(bytes(byte ^ 85 for byte in damaged.read_bytes()))
    (tmp_path / "empty.rec").touch()
    (tmp_path / "empty.idx").touch()
    for rec, words in (
        (tmp_path / "none.rec", "none.rec"),
        (tmp_path / "empty.rec", "empty.rec"),
        (damaged, "damaged.rec"),
        (record(tmp_path / "large.rec", 3, 200), "give --resize"),
        (record(tmp_path / "classes.rec", 3, 8, labels=(77.0,)), "77"),
    ):
        for places in (("--calibrate", rec, "--rec", val), ("--calibrate", val, "--rec", rec)):
            status, out, err = run("quantize", "--prefix", own, "--epoch", 4, "--max-loss", 100, *places)
            assert (status, out) == (2, ""), err
            assert words in err.splitlines()[-1]
    status, _, err = run("quantize", "--prefix", own, "--calibrate", val, "--rec", val, "--max-loss", -1)
    assert status == 2
    assert "--max-loss must be 0 to 100" in err
    header, tensors = weights.read(Path(f"{own}-0004.safetensors"))
    tensors["fc1.weight"][0, 0] = torch.nan
    weights.save(Path(f"{own}-0004.safetensors"), tensors, header)
    status, _, err = run("quantize", "--prefix", own, "--epoch", 4, "--calibrate", val, "--rec", val)
    assert status == 2
    assert "fc1.weight has what is no number" in err
    assert not list(tmp_path.glob("*.int8.onnx"))


@pytest.mark.parametrize("labels", [Labels(4, "multi"), Labels(4, "tasks", (3, 1))], ids=str)
def test_other_labels(labels: Labels, tmp_path: Path, run: Run) -> None:
    network = random_network(Architecture(8, 4, "cifar"))
    header = Header.of_epoch(network.architecture, 1, labels=labels)
    weights.save(checkpoint_path(f"{tmp_path}/net", 1), weights.network_tensors(network), header)
    rec = record(tmp_path / "a.rec", 20, labels=(1.0, 0.0, 0.0, 1.0) if labels.kind == "multi" else (2.0, 0.0))
    words = ("--calibrate", rec, "--rec", rec, "--max-loss", 100)
    status, out, err = run("quantize", "--prefix", tmp_path / "net", *words)
    assert status == 0, err
    assert ("less the mean average precision" if labels.kind == "multi" else "top-1 error") in out
    assert "calibrates and measures at once" in err
    assert "has 20 images; 512 show better" in err


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_whole_numbers_are_near(version: str, tmp_path: Path) -> None:
    architecture = Architecture(20, 10, "cifar", version)  # type: ignore[arg-type]
    network = random_network(architecture)
    norm = network.get_submodule("stage2.unit1.bn1")
    nn.init.zeros_(norm.weight[:1])  # type: ignore[index]
    nn.init.constant_(norm.weight[1:2], 1e-9)  # type: ignore[index]
    saved(network, tmp_path / "net")
    path, images = checkpoint_path(f"{tmp_path}/net", 1), images_of(architecture, 16)
    model = int8_of(network, Header.of_epoch(architecture, 1), path, [planes_of(images)] * 2)
    with torch.inference_mode():
        wanted = network(torch.from_numpy(planes_of(images))).numpy()
    for engine in (OnnxEngine(model, "int8"), OpenvinoEngine(model, "int8")):
        assert 1e-4 < difference(engine.logits(images), wanted) < 0.2, engine.where


Batches = Sequence[np.ndarray[tuple[int, ...], np.dtype[np.float32]]]


def made_of(architecture: Architecture, folder: Path, batches: Batches, temperature: float = 1.0) -> Any:
    """The int8 form of a network as onnx reads it."""
    import onnx

    path, header = (
        Path(checkpoint_path(saved(random_network(architecture), folder / "net"), 1)),
        Header.of_epoch(architecture, 1),
    )
    header = replace(header, temperature=temperature)
    return onnx.load_from_string(int8_of(random_network(architecture), header, path, batches))


def planes(architecture: Architecture, times: float = 1.0) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return planes_of(images_of(architecture, 4)) * np.float32(times)


def constants(model: Any) -> dict[str, np.ndarray[Any, Any]]:
    from onnx import numpy_helper

    return {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}


def test_what_is_computed_in_whole_numbers(tmp_path: Path) -> None:
    """All but the first BatchNorm, which has no convolution before it, and the head."""
    architecture = Architecture(18, 5, "imagenet")
    model = made_of(architecture, tmp_path, [planes(architecture)])
    values, makers = constants(model), {name: node for node in model.graph.node for name in node.output}
    kinds: dict[str, list[Any]] = {}
    for node in model.graph.node:
        kinds.setdefault(node.op_type, []).append(node)
    # The ReLUs have become the lower end, 0, of what their inputs are rounded to.
    wanted = {"BatchNormalization", "QuantizeLinear", "DequantizeLinear", "Conv", "MaxPool", "Add"}
    assert {*kinds} == wanted | {"GlobalAveragePool", "Flatten", "Gemm"}
    assert len(kinds["BatchNormalization"]) == 1
    for node in kinds["Conv"] + kinds["MaxPool"] + kinds["Add"]:
        assert all(makers[name].op_type == "DequantizeLinear" for name in node.input), node.name
        assert all(one.op_type == "QuantizeLinear" for one in model.graph.node if node.output[0] in one.input)
    (pool,) = kinds["MaxPool"]
    (after,) = (node for node in kinds["QuantizeLinear"] if pool.output[0] in node.input)
    assert after.input[1] == makers[pool.input[0]].input[1]  # it moves whole numbers, at one scale
    (head,) = kinds["Gemm"]
    assert [values[name].dtype for name in head.input[1:]] == [np.float32] * 2
    assert {values[node.input[2]].dtype for node in kinds["QuantizeLinear"]} == {np.dtype(np.uint8)}
    for node in kinds["Conv"]:
        weight, scale = (values[name] for name in makers[node.input[1]].input[:2])
        assert weight.dtype == np.int8
        assert abs(weight.astype(int)).max() == 64  # 7 bits
        assert scale.shape == weight.shape[:1]  # one for each channel


def test_a_range_is_the_mean_over_the_batches(tmp_path: Path) -> None:
    architecture = Architecture(20, 5, "cifar")
    dark, bright = planes(architecture, 0.2), planes(architecture)
    ranges = []
    for number, batches in enumerate(([dark], [bright], [dark, bright])):
        values = constants(made_of(architecture, tmp_path / str(number), batches))
        ranges.append(values["bn_data_scale"])
    assert ranges[0] < 0.5 * ranges[1]
    assert ranges[2] == pytest.approx((ranges[0] + ranges[1]) / 2, rel=1e-3)


def test_the_file_tells_of_the_network_and_divides_by_its_temperature(tmp_path: Path) -> None:
    architecture = Architecture(20, 5, "cifar")
    logits = []
    for temperature in (1.0, 4.0):
        model = made_of(architecture, tmp_path, [planes(architecture)], temperature)
        told = Header.from_json({one.key: one.value for one in model.metadata_props}["resnet_v2"], Path("int8.onnx"))
        assert (told.architecture, told.temperature) == (architecture, 1.0)
        logits.append(OnnxEngine(model.SerializeToString(), "int8").logits(images_of(architecture, 4)))
    np.testing.assert_allclose(logits[1], logits[0] / 4, rtol=1e-5)


def test_the_runtime_gives_no_advice(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    architecture = Architecture(20, 5, "cifar")
    made_of(architecture, tmp_path, [planes(architecture)])
    assert not caplog.records
    logging.getLogger("somebody").warning("else")
    assert [one.message for one in caplog.records] == ["else"]


def test_a_network_that_cannot_be_quantised_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    architecture = Architecture(20, 5, "cifar")
    with pytest.raises(ResnetError, match=r"net-0001.safetensors cannot be quantised: .+; its weights may be damaged"):
        made_of(architecture, tmp_path, [planes(architecture, np.nan)])
    monkeypatch.setattr(exporting, "LARGEST_ONNX_BYTES", 1000)
    with pytest.raises(ResnetError, match="an ONNX file holds no more than 1000"):
        made_of(architecture, tmp_path, [planes(architecture)])


class Watched:
    """What `quantize` asks of the engines and of the quantisation, which gives the float32 model as it is."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.engines: list[tuple[str, str]] = []
        self.batches: list[int] = []
        self.calibrated: list[np.ndarray[tuple[int, ...], np.dtype[np.float32]]] = []
        watched = self

        def exact(network: Any, header: Header, path: Path, batches: Any) -> bytes:
            watched.calibrated += [*batches]
            return onnx_of(network, header, path)

        monkeypatch.setattr(quantizing, "int8_of", exact)
        for name, kind in (("onnx", OnnxEngine), ("openvino", OpenvinoEngine)):

            class Engine(kind):  # type: ignore[misc, valid-type]
                def __init__(self, model: bytes, precision: Any) -> None:
                    watched.engines.append((self.where, precision))
                    super().__init__(model, precision)

                def logits(self, images: Any) -> Any:
                    watched.batches.append(len(images))
                    return super().logits(images)

            monkeypatch.setitem(quantizing.ENGINES, name, Engine)


def test_each_engine_is_asked_about_both(
    own: Path, few_digits: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What loses nothing is written even where nothing may be lost."""
    watched, val = Watched(monkeypatch), few_digits / "digits_val.rec"
    words = ("--calibrate", val, "--rec", val, "--max-loss", 0, "--batch-size", 7)
    status, out, err = run("quantize", "--prefix", own, "--epoch", 4, *words)
    assert status == 0, err
    engines = ("ONNX Runtime on cpu", "OpenVINO on cpu")
    assert watched.engines == [(where, precision) for where in engines for precision in ("float32", "int8")]
    assert {*watched.batches} == {7, 40 % 7}
    assert out.count("+0.00 points") == 2


def test_images_from_all_over_the_record_calibrate(
    own: Path, few_digits: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched, val = Watched(monkeypatch), few_digits / "digits_val.rec"
    monkeypatch.setattr(quantizing, "IMAGES", 5)
    assert run("quantize", "--prefix", own, "--epoch", 4, "--calibrate", val, "--rec", val)[0] == 0
    reader = RecordReader(val)
    wanted = [planes_of(read_upright(bytes(reader.image(number)[1]), 0)[None])[0] for number in (0, 9, 19, 29, 39)]
    np.testing.assert_array_equal(np.concatenate(watched.calibrated), wanted)


def test_what_is_odd_about_a_record_is_said(own: Path, few_digits: Path, tmp_path: Path, run: Run) -> None:
    val = tmp_path / "odd.rec"
    shutil.copy(few_digits / "digits_val.rec", val)
    (tmp_path / "synset.txt").write_text("".join(f"class{number}\n" for number in range(10)))
    words = ("--calibrate", val, "--rec", val, "--max-loss", 100, "--engine", "onnx")
    status, _, err = run("quantize", "--prefix", own, "--epoch", 4, *words)
    assert status == 0, err
    assert "warning: class 0 is 'class0' in" in err
    assert "odd.idx" in err  # it is missing


def test_what_must_fail_fails_before_the_work(
    own: Path, few_digits: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(*_: object) -> None:
        raise AssertionError("the work began")

    monkeypatch.setattr(quantizing, "int8_of", work)
    val, made = few_digits / "digits_val.rec", int8_path(Path(f"{own}-0004.safetensors"))
    words = ("quantize", "--prefix", own, "--epoch", 4, "--calibrate", val, "--rec", val)
    made.mkdir()
    status, _, err = run(*words)
    assert (status, f"{made} is not written: it is a folder" in err) == (2, True)
    made.rmdir()
    monkeypatch.setitem(sys.modules, "openvino", None)  # not installed
    status, _, err = run(*words)
    assert (status, "openvino" in err.splitlines()[-1]) == (2, True)


def test_norms_are_convolutions_of_one_channel_each() -> None:
    network = random_network(Architecture(29, 10, "cifar"))
    images = torch.from_numpy(planes_of(images_of(network.architecture)))
    alone = norms_as_convolutions(folded(network))
    assert [name for name, one in alone.named_modules() if isinstance(one, nn.BatchNorm2d)] == ["bn_data"]
    with torch.inference_mode():
        assert difference(alone(images).numpy(), network(images).numpy()) < 1e-4


def test_the_int8_form_of_a_network_that_ships_is_in_the_current_folder() -> None:
    assert int8_path(SHIPPED / "a.safetensors") == Path("a.int8.onnx")
    assert int8_path(Path("model/a-best.safetensors")) == Path("model/a-best.int8.onnx")
    assert exported_path(Path("model/a-best.safetensors"), ".onnx", "model/b") == Path("model/b-0000.onnx")
    assert int8_path(Path("model/a-0004.safetensors")) == Path("model/a-0004.int8.onnx")


@pytest.mark.parametrize("ending", [".onnx", ".int8.onnx"])
def test_what_earlier_versions_called_an_export_is_found(ending: str, tmp_path: Path) -> None:
    best = tmp_path / "a-best.safetensors"
    find = find_int8 if ending == ".int8.onnx" else functools.partial(find_exported, ending=ending)
    assert find(best) is None
    old, new = tmp_path / f"a-best-0000{ending}", tmp_path / f"a-best{ending}"
    old.touch()
    assert find(best) == old
    new.touch()
    assert find(best) == new
    assert find(tmp_path / "a-0000.safetensors") is None
