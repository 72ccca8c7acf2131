"""The headers of records that are copied: their ids and classes in the new file. Image bytes stay what they are."""

import struct
from collections.abc import Mapping
from dataclasses import dataclass

from resnet_v2.data.exact import EXACT_LABELS
from resnet_v2.data.records import IMAGE_HEADER
from resnet_v2.packing.inputs import Inputs

FLAG, LABEL, ID, LABELS = struct.Struct("<I"), struct.Struct("<f"), struct.Struct("<Q"), IMAGE_HEADER.size
LABEL_AT, ID_AT, ID2_AT = 4, 8, 16


@dataclass(frozen=True)
class Change:
    """What becomes of headers: new classes by the old ones, and of which files the records get the class alone."""

    classes: Mapping[float, int] | None = None
    one_label: frozenset[int] = frozenset()

    def apply(self, records: Inputs, number: int, identity: int) -> bytes | memoryview:
        """The payload of a record under another id; the same bytes where nothing changes."""
        payload = records.read(number)
        flag, label, old_identity, _ = IMAGE_HEADER.unpack_from(payload)
        if flag:
            (label,) = LABEL.unpack_from(payload, LABELS)
        new_label = label if self.classes is None else self.classes[float(records.labels[number])]
        one_label = bool(flag) and records.place(number)[0] in self.one_label
        if (new_label, identity) == (label, old_identity) and not one_label:
            return payload
        changed = bytearray(payload)
        ID.pack_into(changed, ID_AT, identity)
        if new_label != label and label >= EXACT_LABELS:
            ID.pack_into(changed, ID2_AT, 0)  # it told the old label exactly
        if one_label:
            FLAG.pack_into(changed, 0, 0)
            del changed[LABELS : LABELS + 4 * flag]
        LABEL.pack_into(changed, LABELS if flag and not one_label else LABEL_AT, new_label)
        return bytes(changed)
