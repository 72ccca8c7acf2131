"""The parity suite's one process of the real MXNet 1.9.1, started for the first test that asks for it.

A plugin rather than a conftest.py, because type checkers take two of that name in one tree for the same module.
"""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from parity import MXNet

FOLDER = Path(__file__).parent


@pytest.fixture(scope="session")
def mxnet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MXNet]:
    """MXNet in its own Python: the one RESNET_V2_MXNET_PYTHON names, or .venv-mxnet; skips where there is none."""
    python = os.environ.get("RESNET_V2_MXNET_PYTHON", str(FOLDER.parents[1] / ".venv-mxnet/bin/python"))
    if not Path(python).is_file():
        pytest.skip(f"missing .venv-mxnet: make parity creates {python}, RESNET_V2_MXNET_PYTHON names another")
    folder = tmp_path_factory.mktemp("exchange")
    with (folder / "errors.txt").open("w") as errors:
        process = subprocess.Popen(
            [python, str(FOLDER / "worker.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        with process:
            yield MXNet(process, folder)
