"""Runs in an environment with torchvision: what its transforms draw, and two images mixed by each of their pairs.

python drawing_worker.py SIZE COUNT ALPHA OUT.npz
"""

import sys
from typing import Any

import numpy as np
import torch

# torchvision may be built for another PyTorch than the one that is there; see timm_worker.py.
register_fake = torch.library.register_fake
torch.library.register_fake = lambda *_, **__: lambda function: function
from torchvision import transforms  # noqa: E402
from torchvision.transforms import v2  # noqa: E402

torch.library.register_fake = register_fake

size, count = int(sys.argv[1]), int(sys.argv[2])
torch.manual_seed(0)
images = torch.stack([torch.zeros(3, size, size), torch.ones(3, size, size)])
labels = torch.tensor([0, 1])
mixup, cutmix = v2.MixUp(alpha=float(sys.argv[3]), num_classes=2), v2.CutMix(alpha=1.0, num_classes=2)
found: dict[str, list[Any]] = {"mixup": [], "cutmix": [], "cutmix_pixels": [], "erased": [], "crops": []}
for _ in range(count):
    found["mixup"].append(float(mixup(images, labels)[1][0, 0]))
    mixed, shares = cutmix(images, labels)
    found["cutmix"].append(float(shares[0, 1]))
    found["cutmix_pixels"].append(float(mixed[0, 0].mean()))
    gone = v2.RandomErasing(p=1.0)(images[1:])[0, 0] == 0
    found["erased"].append([int(gone.any(1).sum()), int(gone.any(0).sum())])
    found["crops"].append(
        transforms.RandomResizedCrop.get_params(torch.empty(3, 400, 500), (0.08, 1.0), (3 / 4, 4 / 3))
    )
pair = 255 * torch.rand(2, 3, size, size)
mixed, shares = mixup(pair, labels)
arrays: dict[str, Any] = {name: np.array(values, np.float64) for name, values in found.items()}
np.savez(sys.argv[4], pair=pair.numpy(), mixed=mixed.numpy(), shares=shares.numpy(), **arrays)
