"""Kill the program at random instants, start it again, and see that nothing is lost: `make endure`.

    python tests/endure.py --kills 1000 --seed 1

Each kind of work is killed (SIGKILL) until it has ended once, again and again. Then its files are those of a run that
nobody disturbed, byte for byte; where ranks change, every image is seen once. After every kill what stands under a
final name is whole. `--kind KIND --seed SEED` makes the same choices again.
"""

import argparse
import contextlib
import functools
import http.server
import json
import os
import random
import re
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import numpy as np

from processes import Command, perform, perform_on_a_slow_disk, wait_until
from resnet_v2.config.training import arguments_of
from resnet_v2.data.records import RecordReader, writing
from resnet_v2.data.sidecar import write_rows
from resnet_v2.networks.sums import verify_checkpoint

# What a clock or the machine says in a log.
MEASURED = {"time", "seconds", "samples_per_second", "step_ms", "data_wait", "memory_mib", "clock", "text_bytes"}
# The same in its text lines.
MEASURED_TEXT = re.compile(r"\d+(\.\d+)?(?= samples/sec| ms|%| MiB| s of)|(?<=Time cost=)[\d.]+")
COLOURS = {"ant": (255, 0, 0), "bee": (0, 255, 0), "cow": (0, 0, 255)}
SEEN = "seen.txt"
End = tuple[int, str]


@dataclass
class Scene:
    """Where a kind of work is tried: its data, chance, how often it was killed so far (`tries`: since it last
    ended), and what was wrong."""

    data: Path
    folder: Path
    chance: random.Random
    kills: int = 0
    ends: int = 0
    tries: int = 0
    faults: list[str] = field(default_factory=list)

    def expect(self, right: bool, what: str) -> None:
        """Note a fault."""
        if not right:
            self.faults.append(what)
            print(f"FAULT: {what}", flush=True)

    def instant(self, seconds: float, first: float = 0) -> float:
        """A random instant between this share of some seconds from now and all of them. Each try gets more of them than
        the last: on a busy machine, where a start takes longer than they are, the work would else never end."""
        return time.monotonic() + self.chance.uniform(first, 1) * seconds * 1.1**self.tries

    def killed(self) -> None:
        """It was killed."""
        self.kills += 1
        self.tries += 1

    def killed_soon(self, run: Command, seconds: float) -> End | None:
        """Kill a command after a random part of these seconds; how it ended, when it did so before."""
        deadline = self.instant(seconds)
        while run.running and time.monotonic() < deadline:
            time.sleep(0.002)
        if run.running:
            with contextlib.suppress(ProcessLookupError):
                run.send_signal(signal.SIGKILL)
        end = run.finish()
        if end[0] != -signal.SIGKILL:
            return end
        self.killed()
        return None

    def timed(self, run: Command) -> float:
        """The seconds that a command takes which nobody disturbs."""
        started = time.monotonic()
        self.ended(run.finish())
        return time.monotonic() - started

    def ended(self, end: End, wanted: int = 0) -> None:
        """A command that was not killed must end well."""
        status, output = end
        self.expect(status == wanted and "Traceback" not in output, f"status {status}: {output[-2000:]}")
        self.ends += 1
        self.tries = 0


def training(scene: Scene, **changes: object) -> list[str]:
    """A run of four epochs of four steps that saves where it is after each."""
    settings: dict[str, object] = {
        "data_dir": scene.data,
        "data_type": "digits",
        "depth": 8,
        "device": "cpu",
        "batch_size": 16,
        "num_examples": 63,
        "epochs": 4,
        "milestones": "2,3",
        "frequent": 1,
        "checkpoint_steps": 1,
        "workers": 2,
        "resume": "auto",
        "model_prefix": "m",
        "aug_level": 3,
        "ema": 0.9,
    }
    return ["train", *arguments_of(settings | changes)]


