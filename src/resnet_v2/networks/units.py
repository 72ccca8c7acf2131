"""The stems, units and heads of residual networks, described as data. No torch.

Everything is read off these descriptions: modules, activation plans and their costs, what can be folded, MXNet's symbol
and the ONNX graph. A new kind of unit is one function here, which `units` chooses.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import NamedTuple

from resnet_v2.config.fields import Version
from resnet_v2.networks.architecture import Architecture
from resnet_v2.networks.description import INPUT, Description, Operation


class Place(NamedTuple):
    """Where a unit stands: its channels, its stride, and whether its shortcut is projected, as it begins a stage.

    Input: N x inputs x H x W. Output: N x outputs x H/stride x W/stride.
    """

    inputs: int
    outputs: int
    stride: int
    projected: bool
    bottleneck: bool

    def layers(self, strided: int) -> list[tuple[int, int, int]]:
        """Channels, kernel and stride of the main path's convolutions: 3x3 twice, or 1x1, 3x3, 1x1 (bottleneck).

        The stride is that of the first convolution, in a bottleneck of the 1x1 or the 3x3, as `strided` says.
        """
        inner, outputs, stride = self.outputs // 4, self.outputs, self.stride
        if not self.bottleneck:
            return [(outputs, 3, stride), (outputs, 3, 1)]
        first, second = (stride, 1) if strided == 1 else (1, stride)
        return [(inner, 1, first), (inner, 3, second), (outputs, 1, 1)]


def pre_activation(place: Place) -> Iterator[Operation]:
    """BatchNorm and ReLU before every convolution; the sum is left as it is (arXiv 1603.05027, figure 1b).

    The first unit of every stage takes its shortcut from the activated input through a 1x1 convolution `sc`.
    """
    x = INPUT
    for number, layer in enumerate(place.layers(strided=3), start=1):
        yield Operation("norm", f"bn{number}", (x,))
        yield Operation("relu", f"relu{number}", (f"bn{number}",))
        if number == 1 and place.projected:
            yield Operation("convolution", "sc", ("relu1",), place.outputs, 1, place.stride)
        x = f"conv{number}"
        yield Operation("convolution", x, (f"relu{number}",), *layer)
    yield Operation("add", "sum", (x, "sc" if place.projected else INPUT))


def pooling(place: Place) -> Iterator[Operation]:
    """A convolution and max pooling, which halve the sides and change the channels, and a pre-activation unit behind.

    The first unit of every stage of a dawn network. Nothing is projected: the shortcut is what the pooling gives.
    """
    yield Operation("norm", "bn1")
    yield Operation("relu", "relu1", ("bn1",))
    yield Operation("convolution", "conv1", ("relu1",), place.outputs, 3)
    yield Operation("max_pool", "pool1", ("conv1",), kernel=3, stride=2)
    x = "pool1"
    for number in (2, 3):
        yield Operation("norm", f"bn{number}", (x,))
        yield Operation("relu", f"relu{number}", (f"bn{number}",))
        x = f"conv{number}"
        yield Operation("convolution", x, (f"relu{number}",), place.outputs, 3)
    yield Operation("add", "sum", (x, "pool1"))


def post_activation(place: Place) -> Iterator[Operation]:
    """Convolution, BatchNorm, ReLU; the sum is activated (arXiv 1512.03385).

    As in Caffe and MXNet the stride stands on the first convolution (a bottleneck's 1x1), and the first unit of every
    stage projects its shortcut (`conv1sc`, then the BatchNorm `sc`).
    """
    layers = place.layers(strided=1)
    if place.projected:
        yield Operation("convolution", "conv1sc", (INPUT,), place.outputs, 1, place.stride)
        yield Operation("norm", "sc", ("conv1sc",))
    x = INPUT
    for number, layer in enumerate(layers, start=1):
        yield Operation("convolution", f"conv{number}", (x,), *layer)
        yield Operation("norm", f"bn{number}", (f"conv{number}",))
        if number < len(layers):
            x = f"relu{number}"
            yield Operation("relu", x, (f"bn{number}",))
    yield Operation("add", "sum", (f"bn{len(layers)}", "sc" if place.projected else INPUT))
    yield Operation("relu", "relu3", ("sum",))


UNITS: dict[Version, Callable[[Place], Iterator[Operation]]] = {"v1": post_activation, "v2": pre_activation}


@lru_cache(maxsize=256)
def _described(unit: Callable[[Place], Iterator[Operation]], place: Place) -> Description:
    """One object for all units that are alike, whose properties are found once."""
    return Description(place.inputs, tuple(unit(place)))


def stem(architecture: Architecture) -> Description:
    """N x 3 x H x W images -> the first unit's input: N x 64 x H/4 x W/4, N x 16 x H x W (CIFAR; pooled: half)."""
    operations = []
    if architecture.norm_of_images:
        operations.append(Operation("norm", "bn_data", fixed_gamma=True))
    window = (7, 2) if architecture.large_images else (3, 1)
    images = "bn_data" if operations else INPUT
    operations.append(Operation("convolution", "conv0", (images,), architecture.filters[0], *window))
    if architecture.norm_behind_conv0:
        operations += [Operation("norm", "bn0", ("conv0",)), Operation("relu", "relu0", ("bn0",))]
    if architecture.pools:
        operations.append(Operation("max_pool", "pooling0", (operations[-1].name,), kernel=3, stride=2))
    return Description(3, tuple(operations))


def head(architecture: Architecture) -> Description:
    """N x filters x h x w maps -> N x classes logits; v2 activates the maps first."""
    operations = []
    if architecture.version != "v1":
        operations = [Operation("norm", "bn1"), Operation("relu", "relu1", ("bn1",))]
    maps = operations[-1].name if operations else INPUT
    operations.append(Operation("mean", "pool1", (maps,)))
    operations.append(Operation("dense", "fc1", ("pool1",), architecture.classes))
    return Description(architecture.filters[-1], tuple(operations))


def units(architecture: Architecture) -> dict[str, Description]:
    """The residual units from the input on, by their names: `stage1.unit1`."""
    found = {}
    filters = architecture.filters
    for stage, count in enumerate(architecture.units):
        for number in range(count):
            first = number == 0
            unit = pooling if first and architecture.stages_pool else UNITS[architecture.version]
            inputs, stride = filters[stage] if first else filters[stage + 1], 2 if first and stage else 1
            projected = first and (stage > 0 or architecture.projects_first)
            place = Place(inputs, filters[stage + 1], stride, projected, architecture.bottleneck)
            found[f"stage{stage + 1}.unit{number + 1}"] = _described(unit, place)
    return found


def operations(architecture: Architecture) -> Iterator[Operation]:
    """All operations of a network in order, under whole names: `stage1.unit1.conv2`; they begin at `INPUT`."""
    x = INPUT
    middle = [(f"{name}.", description) for name, description in units(architecture).items()]
    for prefix, description in [("", stem(architecture)), *middle, ("", head(architecture))]:
        names = {INPUT: x} | {name: prefix + name for name in description.named}
        for operation in description.operations:
            inputs = tuple(names[name] for name in operation.inputs)
            yield operation._replace(name=names[operation.name], inputs=inputs)
        x = names[description.output]
