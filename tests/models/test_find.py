"""Where models may come from, and what is refused: one sentence with the rule, the value and the remedy."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from spin import cli
from spin.errors import ModelError
from spin.models.checkpoint import load_model, reference_of, weights_digest
from spin.runtime.files import read_json, sha256_tree
from tests.models.bases import WEIGHTS, base_params, record_base, swap
from tests.models.tiny import miniature_params, write_params


@pytest.mark.parametrize("at", ["", "unet"])
def test_a_denoiser_at_the_root_or_in_its_folder_is_laid_over_the_base(
    tiny_base: Path, others: Path, tmp_path: Path, at: str
) -> None:
    repository = tmp_path / "repository"
    shutil.copytree(others / "sd" / "unet", repository / at)
    unet = {"source": str(repository), "revision": None}
    checkpoint = record_base(tmp_path / "base", base_params(tiny_base, unet=unet))
    laid, own = load_model(checkpoint), load_model(record_base(tmp_path / "plain", base_params(tiny_base)))
    expected = load_file(others / "sd" / "unet" / WEIGHTS)
    assert all(torch.equal(laid.denoiser.state_dict()[name], expected[name]) for name in expected)
    assert torch.equal(
        laid.encode_prompts(["a red circle"])["encoder_hidden_states"],
        own.encode_prompts(["a red circle"])["encoder_hidden_states"],
    )
    record = read_json(checkpoint / "model.json")
    assert record["unet"] == unet
    assert (
        record["weights"]["unet"]
        == sha256_tree(repository / at, "*.safetensors")
        == weights_digest(checkpoint)
    )


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove("model_index.json"), r"must be a model in diffusers layout, but it has no model_index\.json"),
        (
            swap("model_index.json", _class_name="FluxPipeline"),
            r"must be one of .*XL.*, got FluxPipeline; use such",
        ),
        (remove(f"unet/{WEIGHTS}"), r"must hold unet weights as safetensors, found none; convert"),
        (
            swap("scheduler/scheduler_config.json", prediction_type="sample"),
            r"epsilon or v_prediction, got sample",
        ),
        (
            swap("scheduler/scheduler_config.json", _class_name="FlowMatchEulerDiscreteScheduler"),
            r"got flow; use",
        ),
        (swap("unet/config.json", in_channels=9), r"the 4 channels of its VAE's latents, got a unet with 9"),
        (
            swap("vae/config.json", latents_mean=[0.0] * 4),
            r"scaling_factor alone, got a VAE with latents_mean",
        ),
        (
            remove("scheduler/scheduler_config.json"),
            r"but it has no scheduler/scheduler_config\.json; save it",
        ),
        (
            lambda folder: (folder / "unet" / "config.json").write_text("{"),
            r"config\.json as JSON, but it does not",
        ),
    ],
)
def test_a_base_that_is_not_one_model_is_refused(
    base: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(base)
    with pytest.raises(ModelError, match=message) as refusal:
        reference_of(base_params(base))
    assert "\n" not in str(refusal.value)


def test_a_flow_grid_that_depends_on_the_resolution_is_refused(others: Path, tmp_path: Path) -> None:
    mine = Path(shutil.copytree(others / "sd3", tmp_path / "mine"))
    swap("scheduler/scheduler_config.json", use_dynamic_shifting=True)(mine)
    with pytest.raises(
        ModelError, match="by a constant alone, got a scheduler with use_dynamic_shifting True"
    ):
        reference_of(base_params(mine))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sdxl", r"has cross_attention_dim 16, got 40; use a checkpoint of the base's family"),
        ("sd3", r"found none in .*sd3; name a repository that has one"),
        (
            "sd2",
            r"must predict epsilon as the base does, got v_prediction; use a checkpoint that was trained",
        ),
    ],
)
def test_a_denoiser_of_another_family_or_prediction_type_is_refused(
    tiny_base: Path, others: Path, name: str, message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        reference_of(base_params(tiny_base, unet={"source": str(others / name), "revision": None}))


def test_revisions_belong_to_the_hub(tiny_base: Path, others: Path) -> None:
    with pytest.raises(ModelError, match=r"base\.revision must be null for a folder or file, got main"):
        reference_of(base_params(tiny_base, revision="main"))
    unet = {"source": str(others / "sd"), "revision": "main"}
    with pytest.raises(ModelError, match=r"base\.unet\.revision must be null for a folder or file, got main"):
        reference_of(base_params(tiny_base, unet=unet))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": "model.ckpt"}, r"source must be safetensors, got a \.ckpt file, which can run code"),
        (
            {"source": "model.safetensors"},
            r"config must name a model in diffusers layout for the single file",
        ),
        ({"source": "owner/name", "config": "owner/name"}, r"config must be null unless source is a single"),
        ({"source": "embedded", "revision": "main"}, r"revision must be null with source embedded, got main"),
    ],
)
def test_sources_that_cannot_be_are_refused_by_the_schema(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        base_params(**({"source": "embedded"} | changes))


@pytest.mark.parametrize(
    ("key", "changes"),
    [
        ("base.source", {"source": "nobody/nothing"}),
        ("base.unet.source", {"unet": {"source": "nobody/nothing", "revision": None}}),
    ],
)
def test_a_hub_id_that_is_not_to_be_had_is_one_sentence(
    tiny_base: Path, monkeypatch: pytest.MonkeyPatch, key: str, changes: dict[str, Any]
) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=rf"{key} must be .* nobody/nothing is neither here") as refusal:
        reference_of(base_params(**({"source": tiny_base} | changes)))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere", "but there is no folder"),
        ("nowhere.safetensors", "base.config must name a model"),
        ("nobody/nothing", "nobody/nothing is neither here nor to be had"),
    ],
)
def test_the_command_line_says_so_in_one_sentence_and_leaves_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    source: str,
    message: str,
) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("SPIN_TRACKING", "off")
    monkeypatch.chdir(tmp_path)
    raw = miniature_params(Path("unused"))
    raw["base"]["source"] = source
    write_params(tmp_path, raw)
    assert cli.main(["base"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("spin: ")
    assert message in line
    assert not [path for path in (tmp_path / "outputs").rglob("*") if path.is_file()]
