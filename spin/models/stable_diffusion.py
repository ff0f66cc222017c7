"""Stable Diffusion 1.x and 2.x: one CLIP text encoder, an epsilon or v-prediction UNet."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from spin.schedule import NoiseSchedule


@dataclass
class StableDiffusion:
    """The networks of a latent diffusion model and what connects them. Only the UNet is ever trained."""

    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    unet: UNet2DConditionModel
    scheduler_config: dict[str, Any]

    @property
    def device(self) -> torch.device:
        """Where the UNet is."""
        device: torch.device = next(self.unet.parameters()).device
        return device

    @property
    def prediction_type(self) -> str:
        """What the network predicts: `epsilon` or `v_prediction`."""
        return str(self.scheduler_config.get("prediction_type", "epsilon"))

    @property
    def noise_schedule(self) -> NoiseSchedule:
        """The forward process the base was trained with."""
        return NoiseSchedule.from_scheduler_config(self.scheduler_config)

    def latent_shape(self, resolution: int) -> tuple[int, int, int]:
        """(C, H, W) of the latents of a square image with this side in pixels."""
        side = resolution // 2 ** (len(self.vae.config.block_out_channels) - 1)
        return int(self.unet.config.in_channels), side, side

    def to(self, device: torch.device | str) -> Self:
        """Move all networks."""
        for network in (self.vae, self.text_encoder, self.unet):
            network.to(device)
        return self

    @torch.inference_mode()
    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        """Prompts -> encoder_hidden_states (B, L, D), padded and truncated to the tokenizer's length."""
        ids = self.tokenizer(
            list(prompts),
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        states: Tensor = self.text_encoder(ids.to(self.text_encoder.device)).last_hidden_state
        return states

    @torch.inference_mode()
    def encode_images(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """pixel_values (B, 3, H, W) in [-1, 1] -> posterior (mean, logvar), each (B, C, h, w), not yet scaled."""
        posterior = self.vae.encode(pixel_values.to(self.vae.device, self.vae.dtype)).latent_dist
        return posterior.mean.float(), posterior.logvar.float()

    def scale(self, raw_latents: Tensor) -> Tensor:
        """VAE output -> latents, the space the UNet works in."""
        return (raw_latents - float(self.vae.config.shift_factor or 0.0)) * float(
            self.vae.config.scaling_factor
        )

    def unscale(self, latents: Tensor) -> Tensor:
        """Inverse of `scale`."""
        return latents / float(self.vae.config.scaling_factor) + float(self.vae.config.shift_factor or 0.0)

    @torch.inference_mode()
    def decode_latents(self, latents: Tensor) -> Tensor:
        """latents (B, C, h, w) -> images uint8 (B, H, W, 3) on the CPU."""
        raw = self.unscale(latents)
        pixels = self.vae.decode(raw.to(self.vae.device, self.vae.dtype)).sample.float()  # (B, 3, H, W)
        images: Tensor = ((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)
        return images.cpu()


def predict(unet: torch.nn.Module, x_t: Tensor, timesteps: Tensor, encoder_hidden_states: Tensor) -> Tensor:
    """The network's prediction (B, C, H, W) for noised latents (B, C, H, W), timesteps (B,), states (B, L, D).

    Inputs are cast to the network's dtype last, after noising in fp32; the prediction comes back as the network made it.
    """
    dtype = next(unet.parameters()).dtype
    prediction: Tensor = unet(
        x_t.to(dtype), timesteps, encoder_hidden_states=encoder_hidden_states.to(dtype)
    ).sample
    return prediction


def prediction_target(
    prediction_type: str, schedule: NoiseSchedule, x_0: Tensor, eps: Tensor, timesteps: Tensor
) -> Tensor:
    """What a perfect network of this prediction type returns: eps, or v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x_0."""
    if prediction_type == "epsilon":
        return eps
    alpha_bar = schedule.alpha_bar(timesteps).reshape(-1, 1, 1, 1).to(eps.dtype)
    return alpha_bar.sqrt() * eps - (1.0 - alpha_bar).sqrt() * x_0
