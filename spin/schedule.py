"""The noise schedule: alphas_cumprod, the signal-to-noise ratio, adding noise. All in fp32 or more."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class NoiseSchedule:
    """A discrete diffusion q(x_t | x_0) = N(sqrt(alpha_bar_t) x_0, (1 - alpha_bar_t) I), t in [0, T)."""

    alphas_cumprod: Tensor
    """(T,) float64, falling from near 1 to near 0."""

    @classmethod
    def from_scheduler_config(cls, config: Mapping[str, Any]) -> "NoiseSchedule":
        """Read the schedule off the config of a diffusers scheduler (beta_schedule, beta_start, beta_end, ...)."""
        from diffusers import DDPMScheduler

        scheduler = DDPMScheduler.from_config(dict(config))
        # The cumulative product again in float64: diffusers' own is rounded to fp32 at each of T factors.
        return cls(torch.cumprod(1.0 - scheduler.betas.double(), dim=0))

    @property
    def num_train_timesteps(self) -> int:
        """T."""
        return len(self.alphas_cumprod)

    def alpha_bar(self, timesteps: Tensor) -> Tensor:
        """Gather alphas_cumprod at timesteps (B,) -> (B,) float64."""
        return self.alphas_cumprod.to(timesteps.device)[timesteps]

    def snr(self, timesteps: Tensor) -> Tensor:
        """Signal-to-noise ratio alpha_bar / (1 - alpha_bar), (B,) -> (B,) float64."""
        alpha_bar = self.alpha_bar(timesteps)
        return alpha_bar / (1.0 - alpha_bar)

    def add_noise(self, x_0: Tensor, eps: Tensor, timesteps: Tensor) -> Tensor:
        """Forward noising x_t = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) eps, computed in fp32.

        (B, C, H, W), (B, C, H, W), (B,) -> (B, C, H, W) in the wider of fp32 and x_0's dtype. In bf16 the noise of
        the first timesteps would round to exactly zero; cast the result, never the operands.
        """
        dtype = torch.promote_types(x_0.dtype, torch.float32)
        alpha_bar = self.alpha_bar(timesteps).reshape(-1, *[1] * (x_0.ndim - 1))  # (B, 1, 1, 1)
        return alpha_bar.sqrt().to(dtype) * x_0.to(dtype) + (1.0 - alpha_bar).sqrt().to(dtype) * eps.to(dtype)
