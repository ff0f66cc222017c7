"""Tables of a prompt set, and the page with the figures."""

from spin import paths
from spin.params.schema import Params
from spin.runtime.files import read_json, write_json
from spin.runtime.sums import check_folder, check_sum
from spin.stages.work import CURVE_SUM, check_name


def run_tables(params: Params, prompt_set: str) -> None:
    """Compare all models on a prompt set: means, medians, winning rates, intervals."""
    from spin.evaluation.tables import write_tables

    check_name(prompt_set, params.evaluate.prompt_sets, "--prompts")
    scores, tables = paths.SCORES / prompt_set, paths.TABLES / prompt_set
    write_tables(params, scores, tables, references=params.evaluate.references)
    summary = read_json(tables / "summary.json")
    compared = {name: summary[name] for name in ("win_rate_over_base", "mean")}
    if summary["diversity"]:
        compared["diversity"] = {row["model"]: row["mean"] for row in summary["diversity"]}
    write_json(paths.METRICS / f"{prompt_set}.json", compared)  # what `dvc metrics diff` compares


def run_report(params: Params) -> None:
    """Draw the figures and the page."""
    from spin.evaluation.report import write_report

    for prompt_set in params.evaluate.prompt_sets:
        check_folder(paths.TABLES / prompt_set)
        for model in (*params.evaluate.models, *params.evaluate.references):
            check_folder(paths.SAMPLES / prompt_set / model)
    for name in params.continual:
        check_folder(paths.CONTINUAL / name)
    for model in params.evaluate.models:
        check_sum(paths.CHECKPOINTS / model / CURVE_SUM, paths.CURVES / f"{model}.csv")
    write_report(params, paths.OUTPUTS, paths.REPORT)
