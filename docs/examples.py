"""For the API page: examples in docstrings (`>>>`) become blocks of code; Markdown would take them for quotations."""

import re
from typing import Any

import griffe

# From a line that begins with >>> to the next empty line.
EXAMPLE = re.compile(r"^>>> .*(?:\n.+)*", re.MULTILINE)


class Examples(griffe.Extension):
    """Marks the examples when griffe has read a docstring."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Put a fence around every example."""
        if obj.docstring:
            obj.docstring.value = EXAMPLE.sub(lambda example: f"```pycon\n{example[0]}\n```", obj.docstring.value)
