"""The reverse chain that SPIN's exact objective sums over: its means, its noise and its weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from spin.errors import ParamsError
from spin.method.schedule import LATENT_DEFAULTS, NoiseSchedule


@dataclass(frozen=True)
class Transitions:
    """The K steps of a reverse chain of DDIM (Song et al. 2020, arXiv:2010.02502) at eta = 1, noisiest first.

    From level t to the level below it, with signal a, noise b there and a', b' below, r = snr_t / snr_below:

        mu(x_t, eps) = (a' / a) x_t - h eps     h   = (a' b / a) (1 - r)
        x_below      = mu + s z, z ~ N(0, I)    s^2 = b'^2 (1 - r)          h^2 / (2 s^2) = (1 / r - 1) / 2

    For a variance preserving process s is DDIM's sigma, and h the paper's (Yuan et al. 2024, with alphas_cumprod for
    its alpha) h_t = sqrt(alpha_{t-1} / alpha_t) sqrt(1 - alpha_t) - sqrt(1 - alpha_{t-1} - s_t^2). With eps the true
    noise of x_t, mu and s are those of the posterior q(x_below | x_t, x_0).
    """

    timesteps: Tensor
    """(K,) int64, falling."""
    signal: Tensor
    """(K,) float64 in (0, 1): a."""
    noise: Tensor
    """(K,) float64 in (0, 1]: b."""
    mean_scale: Tensor
    """(K,) float64: a' / a."""
    h: Tensor
    """(K,) float64, > 0: what an error in eps does to the mean."""
    s: Tensor
    """(K,) float64, > 0: the standard deviation of the step."""

    @classmethod
    def between(
        cls, schedule: NoiseSchedule, timesteps: Tensor, last_signal: float, last_noise: float
    ) -> "Transitions":
        """Steps from each of the falling `timesteps` (K,) to the next, and from the last to (last_signal, last_noise).

        Steps without noise (onto the clean image, or onto their own level) have no density and are left out: the
        last one of some samplers. Raises `ParamsError` if the chain starts without any signal, or no step is left.
        """
        a, b = schedule.signal[timesteps], schedule.noise[timesteps]
        if not (a > 0).all():
            raise _no_first_step()
        a_below = torch.cat([a[1:], a.new_tensor([last_signal])])
        b_below = torch.cat([b[1:], b.new_tensor([last_noise])])
        r = (a * b_below / (b * a_below)) ** 2
        kept = (r < 1.0) & (b_below > 0)
        if not kept.any():
            raise ParamsError(
                f"opponents.num_inference_steps must be at least 2 with objective.kind exact, got {len(timesteps)}; "
                "the one step onto the clean image has no density."
            )
        h, s = a_below * b / a * (1.0 - r), b_below * (1.0 - r).clamp(min=0.0).sqrt()
        return cls(timesteps[kept], a[kept], b[kept], (a_below / a)[kept], h[kept], s[kept])

    @classmethod
    def of_sampler(cls, schedule: NoiseSchedule, config: Mapping[str, Any], steps: int) -> "Transitions":
        """Those of diffusers' DDIM sampler with this scheduler config and number of steps."""
        if schedule.scaled_time:
            raise _no_first_step()
        from diffusers import DDIMScheduler

        sampler = DDIMScheduler.from_config(LATENT_DEFAULTS | dict(config))
        sampler.set_timesteps(steps)
        # On SD's setting the sampler ends on level 0, whose latent it takes for the image; else on the clean image.
        if sampler.config.set_alpha_to_one:
            return cls.between(schedule, sampler.timesteps, 1.0, 0.0)
        return cls.between(schedule, sampler.timesteps, schedule.signal[0].item(), schedule.noise[0].item())

    @property
    def weights(self) -> Tensor:
        """h^2 / (2 s^2) of each step, (K,) float64; see `NoiseSchedule.timestep_weights`."""
        return self.h**2 / (2.0 * self.s**2)

    def mu(self, step: int, x_t: Tensor, eps: Tensor) -> Tensor:
        """The mean of x_below given the predicted noise `eps`, (B, C, H, W) both, at step number `step` of the K."""
        return self.mean_scale[step].item() * x_t - self.h[step].item() * eps

    def eps_in(self, step: int, x_t: Tensor, x_0: Tensor) -> Tensor:
        """The eps that was mixed into x_0 to give x_t, (B, C, H, W)."""
        return (x_t - self.signal[step].item() * x_0) / self.noise[step].item()

    def eps_of(self, step: int, x_t: Tensor, x_below: Tensor) -> Tensor:
        """The eps whose mu is x_below exactly, so that x_below - mu(x_t, eps_pred) = h (eps_pred - eps_of)."""
        return (self.mean_scale[step].item() * x_t - x_below) / self.h[step].item()


def _no_first_step() -> ParamsError:
    return ParamsError(
        "objective.kind must be approximate for a schedule that starts from pure noise (flow matching, zero terminal "
        "signal), got exact; the mean of its first step is not defined."
    )
