"""A checkpoint is what its model.json records: weights that changed since, or are torn, are refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from spin.cli import main
from spin.errors import ModelError
from spin.models.checkpoint import load_denoiser, load_model, reference_of, save_checkpoint
from spin.runtime.files import read_json, write_json
from tests.models.bases import WEIGHTS, base_params, record_base


def test_a_base_that_changed_since_it_was_recorded_is_refused(base: Path, tmp_path: Path) -> None:
    checkpoint = record_base(tmp_path / "base", base_params(base))
    load_model(checkpoint)
    weights = load_file(base / "vae" / WEIGHTS)
    save_file({name: tensor + 1e-3 for name, tensor in weights.items()}, base / "vae" / WEIGHTS)
    with pytest.raises(ModelError, match=r"the vae of .*mine changed since; .*`dvc repro -f base`"):
        load_model(checkpoint)
    save_file(weights, base / "vae" / WEIGHTS)
    record_base(tmp_path / "again", base_params(base))
    load_model(tmp_path / "again")


BROKEN: dict[str, Any] = {
    "a list": lambda _: [],
    "a number": lambda _: 5,
    "null": lambda _: None,
    "nothing": lambda _: {},
    "base.source": lambda model: {**model, "base": {**model["base"], "source": 5}},
    "base": lambda model: {**model, "base": []},
    "base.weights": lambda model: {**model, "base": {**model["base"], "weights": {}}},
    "base.family": lambda model: {**model, "base": {**model["base"], "family": "other"}},
    "denoiser_sha256": lambda model: {key: model[key] for key in model if key != "denoiser_sha256"},
    "lora.rank": lambda model: {**model, "lora": {}},
    "lora": lambda model: {**model, "lora": None},
    "prev.checkpoint": lambda model: {**model, "prev": {"denoiser_sha256": "0"}},
    "unet": lambda model: {**model, "unet": None},
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_model_json_that_is_other_json_is_refused(
    what: str, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = {"name": "iter1", "base": reference_of(base_params(base)), "denoiser_sha256": "0"}
    write_json(tmp_path / "iter1" / "model.json", BROKEN[what](model))
    checkpoint, out = str(tmp_path / "iter1"), str(tmp_path / "out")
    toy = str(Path(__file__).parents[2] / "profiles" / "toy.yaml")
    for command in (
        ["export", "--format", "unet", "--checkpoint", checkpoint],
        ["sample", "a red circle", "--params", toy, "--model", checkpoint],
    ):
        assert main([*command, "--out", out]) == 2
        said = capsys.readouterr().err
        assert "must be what a stage wrote of a model, but it is not" in said
        assert f" at {what} (" in said or "." not in what
        assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_base_whose_prediction_type_changed_is_refused(base: Path, tmp_path: Path) -> None:
    checkpoint = record_base(tmp_path / "base", base_params(base))
    scheduler = base / "scheduler" / "scheduler_config.json"
    scheduler.write_text(json.dumps(read_json(scheduler) | {"prediction_type": "v_prediction"}))
    with pytest.raises(ModelError, match=r"the scheduler of .*mine changed since"):
        load_denoiser(checkpoint)


@pytest.mark.parametrize(
    "file", ["scheduler/scheduler_config.json", "vae/config.json", "tokenizer/merges.txt"]
)
def test_a_base_that_says_something_else_is_refused(base: Path, tmp_path: Path, file: str) -> None:
    checkpoint = record_base(tmp_path / "base", base_params(base))
    with (base / file).open("a") as stream:
        stream.write("\n")
    with pytest.raises(ModelError, match=r"the configuration of .*mine changed since"):
        load_denoiser(checkpoint)


def test_a_denoiser_laid_over_the_base_that_says_something_else_is_refused(
    base: Path, tmp_path: Path
) -> None:
    shutil.copytree(base / "unet", tmp_path / "finer")
    checkpoint = record_base(tmp_path / "base", base_params(base, unet=tmp_path / "finer"))
    load_denoiser(checkpoint)
    config = tmp_path / "finer" / "config.json"
    config.write_text(json.dumps(read_json(config) | {"attention_head_dim": 1}))  # of the same shapes
    with pytest.raises(ModelError, match=r"the configuration of .*mine changed since"):
        load_denoiser(checkpoint)


@pytest.mark.parametrize("torn", [b"", b"torn", b"\xff" * 64])
def test_torn_weights_are_refused(base: Path, tmp_path: Path, torn: bytes) -> None:
    (base / "unet" / WEIGHTS).write_bytes(torn)
    with pytest.raises(ModelError, match="must be whole safetensors, but its size is not what its beginning"):
        record_base(tmp_path / "torn", base_params(base))
    save_file({"conv_in.weight": torch.zeros(1)}, base / "unet" / WEIGHTS)
    checkpoint = record_base(tmp_path / "base", base_params(base))
    for load in (load_model, load_denoiser):
        with pytest.raises(ModelError, match=r"cannot be loaded \(.*\); make it again"):
            load(checkpoint)


def test_a_checkpoint_with_other_weights_than_recorded_is_refused(base: Path, tmp_path: Path) -> None:
    start = record_base(tmp_path / "base", base_params(base))
    (tmp_path / "iter1").mkdir()
    save_checkpoint(tmp_path / "iter1", "iter1", load_denoiser(start), start)
    load_model(tmp_path / "iter1")
    weights = load_file(tmp_path / "iter1" / "unet" / WEIGHTS)
    save_file({name: tensor + 1 for name, tensor in weights.items()}, tmp_path / "iter1" / "unet" / WEIGHTS)
    for load in (load_model, load_denoiser):
        with pytest.raises(ModelError, match=r"must hold the weights that model\.json records"):
            load(tmp_path / "iter1")


@pytest.mark.parametrize("single", [False, True])
def test_a_checkpoint_names_no_folder_of_this_machine(
    base: Path, others: Path, single_file: Path, tmp_path: Path, single: bool
) -> None:
    source = base_params(single_file, config=str(others / "sd")) if single else base_params(base)
    start = record_base(tmp_path / "start", source)
    (tmp_path / "iter1").mkdir()
    save_checkpoint(tmp_path / "iter1", "iter1", load_denoiser(start), start)
    config = (tmp_path / "iter1" / "unet" / "config.json").read_text()
    assert not any(str(folder) in config for folder in (base, others, single_file.parent))
