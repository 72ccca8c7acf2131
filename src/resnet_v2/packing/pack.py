"""Images -> records: what MXNet's im2rec does, with the order of the list kept."""

import contextlib
import dataclasses
from array import array
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from resnet_v2 import __version__, console
from resnet_v2.config.packing import PackConfig
from resnet_v2.console import agreeing, counted, following, say
from resnet_v2.data.faces import ranges_of
from resnet_v2.data.index import index_path
from resnet_v2.data.lists import ListEntry, is_sorted_by_class, read_lines
from resnet_v2.data.parts import scan_source
from resnet_v2.data.record_names import parts_of, record_paths
from resnet_v2.data.records import IMAGE_HEADER, PART_HEADER, RecordReader, read_record
from resnet_v2.data.sidecar import Rows, write_rows
from resnet_v2.data.source import Source, close, open_source, read
from resnet_v2.errors import ResnetError
from resnet_v2.files import replacing, sha256
from resnet_v2.machine import processors
from resnet_v2.packing.archives import ImageFiles, open_images
from resnet_v2.packing.making import MOST_THREADS, WORTH_A_PROCESS, Making, Processes, Record, read_and_make
from resnet_v2.packing.origin import of_pack
from resnet_v2.packing.replaced import refuse_to_replace
from resnet_v2.packing.resume import Progress, resuming
from resnet_v2.packing.shaping import Shape
from resnet_v2.packing.stores import Store, decide, look, store_of
from resnet_v2.packing.upload import uploaded
from resnet_v2.storage import Address

WAITING_PER_THREAD = 16
# The settings that the bytes of a record depend on, but for the store.
SHAPE = tuple(field.name for field in dataclasses.fields(Shape))
FORM = (*SHAPE, "pass_through", "label_width", "pack_label", "nsplit", "part")
Work = Callable[[ListEntry], Record]
# The key of an entry, its record and what is noted of it for the `.rows`; or why there is none.
Made = tuple[int, bytes | ResnetError, bytes]


def pack_list(settings: PackConfig, origin: str = "") -> Progress:
    """Pack the images that a `.lst` names, below a folder or in a tar, into a `.rec` and its `.idx`.

    A run that was stopped goes on where it was when it is called again in the same way. Raises ResnetError for an empty
    list, for a bad image or line when `on_error` is "stop", when no image was readable, and for an `out` that is no
    record. `origin` is the text about the records' making where these settings do not tell it.
    """
    refuse_to_replace(settings.written, settings.lst, settings.root)
    _refuse_later_parts(settings)
    count = _look_at_lines(settings)
    files = open_images(settings.root)
    store = _store(settings, files, count)
    matters, threads = _what_bytes_depend_on(settings, store), settings.threads or processors()
    made_by = origin or of_pack(settings, str(matters["list"]))
    with uploaded(settings.written) as out, _making(settings, store, files, threads, count) as work:
        return pack_entries(_lines(settings), count, work, out, threads, settings.on_error, matters, made_by)


def _refuse_later_parts(settings: PackConfig) -> None:
    """Raise ResnetError where a part of an earlier set of more parts would be read as one of this set."""
    parts = parts_of(settings.out) if settings.nsplit > 1 and not isinstance(settings.out, Address) else []
    later = [part for part in parts if int(part.name.rpartition("part")[2]) >= settings.nsplit]
    if later:
        raise ResnetError(f"{later[0]} is there, of a set of more parts than {settings.nsplit}; remove it.")


def _look_at_lines(settings: PackConfig) -> int:
    """How many lines there are to pack; ResnetError for a bad one when `on_error` is "stop", and where all are bad.

    What ruins a training and can be seen from the list is said on standard error.
    """
    lst, indices, labels = settings.lst, array("q"), array("f")
    count, several, bad = 0, 0, None
    for line in following(_all_lines(settings), lst.name, 0, "lines"):
        count += 1
        if isinstance(line, ListEntry):
            indices.append(line.index)
            labels.append(line.labels[0])
            several += len(line.labels) > 1
        else:
            bad = bad or line
            if settings.on_error == "stop":
                break
    if bad is not None and (settings.on_error == "stop" or not labels):
        raise bad
    if not count:
        if settings.nsplit > 1:
            raise ResnetError(f"{lst}, part {settings.part} of {settings.nsplit}, is empty; give a smaller `nsplit`.")
        raise ResnetError(f"{lst} is empty; make it with `resnet-v2 list`.")
    if several and not settings.pack_label:
        say(
            f"{counted(several, 'line')} of {lst} {agreeing(several, 'has', 'have')} several labels, of which the "
            "first is packed; `--pack-label` packs all"
        )
    warn_of_bad_labels(lst, np.frombuffer(labels, np.float32))
    if doubled := len(indices) - len(np.unique(np.frombuffer(indices, np.int64))):
        say(
            f"warning: {counted(doubled, 'line')} of {lst} {agreeing(doubled, 'has', 'have')} the index of another "
            "one; by its key only one record is found."
        )
    return count


def _lines(settings: PackConfig) -> Iterator[ListEntry | ResnetError]:
    """The lines of the list, or of the part of it that is wanted, with the labels that are to be packed."""
    for line in _all_lines(settings):
        if isinstance(line, ListEntry) and len(line.labels) > 1 and not settings.pack_label:
            line = dataclasses.replace(line, labels=line.labels[:1])
        yield line


def _all_lines(settings: PackConfig) -> Iterator[ListEntry | ResnetError]:
    return read_lines(settings.lst, settings.label_width, settings.nsplit, settings.part)


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
    name = settings.written.name
    if settings.store == "webp":
        say(f"{name}: MXNet 1.9 reads no WebP; where it is to read this record, take png or bmp")
    if settings.store != "auto":
        return store_of(settings.store, settings.quality)
    paths = (line.path for line in _lines(settings) if isinstance(line, ListEntry))
    store, reason = decide(look(files, paths, count, settings.resize))
    say(f"{name}: images are kept as {store}: {reason}")
    return store_of(store, settings.quality if store == "jpeg" else None)


