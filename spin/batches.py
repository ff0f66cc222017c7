"""The training batch of an optimizer update: a function of (seed, stage, update) alone.

Rows, timesteps, noise and dropped captions all come from streams named by the update, so a resumed run draws what an
unbroken one would have drawn, whatever the micro-batch or the number of devices.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from spin.data.training import Posterior, TrainingSet
from spin.models import StableDiffusion
from spin.models.stable_diffusion import prediction_target
from spin.params import TrainingParams
from spin.schedule import NoiseSchedule
from spin.seeding import generator_for, rows_of_step


class Batch(NamedTuple):
    """Noised inputs and what to predict; a pair shares its timestep and its noise."""

    x_t_real: Tensor
    """(B, C, h, w) fp32."""
    target_real: Tensor
    x_t_gen: Tensor | None
    target_gen: Tensor | None
    timesteps: Tensor
    """(B,) int64 in [0, T)."""
    encoder_hidden_states: Tensor
    """(B, L, D)."""

    def micro_batches(self, size: int) -> Iterator["Batch"]:
        """Split into consecutive parts of `size` rows."""
        for start in range(0, len(self.timesteps), size):
            rows = slice(start, start + size)
            yield Batch(*(None if tensor is None else tensor[rows] for tensor in self))  # type: ignore[arg-type]

    def to(self, device: torch.device) -> "Batch":
        """Move every tensor."""
        return Batch(*(None if tensor is None else tensor.to(device) for tensor in self))  # type: ignore[arg-type]


def draw_batch(
    training_set: TrainingSet,
    diffusion: StableDiffusion,
    schedule: NoiseSchedule,
    params: TrainingParams,
    seed: int,
    stage: str,
    step: int,
) -> Batch:
    """Make the whole effective batch of update `step` (from 0) on the CPU."""
    rows = rows_of_step(step, params.batch_size, training_set.num_rows, "rows", seed, stage).tolist()
    examples = training_set.fetch(rows)
    generator = generator_for("noise", seed, stage, step)
    x_0_real = _latents(examples.real, diffusion, params, generator)
    eps = torch.randn(x_0_real.shape, generator=generator)
    timesteps = torch.randint(schedule.num_train_timesteps, (len(rows),), generator=generator)
    dropped = torch.rand(len(rows), generator=generator) < params.caption_dropout
    captions = [
        "" if drop else caption for drop, caption in zip(dropped.tolist(), examples.captions, strict=True)
    ]

    def noised(x_0: Tensor) -> tuple[Tensor, Tensor]:
        target = prediction_target(diffusion.prediction_type, schedule, x_0, eps, timesteps)
        return schedule.add_noise(x_0, eps, timesteps), target

    x_t_gen, target_gen = None, None
    if examples.gen is not None:
        x_t_gen, target_gen = noised(_latents(examples.gen, diffusion, params, generator))
    return Batch(*noised(x_0_real), x_t_gen, target_gen, timesteps, training_set.states(captions))


def _latents(
    posterior: Posterior, diffusion: StableDiffusion, params: TrainingParams, generator: torch.Generator
) -> Tensor:
    mean, logvar = posterior
    if params.sample_posterior:
        mean = mean + (0.5 * logvar).exp() * torch.randn(mean.shape, generator=generator)
    return diffusion.scale(mean)
