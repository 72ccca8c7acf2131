"""Images per second of a training step (forward, backward, Nesterov update): this package and MXNet 1.9.1.

    RESNET_V2_MXNET_PYTHON=.venv-mxnet/bin/python python benchmarks/step.py

Each system is a process of its own with `--threads` threads, and computes only when it is asked to: they take turns,
and a figure is the median of `--rounds` rounds of `--steps` steps. MXNet runs Module with its symbol of the same
network (tests/mxnet/symbols.py); its environment is that of `make parity`. `--bf16` adds `train --amp bf16`,
`--compiled` torch.compile, which first takes minutes. With `--rec` a loader feeds ours too: the share of a step's time
that it costs.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Work:
    """What is trained: a network and the batch of one step."""

    name: str
    stem: str
    depth: int
    classes: int
    batch_size: int

    @property
    def words(self) -> list[str]:
        """The arguments of the scripts that measure a system."""
        return [self.stem, str(self.depth), str(self.classes), str(self.batch_size)]


WORKS = {
    "resnet-50": Work("ResNet-50, 224 x 224, batch 32", "imagenet", 50, 1000, 32),
    "cifar-164": Work("CIFAR ResNet-164, batch 128", "cifar", 164, 10, 128),
}


class System:
    """A process that answers a number of steps with the seconds they took."""

    def __init__(self, command: list[str], threads: int) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def seconds(self, steps: int) -> dict[str, float]:
        """Ask for some steps: `seconds`, and `waited`, the part spent waiting for data."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{' '.join(map(str, self.process.args))} ended with {self.process.wait()}")  # type: ignore[arg-type]
        answer: dict[str, float] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the process."""
        self.process.communicate()


def commands(work: Work, options: argparse.Namespace) -> dict[str, list[str]]:
    """The command of every system that is to be measured."""
    ours = [sys.executable, str(FOLDER / "resnet_v2_step.py"), *work.words]
    found = {"resnet-v2": ours}
    if options.bf16:
        found["resnet-v2, bf16"] = [*ours, "--amp", "bf16"]
    if options.compiled:
        found["resnet-v2, compiled"] = [*ours, "--compiled"]
    if options.rec is not None:
        found["resnet-v2, loading"] = [*ours, "--rec", str(options.rec)]
    python = Path(os.environ.get("RESNET_V2_MXNET_PYTHON", ".venv-mxnet/bin/python"))
    if python.is_file():
        found["mxnet"] = [str(python), str(FOLDER / "mxnet_step.py"), *work.words]
    return found


def measure(work: Work, options: argparse.Namespace) -> list[dict[str, object]]:
    """One row per system; `times` is how many times as fast ours is, the median over the rounds."""
    systems = {name: System(command, options.threads) for name, command in commands(work, options).items()}
    try:
        for system in systems.values():
            system.seconds(options.warm_up)
        rounds = [
            {name: system.seconds(options.steps) for name, system in systems.items()} for _ in range(options.rounds)
        ]
    finally:
        for system in systems.values():
            system.close()
    images = options.steps * work.batch_size
    rows: list[dict[str, object]] = []
    for name in systems:
        speeds = [images / one[name]["seconds"] for one in rounds]
        rows.append(
            {
                "work": work.name,
                "system": name,
                "value": round(statistics.median(speeds), 2),
                "unit": "images/s",
                "lowest": round(min(speeds), 2),
                "highest": round(max(speeds), 2),
                "times": round(statistics.median(o[name]["seconds"] / o["resnet-v2"]["seconds"] for o in rounds), 3),
                "waited": round(statistics.median(o[name]["waited"] / o[name]["seconds"] for o in rounds), 4),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", choices=[*WORKS, "both"], default="both")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2, help="steps of one round")
    parser.add_argument("--warm-up", type=int, default=2, help="steps before the first round")
    parser.add_argument("--bf16", action="store_true", help="measure bfloat16 too")
    parser.add_argument("--compiled", action="store_true", help="measure torch.compile too")
    parser.add_argument("--rec", type=Path, help="record to load from, of the one work that --work names")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.rec is not None and options.work == "both":
        parser.error("--rec is the record of one work; name it with --work")
    chosen = WORKS.values() if options.work == "both" else [WORKS[options.work]]
    rows = [row for work in chosen for row in measure(work, options)]
    if options.json:
        print(json.dumps(rows))
        return
    for row in rows:
        print(
            f"{row['work']:32} {row['system']:20} {row['value']:8.2f} {row['unit']} ({row['lowest']} to "
            f"{row['highest']})  ours is {row['times']:.3f} times; waiting for data {row['waited']:.2%}"
        )


if __name__ == "__main__":
    main()
