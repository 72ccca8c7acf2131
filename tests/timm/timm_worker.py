"""Runs in an environment with timm: random weights into a file, and the logits of images that are in another.

python timm_worker.py MODEL IMAGES.npy WEIGHTS.safetensors LOGITS.npy
"""

import sys

import numpy as np
import torch
from safetensors.torch import save_file

# torchvision, which timm imports but does not need here, may be built for another PyTorch than the one that is there.
# It then lacks its operators and refuses to be imported, unless nobody asks for them.
register_fake = torch.library.register_fake
torch.library.register_fake = lambda *_, **__: lambda function: function
import timm  # noqa: E402

torch.library.register_fake = register_fake

name, images_path, weights_path, logits_path = sys.argv[1:]
torch.manual_seed(0)
network = timm.create_model(name, pretrained=False, num_classes=1000)
mean, deviation = (torch.tensor(network.pretrained_cfg[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
images = (torch.from_numpy(np.load(images_path)).permute(0, 3, 1, 2).float() / 255 - mean) / deviation
for module in network.modules():
    if isinstance(module, torch.nn.BatchNorm2d):
        module.weight.data.uniform_(0.3, 0.7)
        module.bias.data.uniform_(-0.5, 0.5)
        module.momentum = 1.0
with torch.no_grad():
    network.train()(images)  # moving statistics that belong to the weights
    network.head.fc.weight.data.normal_(0, 0.1)
    logits = network.eval()(images)
save_file({key: value.contiguous() for key, value in network.state_dict().items()}, weights_path)
np.save(logits_path, logits.numpy())
