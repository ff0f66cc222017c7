"""What was tried so that iteration 3 beats iteration 2 on the shipped base, where the study does not show it.

    python -m benchmarks.study.third --work FOLDER --out benchmarks/results/toy-third-iteration

The demo's game with one thing changed at a time, as the paper differs from the demo: more updates in iteration 2, a higher
beta in iteration 3, a moving average of the weights; more winners are not tried, as the world has no more. Validation captions alone, four images each, and seeds
that the study does not use: this chooses what to try on test captions, it shows nothing by itself. A killed run goes on in
its folder.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.record import about_here, about_line, write_record
from benchmarks.study.outcome import SCORERS, Played, compare
from benchmarks.study.plan import SPIN, STEPS, TRIALS, TUNING_IMAGES
from benchmarks.study.play import ROOT, Settings, params_of, play
from spin import paths
from spin.evaluation.lineage import revision_line
from spin.params.schema import Params
from spin.runtime.files import read_json, read_parquet, write_json

SEEDS = (100, 101, 102)
DEMO: Settings = TRIALS["spin"][0]
LATER: Settings = {
    "iter3_beta": DEMO["iter3"] | {"beta": 2.5 * DEMO["iter3"]["beta"]},
    "iter3_high_beta": DEMO["iter3"] | {"beta": 10 * DEMO["iter3"]["beta"]},
    "iter2_more": DEMO["iter2"] | {"num_steps": 2 * STEPS},
    "iter3_more": DEMO["iter3"] | {"prev": "iter2_more"},
}
"""Beside the demo's three iterations, from the same iteration 1."""
ELSEWHERE: dict[str, dict[str, dict[str, Any]]] = {
    "ema": {"training": {"ema_decay": 0.95}},
}
"""What changes all three iterations: sections of the parameters."""
TRIED = (
    ("as the demo", "", "iter3", "iter2"),
    ("beta 5,000 in iteration 3", "", "iter3_beta", "iter2"),
    ("beta 20,000 in iteration 3", "", "iter3_high_beta", "iter2"),
    ("128 updates in iteration 2", "", "iter3_more", "iter2_more"),
    ("moving average of the weights, 0.95", "ema", "iter3", "iter2"),
)
"""What was changed, where it was played, its iteration 3 and its iteration 2."""


def game(seed: int, changes: dict[str, dict[str, Any]], iterations: Settings) -> Params:
    """The demo's parameters with sections changed, evaluated on validation captions."""
    params = params_of(
        "embedded", seed, iterations, {}, ["base", *iterations], prompt_set="val", images=TUNING_IMAGES
    )
    raw = params.model_dump(mode="json")
    for section, values in changes.items():
        raw[section] |= values
    return Params.model_validate(raw)


def play_seed(seed: int, work: Path) -> pd.DataFrame:
    """Play all that is tried with one seed; returns a row per model and caption, its images averaged."""
    frames = []
    for place, changes in {"": {}, **ELSEWHERE}.items():
        params = game(seed, changes, DEMO if changes else DEMO | LATER)
        folder = work / f"seed-{seed}" / (place or "demo")
        play(params, folder)
        for model in params.evaluate.models:
            scores = read_parquet(folder / paths.SCORES / "val" / model / "scores.parquet")
            kept = [name for name in ("cluster",) if name in scores]
            rows = scores.groupby("prompt_id").agg(
                {**dict.fromkeys(SCORERS, "mean"), **dict.fromkeys(kept, "first")}
            )
            frames.append(rows.reset_index().assign(model=f"{place}/{model}" if place else model))
    return pd.concat(frames, ignore_index=True).assign(seed=seed)


def run(seeds: list[int], work: Path, out: Path) -> None:
    """Play what is missing, and write the record."""
    started, mark = time.monotonic(), work / "played.json"
    if not mark.is_file():
        work.mkdir(parents=True, exist_ok=True)
        write_json(mark, {"code": revision_line(ROOT)})
    scores = pd.concat([play_seed(seed, work) for seed in seeds], ignore_index=True)
    played = Played(scores)
    found: list[dict[str, Any]] = []
    for said, place, third, second in TRIED:
        ours, before = (f"{place}/{name}" if place else name for name in (third, second))
        against_demo = compare(played, ours, "iter2") if ours != "iter3" else compare(played, ours, before)
        found.append({"tried": said, "over_own": compare(played, ours, before), "over_demo": against_demo})
    about = about_here(["torch", "diffusers"])
    prompts = int(played.clusters.size)
    lines = [
        "# Iteration 3 on the shipped base: what was tried",
        "",
        f"    python -m benchmarks.study.third --seeds {' '.join(map(str, seeds))} --work FOLDER --out {out}",
        "",
        f"{about_line(about)} Played by {read_json(mark)['code']}.",
        "",
        f"{prompts} validation captions in {int(played.clusters.max()) + 1} clusters, {TUNING_IMAGES} images each, "
        f"seeds that the study does not use; 95% intervals over captions, of the mean over seeds.",
        "",
        "| Changed | Iteration 3 over its own iteration 2: prompts won, % | over captions | by seed | PSNR, dB | over captions "
        "| by seed | Over the demo's iteration 2: prompts won, % | PSNR, dB |",
        "|---|---:|---|---|---:|---|---|---:|---:|",
    ]
    for row in found:
        own, other = row["over_own"], row["over_demo"]
        cells = [row["tried"], *_told(own["win_rate"], 100, ".1f"), *_told(own["psnr"], 1, "+.2f")]
        cells += [f"{100 * other['win_rate']['mean']:.1f}", f"{other['psnr']['mean']:+.2f}"]
        lines.append("| " + " | ".join(cells) + " |")
    result = {"about": about, "seeds": seeds, "found": found, "updates": {name: STEPS for name in SPIN}}
    write_record(out, result, lines)
    print(f"after {(time.monotonic() - started) / 60:.0f} minutes")


def _told(outcome: dict[str, Any], times: float, spec: str) -> list[str]:
    low, high = outcome["over_prompts"]
    seeds = ", ".join(f"{times * each:{spec}}" for each in outcome["by_seed"])
    return [f"{times * outcome['mean']:{spec}}", f"{times * low:{spec}} to {times * high:{spec}}", seeds]


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.study.third", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--work", type=Path, required=True, help="folder of the games, kept")
    parser.add_argument("--out", type=Path, required=True, help="results without suffix")
    given = parser.parse_args()
    run(given.seeds, given.work.resolve(), given.out)


if __name__ == "__main__":
    main()