def events(log: Path) -> list[dict[str, Any]]:
    """The lines of a log, but for what a clock says."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return [
        {name: value for name, value in line.items() if name not in MEASURED}
        for line in lines
        if line["event"] != "data"  # where a clock says that the network waits
    ]


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a folder, with their paths below it."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def look_at_checkpoints(scene: Scene, folder: Path) -> None:
    """Every file under the name of a checkpoint is whole."""
    for path in folder.glob("*.safetensors"):
        scene.expect(not verify_checkpoint(path).findings, f"{path} is damaged after a kill")


def same_run(scene: Scene, whole: Path, killed: Path, marks: bool = True) -> None:
    """Equal names, checkpoints and, but for what a clock says, logs; `marks`: also where it was saved."""
    there = [{name for name in contents(folder) if name != SEEN} for folder in (whole, killed)]
    scene.expect(there[0] == there[1], f"{killed} holds {sorted(there[0] ^ there[1])} too many or too few")
    for path in whole.glob("*.safetensors"):
        other = killed / path.name
        scene.expect(other.is_file() and path.read_bytes() == other.read_bytes(), f"{other} is not that of {whole}")
    logs = [events(folder / "m.jsonl") for folder in (whole, killed)]
    if not marks:
        logs = [[line for line in log if line["event"] != "mark"] for log in logs]
    odd = [line for line in logs[0] + logs[1] if logs[0].count(line) != logs[1].count(line)]
    scene.expect(logs[0] == logs[1], f"{killed / 'm.jsonl'} is another log, by {odd[:4]}")
    texts = [MEASURED_TEXT.sub("", (folder / "m.log").read_text()).splitlines() for folder in (whole, killed)]
    texts = [[line for line in lines if "The network waits for data" not in line] for lines in texts]
    unlike = [line for line in texts[0] + texts[1] if texts[0].count(line) != texts[1].count(line)]
    scene.expect(texts[0] == texts[1], f"{killed / 'm.log'} is another log, by {unlike[:4]}")


def same_files(scene: Scene, whole: Path, killed: Path) -> None:
    """Equal names and bytes."""
    right, found = contents(whole), contents(killed)
    other = [name for name in sorted(right | found) if right.get(name) != found.get(name)]
    scene.expect(not other, f"{killed} has other files than {whole}: {other}")


def train_alone(scene: Scene, kills: int) -> None:
    """One process, killed at any instant of its life."""
    words, whole = training(scene), scene.folder / "whole"
    seconds = scene.timed(Command(words, whole))
    while scene.kills < kills:
        killed = scene.folder / f"killed{scene.ends}"
        while (end := scene.killed_soon(Command(words, killed), seconds)) is None:
            look_at_checkpoints(scene, killed)
        scene.ended(end)
        same_run(scene, whole, killed)
        shutil.rmtree(killed)


def perform_noting(words: list[str]) -> int:
    """The command line; a line in SEEN for each step: attempt, rank, epoch, step, and this rank's images."""
    from resnet_v2.training import epoch

    train_batch, place = epoch._train_batch, [int(os.environ[name]) for name in ("ATTEMPT", "RANK")]

    @functools.wraps(train_batch)
    def noting(run: Any, state: Any, fed: Any, *more: Any) -> Any:
        with Path(SEEN).open("a") as file:
            file.write(json.dumps([*place, state.epoch, state.step, fed.ordinals.tolist()]) + "\n")
        return train_batch(run, state, fed, *more)

    with mock.patch.object(epoch, "_train_batch", noting):
        return perform(words)


