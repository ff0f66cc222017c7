"""Model families behind one small interface."""

from spin.models.checkpoint import (
    load_denoiser,
    load_model,
    read_reference,
    reference_of,
    released_reference,
    save_checkpoint,
)
from spin.models.conditioning import Conditioning
from spin.models.latent_diffusion import LatentDiffusion
from spin.models.sd3 import StableDiffusion3
from spin.models.sdxl import StableDiffusionXL
from spin.models.stable_diffusion import StableDiffusion

__all__ = [
    "Conditioning",
    "LatentDiffusion",
    "StableDiffusion",
    "StableDiffusion3",
    "StableDiffusionXL",
    "load_denoiser",
    "load_model",
    "read_reference",
    "reference_of",
    "released_reference",
    "save_checkpoint",
]
