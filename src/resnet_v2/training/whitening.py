"""The first convolution made of the training images' own patterns, before the first step."""

from contextlib import closing

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resnet_v2.data.filling import Centred
from resnet_v2.data.labels import Labels
from resnet_v2.data.loader import Reading, batches
from resnet_v2.data.record_set import Records
from resnet_v2.networks.resnet import ResNet

Numbers = NDArray[np.float64]

PATCHES = 2_000_000  # that are looked at, of at most MOST_IMAGES images
MOST_IMAGES = 2000
AT_ONCE = 100  # images
SMALLEST = 5e-4  # added to a variance, so that patterns which images hardly have are not blown up to noise


@torch.no_grad()
def whiten_stem(network: ResNet, reader: Records, size: int, labels: Labels, reading: Reading) -> None:
    """Give `conv0` the principal components of the record's patches, each with both signs, scaled to variance 1.

    The components with the largest variance come first; filters beyond twice their number stay as they are. The images
    are taken from all over the record, `size` pixels of their centres, normalised as `bn_data` does. Jordan, "94% on
    CIFAR-10 in 3.29 Seconds on a Single GPU", arXiv 2404.00498, section 3.1, where the filters stay fixed; here they
    are trained on.
    """
    conv = network.conv0
    kernel, stride = conv.kernel_size[0], conv.stride[0]
    of_image = ((size - kernel) // stride + 1) ** 2
    count = min(len(reader), MOST_IMAGES, -(-PATCHES // of_image))
    ordinals = np.linspace(0, len(reader) - 1, count).astype(np.int64)
    steps = [ordinals[start : start + AT_ONCE] for start in range(0, count, AT_ONCE)]
    total, products, seen = torch.zeros(1), torch.zeros(1), 0
    with closing(batches(reader, steps, Centred(size), (size, size, 3), labels, reading)) as coming:
        for batch in coming:
            patches = _patches(torch.from_numpy(batch.images), kernel, stride)
            total, products, seen = total + patches.sum(0), products + patches.T @ patches, seen + len(patches)
    components = _components((total / seen).numpy(), (products / seen).numpy(), kernel * kernel)
    pairs = min(len(components), conv.out_channels // 2)
    filters = torch.from_numpy(components[:pairs]).view(pairs, 3, kernel, kernel).to(conv.weight)
    conv.weight[: 2 * pairs] = torch.cat([filters, -filters])


def _patches(images: Tensor, kernel: int, stride: int) -> Tensor:
    """n x H x W x 3, uint8 -> every window that lies within, patches x 3 kernel^2 in the order of a filter, float64."""
    windows = images.permute(0, 3, 1, 2).double().unfold(2, kernel, stride).unfold(3, kernel, stride)
    return windows.permute(0, 2, 3, 1, 4, 5).flatten(0, 2).flatten(1)


def _components(mean: Numbers, squares: Numbers, pixels: int) -> Numbers:
    """The mean of patches and of their products (3 x pixels of a patch) -> components x 3 pixels, for images whose
    channels have mean 0 and variance 1; the largest variance first.
    """
    of_channel = mean.reshape(3, pixels).mean(1)
    spread = np.sqrt(np.maximum(squares.diagonal().reshape(3, pixels).mean(1) - of_channel**2, SMALLEST))
    scale, centre = spread.repeat(pixels), of_channel.repeat(pixels)
    covariance = squares - np.outer(mean, centre) - np.outer(centre, mean) + np.outer(centre, centre)
    variances, vectors = np.linalg.eigh(covariance / np.outer(scale, scale))
    found: Numbers = vectors / np.sqrt(np.maximum(variances, 0) + SMALLEST)
    return found.T[::-1].copy()
