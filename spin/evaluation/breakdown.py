"""Tables by category, by style of the HPSv2 benchmark, and by prompt where prompts are few."""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from spin.evaluation.champion import FEWEST
from spin.evaluation.intervals import mean_intervals, winning_intervals
from spin.evaluation.labels import AVERAGE, scorer_label
from spin.evaluation.measures import outcomes_of
from spin.evaluation.notes import few_line, protocol_line, scorers_line
from spin.evaluation.resampling import cluster_codes, resample
from spin.evaluation.results import Results
from spin.evaluation.styles import is_benchmark, style_report, style_tables
from spin.evaluation.table import Table
from spin.params.evaluation import TableParams
from spin.runtime.files import read_json, read_parquet, write_json

FEW = 10
"""Up to so many prompts each gets a column of its own."""
COLUMNS = ["group", "model", "scorer", "n", "mean", "low", "high", "win_rate", "win_low", "win_high"]
GROUPS = {"category": "categories.csv", "challenge": "challenges.csv"}
BREAKDOWNS = "breakdowns.json"
"""All of them, for the report."""
_NUMBERS = ("value", "low", "high")


def write_breakdowns(
    folder: Path, results: Results, tables: TableParams, summary: dict[str, Any], scores: Path, seed: int
) -> None:
    """Write into `folder` whichever of the breakdowns the prompt set has: nothing for one without categories."""
    shown: list[Table] = []
    for kind, groups in (("category", results.categories), ("challenge", results.challenges)):
        if len({name for name in groups if name}) > 1:
            frame = measure_groups(results, groups, tables, seed)
            frame.rename(columns={"group": kind}).to_csv(folder / GROUPS[kind], index=False)
            shown += group_tables(frame, kind, summary)
    frames = {model: read_parquet(scores / model / "scores.parquet") for model in results.models}
    if is_benchmark(frames[results.models[0]]):
        for scorer in (name for name in results.scorers if name.startswith("hps")):
            shown += _measure_styles(folder, scorer, frames, tables, summary, seed)
    if len(results.prompt_ids) <= FEW:
        shown += prompt_tables(results, summary)
    for table in shown:
        (folder / f"{table.name}.csv").write_text(table.to_csv(), encoding="utf-8")
        (folder / f"{table.name}.md").write_text(table.to_markdown(), encoding="utf-8")
        (folder / f"{table.name}.tex").write_text(table.to_latex(), encoding="utf-8")
    write_json(folder / BREAKDOWNS, [_as_record(table) for table in shown])


def read_breakdowns(tables: Path) -> list[Table]:
    """Read back the tables that `write_breakdowns` wrote."""
    return [
        Table(**{**record, "frame": pd.DataFrame(record["frame"]).astype(dict.fromkeys(_NUMBERS, float))})
        for record in read_json(tables / BREAKDOWNS)
    ]


def _as_record(table: Table) -> dict[str, Any]:
    """A table as JSON holds it; a missing number is null."""
    frame = table.frame[["model", "scorer", *_NUMBERS]].astype(object)
    record = {field.name: getattr(table, field.name) for field in fields(table)}
    return {**record, "frame": frame.where(frame.notna(), None).to_dict("list")}


def measure_groups(results: Results, groups: Sequence[str], tables: TableParams, seed: int) -> pd.DataFrame:
    """Mean, and winning rate over the base, of every model and scorer within each group of prompts, with intervals.

    `groups` names the group of each prompt, such as its category. The winning rate of `average` is the mean of those over `tables.average_of`, as in the whole.
    """
    of_prompt, together = np.array(groups), np.array(results.clusters)
    rows = []
    for group in sorted(set(groups)):
        inside = of_prompt == group
        resampled = resample(cluster_codes(together[inside]), tables.bootstrap_samples, seed)
        for model in (*results.models, *results.references):
            values = results.of(model)[inside]
            won = outcomes_of(results, model, "base", tables.average_of)[inside]
            means = mean_intervals(values, resampled, tables.confidence)
            rates = winning_intervals(won, resampled.clusters, tables.confidence)
            for column, scorer in enumerate(results.scorers):
                mean, rate = values[:, column].mean(), won[:, column].mean()
                key = group or "none", model, scorer, len(values)
                rows.append((*key, mean, *means[column], rate, *rates[column]))
    return pd.DataFrame(rows, columns=COLUMNS)


def group_tables(frame: pd.DataFrame, kind: str, summary: dict[str, Any]) -> list[Table]:
    """Lay out the Average by group, a `kind` such as category: winning rate over the base, and mean."""
    average = frame[frame["scorer"] == AVERAGE]
    labels = average["group"] + " (" + average["n"].astype(str) + ")"
    shown = average.assign(scorer=labels)
    over = shown[shown["model"] != "base"]
    over = over.assign(**{to: 100 * over[of] for to, of in _RATES.items()})
    notes = [
        protocol_line(summary),
        scorers_line(summary),
        f"In brackets: the prompts of a {kind}; fewer than {FEWEST} decide nothing.",
    ]
    references: Sequence[str] = summary["references"]
    return [
        Table(
            f"winrate_over_base_by_{kind}",
            f"Average winning rate over Base by {kind} (%)",
            over,
            references,
            [],
            [*notes, "Ties count half."],
        ),
        Table(
            f"mean_by_{kind}",
            f"Average score by {kind}",
            shown.rename(columns={"mean": "value"}),
            references,
            [],
            notes,
        ),
    ]


_RATES = {"value": "win_rate", "low": "win_low", "high": "win_high"}


def prompt_tables(results: Results, summary: dict[str, Any]) -> list[Table]:
    """Lay out each scorer's score of every prompt: a table per scorer, a column per prompt."""
    tables = []
    for column, scorer in enumerate(results.scorers):
        rows = [
            (model, _column_of(results, place), results.of(model)[place, column])
            for model in (*results.models, *results.references)
            for place in range(len(results.prompt_ids))
        ]
        frame = pd.DataFrame(rows, columns=["model", "scorer", "value"])
        frame = frame.assign(low=np.nan, high=np.nan)  # one prompt is no sample of prompts
        title = f"{scorer_label(scorer)} by prompt"
        notes = [protocol_line(summary), scorers_line(summary), few_line(summary)]
        name = f"prompts_{scorer}"
        tables.append(Table(name, title, frame, results.references, [], notes, ranked=False))
    return tables


def _column_of(results: Results, place: int) -> str:
    prompt = results.prompts[place]
    short = prompt if len(prompt) <= 40 else prompt[:37] + "..."
    return short if results.prompts.count(prompt) == 1 else f"{short} ({results.prompt_ids[place]})"


def _measure_styles(
    folder: Path,
    scorer: str,
    frames: dict[str, pd.DataFrame],
    tables: TableParams,
    summary: dict[str, Any],
    seed: int,
) -> list[Table]:
    reports = {
        model: style_report(frame, scorer, tables.bootstrap_samples, tables.confidence, seed)
        for model, frame in frames.items()
    }
    long = pd.concat([report.assign(model=model) for model, report in reports.items()])
    long.to_csv(folder / f"styles_{scorer}_groups.csv", index=False)
    return style_tables(reports, scorer, str(summary["scorers"][scorer]["version"]), protocol_line(summary))
