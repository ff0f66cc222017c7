"""Stable Diffusion's forward process, drawn latents, and the paper's symbols."""

import torch
from torch import Tensor

from spin.method.schedule import NoiseSchedule
from spin.method.transitions import Transitions

SD = {"num_train_timesteps": 1000, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
SD3 = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0}

CHECK_VALUES = {
    1: 0.503,
    10: 0.0518,
    50: 0.0116,
    100: 0.0066,
    250: 0.0038,
    500: 0.0034,
    750: 0.0043,
    999: 0.0061,
}
"""h_t^2 / (2 s_t^2) at eta = 1 on Stable Diffusion's schedule, worked out independently."""


def latents(seed: int, rows: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    first, second, third = torch.randn(3, rows, 4, 2, 2, generator=generator, dtype=torch.float64)
    return first, second, third


def full_chain(schedule: NoiseSchedule) -> Transitions:
    """All T - 1 transitions, from T - 1 down to 0."""
    return Transitions.between(
        schedule, torch.arange(999, 0, -1), schedule.signal[0].item(), schedule.noise[0].item()
    )


def by_the_papers_symbols(alpha: Tensor, below: Tensor) -> tuple[Tensor, Tensor]:
    """(h, s) from alphas_cumprod at a level and below it, written as in the paper at eta = 1."""
    s = ((1 - below) / (1 - alpha) * (1 - alpha / below)).sqrt()
    h = (below / alpha).sqrt() * (1 - alpha).sqrt() - (1 - below - s**2).sqrt()
    return h, s
