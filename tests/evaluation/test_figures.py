"""What the figures show is what the tables hold, read back from the drawn figure."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.container import BarContainer, ErrorbarContainer

from spin.evaluation.figures import draw_scores, draw_winrates, styled

COLOURS = {"base": "#111111", "iter1": "#222222", "iter2": "#333333", "sft": "#444444"}
SCORERS = ("hps", "average")


def winrates() -> pd.DataFrame:
    """Intervals that are longer below the rate than above it, as near 100 %."""
    rates = {
        ("iter1", "hps"): 0.6,
        ("iter1", "average"): 0.7,
        ("iter2", "hps"): 0.8,
        ("iter2", "average"): 0.9,
    }
    rows = [
        {
            "over": "base",
            "model": model,
            "scorer": scorer,
            "win_rate": rate,
            "low": rate - 0.2,
            "high": rate + 0.05,
        }
        for (model, scorer), rate in rates.items()
    ]
    return pd.DataFrame(rows)


def test_every_bar_is_its_rate_and_its_whiskers_end_at_the_interval() -> None:
    table = winrates()
    figure = draw_winrates(table, COLOURS, [])
    axes: Axes = figure.axes[0]
    bars = [each for each in axes.containers if isinstance(each, BarContainer)]
    whiskers = [each for each in axes.containers if isinstance(each, ErrorbarContainer)]
    for model, bar, whisker in zip(("iter1", "iter2"), bars, whiskers, strict=True):
        of_model = table[table["model"] == model].set_index("scorer").loc[list(SCORERS)]
        assert [patch.get_height() for patch in bar] == pytest.approx(list(100 * of_model["win_rate"]))
        (lines,) = whisker[2]
        ends = [segment[:, 1] for segment in lines.get_segments()]
        assert np.array(ends) == pytest.approx(100 * of_model[["low", "high"]].to_numpy(float))


def means() -> pd.DataFrame:
    """A score that rises from the base on, and one that falls; the rows in no order."""
    rows = []
    for scorer, slope in zip(SCORERS, (1.0, -2.0), strict=True):
        for place, model in enumerate(("base", "iter1", "iter2")):
            mean = 5.0 + slope * place
            rows.append(
                {"model": model, "scorer": scorer, "mean": mean, "low": mean - 0.3, "high": mean + 0.1}
            )
        rows.append({"model": "sft", "scorer": scorer, "mean": 4.5, "low": 4.0, "high": 5.0})
    return pd.DataFrame(rows).sample(frac=1, random_state=0)


def test_a_score_runs_from_the_base_through_the_iterations_in_their_order_from_left_to_right() -> None:
    figure = draw_scores(means(), ["iter1", "iter2"], COLOURS, [])
    for axes, slope in zip(figure.axes, (1.0, -2.0), strict=True):
        (curve,) = [line for line in axes.lines if len(line.get_xdata()) == 3]
        assert list(curve.get_xdata()) == [0, 1, 2]
        assert list(curve.get_ydata()) == pytest.approx([5.0, 5.0 + slope, 5.0 + 2 * slope])
        points = axes.collections[-1].get_offsets()
        assert np.array(points) == pytest.approx(np.array([[0, 5], [1, 5 + slope], [2, 5 + 2 * slope]]))
        assert [label.get_text() for label in axes.get_xticklabels()] == ["base", "1", "2"]
        band = axes.collections[0].get_paths()[0].vertices
        assert band[:, 1].min() == pytest.approx(min(5.0, 5.0 + 2 * slope) - 0.3)
        assert band[:, 1].max() == pytest.approx(max(5.0, 5.0 + 2 * slope) + 0.1)


@pytest.mark.parametrize("drawn", ["winrates", "scores"])
def test_a_legend_of_many_long_names_stays_inside_the_figure(drawn: str) -> None:
    others = [f"a_published_checkpoint_number_{place}" for place in range(7)]
    colours = COLOURS | dict.fromkeys(others, "#555555")
    table = winrates() if drawn == "winrates" else means()
    copied = table[table["model"] == "iter2"]
    table = pd.concat([table, *(copied.assign(model=name) for name in others)])
    with styled():
        figure = (
            draw_winrates(table, colours, [])
            if drawn == "winrates"
            else draw_scores(table, ["iter1", "iter2"], colours, [])
        )
        figure.draw_without_rendering()
    (legend,) = figure.legends
    assert {text.get_text() for text in legend.get_texts()} >= {name.replace("_", " ") for name in others}
    box, whole = legend.get_window_extent(), figure.bbox
    assert whole.x0 <= box.x0 < box.x1 <= whole.x1
    assert box.y1 <= whole.y1