def _what_bytes_depend_on(settings: PackConfig, store: Store) -> Mapping[str, object]:
    """What makes the record what it is: a run goes on only where all of it is the same."""
    lst, root = settings.lst, settings.root
    tar = [root.stat().st_size, root.stat().st_mtime_ns] if root.is_file() else None
    programs = [__version__, simplejpeg.__version__, cv2.__version__]
    form = {name: getattr(settings, name) for name in FORM}
    found = {"list": sha256(lst), "root": str(root.resolve()), "tar": tar, "programs": programs}
    return {**found, **form, **dataclasses.asdict(store)}


@contextlib.contextmanager
def _making(settings: PackConfig, store: Store, files: ImageFiles, threads: int, count: int) -> Iterator[Work]:
    """What makes the record of an entry, in whichever thread it is called."""
    shape = Shape(*(getattr(settings, name) for name in SHAPE))
    making = Making(shape, store, settings.pass_through)
    if threads <= MOST_THREADS or count < WORTH_A_PROCESS * threads:
        yield partial(read_and_make, files, making.record)
        return
    with Processes(making, threads) as processes:
        yield partial(read_and_make, files, processes.make)


def pack_entries(
    entries: Iterable[ListEntry | ResnetError],
    total: int,
    work: Work,
    out: Path,
    threads: int,
    on_error: str,
    settings: Mapping[str, object] | None = None,
    origin: str = "",
) -> Progress:
    """Write the record that `work` gives for every entry, in order; the files appear when all is done.

    A ResnetError among the entries, such as one of a bad line, counts as an image that cannot be read.

    With `settings`, on which the bytes depend, a run that was stopped goes on where it was.
    `origin` is the text about the records' making that the `.rows` holds.
    """
    cv2.setNumThreads(0)  # the threads are ours; OpenCV's own would only fight with them
    with resuming(out, settings, origin) as writer:
        progress = writer.progress
        left = islice(entries, progress.entries, None)
        # Its threads end here, also after an error: the garbage collector would wait for them wherever it happens to
        # run, and where that is another thread's start, for ever.
        with contextlib.closing(_in_order(partial(_made, work), left, threads or processors())) as records:
            for key, record, rows in following(records, out.name, total, done=progress.entries):
                if not isinstance(record, ResnetError):
                    # The one place where records go into the file, in the order of the list.
                    writer.write(key, record, rows)
                elif on_error == "stop":
                    raise record
                else:
                    writer.skip(str(record))
                    say(f"skipped: {record}")
    return progress


def _made(work: Work, entry: ListEntry | ResnetError) -> Made:
    if isinstance(entry, ResnetError):
        return 0, entry, b""
    try:
        return entry.index, *work(entry)
    except ResnetError as error:
        return entry.index, error, b""
    except (ValueError, cv2.error) as error:
        return entry.index, ResnetError(f"{entry.path} cannot be packed: {error}."), b""


def _in_order(
    work: Callable[[ListEntry | ResnetError], Made], entries: Iterable[ListEntry | ResnetError], threads: int
) -> Generator[Made]:
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
        except ChildProcessError as error:
            raise ResnetError(str(error)) from None
        finally:
            for future in waiting:
                future.cancel()


def write_index(rec: Path, out: Path | None = None) -> tuple[int, int]:
    """Read a `.rec` and write its index, and its `.rows` where images are sliceable; or the index alone, as `out`.

    Keys are ordinals, as MXNet's rec2idx.py writes them; of a collection of faces, whose records name one another by
    their ids, they are the ids. Returns the number of whole records and of bytes between them
    that are lost. A ResnetError when there is none.
    """
    if not rec.is_file():
        first = record_paths(str(rec))[0]
        if first != rec:
            raise ResnetError(f"{rec} names a set of records; index its files one by one, {first} the first.")
        raise ResnetError(f"{rec} is missing; give the path of a .rec.")
    idx = out or index_path(rec)
    count, last_end, whole_bytes = 0, 0, 0
    size = rec.stat().st_size
    with replacing(idx) as temporary, temporary.open("w", encoding="ascii", newline="\n") as file:
        with console.Progress(rec.name, size, "B") as progress:
            for key, start, end in _keyed(rec):
                file.write(f"{key}\t{start}\n")
                count, whole_bytes = count + 1, whole_bytes + min(end, size) - start
                progress.update(end - last_end)
                last_end = end
        if not count:
            raise ResnetError(f"{rec} holds no whole record; it is damaged or no RecordIO file.")
    if out is None:
        write_rows(rec, _kept_origin(rec))
    return count, size - whole_bytes


def _kept_origin(rec: Path) -> str:
    """What the `.rows` says of the making of a record whose index is made again, as far as it is this record's."""
    try:
        return Rows.of(RecordReader(rec)).origin()
    except ResnetError:
        return ""


def _keyed(rec: Path) -> Iterator[tuple[int, int, int]]:
    """The key of every whole record, and where it starts and ends."""
    source = open_source(rec)
    try:
        by_id = None
        for number, (start, end) in enumerate(scan_source(source)):
            if by_id is None:
                by_id = ranges_of(read_record(source, start)[0]) is not None
            yield _id_at(source, start) if by_id else number, start, end
    finally:
        close(source)


def _id_at(source: Source, start: int) -> int:
    head = read(source, IMAGE_HEADER.size, start + PART_HEADER.size)
    return int(IMAGE_HEADER.unpack(head)[2]) if len(head) == IMAGE_HEADER.size else 0
