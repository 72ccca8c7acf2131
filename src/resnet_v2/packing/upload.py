"""A record for object storage: packed on the disk, then uploaded."""

import contextlib
import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from resnet_v2.data.index import index_path
from resnet_v2.data.remote import cache
from resnet_v2.data.sidecar import sidecar_path
from resnet_v2.errors import ResnetError
from resnet_v2.storage import Address, find, remove_object, send


@contextlib.contextmanager
def uploaded(out: Path) -> Iterator[Path]:
    """Where to pack a record: `out` itself, or a path of the disk from which it goes to its address at the end.

    That path is the same for every run, so a run that was stopped goes on. An `.idx` and a `.rows` of an earlier record
    at the address go before it does. Where an upload fails, the packed files stay, and a ResnetError says where.
    """
    if not isinstance(out, Address):
        yield out
        return
    find(out)  # says now, and not after hours, that there is no such bucket or no permission
    folder = cache().folder / f"packing-{hashlib.sha256(str(out).encode()).hexdigest()[:32]}"
    packed = folder / out.name
    yield packed
    try:
        for path in (index_path(out), sidecar_path(out)):
            if path.is_file() and isinstance(path, Address):
                remove_object(path)
        for path in (packed, index_path(packed), sidecar_path(packed)):
            send(path, Address(out.with_name(path.name)))
    except ResnetError as error:
        raise ResnetError(f"{str(error).rstrip('.')}; what was packed lies in {folder}.") from None
    shutil.rmtree(folder, ignore_errors=True)
