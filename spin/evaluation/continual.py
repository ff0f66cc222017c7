"""The figure and table of going on inside an iteration against moving to the next one."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from spin.evaluation.intervals import mean_intervals
from spin.evaluation.labels import AVERAGE, scorer_label
from spin.evaluation.resampling import cluster_codes, clusters_of, resample
from spin.params.evaluation import TableParams

PATHS = {
    "stay": ("going on inside the iteration", "#c8553d"),
    "switch": ("moving to the next one", "#0e578b"),
}


def curve_of(scores: pd.DataFrame, scorers: Sequence[str], tables: TableParams, seed: int) -> pd.DataFrame:
    """Mean and interval over prompts at every point of both paths, which share the start.

    `scores` has a row per image with the columns path (start, stay, switch), step, epochs, prompt_id, flagged and a
    column per scorer, and perhaps cluster. A prompt with a flagged image at any point is left out at all of them.
    """
    flagged = set(scores.loc[scores["flagged"], "prompt_id"])
    kept = scores[~scores["prompt_id"].isin(flagged)]
    names = [*scorers, AVERAGE]
    rows = []
    for path in PATHS:
        of_path = kept[kept["path"].isin((path, "start"))]
        for (step, epochs), point in of_path.groupby(["step", "epochs"]):
            per_prompt = point.groupby("prompt_id")[list(scorers)].mean().sort_index()
            values = np.column_stack([per_prompt, per_prompt[tables.average_of].mean(axis=1)])
            together = clusters_of(point.sort_values("prompt_id").drop_duplicates("prompt_id"))
            resampled = resample(cluster_codes(together), tables.bootstrap_samples, seed)
            intervals = mean_intervals(values, resampled, tables.confidence)
            for column, scorer in enumerate(names):
                rows.append((path, step, epochs, scorer, values[:, column].mean(), *intervals[column]))
    return pd.DataFrame(rows, columns=["path", "step", "epochs", "scorer", "mean", "low", "high"])


def draw_curve(curve: pd.DataFrame) -> Figure:
    """A panel per scorer: its mean against epochs since the finished iteration, with its interval."""
    scorers = list(dict.fromkeys(curve["scorer"]))
    columns = min(4, len(scorers))
    rows = -(-len(scorers) // columns)
    figure = Figure(figsize=(2.9 * columns, 2.6 * rows + 0.5), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, scorer in zip(panels, scorers, strict=False):
        for path, (label, colour) in PATHS.items():
            points = curve[(curve["path"] == path) & (curve["scorer"] == scorer)].sort_values("step")
            axes.fill_between(
                points["epochs"], points["low"], points["high"], color=colour, alpha=0.15, linewidth=0
            )
            axes.plot(points["epochs"], points["mean"], color=colour, marker="o", markersize=4, label=label)
        axes.set(title=scorer_label(scorer), xlabel="epochs")
        axes.grid(axis="y")
    for axes in panels[len(scorers) :]:
        axes.set_axis_off()
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper left", ncols=2)
    return figure


def curve_table(curve: pd.DataFrame, protocol: dict[str, Any], tables: TableParams) -> str:
    """The same as Markdown: a row per path and point, a column per scorer."""
    shown = curve.assign(
        text=[f"{row.mean:.4g} [{row.low:.4g}, {row.high:.4g}]" for row in curve.itertuples(name="Row")],
        path=curve["path"].map(lambda path: PATHS[path][0]),
        scorer=curve["scorer"].map(scorer_label),
    )
    wide = shown.pivot(index=["path", "step", "epochs"], columns="scorer", values="text")
    wide = wide[list(dict.fromkeys(shown["scorer"]))].reset_index()
    drawn = f"{protocol['num_prompts']} {protocol['prompt_set']} prompts, {protocol['images_per_prompt']} image(s) each"
    note = (
        f"Means with {100 * tables.confidence:g}% bootstrap intervals over prompts; {drawn}, seed {protocol['seed']}, "
        f"{protocol['scheduler']} {protocol['num_inference_steps']} steps, guidance {protocol['guidance_scale']}."
    )
    return f"{wide.to_markdown(index=False)}\n\n{note}\n"
