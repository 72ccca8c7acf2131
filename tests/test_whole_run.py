"""What a whole run takes, held against what was measured on an H100 and against arithmetic."""

import json

import pytest

from conftest import Run
from resnet_v2.networks.architecture import Architecture
from resnet_v2.recompute.budget import Workload
from resnet_v2.recompute.speeds import CARDS
from resnet_v2.recompute.whole_run import WholeRun


@pytest.mark.parametrize(
    ("depth", "batch_size", "bf16", "measured"),
    [(50, 256, True, 4936), (50, 256, False, 2939), (200, 128, True, 128 / 0.214), (200, 128, False, 128 / 0.196)],
)
def test_the_speed_is_that_of_an_h100(depth: int, batch_size: int, bf16: bool, measured: float) -> None:
    """The figures of docs/gpu.md; steps of ResNet-200 were not recorded."""
    work = Workload(Architecture(depth, 1000, "imagenet"), 0, bf16, False, CARDS["H100"], batch_size)
    assert WholeRun(depth, work, 120, 2.5).images_per_second == pytest.approx(measured, rel=0.12)


def test_each_depth_on_each_number_of_gpus(run: Run) -> None:
    words = ("plan", "--whole-run", "--gpu", "H100", "--amp", "bf16", "--batch-size", 256, "--json")
    status, out, _ = run(*words, "--euros-per-hour", 3, "--epochs", 90)
    rows = json.loads(out)
    assert status == 0
    assert [(row["depth"], row["gpus"]) for row in rows] == [
        (depth, gpus) for depth in (18, 34, 50, 101, 152, 200) for gpus in (1, 2, 4, 8, 16, 32, 64)
    ]
    of_50 = [row for row in rows if row["depth"] == 50]
    one = of_50[0]
    # Of an epoch's 50,000 images of validation about a third of a training step is made.
    assert one["hours"] == pytest.approx(90 * (1281167 + 50000 / 3) / one["images_per_second"] / 3600, rel=0.01)
    assert one["euros"] == pytest.approx(3 * one["hours"], abs=1)
    assert {row["euros"] for row in of_50} == {one["euros"]}
    assert one["read_mb_per_second"] == pytest.approx(one["images_per_second"] * 0.0815, rel=0.01)
    # 104 GB of 480 pixels, 40 of 256, 1.5 for validation, 90 checkpoints of 25.6 million weights with momentum.
    assert one["disk_gb"] == pytest.approx(104.4 + 39.6 + 1.5 + 90 * 25.56e6 * 8 / 1e9, abs=1)
    alone = json.loads(run(*words, "--euros-per-hour", 3, "--epochs", 90, "--depth", 50)[1])
    assert alone == of_50
    assert run(*words[:-1])[1].count("\n") == 43


def test_what_it_is_not_about(run: Run) -> None:
    for words, says in (
        ((), "--whole-run is about GPUs; give one"),
        (("--gpu", "H100", "--stem", "cifar"), "is none of its"),
    ):
        status, _, err = run("plan", "--whole-run", *words)
        assert (status, err.count("\n"), says in err) == (2, 1, True)
