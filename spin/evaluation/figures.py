"""The figures of a run, drawn from its long tables and training curves; each is saved as PNG and SVG."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from spin.evaluation.labels import AVERAGE, model_label, scorer_label

STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.8,
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "xtick.labelcolor": "#222222",
    "ytick.labelcolor": "#222222",
    "legend.frameon": False,
    "svg.hashsalt": "spin-diffusion",  # the same data gives the same bytes
}
CURVES = {
    "loss": "Loss of SPIN and DPO (log 2 at the start)",
    "sft_loss": "Loss of SFT",
    "implicit_accuracy": "Implicit accuracy",
    "margin": "Margin",
    "error_real_change": "Error on real images, change",
    "error_gen_change": "Error on opponents (DPO: losers), change",
    "grad_norm": "Gradient norm before clipping",
    "learning_rate": "Learning rate",
}
LEVELS = {"loss": float(np.log(2)), "implicit_accuracy": 0.5, "margin": 0.0, "error_real_change": 0.0}
LEVELS["error_gen_change"] = 0.0
CHARACTER_WIDTH, HANDLE_WIDTH = 0.085, 0.67
"""Inches that a character of a legend and its sign, with the space around it, take at most at this size of type."""


def save_figure(figure: Figure, stem: Path) -> None:
    """Write `stem`.png at 160 dots per inch and `stem`.svg, without dates in them."""
    figure.savefig(stem.with_suffix(".png"), dpi=160, facecolor="white")
    figure.savefig(stem.with_suffix(".svg"), facecolor="white", metadata={"Date": None})


def styled() -> Any:
    """Return the context in which figures are drawn and saved."""
    return mpl.rc_context(STYLE)


def draw_winrates(winrates: pd.DataFrame, colours: dict[str, str], references: Sequence[str]) -> Figure:
    """Bars of winning rates with their intervals, one panel per baseline, one group per scorer."""
    overs = list(dict.fromkeys(winrates["over"]))
    scorers = _average_last(winrates["scorer"])
    figure = Figure(figsize=(11, 3.5 * len(overs) + 0.5), layout="constrained")
    for axes, over in zip(figure.subplots(len(overs), squeeze=False)[:, 0], overs, strict=True):
        rows = winrates[(winrates["over"] == over) & ~winrates["model"].isin(references)]
        models = list(dict.fromkeys(rows["model"]))
        width = 0.82 / len(models)

        # A group of bars for each scorer, a bar for each model.
        for offset, model in enumerate(models):
            of_model = rows[rows["model"] == model].set_index("scorer").loc[scorers]
            rate, low, high = (100 * of_model[name].to_numpy(float) for name in ("win_rate", "low", "high"))
            x = np.arange(len(scorers)) + (offset - (len(models) - 1) / 2) * width
            axes.bar(x, rate, 0.92 * width, color=colours[model])
            axes.errorbar(x, rate, [rate - low, high - rate], fmt="none", ecolor="#222222", elinewidth=1)

        # Above the dashed line a model wins more often than it loses.
        axes.axhline(50, color="#222222", linewidth=1, linestyle=(0, (4, 3)))
        axes.axvspan(len(scorers) - 1.5, len(scorers) - 0.5, color="#f2f2f2", zorder=0)
        axes.set(ylim=(0, 100), xlim=(-0.55, len(scorers) - 0.5), ylabel="prompts won, %")
        axes.set_xticks(range(len(scorers)), [scorer_label(scorer) for scorer in scorers])
        axes.grid(axis="y")
        axes.set_title(f"Winning rate over {model_label(over)}")
    shown = [model for model in colours if model in set(winrates["model"]) and model not in references]
    handles = [Patch(color=colours[model], label=model_label(model)) for model in shown]
    _legend_above(figure, handles)
    return figure


def draw_scores(
    means: pd.DataFrame, iterations: Sequence[str], colours: dict[str, str], references: Sequence[str]
) -> Figure:
    """Mean score against the iteration, one panel per scorer; all other models are horizontal levels."""
    scorers = _average_last(means["scorer"])
    path = ["base", *iterations]
    levels = [model for model in dict.fromkeys(means["model"]) if model not in path]
    columns = min(4, len(scorers))
    rows = -(-len(scorers) // columns)
    figure = Figure(figsize=(2.9 * columns, 2.6 * rows + 0.5), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, scorer in zip(panels, scorers, strict=False):
        of_scorer = means[means["scorer"] == scorer].set_index("model")

        # Levels: what is no iteration.
        for model in levels:
            dots = (0, (1, 1.5)) if model in references else (0, (5, 2))
            axes.axhline(of_scorer["mean"][model], color=colours[model], linewidth=1.8, linestyle=dots)

        # The path from the base through the iterations.
        steps = of_scorer.loc[path]
        mean, low, high = (steps[name].to_numpy(float) for name in ("mean", "low", "high"))
        axes.fill_between(range(len(path)), low, high, color=colours[iterations[-1]], alpha=0.15, linewidth=0)
        axes.plot(range(len(path)), mean, color=colours[iterations[-1]], linewidth=2)
        axes.scatter(range(len(path)), mean, c=[colours[model] for model in path], s=40, zorder=3)
        axes.set_xticks(range(len(path)), ["base", *map(str, range(1, len(path)))])
        axes.set_title(scorer_label(scorer))
        axes.grid(axis="y")
    for axes in panels[len(scorers) :]:
        axes.set_axis_off()
    handles = [
        Line2D([], [], color=colours[iterations[-1]], marker="o", linewidth=2, label="SPIN by iteration")
    ]
    for model in levels:
        dots = (0, (1, 1.5)) if model in references else (0, (5, 2))
        label = model_label(model) + (" (ceiling)" if model in references else "")
        handles.append(Line2D([], [], color=colours[model], linewidth=1.8, linestyle=dots, label=label))
    _legend_above(figure, handles)
    return figure


def draw_radar(means: pd.DataFrame, colours: dict[str, str], references: Sequence[str]) -> Figure:
    """Mean scores of all models on one axis per scorer, each from the worst model to the best.

    The axes do not begin at zero: they show the order and the relative steps, not the size of differences.
    """
    shown = means[(means["scorer"] != AVERAGE) & ~means["model"].isin(references)]
    scorers = list(dict.fromkeys(shown["scorer"]))
    angles = np.linspace(0, 2 * np.pi, len(scorers), endpoint=False)
    table = shown.pivot(index="model", columns="scorer", values="mean")[scorers]
    worst, best = table.min(), table.max()
    radius = 0.25 + 0.75 * (table - worst) / (best - worst).replace(0, 1)
    figure = Figure(figsize=(8.6, 5.2), layout="constrained")
    axes = figure.add_subplot(projection="polar", theta_offset=np.pi / 2, theta_direction=-1)
    for model in dict.fromkeys(shown["model"]):
        values = radius.loc[model].to_numpy(float)
        closed = np.append(values, values[:1])
        turn = np.append(angles, angles[:1])
        axes.plot(turn, closed, color=colours[model], linewidth=2, label=model_label(model), clip_on=False)
        axes.fill(turn, closed, color=colours[model], alpha=0.05)
    axes.set_xticks(angles, [""] * len(angles))
    for angle, scorer in zip(angles, scorers, strict=True):
        text = f"{scorer_label(scorer)}\n{worst[scorer]:.3g} to {best[scorer]:.3g}"
        side = np.sin(angle).round(3)  # labels grow away from the circle
        axes.text(
            angle, 1.1, text, ha="center" if side == 0 else "left" if side > 0 else "right", va="center"
        )
    axes.set_yticks([0.25, 0.625, 1.0], ["", "", ""])
    axes.set_ylim(0, 1.02)
    axes.spines["polar"].set_visible(False)
    figure.legend(loc="outside right upper")
    return figure


def draw_curves(curves: dict[str, pd.DataFrame], colours: dict[str, str]) -> Figure:
    """Training curves of all stages: every step faintly, their exponential mean on top.

    `curves` maps a stage to its columns; a stage without a column (SFT has no margin) is absent there.
    """
    known = {
        name: frame if "implicit_accuracy" in frame else _as_sft(frame) for name, frame in curves.items()
    }
    names = [name for name in CURVES if any(name in frame for frame in known.values())]
    rows = -(-len(names) // 2)
    figure = Figure(figsize=(11, 2.3 * rows + 0.5), layout="constrained")
    panels = figure.subplots(rows, 2, squeeze=False).ravel()
    for axes, name in zip(panels, names, strict=False):
        for stage, frame in known.items():
            if name in frame:
                _curve(axes, frame["step"], frame[name], colours[stage], smooth=name != "learning_rate")
        if name in LEVELS:
            axes.axhline(LEVELS[name], color="#222222", linewidth=1, linestyle=(0, (4, 3)))
        axes.set_title(CURVES[name])
        axes.grid(axis="y")
        axes.ticklabel_format(axis="y", scilimits=(-3, 4))
    for axes in panels[len(names) :]:
        axes.set_axis_off()
    for axes in panels[max(0, len(names) - 2) : len(names)]:
        axes.set_xlabel("optimizer step")
    handles = [Line2D([], [], color=colours[s], linewidth=2, label=model_label(s)) for s in known]
    _legend_above(figure, handles)
    return figure


def _legend_above(figure: Figure, handles: Sequence[Artist]) -> None:
    """A legend above the panels, in as many lines as the width of the figure asks for."""
    widest = max(len(str(handle.get_label())) for handle in handles)
    columns = int(figure.get_figwidth() // (HANDLE_WIDTH + CHARACTER_WIDTH * widest))
    figure.legend(handles=handles, loc="outside upper left", ncols=max(1, min(columns, len(handles))))


def _curve(
    axes: Axes, step: "pd.Series[Any]", values: "pd.Series[Any]", colour: str, *, smooth: bool
) -> None:
    axes.plot(step, values, color=colour, linewidth=0.8 if smooth else 2, alpha=0.35 if smooth else 1)
    if smooth:
        axes.plot(step, values.ewm(span=max(2, len(values) // 8)).mean(), color=colour, linewidth=2)


def _as_sft(frame: pd.DataFrame) -> pd.DataFrame:
    """SFT's loss is an error and no log-probability: it gets a panel of its own."""
    return frame.rename(columns={"loss": "sft_loss"})


def _average_last(scorers: "pd.Series[Any]") -> list[str]:
    return [*(name for name in dict.fromkeys(scorers) if name != AVERAGE), AVERAGE]
