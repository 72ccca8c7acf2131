"""What describes a piece of a network: operations with names. No torch; everything else is read off the description.

Operations stand in the order in which they run. Where branches meet, the first input is the main path, the second the
shortcut.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

Kind = Literal["convolution", "dense", "norm", "relu", "sigmoid", "max_pool", "mean", "add", "multiply"]

INPUT = "input"
# What takes long to compute again, unlike the elementwise rest.
HEAVY = ("convolution", "dense")


class Operation(NamedTuple):
    """One operation; its `name` is that of its module, if it has parameters, and of the value that it gives.

    `channels`, `kernel` and `stride` are those of convolutions (without bias), dense layers and max pooling; windows
    reach over the border by half of the kernel. `mean` is that of each channel, N x C x 1 x 1; `dense` takes it flat,
    in heads alone. A fixed gamma is 1.
    """

    kind: Kind
    name: str
    inputs: tuple[str, ...] = (INPUT,)
    channels: int = 0
    kernel: int = 1
    stride: int = 1
    fixed_gamma: bool = False


class Step(NamedTuple):
    """An operation and the ReLU that stands right behind a BatchNorm or a sum, if any: one pass over memory.

    `name`: of the value that it gives. `overwrites`: its first input, which nobody else wants. `last_uses`: the values
    that nobody takes after it.
    """

    name: str
    operation: Operation
    relu: bool
    overwrites: bool
    last_uses: tuple[str, ...]

    @property
    def heavy(self) -> bool:
        """Whether it takes long to compute again."""
        return self.operation.kind in HEAVY


@dataclass(frozen=True)
class Description:
    """The operations of a stem, a unit or a head, for an input of so many channels; the last one gives the output.

    For the backward pass a value is a point or follows elementwise from points: from the input and from what
    convolutions give. `points` are those of which the backward pass needs something.
    """

    channels: int
    operations: tuple[Operation, ...]

    def __post_init__(self) -> None:
        _ = self.steps  # found before torch.compile looks, which does not understand how a property is cached

    @cached_property
    def output(self) -> str:
        """The name of the last value."""
        return self.operations[-1].name if self.operations else INPUT

    @cached_property
    def named(self) -> dict[str, Operation]:
        """The operations by name."""
        return {operation.name: operation for operation in self.operations}

    @cached_property
    def widths(self) -> dict[str, int]:
        """The channels of every value."""
        found = {INPUT: self.channels}
        for operation in self.operations:
            found[operation.name] = operation.channels or found[operation.inputs[0]]
        return found

    @cached_property
    def users(self) -> dict[str, list[Operation]]:
        """The operations that take each value."""
        found: dict[str, list[Operation]] = {name: [] for name in (INPUT, *self.named)}
        for operation in self.operations:
            for name in operation.inputs:
                found[name].append(operation)
        return found

    @cached_property
    def layers(self) -> tuple[Operation, ...]:
        """The operations with parameters, those of the main path before those of the shortcut."""
        found = dict.fromkeys(self._depth_first(self.output))
        return tuple(operation for operation in found if operation.kind in (*HEAVY, "norm"))

    def _depth_first(self, name: str) -> Iterator[Operation]:
        if operation := self.named.get(name):
            for each in operation.inputs:
                yield from self._depth_first(each)
            yield operation

    @cached_property
    def last_of_branch(self) -> Operation:
        """The last layer with parameters on the main path before the one sum; ValueError where there are more."""
        (operation,) = (each for each in self.operations if each.kind == "add")
        while operation.kind not in (*HEAVY, "norm"):
            operation = self.named[operation.inputs[0]]
        return operation

    @cached_property
    def folding(self) -> tuple[tuple[str, str], ...]:
        """Convolutions with a BatchNorm right behind them that alone takes what they give, by their names."""
        pairs = ((operation.inputs[0], operation.name) for operation in self.operations if operation.kind == "norm")
        return tuple((x, norm) for x, norm in pairs if self._made_by(x, "convolution") and len(self.users[x]) == 1)

    def _made_by(self, name: str, *kinds: Kind) -> bool:
        return name != INPUT and self.named[name].kind in kinds

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """The operations, each with its ReLU."""
        found, left = [], set(self.users)
        for operation in reversed(self.operations):
            if self._joins(operation):
                continue
            followers = [user for user in self.users[operation.name] if self._joins(user)]
            last_uses = tuple(name for name in dict.fromkeys(operation.inputs) if name in left)
            left.difference_update(last_uses)
            name = followers[0].name if followers else operation.name
            found.append(Step(name, operation, bool(followers), self._overwrites(operation), last_uses))
        return tuple(reversed(found))

    def _joins(self, operation: Operation) -> bool:
        """Whether it is a ReLU in one step with what stands before it."""
        (x, *_), before = operation.inputs, ("norm", "add")
        return operation.kind == "relu" and self._made_by(x, *before) and len(self.users[x]) == 1  # type: ignore[arg-type]

    def _overwrites(self, operation: Operation) -> bool:
        """Whether it may overwrite its first input: not what the backward pass of that one's maker needs."""
        x = operation.inputs[0]
        fresh = self._made_by(x, "convolution", "norm", "add", "multiply") and len(self.users[x]) == 1
        return operation.kind == "add" and fresh

    @cached_property
    def step(self) -> dict[str, Step]:
        """The steps by the values that they give."""
        return {step.name: step for step in self.steps}

    @cached_property
    def sources(self) -> dict[str, tuple[str, ...]]:
        """The input and the convolutions from which each value follows elementwise; a convolution's is itself."""
        found: dict[str, tuple[str, ...]] = {INPUT: (INPUT,)}
        for step in self.steps:
            below = (source for name in step.operation.inputs for source in found[name])
            found[step.name] = (step.name,) if step.heavy else tuple(dict.fromkeys(below))
        return found

    @cached_property
    def needs(self) -> dict[str, tuple[str, ...]]:
        """The values that the backward pass of each step looks at, as autograd keeps them."""
        return {step.name: tuple(_needs(step)) for step in self.steps}

    @cached_property
    def held(self) -> dict[str, tuple[str, ...]]:
        """Every value that the backward pass looks at, and the points from which it is computed again."""
        looked_at = dict.fromkeys(name for names in self.needs.values() for name in names)
        every = {each: None for name in looked_at for each in (INPUT, name, *self.sources[name])}
        return {name: tuple(dict.fromkeys((name, *self.sources[name]))) for name in every}

    @cached_property
    def points(self) -> tuple[str, ...]:
        """The points that the backward pass needs, the input first."""
        return (INPUT, *(layer.name for layer in self.layers if layer.kind in HEAVY and layer.name in self.held))

    @cached_property
    def activations(self) -> tuple[str, ...]:
        """What autograd keeps besides the points, but for the output, which belongs to what follows."""
        return tuple(name for name in self.held if name not in (*self.points, self.output))


def _needs(step: Step) -> Iterator[str]:
    kind = step.operation.kind
    if kind not in ("add", "mean", "relu"):
        yield from step.operation.inputs
    if step.relu or kind == "relu":
        yield step.name
