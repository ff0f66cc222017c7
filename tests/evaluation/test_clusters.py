"""Prompts that share something say so from the data to the tables."""

from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from spin.data.toy import write_toy_data
from spin.evaluation.results import load_results
from spin.params.data import ToyData
from spin.params.schema import Params
from spin.prompts.sets import load_prompt_set
from spin.stages.data import run_base, run_data, run_prompt_set
from spin.stages.report import run_tables
from spin.stages.sample import run_generate
from spin.stages.score import run_reference, run_score
from tests.models.tiny import miniature_params


def test_the_eight_captions_of_two_objects_are_a_cluster_of_the_embedded_world(tmp_path: Path) -> None:
    data = ToyData(kind="toy", num_train=1, num_val=72, num_test=256, max_severity=0.4, label_accuracy=0.8)
    write_toy_data(tmp_path, data, seed=0)
    for split, pairs in (("val", 9), ("test", 32)):
        prompts = pd.read_parquet(tmp_path / "prompts" / f"{split}.parquet")
        assert Counter(prompts["cluster"].value_counts()) == {8: pairs}
        for prompt, cluster in zip(prompts["prompt"], prompts["cluster"], strict=True):
            first, second = cluster.split(" and ")
            assert f"a {first} " in f"{prompt} "
            assert f"a {second} " in f"{prompt} "


@pytest.mark.parametrize("column", ["cluster", "user_id"])
def test_a_file_of_prompts_may_say_which_belong_together(tmp_path: Path, column: str) -> None:
    path = tmp_path / "own.csv"
    path.write_text(f"prompt,{column}\na cat,7\na dog,7\na bird,\n", encoding="utf-8")
    assert load_prompt_set(str(path))["cluster"].tolist() == ["7", "7", ""]
    path.write_text("prompt\na cat\n", encoding="utf-8")
    assert list(load_prompt_set(str(path))) == ["prompt_id", "prompt", "category"]


def test_what_the_data_says_arrives_in_the_tables(
    tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    raw = miniature_params(tiny_base)
    raw["iterations"], raw["baselines"] = {"iter1": raw["iterations"]["iter1"]}, {}
    raw["data"]["num_test"] = 24
    raw["scorers"] = {name: raw["scorers"][name] for name in ("oracle_psnr", "oracle_attributes")}
    raw["tables"] |= {"average_of": ["oracle_psnr"], "over": ["base"]}
    raw["evaluate"]["models"] = ["base", "iter1"]
    params = Params.model_validate(raw)
    run_data(params)
    run_base(params)
    run_prompt_set(params, "test")
    Path("outputs/checkpoints/iter1").symlink_to("base")  # what it draws does not matter here
    for name in ("base", "iter1"):
        run_generate(params, "test", name)
        run_score(params, "test", name)
    run_reference(params, "test", "clean")
    results = load_results(params, Path("outputs/scores/test"), ["clean"])
    prompts = pd.read_parquet("outputs/data/prompts/test.parquet").set_index("prompt_id")
    assert list(results.clusters) == list(prompts["cluster"][list(results.prompt_ids)])
    run_tables(params, "test")
    text = Path("outputs/tables/test/mean.md").read_text(encoding="utf-8")
    assert f"intervals over the {prompts['cluster'].nunique()} clusters of prompts" in text
