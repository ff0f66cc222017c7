"""What `training.reference_draws` saves and what it changes: iteration 1 of the embedded world, over seeds.

    python -m benchmarks.cached_reference --work FOLDER --out benchmarks/results/cached-reference

Plays iteration 1 with new draws at every visit and with M a pair, from the same base, data and opponents of each seed, and
compares their images of the test prompts as the study does. Then times updates of both in turns in this process, and what
the errors of the reference take before. What is in the folder is kept.
"""

import argparse
import shutil
import statistics
import time
from collections.abc import Callable
from contextlib import chdir
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import pandas as pd

from benchmarks.record import about_here, about_line, write_record
from benchmarks.study.outcome import SCORERS, Played, compare
from benchmarks.study.plan import BASES, STEPS, TRIALS
from benchmarks.study.play import params_of, play
from spin import paths
from spin.evaluation.lineage import revision_line
from spin.params.schema import Params
from spin.runtime.files import read_json, read_parquet, write_json
from spin.stages.train import run_training
from spin.training.loop import train
from spin.training.reference_errors import keep_reference_errors
from spin.training.setup import Inputs

BATCH, ROWS = 32, 512
"""Of the embedded profile."""
DRAWS = (1, 2, 4)
"""A training visits every pair four times: with as many draws none comes again."""
FRESH = "fresh"
TIMED_UPDATES, TURNS = 8, 6
SHARED = ("data", "cache", "opponents", "prompts", "checkpoints/base")
"""Outputs that the number of draws does not change."""


def arm(draws: int | None) -> str:
    """Name the model that is trained so."""
    return FRESH if draws is None else f"draws_{draws}"


def params_for(base: str, seed: int, draws: int | None, num_steps: int | None = None) -> Params:
    """The demo's first iteration."""
    iteration = TRIALS["spin"][0]["iter1"]
    raw = params_of(base, seed, {"iter1": iteration}, {}, ["base", "iter1"]).model_dump()
    raw["evaluate"]["references"] = []
    raw["training"]["reference_draws"] = draws
    raw["iterations"]["iter1"]["num_steps"] = num_steps or iteration["num_steps"]
    return Params.model_validate(raw)


def play_seed(base: str, seed: int, folder: Path) -> pd.DataFrame:
    """Scores of the base and of every arm, one row per model and test prompt."""
    first, frames = folder / FRESH, []
    for draws in (None, *DRAWS):
        place = folder / arm(draws)
        if draws is not None and not place.exists():
            for part in SHARED:
                shutil.copytree(first / paths.OUTPUTS / part, place / paths.OUTPUTS / part)
            for kind in ("samples", "scores"):
                drawn = Path(kind, "test", "base")
                shutil.copytree(first / paths.OUTPUTS / drawn, place / paths.OUTPUTS / drawn)
        play(params_for(base, seed, draws), place)
        for model in ("base", "iter1") if draws is None else ("iter1",):
            scores = read_parquet(place / paths.SCORES / "test" / model / "scores.parquet")
            frames.append(scores.assign(model=arm(draws) if model == "iter1" else model, seed=seed))
    return pd.concat(frames)


def effect(scores: pd.DataFrame) -> dict[str, Any]:
    """Every arm over new draws, and all over the base."""
    played, arms = Played(scores), [arm(draws) for draws in DRAWS]
    return {
        "over_fresh": [compare(played, model, FRESH) for model in arms],
        "over_base": [compare(played, model, "base") for model in (FRESH, *arms)],
        "means": {
            model: dict(zip(SCORERS, played.mean(model).mean(0).tolist(), strict=True))
            for model in played.models
        },
    }


def speed(folder: Path, base: str, kept: Path) -> dict[str, Any]:
    """Pairs a second of this process's processor time, in turns: of updates alone, and of the pass over the reference."""
    rates: dict[str, list[float]] = {FRESH: [], arm(1): [], "pass": []}
    if kept.is_file():
        rates = read_json(kept)
    with chdir(folder):
        while len(rates[FRESH]) < TURNS:
            found = [timed(params_for(base, 0, draws, TIMED_UPDATES)) for draws in (None, 1)]
            for name, rate in [*found[0].items(), *found[1].items()]:
                rates[name].append(rate)
            write_json(kept, rates)
    ratios = [cached / fresh for fresh, cached in zip(rates[FRESH], rates[arm(1)], strict=True)]
    medians = {name: statistics.median(each) for name, each in rates.items()}
    return {
        "pairs_per_second": rates,
        "medians": medians,
        "ratios": ratios,
        "ratio": statistics.median(ratios),
        "iteration": {arm(draws): of_iteration(medians, draws) for draws in DRAWS},
    }


