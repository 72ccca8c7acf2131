"""What a user can mend."""

import re
from collections.abc import Callable

SETTING = re.compile(r"`([a-z][a-z0-9_]*)`")


class ResnetError(Exception):
    """Something the user can mend: one sentence that says which file, what is wrong and what to do.

    Settings stand in it in backquotes, by their names in Python; whoever shows it may spell them otherwise.
    """

    def spelled(self, spell: Callable[[str], str]) -> str:
        """The sentence with other names of the settings, such as flags: `batch_size` -> --batch-size."""
        return SETTING.sub(lambda match: spell(match[1]), str(self))


class DamagedError(ResnetError):
    """A file is there, but its bytes are no longer what was written."""


class SettingError(ResnetError):
    """A setting has a value that it cannot have, or does not go with another one."""
