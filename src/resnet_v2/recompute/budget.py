"""From a budget of memory to a plan: what a training step needs besides activations, and the plans worth knowing."""

import os
import sys
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from resnet_v2.errors import ResnetError
from resnet_v2.machine import free_memory
from resnet_v2.networks.architecture import Architecture
from resnet_v2.networks.resnet import ResNet
from resnet_v2.recompute import speeds
from resnet_v2.recompute.costs import LinkCost, link_costs
from resnet_v2.recompute.malloc import give_back_freed_memory
from resnet_v2.recompute.plan import Forecast, Plan, forecast, uniform_plan
from resnet_v2.recompute.search import find_plan, several_plans, smallest_plan
from resnet_v2.recompute.speeds import Speeds

# Python, torch and the other libraries: 310 MiB were measured on the CPU; the loader's memory comes on top.
PROCESS_BYTES = 400 * 2**20
# A GPU's context and the kernels of CUDA's libraries, where they cannot be told from what other processes have there.
CONTEXT_BYTES = 800 * 2**20
MOST_CONTEXT_BYTES = 2 * 2**30
# What may be used of the memory that is free at the start.
FREE_SHARE = 0.9
# What tensors may take of a GPU's budget: the allocator loses the rest in pieces that do not fit.
TENSORS_SHARE = 0.93


def free_bytes(device: torch.device) -> int:
    """What is free of a device's memory now."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type == "cpu" and (free := free_memory()):
        return free
    if sys.platform != "win32" and device.type == "cpu" and "SC_PHYS_PAGES" in getattr(os, "sysconf_names", ()):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    raise ResnetError(f"How much memory is free on {device} cannot be asked; give `memory_budget`, like 12GB.")


def process_bytes(device: torch.device) -> int:
    """What this process takes of a device's memory besides tensors; of a GPU after its kernels are loaded."""
    if device.type != "cuda":
        return PROCESS_BYTES
    free, total = torch.cuda.mem_get_info(device)
    taken = total - free - torch.cuda.memory_reserved(device)
    # More than a context takes belongs to another process, and what is left for ours cannot be told.
    return taken if taken <= MOST_CONTEXT_BYTES else CONTEXT_BYTES


def cap(device: torch.device, budget: int) -> None:
    """Let a GPU's allocator refuse what goes beyond a budget for the whole process."""
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, (budget - process_bytes(device)) / total), device)


@dataclass(frozen=True)
class Choice:
    """A plan (None: plain autograd) with its name and what it costs per image."""

    name: str
    plan: Plan | None
    forecast: Forecast


