"""Run by a Python that has torchvision from loader.py: images per second of its transforms in a DataLoader.

Worker processes stand for threads. The augmentations are torchvision's usual ones, on Pillow images, as its reference
recipes have them; level 2 is a random resized crop of the same scales and ColorJitter.
"""

import io
import struct
import sys
import time
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

SIZE = 224
MIRROR_AND_TENSOR = [v2.RandomHorizontalFlip(), v2.PILToTensor()]
AUGMENTATIONS: dict[str, list[Any]] = {
    "level-1": [v2.RandomCrop(SIZE)],
    "level-2": [
        v2.RandomResizedCrop(SIZE, scale=(0.17, 0.6), ratio=(0.75, 1.25), antialias=False),
        v2.ColorJitter(brightness=0.2, saturation=0.2, hue=0.2),
    ],
    "resized-crop": [v2.RandomResizedCrop(SIZE, antialias=False)],
}


class Records(Dataset[Any]):
    """The images of a record, each read by its offset in the index; `repeats` makes the epoch longer."""

    def __init__(self, rec: Path, augmentation: str, repeats: int) -> None:
        self.rec, self.augment = rec, v2.Compose([*AUGMENTATIONS[augmentation], *MIRROR_AND_TENSOR])
        lines = rec.with_suffix(".idx").read_text().splitlines()
        self.offsets = [int(line.split("\t")[1]) for line in lines] * repeats
        self.file: Any = None

    def __len__(self) -> int:
        return len(self.offsets)

    def __getitem__(self, index: int) -> Any:
        if self.file is None:
            self.file = self.rec.open("rb")
        self.file.seek(self.offsets[index])
        _, word, _, label, _, _ = struct.unpack("<IIIfQQ", self.file.read(32))
        image = Image.open(io.BytesIO(self.file.read((word & (1 << 29) - 1) - 24))).convert("RGB")
        return self.augment(image), int(label)


def main() -> None:
    rec, augmentation = Path(sys.argv[1]), sys.argv[2]
    workers, batch_size, images = map(int, sys.argv[3:6])
    count = len(Records(rec, augmentation, 1))
    warm_up = 5 * batch_size
    records = Records(rec, augmentation, -(-(images + warm_up) // count))
    torch.set_num_threads(1)
    done, started = 0, 0.0
    for pixels, _ in DataLoader(records, batch_size, shuffle=True, num_workers=workers):
        done += len(pixels)
        if not started and done >= warm_up:
            done, started = 0, time.perf_counter()
    print(done / (time.perf_counter() - started))


if __name__ == "__main__":
    main()
