"""`make soak`: kill everything that can be killed, at random and again and again, and see that nothing is lost.

Plays a small game of the embedded world to its end once unbroken. Then plays it over and over in another folder, and each
time kills something with SIGKILL: a stage while it starts or works, dvc, dvc in the moment between a stage's end and the line
in dvc.lock, the engine of a flow, a flow's server, a worker or the run that it started. Nothing of a killed run may go on, the same command must
resume, and at the end of each game every output must have the bytes of the unbroken one, and MLflow every point once.
"""

import argparse
import random
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.game import ROOT, end, forget, make_project, outputs_of, play_to_the_end, playing, running
from benchmarks.record import about_here, about_line, write_record
from benchmarks.worker_game import prefect_for_workers
from spin.evaluation.lineage import revision_line
from spin.runtime.files import read_json, write_json
from spin.tracking.connection import connected
from tasks.locks import mend_torn_list

END_SECONDS = 15.0
"""After a kill a game may go on for so long, with what the kill did not hold up; then it is ended. All of a flow or a worker
must be gone after six times that."""
VICTIMS = {
    "repro": ("stage", "work", "dvc", "window"),
    "flow": ("stage", "work", "dvc", "window", "engine", "server"),
    "worker": ("stage", "work", "dvc", "window", "run", "worker", "worker's parent"),
}
"""What is killed, by how the game is played."""
MARKS = {
    "stage": "-m spin",
    "work": "-m spin",
    "dvc": "-m dvc",
    "window": "-m dvc",
    "engine": "-m flows",
    "server": "server start",
    "run": "-m prefect.engine",
    "worker": "worker start",
    "worker's parent": "-m flows.worker",
}


