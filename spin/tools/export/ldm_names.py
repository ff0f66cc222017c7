"""Names of Stable Diffusion's tensors in diffusers -> in the original repository's single file (CompVis latent-diffusion).

    unet          model.diffusion_model.   input_blocks, middle_block and output_blocks in place of named blocks
    vae           first_stage_model.       the same blocks under other names, decoder levels counted from the finest
    text_encoder  cond_stage_model.        SD 1.x: CLIP as in transformers, behind `transformer.text_model.`
                                           SD 2.x: OpenCLIP (see `spin.tools.export.openclip`), behind `model.`
                  conditioner.embedders.   SDXL: 0 is as in SD 1.x and 1, its second encoder, as in SD 2.x

A block of diffusers' UNet with n layers is n or n + 1 modules of the original, counted through: module 0 of the input
is conv_in, every down block adds its layers and, unless it is the last, one downsampler; every up block has one layer
more, and its upsampler goes into the module of its last layer, behind the attention if there is one.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

UNET = "model.diffusion_model."
VAE = "first_stage_model."
CLIP = "cond_stage_model.transformer.text_model."
OPENCLIP = "cond_stage_model.model."
SDXL_CLIP = "conditioner.embedders.0.transformer.text_model."
SDXL_OPENCLIP = "conditioner.embedders.1.model."

_UNET_ENDS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}
_UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_VAE_ENDS = {
    "conv_norm_out": "norm_out",
    "mid_block.resnets.0": "mid.block_1",
    "mid_block.attentions.0": "mid.attn_1",
    "mid_block.resnets.1": "mid.block_2",
}
_VAE_RESNET = {"conv_shortcut": "nin_shortcut"}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def unet_names(names: Iterable[str], config: Mapping[str, Any]) -> dict[str, str]:
    """Map the tensor names of a UNet with this diffusers config; raises `KeyError` for one without a place."""
    modules = _unet_modules(config)
    return {name: UNET + _renamed(name, modules, _inner_of_unet) for name in names}


def vae_names(names: Iterable[str], config: Mapping[str, Any]) -> dict[str, str]:
    """Map the tensor names of a VAE with this diffusers config; raises `KeyError` for one without a place."""
    modules = _vae_modules(config)
    return {name: VAE + _renamed(name, modules, _inner_of_vae) for name in names}


def _renamed(name: str, modules: Mapping[str, str], rename: Callable[[str, str], str]) -> str:
    """Replace the longest module that `name` lies in, then what is inside it."""
    stem = name
    while stem not in modules:
        if "." not in stem:
            raise KeyError(name)
        stem = stem.rpartition(".")[0]
    return modules[stem] + rename(stem, name.removeprefix(stem))


def _unet_modules(config: Mapping[str, Any]) -> dict[str, str]:
    """diffusers' modules of a UNet -> the original's."""
    modules, layers, blocks = dict(_UNET_ENDS), config["layers_per_block"], len(config["block_out_channels"])
    place = 1
    for block in range(blocks):
        for layer in range(layers):
            modules[f"down_blocks.{block}.resnets.{layer}"] = f"input_blocks.{place}.0"
            modules[f"down_blocks.{block}.attentions.{layer}"] = f"input_blocks.{place}.1"
            place += 1
        modules[f"down_blocks.{block}.downsamplers.0.conv"] = f"input_blocks.{place}.0.op"
        place += 1
    place = 0
    for block in range(blocks):
        for layer in range(layers + 1):
            modules[f"up_blocks.{block}.resnets.{layer}"] = f"output_blocks.{place}.0"
            modules[f"up_blocks.{block}.attentions.{layer}"] = f"output_blocks.{place}.1"
            place += 1
        behind = 2 if "Attn" in config["up_block_types"][block] else 1
        modules[f"up_blocks.{block}.upsamplers.0.conv"] = f"output_blocks.{place - 1}.{behind}.conv"
    return modules


def _vae_modules(config: Mapping[str, Any]) -> dict[str, str]:
    """diffusers' modules of a VAE -> the original's."""
    modules = {name: name for name in ("quant_conv", "post_quant_conv")}
    blocks = len(config["block_out_channels"])
    for side in ("encoder", "decoder"):
        modules |= {f"{side}.{name}": f"{side}.{name}" for name in ("conv_in", "conv_out")}
        modules |= {f"{side}.{ours}": f"{side}.{theirs}" for ours, theirs in _VAE_ENDS.items()}
    for block in range(blocks):
        level = blocks - 1 - block
        for layer in range(config["layers_per_block"] + 1):
            modules[f"encoder.down_blocks.{block}.resnets.{layer}"] = f"encoder.down.{block}.block.{layer}"
            modules[f"decoder.up_blocks.{block}.resnets.{layer}"] = f"decoder.up.{level}.block.{layer}"
        modules[f"encoder.down_blocks.{block}.downsamplers.0.conv"] = f"encoder.down.{block}.downsample.conv"
        modules[f"decoder.up_blocks.{block}.upsamplers.0.conv"] = f"decoder.up.{level}.upsample.conv"
    return modules


def _inner_of_unet(module: str, inner: str) -> str:
    return _replaced(inner, _UNET_RESNET) if ".resnets." in module else inner


def _inner_of_vae(module: str, inner: str) -> str:
    return _replaced(inner, _VAE_ATTENTION if ".attentions." in module else _VAE_RESNET)


def _replaced(inner: str, table: Mapping[str, str]) -> str:
    """`.conv1.weight` -> `.in_layers.2.weight`; a submodule that the table does not have keeps its name."""
    match = re.fullmatch(r"\.(.+)\.(weight|bias)", inner)
    return inner if match is None else f".{table.get(match[1], match[1])}.{match[2]}"
