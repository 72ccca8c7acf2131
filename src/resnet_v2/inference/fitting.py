"""Training from Python: a folder and settings in, a `Classifier` out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from resnet_v2.errors import ResnetError
from resnet_v2.inference.classifier import Classifier, load
from resnet_v2.storage import Address, as_path
from resnet_v2.training.distributed import choose_device
from resnet_v2.training.fit import fit as train
from resnet_v2.training.interruption import Stopped
from resnet_v2.training.plan import decide

IMAGENET = "val_256_q90.rec"  # what a folder of ImageNet's records holds
NO_NETWORK = ("dry_run", "explain")  # settings after which there is none
TRAIN, VAL = "_train.rec", "_val.rec"


def fit(data: str | Path, **settings: Any) -> Classifier:
    """Train on a folder and give the best epoch's network, on the device that it was trained on.

    `data` holds photos in a folder for each class, or train and val of such, for which `resnet-v2 train FOLDER` chooses
    what is not given; or NAME_train.rec and NAME_val.rec, as `resnet-v2 data` writes them; or ImageNet's records.
    Settings are those of `resnet-v2 train` by their names in Python: `depth=20, epochs=30`. Checkpoints and logs are
    written as by the command, with `model_prefix` as the start of their names. Raises ResnetError for whatever the user
    can mend, and KeyboardInterrupt when Ctrl-C stopped the run, which has saved where it is: `resume="yes"` goes on.

    >>> network = resnet_v2.fit("data/digits", depth=14, epochs=20)
    >>> network.header.errors["top1_error"] < 5
    True
    """
    for name in NO_NETWORK:
        if settings.get(name):
            raise ResnetError(f"`{name}` trains no network; leave it out, or run `resnet-v2 train`.")
    given = {**_data(as_path(data), settings), **settings}
    plan, _ = decide(given)
    try:
        train(given)
    except Stopped as stopped:
        if stopped.status:
            raise KeyboardInterrupt(str(stopped)) from None
        raise SystemExit(stopped.status) from None
    best = Path(f"{plan.prefix}-best.safetensors").is_file()
    devices = plan.config.devices
    device = choose_device(devices.gpus, devices.device) if torch.cuda.is_available() else devices.device or "cpu"
    return load(plan.prefix, "best" if best else None, str(device))


def _data(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that name the data: a folder of records, or one of photos."""
    if {"data_type", "data_train"} & settings.keys() or isinstance(folder, Address):
        return {"data_dir": folder}
    if not folder.is_dir():
        raise ResnetError(
            f"{folder} is no folder; give one that holds a folder of photos for each class, or NAME{TRAIN} and "
            f"NAME{VAL}."
        )
    if (folder / IMAGENET).exists():
        return {"data_dir": folder, "data_type": "imagenet"}
    names = sorted(path.name.removesuffix(TRAIN) for path in folder.glob(f"*{TRAIN}"))
    names = [name for name in names if (folder / f"{name}{VAL}").exists()]
    if len(names) > 1:
        raise ResnetError(f"{folder} holds the records of {', '.join(names)}; give one of them as `data_type`.")
    return {"data_dir": folder, "data_type": names[0]} if names else {"folder": str(folder)}
