"""An iteration that was trained for two updates at a rate of 1e-9 is no champion: trained, drawn, scored and judged."""

from pathlib import Path

import pytest
import yaml

from spin import paths
from spin.evaluation.gate import CHALLENGER, CHAMPION, decide
from spin.params.schema import Params
from spin.stages.data import run_base, run_cache, run_data, run_prompt_set
from spin.stages.sample import run_generate, run_opponents
from spin.stages.score import run_score
from spin.stages.train import run_train
from spin.tools.promote import _copy_scores
from tests.models.tiny import ROOT


@pytest.mark.slow
def test_an_iteration_that_hardly_moved_is_not_promoted_over_its_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    raw = yaml.safe_load((ROOT / "profiles" / "toy.yaml").read_text(encoding="utf-8"))
    raw["data"] |= {"num_train": 16, "num_val": 1, "num_test": 48}
    raw["training"] |= {"batch_size": 8, "micro_batch_size": 8}
    raw["opponents"]["num_inference_steps"] = 4
    raw["iterations"] = {"iter1": raw["iterations"]["iter1"] | {"learning_rate": 1e-9, "num_steps": 2}}
    raw["baselines"] = {}
    raw["prompt_sets"] = {"test": raw["prompt_sets"]["test"]}
    raw["evaluate"] |= {"models": ["base", "iter1"], "prompt_sets": ["test"], "num_inference_steps": 6}
    raw["tables"] |= {"over": ["base"], "bootstrap_samples": 200}
    params = Params.model_validate(raw)
    for stage in (run_data, run_base, run_cache):
        stage(params)
    run_opponents(params, "iter1")
    run_train(params, "iter1")
    run_prompt_set(params, "test")
    for model, part in (("base", CHAMPION), ("iter1", CHALLENGER)):
        run_generate(params, "test", model)
        run_score(params, "test", model)
        _copy_scores(paths.SCORES / "test" / model, tmp_path / "compared" / part)
    found = decide(params, tmp_path / "compared")
    assert not found.promoted
    assert found.interval.low <= 0.5 <= found.interval.high