@dataclass
class RankGroup:
    """The processes of a run, each one rank; they are started and ended as torch's launcher does it."""

    runs: list[Command]

    @classmethod
    def start(cls, words: Sequence[str], folder: Path, ranks: int, attempt: int) -> "RankGroup":
        """Start so many ranks in a folder."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ATTEMPT": str(attempt), "OMP_NUM_THREADS": "1"}
        place |= {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)}
        runs = []
        for rank in range(ranks):
            mine = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            runs.append(Command(words, folder, perform_noting, **place, **mine))
        return cls(runs)

    @property
    def running(self) -> bool:
        """Whether none has ended."""
        return all(run.running for run in self.runs)

    def end(self, patience_seconds: float) -> list[End]:
        """Exit statuses and outputs; once one has ended the others get so many seconds, and then are killed."""
        wait_until(lambda: not self.running, "a rank ends")
        deadline = time.monotonic() + patience_seconds
        while any(run.running for run in self.runs) and time.monotonic() < deadline:
            time.sleep(0.01)
        for run in self.runs:
            if run.running:
                with contextlib.suppress(ProcessLookupError):
                    run.send_signal(signal.SIGKILL)
        return [run.finish() for run in self.runs]


def killed_group(scene: Scene, group: RankGroup, seconds: float) -> list[End] | None:
    """Kill one rank or all after a random part of these seconds; how they ended, when the run did so before."""
    deadline = scene.instant(seconds)
    while group.running and time.monotonic() < deadline:
        time.sleep(0.002)
    killed = group.running
    if killed:
        for run in group.runs if scene.chance.random() < 0.5 else [scene.chance.choice(group.runs)]:
            with contextlib.suppress(ProcessLookupError):
                run.send_signal(signal.SIGKILL)
    # The others may wait for a rank that never came; beside one that ended by itself they have no reason to.
    ends = group.end(3 if killed else 60)
    if not killed or all(status != -signal.SIGKILL for status, _ in ends):
        return ends
    scene.killed()
    for status, output in ends:
        fine = status in (0, 2, -signal.SIGKILL) and "Traceback" not in output
        scene.expect(fine, f"a rank beside a killed one ends with {status}: {output[-2000:]}")
    return None


def ended_group(scene: Scene, ends: Sequence[End]) -> None:
    """All ranks must end well."""
    for end in ends:
        scene.ended(end)


def train_ranks(scene: Scene, kills: int) -> None:
    """Two ranks; one of them or both are killed, and both start again."""
    words, whole = training(scene, sync_bn=True, workers=1), scene.folder / "whole"
    whole.mkdir()
    started = time.monotonic()
    ended_group(scene, RankGroup.start(words, whole, 2, 0).end(60))
    seconds = time.monotonic() - started
    while scene.kills < kills:
        killed = scene.folder / f"killed{scene.ends}"
        while (ends := killed_group(scene, RankGroup.start(words, killed, 2, scene.kills), seconds)) is None:
            look_at_checkpoints(scene, killed)
        ended_group(scene, ends)
        same_run(scene, whole, killed)
        seen_once(scene, killed / SEEN)
        shutil.rmtree(killed)


def seen_once(scene: Scene, seen: Path) -> None:
    """Of every step the last attempt counts: an epoch has each image of its order once, on any number of ranks. An
    attempt begins at the step where the last one was, since each step is saved before the next."""
    places: list[list[int]] = []
    steps: dict[tuple[int, int], dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for line in seen.read_text().splitlines():
        attempt, rank, epoch, step, ordinals = json.loads(line)
        steps[epoch, step][attempt] += ordinals
        if rank == 0:
            lost = places and places[-1][0] != attempt and places[-1][1:] > [epoch, step]
            scene.expect(not lost, f"{seen}: after {places[-1:]} it goes on at {epoch, step}: more than a step is lost")
            places.append([attempt, epoch, step])
    epochs: dict[int, list[int]] = defaultdict(list)
    for (epoch, _), attempts in sorted(steps.items()):
        epochs[epoch] += attempts[max(attempts)]
    for epoch, ordinals in epochs.items():
        scene.expect(len(ordinals) == len(set(ordinals)) == 63, f"{seen}: epoch {epoch} saw {sorted(ordinals)}")
    scene.expect(len(epochs) == 4, f"{seen} has the epochs {sorted(epochs)}")


def train_changing_ranks(scene: Scene, kills: int) -> None:
    """One, two and four ranks by turns; which images were seen is what must not change."""
    words = training(scene, sync_bn=True, workers=1, force=True)
    while scene.kills < kills:
        killed = scene.folder / f"killed{scene.ends}"
        while True:
            ranks = scene.chance.choice([1, 2, 4])
            ends = killed_group(scene, RankGroup.start(words, killed, ranks, scene.kills), 3 + ranks)
            if ends is not None:
                break
            look_at_checkpoints(scene, killed)
        ended_group(scene, ends)
        seen_once(scene, killed / SEEN)
        log = events(killed / "m.jsonl")
        trained = [event["epoch"] for event in log if event["event"] == "train"]
        scene.expect(trained == [0, 1, 2, 3], f"{killed / 'm.jsonl'} has the epochs {trained}")
        shutil.rmtree(killed)


def children(process: int) -> Iterator[int]:
    """The processes that a process has started."""
    for task in Path(f"/proc/{process}/task").iterdir():
        yield from map(int, (task / "children").read_text().split())


def train_launched(scene: Scene, kills: int) -> None:
    """Ranks that `--nproc 2` starts: one of them is killed, which ends the others and the launcher."""
    words, whole = training(scene, sync_bn=True, workers=1, nproc=2), scene.folder / "whole"
    seconds = scene.timed(Command(words, whole))
    while scene.kills < kills:
        killed = scene.folder / f"killed{scene.ends}"
        while (end := killed_rank(scene, Command(words, killed), seconds)) is None:
            look_at_checkpoints(scene, killed)
        scene.ended(end)
        same_run(scene, whole, killed)
        shutil.rmtree(killed)


def killed_rank(scene: Scene, run: Command, seconds: float) -> End | None:
    """Kill a rank of a launcher after a random part of these seconds; how it ended, when it did so before."""
    deadline = scene.instant(seconds, 0.3)
    ranks: list[int] = []
    while run.running and (time.monotonic() < deadline or not ranks):
        time.sleep(0.01)
        with contextlib.suppress(OSError):
            found = [one for one in children(run.pid) if b"resnet_v2" in Path(f"/proc/{one}/cmdline").read_bytes()]
            ranks = found or ranks
    killed = False
    with contextlib.suppress(OSError, IndexError):
        os.kill(scene.chance.choice(ranks), signal.SIGKILL)
        killed = True
    status, output = run.finish()
    scene.expect(not any(Path(f"/proc/{one}").exists() for one in ranks), f"a rank of {ranks} lives on")
    if status == 0 or not killed:
        return status, output
    scene.killed()
    fine = status == 2 and "resnet-v2: Rank" in output
    scene.expect(fine, f"the launcher ends with {status}: {output[-2000:]}")
    return None


def photos(folder: Path, names: Sequence[str]) -> None:
    """Twelve pictures of one colour for each class."""
    for name in names:
        (folder / name).mkdir(parents=True)
        for number in range(12):
            picture = np.full((24 + number, 32, 3), COLOURS[name], np.uint8)
            picture[:8, :8] = 20 * number
            assert cv2.imwrite(str(folder / name / f"{number}.png"), picture)


def class_of(image: bytes) -> str:
    """The class that the colour of a picture tells."""
    picture = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    colour = picture[-1, -1]
    return max(COLOURS, key=lambda name: -int(np.abs(colour.astype(int) - COLOURS[name]).sum()))


def make_data_set(scene: Scene, kills: int) -> None:
    """`data` of a folder that has got a class: the old set, the new one, or none; no record beside other names."""
    photos(scene.folder / "old", ["bee", "cow"])
    photos(scene.folder / "new", ["ant", "bee", "cow"])
    for source in ("old", "new"):
        words = ["data", scene.folder / source, "--out", f"{source}-set/d"]
        seconds = scene.timed(Command(words, scene.folder, perform_on_a_slow_disk))
    while scene.kills < kills:
        shutil.copytree(scene.folder / "old-set", scene.folder / "killed")
        words = ["data", scene.folder / "new", "--out", "killed/d"]
        # On a quick disk few kills meet the moment in which the new set takes the place of the old one.
        while (end := scene.killed_soon(Command(words, scene.folder, perform_on_a_slow_disk), seconds)) is None:
            look_at_data_set(scene, scene.folder / "killed" / "d")
        scene.ended(end)
        same_files(scene, scene.folder / "new-set", scene.folder / "killed")
        shutil.rmtree(scene.folder / "killed")


def look_at_data_set(scene: Scene, folder: Path) -> None:
    """Each record's label is the number of its class in synset.txt."""
    names = (folder / "synset.txt").read_text().split()
    for record in folder.glob("*.rec"):
        reader = RecordReader(record)
        for ordinal in range(len(reader)):
            header, image = reader.image(ordinal)
            said = names[int(np.ravel(header.label)[0])]
            scene.expect(said == class_of(bytes(image)), f"{record}: record {ordinal} is called {said} after a kill")


