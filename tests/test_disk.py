"""A few disks that fail and a few power cuts; `make endure` lets every change of the disk fail."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="missing gcc: apt-get install it")
DISK = Path(__file__).with_name("disk.py")


def tried(*words: str) -> str:
    """The output of disk.py, which must have found nothing."""
    done = subprocess.run([sys.executable, DISK, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_disk_that_fails_loses_nothing() -> None:
    """Each change on a full disk and on a damaged one, of works that are quick."""
    output = tried("--every", "--faults", "20", "--cuts", "0", "--only", "pack", "--only", "list", "--only", "recordio")
    assert output.count(" 0 faults") == 3


def test_a_power_cut_loses_nothing() -> None:
    output = tried("--faults", "0", "--cuts", "60", "--only", "pack", "--only", "data", "--only", "repair")
    assert output.count(" 0 faults") == 3


@pytest.mark.slow
def test_a_run_loses_nothing() -> None:
    """Training, exports, pictures, pages."""
    assert " 0 faults" in tried("--faults", "80", "--cuts", "40")
