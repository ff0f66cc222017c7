"""What we draw, what a diffusers pipeline draws from the same noise, and whether two networks are one."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spin.models.latent_diffusion import LatentDiffusion
from spin.seeding import generator_for
from tests.models.drawing import PROMPT, draw


def our_latents(diffusion: LatentDiffusion) -> Tensor:
    return draw(diffusion, "ddim", steps=4)


def same(first: nn.Module, second: nn.Module) -> bool:
    ours, theirs = first.state_dict(), second.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def their_latents(pipeline: Any) -> Tensor:
    drawn: Tensor = _drawn_by(pipeline, "latent")
    return drawn


def their_pixels(pipeline: Any) -> np.ndarray:
    """uint8 (H, W, 3)."""
    pixels: np.ndarray = (_drawn_by(pipeline, "np")[0] * 255).round().astype(np.uint8)
    return pixels


def _drawn_by(pipeline: Any, output_type: str) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.randn((4, 8, 8), generator=generator_for("image", 0))[None]
    return pipeline(
        PROMPT,
        latents=noise.to(pipeline.unet.dtype),
        num_inference_steps=4,
        guidance_scale=3.0,
        output_type=output_type,
        height=32,
        width=32,
    ).images
