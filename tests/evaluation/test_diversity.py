"""Diversity in tables, findings and MLflow: a model that collapsed shows, and nothing is said where nothing was measured."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from spin import paths
from spin.errors import EvaluationError
from spin.evaluation.diversity import measure_diversity
from spin.evaluation.findings import findings
from spin.evaluation.intervals import mean_intervals
from spin.evaluation.resampling import cluster_codes, resample
from spin.evaluation.tables import build_tables, read_chosen, read_tables, write_tables
from spin.evaluation.terminal import console_table
from spin.rewards.diversity import EMBEDDING, with_diversity
from spin.runtime.files import read_json
from spin.stages.report import run_tables
from spin.tracking.notes import StageRun
from spin.tracking.stage_log import tell_tables
from tests.evaluation.fake_scores import LEVEL, score_frame, write_scores
from tests.evaluation.toy_params import params

ITERATIONS = ("iter1", "iter2", "iter3")


def embedded(frame: pd.DataFrame, model: str, spread: float) -> pd.DataFrame:
    """The frame with the diversity of embeddings that lie `spread` around one direction for each prompt."""
    generator = np.random.default_rng(sum(map(ord, model)))
    around = np.random.default_rng(1).normal(size=(len(frame) // 2, 8)).repeat(2, axis=0)
    vectors = around + spread * generator.normal(size=around.shape)
    return with_diversity(frame.assign(flagged=False, **{EMBEDDING: list(vectors)}))


def write_run(scores: Path, spreads: dict[str, float], num_prompts: int = 40, **changes: Any) -> None:
    """Two images a prompt by every model; the ceiling has one and no diversity."""
    for model in LEVEL:
        frame = score_frame(model, num_prompts, 1 if model == "clean" else 2)
        if model != "clean":
            frame = embedded(frame, model, spreads.get(model, 0.5))
        write_scores(scores / model, frame, **changes)


def tabled(tmp_path: Path, spreads: dict[str, float], num_prompts: int = 40) -> tuple[dict[str, Any], str]:
    """The summary of a run and its findings."""
    write_run(tmp_path / "scores", spreads, num_prompts)
    write_tables(params(), tmp_path / "scores", tmp_path / "tables/test", ["clean"])
    measures, summary = read_tables(tmp_path / "tables/test")
    return summary, " ".join(findings(measures, summary, summary))


def test_a_collapsed_model_shows_with_its_interval_in_table_findings_and_console(tmp_path: Path) -> None:
    summary, said = tabled(tmp_path, dict.fromkeys(ITERATIONS, 0.0))  # copies of one image
    rows = {row["model"]: row for row in summary["diversity"]}
    assert list(rows) == ["base", "sft", "dpo", *ITERATIONS], "the ceiling has none"
    base, champion = rows["base"], rows[summary["champion"]]
    assert champion["high"] < base["low"]
    assert champion["difference_high"] < 0
    assert champion["mean"] == 0
    line = f"The diversity of SPIN iter 3 fell by 100% of the base's: 0 against {base['mean']:.3g}, a difference of -{base['mean']:.3g} "
    line += f"(95% interval {champion['difference_low']:+.3g} to {champion['difference_high']:+.3g}; 40 test prompts, "
    assert f"{line}2 images each)" in said
    text = console_table(tmp_path / "tables/test")
    assert line in text
    assert "Diversity of a prompt's images" in text
    table = (tmp_path / "tables/test/diversity.md").read_text().splitlines()
    assert table[2] == "| Model | Diversity | less that of Base |"
    assert [row.split(" |")[0] for row in table if "**-" in row] == [
        "| SPIN iter 1",
        "| SPIN iter 2",
        "| SPIN iter 3",
    ]
    assert "a prompt's 2 images, in the image space of tiny-1; of 40 prompts" in table[-1]
    assert (tmp_path / "tables/test/diversity.csv").is_file()
    assert (tmp_path / "tables/test/diversity.tex").is_file()


def test_models_as_diverse_as_the_base_are_not_said_to_have_lost_any(tmp_path: Path) -> None:
    summary, said = tabled(tmp_path, {})
    assert "The diversity of SPIN iter 3 did not fall measurably below the base's" in said
    assert "fell" not in said
    assert all(row["difference_low"] < 0 < row["difference_high"] for row in summary["diversity"][1:])


def test_another_model_that_collapsed_is_named_though_the_champion_did_not(tmp_path: Path) -> None:
    summary, said = tabled(tmp_path, {"iter1": 0.0, "dpo": 0.0})
    assert summary["champion"] == "iter3"
    assert "The diversity of SPIN iter 3 did not fall measurably below the base's" in said
    assert "That of Diffusion-DPO and SPIN iter 1 fell, by the same measure." in said


def test_numbers_are_those_of_the_prompts_paired_and_by_clusters(tmp_path: Path) -> None:
    write_run(tmp_path, {"iter1": 0.3, "sft": 0.01})
    lone = pd.read_parquet(tmp_path / "sft" / "scores.parquet")
    lone.loc[lone["prompt_id"] == "test-00000", "diversity"] = 2.0  # whose interval would reach below 0
    lone.to_parquet(tmp_path / "sft" / "scores.parquet")
    for model in LEVEL:
        frame = pd.read_parquet(tmp_path / model / "scores.parquet")
        frame["cluster"] = frame["prompt_id"].str[-2:].astype(int).floordiv(4).astype(str)
        frame.sample(frac=1, random_state=5).to_parquet(tmp_path / model / "scores.parquet")
    given = params()
    rows = measure_diversity(tmp_path, given.evaluate.models, given.tables, seed=0)
    values = {}
    for model in ("base", "iter1"):
        frame = pd.read_parquet(tmp_path / model / "scores.parquet").sort_values("prompt_id")
        values[model] = frame.groupby("prompt_id")["diversity"].first().to_numpy()
    found = next(row for row in rows if row["model"] == "iter1")
    apart = values["iter1"] - values["base"]
    resampled = resample(cluster_codes([f"{place // 4:d}" for place in range(40)]), 200, 0)
    (interval,) = mean_intervals(apart[:, None], resampled, 0.95)
    assert found["mean"] == pytest.approx(values["iter1"].mean())
    assert found["difference"] == pytest.approx(apart.mean())
    assert (found["difference_low"], found["difference_high"]) == pytest.approx(tuple(interval))
    assert rows[0]["difference"] is None
    assert all(0 <= row["low"] <= row["mean"] <= row["high"] for row in rows)


def test_only_prompts_that_all_models_have_count_and_one_cluster_has_no_interval(tmp_path: Path) -> None:
    write_run(tmp_path, {})
    frame = pd.read_parquet(tmp_path / "sft" / "scores.parquet")
    frame.loc[frame["prompt_id"].isin(["test-00003", "test-00007"]), "diversity"] = np.nan
    frame.to_parquet(tmp_path / "sft" / "scores.parquet")
    given = params()
    rows = measure_diversity(tmp_path, given.evaluate.models, given.tables, seed=0)
    assert {row["n"] for row in rows} == {38}
    for model in LEVEL:
        path = tmp_path / model / "scores.parquet"
        pd.read_parquet(path).assign(cluster="one").to_parquet(path)
    rows = measure_diversity(tmp_path, given.evaluate.models, given.tables, seed=0)
    assert rows[1]["difference"] is not None
    assert rows[1]["difference_low"] is None


def test_it_enters_neither_the_average_nor_the_choice(tmp_path: Path) -> None:
    first, _ = tabled(tmp_path / "one", {})
    second, _ = tabled(tmp_path / "two", dict.fromkeys(ITERATIONS, 0.0))
    assert first["diversity"] != second["diversity"]
    assert {**first, "diversity": []} == {**second, "diversity": []}


def test_one_image_a_prompt_prints_nothing(scores: Path, tmp_path: Path) -> None:
    write_tables(params(), scores, tmp_path / "tables/test", ["clean"])
    measures, summary = read_tables(tmp_path / "tables/test")
    assert summary["diversity"] == []
    assert "diversity" not in {table.name for table in build_tables(measures, summary)}
    assert "iversity" not in " ".join(findings(measures, summary, summary))
    assert "iversity" not in console_table(tmp_path / "tables/test")


def test_a_few_prompts_are_not_judged(tmp_path: Path) -> None:
    summary, said = tabled(tmp_path, dict.fromkeys(ITERATIONS, 0.0), num_prompts=12)
    assert summary["diversity"][3]["difference_high"] < 0
    assert "diversity" not in said
    assert "**" not in (tmp_path / "tables/test/diversity.md").read_text().split("\n", 1)[1]


def test_a_model_whose_scores_have_none_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path, {})
    frame = pd.read_parquet(tmp_path / "dpo" / "scores.parquet").drop(columns="diversity")
    frame.to_parquet(tmp_path / "dpo" / "scores.parquet")
    with pytest.raises(EvaluationError, match=r"dpo and base cannot be compared: .* score dpo again"):
        write_tables(params(), tmp_path, tmp_path / "tables")


def test_prompts_that_report_tell_what_those_that_choose_measured(scores: Path, tmp_path: Path) -> None:
    """On the page and in the console of the main set, whose prompts have one image each."""
    raw = params().model_dump()
    raw["prompt_sets"]["val"] = {"prompts": "val", "source": None, "images_per_prompt": 2}
    raw["evaluate"]["prompt_sets"] = ["test", "val"]
    given = type(params()).model_validate(raw)
    write_run(tmp_path / "val", dict.fromkeys(ITERATIONS, 0.0), prompt_set="val")
    write_tables(given, scores, tmp_path / "tables/test")
    write_tables(given, tmp_path / "val", tmp_path / "tables/val")
    measures, summary = read_tables(tmp_path / "tables/test")
    said = " ".join(findings(measures, summary, read_chosen(tmp_path / "tables/test")))
    assert "The diversity of SPIN iter 3 fell by 100% of the base's" in said
    assert "40 val prompts, 2 images each" in said


def test_mlflow_and_dvc_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(paths.SCORES / "test", {})
    given = params(references=[])
    run_tables(given, "test")
    run = StageRun()
    tell_tables(run, given, "", "test")
    rows = {row["model"]: row["mean"] for row in read_json(paths.TABLES / "test/summary.json")["diversity"]}
    told = {name: value for name, value, *_ in run.child.metrics}
    assert told["iter2.diversity"] == rows["iter2"]
    assert told["base.diversity"] == rows["base"]
    by_iteration = [(value, step) for name, value, step, *_ in run.parent.metrics if name == "diversity"]
    assert by_iteration == [(rows[name], step) for step, name in enumerate(ITERATIONS, start=1)]
    assert read_json(paths.METRICS / "test.json")["diversity"] == rows


def test_the_whole_run_keeps_the_tables_of_every_prompt_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    raw = params(references=[]).model_dump()
    raw["prompt_sets"]["val"] = {"prompts": "val", "source": None, "images_per_prompt": None}
    raw["evaluate"]["prompt_sets"] = ["test", "val"]
    given, run = type(params()).model_validate(raw), StageRun()
    for name in ("test", "val"):
        write_run(paths.SCORES / name, {}, prompt_set=name)
        run_tables(given, name)
        tell_tables(run, given, "", name)
    placed = [(Path(path).name, folder) for path, folder in run.parent.artifacts]
    assert len(placed) == len(set(placed)), "none takes another's place"
    assert {("mean.md", None), ("mean.md", "val")} <= set(placed)
