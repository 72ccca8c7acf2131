"""What the settings of all commands share."""

from typing import Annotated, TypeVar

from tyro.conf import arg

from resnet_v2.errors import ResnetError

Number = TypeVar("Number", int, float)
Value = TypeVar("Value")
# A setting whose default depends on others, so that its help text tells it.
Chosen = Annotated[Value | None, arg(help_behavior_hint="")]


def parse_numbers(text: str, kind: type[Number], flag: str) -> tuple[Number, ...]:
    """`"30,60,90"` -> `(30, 60, 90)`; the empty text is the empty tuple."""
    try:
        return tuple(kind(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise ResnetError(f"{flag} {text!r} is not a list of numbers; write it like 30,60,90.") from None
