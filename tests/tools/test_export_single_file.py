"""The exported single file has the original names, and reads back to the bit."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from spin.errors import ModelError
from spin.models.checkpoint import load_model
from spin.tools.export.formats import export_checkpoint
from spin.tools.export.ldm_names import CLIP
from spin.tools.export.single_file import clip_tensors, unet_tensors, vae_tensors
from tests.models.bases import base_params, record_base
from tests.models.tiny_families import WRITERS
from tests.tools.latents import same


@pytest.mark.parametrize("name", ["base", "whole", "iter2"])
def test_the_single_file_reads_back_to_the_bit(
    checkpoints: Path, tiny_base: Path, tmp_path: Path, name: str
) -> None:
    from diffusers import StableDiffusionPipeline

    out = tmp_path / "model.safetensors"
    export_checkpoint(checkpoints / name, "single-file", out, "fp32", force=False)
    ours = load_model(checkpoints / name)
    theirs = StableDiffusionPipeline.from_single_file(
        str(out), config=str(tiny_base), local_files_only=True, safety_checker=None
    )
    for part, network in (("unet", ours.denoiser), ("vae", ours.vae), ("text_encoder", ours.text_encoder)):
        assert same(getattr(theirs, part), network), part
    again = load_model(record_base(tmp_path / "base", base_params(out, config=tiny_base)))
    assert all(same(first, second) for first, second in zip(ours.networks(), again.networks(), strict=True))
    assert str(tiny_base).encode() not in out.read_bytes(), "where the base lies here is nobody else's matter"


@pytest.mark.slow
@pytest.mark.parametrize("family", ["sd2", "sdxl"])
def test_the_single_file_of_a_relative_reads_back_to_the_bit(tmp_path: Path, family: str) -> None:
    WRITERS[family](tmp_path / "model")
    base = record_base(tmp_path / "base", base_params(tmp_path / "model"))
    out = tmp_path / "model.safetensors"
    export_checkpoint(base, "single-file", out, "fp32", force=False)
    ours = load_model(base)
    again = load_model(record_base(tmp_path / "again", base_params(out, config=tmp_path / "model")))
    assert type(ours) is type(again)
    assert all(same(first, second) for first, second in zip(ours.networks(), again.networks(), strict=True))


def real_networks(family: str) -> dict[str, Any]:
    """UNet and VAE of Stable Diffusion 1.5 or XL, and SD 1.5's text encoder, without memory for their weights."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    unet: dict[str, Any] = {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}
    if family == "sdxl":
        unet = {
            "sample_size": 128,
            "block_out_channels": (320, 640, 1280),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "transformer_layers_per_block": (1, 2, 10),
            "attention_head_dim": (5, 10, 20),
            "cross_attention_dim": 2048,
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        }
    with torch.device("meta"):
        networks: dict[str, Any] = {
            "unet": UNet2DConditionModel(**unet),
            "vae": AutoencoderKL(
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                block_out_channels=(128, 256, 512, 512),
                layers_per_block=2,
                sample_size=512,
            ),
        }
        if family == "sd15":
            text = CLIPTextConfig(
                hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12
            )
            networks["text_encoder"] = CLIPTextModel(text)
    return networks


@pytest.mark.parametrize(("family", "num_unet_tensors"), [("sd15", 686), ("sdxl", 1680)])
def test_the_names_at_real_size_are_those_that_diffusers_expects(family: str, num_unet_tensors: int) -> None:
    from diffusers.loaders import single_file_utils as theirs

    networks = real_networks(family)
    renamed: dict[str, Callable[..., dict[str, Tensor]]] = {
        "unet": unet_tensors,
        "vae": vae_tensors,
        "text_encoder": lambda state, _: clip_tensors(state, CLIP),
    }
    single: dict[str, Tensor] = {}
    origin: dict[float, str] = {}
    for part, network in networks.items():
        marked = {}
        for name, tensor in network.state_dict().items():
            mark = float(len(origin))  # a stand-in of one element, which tells where it came from
            origin[mark] = f"{part}.{name}"
            marked[name] = torch.full((1,) * tensor.ndim, mark)
        made = renamed[part](marked, network.config)
        assert len(made) == len(marked)
        assert not made.keys() & single.keys()
        single |= made
    assert len(networks["unet"].state_dict()) == num_unet_tensors
    # diffusers reads an upsampler behind an attention from either place; the original has it in the third
    places = {"sd15": ("2.1", "5.2", "8.2"), "sdxl": ("2.2", "5.2")}[family]
    upsamplers = {name for name in single if ".output_blocks." in name and name.endswith(".conv.weight")}
    assert upsamplers == {f"model.diffusion_model.output_blocks.{place}.conv.weight" for place in places}
    if family == "sd15":
        assert theirs.infer_diffusers_model_type(single) == "v1"
        assert theirs.is_clip_model(single)
    read = {
        "unet": theirs.convert_ldm_unet_checkpoint(single, dict(networks["unet"].config)),
        "vae": theirs.convert_ldm_vae_checkpoint(single, dict(networks["vae"].config)),
        "text_encoder": {
            name.removeprefix("text_model."): tensor
            for name, tensor in theirs.convert_ldm_clip_checkpoint(single).items()
        },
    }
    for part, network in networks.items():
        state = network.state_dict()
        assert read[part].keys() == state.keys()
        for name, tensor in read[part].items():
            assert origin[tensor.item()] == f"{part}.{name}"
            assert tensor.ndim == state[name].ndim


def test_the_single_file_of_another_family_is_refused(tmp_path: Path) -> None:
    WRITERS["sd3"](tmp_path / "model")
    base = record_base(tmp_path / "base", base_params(tmp_path / "model"))
    with pytest.raises(
        ModelError, match=r"is for Stable Diffusion 1\.x, 2\.x and XL, got stable-diffusion-3"
    ):
        export_checkpoint(base, "single-file", tmp_path / "out.safetensors", "fp32", force=False)
    assert not list(tmp_path.glob("*out*"))
