"""Grad-CAM: where in an image a network found what it says (Selvaraju et al., arXiv 1610.02391)."""

from typing import cast

import cv2
import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray

from resnet_v2.data.jpeg import Image
from resnet_v2.networks.resnet import ResNet
from resnet_v2.training.evaluate import evaluating
from resnet_v2.training.feed import array_to_input

# The share of the heat in the mixture with the image.
HEAT_SHARE = 0.5


def heat_map(network: ResNet, image: Image, class_index: int, other: int | None = None) -> NDArray[np.float32]:
    """How much each place of an image (H x W x 3) speaks for a class, H x W, 0 to 1.

    With `other`, what speaks for the class rather than for that one. The last maps before the pooling are weighted by
    the mean gradient of the logit (or of the difference of two) and summed; what is negative counts as 0.
    """
    with evaluating(network):
        maps = network.maps(array_to_input(image[None], network.fc1.weight.device))[0]
        # Behind a mean over all places and one dense layer, that layer's weights are the gradient but for a factor.
        weight = network.fc1.weight[class_index]
        if other is not None:
            weight = weight - network.fc1.weight[other]
        heat = F.relu((weight[:, None, None] * maps).sum(0)).cpu().numpy()
    size = (image.shape[1], image.shape[0])
    enlarged = cv2.resize(heat / max(float(heat.max()), 1e-12), size, interpolation=cv2.INTER_CUBIC)
    return cast(NDArray[np.float32], enlarged.clip(0, 1).astype(np.float32))


def overlay(image: Image, heat: NDArray[np.float32]) -> Image:
    """An image with its heat map over it, blue (nothing) to red."""
    colours = cv2.applyColorMap((255 * heat).astype(np.uint8), cv2.COLORMAP_JET)[:, :, ::-1]
    return cast(Image, cv2.addWeighted(image, 1 - HEAT_SHARE, np.ascontiguousarray(colours), HEAT_SHARE, 0))
