"""Drawing images from a model: batched classifier-free guidance, one random stream per image.

An image is a function of the weights, the prompt, the sampler and its own generator. It does not depend on the
batch it is drawn in, on the shard or on the rank, up to the rounding of a differently shaped matrix product.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from spin.errors import ParamsError
from spin.method.schedule import LATENT_DEFAULTS
from spin.models.conditioning import Conditioning, concat, expand_rows, to_device
from spin.models.latent_diffusion import LatentDiffusion
from spin.params.sampling import SamplerParams
from spin.params.schema import Params
from spin.seeding import randn_rows

_CLASSES: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {}),
    "ddpm": ("DDPMScheduler", {}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
    "euler": ("EulerDiscreteScheduler", {}),
    "dpmsolver++": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
}
_STOCHASTIC = ("ddim", "ddpm")


def check_samplers(params: Params, prediction_type: str) -> None:
    """Raise `ParamsError` if opponents or evaluation name a sampler that a base with this prediction type has not."""
    for section, sampler in (("opponents.", params.opponents), ("evaluate.", params.evaluate)):
        _check_sampler(section, sampler.scheduler, flow=prediction_type == "flow")


def _check_sampler(section: str, scheduler: str, flow: bool) -> None:
    """A flow-matching base is drawn from by `euler` alone, its ordinary differential equation's solver."""
    if flow and scheduler != "euler":
        raise ParamsError(
            f"{section}scheduler must be euler with a flow-matching base, got {scheduler}; change it."
        )


def make_sampler(scheduler_config: dict[str, Any], params: SamplerParams) -> Any:
    """Return the diffusers scheduler named by `params`, on the base's noise schedule, set to the number of steps.

    Raises `ParamsError` for one that the base has not.
    """
    import diffusers

    config = LATENT_DEFAULTS | scheduler_config
    name, changes = _CLASSES[params.scheduler]
    if str(scheduler_config.get("_class_name", "")).startswith("FlowMatch"):
        _check_sampler("", params.scheduler, flow=True)
        name, config = "FlowMatchEulerDiscreteScheduler", scheduler_config
    sampler = getattr(diffusers, name).from_config(config, **changes)
    sampler.set_timesteps(params.num_inference_steps)
    return sampler


class Guidance(NamedTuple):
    """What both branches of classifier-free guidance are told."""

    text: Conditioning
    """Of the prompts, one row an image."""
    empty: Conditioning
    """Of the empty prompt, one row for all."""
    geometry: Tensor
    """(B, 6), for families that are told of it; the same in both branches."""


@torch.no_grad()  # not inference mode: a player cut by FSDP2 keeps what it gathers first, and is trained with it
def sample_latents(
    diffusion: LatentDiffusion,
    guidance: Guidance,
    generators: Sequence[torch.Generator],
    params: SamplerParams,
    size: int | tuple[int, int],
) -> Tensor:
    """Draw one latent per prompt with its own CPU generator: (B, C, h, w) fp32.

    `size` is (height, width) of the images in pixels, or the side of squares.

    Classifier-free guidance (Ho and Salimans 2022, arXiv:2207.12598):
    eps = eps_empty + guidance_scale (eps_prompt - eps_empty); at guidance 1.0 the empty branch is not computed.
    """
    # The sampler, and what both branches are told.
    sampler = make_sampler(diffusion.scheduler_config, params)
    flow = diffusion.prediction_type == "flow"  # whose sampler scales neither noise nor inputs
    guided = params.guidance_scale > 1.0
    device = diffusion.device
    conditioning = diffusion.with_geometry(guidance.text, guidance.geometry)
    if guided:
        unconditional = diffusion.with_geometry(
            expand_rows(guidance.empty, len(generators)), guidance.geometry
        )
        conditioning = concat([unconditional, conditioning])  # (2B, ...)
    conditioning = to_device(conditioning, device)

    # From noise to latents, step by step.
    latents = randn_rows(generators, _latent_shape(diffusion, size)).to(device)
    latents = latents if flow else latents * float(sampler.init_noise_sigma)
    extra: dict[str, Any] = {"generator": list(generators)} if params.scheduler in _STOCHASTIC else {}
    if params.scheduler == "ddim":
        extra["eta"] = params.eta
    for step_time in sampler.timesteps:
        x_t = latents if flow else sampler.scale_model_input(latents, step_time)
        x_t = torch.cat([x_t, x_t]) if guided else x_t
        timesteps = step_time.to(device).expand(len(x_t))
        prediction = diffusion.predict(diffusion.denoiser, x_t, timesteps, conditioning).float()
        if guided:
            unprompted, prompted = prediction.chunk(2)
            prediction = unprompted + params.guidance_scale * (prompted - unprompted)
        latents = sampler.step(prediction, step_time, latents, **extra).prev_sample
    return latents


def _latent_shape(diffusion: LatentDiffusion, size: int | tuple[int, int]) -> tuple[int, int, int]:
    """(C, h, w) of the latents of images of a size."""
    height, width = (size, size) if isinstance(size, int) else size
    channels, _, across = diffusion.latent_shape(width)
    return channels, diffusion.latent_shape(height)[1], across


def sample_images(
    diffusion: LatentDiffusion,
    guidance: Guidance,
    generators: Sequence[torch.Generator],
    params: SamplerParams,
    size: int | tuple[int, int],
) -> tuple[Tensor, Tensor]:
    """Draw and decode, as `sample_latents`: returns (images uint8 (B, H, W, 3), latents (B, C, h, w) fp32), both on the CPU."""
    latents = sample_latents(diffusion, guidance, generators, params, size)
    return diffusion.decode_latents(latents), latents.cpu()
