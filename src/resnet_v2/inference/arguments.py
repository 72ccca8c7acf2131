"""Numbers that people pass in Python: refused by the name of the argument."""

import operator
from typing import Any

from resnet_v2.errors import ResnetError


def whole(name: str, value: Any, least: int = 1) -> int:
    """A whole number of at least `least`; a ResnetError names the argument of any other value."""
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if number < least:
        raise ResnetError(f"{name} is {value!r}; give a whole number of {least} or more.")
    return number
