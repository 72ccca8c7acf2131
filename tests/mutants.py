"""Plant small faults in copies of the package, one at a time, and name those that no test sees (`make mutants`).

    python tests/mutants.py --modules data/augment training/optim --count 20

The faults are those of cosmic-ray (comparisons, arithmetic, numbers, booleans, loops), and statements that are left
out. cosmic-ray's own runner changes files where they stand and starts Python for every fault, which takes as
long as most tests here; this one works on copies, and forks from a process that has imported torch. The faults of a
module are drawn from a seed, at most one for each place in the text. A module's tests run in the order of TESTS, the
quick ones first, until one fails. tests/mutants-survivors.md says why the survivors change nothing.
"""

import argparse
import ast
import difflib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cosmic_ray.operators.provider as cosmic_ray_operators
import parso
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Operator

ROOT = Path(__file__).parents[1]
ROOM = ROOT / "src" / "resnet_v2"

# Other pairs of operators (a power for a sum, a set's for a number's) fail wherever the line runs.
ARITHMETIC = "Add_Sub Sub_Add Mul_Div Div_Mul FloorDiv_Div FloorDiv_Mul Mod_Mul Pow_Mul RShift_LShift LShift_RShift"
COMPARISONS = "Eq_NotEq NotEq_Eq Lt_LtE Lt_GtE LtE_Lt LtE_Gt Gt_GtE Gt_LtE GtE_Gt GtE_Lt Is_IsNot IsNot_Is"
PAIRS = {"ReplaceBinaryOperator": ARITHMETIC.split(), "ReplaceComparisonOperator": COMPARISONS.split()}
UNUSED = {"VariableReplacer", "VariableInserter", "ExceptionReplacer", "RemoveDecorator"}

# The tests of a module, the quick ones first.
GOLDEN_RUN = "test_train.py::test_a_golden_run"
RETRAINING = "test_train.py::test_retraining_ends_with_the_bits_of_the_whole_run"
GRADIENT = "test_ranks_make_the_gradient_of_one"
EMPTY = "test_a_rank_without_an_image_takes_part"
FUSED = "test_updates_inside_the_backward_pass_change_no_bit"
TESTS: dict[str, list[str]] = {
    "config/fields": ["test_config.py", "test_plan.py"],
    "data/augment": ["test_augment.py", "test_loader.py"],
    "data/cuts": ["test_rows.py"],
    "data/exact": ["test_labels.py"],
    "data/filling": ["test_loader.py", "test_kept.py", "test_rows.py", "test_workers.py"],
    "data/kept": ["test_kept.py", "test_loader.py"],
    "data/labels": ["test_labels.py"],
    "data/loader": ["test_loader.py", "test_rows.py"],
    "data/philox": ["test_philox.py"],
    "data/recordio": ["test_recordio.py"],
    "data/records": ["test_records.py", "test_recordio.py", "test_loader.py"],
    "data/ring": ["test_ring.py", "test_workers.py"],
    "data/stored": ["test_stored.py", "test_jpeg.py"],
    "data/warp": ["test_augment.py", "test_loader.py"],
    "data/workers": ["test_workers.py"],
    "inference/evaluate": ["test_evaluate.py"],
    "inference/tally": ["test_evaluate.py", "test_labels.py"],
    "inference/verdicts": ["test_evaluate.py", "test_labels.py"],
    "logs/runlog": ["test_logs.py", GOLDEN_RUN, "test_old_files.py", "test_resumption.py"],
    "recompute/costs": ["test_costs.py", "test_search.py"],
    "recompute/plan": ["test_search.py", "test_recompute.py"],
    "recompute/search": ["test_search.py", "test_budget.py", "test_costs.py"],
    "recompute/tape": ["test_recompute.py", "test_units.py", "test_devices.py::test_which_networks_take_our_kernels"],
    "training/average_precision": ["test_labels.py"],
    "training/checkpoint": ["test_resumption.py"],
    "training/distributed": ["test_distributed.py", "test_ranks.py", "test_gpu.py"],
    "training/evaluate": ["test_evaluate.py", GOLDEN_RUN, "test_labels.py"],
    "training/evaluation": ["test_labels.py"],
    "training/feed": ["test_feed.py"],
    "training/losses": ["test_labels.py", "test_train.py"],
    "training/meter": ["test_meter.py", GOLDEN_RUN],
    "training/optim": ["test_optim.py", GOLDEN_RUN, RETRAINING, "test_graph.py", "test_recompute.py::" + FUSED],
    "training/step": [
        GOLDEN_RUN,
        "test_step.py",
        "test_graph.py",
        "test_ranks.py::" + GRADIENT,
        "test_ranks.py::" + EMPTY,
    ],
    "training/epoch": [GOLDEN_RUN, "test_train.py", "test_resumption.py"],
    "training/fit": [GOLDEN_RUN, "test_plan.py", "test_train.py", "test_resumption.py", "test_old_files.py"],
    "training/plan": ["test_plan.py", GOLDEN_RUN, "test_train.py", "test_recipes.py", "test_resumption.py"],
    "training/state": [RETRAINING, "test_old_files.py", "test_resumption.py", "test_step.py", "test_ranks.py"],
}


