"""Where a network runs."""

import sys

import torch

from resnet_v2.files import ResnetError


def choose_device(gpus: str, device: str = "") -> torch.device:
    """The device of `--device`, else of `--gpus` (one index; '' is the CPU, and so is a machine without a GPU).

    Raises ResnetError for a device that does not exist here.
    """
    if device:
        return _checked(device)
    wanted = [part.strip() for part in gpus.split(",") if part.strip()]
    if not all(part.isdigit() for part in wanted):
        raise ResnetError(f"--gpus {gpus!r} is no list of GPU numbers; write it like 0 or '' for the CPU.")
    if not wanted:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        print("no GPU is available: running on the CPU", file=sys.stderr)
        return torch.device("cpu")
    if len(wanted) > 1:
        raise ResnetError(f"--gpus {gpus} names {len(wanted)} GPUs, but a run uses one so far; give one of them.")
    return _checked(f"cuda:{wanted[0]}")


def _checked(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ResnetError(f"The device {name} cannot be used ({reason}); give --device cpu or another one.") from None
    return device
