"""What an evaluation does with records that it cannot read: it names each and counts one less, up to a limit."""

from collections.abc import Callable
from pathlib import Path

MOST_SKIPPED = 0.01  # of the records, and one more


def too_many(skipped: int, records: int) -> bool:
    """Whether more records were skipped than may be."""
    return skipped > MOST_SKIPPED * records + 1


class LeftOut:
    """Is called with a sentence on every record that is left out. `problem` is not empty once the work should end.

    `tell` is called with the sentences; without it the first one is the problem. `records` are those of `path`.
    """

    def __init__(self, path: Path, records: int, tell: Callable[[str], object] | None) -> None:
        self._path, self._records, self._tell = path, records, tell
        self._count, self.problem = 0, ""

    def __call__(self, sentence: str) -> None:
        """A record cannot be read, and why."""
        self._count += 1
        if self._tell is None:
            self.problem = self.problem or sentence
        elif too_many(self._count, self._records):
            self.problem = f"{self._path}: more than one record in a hundred is bad, the last: {sentence}"
        else:
            self._tell(sentence)
