"""A LoRA under kohya's names is read by the programs that people use: key by key, and drawn with by diffusers."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from spin.errors import ModelError
from spin.models.checkpoint import load_model, save_checkpoint
from spin.models.lora import adapter_tensors, add_adapter
from spin.models.sdxl import StableDiffusionXL
from spin.models.stable_diffusion import StableDiffusion
from spin.params.training import LoraParams
from spin.runtime.files import replacing_dir
from spin.tools.export import card
from spin.tools.export.formats import export_checkpoint
from spin.tools.export.kohya import kohya_tensors
from spin.tools.export.ldm_names import unet_names
from spin.tools.export.recorded import Recorded
from spin.training.networks import load_networks
from tests.models.adapters import CPU, LORA, move
from tests.models.bases import base_params, record_base
from tests.models.test_single_file import UNETS
from tests.models.tiny import write_tiny_base
from tests.models.tiny_families import WRITERS
from tests.tools.latents import their_latents

TARGETS = [
    *("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"),
    *("conv1", "conv2", "time_emb_proj", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv"),
    *("conv_in", "conv_out", "time_embedding.linear_1"),
]
"""Whatever can carry an adapter."""
FAMILY = {"sd15": StableDiffusion, "sd21": StableDiffusion, "sdxl": StableDiffusionXL}


def real_unet(name: str) -> Any:
    """A UNet of the real size with an adapter of rank 4, all of it shapes without memory."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(**UNETS[name][0])
        add_adapter(unet, LoraParams(rank=4, alpha=2.0, targets=TARGETS), 0)
    return unet


def place_of(layer: str) -> str:
    """Where readers find the layer of the key `lora_unet_LAYER` in the original UNet, its name with underscores for dots.

    Facts of ComfyUI (comfy/lora.py, comfy/utils.py) and A1111 (extensions-builtin/Lora/networks.py): it is the original's
    own name, or diffusers', whose blocks of two layers and a sampler are counted through.
    """
    ends = {
        **{"conv_in": "input_blocks_0_0", "conv_out": "out_2", "time_embedding_linear_1": "time_embed_0"},
        **{"conv1": "in_layers_2", "conv2": "out_layers_3", "time_emb_proj": "emb_layers_1"},
        "conv_shortcut": "skip_connection",
    }
    match = re.fullmatch(r"(down|up|mid)_blocks?_(?:(\d)_)?(resnets|attentions|\w+samplers)_(\d)_(.+)", layer)
    if match is None:
        return ends.get(layer, layer)
    side, block, kind, index, inner = match.groups()
    column, inner = int(kind == "attentions"), ends.get(inner, inner)
    if kind == "downsamplers":
        return f"input_blocks_{3 + 3 * int(block)}_0_op"
    if kind == "upsamplers":
        return f"output_blocks_{2 + 3 * int(block)}_{1 if block == '0' else 2}_conv"  # no attention before the first
    if side == "mid":
        return f"middle_block_{1 if column else 2 * int(index)}_{inner}"
    place = 3 * int(block) + int(index)
    return f"{f'input_blocks_{1 + place}' if side == 'down' else f'output_blocks_{place}'}_{column}_{inner}"


@pytest.mark.parametrize(
    ("name", "num_layers", "num_attention", "known"),
    [
        ("sd15", 281, 128, "up_blocks_3_attentions_2_transformer_blocks_0_attn2_to_out_0"),
        ("sd21", 281, 128, "mid_block_attentions_0_transformer_blocks_0_attn2_to_v"),
        ("sdxl", 791, 560, "input_blocks_4_1_transformer_blocks_0_attn1_to_q"),
    ],
)
def test_every_key_is_the_layer_that_was_trained_where_comfyui_and_a1111_look_for_it(
    name: str, num_layers: int, num_attention: int, known: str
) -> None:
    unet = real_unet(name)
    adapter = adapter_tensors(unet)
    tensors = kohya_tensors(adapter, 2.0, FAMILY[name], unet.config)
    # The original UNet by the names of its file, which test_single_file.py holds against diffusers.
    frozen = {
        key.replace(".base_layer", ""): each for key, each in unet.state_dict().items() if ".lora_" not in key
    }
    original = {
        theirs.removeprefix("model.diffusion_model.").removesuffix(".weight").replace(".", "_"): ours
        for ours, theirs in unet_names(frozen, unet.config).items()
        if theirs.endswith(".weight")
    }
    reached = set()
    for key in {key.partition(".")[0] for key in tensors}:
        place = place_of(key.removeprefix("lora_unet_"))
        layer = original[place]
        reached.add(layer)
        down, up = (tensors[f"{key}.lora_{half}.weight"] for half in ("down", "up"))
        assert down is adapter[layer.replace("weight", "lora_A.weight")], "of this very layer"
        assert down.shape == (4, *frozen[layer].shape[1:])
        assert up.shape == (frozen[layer].shape[0], 4, *[1] * (frozen[layer].ndim - 2))
        assert tensors[f"{key}.alpha"].item() == 2.0
    assert len(tensors) == 3 * num_layers, "A, B and alpha of each layer"
    assert len(reached) == num_layers, "no two keys go to one layer"
    assert sum(".attn" in layer for layer in reached) == num_attention, (
        "the layers of the profiles are all there"
    )
    assert {
        f"lora_unet_{known}.{end}" for end in ("lora_down.weight", "lora_up.weight", "alpha")
    } <= tensors.keys()


