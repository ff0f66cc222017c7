"""Scores by iteration (figure 3 of Yuan et al. 2024, arXiv:2402.10210): what each step of self-play adds, paired over prompts.

Every model answers the same prompts from the same seeds, so what is drawn is the mean difference to the base, and the band
its interval. A band around each model's own mean would hold the spread between prompts too, which all models share, and
be about ten times as wide.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from spin.evaluation.figures import legend_above
from spin.evaluation.labels import AVERAGE, RELEASED, average_last, model_label, scorer_label
from spin.evaluation.table import rows_of
from spin.params.schema import Params


class Trajectory(NamedTuple):
    """A way from the base through its iterations."""

    label: str
    models: tuple[str, ...]
    """The base first."""


def trajectories_of(params: Params) -> list[Trajectory]:
    """The iterations that were trained, and those that were released, if there are such."""
    released = sorted(
        (int(number[1]), name) for name in params.released if (number := RELEASED.fullmatch(name))
    )
    started = {plan.prev for plan in params.iterations.values()}
    ends = [name for name in params.iterations if name not in started]
    found = [
        Trajectory(
            "SPIN by iteration" if len(ends) == 1 else f"SPIN up to {model_label(end)}", _way_to(params, end)
        )
        for end in ends
    ]
    found.append(Trajectory("SPIN-Diffusion, released", ("base", *(name for _, name in released))))
    return [path for path in found if len(path.models) > 1]


def _way_to(params: Params, end: str) -> tuple[str, ...]:
    """From the base to an iteration, along what each started from."""
    way = [end]
    while way[0] != "base":
        way.insert(0, params.iterations[way[0]].prev)
    return tuple(way)


def steps_of(params: Params) -> list[tuple[str, str]]:
    """(iteration, the one before it) along every path: trained ones by what they started from."""
    trained = [(name, plan.prev) for name, plan in params.iterations.items()]
    released = [path.models for path in trajectories_of(params) if path.models[-1] in params.released]
    return trained + [pair for models in released for pair in zip(models[1:], models, strict=False)]


def steps_line(steps: pd.DataFrame, confidence: float) -> str:
    """Say what each step adds to the average score, and whether that is shown."""
    said = []
    for row in rows_of(steps[steps["scorer"] == AVERAGE]):
        shown = "a rise" if row.low > 0 else "a fall" if row.high < 0 else "no change shown"
        said.append(
            f"{model_label(row.model)} over {model_label(row.over)} {row.difference:+.3g} "
            f"({row.low:.3g} to {row.high:.3g}), {shown}"
        )
    if not said:
        return ""
    return f"What each iteration adds to the average score, with {100 * confidence:g}% intervals: {'; '.join(said)}."


def draw_trajectory(
    comparisons: pd.DataFrame,
    means: pd.DataFrame,
    paths: Sequence[Trajectory],
    colours: Mapping[str, str],
    references: Sequence[str],
) -> Figure:
    """A panel per scorer: the mean difference to the base along each path, and of every other model as a level.

    `comparisons` and `means` are those of `Measures`. References were not sampled and have no paired interval.
    """
    scorers = average_last(means["scorer"])
    on_paths = {model for path in paths for model in path.models}
    levels = [model for model in dict.fromkeys(means["model"]) if model not in on_paths]
    longest = max(paths, key=lambda path: len(path.models))
    columns = min(4, len(scorers))
    rows = -(-len(scorers) // columns)
    figure = Figure(figsize=(2.9 * columns, 2.6 * rows + 0.7), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    over_base = comparisons[comparisons["over"] == "base"].set_index(["scorer", "model"])
    mean = means.set_index(["scorer", "model"])["mean"]
    for axes, scorer in zip(panels, scorers, strict=False):
        # Levels: what is on no path.
        for model in levels:
            dots = (0, (1, 1.5)) if model in references else (0, (5, 2))
            level = mean[scorer, model] - mean[scorer, "base"]
            axes.axhline(level, color=colours[model], linewidth=1.6, linestyle=dots)
            if (scorer, model) in over_base.index:
                low, high = over_base.loc[(scorer, model), ["low", "high"]]
                axes.axhspan(low, high, color=colours[model], alpha=0.1, linewidth=0)

        # The paths, each from the base at 0.
        for path in paths:
            _draw_path(axes, path, over_base.loc[[scorer]].droplevel("scorer"), colours)
        numbers = [str(number) for number in range(1, len(longest.models))]
        axes.set_xticks(range(len(longest.models)), ["base", *numbers])
        axes.set(title=f"{scorer_label(scorer)} (base {mean[scorer, 'base']:.3g})", xlabel="iteration")
        axes.grid(axis="y")
    for axes in panels[len(scorers) :]:
        axes.set_axis_off()
    for axes in panels[::columns]:
        axes.set_ylabel("difference to the base")
    legend_above(figure, _handles(paths, levels, colours, references))
    return figure


def _draw_path(axes: Axes, path: Trajectory, differences: pd.DataFrame, colours: Mapping[str, str]) -> None:
    """Points joined by a line, and their intervals as a band that begins at the base."""
    steps = differences.reindex(path.models)
    steps.loc["base", ["difference", "low", "high"]] = 0.0  # where the way begins
    value, low, high = (steps[name].to_numpy(float) for name in ("difference", "low", "high"))
    places, colour = range(len(value)), colours[path.models[-1]]
    axes.fill_between(places, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.plot(places, value, color=colour, linewidth=2)
    axes.scatter(places, value, c=[colours[model] for model in path.models], s=40, zorder=3)


def _handles(
    paths: Sequence[Trajectory], levels: Sequence[str], colours: Mapping[str, str], references: Sequence[str]
) -> list[Line2D]:
    drawn = [
        Line2D([], [], color=colours[path.models[-1]], marker="o", linewidth=2, label=path.label)
        for path in paths
    ]
    for model in levels:
        dots = (0, (1, 1.5)) if model in references else (0, (5, 2))
        label = model_label(model) + (" (ceiling)" if model in references else "")
        drawn.append(Line2D([], [], color=colours[model], linewidth=1.6, linestyle=dots, label=label))
    return drawn
