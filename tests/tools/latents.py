"""What we draw, what a diffusers pipeline draws from the same noise, and whether two networks are one."""

from typing import Any

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
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.randn((4, 8, 8), generator=generator_for("image", 0))[None]
    drawn: Tensor = pipeline(
        PROMPT,
        latents=noise,
        num_inference_steps=4,
        guidance_scale=3.0,
        output_type="latent",
        height=32,
        width=32,
    ).images
    return drawn
