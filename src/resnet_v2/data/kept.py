"""Small images (CIFAR, digits): decoded once, kept as one array, and cropped and mirrored a whole batch at a time."""

import weakref

import cv2
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from resnet_v2.data import stages
from resnet_v2.data.augment import FILL
from resnet_v2.data.claims import claimed_size
from resnet_v2.data.exact import first_label
from resnet_v2.data.filling import AT_ONCE, Crops, Failure, Filler, Job, Task
from resnet_v2.data.jpeg import Encoded
from resnet_v2.data.labels import Labels
from resnet_v2.data.record_set import Records
from resnet_v2.data.rows import NOTHING, Box
from resnet_v2.data.stored import Found, find_images
from resnet_v2.errors import ResnetError
from resnet_v2.machine import free_memory

LARGEST_SIDE = 64  # pixels
MEMORY_SHARE = 0.125  # of what is free

Whole = NDArray[np.int64]


class Kept:
    """The decoded images of a record, all of one size, as they are first asked for; n x height x width x 3, RGB."""

    def __init__(self, reader: Records, height: int, width: int) -> None:
        # It is known by its reader, which it would keep from being closed.
        self._reader, self._sources = weakref.ref(reader), [one.source for one in reader.readers]
        self.pixels = np.empty((len(reader), height, width, 3), np.uint8)
        self.labels = np.zeros(len(reader), np.float64)
        self.ends = np.zeros(len(reader), np.int64)  # the bytes behind the records
        self.others: dict[int, NDArray[np.float32]] = {}  # all labels of the records that have several
        self.there = np.zeros(len(reader), np.bool_)

    def learn(self, ordinals: Whole) -> None:
        """Decode those that are not there yet; what is damaged or of another size stays away."""
        missing, reader = np.unique(ordinals[~self.there[ordinals]]), self._reader()
        assert reader is not None  # whoever asks reads it
        for start in range(0, len(missing), AT_ONCE):
            some = missing[start : start + AT_ONCE]
            files = reader.locate(some)[0].tolist()
            found = find_images(self._sources, files, reader.offsets[some].tolist())
            for ordinal, one in zip(some.tolist(), found, strict=True):
                if not isinstance(one, ValueError):
                    self._keep(ordinal, one)

    def _keep(self, ordinal: int, found: Found) -> None:
        height, width = self.pixels.shape[1:3]
        try:
            image = Encoded(found.image, NOTHING, height * width)
            if (image.height, image.width) != (height, width):
                return
            self.pixels[ordinal] = image.decode(Box(0, height, 0, width), channels=3)
        except ValueError:
            return  # it is named when it is made for a batch
        self.ends[ordinal] = found.end
        self.labels[ordinal] = first_label(found.header.label, found.header.id2)
        if not isinstance(found.header.label, float):
            self.others[ordinal] = np.ravel(np.asarray(found.header.label, np.float32))
        self.there[ordinal] = True

    def several(self, ordinals: Whole, labels: Labels) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """The labels of some records (n x width), and which of the records have such."""
        rows = [self.others.get(ordinal, self.labels[ordinal : ordinal + 1]) for ordinal in ordinals.tolist()]
        fit = np.array([len(row) == labels.width for row in rows], np.bool_)
        values = np.zeros((len(rows), labels.width), np.float32)
        for place in np.flatnonzero(fit).tolist():
            values[place] = rows[place]
        return values, fit & ~labels.bad(values).any(1)


_of_reader: "weakref.WeakKeyDictionary[Records, Kept]" = weakref.WeakKeyDictionary()


def kept_for(job: Job, reader: Records, sharers: int = 1) -> Kept | None:
    """The kept images of a record, where they serve a job; `sharers` processes of this machine keep their own."""
    images = kept(reader, sharers)
    none = np.empty(0, np.int64)
    if images is None or job.preprocess.crops(none, *images.pixels.shape[1:3]) is None:
        return None
    return images


def kept(reader: Records, sharers: int = 1) -> Kept | None:
    """The kept images of a record, which stay as long as its reader does; None where they are not small enough."""
    found = _of_reader.get(reader)
    if found is not None or not len(reader):
        return found
    try:
        height, width = claimed_size(reader.image(0)[1]) or (0, 0)
    except ResnetError:
        return None  # it is named when its turn comes
    room = MEMORY_SHARE * free_memory() / sharers
    if not 0 < max(height, width) <= LARGEST_SIDE or len(reader) * height * width * 3 > room:
        return None
    found = _of_reader[reader] = Kept(reader, height, width)
    return found


class KeptFiller:
    """Makes a task's images from the kept ones, all at once; others as `filler` makes them."""

    def __init__(self, images: Kept, filler: Filler) -> None:
        self._images, self._filler = images, filler

    def fill(self, task: Task) -> list[Failure]:
        """Make the images of a task; returns those that could not be made."""
        with stages.prepared():
            return self._fill(task)

    def _fill(self, task: Task) -> list[Failure]:
        images, slots, labels = self._images, self._filler.slots, self._filler.job.labels
        rows = np.arange(task.first, task.first + task.images)
        ordinals = slots.ordinals[task.slot, rows]
        images.learn(ordinals)
        classes = images.labels[ordinals]
        if labels.width:
            several, good = images.several(ordinals, labels)
        else:
            good = (classes >= 0) & (classes < labels.classes) & (classes % 1 == 0)
        good &= images.there[ordinals]
        crops = self._filler.job.preprocess.crops(ordinals[good], *images.pixels.shape[1:3])
        if crops is None:
            return self._filler.fill(task)
        if labels.width:
            slots.several[task.slot, rows[good]] = several[good]
        else:
            slots.labels[task.slot, rows[good]] = classes[good].astype(np.int64)
        slots.ends[task.slot, rows[good]] = images.ends[ordinals[good]]
        made = crop(images.pixels, ordinals[good], crops)
        slots.images[task.slot, rows[good]] = made
        others = [Task(task.slot, row, 1) for row in rows[~good].tolist()]
        return [failure for other in others for failure in self._filler.fill(other)]


def crop(pixels: NDArray[np.uint8], ordinals: Whole, crops: Crops) -> NDArray[np.uint8]:
    """n x size x size x 3: squares of some images of m x height x width x 3, grey where they reach beyond, mirrored."""
    count, (height, width), size = len(ordinals), pixels.shape[1:3], crops.size
    if not count:
        return np.empty((0, size, size, 3), np.uint8)
    above, left = max(0, int(-crops.top.min())), max(0, int(-crops.left.min()))
    tall = above + max(height, int(crops.top.max()) + size)
    wide = left + max(width, int(crops.left.max()) + size)
    padded = np.full((count, tall, wide, 3), FILL, np.uint8)
    padded[:, above : above + height, left : left + width] = pixels[ordinals]
    # Each row of a crop is a run of bytes.
    rows = np.arange(count)[:, None] * tall + (crops.top + above)[:, None] + np.arange(size)
    starts = (rows * wide + (crops.left + left)[:, None]) * 3
    runs = sliding_window_view(padded.ravel(), 3 * size)[starts]
    squares: NDArray[np.uint8] = runs.reshape(count, size, size, 3)
    turned = np.flatnonzero(crops.mirror)
    if turned.size:
        tower = squares[turned].reshape(-1, size, 3)
        squares[turned] = cv2.flip(tower, 1).reshape(-1, size, size, 3)
    return squares