class LeaveOut(Operator):  # type: ignore[misc]
    """A statement in a function that is left out."""

    def mutation_positions(self, node: Any) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
        """The place of every call, assignment, `del`, `raise` and `assert`; docstrings say nothing to a test."""
        wanted = ("atom_expr", "expr_stmt", "del_stmt", "raise_stmt", "assert_stmt")
        if (
            node.type == "simple_stmt"
            and node.children[0].type in wanted
            and parso.tree.search_ancestor(node, "funcdef")
        ):
            yield node.children[0].start_pos, node.children[0].end_pos

    def mutate(self, node: Any, index: int) -> Any:
        """`pass` in its place."""
        node.children[0] = parso.python.tree.Name("pass", node.start_pos, node.get_first_leaf().prefix)
        return node

    @classmethod
    def examples(cls) -> tuple[()]:
        """None: the suite of cosmic-ray does not know this operator."""
        return ()


@dataclass(frozen=True)
class Mutant:
    """One fault: the module without its ending, the line and what is planted there, and the module's whole text."""

    module: str
    line: int
    kind: str
    text: str

    def changes(self) -> str:
        """The lines that differ, before and after."""
        before = (ROOM / f"{self.module}.py").read_text().splitlines()
        lines = list(difflib.unified_diff(before, self.text.splitlines(), lineterm="", n=0))[2:]
        return " ".join(line[0] + " " + line[1:].strip() for line in lines if line[0] in "+-")


@dataclass
class Trial:
    """A mutant (None: the text as it is) under test in a copy of the tree by a process."""

    mutant: Mutant | None
    tree: Path
    process: int
    began: float


def operators() -> dict[str, Operator]:
    """The operators in use by name."""
    found: dict[str, Operator] = {"LeaveOut": LeaveOut()}
    provider = cosmic_ray_operators.OperatorProvider()
    for name in provider:
        kind, _, pair = name.partition("_")
        if name not in UNUSED and (kind not in PAIRS or pair in PAIRS[kind]):
            found[name] = provider[name]()
    return found


def is_declaration(node: Any) -> bool:
    """Whether a node says how something is to be used: types, decorators, the `*` and `/` among parameters."""
    while node.parent is not None:
        siblings = node.parent.children
        place = siblings.index(node)
        before = siblings[place - 1] if place else None
        kind = node.parent.type
        if (kind in ("annassign", "tfpdef") and before == ":") or (kind == "funcdef" and before == "->"):
            return True
        if kind == "decorator" or (kind == "parameters" and node.type == "operator"):
            return True
        node = node.parent
    return False


def mutants(module: str, count: int, seed: int) -> list[Mutant]:
    """So many faults of a module, drawn from the seed, in the order of its lines."""
    source = (ROOM / f"{module}.py").read_text()
    places: dict[tuple[int, int], list[tuple[str, int]]] = {}
    known = operators()
    for name, operator in known.items():
        occurrence = 0
        for node in ast_nodes(get_ast(source)):
            for start, _ in operator.mutation_positions(node):
                if not is_declaration(node):
                    places.setdefault(start, []).append((name, occurrence))
                occurrence += 1
    chance = random.Random(f"{module} {seed}")
    found: list[Mutant] = []
    for place in chance.sample(sorted(places), len(places)):
        name, occurrence = chance.choice(places[place])
        text = mutate_code(source, known[name], occurrence)
        if len(found) < count and text is not None and meaning(text) != meaning(source):
            found.append(Mutant(module, place[0], name, text))
    return sorted(found, key=lambda mutant: mutant.line)


def meaning(source: str) -> str:
    """What Python makes of a text; '' where it is none."""
    try:
        return ast.dump(ast.parse(source))
    except SyntaxError:
        return ""


