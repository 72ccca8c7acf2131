"""Images -> records: what MXNet's im2rec does, in threads, with the order of the list kept."""

import dataclasses
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from tqdm import tqdm

from resnet_v2 import __version__
from resnet_v2.config.packing import PackConfig
from resnet_v2.console import say
from resnet_v2.data.exact import exact_id
from resnet_v2.data.lists import ListEntry, is_sorted_by_class, read_list
from resnet_v2.data.records import IRHeader, pack, scan
from resnet_v2.data.sidecar import write_rows
from resnet_v2.errors import ResnetError
from resnet_v2.files import replacing, sha256
from resnet_v2.machine import processors
from resnet_v2.packing.archives import ImageFiles, open_images
from resnet_v2.packing.photos import check_image, read_upright
from resnet_v2.packing.resume import Progress, resuming
from resnet_v2.packing.rows_part import note
from resnet_v2.packing.stores import Store, decide, look, store_of
from resnet_v2.packing.upload import uploaded

WAITING_PER_THREAD = 16
# The key of an entry, its record and what is noted of it for the `.rows`; or why there is none.
Made = tuple[int, bytes | ResnetError, bytes]


def pack_list(settings: PackConfig) -> Progress:
    """Pack the images that a `.lst` names, below a folder or in a tar, into a `.rec` and its `.idx`.

    A run that was stopped goes on where it was when it is called again in the same way. Raises ResnetError for an empty
    list, for a bad image when `on_error` is "stop", and when no image was readable.
    """
    lst = settings.lst
    entries = tqdm(read_list(lst), lst.name, unit="line", mininterval=1, delay=1)
    labels = np.fromiter((entry.labels[0] for entry in entries), np.float32)
    if not len(labels):
        raise ResnetError(f"{lst} is empty; make it with `resnet-v2 list`.")
    warn_of_bad_labels(lst, labels)
    files = open_images(settings.root)
    store = _store(settings, files, len(labels))
    make = partial(_make_from_file, files, settings, store)
    matters = _what_bytes_depend_on(settings, store)
    with uploaded(settings.out) as out:
        return pack_entries(read_list(lst), len(labels), make, out, settings.threads, settings.on_error, matters)


def warn_of_bad_labels(lst: Path, labels: NDArray[np.float32]) -> None:
    """Say on standard error what ruins a training and can be seen from the first labels of a list's entries alone."""
    if len(labels) > 1 and (labels == labels[0]).all():
        say(f"warning: all {len(labels)} labels in {lst} are {labels[0]:g}; is the list right?")
    elif is_sorted_by_class(labels) and "val" not in lst.stem:
        say(
            f"warning: {lst} is sorted by class; readers that shuffle little (MXNet's) train badly on it: "
            "make it with `resnet-v2 list`, which shuffles."
        )


def _store(settings: PackConfig, files: ImageFiles, count: int) -> Store:
    if settings.store == "webp":
        say(f"{settings.out.name}: MXNet 1.9 reads no WebP; where it is to read this record, take png or bmp")
    if settings.store != "auto":
        return store_of(settings.store, settings.quality)
    paths = (entry.path for entry in read_list(settings.lst))
    name, reason = decide(look(files, paths, count, settings.resize))
    say(f"{settings.out.name}: images are kept as {name}: {reason}")
    return store_of(name, settings.quality if name == "jpeg" else None)


def _what_bytes_depend_on(settings: PackConfig, store: Store) -> Mapping[str, object]:
    """What makes the record what it is: a run goes on only where all of it is the same."""
    lst, root = settings.lst, settings.root
    tar = [root.stat().st_size, root.stat().st_mtime_ns] if root.is_file() else None
    programs = [__version__, simplejpeg.__version__, cv2.__version__]
    form = {"resize": settings.resize, "pass_through": settings.pass_through, **dataclasses.asdict(store)}
    return {"list": sha256(lst), "root": str(root.resolve()), "tar": tar, "programs": programs, **form}


def _make_from_file(files: ImageFiles, settings: PackConfig, store: Store, entry: ListEntry) -> bytes:
    """The image file of the record: made of an entry's, or with `pass_through` the very same."""
    data = files.read(entry.path)
    try:
        if settings.pass_through:
            check_image(data)
            return data
        pixels = read_upright(data, settings.resize)
    except ValueError as error:
        place = files.place(entry.path)
        raise ResnetError(f"{place} is no readable image: {error}; replace or remove it.") from None
    return store.encode(pixels)


def pack_entries(
    entries: Iterable[ListEntry],
    total: int,
    make: Callable[[ListEntry], bytes],
    out: Path,
    threads: int,
    on_error: str,
    settings: Mapping[str, object] | None = None,
) -> Progress:
    """Write the image file that `make` gives for every entry, in order; the files appear when all is done.

    With `settings`, on which the bytes depend, a run that was stopped goes on where it was.
    """
    cv2.setNumThreads(0)  # the threads are ours; OpenCV's own would only fight with them
    with resuming(out, settings) as writer:
        progress = writer.progress
        left = islice(entries, progress.entries, None)
        records = _in_order(partial(_make_record, make), left, threads or processors())
        for key, record, rows in tqdm(records, out.name, total, initial=progress.entries, unit="img", mininterval=1):
            if not isinstance(record, ResnetError):
                # The one place where records go into the file, in the order of the list.
                writer.write(key, record, rows)
            elif on_error == "stop":
                raise record
            else:
                writer.skip(str(record))
                say(f"skipped: {record}")
    return progress


def _make_record(make: Callable[[ListEntry], bytes], entry: ListEntry) -> Made:
    try:
        label = entry.labels[0] if len(entry.labels) == 1 else entry.labels
        record = pack(IRHeader(0, label, entry.index, exact_id(label)), make(entry))
        return entry.index, record, note(record)
    except ResnetError as error:
        return entry.index, error, b""
    except (ValueError, cv2.error) as error:
        return entry.index, ResnetError(f"{entry.path} cannot be packed: {error}."), b""


def _in_order(work: Callable[[ListEntry], Made], entries: Iterable[ListEntry], threads: int) -> Iterator[Made]:
    # A bounded queue: never more than a few images per thread are decoded and not yet written.
    waiting: deque[Future[Made]] = deque()
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
    """Read a `.rec` and write its index, and its `.rows` where images are sliceable.

    Keys are ordinals, as MXNet's rec2idx.py writes them. Returns the number of whole records and of bytes between them
    that are lost. A ResnetError when there is none.
    """
    if not rec.is_file():
        raise ResnetError(f"{rec} is missing; give the path of a .rec.")
    count, last_end, whole_bytes = 0, 0, 0
    size = rec.stat().st_size
    with replacing(idx) as temporary, temporary.open("w", encoding="ascii", newline="\n") as file:
        with tqdm(total=size, desc=rec.name, unit="B", unit_scale=True, mininterval=1) as progress:
            for start, end in scan(rec):
                file.write(f"{count}\t{start}\n")
                count, whole_bytes = count + 1, whole_bytes + min(end, size) - start
                progress.update(end - last_end)
                last_end = end
        if not count:
            raise ResnetError(f"{rec} holds no whole record; it is damaged or no RecordIO file.")
    write_rows(rec)
    return count, size - whole_bytes
