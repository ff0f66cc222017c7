"""The interface every model family fills in: text to conditioning, images to latents and back, one prediction."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from spin.method.schedule import NoiseSchedule
from spin.models.conditioning import Conditioning
from spin.runtime.meter import count


class LatentDiffusion(ABC):
    """The networks of a latent diffusion model and what connects them. Only the denoiser is ever trained."""

    family: ClassVar[str]
    """Name in model.json, such as stable-diffusion."""
    pipeline: ClassVar[str]
    """The diffusers pipeline class whose layout this family has."""
    denoiser_folder: ClassVar[str] = "unet"
    """Where the diffusers layout keeps the denoiser."""
    parts: ClassVar[Mapping[str, str]]
    """The networks of the diffusers layout: folder -> class of diffusers or transformers."""
    optional_parts: ClassVar[tuple[str, ...]] = ()
    """Networks a base may come without."""
    tokenizers: ClassVar[tuple[str, ...]]
    """Folders of the tokenizers."""
    architecture: ClassVar[tuple[str, ...]] = ("in_channels", "out_channels", "cross_attention_dim")
    """Entries of the denoiser's config in which two denoisers of one base agree, besides its class."""

    vae: AutoencoderKL
    denoiser: nn.Module
    scheduler_config: dict[str, Any]

    @classmethod
    def from_parts(
        cls, parts: Mapping[str, Any], scheduler_config: dict[str, Any], index: Mapping[str, Any]
    ) -> Self:
        """Put together from networks and tokenizers by folder (None where absent) and the entries of model_index.json."""
        named = {cls._field(part): parts[part] for part in (*cls.parts, *cls.tokenizers)}
        family: Any = cls  # a dataclass of these fields
        model: Self = family(scheduler_config=scheduler_config, **named, **cls.settings(index))
        return model

    @classmethod
    def settings(cls, index: Mapping[str, Any]) -> dict[str, Any]:
        """Further fields of the family, from the entries of model_index.json."""
        return {}

    @classmethod
    def _field(cls, part: str) -> str:
        return "denoiser" if part == cls.denoiser_folder else part

    def networks(self) -> list[nn.Module]:
        """All networks there are, the denoiser included."""
        found = (getattr(self, self._field(part)) for part in self.parts)
        return [network for network in found if network is not None]

    @classmethod
    def text_parts(cls) -> tuple[str, ...]:
        """Folders of the text encoders and tokenizers, which training does without: captions come from the cache."""
        return (*(part for part in cls.parts if part not in ("vae", cls.denoiser_folder)), *cls.tokenizers)

    @abstractmethod
    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Prompts -> what the text says to the denoiser, one row each; truncated to the tokenizer's length."""

    @staticmethod
    @abstractmethod
    def predict(denoiser: nn.Module, x_t: Tensor, times: Tensor, conditioning: Conditioning) -> Tensor:
        """The network's prediction (B, C, H, W) for noised latents (B, C, H, W) at the network's times (B,).

        Inputs are cast to the network's dtype last, after noising in fp32; the prediction comes back as it was made.
        """

    def with_geometry(self, text: Conditioning, geometry: Tensor) -> Conditioning:
        """Add the geometry (B, 6) of the images (see `square_geometry`) where the family is told of it."""
        return text

    @property
    def device(self) -> torch.device:
        """Where the denoiser is."""
        return next(self.denoiser.parameters()).device

    @property
    def prediction_type(self) -> str:
        """What the network predicts: `epsilon`, `v_prediction` or `flow` (the velocity eps - x_0)."""
        return str(self.scheduler_config.get("prediction_type", "epsilon"))

    @property
    def noise_schedule(self) -> NoiseSchedule:
        """The forward process the base was trained with."""
        return NoiseSchedule.from_scheduler_config(self.scheduler_config)

    def latent_shape(self, resolution: int) -> tuple[int, int, int]:
        """(C, H, W) of the latents of a square image with this side in pixels."""
        side = resolution // 2 ** (len(self.vae.config.block_out_channels) - 1)
        return int(self.vae.config.latent_channels), side, side

    def to(self, device: torch.device | str) -> Self:
        """Move all networks."""
        for network in self.networks():
            network.to(device)
        return self

    def encoders(self) -> list[nn.Module]:
        """The networks that make a cache: those of the text and the VAE."""
        return [network for network in self.networks() if network is not self.denoiser]

    @torch.inference_mode()
    def encode_images(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """pixel_values (B, 3, H, W) in [-1, 1] -> posterior (mean, logvar), each (B, C, h, w), not yet scaled."""
        count(len(pixel_values), "encoder", pixel_values.shape[-1])
        posterior = self.vae.encode(pixel_values.to(self.vae.device, self.vae.dtype)).latent_dist
        return posterior.mean.float(), posterior.logvar.float()

    def scale(self, raw_latents: Tensor) -> Tensor:
        """VAE output -> latents, the space the denoiser works in."""
        return (raw_latents - float(self.vae.config.shift_factor or 0.0)) * float(
            self.vae.config.scaling_factor
        )

    def unscale(self, latents: Tensor) -> Tensor:
        """Inverse of `scale`."""
        return latents / float(self.vae.config.scaling_factor) + float(self.vae.config.shift_factor or 0.0)

    @torch.inference_mode()
    def decode_latents(self, latents: Tensor) -> Tensor:
        """latents (B, C, h, w) -> images uint8 (B, H, W, 3) on the CPU."""
        count(len(latents), "decoder", latents.shape[-1])
        raw = self.unscale(latents)
        # A preview is drawn under autocast, and in fp16 SDXL's VAE overflows to black.
        with torch.autocast(self.vae.device.type, enabled=False):
            decoded = self.vae.decode(raw.to(self.vae.device, self.vae.dtype)).sample
        pixels = decoded.float()  # (B, 3, H, W)
        images: Tensor = ((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)
        return images.cpu()
