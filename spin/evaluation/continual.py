"""The figure and table of going on inside an iteration against moving to the next one, paired over prompts.

All points of both paths draw the same prompts from the same seeds. What is shown is how far a point is from the common
start, and how far one path is from the other after as many updates; the intervals are of those differences.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from spin.errors import EvaluationError
from spin.evaluation.champion import FEWEST, enough
from spin.evaluation.intervals import mean_intervals
from spin.evaluation.labels import AVERAGE, average_last, scorer_label
from spin.evaluation.resampling import Floats, cluster_codes, clusters_of, resample
from spin.evaluation.statistics import Reduction, reduce_images
from spin.evaluation.table import rows_of
from spin.params.evaluation import TableParams

PATHS = {
    "stay": ("going on inside the iteration", "#c8553d"),
    "switch": ("moving to the next one", "#0e578b"),
}
DIFFERENCE = ["difference", "low", "high"]


def curve_of(
    scores: pd.DataFrame,
    scorers: Sequence[str],
    tables: TableParams,
    seed: int,
    reduction: Reduction = "mean",
) -> pd.DataFrame:
    """Every point of both paths: path, step, epochs, scorer, n (prompts), mean, and difference, low, high against the common start.

    `scores` has a row per image with the columns path (start, stay, switch), step, epochs, prompt_id, flagged and a
    column per scorer, and perhaps cluster. A prompt with a flagged image at any point is left out at all of them.
    Several images of a prompt become one number by `reduction`, as in the tables.
    Path `between` has in place of a mean's distance from the start that of `switch` from `stay` after as many updates; its
    epochs are those of `switch`.
    """
    flagged = set(scores.loc[scores["flagged"], "prompt_id"])
    kept = scores[~scores["prompt_id"].isin(flagged)]
    if kept.empty:
        raise EvaluationError(
            "the comparison needs a prompt without flagged images, all have one at some point; look at the images."
        )
    asked = kept.drop_duplicates("prompt_id").sort_values("prompt_id")
    resampled = resample(cluster_codes(clusters_of(asked)), tables.bootstrap_samples, seed)
    values = {
        (str(path), int(str(step))): _by_prompt(point, scorers, tables.average_of, reduction)
        for (path, step), point in kept.groupby(["path", "step"])
    }
    epochs = dict(zip(zip(kept["path"], kept["step"], strict=True), kept["epochs"], strict=True))
    steps = sorted(step for path, step in values if path == "stay")
    epochs |= {("between", step): epochs["switch", step] for step in steps}
    apart = {("start", 0): (values["start", 0], np.zeros_like(values["start", 0]))}
    apart |= {
        (path, step): (values[path, step], values[path, step] - values["start", 0])
        for path in PATHS
        for step in steps
    }
    apart |= {
        ("between", step): (values["switch", step], values["switch", step] - values["stay", step])
        for step in steps
    }
    rows = []
    for (path, step), (points, differences) in apart.items():
        intervals = mean_intervals(differences, resampled, tables.confidence)
        for column, scorer in enumerate((*scorers, AVERAGE)):
            numbers = points[:, column].mean(), differences[:, column].mean(), *intervals[column]
            rows.append((path, step, epochs[path, step], scorer, len(asked), *numbers))
    return pd.DataFrame(rows, columns=["path", "step", "epochs", "scorer", "n", "mean", *DIFFERENCE])


def _by_prompt(
    point: pd.DataFrame, scorers: Sequence[str], average_of: Sequence[str], reduction: Reduction
) -> Floats:
    """(prompts, scorers + average), prompts in order of their ids."""
    frame = point.sort_values("prompt_id", kind="stable")[list(scorers)].to_numpy(np.float64)
    averaged = [scorers.index(name) for name in average_of]
    images = frame.reshape(point["prompt_id"].nunique(), -1, len(scorers))
    values = reduce_images(images, reduction, averaged)
    return np.column_stack([values, values[:, averaged].mean(1)])


def draw_curve(curve: pd.DataFrame) -> Figure:
    """A panel per scorer: its difference to the start against epochs since the finished iteration, with its interval."""
    scorers = average_last(curve["scorer"])
    columns = min(4, len(scorers))
    rows = -(-len(scorers) // columns)
    figure = Figure(figsize=(2.9 * columns, 2.6 * rows + 0.5), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, scorer in zip(panels, scorers, strict=False):
        for path, (label, colour) in PATHS.items():
            mine = curve["path"].isin((path, "start")) & (curve["scorer"] == scorer)
            points = curve[mine].sort_values("step")
            axes.fill_between(
                points["epochs"], points["low"], points["high"], color=colour, alpha=0.15, linewidth=0
            )
            axes.plot(
                points["epochs"], points["difference"], color=colour, marker="o", markersize=4, label=label
            )
        axes.axhline(0, color="#222222", linewidth=1, linestyle=(0, (4, 3)))
        axes.set(title=scorer_label(scorer), xlabel="epochs")
        axes.grid(axis="y")
    for axes in panels[len(scorers) :]:
        axes.set_axis_off()
    for axes in panels[::columns]:
        axes.set_ylabel("difference to the start")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper left", ncols=2)
    return figure


def curve_line(curve: pd.DataFrame, confidence: float) -> str:
    """Say at which points moving on is better than going on, or worse, by the average score."""
    rows = list(
        rows_of(curve[(curve["path"] == "between") & (curve["scorer"] == AVERAGE)].sort_values("step"))
    )
    points = "; ".join(
        f"{row.difference:+.3g} ({row.low:.3g} to {row.high:.3g}) after {row.step}" for row in rows
    )
    said = f"Average score of moving to the next iteration above that of going on, by updates ({100 * confidence:g}% intervals): {points}. "
    prompts = int(curve["n"].iloc[0])
    if not enough(prompts):
        return said + f"{prompts} prompts decide nothing; {FEWEST} are the fewest that may."
    better, worse = sum(row.low > 0 for row in rows), sum(row.high < 0 for row in rows)
    told = f"Moving is better at {better} of {len(rows)} points and worse at {worse}"
    return said + told + ("; the others are not told apart." if better + worse < len(rows) else ".")


def curve_table(curve: pd.DataFrame, protocol: dict[str, Any], tables: TableParams) -> str:
    """The same as Markdown: a row per path and point, a column per scorer, each the difference with its interval."""
    names = {
        "start": "the start",
        **{path: label for path, (label, _) in PATHS.items()},
        "between": "moving over going on",
    }
    shown = curve.assign(
        text=[
            f"{row.mean:.4g}"
            if row.path == "start"
            else f"{row.difference:+.3g} [{row.low:.3g}, {row.high:.3g}]"
            for row in rows_of(curve)
        ],
        scorer=curve["scorer"].map(scorer_label),
    )
    wide = shown.pivot(index=["path", "step", "epochs"], columns="scorer", values="text")
    wide = wide[list(dict.fromkeys(shown["scorer"]))].reindex(list(names), level="path").reset_index()
    wide["path"] = wide["path"].map(names)
    prompts = int(curve["n"].iloc[0])
    note = (
        f"The start's means; then differences of means, to the start or between the paths, with {100 * tables.confidence:g}% "
        f"intervals, paired over {prompts} {protocol['prompt_set']} prompts, {protocol['images_per_prompt']} image(s) each, "
        f"seed {protocol['seed']}, {protocol['scheduler']} {protocol['num_inference_steps']} steps, guidance "
        f"{protocol['guidance_scale']}."
    )
    line = curve_line(curve, tables.confidence)
    return f"{wide.to_markdown(index=False)}\n\n{note}\n\n{line}\n"
