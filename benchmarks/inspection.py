"""How many labels, made wrong on purpose, `resnet-v2 inspect` finds, and what a temperature does to the answers.

    python benchmarks/inspection.py cifar10_val.rec

Prints, for each seed, the share of the labels made wrong that are found and the share of those found that were made
wrong. Then the calibration error before and after, on the half of the pictures that the temperature was not fitted to,
for eight ways to halve them.
Among those found are labels that were wrong before anything was changed: they count as mistakes.
"""

import argparse
import time
from pathlib import Path

import numpy as np

from resnet_v2.inference.classifier import load
from resnet_v2.inspection.calibration import calibrate
from resnet_v2.inspection.labelled import open_labelled
from resnet_v2.inspection.looking import look
from resnet_v2.inspection.wrong_labels import find_wrong_labels

HALVES = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rec", type=Path, help="a .rec, or a folder of class folders, whose labels are right")
    parser.add_argument("--prefix", default="", help="the network (default: the one that ships)")
    parser.add_argument("--wrong", type=float, default=0.05, help="share of the labels that are made wrong")
    parser.add_argument("--seeds", type=int, default=3, help="how often, each time other labels")
    asked = parser.parse_args()
    begun = time.perf_counter()
    looked = look([open_labelled(asked.rec)], load(asked.prefix))
    labels = looked.labels
    classes = int(labels.max()) + 1
    print(f"{len(labels)} pictures of {classes} classes, looked at in {time.perf_counter() - begun:.0f} s")
    for seed in range(asked.seeds):
        rng, given = np.random.default_rng(seed), labels.copy()
        changed = rng.permutation(len(labels))[: round(asked.wrong * len(labels))]
        given[changed] = (labels[changed] + rng.integers(1, classes, len(changed))) % classes
        begun = time.perf_counter()
        found = {one.index for one in find_wrong_labels(looked.features, given).found}
        right = len(found & set(changed.tolist()))
        print(
            f"seed {seed}: {len(changed)} made wrong, {len(found)} found: {100 * right / len(changed):.1f} % of them "
            f"at {100 * right / max(1, len(found)):.1f} % precision, {time.perf_counter() - begun:.0f} s"
        )
    for half in range(HALVES):
        its = calibrate(looked.logits, labels, 1.0, half)
        print(
            f"half {half}: temperature {its.temperature:.3f}: calibration error {100 * its.error_before:.2f} -> "
            f"{100 * its.error_after:.2f} points, by chance {100 * its.chance:.2f}, loss {its.loss_before:.4f} -> "
            f"{its.loss_after:.4f}, {its.pictures} pictures"
        )


if __name__ == "__main__":
    main()
