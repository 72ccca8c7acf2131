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


def test_a_disk_that_fails_and_a_power_cut_lose_nothing() -> None:
    """Works that are quick."""
    output = tried("--faults", "8", "--cuts", "8", "--only", "pack", "--only", "recordio")
    assert output.count(" 0 faults") == 3


@pytest.mark.slow
def test_no_change_of_the_disk_loses_anything_when_it_fails() -> None:
    """Each on a full disk and on a damaged one."""
    output = tried("--every", "--faults", "0", "--cuts", "0", "--only", "pack", "--only", "list", "--only", "index")
    assert output.count(" 0 faults") == 3


@pytest.mark.slow
def test_no_work_loses_anything() -> None:
    """Training, exports, pictures and pages too."""
    assert tried("--faults", "56", "--cuts", "42").count(" 0 faults") == 21
