"""Categories, prompts and styles add up to the whole, and few prompts get no interval."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from spin.evaluation.tables import read_tables, write_tables
from spin.prompts.named import HPS_STYLES
from tests.evaluation.fake_scores import LEVEL, score_frame, write_run, write_scores
from tests.evaluation.toy_params import params


def with_categories(scores: Path) -> None:
    for model in LEVEL:
        frame = score_frame(model, 24)
        write_scores(scores / model, frame.assign(category=["Animals"] * 8 + ["Arts & Co"] * 16))


def test_categories_add_up_to_the_whole(scores: Path, tmp_path: Path) -> None:
    with_categories(scores)
    write_tables(params(), scores, tmp_path / "tables", ["clean"])
    frame = pd.read_csv(tmp_path / "tables" / "categories.csv").set_index(["category", "model", "scorer"])
    base, iter1 = score_frame("base", 24)[:8], score_frame("iter1", 24)[:8]
    row = frame.loc[("Animals", "iter1", "hps")]
    assert row["mean"] == pytest.approx(iter1["hps"].mean())
    assert row["win_rate"] == pytest.approx((iter1["hps"] > base["hps"]).mean())
    last = score_frame("iter1", 24)["hps"][8:] > score_frame("base", 24)["hps"][8:]
    assert frame.loc[("Arts & Co", "iter1", "hps"), "win_rate"] == pytest.approx(last.mean())
    means = read_tables(tmp_path / "tables")[0].means.set_index(["model", "scorer"])["mean"]
    for scorer in ("clip", "average"):
        parts = frame.xs(("iter1", scorer), level=("model", "scorer"))
        assert np.average(parts["mean"], weights=parts["n"]) == pytest.approx(means["iter1", scorer])
    text = (tmp_path / "tables" / "winrate_over_base_by_category.md").read_text()
    assert "| Model | Animals (8) | Arts & Co (16) |" in text
    assert "Ties count half" in text
    latex = (tmp_path / "tables" / "mean_by_category.tex").read_text()
    assert r"Arts \& Co (16)" in latex


def test_challenges_are_a_breakdown_of_their_own_beside_categories(scores: Path, tmp_path: Path) -> None:
    for model in LEVEL:
        frame = score_frame(model, 24).assign(category=["Animals"] * 8 + ["Arts & Co"] * 16)
        write_scores(scores / model, frame.assign(challenge=["Basic", "Quantity"] * 12))
    write_tables(params(), scores, tmp_path / "tables", ["clean"])
    frame = pd.read_csv(tmp_path / "tables" / "challenges.csv").set_index(["challenge", "model", "scorer"])
    basic = [score_frame(model, 24)["hps"][::2] for model in ("iter1", "base")]
    assert frame.loc[("Basic", "iter1", "hps"), "win_rate"] == pytest.approx((basic[0] > basic[1]).mean())
    assert (
        "| Model | Basic (12) | Quantity (12) |" in (tmp_path / "tables" / "mean_by_challenge.md").read_text()
    )
    assert (tmp_path / "tables" / "mean_by_category.md").is_file()


def test_few_prompts_get_a_column_each_and_no_interval(tmp_path: Path) -> None:
    write_run(tmp_path / "scores", 3)
    write_tables(params(), tmp_path / "scores", tmp_path / "tables")
    text = (tmp_path / "tables" / "prompts_aesthetic.md").read_text()
    assert "| Model | a red circle above blue square number 0 |" in text
    row = next(line for line in text.splitlines() if line.startswith("| SFT |"))
    assert f"{score_frame('sft', 3)['aesthetic'][2]:.3f}" in row
    assert "[" not in row
    assert ",," in (tmp_path / "tables" / "prompts_aesthetic.csv").read_text(), "no bound is made up"


@pytest.mark.slow
def test_the_hps_benchmark_is_reported_by_style(scores: Path, tmp_path: Path) -> None:
    chosen = params(models=["base", "sft", "dpo", "iter1", "iter2", "iter3"])
    for model in LEVEL:
        frame = score_frame(model, 3200)
        write_scores(scores / model, frame.assign(category=np.repeat(HPS_STYLES, 800)), num_prompts=3200)
    write_tables(chosen, scores, tmp_path / "tables")
    long = pd.read_csv(tmp_path / "tables" / "styles_hps_groups.csv").set_index(["model", "style"])
    photo = 100 * score_frame("sft", 3200)["hps"][2400:]
    assert long["mean"]["sft", "photo"] == pytest.approx(photo.mean())
    text = (tmp_path / "tables" / "styles_hps.md").read_text()
    assert "tiny-1, times 100" in text
    assert "Protocol: 3200" in text
