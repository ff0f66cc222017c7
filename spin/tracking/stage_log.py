"""What MLflow is told of a finished stage, all of it read back from the files the stage made.

A stage names its function here in STAGES; what every stage tells (parameters, inputs, outputs) comes from the table.
"""

from pathlib import Path

import pandas as pd

from spin import paths
from spin.params.schema import Params
from spin.runtime.files import read_json
from spin.runtime.provenance import content_md5, git_revision
from spin.tracking.notes import StageRun


def tell_data(run: StageRun, params: Params, name: str, prompt_set: str) -> None:
    """The training images, by their manifest's hash."""
    run.dataset("training images", paths.DATA / "manifest.parquet", read_json(paths.DATA / "card.json"))


def tell_opponents(run: StageRun, params: Params, name: str, prompt_set: str) -> None:
    """The training images and a look at the opponents."""
    tell_data(run, params, name, prompt_set)
    run.image(paths.OPPONENTS / name / "preview.png")


def tell_training(run: StageRun, params: Params, name: str, prompt_set: str) -> None:
    """The training images, the curve, the previews, and how it ran on this machine."""
    tell_data(run, params, name, prompt_set)
    for picture in sorted(
        (paths.PREVIEWS / name).glob("step-*.png")
    ):  # those shown while it trained are left out
        run.image(picture)
    if (record := paths.TRAINING / f"{name}.json").is_file():
        run.metric({f"run.{key}": value for key, value in read_json(record).items()})
    curve = pd.read_csv(paths.CURVES / f"{name}.csv").to_dict("records")
    run.metrics([{str(key): float(value) for key, value in row.items()} for row in curve])


def tell_scores(run: StageRun, params: Params, name: str, prompt_set: str) -> None:
    """Mean scores, and diversity where it was measured."""
    summary = read_json(paths.SCORES / prompt_set / name / "summary.json")
    measured = {"diversity": summary["diversity"]["mean"]} if "diversity" in summary else {}
    run.metric({**summary["mean"], **measured})


def tell_tables(run: StageRun, params: Params, name: str, prompt_set: str) -> None:
    """Winning rates, diversity and tables; to the parent too, one step per iteration, so that its chart shows the self-play."""
    tables = paths.TABLES / prompt_set
    summary = read_json(tables / "summary.json")
    rates = summary["win_rate_over_base"]
    diversity = {row["model"]: float(row["mean"]) for row in summary.get("diversity", [])}
    further = "" if prompt_set == params.evaluate.main_prompt_set else f"{prompt_set}."
    for step, iteration in enumerate(params.iterations, start=1):
        scores = {
            f"{further}win_rate_over_base.{scorer}": float(value)
            for scorer, value in rates[iteration].items()
        }
        if iteration in diversity:
            scores[f"{further}diversity"] = diversity[iteration]
        run.parent_metric(scores, step=step)
    run.metric({f"{model}.win_rate_over_base": float(rates[model]["average"]) for model in rates})
    run.metric({f"{model}.diversity": value for model, value in diversity.items()})
    for table in sorted(tables.glob("*.md")):
        run.artifact(table)
        run.parent_artifact(table, prompt_set if further else None)


def tell_continual(run: StageRun, params: Params, name: str, prompt_set: str) -> None:
    """The figure."""
    run.image(paths.CONTINUAL / name / "curve.png")
    run.parent_artifact(paths.CONTINUAL / name / "curve.png", f"continual/{name}")


def tell_report(run: StageRun, params: Params, name: str, prompt_set: str) -> None:
    """The figures and the page, on the parent too."""
    for picture in sorted(paths.REPORT.glob("*.png")):
        run.image(picture)
        run.parent_artifact(picture)
    run.parent_artifact(paths.REPORT / "report.html")


def tell_registry(run: StageRun, params: Params, name: str, prompt_set: str) -> None:
    """The entries of registry.json, for the model registry, and what is kept with a version."""
    listed = read_json(paths.REGISTRY / "registry.json")
    commit, dirty = git_revision(Path())
    chosen = params.evaluate.main_prompt_set
    kept = [Path(each) for each in ("dvc.lock", "params.yaml", ".dvc/config")]
    run.register(
        {
            "name": listed["name"],
            "entries": listed["models"],
            "revision": f"{commit}{' and uncommitted changes' if dirty else ''}",
            "files": [str(each) for each in kept if each.is_file()],
            "prompts": [chosen, content_md5(paths.prompts_of(chosen))[:32]],
        }
    )
