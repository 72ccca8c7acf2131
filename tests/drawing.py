"""What is drawn for one image, for tests that look at one."""

import numpy as np

from resnet_v2.data import augment
from resnet_v2.data.augment import Augmentation, Draw
from resnet_v2.data.philox import Streams
from resnet_v2.data.rows import Box

NOWHERE = Box(0, 0, 0, 0)


def generator(seed: int, epoch: int, ordinal: int) -> Streams:
    """The random numbers of one image."""
    return Streams(seed, epoch, np.array([ordinal]))


def draw(plan: Augmentation, height: int, width: int, streams: Streams) -> Draw:
    """What is drawn for one image."""
    return augment.draw(plan, np.array([height]), np.array([width]), streams)[0]
