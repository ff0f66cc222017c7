"""Tables: what cannot be compared is refused, and what is compared does not depend on accidents."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from spin.cli import main
from spin.errors import EvaluationError
from spin.evaluation.findings import findings
from spin.evaluation.labels import model_colours, model_label
from spin.evaluation.measures import measure
from spin.evaluation.results import load_results
from spin.evaluation.table import Table, escape
from spin.evaluation.tables import read_tables, write_tables
from spin.evaluation.terminal import console_table
from spin.params.schema import Params, load_params
from spin.prompts.named import HPS_STYLES
from spin.runtime.files import read_json, write_json
from tests.evaluation.fake_scores import LEVEL, score_frame, write_run, write_scores

PROFILE = Path(__file__).parents[2] / "profiles" / "toy.yaml"


def params(**evaluate: Any) -> Params:
    """The toy profile with a small bootstrap."""
    profile = load_params(PROFILE).model_dump()
    profile["tables"]["bootstrap_samples"] = 200
    profile["evaluate"] |= evaluate
    return Params.model_validate(profile)


@pytest.fixture
def scores(tmp_path: Path) -> Path:
    write_run(tmp_path / "scores", num_prompts=24)
    return tmp_path / "scores"


def edit(path: Path, change: Any) -> None:
    frame = pd.read_parquet(path)
    change(frame)
    frame.to_parquet(path)


def test_every_promised_file_is_written(scores: Path, tmp_path: Path) -> None:
    write_tables(params(), scores, tmp_path / "tables", ["clean"])
    tables = ("mean", "median", "std", "winrate_over_base", "winrate_over_dpo")
    expected = {f"{name}.{end}" for name in tables for end in ("csv", "md", "tex")}
    expected |= {
        "means.csv",
        "winrates.csv",
        "comparisons.csv",
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


def test_champion_is_the_iteration_that_wins_most_on_average(scores: Path, tmp_path: Path) -> None:
    write_scores(scores / "iter2", score_frame("clean", 24).assign(pickscore=99.0, hps=99.0, aesthetic=99.0))
    write_tables(params(), scores, tmp_path / "tables")
    assert read_json(tmp_path / "tables" / "summary.json")["champion"] == "iter2"


@pytest.mark.parametrize(("key", "value"), [("guidance_scale", 7.5), ("seed", 1), ("scheduler", "pndm")])
def test_other_protocols_are_refused_with_what_differs(scores: Path, key: str, value: Any) -> None:
    write_scores(scores / "iter1", score_frame("iter1", 24), **{key: value})
    with pytest.raises(
        EvaluationError, match=rf"iter1 and base cannot .* protocol has {key} {value} for iter1"
    ):
        load_results(params(), scores)


@pytest.mark.parametrize(("key", "value"), [("version", "v2.1"), ("sha256", "cd" * 32)])
def test_other_scorers_are_refused_with_what_differs(scores: Path, key: str, value: str) -> None:
    summary = read_json(scores / "dpo" / "summary.json")
    summary["scorers"]["hps"][key] = value
    write_json(scores / "dpo" / "summary.json", summary)
    with pytest.raises(
        EvaluationError, match=rf"dpo and base cannot .* scorer hps has {key} {value} for dpo"
    ):
        load_results(params(), scores)


def test_other_prompts_texts_and_seeds_are_refused(scores: Path) -> None:
    write_scores(scores / "sft", score_frame("sft", 24).iloc[1:], num_prompts=24)
    with pytest.raises(
        EvaluationError, match="1 prompts were answered by one of them only, such as test-00000"
    ):
        load_results(params(), scores)
    write_scores(scores / "sft", score_frame("sft", 24).assign(prompt="another"))
    with pytest.raises(EvaluationError, match="prompt test-00000 has another text"):
        load_results(params(), scores)
    write_scores(scores / "sft", score_frame("sft", 24).assign(seed=5))
    with pytest.raises(EvaluationError, match="have other seeds"):
        load_results(params(), scores)


def test_missing_torn_and_non_finite_scores_are_refused(scores: Path) -> None:
    path = scores / "iter3" / "scores.parquet"
    edit(path, lambda frame: frame.__setitem__("clip", np.nan))
    with pytest.raises(
        EvaluationError, match="must be finite, got nan by clip for prompt test-00000 of iter3"
    ):
        load_results(params(), scores)
    edit(path, lambda frame: frame.drop(columns="clip", inplace=True))
    with pytest.raises(EvaluationError, match="must have a column clip"):
        load_results(params(), scores)
    path.write_bytes(b"torn")
    with pytest.raises(EvaluationError, match="must be a parquet file"):
        load_results(params(), scores)
    path.unlink()
    with pytest.raises(EvaluationError, match=r"scores of iter3, found no .*; score that model first"):
        load_results(params(), scores)
    write_scores(scores / "iter3", score_frame("iter3", 24))
    (scores / "base" / "summary.json").write_text("{")
    with pytest.raises(EvaluationError, match=r"summary\.json must state protocol and scorers"):
        load_results(params(), scores)


def test_a_prompt_short_of_images_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path, 6, num_images=2)
    for model in LEVEL:
        frame = score_frame(model, 6, 2)
        write_scores(tmp_path / model, frame.iloc[:-1], images_per_prompt=2)
    with pytest.raises(EvaluationError, match="base must have 2 images for every prompt"):
        load_results(params(images_per_prompt=2), tmp_path)


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


def test_a_reference_is_shown_last_but_never_ranked(scores: Path, tmp_path: Path) -> None:
    write_scores(scores / "clean", score_frame("clean", 24).assign(hps=9.0, aesthetic=7.0))
    write_tables(params(), scores, tmp_path / "tables", ["clean"])
    lines = (tmp_path / "tables" / "mean.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith("| ")]
    assert rows[-1].startswith("| Clean (ceiling) |")
    assert "**" not in rows[-1]
    assert "<u>" not in rows[-1]
    summary = json.loads((tmp_path / "tables" / "summary.json").read_text())
    assert ["iter3", "aesthetic"] in summary["above_ceiling"]
    assert "\N{UPWARDS ARROW}" in next(row for row in rows if row.startswith("| SPIN iter 3"))
    assert "clean" not in summary["mean"]
    assert set(summary["ceiling"]) == {"clean"}


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
    means = read_tables(tmp_path / "tables")[0].means.set_index(["model", "scorer"])["mean"]
    for scorer in ("clip", "average"):
        parts = frame.xs(("iter1", scorer), level=("model", "scorer"))
        assert np.average(parts["mean"], weights=parts["n"]) == pytest.approx(means["iter1", scorer])
    text = (tmp_path / "tables" / "winrate_over_base_by_category.md").read_text()
    assert "| Model | Animals (8) | Arts & Co (16) |" in text
    assert "Ties count half" in text
    latex = (tmp_path / "tables" / "mean_by_category.tex").read_text()
    assert r"Arts \& Co (16)" in latex


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


def test_the_command_refuses_runs_with_different_protocols_and_says_what_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPIN_TRACKING", "off")
    write_run(tmp_path / "outputs" / "scores" / "test", 24)
    other_run = tmp_path / "outputs" / "scores" / "test" / "iter2"
    write_scores(other_run, score_frame("iter2", 24), num_inference_steps=50)
    assert main(["tables", "--params", str(PROFILE)]) == 2
    said = capsys.readouterr().err.strip()
    assert said == (
        "spin: iter2 and base cannot be compared: protocol has num_inference_steps 50 for iter2 and 15 for base; "
        "make both in the same way."
    )
    assert not (tmp_path / "outputs" / "tables").exists()


def small_table() -> Table:
    rows = [("base", 1.0), ("sft", 3.0), ("iter1", 3.0), ("iter2", 2.0), ("clean", 9.0)]
    frame = pd.DataFrame([(m, "hps", v, v - 0.2, v + 0.2) for m, v in rows])
    frame.columns = pd.Index(["model", "scorer", "value", "low", "high"])
    return Table("mean", "Mean & more", frame, ["clean"], [("iter2", "hps")], ["Note: 95%."])


def test_equals_share_the_best_rank_and_leave_no_second() -> None:
    ranks = {model: cell.rank for (model, _), cell in small_table().cells.items()}
    assert ranks == {"base": "", "sft": "best", "iter1": "best", "iter2": "", "clean": ""}


def test_markdown_and_latex_mark_and_escape() -> None:
    markdown, latex = small_table().to_markdown(), small_table().to_latex()
    assert "| SFT | **3.00** [2.80, 3.20] |" in markdown
    assert "2.00\N{UPWARDS ARROW} [1.80, 2.20]" in markdown
    assert r"\caption{Mean \& more}" in latex
    assert r"SFT & \textbf{3.00} {\scriptsize [2.80, 3.20]} \\" in latex
    assert r"2.00$\uparrow$" in latex
    assert "Note: 95\\%.\\\\" in latex
    assert escape("a_b\\") == r"a\_b\textbackslash "


def test_console_table_fits_a_wide_terminal_and_names_the_champion(scores: Path, tmp_path: Path) -> None:
    write_tables(params(), scores, tmp_path / "tables", ["clean"])
    text = console_table(tmp_path / "tables")
    assert "Winning rate over Base (%)" in text
    assert re.search(r"SPIN iter \d is the best iteration: it wins \d+\.\d% over the base", text)
    assert max(len(line) for line in text.splitlines() if line.startswith("  ")) <= 110


def test_the_summary_says_so_when_another_model_is_better_or_nothing_is_shown(scores: Path) -> None:
    for model in ("iter1", "iter2", "iter3"):
        write_scores(scores / model, score_frame("base", 24))
    results = load_results(params(), scores)
    measures = measure(results, params().tables, seed=0)
    rates = {m: {"average": 0.5, "low": 0.5, "high": 0.5} for m in ("iter1", "iter2", "iter3")}
    rates["dpo"] = {"average": 0.9, "low": 0.8, "high": 1.0}
    statistics = {"confidence": 0.95}
    summary = {
        "iterations": ["iter1", "iter2", "iter3"],
        "champion": "iter1",
        "win_rate_over_base": rates,
        "statistics": statistics,
        "above_ceiling": [],
    }
    text = " ".join(findings(measures, summary, ["iter1", "iter2", "iter3"]))
    assert "do not show a difference from the base" in text
    assert "It is not the best model of the run: Diffusion-DPO wins 90.0%" in text
    assert "Over Diffusion-DPO it wins" in text


def test_models_keep_their_own_colours() -> None:
    colours = model_colours(["base", "sft", "dpo", "sft_long", "iter1", "iter2", "clean"], ["iter1", "iter2"])
    assert len(set(colours.values())) == 7
    assert colours["base"] == model_colours(["iter1", "base"], ["iter1"])["base"]
    assert model_label("iter12") == "SPIN iter 12"
