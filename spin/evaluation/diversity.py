"""Diversity: how far apart a model's images of one prompt are in CLIP's image space, and whether it fell.

A model that draws the same image from every seed can score high all the same. Where a prompt set has several images a
prompt, scoring measures their mean distance (`spin.rewards.diversity`); here are its mean over prompts and the paired
difference to the base, with intervals. It is no score: it takes no part in the average and in no choice.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from spin.errors import EvaluationError
from spin.evaluation.champion import ALIGNMENT, enough
from spin.evaluation.intervals import mean_intervals
from spin.evaluation.labels import model_label
from spin.evaluation.resampling import cluster_codes, clusters_of, resample
from spin.evaluation.table import Table
from spin.params.evaluation import TableParams
from spin.rewards.names import DIVERSITY
from spin.runtime.files import read_parquet

LEVEL = "base"
"""What a loss is held against: self-play starts there."""
NUMBERS = ("mean", "low", "high", "difference", "difference_low", "difference_high")
"""Of a model; the difference is to `LEVEL`, paired over prompts."""


def measure_diversity(
    scores: Path, models: Sequence[str], tables: TableParams, seed: int
) -> list[dict[str, Any]]:
    """A row per model from `scores`/MODEL: model, n and `NUMBERS`, in the order of the models.

    Over the `n` prompts that have a diversity for every model. The base has no difference and a single cluster of prompts
    no interval: None. Empty where nothing was measured. Raises `EvaluationError` where that is so of some models only.
    """
    frames = {model: read_parquet(scores / model / "scores.parquet") for model in models}
    without = [model for model, frame in frames.items() if DIVERSITY not in frame]
    if len(without) == len(frames):
        return []
    if without:
        raise EvaluationError(
            f"{without[0]} and {next(m for m in frames if m not in without)} cannot be compared: only the scores of one "
            f"have a column {DIVERSITY}; score {without[0]} again."
        )

    # One number per prompt, the same prompts for all models.
    asked = {
        model: frame.drop_duplicates("prompt_id").set_index("prompt_id") for model, frame in frames.items()
    }
    columns = pd.DataFrame({model: frame[DIVERSITY] for model, frame in asked.items()}).dropna().sort_index()
    if columns.empty:
        return []
    first = asked[models[0]].loc[columns.index].reset_index()
    resampled = resample(cluster_codes(clusters_of(first)), tables.bootstrap_samples, seed)

    # Means, and differences to the base.
    values = columns.to_numpy(np.float64)  # (N, models)
    apart = values - columns[[LEVEL]].to_numpy(np.float64)
    means = mean_intervals(values, resampled, tables.confidence)
    differences = mean_intervals(apart, resampled, tables.confidence)
    rows = []
    for place, model in enumerate(columns):
        mean, less = float(values[:, place].mean()), float(apart[:, place].mean())
        low, high = np.clip(means[place], 0, None)  # as the values are
        numbers = mean, low, high, *((less, *differences[place]) if model != LEVEL else 3 * (math.nan,))
        known = [float(number) if math.isfinite(number) else None for number in numbers]
        rows.append({"model": model, "n": len(values), **dict(zip(NUMBERS, known, strict=True))})
    return rows


def diversity_table(summary: dict[str, Any], notes: Sequence[str]) -> list[Table]:
    """The table `diversity` of a summary's rows, bold where diversity fell; empty where nothing was measured."""
    rows = summary.get("diversity", [])
    if not rows:
        return []
    less, bounds = f"less that of {model_label(LEVEL)}", ["value", "low", "high"]
    cells = [
        (row["model"], column, *(row[name] for name in names))
        for column, names in (("Diversity", NUMBERS[:3]), (less, NUMBERS[3:]))
        for row in rows
    ]
    frame = pd.DataFrame(cells, columns=["model", "scorer", *bounds]).astype(dict.fromkeys(bounds, float))
    clip, count = summary["scorers"][ALIGNMENT]["version"], summary["protocol"]["images_per_prompt"]
    line = (
        f"Diversity: mean of 1 - cosine over the pairs of a prompt's {count} images, in the image space of {clip}; of "
        f"{rows[0]['n']} prompts. Neither high nor low is good in itself; bold: the difference to {model_label(LEVEL)} is "
        "below zero with its whole interval, the model draws its images of one prompt more alike."
    )
    bold = [(row["model"], less) for row in rows if has_fallen(row)]
    title = "Diversity of a prompt's images"
    return [Table("diversity", title, frame, [], [], [*notes, line], ranked=False, bold=bold)]


def has_fallen(row: dict[str, Any]) -> bool:
    """Whether prompts enough show a model to be less diverse than the base."""
    high = row["difference_high"]
    return enough(row["n"]) and high is not None and high < 0


def diversity_line(summary: dict[str, Any], name: str) -> list[str]:
    """Say of a model whether its diversity fell, by how much and with which interval, and of which others it did.

    Empty where it is not measured, or on too few prompts.
    """
    rows = {row["model"]: row for row in summary.get("diversity", [])}
    row = rows.get(name)
    if row is None or row["difference_low"] is None or not enough(row["n"]):
        return []
    base, protocol = rows[LEVEL]["mean"], summary["protocol"]
    on = f"{row['n']} {protocol['prompt_set']} prompts, {protocol['images_per_prompt']} images each"
    interval = f"{100 * summary['statistics']['confidence']:g}% interval"
    numbers = (
        f"{row['mean']:.3g} against {base:.3g}, a difference of {row['difference']:+.3g} ({interval} "
        f"{row['difference_low']:+.3g} to {row['difference_high']:+.3g}; {on})"
    )
    share = 100 * -row["difference"] / base if base else 0.0
    own = f"The diversity of {model_label(name)}"
    said = f"{own} did not fall measurably below the base's: {numbers}."
    if has_fallen(row):
        said = f"{own} fell by {share:.0f}% of the base's: {numbers}; it draws a prompt's images more alike."
    others = " and ".join(model_label(other) for other in rows if other != name and has_fallen(rows[other]))
    return [said, *([f"That of {others} fell, by the same measure."] if others else [])]
