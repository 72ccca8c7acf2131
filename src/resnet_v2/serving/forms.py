"""Pictures out of requests: how much is taken of a request, and where it waits."""

import tempfile
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import BinaryIO, cast

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

FORM_BYTES = 16384  # of a form beside the pictures in it
IN_MEMORY_BYTES = 65536  # of an upload; a larger one is in a temporary file that has no name
LENGTH_DIGITS = 20  # of a Content-Length: h11, which reads the heads of requests, takes no more
FIELDS = 4  # of a form, that are no pictures
NO_PICTURE = "This is no form with a picture; send one as curl -F image=@cat.jpg does."
TEXT = "The form has text in place of a picture; with curl the file's name has an @ before it: -F image=@cat.jpg."
DISK_FULL = "The temporary folder takes nothing more; a smaller picture may do."


class Refused(Exception):  # noqa: N818 (nothing is wrong)
    """A request that gets no answer but a sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


@dataclass(frozen=True)
class Limit:
    """How many megabytes and pictures a request may bring, and from which size on a picture waits in a file."""

    megabytes: int
    pictures: int = 1
    in_memory_bytes: int = IN_MEMORY_BYTES

    @property
    def most_bytes(self) -> int:
        """The megabytes in bytes."""
        return self.megabytes * 2**20

    def refuse_size(self) -> Refused:
        """What a larger request is told."""
        if self.pictures == 1:
            return Refused(413, f"A picture may have {self.megabytes} MB; send a smaller one.")
        most = f"A request may have {self.megabytes} MB, all its pictures together"
        return Refused(413, f"{most}; send a smaller picture, or fewer at a time.")


async def files_of_form(request: Request, limit: Limit) -> list[UploadFile]:
    """The pictures of a form, in its order; Refused for a form without any and for one beyond the limit."""
    most = limit.most_bytes + FORM_BYTES
    refuse_announced(request, most, limit)
    body = at_most(request, most, limit.refuse_size())
    parser = MultiPartParser(request.headers, body, max_files=limit.pictures, max_fields=FIELDS)
    parser.spool_max_size = limit.in_memory_bytes
    try:
        form = await parser.parse()
    except MultiPartException as error:
        if error.message.startswith("Too many files"):
            raise Refused(413, f"A form may hold {limit.pictures} pictures; send fewer at a time.") from None
        raise Refused(400, NO_PICTURE) from None
    except (ValueError, KeyError, AssertionError, LookupError):
        raise Refused(400, NO_PICTURE) from None
    except OSError:
        raise Refused(507, DISK_FULL) from None
    files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
    if not files:
        raise Refused(400, TEXT if form else NO_PICTURE)
    return files


async def file_of_body(request: Request, limit: Limit) -> BinaryIO:
    """A picture that is the whole of a request; Refused beyond the limit."""
    refuse_announced(request, limit.most_bytes, limit)
    file = cast(BinaryIO, tempfile.SpooledTemporaryFile(limit.in_memory_bytes))  # noqa: SIM115 (whoever asks closes it)
    try:
        async for chunk in at_most(request, limit.most_bytes, limit.refuse_size()):
            file.write(chunk)
        file.seek(0)
    except BaseException as error:
        file.close()
        if isinstance(error, OSError):
            raise Refused(507, DISK_FULL) from None
        raise
    return file


def refuse_announced(request: Request, most: int, limit: Limit) -> None:
    """Refuse a request that says itself that it is too long."""
    if int(_digits(request.headers.get("content-length", "0"))) > most:
        raise limit.refuse_size()


async def at_most(request: Request, most: int, refused: Refused) -> AsyncGenerator[bytes]:
    """The body of a request; it is refused where it has more than so many bytes."""
    taken = 0
    async for chunk in request.stream():
        taken += len(chunk)
        if taken > most:
            raise refused
        yield chunk


def _digits(text: str) -> str:
    return text if text.isdecimal() and text.isascii() and len(text) <= LENGTH_DIGITS else "0"
