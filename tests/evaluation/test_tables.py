"""Tables: numbers agree with a direct computation, and do not depend on accidents."""

from pathlib import Path

import pytest

from spin.evaluation.results import load_results
from spin.evaluation.tables import read_tables, write_tables
from spin.runtime.files import read_json
from tests.evaluation.fake_scores import LEVEL, score_frame, write_run, write_scores
from tests.evaluation.toy_params import params


def test_every_promised_file_is_written(scores: Path, tmp_path: Path) -> None:
    write_tables(params(), scores, tmp_path / "tables", ["clean"])
    tables = ("mean", "median", "std", "winrate_over_base", "winrate_over_dpo", "head_to_head", "gap_closed")
    expected = {f"{name}.{end}" for name in tables for end in ("csv", "md", "tex")}
    expected |= {
        "means.csv",
        "winrates.csv",
        "comparisons.csv",
        "duels.csv",
        "gaps.csv",
        "steps.csv",
        "comparisons.md",
        "summary.json",
        "breakdowns.json",
    }
    assert {path.name for path in (tmp_path / "tables").iterdir()} == expected


def test_numbers_agree_with_a_direct_computation(scores: Path, tmp_path: Path) -> None:
    write_tables(params(), scores, tmp_path / "tables", [])
    measures, summary = read_tables(tmp_path / "tables")
    base, iter1 = score_frame("base", 24), score_frame("iter1", 24)
    won = measures.winrates.set_index(["over", "model", "scorer"])["win_rate"]
    four = ["pickscore", "hps", "image_reward", "aesthetic"]
    assert won["base", "iter1", "hps"] == pytest.approx((iter1["hps"] > base["hps"]).mean())
    assert won["base", "iter1", "average"] == pytest.approx((iter1[four] > base[four]).to_numpy().mean())
    means = measures.means.set_index(["model", "scorer"])
    assert means["mean"]["iter1", "average"] == pytest.approx(iter1[four].to_numpy().mean())
    assert means["median"]["iter1", "clip"] == pytest.approx(iter1["clip"].median())
    assert summary["mean"]["iter1"]["clip"] == pytest.approx(iter1["clip"].mean())
    assert summary["win_rate_over_base"]["iter1"]["average"] == won["base", "iter1", "average"]


def test_intervals_hold_their_value_and_winning_rates_mirror_each_other(scores: Path, tmp_path: Path) -> None:
    write_tables(params(), scores, tmp_path / "tables", ["clean"])
    measures, _ = read_tables(tmp_path / "tables")
    for frame, value in ((measures.means, "mean"), (measures.winrates, "win_rate")):
        assert (frame["low"] <= frame[value]).all()
        assert (frame[value] <= frame["high"]).all()
    rows = measures.winrates.set_index(["over", "model", "scorer"])
    for scorer in ("pickscore", "oracle_attributes", "average"):
        one, other = rows.loc[("base", "dpo", scorer)], rows.loc[("dpo", "base", scorer)]
        assert one["win_rate"] + other["win_rate"] == pytest.approx(1)
        assert one["ties"] == other["ties"]


def test_tables_do_not_depend_on_the_order_in_which_images_were_scored(scores: Path, tmp_path: Path) -> None:
    write_tables(params(), scores, tmp_path / "one", ["clean"])
    for model in LEVEL:
        frame = score_frame(model, 24).sample(frac=1, random_state=3)
        write_scores(scores / model, frame)
    write_tables(params(), scores, tmp_path / "two", ["clean"])
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name


def test_champion_is_the_iteration_that_wins_over_the_others(scores: Path, tmp_path: Path) -> None:
    write_scores(scores / "iter2", score_frame("clean", 24).assign(pickscore=99.0, hps=99.0, aesthetic=99.0))
    write_tables(params(), scores, tmp_path / "tables")
    assert read_json(tmp_path / "tables" / "summary.json")["champion"] == "iter2"


def test_a_prompt_flagged_for_one_model_is_left_out_of_all_and_counted(scores: Path, tmp_path: Path) -> None:
    frame = score_frame("dpo", 24)
    write_scores(scores / "dpo", frame.assign(flagged=frame["prompt_id"] == "test-00007"))
    results = load_results(params(), scores)
    assert results.flagged == 1
    assert "test-00007" not in results.prompt_ids
    assert results.scores.shape == (6, 23, 8)
    write_tables(params(), scores, tmp_path / "tables")
    assert "1 more prompts with a flagged image" in (tmp_path / "tables" / "mean.md").read_text()


def test_several_images_are_reduced_as_params_say(tmp_path: Path) -> None:
    write_run(tmp_path, 6, num_images=3)
    results = load_results(params(images_per_prompt=3, reduction="best"), tmp_path)
    images = score_frame("sft", 6, 3).iloc[:3]  # the first prompt's
    best = images[["pickscore", "hps", "image_reward", "aesthetic"]].mean(axis=1).idxmax()
    assert results.of("sft")[0, 4] == images["clip"][best]
    mean = load_results(params(images_per_prompt=3), tmp_path)
    assert mean.of("sft")[0, 4] == pytest.approx(images["clip"].mean())


def test_the_spread_is_shown_with_its_interval_and_nobody_wins_it(scores: Path, tmp_path: Path) -> None:
    write_tables(params(), scores, tmp_path / "tables")
    means = read_tables(tmp_path / "tables")[0].means.set_index(["model", "scorer"])
    row = means.loc[("iter1", "pickscore")]
    assert row["std"] == pytest.approx(score_frame("iter1", 24)["pickscore"].std())
    assert row["std_low"] < row["std"] < row["std_high"]
    text = (tmp_path / "tables" / "std.md").read_text()
    assert "Standard deviation over prompts" in text
    assert "**" not in text.split("\n", 1)[1]
    assert "<u>" not in text
