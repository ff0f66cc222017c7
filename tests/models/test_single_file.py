"""A single file with the original names is the model it was made of, or it is refused."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from spin.errors import ModelError
from spin.models.checkpoint import load_denoiser, load_model, reference_of, weights_digest
from spin.models.latent_diffusion import LatentDiffusion
from spin.runtime.files import read_json, sha256_file
from spin.tools.export.ldm_names import unet_names
from tests.models.bases import base_params, record_base, swap


def states(diffusion: LatentDiffusion) -> list[dict[str, torch.Tensor]]:
    return [network.state_dict() for network in diffusion.networks()]


@pytest.mark.parametrize("name", ["sd", "sd2", "sdxl"])
def test_a_single_file_is_the_model_it_was_made_of(
    others: Path, single_files: Path, tmp_path: Path, name: str
) -> None:
    file = single_files / f"{name}.safetensors"
    whole = load_model(single_files / name)
    checkpoint = record_base(tmp_path / "file", base_params(file, config=str(others / name)))
    loaded = load_model(checkpoint)
    for expected, given in zip(states(whole), states(loaded), strict=True):
        assert set(expected) == set(given)
        for key in expected:
            torch.testing.assert_close(given[key], expected[key], rtol=1e-3, atol=1e-3)
            assert given[key].dtype == torch.float32
    record = read_json(checkpoint / "model.json")
    assert record["config"] == str(others / name)
    assert record["weights"] == {"file": sha256_file(file)}
    assert weights_digest(checkpoint) == sha256_file(file)
    assert load_denoiser(checkpoint).state_dict().keys() == loaded.denoiser.state_dict().keys()


def test_reading_a_single_file_with_a_local_config_opens_no_connection(
    others: Path, single_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    checkpoint = record_base(tmp_path / "file", base_params(single_file, config=str(others / "sd")))

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    load_model(checkpoint)


def test_a_single_file_of_another_family_or_width_is_refused(
    others: Path, single_file: Path, tmp_path: Path
) -> None:
    with pytest.raises(
        ModelError, match=r"a whole stable-diffusion-xl model .*, got stable-diffusion; name a"
    ):
        reference_of(base_params(single_file, config=str(others / "sdxl")))
    wider = Path(shutil.copytree(others / "sd", tmp_path / "wider"))
    swap("unet/config.json", cross_attention_dim=24)(wider)
    with pytest.raises(ModelError, match=r"the cross_attention_dim 24 of base\.config .*, got 16"):
        reference_of(base_params(single_file, config=str(wider)))
    save_file({"some.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match="got none of the known families"):
        reference_of(base_params(tmp_path / "other.safetensors", config=str(others / "sd")))
    (tmp_path / "torn.safetensors").write_bytes(b"torn")
    with pytest.raises(ModelError, match=r"must be whole safetensors, but its size is not"):
        reference_of(base_params(tmp_path / "torn.safetensors", config=str(others / "sd")))


def test_a_single_file_with_missing_weights_is_refused(
    others: Path, single_file: Path, tmp_path: Path
) -> None:
    weights = load_file(single_file)
    for part in ("model.diffusion_model.out.2.", "cond_stage_model.transformer.text_model.final_layer_norm."):
        kept = {name: tensor for name, tensor in weights.items() if not name.startswith(part)}
        path = tmp_path / f"{len(part)}.safetensors"
        save_file(kept, path)
        checkpoint = record_base(
            tmp_path / f"checkpoint{len(part)}", base_params(path, config=str(others / "sd"))
        )
        with pytest.raises(ModelError) as refusal:
            load_model(checkpoint)
        assert "\n" not in str(refusal.value)


UNETS: dict[str, tuple[dict[str, Any], int, int]] = {
    "sd15": ({"cross_attention_dim": 768, "attention_head_dim": 8}, 686, 859_520_964),
    "sd21": (
        {"cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20], "use_linear_projection": True},
        686,
        865_910_724,
    ),
    "sdxl": (
        {
            "cross_attention_dim": 2048,
            "attention_head_dim": [5, 10, 20],
            "use_linear_projection": True,
            "block_out_channels": [320, 640, 1280],
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
            "transformer_layers_per_block": [1, 2, 10],
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
        1680,
        2_567_463_684,
    ),
}
"""Published configs where they differ from diffusers' defaults, number of tensors, number of parameters."""


@pytest.mark.parametrize("name", UNETS)
def test_the_published_single_file_names_are_those_of_the_real_unet(name: str) -> None:
    """diffusers' own conversion of the original names gives each tensor of the real UNet once, in its shape."""
    from accelerate import init_empty_weights
    from diffusers import UNet2DConditionModel
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    config, tensors, parameters = UNETS[name]
    with init_empty_weights():
        unet = UNet2DConditionModel(**config)
    own = unet.state_dict()
    assert len(own) == tensors
    assert sum(tensor.numel() for tensor in own.values()) == parameters
    names = unet_names(own, unet.config)
    original = {names[key]: tensor for key, tensor in own.items()}
    assert len(original) == tensors
    for known in ("input_blocks.0.0.weight", "time_embed.2.bias", "middle_block.2.out_layers.3.weight"):
        assert f"model.diffusion_model.{known}" in original
    converted = convert_ldm_unet_checkpoint(dict(original), unet.config)
    assert {key: tensor.shape for key, tensor in converted.items()} == {
        key: tensor.shape for key, tensor in own.items()
    }
    missing, unexpected = unet.load_state_dict(converted, strict=True, assign=True)
    assert (missing, unexpected) == ([], [])
