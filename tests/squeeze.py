"""A kind of unit that the package does not have, for the tests: one description and nothing else."""

from collections.abc import Iterator

from resnet_v2.networks.description import Operation
from resnet_v2.networks.units import Place, pre_activation


def squeeze_and_excitation(place: Place) -> Iterator[Operation]:
    """A pre-activation unit whose branch is scaled channel by channel (Hu et al., arXiv 1709.01507), without biases."""
    *branch, total = pre_activation(place)
    x, shortcut = total.inputs
    yield from branch
    yield Operation("mean", "squeeze", (x,))
    yield Operation("convolution", "down", ("squeeze",), place.outputs // 4)
    yield Operation("relu", "excited", ("down",))
    yield Operation("convolution", "up", ("excited",), place.outputs)
    yield Operation("sigmoid", "gate", ("up",))
    yield Operation("multiply", "scaled", (x, "gate"))
    yield Operation("add", "sum", ("scaled", shortcut))
