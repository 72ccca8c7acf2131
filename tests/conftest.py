"""What tests share: small real data, one trained checkpoint, and what the end of a run says of skipped tests.

A test that cannot run here gives as its reason `missing THING: where it comes from`.
"""

import collections
import contextlib
import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from resnet_v2 import cli
from resnet_v2.config.packing import DataConfig
from resnet_v2.config.training import arguments_of
from resnet_v2.data.records import RecordReader, writing
from resnet_v2.packing.photos import read_upright
from resnet_v2.packing.sources import make_data

with contextlib.suppress(ImportError):  # `make gpu` does without
    import hypothesis

    # How long one example takes depends on the tests beside it.
    too_slow = hypothesis.HealthCheck.too_slow
    hypothesis.settings.register_profile("any machine", deadline=None, suppress_health_check=[too_slow])
    hypothesis.settings.load_profile("any machine")

# A shell lets what it starts in the background ignore Ctrl-C, and so would the commands that tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # by nohup
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# No test depends on whether a GPU is there, but for those of `make gpu`, which sets the variable.
if not os.environ.get("RESNET_V2_GPU_TESTS"):
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
# Nor on whether the processor computes in bfloat16, in which `--amp auto` would then train.
os.environ["ONEDNN_MAX_CPU_ISA"] = "AVX512_CORE_VNNI"

Run = Callable[..., tuple[int, str, str]]


def digits_run(data: Path, **given: object) -> list[str]:
    """The words of a run of ResNet-8 on digits."""
    return ["train", *arguments_of({"data_dir": data, "data_type": "digits", "depth": 8} | given)]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say what was missing, and how many tests did not run for want of it."""
    reasons = [str(report.longrepr[2]).removeprefix("Skipped: ") for report in terminalreporter.getreports("skipped")]
    if not reasons:
        return
    terminalreporter.section("NOT TESTED, for want of", red=True, bold=True)
    for reason, count in collections.Counter(reasons).most_common():
        terminalreporter.line(f"{reason.removeprefix('missing ')} ({count} test{'s' if count > 1 else ''})", red=True)


def processor_seconds(command: Sequence[object]) -> float:
    """The processor's time for a command that must end well; how busy the machine is hardly moves it."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def read_image(path: Path) -> NDArray[np.uint8]:
    """The pixels of an image file, upright."""
    return read_upright(path.read_bytes(), 0).copy()


def picture(seed: int, height: int, width: int) -> NDArray[np.uint8]:
    """A smooth colour picture with edges, different for every seed."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.uint8)
    top, left = int(rng.integers(0, height // 2)), int(rng.integers(0, width // 2))
    image[top : top + height // 4, left : left + width // 4] = rng.integers(0, 256, 3)
    return image


@pytest.fixture
def class_folder(tmp_path: Path) -> Path:
    """Three classes with 12, 8 and 4 JPEG files of different sizes."""
    root = tmp_path / "images"
    for label, (name, count) in enumerate((("ant", 12), ("bee", 8), ("cat", 4))):
        (root / name).mkdir(parents=True)
        for number in range(count):
            image = picture(100 * label + number, 40 + number, 64 - number)
            assert cv2.imwrite(str(root / name / f"{number:03d}.jpg"), image)
    return root


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `resnet-v2 data digits` writes."""
    return make_data(DataConfig("digits", tmp_path_factory.mktemp("data") / "digits", threads=2))


@pytest.fixture(scope="session")
def few_digits(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with 40 images for validation, which is else most of what a short run does."""
    folder = tmp_path_factory.mktemp("data") / "few"
    shutil.copytree(digits, folder)
    reader = RecordReader(digits / "digits_val.rec")
    with writing(folder / "digits_val.rec") as writer:
        for ordinal in range(40):
            writer.write(ordinal, reader[ordinal])
    return folder


@pytest.fixture(scope="session")
def trained(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The prefix of a ResNet-8 trained on the digits for 4 epochs of 256 images."""
    prefix = str(tmp_path_factory.mktemp("model") / "resnet-digits-8")
    status = cli.main(
        [
            "train",
            "--data-dir",
            str(digits),
            "--data-type",
            "digits",
            "--depth",
            "8",
            "--epochs",
            "4",
            "--gpus",
            "",
            "--num-examples",
            "256",
            "--batch-size",
            "32",
            "--frequent",
            "4",
            "--model-prefix",
            prefix,
        ]
    )
    assert status == 0
    return prefix


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command line: (exit status, standard output, standard error)."""

    def call(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            status = cli.main([str(word) for word in words])
        except SystemExit as stop:
            status = int(stop.code or 0)
        out, err = capsys.readouterr()
        return status, out, err

    return call