@dataclass(frozen=True)
class Workload:
    """A network in training: images of `image_size` pixels (0: its usual size), in bf16 autocast or not.

    `fused`: gradients are used up as they come (`fused_backward`). `batch_size` images of a step run on a `device`
    of which the process takes `process_bytes` besides tensors; `free_bytes` (0: unknown) were there at the start.
    """

    architecture: Architecture
    image_size: int = 0
    bf16: bool = False
    fused: bool = False
    device: Speeds = speeds.CPU
    batch_size: int = 128
    process_bytes: int = PROCESS_BYTES
    free_bytes: int = 0

    @cached_property
    def network(self) -> ResNet:
        """The network without memory, on the meta device."""
        with torch.device("meta"):
            return ResNet(self.architecture)

    @cached_property
    def costs(self) -> tuple[LinkCost, ...]:
        """Bytes and time of every link for one image."""
        size = self.image_size or self.architecture.image_size
        return link_costs(self.network.links(), size, 2 if self.bf16 else 4, self.device, self.batch_size)

    @cached_property
    def fixed_bytes(self) -> int:
        """What does not depend on the batch: the process, weights, momentum, gradients; bf16 copies of the weights."""
        weights = 4 * sum(parameter.numel() for parameter in self.network.parameters())
        largest = 4 * max(parameter.numel() for parameter in self.network.parameters())
        gradients = largest if self.fused else weights
        return self.process_bytes + 2 * weights + gradients + (weights // 2 if self.bf16 else 0)

    @property
    def waits_for_launches(self) -> bool:
        """Whether starting a step's kernels takes longer than what they do."""
        tireless = replace(self, device=replace(self.device, launch=0.0))
        busy = self.batch_size * sum(cost.forward + cost.backward for cost in tireless.costs)
        return self.device.start * sum(cost.kernels for cost in self.costs) > busy

    @property
    def input_bytes(self) -> int:
        """Of an image on a GPU, as bytes: those of a step and of the one after it are there."""
        size = self.image_size or self.architecture.image_size
        return 0 if self.device == speeds.CPU else 2 * 3 * size**2

    def total_bytes(self, its: Forecast, batch_size: int) -> int:
        """The peak of a training step."""
        return self.fixed_bytes + batch_size * (its.peak_bytes + self.input_bytes)

    def largest_batch(self, its: Forecast, budget: int) -> int:
        """The largest batch whose step stays within a budget; 0 if none does."""
        return max(0, (self._usable(budget) - self.fixed_bytes) // (its.peak_bytes + self.input_bytes))

    def _usable(self, budget: int) -> int:
        """What of a budget the process and its tensors may take."""
        share = 1.0 if self.device == speeds.CPU else TENSORS_SHARE
        return self.process_bytes + int(share * (budget - self.process_bytes))

    def plain(self) -> Choice:
        """No plan: autograd keeps what it wants."""
        return Choice("plain", None, self.forecast(None))

    def norms(self) -> Choice:
        """Everything kept but what BatchNorms and ReLUs give."""
        plan = uniform_plan(self.network.links(), activated=False)
        return Choice("BatchNorm-ReLU again", plan, self.forecast(plan))

    def smallest(self) -> Choice:
        """The plan of least memory."""
        return Choice("smallest", *smallest_plan(self.network.links(), self.costs))

    def between(self, above: int, below: int, count: int) -> list[Choice]:
        """Plans whose peaks per image are spread evenly, by ratio, between two."""
        limits = [above * (below / above) ** (step / (count + 1)) for step in range(1, count + 1)]
        plans = dict.fromkeys(several_plans(self.network.links(), self.costs, limits))
        return [Choice(f"plan {number}", plan, self.forecast(plan)) for number, plan in enumerate(plans, start=1)]

    def within(self, budget: int, batch_size: int) -> Choice:
        """The plan of least time within a budget for the whole process; ResnetError if there is none."""
        per_image = (self._usable(budget) - self.fixed_bytes) / batch_size - self.input_bytes
        plan = find_plan(self.network.links(), self.costs, per_image)
        if plan is None:
            smallest = self.smallest().forecast
            largest = self.largest_batch(smallest, budget)
            least = self.total_bytes(smallest, batch_size) / 1e9
            advice = f"`batch_size` {largest} would do" if largest else "give more memory or a shallower network"
            raise ResnetError(
                f"No plan trains ResNet-{self.architecture.depth} at batch size {batch_size} in {budget / 1e9:.3g} GB: "
                f"the smallest takes {least:.3g} GB; {advice}."
            )
        return Choice("budget", plan, self.forecast(plan))

    def forecast(self, plan: Plan | None) -> Forecast:
        """What a plan costs per image."""
        return forecast(self.network.links(), self.costs, plan)


def plan_for_training(workload: Workload, device: torch.device, budget: int) -> Plan:
    """The fastest plan within `budget` bytes, or within what is free on the device when it is 0.

    The process keeps to the budget from then on: a GPU's allocator refuses more, and on the CPU freed memory is given
    back.
    """
    if device.type == "cpu":
        give_back_freed_memory()
    taken = workload.process_bytes if device.type == "cuda" else 0  # and so not free any more
    memory = budget or int(FREE_SHARE * free_bytes(device)) + taken
    plan = workload.within(memory, workload.batch_size).plan
    assert plan is not None
    cap(device, memory)
    return plan


def choices(workload: Workload, budget: int | None, batch_size: int) -> list[Choice]:
    """Plain, BatchNorm-ReLU only, up to four plans down to the smallest, and the budget's own, by falling memory."""
    plain, norms, smallest = workload.plain(), workload.norms(), workload.smallest()
    found = [plain, norms, *workload.between(norms.forecast.peak_bytes, smallest.forecast.peak_bytes, 4), smallest]
    if budget is not None:
        found.append(workload.within(budget, batch_size))
    return sorted(found, key=lambda choice: -choice.forecast.peak_bytes)


def row(workload: Workload, choice: Choice, batch_size: int, budget: int | None) -> dict[str, str | int | float | None]:
    """What `resnet-v2 plan` says of a plan; activations are the peak per image, gradients in flight included."""
    its = choice.forecast
    return {
        "plan": choice.name,
        "activations_mib_per_image": round(its.peak_bytes / 2**20, 1),
        "total_bytes": workload.total_bytes(its, batch_size),
        "extra_time_percent": round(100 * its.extra_time, 1) + 0.0,  # no -0.0
        "largest_batch": None if budget is None else workload.largest_batch(its, budget),
        "segments": None if choice.plan is None else len(choice.plan.segments),
        "levels": None if choice.plan is None else choice.plan.levels,
    }
