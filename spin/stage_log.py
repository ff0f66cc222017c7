"""What MLflow is told of a finished stage, all of it read back from the files the stage made."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from spin import paths
from spin.files import read_json
from spin.params import Params

if TYPE_CHECKING:
    from spin.tracking import StageRun


def log_stage(
    run: "StageRun", params: Params, stage: str, name: str | None, prompt_set: str | None = None
) -> None:
    """Log the parameters, metrics, pictures and data of one finished stage."""
    run.params(stage_params(params, stage, name))
    inputs, outputs = stage_files(params, stage, name or "", prompt_set or "")
    run.inputs(*inputs)
    run.outputs(*outputs)
    if stage == "data":
        run.dataset("training images", paths.DATA / "manifest.parquet", read_json(paths.DATA / "card.json"))
    elif stage == "opponents" and name:
        run.dataset("training images", paths.DATA / "manifest.parquet", read_json(paths.DATA / "card.json"))
        run.image(paths.OPPONENTS / name / "preview.png")
    elif stage == "train" and name:
        run.dataset("training images", paths.DATA / "manifest.parquet", read_json(paths.DATA / "card.json"))
        for picture in sorted((paths.PREVIEWS / name).glob("step-*.png")):
            run.image(picture)
        if (record := paths.TRAINING / f"{name}.json").is_file():
            run.metric({f"run.{key}": value for key, value in read_json(record).items()})
        curve = pd.read_csv(paths.CURVES / f"{name}.csv")
        run.metrics(
            [{str(key): float(value) for key, value in row.items()} for row in curve.to_dict("records")]
        )
    elif stage in ("score", "reference") and name:
        run.metric(read_json(paths.SCORES / str(prompt_set) / name / "summary.json")["mean"])
    elif stage == "tables":
        _log_tables(run, params, str(prompt_set))
    elif stage == "continual" and name:
        run.image(paths.CONTINUAL / name / "curve.png")
        run.parent_artifact(paths.CONTINUAL / name / "curve.png")
    elif stage == "report":
        for picture in sorted(paths.REPORT.glob("*.png")):
            run.image(picture)
            run.parent_artifact(picture)
        run.parent_artifact(paths.REPORT / "report.html")


def stage_params(params: Params, stage: str, name: str | None) -> dict[str, Any]:
    """The parameters that matter to a stage, with dotted names."""
    sections: dict[str, Any] = {"seed": params.seed, "resolution": params.resolution}
    if stage == "train" and name:
        sections |= {"training": params.training.model_dump(), **params.stage(name).model_dump()}
        if name in params.iterations:
            sections["objective"] = params.objective.model_dump()
    elif stage == "opponents" and name:
        sections |= {"opponents": params.opponents.model_dump(), "prev": params.iterations[name].prev}
    elif stage in ("generate", "score", "reference"):
        sections |= {"evaluate": params.evaluate.model_dump()}
    elif stage in ("data", "base"):
        sections |= {stage: getattr(params, stage).model_dump()}
    elif stage in ("tables", "register"):
        sections |= {"tables": params.tables.model_dump()}
    return flatten(sections)


def stage_files(params: Params, stage: str, name: str, prompt_set: str) -> tuple[list[Path], list[Path]]:
    """What a stage read and what it made, for the lineage; `dvc.yaml` has the full list."""
    if stage in ("opponents", "train"):
        read = [paths.DATA, paths.CACHE, paths.CHECKPOINTS / params.stage(name).prev]
        if stage == "opponents":
            return read, [paths.OPPONENTS / name]
        return [*read, *([paths.OPPONENTS / name] if name in params.iterations else [])], [
            paths.CHECKPOINTS / name
        ]
    samples, scores = paths.SAMPLES / prompt_set / name, paths.SCORES / prompt_set / name
    return {
        "data": ([], [paths.DATA]),
        "base": ([], [paths.CHECKPOINTS / "base"]),
        "cache": ([paths.DATA, paths.CHECKPOINTS / "base"], [paths.CACHE]),
        "released": ([paths.CHECKPOINTS / "base"], [paths.CHECKPOINTS / name]),
        "continual": ([paths.CHECKPOINTS, paths.OPPONENTS], [paths.CONTINUAL / name]),
        "prompt-set": ([paths.DATA], [paths.prompts_of(name)]),
        "generate": ([paths.prompts_of(prompt_set), paths.CHECKPOINTS / name], [samples]),
        "reference": ([paths.prompts_of(prompt_set), paths.CHECKPOINTS / "base"], [scores]),
        "score": ([samples], [scores]),
        "tables": ([paths.SCORES / prompt_set], [paths.TABLES / prompt_set]),
        "report": ([paths.TABLES], [paths.REPORT]),
        "register": ([paths.TABLES], [paths.REGISTRY]),
    }[stage]


def flatten(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _log_tables(run: "StageRun", params: Params, prompt_set: str) -> None:
    """Winning rates go to the parent run too, one step per iteration, so that its chart shows the self-play."""
    tables = paths.TABLES / prompt_set
    rates = read_json(tables / "summary.json")["win_rate_over_base"]
    further = "" if prompt_set == params.evaluate.main_prompt_set else f"{prompt_set}."
    for step, name in enumerate(params.iterations, start=1):
        scores = {
            f"{further}win_rate_over_base.{scorer}": float(value) for scorer, value in rates[name].items()
        }
        run.parent_metric(scores, step=step)
    run.metric({f"{name}.win_rate_over_base": float(rates[name]["average"]) for name in rates})
    for table in sorted(tables.glob("*.md")):
        run.artifact(table)
        run.parent_artifact(table)
