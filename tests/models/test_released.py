"""A released denoiser is named, not copied, and is a checkpoint like any other until it changes."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from spin.errors import ModelError, ParamsError
from spin.models.checkpoint import load_denoiser, load_model, released_reference, weights_digest
from spin.params.model import UnetParams
from spin.params.schema import Params
from spin.runtime.files import sha256_tree, write_json
from spin.stages.data import run_base, run_data, run_prompt_set, run_released
from spin.stages.sample import run_generate
from tests.models.bases import WEIGHTS, base_params, record_base
from tests.models.tiny import miniature_params


def test_a_released_checkpoint_is_a_reference_and_is_evaluated_like_any_other(
    tiny_base: Path, others: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    raw = miniature_params(tiny_base)
    raw["released"] = {"spin_iter3": {"source": str(others / "sd"), "revision": None}}
    raw["evaluate"]["models"] = ["base", "spin_iter3", *raw["baselines"], *raw["iterations"]]
    params = Params.model_validate(raw)
    run_base(params)
    run_released(params, "spin_iter3")
    checkpoint = tmp_path / "outputs" / "checkpoints" / "spin_iter3"
    assert {path.name for path in checkpoint.iterdir()} == {"model.json", "spin.sha256"}
    expected = load_file(others / "sd" / "unet" / WEIGHTS)
    for network in (load_model(checkpoint).denoiser, load_denoiser(checkpoint)):
        assert all(torch.equal(network.state_dict()[name], expected[name]) for name in expected)
    assert weights_digest(checkpoint) == sha256_tree(others / "sd" / "unet", "*.safetensors")
    run_data(params)
    run_prompt_set(params, params.evaluate.main_prompt_set)
    run_generate(params, params.evaluate.main_prompt_set, "spin_iter3")
    with pytest.raises(ParamsError, match=r"--name must be one of spin_iter3, got iter1"):
        run_released(params, "iter1")


def test_a_released_checkpoint_that_changed_is_refused(tiny_base: Path, others: Path, tmp_path: Path) -> None:
    recorded = record_base(tmp_path / "base", base_params(tiny_base))
    mine = tmp_path / "mine"
    shutil.copytree(others / "sd" / "unet", mine)
    (tmp_path / "dpo").mkdir()
    unet = UnetParams(source=str(mine), revision=None)
    write_json(tmp_path / "dpo" / "model.json", released_reference("dpo", unet, recorded))
    shutil.copy(tiny_base / "unet" / WEIGHTS, mine / WEIGHTS)
    with pytest.raises(
        ModelError, match=r"released\.dpo\.source .* changed; run `dvc repro -f released@dpo`"
    ):
        load_model(tmp_path / "dpo")
