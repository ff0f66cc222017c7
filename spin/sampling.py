"""Drawing images from a model: batched classifier-free guidance, one random stream per image.

An image is a function of the weights, the prompt, the sampler and its own generator. It does not depend on the
batch it is drawn in, on the shard or on the rank, up to the rounding of a differently shaped matrix product.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from spin.models import StableDiffusion
from spin.models.stable_diffusion import predict
from spin.params import SamplerParams
from spin.seeding import randn_rows

_CLASSES: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {}),
    "ddpm": ("DDPMScheduler", {}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
    "euler": ("EulerDiscreteScheduler", {}),
    "dpmsolver++": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
}
_STOCHASTIC = ("ddim", "ddpm")


def make_sampler(scheduler_config: dict[str, Any], params: SamplerParams) -> Any:
    """Return the diffusers scheduler named by `params`, on the base's noise schedule, set to the number of steps."""
    import diffusers

    name, changes = _CLASSES[params.scheduler]
    sampler = getattr(diffusers, name).from_config(scheduler_config, **changes)
    sampler.set_timesteps(params.num_inference_steps)
    return sampler


@torch.inference_mode()
def sample_latents(
    diffusion: StableDiffusion,
    encoder_hidden_states: Tensor,
    empty_states: Tensor,
    generators: Sequence[torch.Generator],
    params: SamplerParams,
    resolution: int,
) -> Tensor:
    """Draw one latent per row of `encoder_hidden_states` (B, L, D) with its own CPU generator: (B, C, h, w) fp32.

    `empty_states` (1, L, D) is the unconditional branch of classifier-free guidance (Ho and Salimans 2022):
    eps = eps_empty + guidance_scale (eps_prompt - eps_empty); at guidance 1.0 that branch is not computed.
    """
    sampler = make_sampler(diffusion.scheduler_config, params)
    guided = params.guidance_scale > 1.0
    device = diffusion.device
    states = encoder_hidden_states.to(device)
    if guided:
        states = torch.cat([empty_states.to(device).expand_as(states), states])  # (2B, L, D)
    latents = randn_rows(generators, diffusion.latent_shape(resolution)).to(device)
    latents = latents * float(sampler.init_noise_sigma)
    extra: dict[str, Any] = {"generator": list(generators)} if params.scheduler in _STOCHASTIC else {}
    if params.scheduler == "ddim":
        extra["eta"] = params.eta
    for step_time in sampler.timesteps:
        x_t = sampler.scale_model_input(latents, step_time)
        x_t = torch.cat([x_t, x_t]) if guided else x_t
        timesteps = step_time.to(device).expand(len(x_t))
        prediction = predict(diffusion.unet, x_t, timesteps, states).float()
        if guided:
            empty, prompted = prediction.chunk(2)
            prediction = empty + params.guidance_scale * (prompted - empty)
        latents = sampler.step(prediction, step_time, latents, **extra).prev_sample
    return latents


def sample_images(
    diffusion: StableDiffusion,
    encoder_hidden_states: Tensor,
    empty_states: Tensor,
    generators: Sequence[torch.Generator],
    params: SamplerParams,
    resolution: int,
) -> tuple[Tensor, Tensor]:
    """Draw and decode: returns (images uint8 (B, H, W, 3), latents (B, C, h, w) fp32), both on the CPU."""
    latents = sample_latents(diffusion, encoder_hidden_states, empty_states, generators, params, resolution)
    return diffusion.decode_latents(latents), latents.cpu()
