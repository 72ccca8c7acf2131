"""Bytes and time of every link of a chain for one image, counted from its layers' shapes; nothing is computed.

Time is in seconds of a device, whose `Speeds` are given.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch.utils.flop_counter import conv_flop_count

from resnet_v2.networks.description import INPUT, Description, Step
from resnet_v2.networks.modules import Link
from resnet_v2.recompute import speeds
from resnet_v2.recompute.speeds import Speeds

INDEX_BYTES = 8


@dataclass(frozen=True)
class LinkCost:
    """A link's bytes and time for one image.

    `points`: bytes of every point; `activations`: of what else plain autograd keeps, `indices` of a pool's maxima
    apart. `again`: time to compute what a convolution gives anew from the points before it, `output_again` the output
    from the last ones. `forward_peak`: bytes of temporary tensors while it runs; `backward_peak`: the same in its
    backward pass, gradients included, its points not; `plain_peak`: without recomputation. `renormalise`: time of
    computing its activations once more. `kernels`: how many a step starts for it.
    """

    points: dict[str, int]
    activations: int
    indices: int
    output: int
    again: dict[str, float]
    output_again: float
    renormalise: float
    forward: float
    backward: float
    forward_peak: int
    backward_peak: int
    plain_peak: int
    kernels: int

    @property
    def whole(self) -> int:
        """Bytes of all points."""
        return sum(self.points.values())


def link_costs(
    links: Sequence[Link], image_size: int, element_bytes: int = 4, device: Speeds = speeds.CPU, batch_size: int = 128
) -> tuple[LinkCost, ...]:
    """The costs of a network's links for images of `image_size` pixels a side; `element_bytes` is 2 under bf16.

    `batch_size` images share the start of a kernel.
    """
    costs: list[LinkCost] = []
    side = image_size
    for link in links:
        count = _Count(link.description, side, device, element_bytes, device.launch / batch_size)
        costs.append(count.cost(element_bytes if costs else 4))
        side = count.sides[link.description.output]
    return tuple(costs)


class _Count:
    """The sides and elements of a description's values for one image, and what follows from them.

    `start`: seconds of an image's share in starting a kernel; none takes less.
    """

    def __init__(self, description: Description, side: int, device: Speeds, element: int, start: float) -> None:
        self.description, self.device, self.element, self.start = description, device, element, start
        self.sides = {INPUT: side}
        for step in description.steps:
            operation = step.operation
            kernel, stride = operation.kernel, operation.stride
            before = self.sides[operation.inputs[0]]
            after = (before + 2 * (kernel // 2) - kernel) // stride + 1
            self.sides[step.name] = 1 if operation.kind == "mean" else after
        self.sizes = {name: description.widths[name] * side**2 for name, side in self.sides.items()}

    def cost(self, input_element: int) -> LinkCost:
        its, sizes, passes, element = self.description, self.sizes, self.device.passes, self.element
        heavy, light = [step for step in its.steps if step.heavy], [step for step in its.steps if not step.heavy]
        forward = sum(self._heavy(step) for step in heavy)
        redone = [step for step in light if step.name in its.activations or step.operation.kind == "norm"]
        norms = [step for step in light if step.operation.kind == "norm"]
        return LinkCost(
            points={point: sizes[point] * (input_element if point == INPUT else element) for point in its.points},
            activations=sum(sizes[name] for name in its.activations) * element,
            indices=sum(sizes[step.name] for step in light if step.operation.kind == "max_pool") * INDEX_BYTES,
            output=sizes[its.output] * element,
            again={step.name: self._heavy(step) + self._again(step.operation.inputs[0]) for step in heavy},
            output_again=self._again(its.output),
            renormalise=sum(self._light(step, passes.again - passes.spared) for step in redone),
            forward=forward + sum(self._light(step, passes.forward) for step in light),
            backward=2 * forward + sum(self._light(step, passes.backward) for step in light),
            forward_peak=self._forward_peak() * element,
            backward_peak=self._backward_peak(plain=False) * element,
            plain_peak=self._backward_peak(plain=True) * element,
            kernels=3 * len(heavy) + 6 * len(norms) + 2 * (len(light) - len(norms)),
        )

    def _heavy(self, step: Step) -> float:
        """Seconds of a convolution, in any direction."""
        (x, *_), name, kernel = step.operation.inputs, step.name, step.operation.kernel
        widths, sides = self.description.widths, self.sides
        shapes = [1, widths[x], sides[x], sides[x]], [1, widths[name], sides[name], sides[name]]
        flops = conv_flop_count(shapes[0], [widths[name], widths[x], kernel, kernel], shapes[1])
        return max(flops / self.device.flops(self.element), self._moved(self.sizes[x] + self.sizes[name]))

    def _light(self, step: Step, passes: int) -> float:
        """Seconds of a BatchNorm in so many passes, by kernels of two or three, or of another elementwise step."""
        if step.operation.kind == "norm":
            kernels = -(-passes // 3)
            return kernels * self._moved(passes * self.sizes[step.name] / kernels) if kernels else 0.0
        return self._moved(sum(self.sizes[name] for name in (*step.operation.inputs, step.name)))

    def _moved(self, elements: float) -> float:
        """Seconds of reading or writing so many elements in a kernel."""
        return max(elements * self.element / self.device.bandwidth, self.start)

    def _again(self, name: str) -> float:
        """Seconds of computing a value from the points before it."""
        step = self.description.step.get(name)
        if step is None or step.heavy:
            return 0.0
        return self._light(step, self.device.passes.again) + sum(map(self._again, step.operation.inputs))

    def _forward_peak(self) -> int:
        """Elements of what is there besides the points: what a step takes and gives, and what waits for later."""
        there, peak = set[str](), 0
        for step in self.description.steps:
            replaced = step.operation.inputs[0] if step.overwrites else ""
            there.add(step.name)
            now = (there - {replaced}) | ({INPUT} & {*step.operation.inputs} if step.heavy else set())
            peak = max(peak, sum(self.sizes[name] for name in now))
            there -= {*step.last_uses}
        return peak

    def _backward_peak(self, plain: bool) -> int:
        """Elements of gradients and of activations computed again, at every step back.

        In a `plain` network the activations are kept (and counted elsewhere). The gradient of a sum is that of what it
        adds, one tensor.
        """
        peak, tensors = 0, {self.description.output: self.description.output}
        for step in reversed(self.description.steps):
            operation, (first, *_) = step.operation, step.operation.inputs
            now = {*tensors.values()}
            if operation.kind == "add":
                tensors.update(dict.fromkeys(operation.inputs, first if step.relu else tensors[step.name]))
                new = [first] if step.relu else []
            else:
                # A gradient that is there already waits for what is added to it.
                new = [*operation.inputs]
                tensors.update({name: name for name in new})
            elements = sum(self.sizes[name] for name in (*now, *new))
            peak = max(peak, elements + (0 if plain else self._recomputed(step)))
            del tensors[step.name]
        return peak

    def _recomputed(self, step: Step) -> int:
        """Elements that a step back computes again; a BatchNorm overwrites the gradient where its ReLU passed."""
        if step.operation.kind == "norm":
            return 0
        indices = self.sizes[step.name] * INDEX_BYTES // 4 if step.operation.kind == "max_pool" else 0
        return indices + sum(self._light_elements(name) for name in self.description.needs[step.name])

    def _light_elements(self, name: str) -> int:
        """Elements of a value that is computed again, and of those it is made of."""
        step = self.description.step.get(name)
        if step is None or step.heavy:
            return 0
        below = sum(self._light_elements(each) for each in step.operation.inputs)
        return below + (0 if step.overwrites else self.sizes[name])
