"""What a GPU shows: the tests marked gpu, then speeds, memory and waits, as a table and a JSON file (`make gpu`).

It needs no network and, beside PyTorch with CUDA, numpy, opencv-python-headless, safetensors, tqdm, matplotlib and
pytest, only these wheels: simplejpeg, tyro, docstring_parser, typeguard, typing_extensions. With timm it measures
timm's resnetv2_50 too. PYTHONPATH=src stands in for an installation.

    python benchmarks/gpu.py --out gpu.json                  on a GPU: at most 8 minutes on an H100
    python benchmarks/gpu.py --small --out gpu-small.json    the same on a CPU with tiny sizes, so that it does not rot

Every stage is a process of its own with a time limit; a stage that fails or takes too long leaves the others alone, and
its lines out. `--stages plans,loader` runs some of them. A figure is the median of five rounds.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from resnet_v2.config.fields import Stem
from resnet_v2.config.training import TrainConfig
from resnet_v2.data.augment import Augmentation, augmentation
from resnet_v2.data.hands import usual_workers
from resnet_v2.data.loader import Loader, Reading
from resnet_v2.data.records import IRHeader, RecordReader, pack, writing
from resnet_v2.networks.architecture import Architecture
from resnet_v2.networks.resnet import ResNet, initialize
from resnet_v2.recompute.budget import Workload, plan_for_training
from resnet_v2.recompute.plan import Plan
from resnet_v2.recompute.tape import follow
from resnet_v2.training import gpu
from resnet_v2.training.distributed import Ranks
from resnet_v2.training.evaluate import evaluate
from resnet_v2.training.graph import STEPS_BEFORE, Graph
from resnet_v2.training.optim import nesterov_sgd
from resnet_v2.training.step import Trainer

ROOT = Path(__file__).parents[1]
ROUNDS = 5
MIB = 2**20


@dataclass(frozen=True)
class Line:
    """One figure of the table."""

    work: str
    value: float
    unit: str
    note: str = ""


@dataclass(frozen=True)
class Sizes:
    """How large everything is."""

    device: torch.device
    small: bool

    def work(self, depth: int, batch_size: int, stem: Stem = "imagenet") -> Workload:
        """A network in training; the small one is a few layers on a few images."""
        if self.small:
            return Workload(Architecture(8, 10, "cifar"), batch_size=4)
        return Workload(Architecture(depth, 1000 if stem == "imagenet" else 10, stem), batch_size=batch_size)


def named(sizes: Sizes, name: str) -> str:
    """The name of a line; the small sizes say that they are no such network."""
    return f"8 layers for {name}" if sizes.small else name


def trainer(
    sizes: Sizes,
    work: Workload,
    amp: str = "off",
    plan: Plan | None = None,
    graph: bool = False,
    compiled: bool = False,
    tf32: bool = True,
    layout: str = "channels-last",
    deterministic: bool = True,
) -> Trainer:
    """As `train` makes it."""
    if sizes.device.type == "cuda":
        gpu.set_numerics(deterministic, tf32)
    network = follow(initialize(ResNet(work.architecture), 0), plan)
    memory_format = torch.channels_last if layout == "channels-last" else torch.contiguous_format
    network = network.to(device=sizes.device, memory_format=memory_format)  # type: ignore[call-overload]
    config = TrainConfig.of(compile=compiled, memory_format=layout)
    made = Trainer.of(network, nesterov_sgd(network, 0.01, 0.9, 1e-4), config, Ranks(), sizes.device, amp)
    made.model.train()
    recorded = Graph(work.batch_size) if graph and sizes.device.type == "cuda" else None
    return gpu.with_graph(made, recorded)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(sizes: Sizes, step: Callable[[], object], steps: int = 6) -> float:
    """The median time of a step, its input on the device."""
    steps = 2 if sizes.small else steps
    for _ in range(STEPS_BEFORE + 2):
        step()
    rounds = []
    for _ in range(ROUNDS):
        synchronize(sizes.device)
        started = time.perf_counter()
        for _ in range(steps):
            step()
        synchronize(sizes.device)
        rounds.append((time.perf_counter() - started) / steps)
    return statistics.median(rounds)


def step_of(sizes: Sizes, made: Trainer, work: Workload) -> Callable[[], object]:
    """A step with random pixels that lie on the device."""
    size, count = work.architecture.image_size, work.batch_size
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, generator=generator).to(sizes.device)
    labels = torch.randint(0, work.architecture.classes, (count,), generator=generator).to(sizes.device)
    return lambda: made.step(images, labels, count, 0.01)


def speed(sizes: Sizes, name: str, work: Workload, steps: int = 6, **settings: object) -> Line:
    """Images per second of a training step."""
    made = trainer(sizes, work, **settings)  # type: ignore[arg-type]
    its = seconds(sizes, step_of(sizes, made, work), steps)
    return Line(
        f"{named(sizes, name)}, batch {work.batch_size}",
        round(work.batch_size / its, 1),
        "images/s",
        f"{1000 * its:.2f} ms",
    )


def steps_50(sizes: Sizes) -> Iterator[Line]:
    """ResNet-50 in every precision, and timm's under the same conditions."""
    work = sizes.work(50, 256)
    yield speed(sizes, "ResNet-50, fp32", work, 2, tf32=False)
    yield speed(sizes, "ResNet-50, TF32", work)
    yield speed(sizes, "ResNet-50, bf16", work, amp="bf16")
    yield speed(sizes, "ResNet-50, fp16", work, amp="fp16")
    yield speed(sizes, "ResNet-50, bf16, contiguous", work, amp="bf16", layout="contiguous")
    yield speed(sizes, "ResNet-50, bf16, not deterministic", work, amp="bf16", deterministic=False)
    yield from timm_50(sizes, work)


