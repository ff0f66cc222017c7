"""Every model against every other: the table, the figure and the long table agree."""

from pathlib import Path

import numpy as np
import pytest

from spin.evaluation.head_to_head import draw_head_to_head, head_to_head_table
from spin.evaluation.intervals import ratio_intervals
from spin.evaluation.labels import model_label
from spin.evaluation.measures import Measures, measure
from spin.evaluation.resampling import resample
from spin.evaluation.results import load_results
from spin.evaluation.statistics import outcomes
from tests.evaluation.fake_scores import LEVEL, score_frame, write_scores
from tests.evaluation.toy_params import params

MODELS = ["base", "sft", "dpo", "iter1", "iter2", "iter3"]
FOUR = ["pickscore", "hps", "image_reward", "aesthetic"]


@pytest.fixture
def measures(scores: Path) -> Measures:
    return measure(load_results(params(), scores, ["clean"]), params().tables, seed=0)


def test_every_pair_meets_in_both_directions_and_the_rates_add_to_one(measures: Measures) -> None:
    duels = measures.duels.set_index(["model", "over"])
    assert set(duels.index) == {(a, b) for a in MODELS for b in MODELS if a != b}, "no ceiling takes part"
    frames = {name: score_frame(name, 24)[FOUR].to_numpy() for name in MODELS}
    for model, over in duels.index:
        row, back = duels.loc[(model, over)], duels.loc[(over, model)]
        assert row["win_rate"] == pytest.approx(outcomes(frames[model], frames[over]).mean())
        assert row["win_rate"] + back["win_rate"] == pytest.approx(1)
        assert (row["low"], row["high"]) == pytest.approx((1 - back["high"], 1 - back["low"]))
        assert row["decides"] == back["decides"] == (not row["low"] <= 0.5 <= row["high"])


def test_the_rates_over_the_base_are_those_of_its_own_table(measures: Measures) -> None:
    rates = measures.winrates.query("over == 'base' and scorer == 'average'").set_index("model")
    duels = measures.duels.query("over == 'base'").set_index("model")
    for name in MODELS[1:]:
        for column in ("win_rate", "low", "high"):
            assert duels[column][name] == pytest.approx(rates[column][name])


def test_the_table_is_bold_where_the_row_is_better_and_empty_on_the_diagonal(measures: Measures) -> None:
    table = head_to_head_table(measures.duels, ["Note."])
    lines = table.to_markdown().splitlines()
    assert lines[2] == "| Model | " + " | ".join(map(model_label, MODELS)) + " |"
    rows = {line.split(" | ")[0].removeprefix("| "): line.split(" | ")[1:] for line in lines[4:10]}
    duels = measures.duels.set_index(["model", "over"])
    for model in MODELS:
        for over, cell in zip(MODELS, rows[model_label(model)], strict=True):
            if model == over:
                assert cell.strip(" |") == ""
                continue
            row = duels.loc[(model, over)]
            assert cell.strip("* ").startswith(f"{100 * row['win_rate']:.1f}")
            assert cell.startswith("**") == (row["decides"] and row["win_rate"] > 0.5)
    assert r"\textbf{" in table.to_latex()
    assert "base,,,," in table.to_csv()


def test_the_figure_shows_each_rate_with_its_interval_and_marks_what_is_decided(measures: Measures) -> None:
    axes = draw_head_to_head(measures.duels).axes[0]
    rates = axes.images[0].get_array()
    written = {(round(t.get_position()[0]), round(t.get_position()[1] - 0.05)): [] for t in axes.texts}
    for text in axes.texts:
        x, y = text.get_position()
        written[round(x), round(y - 0.05)].append(text.get_text())
    assert rates is not None
    for row in measures.duels.itertuples():
        y, x = MODELS.index(str(row.model)), MODELS.index(str(row.over))
        assert float(rates[y, x]) == pytest.approx(100 * row.win_rate)
        rate, interval = written[x, y]
        assert rate == f"{100 * row.win_rate:.1f}" + (" \N{BLACK CIRCLE}" if row.decides else "")
        assert interval == f"{100 * row.low:.1f} to {100 * row.high:.1f}"
    assert np.ma.getmaskarray(rates).diagonal().all() or np.isnan(np.asarray(rates, float).diagonal()).all()


def test_the_share_of_the_gap_agrees_with_a_direct_computation_and_needs_a_gap(scores: Path) -> None:
    base = score_frame("base", 24)
    write_scores(scores / "clean", score_frame("clean", 24).assign(clip=base["clip"] - 0.1))
    gaps = measure(load_results(params(), scores, ["clean"]), params().tables, seed=0).gaps
    rows = gaps.set_index(["model", "scorer"])
    means = {name: score_frame(name, 24)["hps"].mean() for name in ("base", "iter2", "clean")}
    expected = (means["iter2"] - means["base"]) / (means["clean"] - means["base"])
    row = rows.loc[("iter2", "hps")]
    assert row["share"] == pytest.approx(expected)
    frames = {name: score_frame(name, 24)[["hps"]].to_numpy() for name in means}
    parts = (frames[name] - frames["base"] for name in ("iter2", "clean"))
    (interval,) = ratio_intervals(*parts, resample(np.arange(24), 200, seed=0), 0.95)
    assert (row["low"], row["high"]) == pytest.approx(interval)
    assert row["low"] < expected < row["high"]
    assert rows.loc[("iter2", "clip"), ["share", "low", "high"]].isna().all(), (
        "the ceiling is below the base there"
    )
    assert "base" not in set(gaps["model"])


def test_clusters_widen_what_is_said_of_prompts_that_share_something(scores: Path) -> None:
    alone = measure(load_results(params(), scores), params().tables, seed=0)
    rng = np.random.default_rng(0)
    shared = {name: rng.normal(size=6) for name in LEVEL}
    for name in MODELS:
        frame = score_frame(name, 24)
        clusters = [row // 4 for row in range(24)]
        for scorer in FOUR:
            frame[scorer] += 2 * frame[scorer].std() * shared[name][clusters]
        write_scores(scores / name, frame)
        write_scores(scores.parent / "together" / name, frame.assign(cluster=[f"c{c}" for c in clusters]))
    apart = measure(load_results(params(), scores), params().tables, seed=0)
    results = load_results(params(), scores.parent / "together")
    together = measure(results, params().tables, seed=0)
    assert len(set(results.clusters)) == 6
    for frame, columns in (("means", ("low", "high")), ("duels", ("low", "high"))):
        wide, narrow = getattr(together, frame), getattr(apart, frame)
        ratio = (wide[columns[1]] - wide[columns[0]]) / (narrow[columns[1]] - narrow[columns[0]])
        assert ratio.median() > 1.5, frame
    assert together.comparisons["p"].median() > apart.comparisons["p"].median()
    assert alone.duels["n"].iloc[0] == together.duels["n"].iloc[0] == 24
