"""What the figures show is what the tables hold, read back from the drawn figure."""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.container import BarContainer, ErrorbarContainer
from PIL import Image

from spin.evaluation.figures import RING, draw_curves, draw_radar, draw_winrates, radar_reach, styled
from spin.evaluation.gallery import GalleryRow, draw_grid
from spin.evaluation.head_to_head import draw_head_to_head
from spin.evaluation.trajectory import Trajectory, draw_trajectory

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


def test_a_bar_of_the_radar_is_measured_in_the_bases_own_standard_deviations() -> None:
    rows = []
    for scorer, unit in (("pickscore", 1.0), ("hps", 0.01), ("average", 1.0)):
        rows += [
            (model, scorer, 5 + up * unit, unit) for model, up in (("base", 0), ("iter1", 0.5), ("iter2", -9))
        ]
    frame = pd.DataFrame(rows, columns=["model", "scorer", "mean", "std"])
    assert radar_reach(frame) == 1
    (axes,) = draw_radar(frame, COLOURS, []).axes
    radii = [line.get_ydata() for line in axes.lines]
    half = RING + (1 - RING) / 2
    assert np.array(radii) == pytest.approx(np.array([[RING] * 3, [half] * 3, [0] * 3])), (
        "whatever a score's unit"
    )
    assert radar_reach(
        frame.assign(mean=frame["mean"].where(frame["model"] != "iter1", 7.3))
    ) == pytest.approx(230)


def test_an_update_of_ties_alone_has_no_accuracy_rather_than_none_right() -> None:
    frame = pd.DataFrame(
        {"step": [1, 2, 3], "margin": [0.0, 1e-6, -1e-6], "implicit_accuracy": [0.0, 0.7, 0.0]}
    )
    (axes,) = [
        each
        for each in draw_curves({"iter1": frame}, COLOURS).axes
        if each.get_title() == "Implicit accuracy"
    ]
    drawn = axes.lines[0].get_ydata()
    assert np.isnan(drawn[0])
    assert list(drawn[1:]) == [0.7, 0.0]


def as_differences(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The same models with differences to the base and means."""
    means = table[["model", "scorer"]].assign(mean=5.0)
    base = pd.DataFrame({"model": "base", "scorer": list(SCORERS), "mean": 5.0})
    return table.assign(difference=0.1, low=0.0, high=0.2), pd.concat([base, means])


@pytest.mark.parametrize("drawn", ["winrates", "trajectory"])
def test_a_legend_of_many_long_names_stays_inside_the_figure(drawn: str) -> None:
    others = [f"a_published_checkpoint_number_{place}" for place in range(7)]
    colours = COLOURS | dict.fromkeys(others, "#555555")
    table = winrates()
    copied = table[table["model"] == "iter2"]
    table = pd.concat([table, *(copied.assign(model=name) for name in others)])
    with styled():
        figure = (
            draw_winrates(table, colours, [])
            if drawn == "winrates"
            else draw_trajectory(
                *as_differences(table), [Trajectory("SPIN", ("base", "iter1", "iter2"))], colours, []
            )
        )
        figure.draw_without_rendering()
    (legend,) = figure.legends
    assert {text.get_text() for text in legend.get_texts()} >= {name.replace("_", " ") for name in others}
    box, whole = legend.get_window_extent(), figure.bbox
    assert whole.x0 <= box.x0 < box.x1 <= whole.x1
    assert box.y1 <= whole.y1


def test_names_that_stand_side_by_side_do_not_overlap(tmp_path: Path) -> None:
    models = ["base", "diffusion_dpo", "iter3", *(f"spin_iter{number}" for number in (1, 2, 3))]
    Image.new("RGB", (32, 32)).save(tmp_path / "image.png")
    row = GalleryRow("a", "a cat", 0, dict.fromkeys(models, tmp_path / "image.png"))
    pairs = [(model, over) for model in models for over in models if model != over]
    duels = pd.DataFrame(pairs, columns=["model", "over"]).assign(
        win_rate=0.5, low=0.4, high=0.6, decides=False
    )
    with styled():
        figures = [draw_grid([row]), draw_head_to_head(duels)]
        for figure in figures:
            figure.draw_without_rendering()
    texts = [figures[0].texts, [tick.label2 for tick in figures[1].axes[0].xaxis.get_major_ticks()]]
    for named in texts:
        boxes = [text.get_window_extent() for text in named if text.get_text() and text.get_visible()]
        assert len(boxes) >= len(models)
        assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