def timm_50(sizes: Sizes, work: Workload) -> Iterator[Line]:
    """timm's resnetv2_50 in bf16, eager: input on the device, channels-last, SGD with Nesterov's momentum."""
    try:
        import timm
    except ImportError:
        print("timm is not installed: its resnetv2_50 is not measured", file=sys.stderr)
        return
    network = timm.create_model("resnetv2_50", num_classes=10 if sizes.small else 1000)
    network = network.to(device=sizes.device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(
        network.parameters(),
        lr=0.01,
        momentum=0.9,
        nesterov=True,
        weight_decay=1e-4,
        fused=sizes.device.type == "cuda" or None,
    )
    if sizes.device.type == "cuda":
        gpu.set_numerics(deterministic=True, tf32=True)  # as ours
    size = 64 if sizes.small else 224
    images = torch.randint(0, 256, (work.batch_size, size, size, 3), dtype=torch.uint8, device=sizes.device)
    labels = torch.zeros(work.batch_size, dtype=torch.int64, device=sizes.device)

    def step() -> None:
        pixels = (images.permute(0, 3, 1, 2).float() - 120) / 58
        optimizer.zero_grad()
        with torch.autocast(sizes.device.type, torch.bfloat16):
            loss = F.cross_entropy(network(pixels), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    its = seconds(sizes, step)
    yield Line(f"timm's resnetv2_50, bf16, batch {work.batch_size}", round(work.batch_size / its, 1), "images/s")


def compiled(sizes: Sizes) -> Iterator[Line]:
    """Compiled steps, and the time to the first one."""
    started = time.perf_counter()
    deep = sizes.work(164, 128, "cifar")
    step_of(sizes, trainer(sizes, deep, amp="bf16", compiled=True), deep)()
    synchronize(sizes.device)
    yield Line(
        named(sizes, "CIFAR-164, bf16, compiled: to the first step"), round(time.perf_counter() - started, 1), "s"
    )
    yield speed(sizes, "ResNet-50, bf16, compiled", sizes.work(50, 256), amp="bf16", compiled=True)


def steps_cifar(sizes: Sizes) -> Iterator[Line]:
    """Small networks, step by step and recorded."""
    for depth in (20, 164):
        work = sizes.work(depth, 128, "cifar")
        for amp in ("off", "bf16"):
            for graph in (False, True):
                name = f"CIFAR-{depth}, {'TF32' if amp == 'off' else amp}, {'recorded' if graph else 'eager'}"
                yield speed(sizes, name, work, amp=amp, graph=graph)
    work = sizes.work(164, 128, "cifar")
    yield speed(sizes, "CIFAR-164, TF32, recorded, not deterministic", work, graph=True, deterministic=False)


def plans(sizes: Sizes) -> Iterator[Line]:
    """ResNet-200 as it is and within 12 GB: time, peak of memory, and what was foretold."""
    if sizes.device.type == "cuda":
        gpu.set_numerics(deterministic=True, tf32=True)
    for amp in ("off", "bf16"):
        base = sizes.work(200, 128)
        made = gpu.workload(base.architecture, base.batch_size, TrainConfig(), sizes.device, amp)
        name = named(sizes, f"ResNet-200, {'TF32' if amp == 'off' else amp}, batch {made.batch_size}")
        plain = seconds(sizes, step_of(sizes, trainer(sizes, made, amp), made), steps=3)
        yield Line(f"{name}, no plan", round(1000 * plain, 1), "ms")
        recorded = seconds(sizes, step_of(sizes, trainer(sizes, made, amp, graph=True), made), steps=3)
        yield Line(f"{name}, no plan, recorded", round(1000 * recorded, 1), "ms", "as `train` takes it")
        if sizes.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        plan = plan_for_training(made, sizes.device, (2 if sizes.small else 12) * 10**9)
        its = made.forecast(plan)
        planned = seconds(sizes, step_of(sizes, trainer(sizes, made, amp, plan), made), steps=3)
        yield Line(
            f"{name}, in 12 GB",
            round(1000 * planned, 1),
            "ms",
            f"{100 * (planned / plain - 1):+.1f} %, foretold {100 * its.extra_time:+.1f} %",
        )
        if sizes.device.type == "cuda":
            peak = torch.cuda.max_memory_reserved() + made.process_bytes
            yield Line(
                f"{name}, in 12 GB: peak",
                round(peak / 1e9, 2),
                "GB",
                f"foretold {made.total_bytes(its, made.batch_size) / 1e9:.2f}, tensors "
                f"{(torch.cuda.max_memory_allocated() + made.process_bytes) / 1e9:.2f}",
            )
            torch.cuda.set_per_process_memory_fraction(1.0)
            torch.cuda.empty_cache()


def photo(seed: int, side: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """A made picture: smooth colours, edges and a little noise, so that its JPEG has about a photograph's length."""
    import cv2

    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (9, 12, 3), dtype=np.uint8)
    image = cv2.resize(coarse, (side * 4 // 3, side), interpolation=cv2.INTER_CUBIC).astype(np.int16)
    image += generator.integers(-5, 6, image.shape, dtype=np.int16)
    return image.clip(0, 255).astype(np.uint8)


def made_record(path: Path, images: int, side: int) -> Path:
    """A record of made pictures; after 256 they come again."""
    import simplejpeg

    encoded = [
        simplejpeg.encode_jpeg(np.ascontiguousarray(photo(number, side)), 90) for number in range(min(256, images))
    ]
    with writing(path) as writer:
        for number in range(images):
            writer.write(number, pack(IRHeader(0, float(number % 10), number, 0), encoded[number % len(encoded)]))
    return path


def loader(sizes: Sizes) -> Iterator[Line]:
    """The loader alone by workers: large pictures at two levels, and small ones that are kept decoded."""
    with tempfile.TemporaryDirectory() as folder:
        large = RecordReader(made_record(Path(folder) / "large.rec", 32 if sizes.small else 4096, 480))
        small = RecordReader(made_record(Path(folder) / "small.rec", 32 if sizes.small else 50_000, 32))
        cores = os.cpu_count() or 1
        counts = sorted({0, 1, 2, 4, 8, cores} & set(range(cores + 1)))
        for level in (2, 1):
            for workers in counts:
                its = loaded(sizes, large, augmentation(level, 224, imagenet=True), workers)
                yield Line(
                    f"loader, level {level} from 480 pixels, {workers} workers", its, "images/s", "made pictures"
                )
        for workers in sorted({0, usual_workers(1, computes=False)}):
            its = loaded(sizes, small, augmentation(1, 32, imagenet=False), workers)
            yield Line(f"loader, level 1 from 32 pixels, {workers} workers", its, "images/s", "made pictures")


def loaded(sizes: Sizes, reader: RecordReader, plan: Augmentation, workers: int) -> float:
    """Images per second: the median of epochs after one that starts the workers, or what eight seconds let see."""
    batch_size = 16 if sizes.small else 256
    made = Loader(reader, plan, seed=0, batch_size=batch_size, classes=1000, reading=Reading(workers))
    speeds: list[float] = []
    begun = time.perf_counter()
    while not speeds or (len(speeds) <= ROUNDS and time.perf_counter() - begun < (1 if sizes.small else 8)):
        started = time.perf_counter()
        count = sum(len(batch.labels) for batch in made)
        speeds.append(count / (time.perf_counter() - started))
    return round(statistics.median(speeds[1:] or speeds), 1)


def training(sizes: Sizes) -> Iterator[Line]:
    """The command `train` on made pictures, and what it says of its waits."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        made_record(data / "train_480_q90.rec", 32 if sizes.small else 12_288, 480)
        made_record(data / "val_256_q90.rec", 16 if sizes.small else 512, 256)
        words = ["--data-dir", folder, "--num-classes", "10", "--epochs", "1", "--amp", "bf16"]
        words += ["--frequent", "1" if sizes.small else "5", "--device", sizes.device.type]
        words += ["--model-prefix", str(data / "m")]
        words += ["--depth", "18", "--batch-size", "8"] if sizes.small else ["--depth", "50", "--batch-size", "256"]
        command = [sys.executable, "-m", "resnet_v2", "train", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"train ended with {done.returncode}: {done.stderr[-2000:]}")
        events = [json.loads(line) for line in (data / "m.jsonl").read_text().splitlines()]
        batches = [event for event in events if event["event"] == "batch"][1:]  # the first one loads kernels
        median = {
            key: statistics.median(one.get(key, 0.0) for one in batches)
            for key in ("samples_per_second", "step_ms", "data_wait", "gpu_idle")
        }
        note = f"waits for data {median['data_wait']:.1%}, GPU idle {median['gpu_idle']:.1%}"
        depth = 18 if sizes.small else 50
        yield Line(
            f"train, ResNet-{depth} from 480 pixels, level 2, bf16", median["samples_per_second"], "images/s", note
        )


def inference(sizes: Sizes) -> Iterator[Line]:
    """Evaluation from a record, and the answer for one picture."""
    import resnet_v2

    work = sizes.work(50, 256)
    network = initialize(ResNet(work.architecture), 0).to(sizes.device)
    with tempfile.TemporaryDirectory() as folder:
        reader = RecordReader(made_record(Path(folder) / "made.rec", 16 if sizes.small else 1024, 256))
        started = time.perf_counter()
        result = evaluate(
            network,
            reader,
            size=work.architecture.image_size,
            batch_size=work.batch_size,
            device=sizes.device,
            workers=usual_workers(1, computes=sizes.small),
        )
        its = time.perf_counter() - started
        yield Line(
            named(sizes, "evaluate, ResNet-50, from 256 pixels"),
            round(result.images / its, 1),
            "images/s",
            "made pictures",
        )
    classifier = resnet_v2.load(device=sizes.device.type)
    picture = photo(0, 64)
    its = seconds(sizes, lambda: classifier.classify(picture))
    yield Line("classify one picture, shipped network", round(1000 * its, 2), "ms")


def tests(sizes: Sizes) -> Iterator[Line]:
    """The tests marked gpu."""
    environment = os.environ | {"RESNET_V2_GPU_TESTS": "cpu" if sizes.small else "cuda"}
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "tests/test_on_gpu.py", "-p", "no:cacheprovider", "-x"]
    command += ["-W", "default"]  # other people's warnings differ from machine to machine
    command.remove("-x") if not sizes.small else None
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    last = (done.stdout.strip().splitlines() or ["nothing"])[-1]
    if done.returncode:
        print(done.stdout[-6000:], done.stderr[-2000:], file=sys.stderr)
    yield Line("tests marked gpu", float(done.returncode == 0), "passed", last)


STAGES: dict[str, tuple[Callable[[Sizes], Iterator[Line]], int]] = {
    "tests": (tests, 200),
    "steps-50": (steps_50, 100),
    "steps-cifar": (steps_cifar, 70),
    "plans": (plans, 90),
    "training": (training, 60),
    "loader": (loader, 90),
    "inference": (inference, 30),
    "compiled": (compiled, 120),
}


def machine() -> dict[str, str]:
    """What it ran on."""
    found = {"python": platform.python_version(), "torch": torch.__version__, "cores": str(os.cpu_count())}
    if torch.cuda.is_available():
        query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        try:
            told = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip().splitlines()[0]
        except (OSError, subprocess.CalledProcessError, IndexError):
            told = torch.cuda.get_device_name()
        cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
        found |= {"gpu": told, "cuda": str(torch.version.cuda), "cudnn": str(cudnn)}
    return found


def run_stage(name: str, small: bool) -> None:
    """The inside of a stage's process: a JSON line for each figure, as it comes."""
    sizes = Sizes(torch.device("cpu") if small else torch.device("cuda", 0), small)
    with gpu.own_stream(sizes.device):
        for line in STAGES[name][0](sizes):
            print(json.dumps(asdict(line)), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="on the CPU, with tiny sizes")
    parser.add_argument("--stages", default=",".join(STAGES))
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stage:
        run_stage(options.stage, options.small)
        return
    if not options.small and not torch.cuda.is_available():
        raise SystemExit("gpu.py: torch sees no GPU here; give --small to try the script on the CPU")
    result: dict[str, object] = {"machine": machine(), "small": options.small}
    lines: list[dict[str, object]] = []
    failed = []
    print(" ".join(f"{key} {value};" for key, value in machine().items()), flush=True)
    for name in options.stages.split(","):
        limit = STAGES[name][1] * (3 if options.small else 1)
        command = [sys.executable, __file__, "--stage", name, *(["--small"] if options.small else [])]
        started = time.perf_counter()
        process = subprocess.Popen(["timeout", str(limit), *command], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for text in process.stdout:
            try:
                line = json.loads(text)
            except ValueError:  # a library's word
                print(text, end="", file=sys.stderr)
                continue
            lines.append({"stage": name, **line})
            print(f"{line['work']:58} {line['value']:10} {line['unit']:9} {line['note']}", flush=True)
            options.out.write_text(json.dumps(result | {"lines": lines}, indent=1))
        if process.wait():
            failed.append(name)
        print(f"-- {name}: {time.perf_counter() - started:.0f} s{', FAILED' if name in failed else ''}", flush=True)
    options.out.write_text(json.dumps(result | {"lines": lines, "failed": failed}, indent=1))
    tests_passed = all(line["value"] for line in lines if line["work"] == "tests marked gpu")
    if failed or not tests_passed:
        raise SystemExit(f"gpu.py: {', '.join(failed) or 'tests marked gpu'} failed")


if __name__ == "__main__":
    main()
