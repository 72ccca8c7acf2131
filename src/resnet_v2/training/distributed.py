"""Where a network runs: the device of a process, the ranks of a run, how they start and what they tell each other."""

import contextlib
import gc
import os
import signal
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from resnet_v2.config.fields import parse_gpus
from resnet_v2.console import counted, say
from resnet_v2.errors import ResnetError
from resnet_v2.machine import processors

# Longer than the slowest step or evaluation of a rank that others wait for.
PATIENCE = timedelta(hours=2)

RESTARTS = "TORCHELASTIC_RESTART_COUNT"


@dataclass(frozen=True)
class Ranks:
    """The place of this process among those of a run; one process alone is rank 0 of 1."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1

    @property
    def main(self) -> bool:
        """Whether this is the rank that writes files and talks."""
        return self.rank == 0

    @property
    def machines(self) -> int:
        """Machines that take part, all with the same number of ranks."""
        return self.world_size // self.local_world_size

    def total(self, numbers: Sequence[float]) -> list[float]:
        """The sums over all ranks, in float64; every rank has to ask."""
        if self.world_size == 1:
            return list(numbers)
        sums = torch.tensor(list(numbers), dtype=torch.float64)
        dist.all_reduce(sums)
        return sums.tolist()

    def any(self, flag: bool) -> bool:
        """Whether the flag is up on any rank; every rank has to ask."""
        return self.total([float(flag)])[0] > 0

    def gathered(self, numbers: Mapping[str, float]) -> list[dict[str, float]]:
        """The same named numbers of every rank, by rank; every rank has to ask."""
        if self.world_size == 1:
            return [dict(numbers)]
        mine = torch.tensor(list(numbers.values()), dtype=torch.float64)
        found = [torch.empty_like(mine) for _ in range(self.world_size)]
        dist.all_gather(found, mine)
        return [dict(zip(numbers, one.tolist(), strict=True)) for one in found]

    def add_up(self, tensor: torch.Tensor) -> None:
        """Make a tensor on the CPU the sum of all ranks' own; every rank has to ask."""
        if self.world_size > 1:
            dist.all_reduce(tensor)

    def share_buffers(self, network: torch.nn.Module) -> None:
        """Give every rank the moving statistics of rank 0."""
        if self.world_size > 1:
            for buffer in network.buffers():
                if buffer.is_floating_point():
                    dist.broadcast(buffer, 0)


def launched() -> bool:
    """Whether torch's launcher started this process as one rank of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def restarted() -> bool:
    """Whether torch's launcher started this process anew after one had died."""
    return int(os.environ.get(RESTARTS, "0")) > 0


def ranks_of_environment() -> Ranks:
    """The place of this process as torch's launcher tells it."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    return Ranks(*(int(os.environ[name]) for name in names)) if launched() else Ranks()


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[Ranks]:
    """The ranks of this run, able to speak to each other while the block is open.

    Numbers travel by gloo, what lies on GPUs by NCCL.
    """
    ranks = ranks_of_environment()
    if ranks.world_size == 1:
        yield ranks
        return
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    store, rank, world_size = next(rendezvous("env://", timeout=PATIENCE))
    # The launcher's store outlives the ranks: those started again must not find the addresses of the dead.
    store = PrefixStore(f"attempt-{os.environ.get(RESTARTS, '0')}", store)
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=PATIENCE)
    try:
        yield ranks
        dist.barrier()  # a rank that ends while another still speaks to it would take it down
    except RuntimeError as error:
        if not _lost_connection(error):
            raise
        raise ResnetError(f"Rank {ranks.rank} lost the connection to another rank, which has ended.") from None
    finally:
        gc.collect()  # what still holds the group would end its threads too late, at the end of the interpreter
        dist.destroy_process_group()


def _lost_connection(error: RuntimeError) -> bool:
    words = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "NCCL", "gloo")
    return any(word in str(error) for word in words)


def launch(arguments: Sequence[str], processes: int, max_restarts: int) -> None:
    """Start `resnet-v2 train ARGUMENTS` in several processes on this machine, as torchrun does, and wait for their end.

    When one dies all are started again, `max_restarts` times. Raises ResnetError when one has failed for good, and
    SystemExit when they were told to stop.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # Each rank would else take all cores for itself.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, processors() // processes)))
    settings = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=max_restarts,
        monitor_interval=0.2,
    )
    # By name: older versions of torch know no other way, newer ones prefer the setting.
    if hasattr(settings, "signals_to_handle"):
        settings.signals_to_handle += ",SIGUSR1"
    try:
        elastic_launch(settings, sys.executable)("-m", "resnet_v2", "train", *arguments)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        how = f"signal {-failure.exitcode}" if failure.exitcode < 0 else f"exit status {failure.exitcode}"
        raise ResnetError(f"Rank {rank} of {processes} ended with {how}, and the others with it.") from None
    except SignalException as stop:
        raise SystemExit(130 if stop.sigval == signal.SIGINT else 0) from None


def choose_device(gpus: str, device: str = "") -> torch.device:
    """The device of `device`, else of `gpus` ('' is the CPU, and so is a machine without a GPU).

    Of several GPUs each local rank takes its own. Raises ResnetError for a device that does not exist here.
    """
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if device:
        return _checked(f"cuda:{local_rank}" if device == "cuda" and launched() else device)
    numbers = parse_gpus(gpus)
    if not numbers:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        if local_rank == 0:
            say(f"no GPU is available{_why_no_gpu()}: running on the CPU")
        return torch.device("cpu")
    if len(numbers) <= local_rank:
        raise ResnetError(
            f"`gpus` {gpus} names {counted(len(numbers), 'GPU')} for more ranks than that; name one for each."
        )
    there = torch.cuda.device_count()
    if numbers[local_rank] >= there:
        raise ResnetError(
            f"`gpus` {gpus} names GPU {numbers[local_rank]}, but there {'is' if there == 1 else 'are'} {there} here"
            f"{_visible()}, counted from 0; give another number."
        )
    return _checked(f"cuda:{numbers[local_rank]}")


def _why_no_gpu() -> str:
    if torch.version.cuda is None and torch.version.hip is None:
        return " (this torch is built for the CPU alone)"
    return _visible()


def _visible() -> str:
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    return "" if shown is None else f" (CUDA_VISIBLE_DEVICES={shown!r} shows no others)"


def _checked(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", torch.cuda.current_device())  # which much of torch.cuda wants to be told
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ResnetError(f"The device {name} cannot be used ({reason}); give `device` cpu or another one.") from None
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device
