"""Seconds and memory to open a record of ImageNet-11K's size: 12.4 million images in a sparse file made for it.

python benchmarks/opening.py [--json]
"""

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

from resnet_v2.data.records import RecordReader, frame

RECORDS, RECORD_BYTES, LINES_AT_ONCE = 12_400_000, 100_000, 100_000


def make_files(rec: Path) -> None:
    """An index of all records, and a `.rec` that is a hole up to its last one."""
    with rec.with_suffix(".idx").open("w") as idx:
        for start in range(0, RECORDS, LINES_AT_ONCE):
            keys = range(start, start + LINES_AT_ONCE)
            idx.write("".join(f"{key}\t{key * RECORD_BYTES}\n" for key in keys))
    with rec.open("wb") as file:
        file.seek((RECORDS - 1) * RECORD_BYTES)
        file.writelines(frame(bytes(100)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rec = Path(folder) / "a.rec"
        make_files(rec)
        started = time.perf_counter()
        reader = RecordReader(rec)
        seconds = time.perf_counter() - started
        assert len(reader) == RECORDS
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    work = f"open {RECORDS} records"
    rows = [
        {"work": work, "system": "resnet-v2", "value": round(seconds, 2), "unit": "s"},
        {"work": work, "system": "resnet-v2", "value": round(peak, 1), "unit": "MiB peak"},
    ]
    print(
        json.dumps(rows) if options.json else "\n".join(f"{row['work']}: {row['value']} {row['unit']}" for row in rows)
    )


if __name__ == "__main__":
    main()
