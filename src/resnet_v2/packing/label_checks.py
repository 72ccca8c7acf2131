"""The labels of records, held against the list and the class names, and what is remarkable in them."""

from collections.abc import Sequence

from resnet_v2.data.boxes import LOOKED_AT, has_boxes
from resnet_v2.data.exact import EXACT_LABELS, shown
from resnet_v2.data.records import IRHeader
from resnet_v2.packing.walk import Piece


def tell_of_labels(pieces: Sequence[Piece]) -> list[str]:
    """What there is to say of the labels of images where one of them has not just one."""
    images = [piece for piece in pieces if not piece.empty]
    if any(has_boxes(IRHeader(len(one.labels), one.labels, 0, 0)) for one in images[:LOOKED_AT]):
        return ["the labels are boxes, of object detection; train, evaluate, convert by class and unpack refuse them"]
    least, most = (of(map(len, (one.labels for one in images)), default=1) for of in (min, max))
    if most < 2:
        return []
    return [f"{most if least == most else f'{least} to {most}'} labels a record; `train` takes the first, or `labels`"]


def _equal(listed: Sequence[float], packed: Sequence[float]) -> bool:
    """Whether labels are the same to 6 decimals, which a list has, and as float32, which a record has; the first one,
    which a record has exactly, to the last digit where it is large.
    """
    listed = listed[: len(packed)] if len(packed) == 1 else listed  # the first alone is packed unless more are wanted
    pairs = [*zip(listed, packed, strict=False)]
    near = all(abs(one - other) <= 1e-6 * max(1, abs(one)) for one, other in pairs)
    return len(listed) == len(packed) and near and (listed[0] < EXACT_LABELS or listed[0] == packed[0])


def wrong_label(piece: Piece, listed: dict[int, tuple[float, ...]] | None, classes: int | None) -> str:
    """What is wrong with the labels of a record by the list and the number of classes; nothing where they are right."""
    its = ", ".join(map(shown, piece.labels))
    wanted = (listed or {}).get(piece.key)
    if wanted is not None and not _equal(wanted, piece.labels):
        return f"its label is {its}, the .lst says {', '.join(map(shown, wanted))}"
    first = piece.labels[0] if piece.labels else -1.0
    if classes is not None and not (first.is_integer() and 0 <= first < classes):
        return f"its label is {its}, but the classes of synset.txt are 0 to {classes - 1}"
    return ""
