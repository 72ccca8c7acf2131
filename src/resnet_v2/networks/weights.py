"""Weight files: safetensors whose header says what the network is, how to feed it and what its classes are called."""

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from pkgutil import resolve_name
from typing import cast

import safetensors.torch
import torch
from torch import Tensor

from resnet_v2.config.using import Epoch
from resnet_v2.console import counted, say
from resnet_v2.errors import DamagedError, ResnetError
from resnet_v2.files import replacing
from resnet_v2.networks.finding import checkpoint_path, find_checkpoint, split_path
from resnet_v2.networks.header import METADATA_KEY, Header, opened, read_header
from resnet_v2.networks.resnet import ResNet
from resnet_v2.networks.sums import SUMS_KEY, sums_text

# What reads other people's checkpoints, by the ending of their names; it is imported when one is met.
FOREIGN = {".params": "resnet_v2.interchange.mxnet:read_checkpoint"}
FOREIGN_LABELS = {".params": "resnet_v2.interchange.mxnet:stored_labels"}


def read_checkpoint(prefix: str | Path, epoch: Epoch | None = None) -> tuple[Path, Header, dict[str, Tensor]]:
    """File, header and tensors of a checkpoint, from our file or from MXNet's (`PREFIX-0000.params`).

    `prefix` is whatever `find_checkpoint` takes. What MXNet's files do not tell is as in 2016: images of 256 pixels
    (CIFAR: 32) on the shorter side, no class names.
    """
    path = find_checkpoint(prefix, epoch)
    if path.suffix == ".safetensors":
        header, tensors = read(path)
        if epoch is None:
            _tell_of_best(os.fspath(prefix), path, header)
        return path, header, tensors
    architecture, tensors = resolve_name(FOREIGN[path.suffix])(path)
    labels = resolve_name(FOREIGN_LABELS[path.suffix])(path, architecture.classes)
    return path, Header.of_epoch(architecture, split_path(path)[1], labels=labels), tensors


def _tell_of_best(prefix: str, path: Path, header: Header) -> None:
    """A run's prefix means its last epoch, which need not be the best."""
    best, mine = Path(f"{prefix}-best.safetensors"), header.error
    if path != checkpoint_path(prefix, header.epoch) or mine is None or not best.is_file():
        return
    with contextlib.suppress(ResnetError):
        its = read_header(best)
        error = mine if its.error is None else its.error
        if error < mine:
            multi = header.label_kind == "multi"
            what = "mean average precision" if multi else "top-1 error"
            last, first = (100 - one if multi else one for one in (mine, error))
            say(
                f"{prefix} is its last epoch, {header.epoch}, of {last:.2f} % {what}; epoch {its.epoch} had "
                f"{first:.2f} %: epoch best is {best}"
            )


def checkpoint_header(prefix: str | Path, epoch: Epoch | None = None) -> Header:
    """The header of a checkpoint alone, of which `read_checkpoint` gives everything."""
    path = find_checkpoint(prefix, epoch)
    return read_header(path) if path.suffix == ".safetensors" else read_checkpoint(prefix, epoch)[1]


def save(path: Path, tensors: Mapping[str, Tensor], header: Header, check: bool = False) -> None:
    """Write tensors and header into one file that appears under its name only when it is whole.

    With `check` it is read back before: a ResnetError says when the disk has other bytes than were written.
    """
    metadata = {"format": "pt", METADATA_KEY: header.to_json()}
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        # Not save_file: it writes through a file of its own, which a kill would leave behind under a random name.
        temporary.write_bytes(_with_sums(safetensors.torch.save(tensors, metadata)))
        if check:
            _check_written(temporary, path, tensors)


def _with_sums(data: bytes) -> bytes:
    """A safetensors file whose header is in one order; safetensors writes the metadata now in this one, now in that.

    The header also gets the fingerprint of every tensor.
    """
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header["__metadata__"][SUMS_KEY] = sums_text(header, memoryview(data)[8 + size :])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at multiples of 8
    return b"".join((len(text).to_bytes(8, "little"), text, memoryview(data)[8 + size :]))


