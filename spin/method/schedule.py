"""The forward process: how signal and noise mix at each timestep, adding noise, prediction targets, timestep weights.

Every process here is x_t = signal_t x_0 + noise_t eps with eps ~ N(0, I):

    variance preserving (SD 1.x, 2.x, SDXL)   signal = sqrt(alpha_bar), noise = sqrt(1 - alpha_bar)
    rectified flow (SD3)                      signal = 1 - sigma,       noise = sigma

and a network predicts eps, v = signal eps - noise x_0 (Salimans and Ho 2022, arXiv:2202.00512, appendix D; variance
preserving only) or the flow's velocity eps - x_0 (Liu et al. 2022, arXiv:2209.03003). Everything is computed in fp32
or more, from scales kept in float64.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from spin.errors import ModelError, ParamsError

PREDICTION_TYPES = ("epsilon", "v_prediction", "flow")
LATENT_DEFAULTS = {"clip_sample": False, "set_alpha_to_one": False}
"""What a base's scheduler config may leave unsaid: diffusers' defaults are for pixels in [-1, 1], not latents."""


@dataclass(frozen=True)
class NoiseSchedule:
    """A discrete forward process q(x_t | x_0) = N(signal_t x_0, noise_t^2 I), t in [0, T)."""

    signal: Tensor
    """(T,) float64 in [0, 1], falling."""
    noise: Tensor
    """(T,) float64 in (0, 1], rising."""
    scaled_time: bool = False
    """Flow matching: the network is told T sigma_t, a real number, not the index t."""

    @classmethod
    def from_alphas_cumprod(cls, alphas_cumprod: Tensor) -> "NoiseSchedule":
        """A variance preserving process from its alpha_bar (T,) float64."""
        return cls(alphas_cumprod.sqrt(), (1.0 - alphas_cumprod).sqrt())

    @classmethod
    def from_scheduler_config(cls, config: Mapping[str, Any]) -> "NoiseSchedule":
        """Read the process off the config of a diffusers scheduler (beta_schedule, beta_start, ... or shift).

        Raises `ModelError` for a flow whose shift depends on the resolution.
        """
        if str(config.get("_class_name", "")).startswith("FlowMatch"):
            return cls._flow(config)
        from diffusers import DDPMScheduler

        scheduler = DDPMScheduler.from_config(dict(config))
        # The cumulative product again in float64: diffusers' own is rounded to fp32 at each of T factors.
        return cls.from_alphas_cumprod(torch.cumprod(1.0 - scheduler.betas.double(), dim=0))

    @classmethod
    def _flow(cls, config: Mapping[str, Any]) -> "NoiseSchedule":
        """sigma_t = s u / (1 + (s - 1) u) at u = (t + 1) / T with the shift s (Esser et al. 2024, section 5.3.2)."""
        if config.get("use_dynamic_shifting"):
            raise ModelError(
                "the scheduler of a flow model must have use_dynamic_shifting false, got true; "
                "take a model whose shift is fixed, such as Stable Diffusion 3."
            )
        total, shift = int(config.get("num_train_timesteps", 1000)), float(config.get("shift", 1.0))
        uniform = torch.arange(1, total + 1, dtype=torch.float64) / total
        sigma = shift * uniform / (1.0 + (shift - 1.0) * uniform)
        return cls(1.0 - sigma, sigma, scaled_time=True)

    @property
    def num_train_timesteps(self) -> int:
        """T."""
        return len(self.signal)

    @property
    def alphas_cumprod(self) -> Tensor:
        """(T,) float64: the share of signal in the variance, signal^2 / (signal^2 + noise^2)."""
        return self.signal**2 / (self.signal**2 + self.noise**2)

    def alpha_bar(self, timesteps: Tensor) -> Tensor:
        """Gather alphas_cumprod at timesteps (B,) -> (B,) float64 on the CPU."""
        return self.alphas_cumprod[timesteps.cpu()]

    def snr(self, timesteps: Tensor) -> Tensor:
        """Signal-to-noise ratio signal^2 / noise^2, (B,) -> (B,) float64 on the CPU."""
        return ((self.signal / self.noise) ** 2)[timesteps.cpu()]

    def times(self, timesteps: Tensor) -> Tensor:
        """How the network is told the timesteps (B,): as they are, or T sigma_t (B,) fp32 for flow matching."""
        if not self.scaled_time:
            return timesteps
        return self.num_train_timesteps * self.noise.float().to(timesteps.device)[timesteps]

    def add_noise(self, x_0: Tensor, eps: Tensor, timesteps: Tensor) -> Tensor:
        """Forward noising x_t = signal x_0 + noise eps, computed in fp32.

        (B, C, H, W), (B, C, H, W), (B,) -> (B, C, H, W) in the wider of fp32 and x_0's dtype. In bf16 the noise of
        the first timesteps would round to exactly zero; cast the result, never the operands.
        """
        signal, noise = self._scales(timesteps, x_0)
        return signal * x_0.to(signal.dtype) + noise * eps.to(signal.dtype)

    def target(self, prediction_type: str, x_0: Tensor, eps: Tensor, timesteps: Tensor) -> Tensor:
        """What a perfect network of this prediction type returns, (B, C, H, W) like `add_noise`."""
        if prediction_type == "epsilon":
            return eps
        signal, noise = self._scales(timesteps, x_0)
        x_0, eps = x_0.to(signal.dtype), eps.to(signal.dtype)
        if prediction_type == "flow":
            return eps - x_0
        if prediction_type == "v_prediction":
            return signal * eps - noise * x_0
        raise unknown_prediction_type(prediction_type)

    def to_eps(self, prediction_type: str, prediction: Tensor, x_t: Tensor, timesteps: Tensor) -> Tensor:
        """The eps that a prediction amounts to, (B, C, H, W) in fp32 or more.

        eps = signal v + noise x_t (variance preserving), eps = x_t + signal u (flow, with velocity u).
        """
        signal, noise = self._scales(timesteps, x_t)
        prediction, x_t = prediction.to(signal.dtype), x_t.to(signal.dtype)
        if prediction_type == "epsilon":
            return prediction
        if prediction_type == "flow":
            return x_t + signal * prediction
        if prediction_type == "v_prediction":
            return signal * prediction + noise * x_t
        raise unknown_prediction_type(prediction_type)

    def timestep_weights(self, prediction_type: str) -> Tensor:
        """The exact weights h_t^2 / (2 s_t^2) of eps errors, carried over to this prediction type: (T,) float64, mean 1.

        Yuan et al. 2024 weight ||eps_pred - eps||^2 by lambda T h_t^2 / (2 s_t^2), s_t the DDIM deviation at eta = 1,
        which is (snr_{t-1} / snr_t - 1) / 2 (see `spin.method.transitions`). An error in v or in the velocity is the eps error
        divided by signal^2, as eps = signal v + noise x_t, so its weight is signal^2 times that. Scaled to a mean of
        one over t, so that beta keeps its size and absorbs T lambda (see `beta_on_summed_norm`).
        Timestep 0 has no transition below it and gets 0. Raises `ParamsError` where a weight is infinite: a network
        that predicts eps under a schedule that ends without signal.
        """
        if prediction_type not in PREDICTION_TYPES:
            raise unknown_prediction_type(prediction_type)
        snr_below = (self.signal[:-1] / self.noise[:-1]) ** 2
        # signal_t^2 (snr_{t-1} / snr_t - 1) / 2 without dividing by a signal that may be zero at the last timestep
        weights = 0.5 * (snr_below * self.noise[1:] ** 2 - self.signal[1:] ** 2)
        if prediction_type == "epsilon":
            weights = weights / self.signal[1:] ** 2
        if not torch.isfinite(weights).all():
            raise ParamsError(
                "objective.timestep_weighting must be constant for a network that predicts epsilon under a schedule "
                "with zero terminal signal, got exact; the weight of the last timestep would be infinite."
            )
        return torch.cat([weights.new_zeros(1), weights / weights.sum() * self.num_train_timesteps])

    def min_snr_weights(self, prediction_type: str, gamma: float) -> Tensor:
        """Weights of a denoising error at each timestep, (T,) float64 (Hang et al. 2023, arXiv:2303.09556, section 3.4).

        min(snr, gamma) on the error in x_0, which is the error in eps divided by snr and that in v divided by snr + 1.
        A last timestep without signal has weight 1 under epsilon and 0 under v. Raises `ParamsError` for flow matching.
        """
        if prediction_type not in ("epsilon", "v_prediction"):
            raise ParamsError(
                f"min_snr_gamma must be null for a base that predicts {prediction_type}, got {gamma}; its weights are "
                "those of epsilon and v."
            )
        snr = self.snr(torch.arange(self.num_train_timesteps))
        if prediction_type == "epsilon":
            return torch.where(snr > gamma, gamma / snr, torch.ones_like(snr))
        return snr.clamp(max=gamma) / (snr + 1.0)

    def _scales(self, timesteps: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Signal and noise at timesteps (B,), each (B, 1, 1, 1) in the wider of fp32 and `like`'s dtype."""
        dtype, shape = torch.promote_types(like.dtype, torch.float32), (-1, *[1] * (like.ndim - 1))
        # Rounded before they move: some devices, such as Apple's, have no float64.
        signal, noise = (
            scale.to(dtype).to(timesteps.device)[timesteps] for scale in (self.signal, self.noise)
        )
        return signal.reshape(shape), noise.reshape(shape)


def unknown_prediction_type(prediction_type: str) -> ModelError:
    """The error for a prediction type nobody here knows."""
    return ModelError(
        f"the prediction type must be one of {', '.join(PREDICTION_TYPES)}, got {prediction_type}; "
        "correct prediction_type in the scheduler's config."
    )
