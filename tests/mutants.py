"""Break spin/method and spin/training one small change at a time, and count what the fast tests notice.

    python -m tests.mutants [--only spin/method/losses.py] [--jobs 2] [--sample N] [--again] [--out FILE.md]

A mutant is one change in the syntax tree, written into a copy of the tree and imported by a forked process that runs
the tests of `TESTS`, the module's own first. Left alone: decorators, annotations, asserts, what is raised or logged.
With --out the head of FILE.md and the reasons it gives for what is not noticed are kept; --again runs only what it
lists, for after new tests: the code must be that of the whole run.
"""

import argparse
import contextlib
import importlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.mutation import Mutant, mutants_of

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 180
"""Seconds after which a mutant that has not ended counts as noticed."""
SCHEDULE = "method/test_schedule method/test_weights method/test_transitions"
LOSSES = "method/test_losses method/test_guards method/test_schedule"
STEPS, ENGINE = (
    "training/test_recipe training/test_fine_tuning training/test_steps training/test_chains",
    "training/test_engine training/test_tried_again training/test_interrupted",
)
LORA = "models/test_lora models/test_saved_adapters"
EXAMPLES, OPPONENTS = "training/test_flips", "sampling/test_opponents sampling/test_flagged"
TESTS: dict[str, tuple[str, ...]] = {
    "method/exact": ("method/test_exact method/test_trajectories method/test_affordable", STEPS),
    "method/functions": (LOSSES, STEPS),
    "method/guards": ("method/test_guards", STEPS),
    "method/losses": (LOSSES, STEPS),
    "method/schedule": (f"{SCHEDULE} method/test_devices", STEPS),
    "method/transitions": (f"{SCHEDULE} method/test_exact method/test_trajectories", STEPS),
    "training/batches": (STEPS, EXAMPLES, ENGINE),
    "training/chains": (STEPS, "training/test_setup", ENGINE),
    "training/ema": ("training/test_ema", ENGINE),
    "training/examples": (EXAMPLES, OPPONENTS, ENGINE),
    "training/loop": (STEPS, "training/test_processes", ENGINE),
    "training/memory": ("training/test_memory", ENGINE),
    "training/networks": (LORA, "training/test_setup", ENGINE),
    "training/optim": (STEPS, "training/test_setup", ENGINE),
    "training/precision": ("training/test_setup", ENGINE, LORA),
    "training/setup": (STEPS, f"training/test_setup {EXAMPLES}", ENGINE, LORA, OPPONENTS),
    "training/steps": (STEPS, ENGINE),
}
"""Module -> groups of test files, run one after another until one notices."""


def preload() -> None:
    """Import what spin and its tests import from elsewhere, so that no mutant waits for it, and nothing of spin."""
    names = sorted({name for groups in TESTS.values() for group in groups for name in group.split()})
    listing = "".join(f"import tests.{name.replace('/', '.')}\n" for name in names)
    listing += "import sys, json; print(json.dumps(list(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", listing], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    for name in json.loads(done.stdout.splitlines()[-1]):
        if name.split(".")[0] not in ("spin", "tests", "tasks", "flows", "__main__"):
            with contextlib.suppress(Exception):
                importlib.import_module(name)


def run_tests(copy: Path, file: str) -> int:
    """In a forked process: the tests of the module `file` in the folder `copy`; 0 if none fails."""
    import pytest

    os.setsid()
    signal.alarm(LIMIT)
    os.chdir(copy)
    sys.path.insert(0, str(copy))
    for name in [name for name in sys.modules if name.split(".")[0] == "tests"]:
        del sys.modules[name]  # of the work tree
    for stream in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    options = ["-x", "-m", "not slow", "-p", "no:cacheprovider", "-p", "no:timeout"]
    options.append(f"--basetemp={copy}-tests")
    for group in TESTS[file.removeprefix("spin/").removesuffix(".py")]:
        if code := int(pytest.main([*options, *(f"tests/{name}.py" for name in group.split())])):
            return code
    return 0


