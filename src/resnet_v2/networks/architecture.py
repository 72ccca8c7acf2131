"""What a network is made of: depths, stems and versions. No torch, so that a command can ask before it needs one."""

from dataclasses import dataclass
from typing import get_args

from resnet_v2.config.fields import Stem, Version
from resnet_v2.errors import ResnetError

EPSILON = 2e-5

IMAGENET_UNITS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
    269: (3, 30, 48, 8),
}
# Of no publication: the 200's stages stretched, to show how deep a network a given memory trains.
DEEPER_UNITS = {1001: (15, 122, 181, 15)}


@dataclass(frozen=True)
class Architecture:
    """What a network is made of; enough to build it, and saved in every checkpoint's header.

    `width` multiplies the channels of every layer (Zagoruyko, Komodakis: "Wide Residual Networks", arXiv 1605.07146).
    """

    depth: int
    classes: int
    stem: Stem
    version: Version = "v2"
    width: int = 1

    def __post_init__(self) -> None:
        """Refuse what cannot be built: ResnetError names the depths, versions and stems that exist."""
        for name, most in (("depth", 10**4), ("classes", 10**6), ("width", 64)):
            value = getattr(self, name)
            if type(value) is not int or value > most:
                raise ResnetError(f"A network has a {name} that is a whole number up to {most}, not {value!r}.")
        if self.stem not in get_args(Stem) or self.version not in get_args(Version):
            stems = ", ".join(get_args(Stem))
            raise ResnetError(f"There is no {self.stem} stem of {self.version}; stems are {stems}, versions v1 and v2.")
        if self.version == "v1" and self.stem in ("timm", "pooled", "dawn"):
            raise ResnetError(f"The {self.stem} stem is of version v2 only; give `version` v2 or another stem.")
        if (self.stem, self.version) == ("gluon", "v2") and self.bottleneck:
            raise ResnetError("The gluon stem of v2 is for depths 18 and 34; with more layers it is the imagenet stem.")
        if self.width < 1:
            raise ResnetError(f"A network of width {self.width} has no channels; give `width` 1 or more.")
        if self.classes < 1:
            raise ResnetError(f"A network needs at least one class, not {self.classes}; give `num_classes`.")
        _ = self.units

    @property
    def large_images(self) -> bool:
        """Whether the first convolution is 7x7 with stride 2, and four stages of ImageNet's depths follow the stem."""
        return self.stem in ("imagenet", "timm", "gluon")

    @property
    def norm_of_images(self) -> bool:
        """Whether the network normalises its images first, by `bn_data`."""
        return self.version != "v1" or self.stem == "gluon"

    @property
    def projects_first(self) -> bool:
        """Whether the shortcut of the first stage's first unit is projected, which its channels need not want."""
        return self.stem != "gluon" or self.filters[0] != self.filters[1]

    @property
    def pools(self) -> bool:
        """Whether the stem ends in max pooling with stride 2."""
        return self.stem not in ("cifar", "dawn")

    @property
    def stages_pool(self) -> bool:
        """Whether every stage begins with a convolution and max pooling, and takes no stride elsewhere."""
        return self.stem == "dawn"

    @property
    def norm_behind_conv0(self) -> bool:
        """Whether a BatchNorm and a ReLU follow the first convolution."""
        return self.stem in ("imagenet", "pooled", "gluon") or self.version == "v1"

    @property
    def units(self) -> tuple[int, ...]:
        """Units of each stage."""
        if self.large_images:
            tables = IMAGENET_UNITS | DEEPER_UNITS
            if self.depth not in tables:
                depths = ", ".join(str(depth) for depth in tables)
                raise ResnetError(f"There is no ImageNet network of depth {self.depth}; depths are {depths}.")
            return tables[self.depth]
        if self.stages_pool:
            units, rest = divmod(self.depth - 5, 6)
            if rest or units < 1:
                raise ResnetError(f"There is no dawn network of depth {self.depth}; depths are 6n+5 (11, 17, 23, ...).")
            return (units,) * 3
        layers_per_unit = 3 if self.bottleneck else 2
        units, rest = divmod(self.depth - 2, 3 * layers_per_unit)
        if rest or units < 1:
            raise ResnetError(
                f"There is no CIFAR network of depth {self.depth}; depths are 6n+2 below 164 (8, 14, 20, 26, ..., 56, "
                "110) and 9n+2 (11, 29, ..., 164, 1001)."
            )
        return (units,) * 3

    @property
    def bottleneck(self) -> bool:
        """Whether the units are 1x1-3x3-1x1 rather than 3x3-3x3."""
        if self.large_images:
            return self.depth >= 50
        if self.stages_pool:
            return False
        return self.depth >= 164 or (self.depth - 2) % 6 != 0

    @property
    def filters(self) -> tuple[int, ...]:
        """Channels after the stem and after each stage."""
        large, small = (64, 64, 128, 256, 512), (16, 16, 32, 64)
        if self.bottleneck:
            large, small = (64, 256, 512, 1024, 2048), (16, 64, 128, 256)
        if self.stages_pool:
            small = (16, 32, 64, 128)
        return tuple(self.width * count for count in (large if self.large_images else small))

    def smallest_side(self, size: int) -> int:
        """Side of the last stage's maps for images of `size` pixels."""
        return -(-size // (32 if self.large_images else 8 if self.pools or self.stages_pool else 4))

    @property
    def image_size(self) -> int:
        """Side of the square images it is trained on, in pixels."""
        return 224 if self.large_images else 32
