"""Weight files: safetensors whose header says what the network is, how to feed it and what its classes are called."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from resnet_v2.files import ResnetError, replacing
from resnet_v2.networks import mxnet
from resnet_v2.networks.resnet import Architecture, ResNet

METADATA_KEY = "resnet_v2"


@dataclass(frozen=True)
class Header:
    """What a weight file says of itself; kept as JSON in the safetensors metadata.

    `resize` and `crop` are the evaluation preprocessing in pixels: shorter side, then the centre. `class_names` has one
    line per class, or is empty. `errors` holds measured figures in percent, such as `top1_error`. `training` is what
    the trainer needs to go on: settings and position.
    """

    architecture: Architecture
    epoch: int
    resize: int
    crop: int
    class_names: tuple[str, ...] = ()
    errors: Mapping[str, float] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of_epoch(cls, architecture: Architecture, epoch: int, class_names: tuple[str, ...] = ()) -> "Header":
        """A header with the preprocessing that the architecture's stem is trained for."""
        size = architecture.image_size
        return cls(architecture, epoch, 256 if architecture.stem == "imagenet" else size, size, class_names)


def checkpoint_path(prefix: str, epoch: int) -> Path:
    """`model/resnet-cifar10-20`, 30 -> `model/resnet-cifar10-20-0030.safetensors`."""
    return Path(f"{prefix}-{epoch:04d}.safetensors")


def saved_epochs(prefix: str) -> list[int]:
    """The epochs of which checkpoints with this prefix are there, ours or MXNet's, ascending."""
    start = Path(prefix)
    if not start.parent.is_dir():
        return []
    names = re.compile(re.escape(start.name) + r"-(\d{4,})\.(safetensors|params)")
    return sorted({int(match[1]) for path in start.parent.iterdir() if (match := names.fullmatch(path.name))})


def find_checkpoint(prefix: str, epoch: int) -> Path:
    """The file of an epoch, ours before MXNet's; a ResnetError lists the epochs that are there when there is none."""
    path = checkpoint_path(prefix, epoch)
    for candidate in (path, mxnet.params_path(prefix, epoch)):
        if candidate.is_file():
            return candidate
    epochs = saved_epochs(prefix)
    there = f"saved epochs are {', '.join(map(str, epochs))}" if epochs else f"no checkpoint starts with {prefix}-"
    raise ResnetError(f"{path} is missing: {there}; check --prefix and --epoch.")


def read_checkpoint(prefix: str, epoch: int) -> tuple[Path, Header, dict[str, Tensor]]:
    """File, header and tensors of an epoch, from our file or from MXNet's (`PREFIX-0000.params`).

    What MXNet's files do not tell is as in 2016: images of 256 pixels (CIFAR: 32) on the shorter side, no class names.
    """
    path = find_checkpoint(prefix, epoch)
    if path.suffix == ".safetensors":
        return path, *read(path)
    architecture, tensors = mxnet.load_checkpoint(prefix, epoch)
    return path, Header.of_epoch(architecture, epoch), tensors


def save(path: Path, tensors: Mapping[str, Tensor], header: Header, check: bool = False) -> None:
    """Write tensors and header into one file that appears under its name only when it is whole.

    With `check` it is read back before: a ResnetError says when the disk has other bytes than were written.
    """
    metadata = {"format": "pt", METADATA_KEY: json.dumps(asdict(header))}
    with replacing(path) as temporary:
        try:
            safetensors.torch.save_file(dict(tensors), temporary, metadata)
        except safetensors.SafetensorError as error:
            # The library wraps the system's errors; a full disk must be told from a bad tensor.
            raise ResnetError(f"{path} is not written ({error}); free some space or check the folder.") from None
        if check:
            _check_written(temporary, path, tensors)


def _check_written(written: Path, path: Path, tensors: Mapping[str, Tensor]) -> None:
    with safetensors.safe_open(written, framework="pt") as file:
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
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is not a mapping)
    except safetensors.SafetensorError as error:
        raise ResnetError(f"{path} is damaged or no safetensors file ({error}); take another epoch.") from None
    if METADATA_KEY not in metadata:
        raise ResnetError(
            f"{path} has no resnet-v2 header, so its network is unknown; it was not written by resnet-v2."
        )
    return _parse_header(path, metadata[METADATA_KEY]), tensors


def read_header(path: Path) -> Header:
    """The header of a file alone."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except safetensors.SafetensorError as error:
        raise ResnetError(f"{path} is damaged or no safetensors file ({error}); take another epoch.") from None
    return _parse_header(path, metadata.get(METADATA_KEY, ""))


def _parse_header(path: Path, text: str) -> Header:
    try:
        fields = json.loads(text)
        architecture = Architecture(**fields.pop("architecture"))
        return Header(architecture, class_names=tuple(fields.pop("class_names")), **fields)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ResnetError(f"{path} has a header that cannot be read ({error}); update resnet-v2.") from None


def fill(path: Path, network: ResNet, tensors: Mapping[str, Tensor]) -> None:
    """Copy weights and moving statistics into a network; tensors that are no part of it are passed over.

    Raises ResnetError, naming `path`, for a missing or misshapen tensor.
    """
    wanted = network_tensors(network)
    for name, tensor in wanted.items():
        if name not in tensors or tensors[name].shape != tensor.shape:
            found = f"has shape {tuple(tensors[name].shape)}" if name in tensors else "is missing"
            raise ResnetError(f"{path} does not fit its header: {name} {found}, expected {tuple(tensor.shape)}.")
    network.load_state_dict({name: tensors[name] for name in wanted}, strict=False)


def load(prefix: str, epoch: int) -> tuple[ResNet, Header]:
    """The network and header of a checkpoint, ours or MXNet's, on the CPU, in evaluation mode, channels-last memory."""
    path, header, tensors = read_checkpoint(prefix, epoch)
    with torch.device("meta"):
        network = ResNet(header.architecture)
    network = network.to_empty(device="cpu").to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    fill(path, network, tensors)
    return network.eval(), header


def convert(prefix: str, epoch: int, to: str, out: str) -> Path:
    """Write the network of a checkpoint as `to`: "mxnet" (OUT-0000.params and OUT-symbol.json) or "safetensors".

    The optimiser's momentum is left behind. Returns the path of the weights.
    """
    network, header = load(prefix, epoch)
    if to == "mxnet":
        mxnet.save_checkpoint(out, epoch, network)
        return mxnet.params_path(out, epoch)
    path = checkpoint_path(out, epoch)
    save(path, network_tensors(network), replace(header, training={}))
    return path
