"""What a user can mend."""

import contextlib
import os
import re
import unicodedata
from collections.abc import Callable, Iterator


def printable(text: str) -> str:
    """A text in which nothing speaks to a terminal: what is no letter, sign or blank is escaped, `\\x1b`, and so are
    bytes that are no UTF-8. Line breaks are escaped too."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or unicodedata.category(c) == "Zs" else ascii(c)[1:-1] for c in text)


SETTING = re.compile(r"`([a-z][a-z0-9_]*)`")


class ResnetError(Exception):
    """Something the user can mend: one sentence that says which file, what is wrong and what to do.

    Settings stand in it in backquotes, by their names in Python; whoever shows it may spell them otherwise.
    """

    def __str__(self) -> str:
        """The sentence, fit for a terminal whatever names stand in it."""
        return "\n".join(map(printable, super().__str__().split("\n")))

    def spelled(self, spell: Callable[[str], str]) -> str:
        """The sentence with other names of the settings, such as flags: `batch_size` -> --batch-size."""
        return SETTING.sub(lambda match: spell(match[1]), str(self))


def install(extra: str) -> str:
    """How to install what an extra of this package brings, for a sentence; the package itself lies on no index."""
    return f"pip install -e '.[{extra}]' in the clone of resnet-v2"


class DamagedError(ResnetError):
    """A file is there, but its bytes are no longer what was written."""


class SettingError(ResnetError):
    """A setting has a value that it cannot have, or does not go with another one."""


@contextlib.contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """An OSError in the block names this file, unless it names one: the system tells none where a file is open."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise
