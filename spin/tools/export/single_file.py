"""One .safetensors in the original repository's layout, which diffusers' `from_single_file` and other tools read."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from spin.errors import ModelError
from spin.models.latent_diffusion import LatentDiffusion
from spin.models.sdxl import StableDiffusionXL
from spin.models.stable_diffusion import StableDiffusion
from spin.tools.export.ldm_names import CLIP, OPENCLIP, SDXL_CLIP, SDXL_OPENCLIP, unet_names, vae_names
from spin.tools.export.openclip import openclip_tensors
from spin.tools.export.pipeline import networks_by_part

CARD_KEY = "spin_diffusion"
"""Key of the file's metadata that holds what the export is."""


def check_single_file(family: type[LatentDiffusion]) -> None:
    """Raise `ModelError` unless the original layout of the family is one this module writes: SD 1.x, 2.x, SDXL."""
    if not issubclass(family, (StableDiffusion, StableDiffusionXL)):
        raise ModelError(
            f"--format single-file is for Stable Diffusion 1.x, 2.x and XL, got {family.family}; "
            "use --format pipeline, unet or lora."
        )


def single_file_tensors(model: LatentDiffusion) -> dict[str, Tensor]:
    """All tensors of the networks under their original names; raises `ModelError` if there is no place for one."""
    networks = {
        part: (network.state_dict(), network.config) for part, network in networks_by_part(model).items()
    }
    try:
        return unet_tensors(*networks["unet"]) | vae_tensors(*networks["vae"]) | _text_tensors(model)
    except KeyError as error:
        raise ModelError(
            f"--format single-file has no place for the tensor {error.args[0]} of {model.family}; "
            "use --format pipeline."
        ) from None


def unet_tensors(state: Mapping[str, Tensor], config: Any) -> dict[str, Tensor]:
    """The UNet's tensors under their original names."""
    names = unet_names(state, config)
    return {names[name]: tensor for name, tensor in state.items()}


def vae_tensors(state: Mapping[str, Tensor], config: Any) -> dict[str, Tensor]:
    """The VAE's; its attention is linear in diffusers and a 1x1 convolution in the original."""
    names = vae_names(state, config)
    return {
        names[name]: tensor[:, :, None, None] if ".attentions." in name and tensor.ndim == 2 else tensor
        for name, tensor in state.items()
    }


def clip_tensors(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors of a text encoder that has transformers' layout in the original too."""
    return {prefix + name.removeprefix("text_model."): tensor for name, tensor in state.items()}


def _text_tensors(model: LatentDiffusion) -> dict[str, Tensor]:
    encoders = {part: network.state_dict() for part, network in networks_by_part(model).items()}
    if isinstance(model, StableDiffusionXL):
        second = openclip_tensors(encoders["text_encoder_2"])
        return clip_tensors(encoders["text_encoder"], SDXL_CLIP) | _prefixed(SDXL_OPENCLIP, second)
    if isinstance(model, StableDiffusion) and model.denoiser.config.use_linear_projection:  # SD 2.x
        return _prefixed(OPENCLIP, openclip_tensors(encoders["text_encoder"]))
    return clip_tensors(encoders["text_encoder"], CLIP)


def _prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def write_single_file(path: Path, model: LatentDiffusion, card: Mapping[str, Any]) -> None:
    """Write the file, with `card` as its metadata: one key, since safetensors writes several in a changing order."""
    from safetensors.torch import save_file

    with torch.no_grad():
        tensors = {name: tensor.contiguous() for name, tensor in single_file_tensors(model).items()}
        save_file(tensors, path, metadata={CARD_KEY: json.dumps(card, sort_keys=True)})


def is_exported_file(path: Path) -> bool:
    """Whether `write_single_file` made this file."""
    try:
        with safe_open(path, framework="pt") as file:
            return CARD_KEY in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False
