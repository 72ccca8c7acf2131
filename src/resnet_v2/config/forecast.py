"""Settings of what is known before training: what it costs, and the runs that have names."""

from typing import Annotated, Literal

from resnet_v2.config.fields import Picture, Range, Side, Stem, Usual, Version, settings
from resnet_v2.errors import SettingError
from resnet_v2.machine import parse_bytes


@settings
class PlanConfig:
    """How much memory and time training takes, plain and by activation plans; nothing is computed, no GPU is needed."""

    depth: Annotated[int | None, Range(1, 10**6), Usual("200; of --whole-run all of 2016")] = None
    """number of layers"""
    batch_size: Annotated[int, Range(1, 10**6)] = 128
    """images per step"""
    budget: str = ""
    """memory of the whole process, such as 12GB: shows its plan, and every plan's largest batch in it"""
    image: Side = 0
    """side of the images in pixels, 0: 224, CIFAR stem 32"""
    stem: Annotated[Literal["", Stem], Usual("the one that depths were published with")] = ""
    """the network's kind"""
    width: Annotated[int, Range(1, 64)] = 1
    """multiplies the channels of every layer"""
    version: Version = "v2"
    """v2: pre-activation units; v1: the units of the first ResNet paper"""
    num_classes: Annotated[int, Range(1, 10**6)] = 1000
    """number of classes"""
    amp: Literal["off", "bf16"] = "off"
    """bf16: activations in bfloat16, as --amp auto of train computes on newer devices; off: in float32"""
    fused_backward: bool = False
    """as train --fused-backward"""
    gpu: str = ""
    """the GPU to forecast for, such as H100, A100, T4, or here: the one of this machine (default: a CPU)"""
    whole_run: bool = False
    """hours, euros and disk of a run on ImageNet on 1 to 64 GPUs, --batch-size images on each; wants --gpu"""
    epochs: Annotated[int, Range(1, 10**5)] = 120
    """epochs of --whole-run"""
    euros_per_hour: Annotated[float, Range(0, 10**4)] = 2.5
    """price of a GPU for an hour, for --whole-run"""
    json: bool = False
    """print one JSON list, one object per plan, or per number of GPUs"""
    out: Picture = None
    """picture of the memory over one step; the ending chooses the format (.png, .svg, .pdf)"""

    def __post_init__(self) -> None:
        """Refuse a whole run on a CPU, and of what is no ImageNet network."""
        if self.whole_run and not self.gpu:
            raise SettingError("`whole_run` is about GPUs; give one, such as `gpu` H100.")
        if self.whole_run and self.stem in ("cifar", "pooled", "dawn"):
            raise SettingError(
                f"`whole_run` is about ImageNet, and `stem` {self.stem} is none of its networks'; leave it out."
            )

    @property
    def budget_bytes(self) -> int:
        """The budget in bytes, 0: none."""
        return parse_bytes(self.budget, "budget")


@settings
class RecipesConfig:
    """List the runs that `train --recipe` knows: settings, hardware, errors published and measured, their sources."""

    json: bool = False
    """print one JSON list"""
    markdown: bool = False
    """print the table of docs/results.md: what was published, measured here, and what stands in for the rest"""
