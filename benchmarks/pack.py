"""Images per second into a record: `resnet-v2 pack` against MXNet's im2rec.py, whole runs with their start-up.

    python benchmarks/pack.py --root data/flowers/images [--images 2000] [--resize 480] [--quality 90]

The images below `--root` are repeated until there are `--images` of them. im2rec.py is that of the environment that
`make bench-peers` makes (RESNET_V2_MXNET_PYTHON), and is left out without. The two take turns; figures are medians, of
whole runs and of one core's time in them, which says more where the machine has other work.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path

import figures

MXNET_PYTHON = Path(os.environ.get("RESNET_V2_MXNET_PYTHON", ".venv-mxnet/bin/python"))
ENDINGS = (".jpg", ".jpeg", ".png")


def write_list(path: Path, root: Path, images: int) -> None:
    """A list of the images below a folder, the folders being classes, repeated to a number."""
    found = sorted(file.relative_to(root) for file in root.rglob("*") if file.suffix.lower() in ENDINGS)
    if not found:
        sys.exit(f"{root} holds no images; give a folder of them.")
    classes = {folder: label for label, folder in enumerate(sorted({file.parent for file in found}))}
    lines = [f"{i}\t{classes[file.parent]}\t{file}\n" for i, file in enumerate(islice(cycle(found), images))]
    path.write_text("".join(lines))


def im2rec() -> Path | None:
    """MXNet's script in its environment."""
    if not MXNET_PYTHON.is_file():
        return None
    command = [
        MXNET_PYTHON,
        "-c",
        "import importlib.util as u; print(u.find_spec('mxnet').submodule_search_locations[0])",
    ]
    place = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=True).stdout.strip()
    return Path(place) / "tools" / "im2rec.py"


def seconds(command: list[str]) -> tuple[float, float]:
    """Of a run, and of all processors in it."""
    started, before = time.perf_counter(), os.times()
    subprocess.run(command, check=True, capture_output=True)
    after = os.times()
    worked = after.children_user - before.children_user + after.children_system - before.children_system
    return time.perf_counter() - started, worked


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder of class folders of images")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--resize", type=int, default=480)
    parser.add_argument("--quality", type=int, default=90)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        lst, ours_out = Path(folder) / "images.lst", Path(folder) / "ours.rec"
        write_list(lst, options.root, options.images)
        form = ["--resize", str(options.resize), "--quality", str(options.quality)]
        root, threads = str(options.root), str(options.threads)
        pack = [sys.executable, "-m", "resnet_v2", "pack", str(lst), root, str(ours_out), *form, "--threads", threads]
        commands = {"resnet-v2 pack": pack}
        if (script := im2rec()) is not None:
            # im2rec.py looks for lists that begin with a prefix, in the folder of the prefix.
            theirs = [str(MXNET_PYTHON), str(script), *form, "--num-thread", threads, str(lst.with_suffix("")), root]
            commands["im2rec.py"] = theirs
        spent = [{name: seconds(one) for name, one in commands.items()} for _ in range(options.rounds)]
    found = []
    for at, kind in enumerate(("", ", of a core")):
        rounds = [{name: options.images / one[at] for name, one in each.items()} for each in spent]
        found += figures.rows(f"pack at {options.resize}{kind}", rounds, "resnet-v2 pack")
    figures.show(found, options.json)


if __name__ == "__main__":
    main()