def trained(folder: Path, name: str, lora: LoraParams) -> Path:
    """A checkpoint with an adapter over a tiny base of the family."""
    (write_tiny_base if name == "sd" else WRITERS[name])(folder / name)
    base = record_base(folder / "base", base_params(folder / name))
    player = load_networks(base, CPU, lora).player
    move(player)
    with replacing_dir(folder / "iter1") as out:
        save_checkpoint(out, "iter1", player, base)
    return folder / "iter1"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("sd", ("sd_v1", "False", "stable-diffusion-v1/lora", "epsilon")),
        ("sd2", ("sd_v2_v", "True", "stable-diffusion-v2-768-v/lora", "v")),
        ("sdxl", ("sdxl_base_v1-0", "False", "stable-diffusion-xl-v1-base/lora", "epsilon")),
    ],
)
def test_diffusers_draws_with_it_what_we_draw_and_its_metadata_tell_what_it_is(
    tmp_path: Path, name: str, told: tuple[str, ...]
) -> None:
    from diffusers import DiffusionPipeline

    lora = LORA.model_copy(update={"rank": 3, "alpha": 2.0, "targets": TARGETS})
    checkpoint, file = trained(tmp_path, name, lora), tmp_path / "mine.safetensors"
    export_checkpoint(checkpoint, "kohya", file, "fp32", force=False)
    pipeline = DiffusionPipeline.from_pretrained(tmp_path / name)
    without = their_latents(pipeline)
    pipeline.load_lora_weights(file)
    (config,) = pipeline.unet.peft_config.values()
    assert (config.r, config.lora_alpha) == (3, 2.0)
    drawn = their_latents(pipeline)
    pipeline.unload_lora_weights()
    pipeline.unet = load_model(checkpoint).denoiser
    torch.testing.assert_close(drawn, their_latents(pipeline), rtol=1e-3, atol=1e-3)
    assert (drawn - without).abs().max() > 0.1
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
    keys = ("ss_base_model_version", "ss_v2", "modelspec.architecture", "modelspec.prediction_type")
    assert tuple(metadata[key] for key in keys) == told
    known = {"ss_network_module": "networks.lora", "ss_network_dim": "3", "ss_network_alpha": "2.0"}
    assert metadata.items() >= (known | {"modelspec.resolution": "32x32"}).items()
    assert json.loads(metadata["spin_diffusion"])["name"] == "iter1"
    assert str(tmp_path) not in str(metadata), "where the base lies here is nobody else's matter"


def test_who_gets_the_file_is_told_the_trigger_and_the_resolution_of_the_training(
    checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(card, "recorded_of", lambda *_: Recorded({"trigger": "sks dog"}))
    monkeypatch.setattr(card, "_recorded_parameters", lambda *_: {"resolution": 768})
    export_checkpoint(checkpoints / "iter2", "kohya", tmp_path / "mine.safetensors", "fp32", force=False)
    assert "| trigger | `sks dog`, to be written in every prompt |" in (tmp_path / "mine.md").read_text()
    with safe_open(tmp_path / "mine.safetensors", framework="pt") as opened:
        metadata = opened.metadata()
    assert metadata["modelspec.trigger_phrase"] == "sks dog"
    assert metadata["modelspec.resolution"] == "768x768"


def test_the_same_adapter_gives_the_same_bytes_and_keeps_its_alpha_in_any_format(
    checkpoints: Path, tmp_path: Path
) -> None:
    for time in range(3):
        export_checkpoint(
            checkpoints / "iter2", "kohya", tmp_path / f"{time}.safetensors", "bf16", force=False
        )
    assert len({(tmp_path / f"{time}.safetensors").read_bytes() for time in range(3)}) == 1
    tensors = load_file(tmp_path / "0.safetensors")
    assert {tensor.dtype for key, tensor in tensors.items() if key.endswith(".weight")} == {torch.bfloat16}
    alphas = [tensor for key, tensor in tensors.items() if key.endswith(".alpha")]
    assert {(alpha.item(), alpha.dtype) for alpha in alphas} == {(LORA.alpha, torch.float32)}


def test_a_family_or_checkpoint_that_has_no_such_file_is_refused_and_nothing_written(
    checkpoints: Path, tmp_path: Path
) -> None:
    sd3 = trained(tmp_path, "sd3", LORA)
    before = sorted(tmp_path.iterdir())
    out = tmp_path / "out.safetensors"
    with pytest.raises(
        ModelError, match=r"is for Stable Diffusion 1\.x, 2\.x and XL, got stable-diffusion-3; use"
    ) as no:
        export_checkpoint(sd3, "kohya", out, "fp32", force=False)
    assert "\n" not in str(no.value)
    with pytest.raises(ModelError, match=r"--format kohya needs a checkpoint trained with training\.lora"):
        export_checkpoint(checkpoints / "whole", "kohya", out, "fp32", force=False)
    with pytest.raises(ModelError, match=r"must end in \.safetensors for --format kohya"):
        export_checkpoint(checkpoints / "iter1", "kohya", tmp_path / "folder", "fp32", force=False)
    assert sorted(tmp_path.iterdir()) == before
