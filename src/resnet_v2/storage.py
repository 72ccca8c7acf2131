"""Addresses of object storage, s3:// gs:// http:// https://, and what is asked of the servers behind them.

obstore speaks to them: it finds credentials in the environment or on the machine, and asks again, later and later,
where a server fails. What it says of an error is never passed on, for addresses and keys may stand in it.
"""

import errno
import functools
import os
import random
import re
import stat
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn
from urllib.parse import urlsplit

from resnet_v2.errors import ResnetError, SettingError, install

if TYPE_CHECKING:
    from obstore import GetOptions
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

if sys.platform == "win32":
    from pathlib import WindowsPath as _Path
else:
    from pathlib import PosixPath as _Path

SCHEMES = ("s3", "gs", "http", "https")
BETWEEN = re.compile(r",(?=[a-z0-9]+:/)")
WITH_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")  # two letters or more: one is a drive of Windows

RETRIES, RETRY_SECONDS = 8, 60.0  # of a request that the server fails, and how long in all
SILENCE_SECONDS = 20.0  # of a server, until it is asked again
BODIES = 6  # answers that break off, until it is said
FIRST_PAUSE = 0.1  # seconds, doubled each time
PART_BYTES = 1 << 23  # of an upload


class Address(_Path):
    """An address of object storage as a path: its name, its ending, its neighbours, and whether it is there.

    Nothing on the disk has its name: what opens it as a file finds none.
    """

    def __str__(self) -> str:
        """The address; a path makes one slash of two."""
        return re.sub(r"^([a-z0-9]+):/+", r"\1://", super().__str__().replace("\\", "/"))

    def is_dir(self) -> bool:
        """No: storage has no folders."""
        return False

    def is_file(self) -> bool:
        """Whether an object has the address."""
        return find(self) is not None

    exists = is_file

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """Its size; the rest says nothing."""
        return os.stat_result((stat.S_IFREG, 0, 0, 1, 0, 0, look(self).size, 0, 0, 0))

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> NoReturn:
        """Never: a folder of the disk would be made."""
        raise OSError(errno.EROFS, "an address has no folders", str(self))


class Object(NamedTuple):
    """What is known of an object: its bytes, and what becomes another when it is changed (its ETag, or its time)."""

    size: int
    version: str


def as_path(text: str | os.PathLike[str]) -> Path:
    """A path, or the `Address` that a text is. SettingError for one that is of no use."""
    if isinstance(text, Path):
        return text
    text = os.fspath(text)
    scheme = WITH_SCHEME.match(text)
    if scheme is None:
        return Path(text)
    text, *others = BETWEEN.split(text)  # a list of them is one path too, until its parts are looked at
    for other in others:
        as_path(other)
    parts = urlsplit(text)
    if "@" in parts.netloc or parts.query or parts.fragment:
        # Not shown: a password or a signature may stand there.
        raise SettingError(
            f"The address {scheme[0]}{parts.netloc.rpartition('@')[2]}{parts.path} was given with a user, a question "
            "mark or a number sign; give it without, and credentials in the environment."
        )
    if scheme[1] not in SCHEMES:
        raise SettingError(f"{text} begins with {scheme[0]}; records are read from {', '.join(SCHEMES)}, or a folder.")
    if not parts.netloc:
        raise SettingError(f"{text} names no bucket and no host; give one behind the slashes.")
    if "//" in parts.path or {".", ".."} & set(parts.path.split("/")):
        raise SettingError(f"{text} has an empty part, or dots for one; give the address without.")
    return Address(",".join([text, *others]))


def _parts(address: Address) -> tuple[str, str, str]:
    """Scheme, bucket or host, and key."""
    scheme, _, rest = str(address).partition("://")
    bucket, _, key = rest.partition("/")
    return scheme, bucket, key


@functools.cache
def _store(scheme: str, bucket: str) -> "ObjectStore":
    try:
        from obstore.store import GCSStore, HTTPStore, S3Store
    except ImportError:
        raise ResnetError(f"{scheme}://{bucket} needs obstore; install it with {install('remote')}.") from None
    endpoint = os.environ.get("AWS_ENDPOINT_URL", "") if scheme == "s3" else f"{scheme}://"
    options: ClientConfig = {
        "allow_http": endpoint.startswith("http://"),
        "connect_timeout": timedelta(seconds=min(5, SILENCE_SECONDS)),
        "read_timeout": timedelta(seconds=SILENCE_SECONDS),
        "timeout": timedelta(seconds=6 * SILENCE_SECONDS),
    }
    retries: RetryConfig = {
        "max_retries": RETRIES,
        "retry_timeout": timedelta(seconds=RETRY_SECONDS),
        "backoff": {"init_backoff": timedelta(seconds=FIRST_PAUSE), "max_backoff": timedelta(seconds=10), "base": 2},
    }
    if scheme == "s3":
        return S3Store(bucket, client_options=options, retry_config=retries)
    if scheme == "gs":
        return GCSStore(bucket, client_options=options, retry_config=retries)
    return HTTPStore.from_url(f"{scheme}://{bucket}", client_options=options, retry_config=retries)


