"""The pictures that visitors of the page have dropped. None has a name on the disk, so none is left behind."""

import collections
import secrets
import threading
from dataclasses import dataclass
from typing import BinaryIO

from resnet_v2.errors import ResnetError

PICTURES = 20  # that one form, and one question, may bring
# So many of those that have been looked at are kept, because their visitor may ask about other classes.
ANSWERED = 50


@dataclass
class _Upload:
    file: BinaryIO
    owner: str
    name: str = ""
    read: bool = False


class Uploads:
    """Files by tokens that nobody can guess; `waiting` of them may wait to be read for the first time.

    The files are closed when they leave, and what is no open file any more is gone: they have no names. All methods may
    be called from any thread.
    """

    def __init__(self, waiting: int) -> None:
        self._waiting = waiting
        self._uploads: dict[str, _Upload] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._uploads)

    def add(self, file: BinaryIO, owner: str, name: str = "") -> str:
        """The token of a new file, which its visitor calls by a `name`.

        Where too many wait, whoever has the most of them loses the oldest of these.
        """
        token = secrets.token_hex(16)
        with self._lock:
            waiting = [(known, upload.owner) for known, upload in self._uploads.items() if not upload.read]
            if len(waiting) >= self._waiting:
                ((greedy, _),) = collections.Counter(whose for _, whose in waiting).most_common(1)
                self._close(next(known for known, whose in waiting if whose == greedy))
            self._uploads[token] = _Upload(file, owner, name)
        return token

    def look(self, token: object, start: int = 0, count: int = -1) -> bytes:
        """`count` bytes of a file from `start` on, all by default; ResnetError when it is not there, or never was."""
        with self._lock:
            upload = self._uploads.get(token) if isinstance(token, str) else None
            if upload is None:
                raise ResnetError("The picture is no longer here; drop it again.")
            upload.file.seek(start)
            return upload.file.read(count)

    def name(self, token: object) -> str:
        """What its visitor calls a file; nothing where it is not there."""
        with self._lock:
            upload = self._uploads.get(token) if isinstance(token, str) else None
            return upload.name if upload is not None else ""

    def read(self, token: object) -> bytes:
        """The same for an answer: from now on the file may leave before others that still wait."""
        data = self.look(token)
        with self._lock:
            upload = self._uploads.pop(str(token), None)
            if upload is not None:
                self._uploads[str(token)] = upload
                upload.read = True
            answered = [known for known, upload in self._uploads.items() if upload.read]
            if len(answered) > ANSWERED:
                self._close(answered[0])
        return data

    def remove(self, token: str) -> None:
        """Close a file, if it is still there."""
        with self._lock:
            if token in self._uploads:
                self._close(token)

    def _close(self, token: str) -> None:
        self._uploads.pop(token).file.close()
