"""Imported for what it brings along: diffusers loads its classes when they are first asked for, each in seconds."""

from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torchvision import transforms
from transformers import CLIPTextModel

__all__ = [
    "AutoencoderKL",
    "CLIPTextModel",
    "DDPMScheduler",
    "StableDiffusionPipeline",
    "UNet2DConditionModel",
    "transforms",
]
