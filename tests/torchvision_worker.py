"""Runs in an environment with torchvision: its operations of TrivialAugment on an image.

python torchvision_worker.py IMAGE.npy OUT FILL, with a line "OPERATION STRENGTH INTERPOLATION" for each on the standard
input; the results are OUT/0.npy and so on.
"""

import sys

import numpy as np
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.autoaugment import _apply_op

image = torch.from_numpy(np.load(sys.argv[1])).permute(2, 0, 1)
for number, line in enumerate(sys.stdin):
    operation, strength, interpolation = line.split()
    result = _apply_op(image, operation, float(strength), InterpolationMode(interpolation), [float(sys.argv[3])] * 3)
    np.save(f"{sys.argv[2]}/{number}.npy", result.permute(1, 2, 0).numpy())
