"""Model cards and the folder that is pushed with them."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import resnet_v2
from conftest import Run
from resnet_v2.data.sidecar import write_rows
from resnet_v2.networks import weights
from resnet_v2.networks.finding import checkpoint_path
from resnet_v2.networks.header import Header


def test_a_card_tells_what_the_header_and_the_log_know(trained: str, run: Run) -> None:
    status, out, _ = run("card", "--prefix", trained, "--epoch", 4, "--license", "apache-2.0")
    header = weights.load(trained, 4)[1]
    assert status == 0
    front = out.split("---\n")[1].splitlines()
    assert front[:3] == ["library_name: resnet-v2", "pipeline_tag: image-classification", 'license: "apache-2.0"']
    assert '- name: "ResNet-8-v2, digits"' in front
    assert f"      value: {1 - header.errors['top1_error'] / 100:.4f}" in front
    assert "# ResNet-8-v2, digits" in out
    assert "| batch_size | 32 |" in out
    assert "Of 4 epochs the best so far is checkpoint" in out
    assert "0, 1, 2, 3, 4, 5, 6, 7, 8, 9" in out
    made = f"made from digits, by resnet-v2 {resnet_v2.__version__}"
    lines = f"- digits_train.rec: {made}\n- digits_val.rec: {made}\n"
    assert f"## Where the records came from\n\n{lines}" in out


def test_a_card_with_an_evaluation(trained: str, digits: Path, run: Run) -> None:
    rec = digits / "digits_val.rec"
    status, out, _ = run("card", "--prefix", f"{trained}-0001", "--rec", rec, "--data-name", 'my "digits"')
    assert status == 0
    assert "## Errors by class" in out
    assert out.count("- digits_val.rec: made from digits") == 1
    assert '      name: "my \\"digits\\""' in out


def test_the_folder_is_whole(trained: str, digits: Path, tmp_path: Path, run: Run) -> None:
    folder = tmp_path / "hub" / "digits"
    status, out, _ = run("card", "--prefix", trained, "--out", folder)
    assert status == 0
    assert "ready to be pushed" in out
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    config = json.loads((folder / "config.json").read_text())
    assert config["architecture"] == {"depth": 8, "classes": 10, "stem": "cifar", "version": "v2", "width": 1}
    assert config["id2label"]["7"] == "7"
    ours, theirs = resnet_v2.load(trained), resnet_v2.load(str(folder))
    image = digits / "examples" / "7.png"
    assert np.array_equal(ours.features(image), theirs.features(image))
    assert set(theirs.header.training) == {"settings", "learning_rate", "weight_decay", "origins"}
    assert not any(name.startswith("momentum") for name in weights.read(folder / "model.safetensors")[1])


def test_half_the_size(trained: str, digits: Path, tmp_path: Path, run: Run) -> None:
    """The errors of the card are those of the rounded weights, to the last digit."""
    rec, folder = digits / "digits_val.rec", tmp_path / "half"
    status, _, _ = run("card", "--prefix", trained, "--half", "--rec", rec, "--note", "Drawn by hand.", "--out", folder)
    assert status == 0
    assert (folder / "README.md").read_text().rstrip().endswith("## Data and licence\n\nDrawn by hand.")
    header, tensors = weights.read(folder / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    measured = json.loads(run("evaluate", "--prefix", folder, "--rec", rec, "--gpus", "", "--json")[1])
    assert {name: measured[name] for name in header.errors} == header.errors


def test_whatever_was_asked_of_a_run_is_told(trained: str, tmp_path: Path, run: Run) -> None:
    path, header, tensors = weights.read_checkpoint(trained)
    asked = {"augment": "rrc", "mirror": False, "ema": 0.9, "clip_norm": 2.0, "interpolation": "bicubic", "amp": "bf16"}
    training = {**header.training, "settings": {**header.training["settings"], **asked}}
    weights.save(tmp_path / path.name, tensors, replace(header, training=training))
    told = run("card", "--prefix", tmp_path / Path(trained).name)[1]
    for name, value in asked.items():
        assert f"| {name} | {json.dumps(value)} |" in told
    assert "| accumulate |" not in told  # which nobody asked for


def test_numbers_that_16_bits_cannot_hold(trained: str, tmp_path: Path, run: Run) -> None:
    path, header, tensors = weights.read_checkpoint(trained)
    weights.save(tmp_path / path.name, tensors | {"bn1.running_var": 1e5 * tensors["bn1.running_var"]}, header)
    status, _, err = run("card", "--prefix", tmp_path / path.stem, "--half", "--out", tmp_path / "card")
    assert (status, "holds numbers that 16 bits cannot; leave --half out" in err) == (2, True)
    assert not (tmp_path / "card").exists()


def test_a_run_without_an_epoch_in_its_log_yet(trained: str, tmp_path: Path, run: Run) -> None:
    _, header, tensors = weights.read_checkpoint(trained)
    weights.save(tmp_path / "m-0001.safetensors", tensors, header)
    (tmp_path / "m.jsonl").write_text(Path(f"{trained}.jsonl").read_text().splitlines()[0] + "\n")
    assert run("card", "--prefix", tmp_path / "m")[0] == 0


def test_what_cannot_be_written(trained: str, tmp_path: Path, run: Run) -> None:
    (tmp_path / "file").touch()
    status, _, err = run("card", "--prefix", trained, "--out", tmp_path / "file")
    assert status == 2
    assert "is a file" in err


def test_checkpoints_without_figures_have_cards_too(tmp_path: Path, run: Run) -> None:
    network = resnet_v2.resnet(20, classes=3)
    header = Header.of_epoch(network.architecture, 1)
    weights.save(checkpoint_path(str(tmp_path / "a"), 1), weights.network_tensors(network), header)
    status, out, _ = run("card", "--prefix", tmp_path / "a")
    assert status == 0
    assert "model-index" not in out
    assert "0.27 million parameters, 3 classes" in out
    with pytest.raises(resnet_v2.ResnetError):
        resnet_v2.load(str(tmp_path))


def test_a_log_that_cannot_be_read_is_told(trained: str, tmp_path: Path, run: Run) -> None:
    for path in Path(trained).parent.glob(f"{Path(trained).name}-0004.safetensors"):
        shutil.copy(path, tmp_path)
    prefix = tmp_path / Path(trained).name
    assert "warning" not in run("card", "--prefix", prefix)[2]
    Path(f"{prefix}.jsonl").write_text("no log\n")
    status, out, err = run("card", "--prefix", prefix)
    assert (status, "# ResNet" in out) == (0, True)
    assert f"warning: the card shows no course of the training: {prefix}.jsonl has no epochs" in err


def test_what_a_record_tells_of_itself_is_shown_as_text(trained: str, digits: Path, tmp_path: Path, run: Run) -> None:
    rec = tmp_path / "new.rec"
    assert run("convert", digits / "digits_val.rec", rec, "--subset", 20)[0] == 0
    write_rows(rec, json.dumps({"command": "data", "source": "[a](b) <script>*", "version": "1"}))
    status, out, _ = run("card", "--prefix", trained, "--rec", rec)
    assert (status, "- new.rec: made from \\[a\\](b) \\<script\\>\\*, by resnet-v2 1\n" in out) == (0, True)