def _of(address: Address) -> tuple["ObjectStore", str]:
    scheme, bucket, key = _parts(address)
    if not key:
        raise ResnetError(f"{address} names no object; give what is in it too.")
    try:
        return _store(scheme, bucket), key
    except ResnetError:
        raise
    except Exception as error:  # such as settings in the environment that contradict one another
        raise _told(address, error) from None


def find(address: Address) -> Object | None:
    """What is at an address, None where nothing is; a ResnetError where that cannot be told."""
    store, key = _of(address)
    import obstore

    try:
        found = obstore.head(store, key)
    except FileNotFoundError:
        return None
    except Exception as error:
        raise _told(address, error) from None
    return Object(found["size"], found["e_tag"] or found["last_modified"].isoformat())


def look(address: Address) -> Object:
    """What is at an address; a ResnetError where nothing is."""
    found = find(address)
    if found is None:
        raise ResnetError(f"{address} is missing; check the address.")
    return found


def fetch(address: Address, known: Object, start: int, end: int) -> bytes:
    """The bytes from `start` to `end` of an object; a ResnetError where it is no more what was known of it."""
    if end <= start:
        return b""
    store, key = _of(address)
    import obstore

    # A weak ETag matches nothing; then only what the answer says of itself tells of a change.
    options: GetOptions = {"range": (start, end)}
    if known.version.startswith('"'):
        options["if_match"] = known.version
    for number in range(BODIES):
        if number:
            time.sleep(FIRST_PAUSE * 2**number * random.uniform(0.5, 1))
        try:
            answer = obstore.get(store, key, options=options)
        except Exception as error:
            raise _told(address, error) from None
        meta = answer.meta
        if Object(meta["size"], meta["e_tag"] or meta["last_modified"].isoformat()) != known:
            raise _changed(address)
        try:
            data = bytes(answer.bytes())
        except Exception:  # it broke off
            continue
        if len(data) == end - start:
            return data
    raise ResnetError(
        f"{address} cannot be read: the answers break off, {BODIES} one after the other; try again later."
    )


def send(path: Path, address: Address) -> None:
    """Upload a file; the object appears when all of it is there. A ResnetError says what went wrong."""
    store, key = _of(address)
    import obstore

    try:
        obstore.put(store, key, path, chunk_size=PART_BYTES, max_concurrency=4)
    except Exception as error:
        raise _told(address, error, "written") from None


def remove_object(address: Address) -> None:
    """Remove an object, if there is one."""
    store, key = _of(address)
    import obstore

    try:
        obstore.delete(store, key)
    except FileNotFoundError:
        pass
    except Exception as error:
        raise _told(address, error, "removed") from None


def _changed(address: Address) -> ResnetError:
    return ResnetError(f"{address} was changed while it was read; start the command again.")


def _told(address: Address, error: Exception, done: str = "read") -> ResnetError:
    """What an error of the library means, in our words alone."""
    from obstore import exceptions

    if isinstance(error, exceptions.PreconditionError):
        return _changed(address)
    if isinstance(error, FileNotFoundError):
        return ResnetError(f"{address} is missing; check the address.")
    if isinstance(error, exceptions.PermissionDeniedError | exceptions.UnauthenticatedError):
        return ResnetError(f"{address} may not be {done} with these credentials; give others in the environment.")
    return ResnetError(f"{address} cannot be {done}: {_why(str(error))}.")


def _why(text: str) -> str:
    if "169.254.169.254" in text or "metadata.google" in text or "credential" in text.lower():
        return "there are no credentials; give them in the environment"
    if status := re.search(r"status code: (\d{3})", text):
        advice = "try again later" if status[1] >= "500" else "check the address, and the region in the environment"
        return f"the server answers with status {status[1]}; {advice}"
    if "dns error" in text:
        return "its host is not known; check the address and the network"
    if "kind: Timeout" in text:
        return "the server does not answer in time; check the network"
    if "ange request" in text or "range requested" in text:
        return "the server gives no parts of files; take another one"
    return "there is no connection to the server, or it breaks off; check the address and the network"