def timed(params: Params) -> dict[str, float]:
    """Pairs a second of the updates of a training, and of the pass before them where there is one."""
    inputs = Inputs(
        data=paths.DATA,
        cache=paths.CACHE,
        opponents=paths.OPPONENTS / "iter1",
        prev=paths.CHECKPOINTS / "base",
        work=Path("timed"),
        previews=Path("timed"),
    )
    rates = {}

    def by_clock(run: Callable[..., Any], name: str, *given: Any) -> Any:
        started = time.process_time()
        result = run(*given)
        rates[name] = TIMED_UPDATES * BATCH / (time.process_time() - started)
        return result

    updates = partial(by_clock, train, arm(params.training.reference_draws))
    before = partial(by_clock, keep_reference_errors, "pass")
    with (
        mock.patch("spin.stages.train.train", updates),
        mock.patch("spin.stages.train.keep_reference_errors", before),
        TemporaryDirectory() as out,
    ):
        run_training(params, "iter1", inputs, Path(out))
    shutil.rmtree(inputs.work)
    return rates


def of_iteration(rates: dict[str, float], draws: int) -> float:
    """How much faster a whole iteration is, its pass included."""
    pairs = STEPS * BATCH
    seconds = pairs / rates[arm(1)] + min(pairs, draws * ROWS) / rates["pass"]
    return pairs / rates[FRESH] / seconds


def lines(result: dict[str, Any]) -> list[str]:
    """The record for people."""
    told = result["speed"]
    text = [
        "# Reference errors computed once: what they save, what they change",
        "",
        "By `python -m benchmarks.cached_reference`: iteration 1 of the embedded world, "
        f"{STEPS} updates of {BATCH} pairs over {ROWS} captions, so that every pair is visited "
        f"{STEPS * BATCH // ROWS} times. New draws at every visit (`training.reference_draws: null`) against M draws a pair.",
        "",
        about_line(result["about"]),
        "",
        "## Speed",
        "",
        f"Updates alone, {TURNS} turns of {TIMED_UPDATES} updates each in one process, by its processor time, since other work "
        f"shared the cores: {told['medians'][arm(1)]:.1f} pairs/s against "
        f"{told['medians'][FRESH]:.1f}, **{told['ratio']:.3f} times** as fast (median of the turns' ratios; "
        f"{min(told['ratios']):.3f} to {max(told['ratios']):.3f}). By count of forwards it would be 8 / 6 = 1.333.",
        "",
        f"The pass before the first update does {told['medians']['pass']:.1f} pairs/s. With it, by these medians, the whole "
        "iteration is "
        + ", ".join(f"{told['iteration'][arm(draws)]:.3f} times as fast with M = {draws}" for draws in DRAWS)
        + f": with M = {DRAWS[-1]} every draw is visited once, and nothing is saved "
        "by that. "
        f"Images and scores below were made at commit {result['played_by']}.",
    ]
    for base, found in result["bases"].items():
        text += ["", f"## Effect: base {base}, seeds {' '.join(map(str, result['seeds']))}", "", *rows(found)]
    return [
        *text,
        "",
        "Wins are by the average of four scorers; intervals are at 95%, over test prompts for the mean of these seeds, and over "
        f"seeds. With M = {DRAWS[-1]} training is one with new draws from other streams: its row says what chance alone does.",
    ]


def rows(found: dict[str, Any]) -> list[str]:
    """Markdown of one base."""
    text = [
        "| Arm | PSNR, dB | Wins over the base, % | Wins over new draws, % | over prompts | over seeds | PSNR over new draws, dB "
        "| over prompts | over seeds |",
        "|---|---:|---:|---:|---|---|---:|---|---|",
    ]
    against = {row["model"]: row for row in found["over_fresh"]}
    for row in found["over_base"]:
        model = row["model"]
        cells = [f"{found['means'][model]['oracle_psnr']:.2f}", f"{100 * row['win_rate']['mean']:.1f}"]
        for key, scale, digits in (("win_rate", 100, 1), ("psnr", 1, 3)):
            told = against.get(model, {}).get(key)
            cells.append(f"{scale * told['mean']:{'+' if key == 'psnr' else ''}.{digits}f}" if told else "")
            for span in ("over_prompts", "over_seeds"):
                cells.append(" to ".join(f"{scale * each:.{digits}f}" for each in told[span]) if told else "")
        name = "new draws" if model == FRESH else f"M = {model.removeprefix('draws_')}"
        text.append(f"| {name} | {' | '.join(cells)} |")
    return text


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cached_reference")
    parser.add_argument("--bases", nargs="+", default=list(BASES), metavar="BASE", help="as in base.source")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--work", type=Path, required=True, help="folder of the runs, kept")
    parser.add_argument("--out", type=Path, required=True, help="results without suffix")
    given = parser.parse_args()
    work, out = given.work.resolve(), given.out.resolve()
    played = work / "played.json"
    if not played.is_file():
        work.mkdir(parents=True, exist_ok=True)
        write_json(played, {"code": revision_line(Path(__file__).parent)})
    bases = {}
    for base in given.bases:
        seeds = [play_seed(base, seed, work / base / f"seed-{seed}") for seed in given.seeds]
        bases[base] = effect(pd.concat(seeds))
    first = given.bases[0]
    timing = work / first / f"seed-{given.seeds[0]}" / FRESH
    result = {
        "about": about_here(["torch", "diffusers"]),
        "played_by": read_json(played)["code"],
        "seeds": given.seeds,
        "speed": speed(timing, first, work / "rates.json"),
        "bases": bases,
    }
    write_record(out, result, lines(result))


if __name__ == "__main__":
    main()
