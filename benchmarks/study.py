"""The embedded world over several seeds of the method: every model, every baseline at two settings, one table.

    python -m benchmarks.study.py --params profiles/toy-study.yaml --seeds 0 1 2 --work /path/to/scratch --out benchmarks/results/toy-study

Each seed is a whole run (another draw of winners, noise, data order and opponents; evaluation seeds stay) in a folder
of its own, stage by stage in this process. Finished stages are kept, so a killed study continues. The result is
NAME.csv (every seed's means and winning rates), NAME.md (mean and range over seeds) and NAME.json (where and when).
"""

import argparse
import os
import platform
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
import yaml

from spin import paths
from spin.evaluation.tables import read_tables
from spin.params.schema import Params
from spin.runtime.files import replacing_file, write_json
from spin.stages.data import run_base, run_cache, run_data, run_prompt_set
from spin.stages.report import run_tables
from spin.stages.sample import run_generate, run_opponents
from spin.stages.score import run_reference, run_score
from spin.stages.train import run_train


def steps(params: Params) -> list[tuple[Path, Callable[[], object]]]:
    """Every stage with the path that shows it is done, in an order that dvc.yaml allows."""
    chosen = params.evaluate.main_prompt_set
    plan: list[tuple[Path, Callable[[], object]]] = [
        (paths.DATA, lambda: run_data(params)),
        (paths.CHECKPOINTS / "base", lambda: run_base(params)),
        (paths.CACHE, lambda: run_cache(params)),
        (paths.prompts_of(chosen), lambda: run_prompt_set(params, chosen)),
    ]
    for name in params.iterations:
        plan += [
            (paths.OPPONENTS / name, lambda name=name: run_opponents(params, name)),
            (paths.CHECKPOINTS / name, lambda name=name: run_train(params, name)),
        ]
    plan += [
        (paths.CHECKPOINTS / name, lambda name=name: run_train(params, name)) for name in params.baselines
    ]
    for name in params.evaluate.models:
        plan += [
            (
                paths.SAMPLES / chosen / name,
                lambda name=name: run_generate(params, chosen, name),
            ),
            (
                paths.SCORES / chosen / name,
                lambda name=name: run_score(params, chosen, name),
            ),
        ]
    plan += [
        (
            paths.SCORES / chosen / name,
            lambda name=name: run_reference(params, chosen, name),
        )
        for name in params.evaluate.references
    ]
    return [*plan, (paths.TABLES / chosen, lambda: run_tables(params, chosen))]


def run_seed(raw: dict[str, object], seed: int, folder: Path) -> pd.DataFrame:
    """Play one seed in `folder` and return its means and winning rates, one row per model and scorer."""
    params = Params.model_validate({**raw, "seed": seed})
    folder.mkdir(parents=True, exist_ok=True)
    here = Path.cwd()
    os.chdir(folder)
    try:
        for done, run in steps(params):
            if not done.exists():
                started = time.monotonic()
                run()
                print(f"seed {seed}: {done} {time.monotonic() - started:.0f} s", flush=True)
        measures, _ = read_tables(paths.TABLES / params.evaluate.main_prompt_set)
    finally:
        os.chdir(here)
    means = measures.means[["model", "scorer", "mean"]]
    for over, rows in measures.winrates.groupby("over"):
        rates = rows[["model", "scorer", "win_rate"]].rename(columns={"win_rate": f"win_rate_over_{over}"})
        means = means.merge(rates, on=["model", "scorer"], how="left")
    return means.assign(seed=seed)


def summarise(frame: pd.DataFrame, order: list[str]) -> str:
    """Markdown: mean over seeds with the lowest and highest, for the means and for each winning rate."""
    blocks = []
    for column in [name for name in frame.columns if name not in ("model", "scorer", "seed")]:
        grouped = frame.dropna(subset=[column]).groupby(["model", "scorer"])[column]
        text = grouped.apply(lambda values: f"{values.mean():.3f} ({values.min():.3f} to {values.max():.3f})")
        table = text.unstack("scorer")
        table = table.loc[[name for name in order if name in table.index]]
        title = {"mean": "Mean score"}.get(column, column.replace("_", " ").capitalize())
        blocks.append(f"### {title}: mean over seeds (lowest to highest)\n\n{table.fillna('').to_markdown()}")
    return "\n\n".join(blocks) + "\n"


def main() -> None:
    """Run the study and write its results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--params", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", required=True)
    parser.add_argument("--work", type=Path, required=True, help="scratch folder, one sub-folder per seed")
    parser.add_argument("--out", type=Path, required=True, help="results without suffix")
    given = parser.parse_args()
    raw = yaml.safe_load(given.params.read_text(encoding="utf-8"))
    started = time.monotonic()
    frame = pd.concat([run_seed(raw, seed, given.work.resolve() / f"seed-{seed}") for seed in given.seeds])
    order = [*raw["evaluate"]["models"], *raw["evaluate"]["references"]]
    revision = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    about = {
        "commit": revision,
        "params": str(given.params),
        "seeds": given.seeds,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} thread(s), no GPU",
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }
    with replacing_file(given.out.with_suffix(".csv")) as temporary:
        frame.to_csv(temporary, index=False)
    write_json(given.out.with_suffix(".json"), about)
    header = f"# {given.out.name}\n\nCommit {revision}, seeds {given.seeds}, {about['machine']}.\n\n"
    with replacing_file(given.out.with_suffix(".md")) as temporary:
        temporary.write_text(header + summarise(frame, order), encoding="utf-8")
    print(f"Wrote {given.out}.csv, .md and .json after {(time.monotonic() - started) / 60:.0f} minutes")


if __name__ == "__main__":
    main()
