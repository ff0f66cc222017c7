"""A small game of the embedded world in a folder of its own, for measurements of how the pipeline is run."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import yaml

from spin.runtime.files import sha256_file
from spin.runtime.provenance import recorded_outputs

ROOT = Path(__file__).resolve().parent.parent
SMALL: dict[str, Any] = {
    "data": {"num_train": 96, "num_val": 8, "num_test": 24},
    "opponents": {"num_inference_steps": 6, "shard_size": 16, "batch_size": 16},
    "training": {"batch_size": 16, "micro_batch_size": 16, "checkpoint_every": 2},
    "evaluate": {
        "models": ["base", "iter1", "iter2"],
        "num_inference_steps": 4,
        "references": [],
        "prompt_sets": ["test"],
    },
    "tables": {"over": ["base"], "bootstrap_samples": 200, "grid_prompts": 2},
}
END_SECONDS = 45.0
"""A worker gives its runs 30 s to end."""
STEPS = 24
"""Updates of an iteration."""
COMMANDS = {
    "repro": [sys.executable, "-m", "dvc", "repro"],
    "flow": [sys.executable, "-m", "flows"],
    "worker": [sys.executable, "-m", "benchmarks.worker_game"],
}


def make_project(folder: Path) -> None:
    """Make a copy of this working tree with a small game."""
    shutil.rmtree(folder, ignore_errors=True)
    listed = subprocess.run(
        ["git", "ls-files", "-z", "-c", "-o", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    raw = yaml.safe_load((ROOT / "profiles" / "toy.yaml").read_text("utf-8"))
    for section, changes in SMALL.items():
        raw[section] |= changes
    raw["iterations"] = {
        name: plan | {"num_steps": STEPS} for name, plan in raw["iterations"].items() if name != "iter3"
    }
    raw["baselines"] = {}
    raw["prompt_sets"] = {"test": raw["prompt_sets"]["test"]}
    (folder / "params.yaml").write_text(yaml.safe_dump(raw, sort_keys=False), encoding="utf-8")
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)


def outputs_of(folder: Path) -> dict[str, str]:
    """The hash of every file that DVC keeps for the game, by its path."""
    hashes = {}
    for out in recorded_outputs(folder):
        place = folder / out
        for file in [place] if place.is_file() else sorted(place.rglob("*")):
            if file.is_file():
                hashes[file.relative_to(folder).as_posix()] = sha256_file(file)
    return hashes


@contextmanager
def playing(
    folder: Path, way: str, log: Path, server: dict[str, str] | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    """Start the game in a group of its own; `server` names the Prefect server that a worker works for."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder)}
    for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI", "DVC_ROOT"):
        env.pop(name, None)
    env |= server or {}
    with log.open("ab") as stream:
        process = subprocess.Popen(
            COMMANDS[way], cwd=folder, env=env, stdout=stream, stderr=stream, start_new_session=True
        )
    try:
        yield process
    finally:
        end(process)


def end(process: "subprocess.Popen[bytes]") -> None:
    """End a game as a shell would, and what does not end by that, by force: a flow whose server was killed goes on asking."""
    process.terminate()
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def running(folder: Path, mark: str = "") -> list[psutil.Process]:
    """The processes that work in the folder and have `mark` in their command."""
    found = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()) == folder and mark in " ".join(process.cmdline()):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def play_to_the_end(folder: Path, way: str, log: Path) -> None:
    """The same command again, unbroken."""
    with playing(folder, way, log) as process:
        if process.wait() != 0:
            raise SystemExit(
                f"`{' '.join(COMMANDS[way])}` ended with exit code {process.returncode}; {log} says why."
            )


def forget(folder: Path) -> None:
    """Remove all that the game made, but for what MLflow was told."""
    for name in ("outputs", ".dvc/cache", ".spin/work", ".spin/cache", ".spin/prefect"):
        shutil.rmtree(folder / name, ignore_errors=True)
    (folder / "dvc.lock").unlink(missing_ok=True)