def wait_for(happened: Callable[[], bool], process: "subprocess.Popen[bytes]", seconds: float) -> bool:
    """Wait until something has happened; False if the game ended first, or nothing came."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        if happened():
            return True
        time.sleep(0.02)
    return False


def kill_one(folder: Path, process: "subprocess.Popen[bytes]", victim: str, rng: random.Random) -> bool:
    """Kill a `victim` at a random moment of the game; False if the game ended before."""
    work = folder / ".spin" / "work"
    before = {}
    for file in work.rglob("*"):
        with suppress(FileNotFoundError):  # removed while it was looked at
            before[file] = file.stat().st_mtime_ns

    def worked() -> bool:
        return any(
            before.get(file) != file.stat().st_mtime_ns for file in work.rglob("*.*") if file.is_file()
        )

    def finished() -> bool:
        return any(file not in before for file in work.glob("*/finished.json"))

    skipped = rng.randrange(3)  # a game is played on for a while
    time.sleep(rng.uniform(0, 6) if skipped else 0)
    happened = {"work": worked, "window": finished}.get(victim, lambda: bool(running(folder, MARKS[victim])))
    try:
        if not wait_for(happened, process, 120):
            return False
    except FileNotFoundError:  # removed while it was looked at
        return False
    if victim not in ("work", "window"):
        time.sleep(rng.uniform(0, 5))
    killed = [
        each for each in running(folder, MARKS[victim]) if "supervise.py" not in " ".join(each.cmdline())
    ]
    for each in killed:
        each.kill()
    return bool(killed)


def wait_for_the_end(folder: Path, process: "subprocess.Popen[bytes]", of_everything: bool) -> float:
    """End what was not killed as a shell would, and return the seconds until the game, or everything of it, has ended.

    Without a flow nobody ends a stage whose dvc was killed: it goes on while the game is started again.
    """
    started = time.monotonic()
    with suppress(
        subprocess.TimeoutExpired
    ):  # a flow goes on with what a killed stage does not hold up, and retries
        process.wait(END_SECONDS)
    end(process)
    while of_everything and running(folder):
        if time.monotonic() - started > 6 * END_SECONDS:
            raise SystemExit(f"still running: {[each.cmdline() for each in running(folder)]}")
        time.sleep(0.05)
    return time.monotonic() - started


def check_game(folder: Path, expected: dict[str, str], since: float) -> None:
    """Every output as in the unbroken game; in MLflow every update of each iteration once, told since the game began."""
    made = outputs_of(folder)
    different = sorted(name for name in made.keys() | expected.keys() if made.get(name) != expected.get(name))
    if different:
        raise SystemExit(
            f"{len(different)} outputs differ from the unbroken game, the first: {different[:5]}"
        )
    with connected(folder) as client:
        experiment = client.get_experiment_by_name("spin-diffusion-toy").experiment_id
        for name in ("iter1", "iter2"):
            steps = pd.read_csv(folder / "outputs" / "curves" / f"{name}.csv")["step"].tolist()
            where = f"tags.`spin.stage` = 'train@{name}' and attributes.status = 'FINISHED'"
            where += f" and attributes.start_time >= {round(1000 * since)}"
            told = client.search_runs([experiment], where, order_by=["attributes.start_time DESC"])
            if not told:
                raise SystemExit(f"MLflow has no finished run of {name} in this game")
            history = client.get_metric_history(told[0].info.run_id, "loss")
            if sorted(point.step for point in history) != steps:
                raise SystemExit(
                    f"MLflow has {len(history)} points of {name}, {len(steps)} updates were made"
                )


def soak(out: Path, folder: Path, kills: int, seed: int) -> None:
    """Play once unbroken, then kill; a difference or a process that stays ends it with a sentence."""
    log, started = folder / "log.txt", time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    unbroken, broken = (folder / "unbroken").resolve(), (folder / "broken").resolve()
    if not (folder / "state.json").is_file():
        for each in (unbroken, broken):
            make_project(each)
        play_to_the_end(unbroken, "repro", log)
    expected = outputs_of(unbroken)
    print(f"unbroken: {len(expected)} files in {time.monotonic() - started:.0f} s", flush=True)
    with prefect_for_workers(unbroken, folder / "server.log") as server:
        told = play_and_kill(broken, expected, kills, seed, log, server)
    tell(out, told, len(expected), seed)


def play_and_kill(
    folder: Path, expected: dict[str, str], kills: int, seed: int, log: Path, server: dict[str, str]
) -> dict[str, Any]:
    """Play and kill until there were enough kills. What has been is kept beside the folder: a soak that ends goes on."""
    kept = folder.parent / "state.json"
    new: dict[str, Any] = {
        "kills": {},
        "endings": [],
        "plays": 0,
        "games": 0,
        "mended": 0,
        "since": time.time(),
        "code": revision_line(ROOT),  # of which both games are copies
    }
    told = read_json(kept) if kept.is_file() else new
    while sum(told["kills"].values()) < kills:
        rng = random.Random(f"{seed} {told['plays']}")
        way = rng.choice(list(VICTIMS))
        victim = rng.choice(VICTIMS[way])
        told["plays"] += 1
        told["mended"] += way == "repro" and mend_torn_list(folder)  # as DVC's message tells the user
        left_over = bool(running(folder))  # a stage whose dvc was killed, which nobody ends
        with playing(folder, way, log, server if way == "worker" else None) as process:
            killed = kill_one(folder, process, victim, rng)
            if killed:
                name = f"{way}: {victim}"
                told["kills"][name] = told["kills"].get(name, 0) + 1
            elif process.poll() and not left_over:
                raise SystemExit(
                    f"nothing was killed, but {way} ended with {process.returncode}; {log} says why"
                )
            ended_well = process.poll() == 0
            seconds = wait_for_the_end(folder, process, of_everything=way != "repro" or ended_well)
            ended_well = ended_well or process.returncode == 0
        if way != "repro":
            told["endings"].append(seconds)
        print(
            f"{sum(told['kills'].values())} kills, the last: {way}, {victim if killed else 'nobody'}; "
            f"all ended after {seconds:.1f} s",
            flush=True,
        )
        if ended_well:
            wait_for_the_end(folder, process, of_everything=True)
            check_game(folder, expected, told["since"])
            forget(folder)
            told |= {"games": told["games"] + 1, "since": time.time()}
        write_json(kept, told)
    while running(folder):  # a stage that nobody ended
        time.sleep(0.5)
    mend_torn_list(folder)
    play_to_the_end(folder, "flow", log)
    check_game(folder, expected, told["since"])
    return {**told, "games": told["games"] + 1}


def tell(out: Path, told: dict[str, Any], files: int, seed: int) -> None:
    """Write the record."""
    about = about_here(["torch", "dvc", "prefect", "mlflow"]) | {"commit": told["code"]}
    kills = told["kills"]
    lines = [
        "# Soak: kills that lost nothing",
        "",
        f"`make soak` (seed {seed}): {sum(kills.values())} kills in {told['games']} games. After each game all {files} output "
        "files had the bytes of the unbroken game, and MLflow had every update of both iterations once.",
        "",
        "| played by: killed | kills |",
        "|---|---:|",
        *(f"| {name} | {number} |" for name, number in sorted(kills.items())),
        "",
        f"Longest time until everything of a flow or of a worker had ended: {max(told['endings']):.1f} s. Before "
        f"{told['mended']} plays by `dvc repro` DVC's list of readers and writers was torn, and was removed as "
        "docs/operations.md says; the flow and the worker do that themselves.",
        "",
        about_line(about),
    ]
    write_record(out, {"about": about, "seed": seed, **told, "files": files}, lines)


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=ROOT / ".spin" / "soak")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "soak")
    given = parser.parse_args()
    soak(given.out, given.folder, given.kills, given.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
