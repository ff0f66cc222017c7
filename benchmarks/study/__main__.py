"""Run the study and write its record; a killed one continues in its folder.

    python -m benchmarks.study --work FOLDER --out benchmarks/results/toy-study

One process a base. NAME.json has all, NAME.md the tables for people, NAME.csv every model's means by seed, NAME.png the
comparisons drawn.
"""

import argparse
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.record import about_here, write_record
from benchmarks.study.outcome import SCORERS, outcome
from benchmarks.study.pages import draw_comparisons, lines
from benchmarks.study.plan import BASES, SEEDS
from benchmarks.study.play import play_base
from spin.evaluation.figures import styled
from spin.runtime.files import read_json, replacing_file


def run(bases: list[str], seeds: list[int], work: Path, out: Path) -> None:
    """Play what is missing, and write the record."""
    started = time.monotonic()
    context = multiprocessing.get_context("spawn")  # a process has its own working directory, and torch
    with ProcessPoolExecutor(len(bases), mp_context=context) as pool:
        files = list(pool.map(play_base, bases, [seeds] * len(bases), [work / base for base in bases]))
    scores = [pd.read_parquet(file) for file in files]
    result: dict[str, Any] = {
        "about": about_here(["torch", "diffusers"]),
        "played_by": {base: read_json(work / base / "played.json")["code"] for base in bases},
        "seeds": seeds,
        "tuning": {base: read_json(work / base / "tuning" / "tuning.json") for base in bases},
        "bases": {base: outcome(frame) for base, frame in zip(bases, scores, strict=True)},
    }
    means = pd.concat(scores).groupby(["base", "seed", "model"], sort=False)[SCORERS].mean()
    with replacing_file(out.with_suffix(".csv")) as temporary:
        means.to_csv(temporary, float_format="%.6g")
    with styled():
        draw_comparisons(result).savefig(out.with_suffix(".png"), dpi=160, facecolor="white")
    write_record(out, result, lines(result))
    print(f"after {(time.monotonic() - started) / 60:.0f} minutes")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.study", description=__doc__.splitlines()[0])
    parser.add_argument("--bases", nargs="+", default=list(BASES), metavar="BASE", help="as in base.source")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--work", type=Path, required=True, help="folder of the runs, kept")
    parser.add_argument("--out", type=Path, required=True, help="results without suffix")
    given = parser.parse_args()
    if len(set(given.seeds)) < 2:
        parser.error("--seeds must be two or more: one says nothing of others")
    run(given.bases, given.seeds, given.work.resolve(), given.out)


if __name__ == "__main__":
    main()
