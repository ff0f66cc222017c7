"""The tables of a run: measured, laid out and written."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from spin.evaluation.breakdown import write_breakdowns
from spin.evaluation.champion import candidates, choose, choosing_set, enough, misaligned
from spin.evaluation.diversity import diversity_table, measure_diversity
from spin.evaluation.head_to_head import head_to_head_table
from spin.evaluation.labels import AVERAGE, model_label, scorer_label
from spin.evaluation.measures import Measures, measure
from spin.evaluation.notes import (
    CEILING_SCORER,
    ceiling_line,
    comparisons_line,
    few_line,
    gap_line,
    protocol_line,
    scorers_line,
    ties_line,
)
from spin.evaluation.results import Results, load_results
from spin.evaluation.table import Table, rows_of
from spin.evaluation.trajectory import steps_of
from spin.params.schema import Params
from spin.runtime.files import read_json, replacing_dir, write_json


def write_tables(params: Params, scores: Path, out: Path, references: Sequence[str] = ()) -> None:
    """Measure every model of params.yaml from `scores`/MODEL and write the folder `out`.

    It gets means.csv, winrates.csv, comparisons.csv, duels.csv, gaps.csv and steps.csv (long, full precision), a .csv, .md
    and .tex of each table (mean, median, std, winrate_over_OVER, head_to_head, gap_closed), comparisons.md, and
    summary.json; with several images a prompt `diversity`, and by category, style or prompt where the set has such.
    `references` are further folders of `scores`, such as the data's own clean renderings: ceilings, not compared.
    Raises `EvaluationError` if scores are missing or the models were not measured alike.
    """
    results = load_results(params, scores, references)
    measures = measure(results, params.tables, params.evaluate.seed, steps_of(params))
    summary = _summary(params, results, measures)
    summary["diversity"] = measure_diversity(scores, results.models, params.tables, params.evaluate.seed)
    with replacing_dir(out) as folder:
        for name, frame in zip(Measures._fields, measures, strict=True):
            frame.to_csv(folder / f"{name}.csv", index=False)
        for table in build_tables(measures, summary):
            (folder / f"{table.name}.csv").write_text(table.to_csv(), encoding="utf-8")
            (folder / f"{table.name}.md").write_text(table.to_markdown(), encoding="utf-8")
            (folder / f"{table.name}.tex").write_text(table.to_latex(), encoding="utf-8")
        text = _comparisons_markdown(measures.comparisons, summary)
        (folder / "comparisons.md").write_text(text, encoding="utf-8")
        write_breakdowns(folder, results, params.tables, summary, scores, params.evaluate.seed)
        write_json(folder / "summary.json", summary)


def read_tables(tables: Path) -> tuple[Measures, dict[str, Any]]:
    """Read back what `write_tables` wrote: the long tables and the summary."""
    frames = [pd.read_csv(tables / f"{name}.csv") for name in Measures._fields]
    return Measures(*frames), read_json(tables / "summary.json")


def read_chosen(tables: Path) -> dict[str, Any]:
    """Read the summary of the prompts that choose the champion: of the set that the summary in `tables` names, beside it."""
    summary = read_json(tables / "summary.json")
    chosen = tables.parent / str(summary["chosen_on"]) / "summary.json"
    return dict(read_json(chosen) if chosen.is_file() else summary)


def build_tables(measures: Measures, summary: dict[str, Any]) -> list[Table]:
    """Lay out mean, median, standard deviation, winning rates, head to head; gap and diversity where there are such."""
    references, ranked = summary["references"], enough(summary["statistics"]["num_prompts"])
    below = [line for line in (protocol_line(summary), scorers_line(summary), few_line(summary)) if line]
    above = [tuple(pair) for pair in summary["above_ceiling"]]
    notes = [*below, ceiling_line(summary)] if above else below
    means, medians = measures.means, measures.means.drop(columns=["mean", "low", "high"])
    medians = medians.rename(columns={"median": "value", "median_low": "low", "median_high": "high"})
    spreads = measures.means.drop(columns=["low", "high"])
    spreads = spreads.rename(columns={"std": "value", "std_low": "low", "std_high": "high"})
    tables = [
        Table(
            "mean", "Mean score", means.rename(columns={"mean": "value"}), references, above, notes, ranked
        ),
        Table("median", "Median score", medians, references, [], below, ranked),
        Table("std", "Standard deviation over prompts", spreads, references, [], below, ranked=False),
    ]
    for over in dict.fromkeys(measures.winrates["over"]):
        rows = measures.winrates[measures.winrates["over"] == over].rename(columns={"win_rate": "value"})
        shown = rows.assign(**{name: 100 * rows[name] for name in ("value", "low", "high")})
        title, lines = f"Winning rate over {model_label(over)} (%)", [*below, ties_line(rows)]
        tables.append(Table(f"winrate_over_{over}", title, shown, references, [], lines, ranked))
    tables.append(head_to_head_table(measures.duels, below))
    for ceiling in dict.fromkeys(measures.gaps["ceiling"]):
        tables.append(_gap_table(measures.gaps, str(ceiling), [*below, gap_line(str(ceiling))], ranked))
    return [*tables, *diversity_table(summary, below)]


def _gap_table(gaps: pd.DataFrame, ceiling: str, notes: list[str], ranked: bool) -> Table:
    """How much of the way from the base to the ceiling each model went, in percent."""
    rows = gaps[gaps["ceiling"] == ceiling].rename(columns={"share": "value"})
    shown = rows.assign(**{name: 100 * rows[name] for name in ("value", "low", "high")})
    title = f"Share of the gap from {model_label('base')} to {model_label(ceiling)} closed (%)"
    return Table("gap_closed", title, shown, [], [], notes, ranked)


def _summary(params: Params, results: Results, measures: Measures) -> dict[str, Any]:
    """Build summary.json: what dvc compares between runs, and what the report reads."""
    # Winning rates over the base, and means.
    mean = measures.means.set_index(["model", "scorer"])["mean"]
    over_base = measures.winrates[measures.winrates["over"] == "base"]
    rates: dict[str, dict[str, float]] = {}
    for row in rows_of(over_base):
        of_model = rates.setdefault(row.model, {})
        of_model[row.scorer] = row.win_rate
        if row.scorer == AVERAGE:
            of_model |= {"low": row.low, "high": row.high}
    means = {
        m: {s: float(mean[m, s]) for s in results.scorers} for m in (*results.models, *results.references)
    }

    # Models above the ceiling have learned to please the judge.
    above = [
        (model, CEILING_SCORER)
        for model in results.models
        if CEILING_SCORER in results.scorers
        and any(
            means[model][CEILING_SCORER] > means[ceiling][CEILING_SCORER] for ceiling in results.references
        )
    ]
    return {
        "iterations": list(params.iterations),
        **_champion(params, measures),
        "win_rate_over_base": {model: rates[model] for model in results.models if model in rates},
        "mean": {model: means[model] for model in results.models},
        "ceiling": {model: means[model] for model in results.references},
        "references": list(results.references),
        "above_ceiling": above,
        "protocol": results.protocol,
        "scorers": results.versions,
        "statistics": {
            "num_prompts": len(results.prompt_ids),
            "num_clusters": len(set(results.clusters)),
            "flagged_prompts": results.flagged,
            "scorers": list(results.versions),
            "average_of": list(params.tables.average_of),
            "bootstrap_samples": params.tables.bootstrap_samples,
            "confidence": params.tables.confidence,
            "ties": "half",
        },
    }


def _champion(params: Params, measures: Measures) -> dict[str, Any]:
    """The champion by these prompts, and what the choice rests on."""
    given = candidates(params)
    decides = bool(enough(int(measures.duels["n"].iloc[0])))
    lost = misaligned(measures.comparisons, measures.means, given) if decides else []
    chosen = choose(measures.duels, given, lost)
    gaps = measures.gaps[(measures.gaps["scorer"] == AVERAGE) & measures.gaps["share"].notna()]
    return {
        "champion": chosen.champion,
        "choice": {**chosen._asdict(), "candidates": given},
        "chosen_on": choosing_set(params),
        "head_to_head": measures.duels.to_dict("records"),
        "gap_closed": gaps.dropna().to_dict("records"),
    }


def _comparisons_markdown(comparisons: pd.DataFrame, summary: dict[str, Any]) -> str:
    """The paired tests as a Markdown table."""
    lines = ["**Differences of means, paired over prompts**", ""]
    lines += [
        "| Model | over | Scorer | Difference | p | p (Holm) | Prompts needed |",
        "|---|---|---|---:|---:|---:|---:|",
    ]
    for row in rows_of(comparisons):
        difference = f"{row.difference:+.4g} [{row.low:.4g}, {row.high:.4g}]"
        needed = f"{row.prompts_needed:.0f}" if math.isfinite(row.prompts_needed) else "none suffice"
        names = f"| {model_label(row.model)} | {model_label(row.over)} | {scorer_label(row.scorer)} "
        lines.append(names + f"| {difference} | {row.p:.2g} | {row.p_holm:.2g} | {needed} |")
    notes = [protocol_line(summary), scorers_line(summary), comparisons_line(comparisons)]
    return "\n".join([*lines, "", *(f"{note}  " for note in notes)]).rstrip() + "\n"