def _check_written(written: Path, path: Path, tensors: Mapping[str, Tensor]) -> None:
    with opened(written) as file:
        for name, tensor in tensors.items():
            there = file.get_tensor(name)
            # By bytes: a number that is none equals itself here.
            if not torch.equal(there.flatten().view(torch.uint8), tensor.cpu().flatten().view(torch.uint8)):
                raise ResnetError(f"{path} is not written: {name} reads back differently; check the disk.")


def network_tensors(network: ResNet) -> dict[str, Tensor]:
    """The network's parameters and moving statistics by name, contiguous; without PyTorch's unused batch counters."""
    state = network.state_dict()
    return {name: tensor.contiguous() for name, tensor in state.items() if not name.endswith(".num_batches_tracked")}


def read(path: Path) -> tuple[Header, dict[str, Tensor]]:
    """Header and all tensors of a file, on the CPU; a ResnetError says what is wrong with a file that is not ours."""
    header = read_header(path)
    try:
        with opened(path) as file:
            # Copies: what safetensors gives are views of the file, which Windows could then not replace.
            return header, {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (no mapping)
    except safetensors.SafetensorError as error:
        raise DamagedError(f"{path} is damaged ({error}); take another epoch.") from None


def fill(path: Path, network: ResNet, tensors: Mapping[str, Tensor]) -> None:
    """Copy weights and moving statistics into a network; tensors that are no part of it are passed over.

    Raises ResnetError, naming `path`, for a missing or misshapen tensor.
    """
    wanted = _fitting(path, network, tensors)
    network.load_state_dict({name: tensors[name] for name in wanted}, strict=False)


def _fitting(path: Path, network: ResNet, tensors: Mapping[str, Tensor]) -> list[str]:
    """The names of a network's tensors, when they are all there as it needs them."""
    wanted = {name: tuple(tensor.shape) for name, tensor in network_tensors(network).items()}
    for name, shape in wanted.items():
        tensor = tensors.get(name)
        if tensor is None or tensor.shape != shape or not tensor.is_floating_point():
            found = "is missing" if tensor is None else f"has shape {tuple(tensor.shape)} and type {tensor.dtype}"
            raise ResnetError(
                f"{path} does not fit its header: {name} {found}, expected {shape} of floats; take another epoch."
            )
    return list(wanted)


def fill_body(path: Path, network: ResNet, header: Header, tensors: Mapping[str, Tensor]) -> None:
    """Fine-tuning: copy everything but the last layer, which keeps its own weights and number of classes.

    Raises ResnetError, naming `path`, when the rest of the architecture is another.
    """
    if replace(header.architecture, classes=network.architecture.classes) != network.architecture:
        raise ResnetError(f"{path} holds {header.architecture}, which does not go into {network.architecture}.")
    own = {f"fc1.{name}": tensor for name, tensor in network.fc1.state_dict().items()}
    fill(path, network, {**tensors, **own})


def build(path: Path, header: Header, tensors: Mapping[str, Tensor]) -> ResNet:
    """The network of what `read_checkpoint` gave, on the CPU, in evaluation mode, channels-last memory."""
    if len(tensors) < header.architecture.depth:  # every layer has one: before time is spent on thousands of them
        found = f"{counted(len(tensors), 'tensor')} for {header.architecture}"
        raise ResnetError(f"{path} does not fit its header: {found}; take another epoch.")
    with torch.device("meta"):
        network = ResNet(header.architecture)
    _fitting(path, network, tensors)  # before memory is taken
    network = network.to_empty(device="cpu").to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    fill(path, network, tensors)
    return cast(ResNet, network.eval())


def load(prefix: str | Path, epoch: Epoch | None = None) -> tuple[ResNet, Header]:
    """The network (as `build` makes it) and the header of a checkpoint, ours or MXNet's."""
    path, header, tensors = read_checkpoint(prefix, epoch)
    return build(path, header, tensors), header
