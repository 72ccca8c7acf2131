"""Pictures -> class names and probabilities, with the preprocessing of evaluation."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from resnet_v2.data.augment import centre_crop
from resnet_v2.data.jpeg import Image, resize_shorter_side
from resnet_v2.data.lists import IMAGE_ENDINGS
from resnet_v2.data.photos import read_image
from resnet_v2.files import ResnetError
from resnet_v2.networks.resnet import ResNet
from resnet_v2.networks.weights import Header
from resnet_v2.training.evaluate import to_input


@dataclass(frozen=True)
class Answer:
    """A class by its number and name, and its probability."""

    class_index: int
    name: str
    probability: float


def find_images(paths: Sequence[str]) -> list[Path]:
    """The image files that are named, and those in the folders that are named (sorted, with their subfolders)."""
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if file.suffix.lower() in IMAGE_ENDINGS)
            if not inside:
                raise ResnetError(f"{path} holds no images ({', '.join(IMAGE_ENDINGS)}); give another folder.")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise ResnetError(f"{path} does not exist; give image files or folders of them.")
    if not found:
        raise ResnetError("--img names no image; give image files or folders of them.")
    return found


def prepare(pixels: Image, header: Header) -> Image:
    """Resize the shorter side and crop the centre as the header says: H x W x 3 -> crop x crop x 3, uint8, RGB."""
    out = np.empty((header.crop, header.crop, 3), np.uint8)
    centre_crop(resize_shorter_side(pixels, header.resize), out)
    return out


@torch.inference_mode()
def probabilities(network: ResNet, images: NDArray[np.uint8], device: torch.device) -> NDArray[np.float32]:
    """n x crop x crop x 3 images -> n x classes probabilities."""
    result: NDArray[np.float32] = network(to_input(images, device)).float().softmax(1).cpu().numpy()
    return result


def predict(
    network: ResNet,
    header: Header,
    paths: Sequence[Path],
    *,
    class_names: Sequence[str],
    top: int,
    batch_size: int,
    device: torch.device,
) -> Iterator[tuple[Path, list[Answer]]]:
    """The `top` classes of every image, most probable first, in the order of the paths.

    `class_names` may be empty: a class is then named by its number. Raises ResnetError for an unreadable image.
    """
    network = network.to(device).eval()
    for start in range(0, len(paths), batch_size):
        some = paths[start : start + batch_size]
        images = np.stack([prepare(read_image(path), header) for path in some])
        for path, row in zip(some, probabilities(network, images, device), strict=True):
            best = np.argsort(-row, kind="stable")[:top]
            yield path, [Answer(int(i), class_names[i] if class_names else str(i), float(row[i])) for i in best]


def check_class_names(class_names: Sequence[str], header: Header, source: str) -> None:
    """A ResnetError when there are not as many names as classes."""
    if class_names and len(class_names) != header.architecture.classes:
        raise ResnetError(
            f"{source} names {len(class_names)} classes, but the network has {header.architecture.classes}; "
            "give the synset.txt it was trained with."
        )
