"""Every family plays the whole game: sample, train, save, load, sample."""

import math
from pathlib import Path

import pandas as pd
import pytest
import torch

from spin.models.checkpoint import load_denoiser, load_model
from spin.params.schema import Params
from spin.runtime.files import read_json
from spin.stages.data import run_base, run_cache, run_data, run_prompt_set
from spin.stages.sample import run_generate, run_opponents
from spin.stages.train import run_train
from tests.models.drawing import draw
from tests.models.tiny import miniature_params


def loop_params(base: Path, family: str) -> Params:
    """Two iterations, three images of evaluation, on eight scenes."""
    raw = miniature_params(base)
    raw["data"] |= {"num_train": 8, "num_val": 1, "num_test": 3}
    for name in ("iter1", "iter2"):
        raw["iterations"][name] |= {"num_steps": 2}
    raw["baselines"] = {}
    raw["evaluate"] |= {"models": ["base", "iter1", "iter2"], "references": []}
    raw["tables"] |= {"over": ["base"]}
    if family.startswith("sd3"):
        raw["opponents"] |= {"scheduler": "euler"}
        raw["evaluate"] |= {"scheduler": "euler"}
    return Params.model_validate(raw)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sd2", "sdxl", "sd3", "sd3-without-t5"])
def test_the_family_plays_the_whole_game(
    bases: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    params = loop_params(bases[name], name)
    run_data(params)
    run_base(params)
    run_cache(params)
    for iteration in ("iter1", "iter2"):
        run_opponents(params, iteration)
        run_train(params, iteration)
        curve = pd.read_csv(tmp_path / "outputs" / "curves" / f"{iteration}.csv")
        assert curve["loss"][0] == pytest.approx(math.log(2), abs=1e-5), "player and opponent start equal"
        assert curve["error_real_change"].iloc[-1] != 0, "the player moved"
    run_prompt_set(params, params.evaluate.main_prompt_set)
    run_generate(params, params.evaluate.main_prompt_set, "iter2")
    checkpoints = tmp_path / "outputs" / "checkpoints"
    record = read_json(checkpoints / "iter2" / "model.json")
    assert record["base"] == read_json(checkpoints / "base" / "model.json")
    loaded, alone = load_model(checkpoints / "iter2"), load_denoiser(checkpoints / "iter2")
    weights = [dict(network.state_dict()) for network in (loaded.denoiser, alone)]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    earlier = load_denoiser(checkpoints / "iter1").state_dict()
    assert any(not torch.equal(weights[0][key], earlier[key]) for key in earlier)
    assert draw(loaded, "euler").isfinite().all()
