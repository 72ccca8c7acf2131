"""The first convolution made of the training images' own patterns, before the first step."""

from contextlib import closing

import numpy as np
import torch
from torch import Tensor

from resnet_v2.data.filling import Centred
from resnet_v2.data.labels import Labels
from resnet_v2.data.loader import Reading, batches
from resnet_v2.data.record_set import Records
from resnet_v2.networks.resnet import ResNet

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
    filters = _components(total / seen, products / seen, kernel * kernel)
    pairs = min(len(filters), conv.out_channels // 2)
    filters = filters[:pairs].view(pairs, 3, kernel, kernel).to(conv.weight)
    conv.weight[: 2 * pairs] = torch.cat([filters, -filters])


def _patches(images: Tensor, kernel: int, stride: int) -> Tensor:
    """n x H x W x 3, uint8 -> every window that lies within, patches x 3 kernel^2 in the order of a filter, float64."""
    windows = images.permute(0, 3, 1, 2).double().unfold(2, kernel, stride).unfold(3, kernel, stride)
    return windows.permute(0, 2, 3, 1, 4, 5).flatten(0, 2).flatten(1)


def _components(mean: Tensor, squares: Tensor, pixels: int) -> Tensor:
    """The mean of patches and of their products (3 x pixels of a patch) -> components x 3 pixels, for images whose
    channels have mean 0 and variance 1; the largest variance first.
    """
    of_channel = mean.view(3, pixels).mean(1)
    spread = (squares.diagonal().view(3, pixels).mean(1) - of_channel**2).clamp_min(SMALLEST).sqrt()
    scale = spread.repeat_interleave(pixels)
    centre = of_channel.repeat_interleave(pixels)
    covariance = squares - torch.outer(mean, centre) - torch.outer(centre, mean) + torch.outer(centre, centre)
    variances, vectors = torch.linalg.eigh(covariance / torch.outer(scale, scale))
    return (vectors / (variances.clamp_min(0) + SMALLEST).sqrt()).T.flip(0)
