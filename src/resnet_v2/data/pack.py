"""Images -> records: what MXNet's im2rec does, in threads, with the order of the list kept."""

import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from resnet_v2.data.jpeg import Image, encode, read_image, resize_shorter_side
from resnet_v2.data.lists import ListEntry, is_sorted_by_class, read_list
from resnet_v2.data.records import IRHeader, pack, scan, writing
from resnet_v2.files import ResnetError, replacing

WAITING_PER_THREAD = 16


@dataclass(frozen=True)
class PackReport:
    """What was packed: images written, and one sentence for each that was left out."""

    images: int
    skipped: tuple[str, ...]


def pack_list(
    lst: Path, root: Path, out: Path, *, resize: int, quality: int, encoding: str, threads: int, on_error: str
) -> PackReport:
    """Pack the images that a `.lst` names, below `root`, into `out` and its `.idx`.

    Raises ResnetError for an empty list, for a bad image when `on_error` is "stop", and when no image was readable.
    """
    if not 1 <= quality <= 100:
        raise ResnetError(f"--quality {quality} does not exist; give a number from 1 to 100.")
    entries = list(read_list(lst))
    if not entries:
        raise ResnetError(f"{lst} is empty; make it with `resnet-v2 list`.")
    warn_of_bad_labels(lst, entries)
    load = partial(_load_from_folder, root, resize)
    return pack_entries(entries, load, out, quality=quality, encoding=encoding, threads=threads, on_error=on_error)


def warn_of_bad_labels(lst: Path, entries: Sequence[ListEntry]) -> None:
    """Say on standard error what ruins a training and can be seen from a list alone."""
    labels = np.array([entry.labels[0] for entry in entries])
    if len(labels) > 1 and (labels == labels[0]).all():
        print(f"warning: all {len(labels)} labels in {lst} are {labels[0]:g}; is the list right?", file=sys.stderr)
    elif is_sorted_by_class(labels) and "val" not in lst.stem:
        print(
            f"warning: {lst} is sorted by class; readers that shuffle little (MXNet's) train badly on it: "
            "make it with `resnet-v2 list`, which shuffles.",
            file=sys.stderr,
        )


def _load_from_folder(root: Path, resize: int, entry: ListEntry) -> Image:
    pixels = read_image(root / entry.path)
    return resize_shorter_side(pixels, resize) if resize else pixels


def pack_entries(
    entries: Sequence[ListEntry],
    load: Callable[[ListEntry], Image],
    out: Path,
    *,
    quality: int,
    encoding: str,
    threads: int,
    on_error: str,
) -> PackReport:
    """Load, encode and write every entry, in order; the files appear under their names when all is done."""
    skipped: list[str] = []
    with writing(out) as writer:
        cv2.setNumThreads(0)  # the threads are ours; OpenCV's own would only fight with them
        work = partial(_make_record, load, quality, encoding)
        records = _in_order(work, entries, threads or os.cpu_count() or 1)
        for entry, record in tqdm(
            zip(entries, records, strict=True), out.name, len(entries), unit="img", mininterval=1
        ):
            if isinstance(record, ResnetError):
                if on_error == "stop":
                    raise record
                skipped.append(str(record))
                tqdm.write(f"skipped: {record}", file=sys.stderr)
            else:
                writer.write(entry.index, record)
        if len(skipped) == len(entries):
            raise ResnetError(f"None of the {len(entries)} images could be read, {out} is not written: {skipped[0]}")
    return PackReport(len(entries) - len(skipped), tuple(skipped))


def _make_record(
    load: Callable[[ListEntry], Image], quality: int, encoding: str, entry: ListEntry
) -> bytes | ResnetError:
    try:
        pixels = load(entry)
        label = entry.labels[0] if len(entry.labels) == 1 else entry.labels
        return pack(IRHeader(0, label, entry.index, 0), encode(pixels, encoding, quality))
    except ResnetError as error:
        return error
    except (ValueError, cv2.error) as error:
        return ResnetError(f"{entry.path} cannot be packed: {error}.")


def _in_order(
    work: Callable[[ListEntry], bytes | ResnetError], entries: Iterable[ListEntry], threads: int
) -> Iterator[bytes | ResnetError]:
    # A bounded queue: never more than a few images per thread are decoded and not yet written.
    waiting: deque[Future[bytes | ResnetError]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="pack") as pool:
        try:
            for entry in entries:
                waiting.append(pool.submit(work, entry))
                if len(waiting) >= WAITING_PER_THREAD * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def write_index(rec: Path, idx: Path) -> tuple[int, int]:
    """Read a `.rec` once and write its index; keys are ordinals, as MXNet's rec2idx.py writes them.

    Returns the number of whole records and of bytes between them that are lost. A ResnetError when there is none.
    """
    if not rec.is_file():
        raise ResnetError(f"{rec} is missing; give the path of a .rec.")
    count, last_end, whole_bytes = 0, 0, 0
    size = rec.stat().st_size
    with replacing(idx) as temporary, temporary.open("w", encoding="ascii") as file:
        with tqdm(total=size, desc=rec.name, unit="B", unit_scale=True, mininterval=1) as progress:
            for start, end in scan(rec):
                file.write(f"{count}\t{start}\n")
                count, whole_bytes = count + 1, whole_bytes + min(end, size) - start
                progress.update(end - last_end)
                last_end = end
        if not count:
            raise ResnetError(f"{rec} holds no whole record; it is damaged or no RecordIO file.")
    return count, size - whole_bytes
