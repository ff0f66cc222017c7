"""The training batch of an optimizer update: a function of (seed, stage, update) alone.

Rows, timesteps, noise and dropped captions all come from streams named by the update, so a resumed run draws what an
unbroken one would have drawn, whatever the micro-batch or the number of devices.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from spin.method.schedule import NoiseSchedule
from spin.models.conditioning import Conditioning, take, to_device
from spin.models.latent_diffusion import LatentDiffusion
from spin.params.training import TrainingParams
from spin.seeding import generator_for, rows_of_step
from spin.training.examples import Flips, Posterior, Rows, TrainingSet


class Noised(NamedTuple):
    """Images of one side of the pairs after forward noising, and what the network should say of them."""

    x_t: Tensor
    """(B, C, h, w) fp32."""
    target: Tensor
    """(B, C, h, w) fp32: eps, v or the velocity, as the base predicts."""
    timesteps: Tensor
    """(B,) int64 in [0, T)."""
    times: Tensor
    """(B,): how the network is told the timestep; the timestep itself for everything but flow matching."""

    def rows(self, rows: slice) -> "Noised":
        """Some of the images."""
        return Noised(*(tensor[rows] for tensor in self))

    def to(self, device: torch.device) -> "Noised":
        """Move every tensor."""
        return Noised(*(tensor.to(device) for tensor in self))


class Batch(NamedTuple):
    """Pairs of noised images with the conditioning that both members share."""

    real: Noised
    gen: Noised | None
    """None for supervised fine-tuning."""
    conditioning: Conditioning
    """Rows (B, ...)."""

    @property
    def num_rows(self) -> int:
        """B."""
        return len(self.real.timesteps)

    def micro_batches(self, size: int) -> Iterator["Batch"]:
        """Split into consecutive parts of `size` rows."""
        for start in range(0, self.num_rows, size):
            rows = slice(start, start + size)
            gen = None if self.gen is None else self.gen.rows(rows)
            yield Batch(self.real.rows(rows), gen, take(self.conditioning, rows))

    def to(self, device: torch.device) -> "Batch":
        """Move every tensor."""
        gen = None if self.gen is None else self.gen.to(device)
        return Batch(self.real.to(device), gen, to_device(self.conditioning, device))


@dataclass(frozen=True)
class BatchSource:
    """What the batches of a stage are drawn from, whatever the objective."""

    training_set: TrainingSet
    diffusion: LatentDiffusion
    schedule: NoiseSchedule
    params: TrainingParams
    shared_noise: bool
    """Whether the two members of a pair share timestep and noise."""
    seed: int
    stage: str
    """Name of the iteration or baseline."""

    def rows(self, step: int) -> list[int]:
        """The examples of update `step` (from 0): consecutive stretches of shuffled epochs."""
        size, total = self.params.batch_size, self.training_set.num_rows
        rows: list[int] = rows_of_step(step, size, total, "rows", self.seed, self.stage).tolist()
        return rows

    def examples(self, step: int) -> Rows:
        """The examples of an update, half of their images mirrored if the parameters ask for it."""
        rows, flips = self.rows(step), None
        if self.params.horizontal_flip:
            generator = generator_for("flip", self.seed, self.stage, step)
            drawn = torch.rand(2, len(rows), generator=generator) < 0.5
            flips = Flips(*drawn.tolist())
        return self.training_set.fetch(rows, flips)

    def conditioning(self, captions: Sequence[str], geometry: Tensor) -> Conditioning:
        """What the denoiser is told besides the latents, one row a caption."""
        return self.diffusion.with_geometry(self.training_set.text(captions), geometry)


def draw_batch(source: BatchSource, step: int) -> Batch:
    """Make the whole effective batch of update `step` (from 0) on the CPU."""
    params, total = source.params, source.schedule.num_train_timesteps
    examples = source.examples(step)
    generator = generator_for("noise", source.seed, source.stage, step)

    # Real images: latents, noise, timesteps; and the captions of both members.
    x_0_real = draw_latents(examples.real, source.diffusion, params, generator)
    eps = torch.randn(x_0_real.shape, generator=generator)
    timesteps = draw_timesteps(len(x_0_real), total, params.timestep_sampling, generator)
    captions = drop_captions(examples.captions, params.caption_dropout, generator)
    real = _noised(source, x_0_real, eps, timesteps)

    # The opponent's images, by the same noise unless each member has its own.
    gen = None
    if examples.gen is not None:
        x_0_gen = draw_latents(examples.gen, source.diffusion, params, generator)
        if not source.shared_noise:
            eps = torch.randn(x_0_gen.shape, generator=generator)
            timesteps = draw_timesteps(len(x_0_gen), total, params.timestep_sampling, generator)
        gen = _noised(source, x_0_gen, eps, timesteps)
    return Batch(real, gen, source.conditioning(captions, examples.geometry))


def draw_timesteps(num_rows: int, num_train_timesteps: int, how: str, generator: torch.Generator) -> Tensor:
    """Timesteps (num_rows,) int64 in [0, T): uniform, or by a logit-normal density (Esser et al. 2024, section 3.1)."""
    if how == "uniform":
        return torch.randint(num_train_timesteps, (num_rows,), generator=generator)
    share = torch.randn(num_rows, generator=generator).sigmoid()
    return (share * num_train_timesteps).long().clamp(max=num_train_timesteps - 1)


def _noised(source: BatchSource, x_0: Tensor, eps: Tensor, timesteps: Tensor) -> Noised:
    schedule, predicted = source.schedule, source.diffusion.prediction_type
    return Noised(
        schedule.add_noise(x_0, eps, timesteps),
        schedule.target(predicted, x_0, eps, timesteps),
        timesteps,
        schedule.times(timesteps),
    )


def drop_captions(captions: Sequence[str], share: float, generator: torch.Generator) -> list[str]:
    """Empty a share of the captions, which keeps the unconditional branch of guidance trained."""
    dropped = torch.rand(len(captions), generator=generator) < share
    return ["" if drop else caption for drop, caption in zip(dropped.tolist(), captions, strict=True)]


def draw_latents(
    posterior: Posterior, diffusion: LatentDiffusion, params: TrainingParams, generator: torch.Generator
) -> Tensor:
    """Latents (B, C, h, w) fp32 from the VAE's posterior: a sample, or its mean."""
    mean, logvar = posterior
    if params.sample_posterior:
        mean = mean + (0.5 * logvar).exp() * torch.randn(mean.shape, generator=generator)
    return diffusion.scale(mean)