def play(mutants: list[Mutant], folder: Path, jobs: int) -> Iterator[tuple[Mutant, bool]]:
    """Each mutant as it ends, and whether it was noticed."""
    idle: list[Path] = [folder / f"{time.monotonic_ns()}-{job}" for job in range(jobs)]
    running: dict[int, tuple[Mutant, Path]] = {}
    for copy in idle:
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "outputs", "__pycache__"))
    whole = {mutant.file: (idle[0] / mutant.file).read_text(encoding="utf-8") for mutant in mutants}
    waiting = list(reversed(mutants))
    while waiting or running:
        while waiting and idle:
            mutant, copy = waiting.pop(), idle.pop()
            (copy / mutant.file).write_text(mutant.source, encoding="utf-8")
            shutil.rmtree(
                (copy / mutant.file).parent / "__pycache__", ignore_errors=True
            )  # of equal size and second
            child = os.fork()
            if not child:
                code = 1
                try:
                    code = run_tests(copy, mutant.file)
                finally:
                    os._exit(code)
            running[child] = (mutant, copy)
        child, status = os.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # what its tests left running
        mutant, copy = running.pop(child)
        (copy / mutant.file).write_text(whole[mutant.file], encoding="utf-8")
        idle.append(copy)
        yield mutant, status != 0


def known(out: Path | None) -> dict[str, str]:
    """From an earlier report: file and row of what was not noticed -> the reason given."""
    text = out.read_text(encoding="utf-8") if out and out.is_file() else ""
    rows = re.findall(r"^\| (\S+):\d+ \| (`.*`) \| ([^`|]*?) ?\|$", text, flags=re.MULTILINE)
    return {f"{file} {row}": reason for file, row, reason in rows}


def report(made: Counter[str], missed: list[Mutant], reasons: dict[str, str]) -> str:
    """The shares by module and in total, and what was not noticed, as markdown."""
    lost = Counter(mutant.file for mutant in missed)
    counts = [(file, made[file], lost[file]) for file in sorted(made)]
    lines = ["| module | mutants | noticed | share |", "|---|---|---|---|"]
    for name, count, left in [*counts, ("total", made.total(), lost.total())]:
        lines.append(f"| {name} | {count} | {count - left} | {1 - left / count:.1%} |")
    lines += ["", "| not noticed | original | mutated | why |", "|---|---|---|---|"]
    for mutant in sorted(missed, key=lambda mutant: (mutant.file, mutant.line)):
        reason = reasons.get(f"{mutant.file} {mutant.row}", "")
        lines.append(f"| {mutant.file}:{mutant.line} | {mutant.row} | {reason} |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Make the mutants, run them, write the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="a module or a folder of modules")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--sample", type=int, help="so many of the mutants, drawn with a fixed seed")
    parser.add_argument("--again", action="store_true", help="only what --out lists as not noticed")
    parser.add_argument("--out", type=Path, help="markdown file")
    given = parser.parse_args()
    files = [file for module in TESTS if (file := f"spin/{module}.py").startswith(given.only)]
    mutants, reasons = [mutant for file in files for mutant in mutants_of(file)], known(given.out)
    made, missed = Counter(mutant.file for mutant in mutants), []
    if given.sample:
        mutants = random.Random(0).sample(mutants, given.sample)
        made = Counter(mutant.file for mutant in mutants)
    if given.again:
        mutants = [mutant for mutant in mutants if f"{mutant.file} {mutant.row}" in reasons]
    whole = [
        Mutant(file, 0, "", "", (ROOT / file).read_text(encoding="utf-8")) for file in files if made[file]
    ]
    preload()
    with tempfile.TemporaryDirectory() as folder:
        for mutant, noticed in play(whole, Path(folder), given.jobs):
            assert not noticed, f"the tests of {mutant.file} must pass before it is changed"
        for count, (mutant, noticed) in enumerate(play(mutants, Path(folder), given.jobs), 1):
            if not noticed:
                missed.append(mutant)
                print(
                    f"[{count}/{len(mutants)}] {mutant.file}:{mutant.line}\n- {mutant.before}\n+ {mutant.after}",
                    flush=True,
                )
    text = report(made, missed, reasons)
    print(text)
    if given.out:
        head = given.out.read_text(encoding="utf-8").split("| module")[0] if given.out.is_file() else ""
        given.out.write_text(head + text, encoding="utf-8")


if __name__ == "__main__":
    main()
