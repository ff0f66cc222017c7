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

from spin.evaluation.labels import AVERAGE, average_last, model_label, scorer_label

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
RING = 0.3
"""Radius of the radar at which the base lies."""
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
    scorers = average_last(winrates["scorer"])
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
    legend_above(figure, handles)
    return figure


def draw_radar(means: pd.DataFrame, colours: dict[str, str], references: Sequence[str]) -> Figure:
    """How far every model is above the base, an axis per scorer, in standard deviations of the base's scores over prompts.

    One scale for all axes, so that a difference of noise looks like one: the base is a ring at `RING` of the radius, the
    rim is `radar_reach` standard deviations above it, and what is as far below as the centre or further lies there.
    References are left out: a ceiling that is far off would make all models a point.
    """
    means = means[~means["model"].isin(references)]
    table, spread = (
        means[means["scorer"] != AVERAGE].pivot(index="model", columns="scorer", values=name)
        for name in ("mean", "std")
    )
    scorers = [name for name in dict.fromkeys(means["scorer"]) if name != AVERAGE]
    above = ((table - table.loc["base"]) / spread.loc["base"].replace(0, 1))[scorers]
    reach = radar_reach(means)
    radius = (RING + (1 - RING) * above / reach).clip(0, 1)
    turn = np.append(np.linspace(0, 2 * np.pi, len(scorers), endpoint=False), 0)
    figure = Figure(figsize=(8.6, 5.2), layout="constrained")
    axes = figure.add_subplot(projection="polar", theta_offset=np.pi / 2, theta_direction=-1)
    for model in dict.fromkeys(means["model"]):
        values = radius.loc[model].to_numpy(float)
        axes.plot(
            turn,
            np.append(values, values[:1]),
            color=colours[model],
            linewidth=2,
            label=model_label(model),
            clip_on=False,
        )
    axes.set_xticks(turn[:-1], [""] * len(scorers))
    for angle, scorer in zip(turn, scorers, strict=False):
        side = np.sin(angle).round(3)  # labels grow away from the circle
        towards: Any = "center" if side == 0 else "left" if side > 0 else "right"
        axes.text(angle, 1.1, scorer_label(scorer), ha=towards, va="center")
    axes.set_yticks([RING, 1.0], ["", ""])
    axes.set_ylim(0, 1.02)
    axes.spines["polar"].set_visible(False)
    figure.legend(loc="outside right upper")
    return figure


def radar_reach(means: pd.DataFrame, references: Sequence[str] = ()) -> float:
    """Standard deviations of the base's scores at the rim of the radar: 1, or as many half ones as hold all models."""
    rows = means[(means["scorer"] != AVERAGE) & ~means["model"].isin(references)]
    base = rows[rows["model"] == "base"].set_index("scorer")
    spread = base["std"].replace(0, 1)
    above = (rows["mean"] - rows["scorer"].map(base["mean"])) / rows["scorer"].map(spread)
    return max(1.0, float(np.ceil(2 * above.max()) / 2))


def draw_curves(curves: dict[str, pd.DataFrame], colours: dict[str, str]) -> Figure:
    """Training curves of all stages: every step faintly, their exponential mean on top.

    `curves` maps a stage to its columns; a stage without a column (SFT has no margin) is absent there.
    """
    known = {
        name: _without_ties(frame) if "implicit_accuracy" in frame else _as_sft(frame)
        for name, frame in curves.items()
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
    legend_above(figure, handles)
    return figure


def legend_above(figure: Figure, handles: Sequence[Artist]) -> None:
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


def _without_ties(frame: pd.DataFrame) -> pd.DataFrame:
    """Before the first update player and opponent are one, and no pair is told apart: an accuracy of none, not of 0."""
    return frame.assign(implicit_accuracy=frame["implicit_accuracy"].where(frame["margin"] != 0))


def _as_sft(frame: pd.DataFrame) -> pd.DataFrame:
    """SFT's loss is an error and no log-probability: it gets a panel of its own."""
    return frame.rename(columns={"loss": "sft_loss"})