def perform_noting_often(words: list[str]) -> int:
    """The command line, where `pack` notes after each picture how far it is, and takes a moment for one."""
    from resnet_v2.packing import resume

    done = resume.PartWriter._entry_done

    def slowly(writer: resume.PartWriter) -> None:
        time.sleep(0.005)
        done(writer)

    with mock.patch.multiple(resume, CHECKPOINT_SECONDS=0), mock.patch.object(resume.PartWriter, "_entry_done", slowly):
        return perform(words)


def pack_records(scene: Scene, kills: int) -> None:
    """`pack` goes on where it was, and ends with the same record."""
    went_on = 0
    photos(scene.folder / "new", ["ant", "bee", "cow"])
    scene.ended(Command(["list", scene.folder / "new", "l"], scene.folder).finish())
    pack = ["pack", scene.folder / "l_train.lst", scene.folder / "new", "--threads", "2"]
    seconds = scene.timed(Command([*pack, "whole/p.rec"], scene.folder))
    while scene.kills < kills:
        words = [*pack, "killed/p.rec"]
        while (end := scene.killed_soon(Command(words, scene.folder, perform_noting_often), 2 * seconds)) is None:
            pass
        scene.ended(end)
        went_on += "going on after" in end[1]
        same_files(scene, scene.folder / "whole", scene.folder / "killed")
        shutil.rmtree(scene.folder / "killed")
    scene.expect(went_on > 0 or scene.ends < 4, "pack never went on where it was")


