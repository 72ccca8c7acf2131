"""What is measured of a device, on the CPU as far as that goes."""

import pytest
import torch

from resnet_v2.recompute import measured, speeds


def test_the_time_of_a_start_is_that_of_a_step_by_its_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    seconds = measured._start_seconds(torch.device("cpu"))
    # A step of ResNet-18 with two images takes a CPU some milliseconds, and starts some 200 kernels.
    assert 1e-3 < 200 * seconds < 5.0
    assert 1e-7 < measured._launch_seconds(torch.device("cpu")) < 0.1
    assert measured.measure(torch.device("cpu")) == speeds.CPU
