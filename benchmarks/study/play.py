"""Play the embedded world in a folder, stage by stage in this process; finished stages are kept."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from benchmarks.study.plan import GUIDANCES, GUIDED_SEEDS, SPIN, TRIALS, TUNING_IMAGES, TUNING_SEED
from spin import paths
from spin.errors import EvaluationError
from spin.evaluation.lineage import revision_line
from spin.params.schema import Params
from spin.runtime.files import read_json, read_parquet, write_json
from spin.runtime.shards import work_key
from spin.stages.data import run_base, run_cache, run_data, run_prompt_set
from spin.stages.sample import run_generate, run_opponents
from spin.stages.score import run_reference, run_score
from spin.stages.train import run_train

ROOT = Path(__file__).resolve().parents[2]
Settings = dict[str, dict[str, Any]]


def params_of(
    base: str, seed: int, iterations: Settings, baselines: Settings, models: list[str], **changes: Any
) -> Params:
    """Return the demo's parameters with other models; `changes` are prompt_set, images and guidance."""
    raw = yaml.safe_load((ROOT / "profiles" / "toy.yaml").read_text("utf-8"))
    chosen, guidance = changes.get("prompt_set", "test"), changes.get("guidance", GUIDANCES[0])
    raw |= {"seed": seed, "iterations": iterations, "baselines": baselines}
    raw["base"]["source"] = base
    raw["opponents"]["guidance_scale"] = guidance
    raw["prompt_sets"] = {chosen: {"prompts": chosen, "source": None, "images_per_prompt": None}}
    raw["evaluate"] |= {"models": models, "prompt_sets": [chosen]}
    raw["evaluate"]["images_per_prompt"] = changes.get("images", 1)
    raw["tables"]["over"] = ["base"]
    return Params.model_validate(raw)


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
            (paths.SAMPLES / chosen / name, lambda name=name: run_generate(params, chosen, name)),
            (paths.SCORES / chosen / name, lambda name=name: run_score(params, chosen, name)),
        ]
    references = params.evaluate.references
    return plan + [
        (paths.SCORES / chosen / name, lambda name=name: run_reference(params, chosen, name))
        for name in references
    ]


def play(params: Params, folder: Path) -> None:
    """Play everything of `params` in `folder`; what is there is kept."""
    folder.mkdir(parents=True, exist_ok=True)
    here = Path.cwd()
    os.chdir(folder)
    try:
        for done, run in steps(params):
            if not done.exists():
                started = time.monotonic()
                run()
                print(
                    f"{folder.parent.name}/{folder.name}: {done} {time.monotonic() - started:.0f} s",
                    flush=True,
                )
    finally:
        os.chdir(here)


def tune(base: str, folder: Path) -> dict[str, Any]:
    """Try every setting and return, by method, each trial's mean PSNR on validation captions and the setting taken."""
    iterations: Settings = {}
    baselines: Settings = {}
    for method, trials in TRIALS.items():
        for number, trial in enumerate(trials):
            if method != "spin":
                baselines[f"{method}_{number}"] = trial
                continue
            for name, stage in trial.items():
                prev = stage["prev"] if stage["prev"] == "base" else f"{stage['prev']}_{number}"
                iterations[f"{name}_{number}"] = {**stage, "prev": prev}
    last = [f"{SPIN[-1]}_{number}" for number in range(len(TRIALS["spin"]))]
    models = ["base", *baselines, *iterations]
    chosen = params_of(
        base, TUNING_SEED, iterations, baselines, models, prompt_set="val", images=TUNING_IMAGES
    )
    play(chosen, folder)

    result: dict[str, Any] = {"base": base, "base_psnr": _psnr(folder, "base")}
    for method, trials in TRIALS.items():
        names = last if method == "spin" else [f"{method}_{number}" for number in range(len(trials))]
        found = [_psnr(folder, name) for name in names]
        best = max(range(len(found)), key=found.__getitem__)
        result[method] = {"psnr": found, "taken": best, "trials": list(trials)}
    write_json(folder / "tuning.json", result)
    return result


def _psnr(folder: Path, model: str) -> float:
    return float(read_parquet(folder / paths.SCORES / "val" / model / "scores.parquet")["oracle_psnr"].mean())


def arm(guidance: float, model: str) -> str:
    """Name a model of the arm whose opponents are drawn at `guidance`."""
    return model if guidance == GUIDANCES[0] else f"{model}_guided"


def play_seed(base: str, tuning: dict[str, Any], seed: int, folder: Path) -> pd.DataFrame:
    """Play one seed of one base; returns every model's scores, one row per model and test prompt."""
    taken = {method: tuning[method]["trials"][tuning[method]["taken"]] for method in TRIALS}
    iterations = taken.pop("spin")
    frames = []
    for guidance in GUIDANCES if seed in GUIDED_SEEDS else GUIDANCES[:1]:
        main = guidance == GUIDANCES[0]
        models = ["base", *taken, *SPIN] if main else ["base", *SPIN]
        params = params_of(base, seed, iterations, taken if main else {}, models, guidance=guidance)
        place = folder / f"guidance-{guidance:g}"
        play(params, place)
        shown = [*models, *params.evaluate.references] if main else SPIN
        for model in shown:
            scores = read_parquet(place / paths.SCORES / "test" / model / "scores.parquet")
            frames.append(scores.assign(model=arm(guidance, model)))
    return pd.concat(frames).assign(seed=seed, base=base)


def play_base(base: str, seeds: list[int], folder: Path) -> Path:
    """Tune on a base and play every seed; returns the file with all scores.

    What is there is kept, if it was played by the same plan; `played.json` says which and by which code. Raises
    `EvaluationError` for a folder of another plan.
    """
    mark, plan = folder / "played.json", work_key(TRIALS, TUNING_SEED, TUNING_IMAGES, GUIDANCES)
    if not mark.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(mark, {"plan": plan, "code": revision_line(ROOT)})
    if read_json(mark)["plan"] != plan:
        raise EvaluationError(
            f"{folder} must have been played by this plan, but was by another; choose another folder."
        )
    tuned = folder / "tuning" / "tuning.json"
    tuning = read_json(tuned) if tuned.is_file() else tune(base, folder / "tuning")
    frames = [play_seed(base, tuning, seed, folder / f"seed-{seed}") for seed in seeds]
    out = folder / "scores.parquet"
    pd.concat(frames, ignore_index=True).to_parquet(out, index=False)
    return out