def rewrite_files(scene: Scene, kills: int) -> None:
    """`verify --repair` and `export`, over files of before: each file is the old one or the new one."""
    make_damaged(scene.data, scene.folder / "bad.rec")
    scene.ended(Command(training(scene, epochs=1), scene.folder).finish())
    works = {
        "repair": (["verify", "bad.rec", "--repair", "killed/good.rec"], 1),
        "mxnet": (["export", "--prefix", "m", "--epoch", "1", "--to", "mxnet", "--out", "killed/m"], 0),
        "onnx": (["export", "--prefix", "m", "--epoch", "1", "--to", "onnx", "--out", "killed/m"], 0),
    }
    right: dict[str, dict[str, bytes]] = {}
    earlier = earlier_record(scene)
    for name, (words, wanted) in works.items():
        (scene.folder / "killed").mkdir()
        status, output = Command(words, scene.folder).finish()
        scene.expect(status == wanted, f"{name} ends with {status}: {output}")
        right[name] = contents(scene.folder / "killed")
        shutil.rmtree(scene.folder / "killed")
    while scene.kills < kills:
        name = scene.chance.choice(sorted(works))
        words, wanted = works[name]
        (scene.folder / "killed").mkdir()
        # `--repair` replaces an earlier record alone.
        old = earlier if name == "repair" else {file: b"old " + bytes(100) for file in right[name]}
        for file, content in old.items():
            (scene.folder / "killed" / file).write_bytes(content)
        while (end := scene.killed_soon(Command(words, scene.folder), 1.0)) is None:
            for file, content in contents(scene.folder / "killed").items():
                known = file.startswith(".") or content in (old.get(file), right[name].get(file))
                scene.expect(known, f"{name}: {file} is neither the old one nor the new one")
        scene.ended(end, wanted)
        found = contents(scene.folder / "killed")
        scene.expect(found == right[name], f"{name} after kills makes {sorted(found)}, or other bytes")
        shutil.rmtree(scene.folder / "killed")


def earlier_record(scene: Scene) -> dict[str, bytes]:
    """The files of a sound record of 10 images."""
    folder, reader = scene.folder / "earlier", RecordReader(scene.data / "digits_val.rec")
    folder.mkdir()
    with writing(folder / "good.rec") as writer:
        for ordinal in range(10):
            writer.write(ordinal, reader[ordinal])
    write_rows(folder / "good.rec")
    return contents(folder)


