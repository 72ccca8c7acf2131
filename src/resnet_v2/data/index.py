"""The names of a record's files, and its `.idx`: a line for each record, its key and the byte where it starts."""

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resnet_v2.data.remote import local_copy
from resnet_v2.errors import ResnetError, naming

LONGEST_LINE_BYTES = 1 << 16
RECORD_NAME = re.compile(r"(.+)\.rec(\.part\d+)?", re.IGNORECASE | re.DOTALL)


def is_record(path: Path) -> bool:
    """Whether a file's name is that of a record: `a.rec`, `A.REC`, or `a.rec.part000`, a part as im2rec names it."""
    return RECORD_NAME.fullmatch(path.name) is not None


def side_path(rec: Path, ending: str) -> Path:
    """The file of an ending that belongs to a record: `data/flowers.rec`, `.idx` -> `data/flowers.idx`.

    That of a part, `p.rec.part000`, is `p.idx.part000`. Another name keeps all of it: `v1.5.idx` for `v1.5`. So no two
    records share a file.
    """
    named = RECORD_NAME.fullmatch(rec.name)
    return rec.with_name(f"{named[1]}{ending}{named[2] or ''}" if named is not None else f"{rec.name}{ending}")


def index_path(path: Path) -> Path:
    """`data/flowers.rec` -> `data/flowers.idx`."""
    return side_path(path, ".idx")


def read_index(path: Path) -> NDArray[np.int64]:
    """The byte offsets in the `.idx` that belongs to a `.rec`, in the order of the file."""
    offsets = index_column(path, 1)
    if (offsets < 0).any():
        raise ResnetError(f"{index_path(path)} has a negative offset; make it again with `resnet-v2 index {path}`.")
    return offsets


def index_column(path: Path, column: int) -> NDArray[np.int64]:
    """The keys (column 0) or byte offsets (column 1) of the `.idx` that belongs to a `.rec`."""
    # One column at a time and by NumPy's own reader: the index of ImageNet-11K has 12.4 million lines.
    idx = index_path(path)
    copy = local_copy(idx)
    if not copy.stat().st_size:
        return np.empty(0, np.int64)
    try:
        with naming(idx):
            _check_lines(copy)
            return np.loadtxt(copy, dtype=np.int64, delimiter="\t", usecols=column, ndmin=1, comments=None)
    except ValueError as error:
        raise ResnetError(f"{idx} is damaged ({error}); make it again with `resnet-v2 index {path}`.") from None


def _check_lines(idx: Path) -> None:
    """ValueError for what is no index by its first line, or has a line without an end."""
    with idx.open("rb") as file:
        if file.readline(LONGEST_LINE_BYTES).count(b"\t") != 1:
            raise ValueError("a line is a key, a tab and an offset")
        # NumPy takes a line of any length, in four times as much memory.
        while part := file.read(LONGEST_LINE_BYTES):
            if len(part) == LONGEST_LINE_BYTES and b"\n" not in part:
                raise ValueError(f"a line has more than {LONGEST_LINE_BYTES} bytes")
