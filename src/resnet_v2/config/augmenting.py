"""Settings of augmentation."""

from typing import Annotated, Literal

from resnet_v2.config.fields import MOST, Range, Share, Side, Usual, parse_steps, settings

EpochValues = tuple[tuple[int, int], ...]  # pairs of an epoch and the value from there on
Alpha = Annotated[float, Range(0, 1000)]  # of a Beta distribution


@settings
class Augmentation:
    """How training images are varied."""

    aug_level: Annotated[Literal[1, 2, 3], Usual("2, CIFAR stem 1")] = 2
    """1: crop and mirror; 2: and scale, aspect, colour; 3: and rotation, shear"""
    aug_schedule: str = ""
    """augmentation level from an epoch on, as 0:2,95:1; comes before --aug-level"""
    size_schedule: str = ""
    """side of the training images from an epoch on, as 0:24,6:32: small images first make the first epochs faster"""
    augment: Literal["levels", "rrc"] = "levels"
    """levels: what --aug-level says; rrc: random resized crop of 8 to 100 % of the area, and mirror"""
    pad: Annotated[Side, Usual("0, CIFAR stem 4")] = 0
    """pixels of grey around an image before it is cropped at random"""
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos", "area"] = "bilinear"
    """how images are resized and warped; area averages where rrc shrinks and is bilinear elsewhere"""
    mirror: bool = True
    """mirror every second image; --no-mirror for digits, letters and signs, which mean something else then"""
    mirror_in_turns: bool = False
    """mirror each image in every second epoch instead of at random: two epochs in a row show both sides"""
    trivial_augment: bool = False
    """change each image by one of TrivialAugment's 14 operations: shift, shear, turn, colours and others"""
    random_erasing: Share = 0.0
    """share of the images, such as 0.25, of which a box of 2 to 33 % of the area becomes grey"""
    mixup: Alpha = 0.0
    """alpha, such as 0.2: mix pairs of images, and their labels, by shares from Beta(alpha, alpha); 0: off"""
    cutmix: Alpha = 0.0
    """alpha, such as 1: exchange a box between pairs of images, and its share of the labels; 0: off"""

    def __post_init__(self) -> None:
        """Refuse a schedule that is none."""
        self.sizes(MOST)

    @property
    def mixes(self) -> bool:
        """Whether images are mixed with each other."""
        return bool(self.mixup or self.cutmix)

    @property
    def levels(self) -> EpochValues:
        """The level from an epoch on."""
        return parse_steps(self.aug_schedule, "aug_schedule", self.aug_level, Range(1, 3), "0:2,95:1")

    def sizes(self, largest: int) -> EpochValues:
        """The side of the training images from an epoch on, for a network of `largest` pixels."""
        example = f"0:{largest * 3 // 4},6:{largest}" if largest < MOST else "0:24,6:32"
        return parse_steps(self.size_schedule, "size_schedule", largest, Range(8, largest), example)
