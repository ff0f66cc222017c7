"""Every model against every other: the table and the figure of the average winning rates that choose the champion."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from spin.evaluation.labels import model_label, narrow_label
from spin.evaluation.table import Table, rows_of

REACH = 45
"""Percent from one half at which the colours of the figure end: rates of 95 and 100 look alike."""


def head_to_head_table(duels: pd.DataFrame, notes: Sequence[str]) -> Table:
    """Lay out `Measures.duels`: the row's model over the column's, in percent, bold where the row's is the better."""
    models = list(dict.fromkeys(duels["model"]))
    shown = duels.assign(value=duels["win_rate"], scorer=duels["over"].map(model_label))
    shown = shown.assign(**{name: 100 * shown[name] for name in ("value", "low", "high")})
    nobody = pd.DataFrame({"model": models, "scorer": [model_label(model) for model in models]})
    frame = pd.concat([nobody.assign(value=np.nan, low=np.nan, high=np.nan), shown])  # no model meets itself
    won = duels["decides"] & (duels["win_rate"] > 0.5)
    bold = [(row.model, model_label(row.over)) for row in rows_of(duels[won])]
    line = "Average winning rate of the row's model over the column's; bold: the whole interval is above one half."
    columns = ["model", "scorer", "value", "low", "high"]
    title = "Head to head: average winning rate of the row over the column (%)"
    return Table(
        "head_to_head", title, frame[columns], [], [], [*notes, line], ranked=False, bold=tuple(bold)
    )


def draw_head_to_head(duels: pd.DataFrame) -> Figure:
    """A field for each pair: how often the row's model wins over the column's, in bold with a dot where that is decided."""
    models = list(dict.fromkeys(duels["model"]))
    place = {model: index for index, model in enumerate(models)}
    rates = np.full((len(models), len(models)), np.nan)
    for row in rows_of(duels):
        rates[place[row.model], place[row.over]] = 100 * row.win_rate

    side = 1.15 * len(models)
    figure = Figure(figsize=(side + 2.2, 0.72 * side + 1.2), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(rates, cmap="PuOr", vmin=50 - REACH, vmax=50 + REACH, aspect="auto")
    for row in rows_of(duels):
        _write(axes, place[row.over], place[row.model], row)
    axes.set_xticks(range(len(models)), [narrow_label(model) for model in models], fontsize=8.5)
    axes.set_yticks(range(len(models)), [model_label(model) for model in models])
    axes.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
    axes.set_facecolor("#f2f2f2")
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set(ylabel="this model", title="")
    axes.xaxis.set_label_position("top")
    axes.set_xlabel("over this one")
    bar = figure.colorbar(image, ax=axes, shrink=0.8, label="prompts won, %")
    bar.outline.set_visible(False)
    return figure


def _write(axes: Axes, x: int, y: int, row: Any) -> None:
    """The rate and its interval in a field: light on the dark colours at either end."""
    rate, decided = 100 * row.win_rate, bool(row.decides)
    ink = "white" if abs(rate - 50) > 0.6 * REACH else "#222222"
    mark = " \N{BLACK CIRCLE}" if decided else ""
    weight = "bold" if decided else "normal"
    axes.text(x, y - 0.1, f"{rate:.1f}{mark}", ha="center", va="center", color=ink, fontweight=weight)
    interval = f"{100 * row.low:.1f} to {100 * row.high:.1f}"
    axes.text(x, y + 0.22, interval, ha="center", va="center", color=ink, fontsize=7.5)