def copy_tree(place: Path) -> Path:
    """The working tree's files that git knows or would add, in another place."""
    words = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines():
        if (ROOT / name).is_file():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, place / name)
    return place


def start(module: str, mutant: Mutant | None, tree: Path, choice: list[str]) -> Trial:
    """Fork a process that runs the tests of a module on a copy of the tree."""
    path = tree / "src" / "resnet_v2" / f"{module}.py"
    path.write_text(mutant.text if mutant else (ROOM / f"{module}.py").read_text())
    process = os.fork()
    if process == 0:
        status = 3
        try:
            os.setsid()
            output = os.open(tree / "output.txt", os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.chdir(tree)
            os.environ["PYTHONPATH"] = str(tree / "src")
            sys.path.insert(0, str(tree / "src"))
            import pytest

            files = [f"tests/{name}" for name in choice]
            status = int(pytest.main(["-x", "-p", "no:cacheprovider", "-m", "not slow", *files]))
        finally:
            os._exit(status)
    return Trial(mutant, tree, process, time.monotonic())


def wait(trials: list[Trial], limit: float) -> tuple[Trial, str]:
    """The first trial that ends, and how: `survived`, `killed`, or `killed (time)` after so many seconds."""
    while True:
        for trial in trials:
            ended, status = os.waitpid(trial.process, os.WNOHANG)
            late = time.monotonic() - trial.began > limit
            if not ended and late:
                os.killpg(trial.process, signal.SIGKILL)
                os.waitpid(trial.process, 0)
            if ended or late:
                trials.remove(trial)
                return trial, "killed (time)" if not ended else "survived" if status == 0 else "killed"
        time.sleep(0.02)


def try_all(module: str, some: list[Mutant], trees: list[Path], choice: list[str]) -> Iterator[tuple[Mutant, str]]:
    """Every mutant and what became of it; the tests pass on the module as it is, or the run ends."""
    plain, verdict = wait([start(module, None, trees[0], choice)], float("inf"))
    seconds = time.monotonic() - plain.began
    if verdict != "survived":
        raise SystemExit(f"{module}: its tests fail without a fault\n{(trees[0] / 'output.txt').read_text()}")
    print(f"{module}: {len(some)} mutants, {seconds:.1f} s for its tests", flush=True)
    left, free, running = list(some), list(trees), list[Trial]()
    while left or running:
        while left and free:
            running.append(start(module, left.pop(0), free.pop(), choice))
        trial, verdict = wait(running, 10 * seconds + 60)
        free.append(trial.tree)
        assert trial.mutant is not None
        yield trial.mutant, verdict
    for tree in trees:
        shutil.copy(ROOM / f"{module}.py", tree / "src" / "resnet_v2" / f"{module}.py")


def preload() -> None:
    """Import once what every trial needs, and nothing of ours."""
    os.environ |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONDONTWRITEBYTECODE": "1"}
    sys.dont_write_bytecode = True
    import cv2  # noqa: F401
    import matplotlib  # noqa: F401
    import pytest  # noqa: F401
    import safetensors.torch  # noqa: F401
    import sklearn.datasets  # noqa: F401
    import torch.distributed.nn
    import torch.optim  # noqa: F401


def main() -> None:
    """Try the mutants and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modules", nargs="+", choices=sorted(TESTS), default=sorted(TESTS), metavar="MODULE")
    parser.add_argument("--count", type=int, default=15, help="mutants of each module")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="mutants tried at once")
    options = parser.parse_args()
    preload()
    rows: list[str] = []
    tried = survived = 0
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        trees = [copy_tree(Path(folder) / str(number)) for number in range(options.jobs)]
        for module in options.modules:
            some = mutants(module, options.count, options.seed)
            verdicts = list(try_all(module, some, trees, TESTS[module]))
            lost = [mutant for mutant, verdict in verdicts if verdict == "survived"]
            for mutant in sorted(lost, key=lambda one: one.line):
                print(f"  SURVIVED {module}.py:{mutant.line} {mutant.kind}: {mutant.changes()}", flush=True)
            rows.append(f"| {module} | {len(some)} | {len(some) - len(lost)} | {len(lost)} |")
            tried, survived = tried + len(some), survived + len(lost)
    print("\n| module | tried | killed | survived |\n|---|---|---|---|", *rows, sep="\n")
    print(f"| all | {tried} | {tried - survived} | {survived} |")


if __name__ == "__main__":
    main()