def make_damaged(data: Path, record: Path) -> None:
    """A record of 40 images, one of them with a flipped byte."""
    reader = RecordReader(data / "digits_val.rec")
    with writing(record) as writer:
        for ordinal in range(40):
            writer.write(ordinal, reader[ordinal])
    content = bytearray(record.read_bytes())
    content[len(content) // 2] ^= 0xFF
    record.write_bytes(content)


def replace_records(scene: Scene, kills: int) -> None:
    """Records that change amid a run: it goes on with the old bytes or ends with a sentence, not with other bytes."""
    words, whole = training(scene, data_dir="data", epochs=6), scene.folder / "whole"
    shutil.copytree(scene.data, whole / "data")
    scene.ended(Command(words, whole).finish())
    while scene.kills < kills:
        folder = scene.folder / f"changed{scene.ends}"
        shutil.copytree(scene.data, folder / "data")
        run = Command(words, folder)
        delay = time.monotonic() + scene.chance.uniform(0, 2)
        while run.running and time.monotonic() < delay:
            time.sleep(0.002)
        how = change_record(scene.chance, folder / "data")
        status, output = run.finish()
        scene.kills += 1
        scene.ends += 1
        scene.expect(status in (0, 2) and "Traceback" not in output, f"{how}: status {status}: {output[-1000:]}")
        for path in folder.glob("m-00*.safetensors"):
            equal = path.read_bytes() == (whole / path.name).read_bytes()
            scene.expect(equal, f"{how}: {path.name} was made of other images, and nobody said so")
        shutil.rmtree(folder)


def change_record(chance: random.Random, data: Path) -> str:
    """Do to a record what happens to records; returns what."""
    name = chance.choice(["digits_train.rec", "digits_val.rec", "digits_train.rows", "digits_train.idx"])
    how = chance.choice(["removed", "cut", "emptied", "replaced", "unreadable", "longer"])
    path = data / name
    if how == "removed":
        path.unlink()
    elif how in ("cut", "emptied"):
        os.truncate(path, path.stat().st_size // 2 if how == "cut" else 0)
    elif how == "replaced":
        other = data / "other"
        other.write_bytes(bytes(reversed(path.read_bytes())))
        other.replace(path)
    elif how == "unreadable":
        path.chmod(0)
    else:
        with path.open("ab") as file:
            file.write(bytes(1000))
    return f"{name} {how}"


def perform_with_jumping_clock(words: list[str]) -> int:
    """The command line, where the time of day jumps by up to a year in either direction."""
    chance, real = random.Random(len(words)), time.time

    def jumping() -> float:
        return real() + chance.choice([0, -86_400, -31_536_000, 31_536_000, 3600])

    with mock.patch.object(time, "time", jumping):
        return perform(words)


def jump_clocks(scene: Scene, kills: int) -> None:
    """The time of day jumps while a run is killed: the same files, and no rate below 0."""
    words, whole = training(scene), scene.folder / "whole"
    scene.ended(Command(words, whole).finish())
    while scene.kills < kills:
        killed = scene.folder / f"killed{scene.ends}"
        while (end := scene.killed_soon(Command(words, killed, perform_with_jumping_clock), 2.0)) is None:
            look_at_checkpoints(scene, killed)
        scene.ended(end)
        same_run(scene, whole, killed)
        lines = [json.loads(line) for line in (killed / "m.jsonl").read_text().splitlines()]
        rates = [value for line in lines for name, value in line.items() if name in MEASURED - {"clock"}]
        scene.expect(all(rate >= 0 for rate in rates if isinstance(rate, (int, float))), f"{killed}: a negative rate")
        shutil.rmtree(killed)


def stop_twice(scene: Scene, kills: int) -> None:
    """SIGTERM, SIGHUP or Ctrl-C, once or twice, and SIGSTOP in between: it ends, and goes on with the same bits."""
    words, whole = training(scene), scene.folder / "whole"
    scene.ended(Command(words, whole).finish())
    numbers = [signal.SIGTERM, signal.SIGHUP, signal.SIGINT]
    while scene.kills < kills:
        killed = scene.folder / f"killed{scene.ends}"
        while True:
            run = Command(words, killed)
            deadline = scene.instant(2)
            while run.running and time.monotonic() < deadline:
                time.sleep(0.002)
            if not run.running:
                end = run.finish()
                break
            told = [*scene.chance.choices(numbers, k=scene.chance.choice([1, 2]))]
            for number in [signal.SIGSTOP, signal.SIGCONT, *told]:
                with contextlib.suppress(ProcessLookupError):
                    run.send_signal(number)
                time.sleep(scene.chance.uniform(0, 0.05))
            status, output = end = run.finish()
            scene.killed()
            # Before Python has set its handlers up a signal ends a process as it always does.
            scene.expect(status in (0, 130, *(-n for n in told)), f"{told}: status {status}: {output[-2000:]}")
            look_at_checkpoints(scene, killed)
            if "Finished" in output or "is at its end" in output:
                break
        scene.ended((0, end[1]))
        same_run(scene, whole, killed, marks=False)
        shutil.rmtree(killed)


class Pieces(http.server.BaseHTTPRequestHandler):
    """Serves a network's file slowly, and what git would hold of it."""

    data, pointer = b"", b""

    def do_GET(self) -> None:
        """Answer."""
        body = self.pointer if "/raw/" in self.path else self.data
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(OSError):
            for start in range(0, len(body), 1 << 16):
                self.wfile.write(body[start : start + (1 << 16)])
                time.sleep(0.005)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def fetch_files(scene: Scene, kills: int) -> None:
    """A download that is killed: its file appears whole or not at all, and nothing piles up."""
    import hashlib

    Pieces.data = scene.chance.randbytes(1 << 20)
    digest = hashlib.sha256(Pieces.data).hexdigest()
    Pieces.pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize 1048576\n".encode()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pieces) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/resolve/x"
        while scene.kills < kills:
            killed = scene.folder / "killed"
            while (end := scene.killed_soon(Command([url, "killed/x"], scene.folder, perform_download), 0.3)) is None:
                whole = not (killed / "x").exists() or (killed / "x").read_bytes() == Pieces.data
                scene.expect(whole, "a part of a download has the name of the whole")
            scene.ended(end)
            found = contents(killed)
            scene.expect(found == {"x": Pieces.data}, f"a download leaves {sorted(found)}")
            shutil.rmtree(killed)
        server.shutdown()


def perform_download(words: list[str]) -> int:
    """Fetch a file as `fetch` does."""
    from resnet_v2.networks.published import download

    download(words[0], Path(words[1]))
    return 0


# What is tried, and how many of a thousand kills it gets.
KINDS: dict[str, tuple[Callable[[Scene, int], None], int]] = {
    "train": (train_alone, 350),
    "ranks": (train_ranks, 150),
    "changing-ranks": (train_changing_ranks, 100),
    "launched": (train_launched, 30),
    "data": (make_data_set, 100),
    "pack": (pack_records, 60),
    "rewrite": (rewrite_files, 60),
    "fetch": (fetch_files, 40),
    "clock": (jump_clocks, 40),
    "signals": (stop_twice, 40),
    "records": (replace_records, 30),
}


def endure(kind: str, kills: int, data: Path, seed: int) -> Scene:
    """Try a kind of work until it was killed so often."""
    with tempfile.TemporaryDirectory(prefix=f"endure-{kind}-") as name:
        scene = Scene(data, Path(name), random.Random(f"{kind} {seed}"))
        KINDS[kind][0](scene, kills)
    return scene


def small_data(folder: Path) -> Path:
    """The digits, with 40 images for validation, which would else be most of what a short run does."""
    status, output = Command(["data", "digits", "--out", folder], folder.parent).finish()
    assert status == 0, output
    reader = RecordReader(folder / "digits_val.rec")
    payloads = [reader[ordinal] for ordinal in range(40)]
    with writing(folder / "digits_val.rec") as writer:
        for ordinal, payload in enumerate(payloads):
            writer.write(ordinal, payload)
    return folder


def main() -> int:
    """Try all kinds, or one; the exit status is 1 when a fault was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=KINDS)
    options = parser.parse_args()
    shares = {name: share for name, (_, share) in KINDS.items() if options.kind in (None, name)}
    faults = 0
    with tempfile.TemporaryDirectory(prefix="endure-data-") as folder:
        data = small_data(Path(folder) / "digits")
        for kind, share in shares.items():
            started = time.monotonic()
            scene = endure(kind, max(1, options.kills * share // sum(shares.values())), data, options.seed)
            faults += len(scene.faults)
            print(
                f"{kind:15s} {scene.kills:5d} kills, ended {scene.ends:4d} times, {len(scene.faults)} faults, "
                f"{time.monotonic() - started:.0f} s",
                flush=True,
            )
    return min(faults, 1)


if __name__ == "__main__":
    sys.exit(main())
