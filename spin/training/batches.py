"""The training batch of an optimizer update: each place in it is a function of (seed, stage, update, place) alone.

Rows, timesteps, noise and dropped captions all come from streams of that name, so a resumed run draws what an unbroken
one would have drawn, whatever the micro-batch, and each of several processes draws its own places and no others.

With `training.reference_draws: M` all but the order of the rows is a function of (seed, stage, row, draw) instead, with
draw = epoch mod M: a row takes its M draws in turn (see `spin.training.reference_errors`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spin.data.tags import arranged
from spin.method.schedule import NoiseSchedule
from spin.models.conditioning import Conditioning, pinned, take, to_device
from spin.models.latent_diffusion import LatentDiffusion
from spin.params.training import TrainingParams
from spin.seeding import generator_for, randn_rows, rows_of_step
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
        return Noised(*(tensor.to(device, non_blocking=True) for tensor in self))

    def pinned(self) -> "Noised":
        """In memory that a GPU reads by itself."""
        return Noised(*(tensor.pin_memory() for tensor in self))


class Batch(NamedTuple):
    """Pairs of noised images with the conditioning that both members share."""

    real: Noised
    gen: Noised | None
    """None for supervised fine-tuning."""
    conditioning: Conditioning
    """Rows (B, ...)."""
    reference: Tensor | None = None
    """(B, 2) fp32: the reference's errors on the real and the generated images where they were computed before, else None."""

    @property
    def num_rows(self) -> int:
        """B."""
        return len(self.real.timesteps)

    def micro_batches(self, size: int) -> Iterator["Batch"]:
        """Split into consecutive parts of `size` rows."""
        for start in range(0, self.num_rows, size):
            rows = slice(start, start + size)
            gen = None if self.gen is None else self.gen.rows(rows)
            reference = None if self.reference is None else self.reference[rows]
            yield Batch(self.real.rows(rows), gen, take(self.conditioning, rows), reference)

    def to(self, device: torch.device) -> "Batch":
        """Move every tensor."""
        gen = None if self.gen is None else self.gen.to(device)
        reference = None if self.reference is None else self.reference.to(device, non_blocking=True)
        return Batch(self.real.to(device), gen, to_device(self.conditioning, device), reference)

    def pinned(self) -> "Batch":
        """In memory that a GPU reads by itself, while the host goes on."""
        gen = None if self.gen is None else self.gen.pinned()
        reference = None if self.reference is None else self.reference.pin_memory()
        return Batch(self.real.pinned(), gen, pinned(self.conditioning), reference)


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
    places: Sequence[int]
    """This process's places in every batch, of `params.batch_size`: its stretch of them, sorted by shape where there are
    several (see `spin.training.parts`)."""
    draws: int | None = None
    """Draws of a row that come in turn; None for a new one at every visit."""

    def rows(self, step: int) -> list[int]:
        """The examples of update `step` (from 0) in this source's places."""
        rows: list[int] = self._order(step)[list(self.places)].tolist()
        return rows

    def cells(self, step: int) -> list[tuple[int, int]]:
        """(row, draw) of each place, where a row has a number of draws: in every epoch the next one."""
        assert self.draws is not None
        visits = range(step * self.params.batch_size, (step + 1) * self.params.batch_size)
        epochs = [visits[place] // self.training_set.num_rows for place in self.places]
        return [(row, epoch % self.draws) for row, epoch in zip(self.rows(step), epochs, strict=True)]

    def shapes(self, step: int) -> npt.NDArray[np.int16]:
        """The shapes (B,) of all examples of an update, as the training set numbers them."""
        assert self.training_set.shapes is not None
        shapes: npt.NDArray[np.int16] = self.training_set.shapes[self._order(step).numpy()]
        return shapes

    def _order(self, step: int) -> Tensor:
        """The rows (B,) of an update: consecutive stretches of shuffled epochs."""
        size, total = self.params.batch_size, self.training_set.num_rows
        return rows_of_step(step, size, total, "rows", self.seed, self.stage)

    def generators(self, purpose: str, step: int) -> list[torch.Generator]:
        """One stream for each place."""
        if self.draws is None:
            return [generator_for(purpose, self.seed, self.stage, step, place) for place in self.places]
        return [
            generator_for(purpose, self.seed, self.stage, "row", row, "draw", draw)
            for row, draw in self.cells(step)
        ]

    def examples(self, step: int) -> Rows:
        """The examples of an update, half of their images mirrored and their tags arranged if the parameters ask for it."""
        flips = None
        if self.params.horizontal_flip:
            drawn = [torch.rand(2, generator=generator) < 0.5 for generator in self.generators("flip", step)]
            flips = Flips(*torch.stack(drawn, 1).tolist())
        examples, tags = self.training_set.fetch(self.rows(step), flips), self.params.tags
        if tags is None:
            return examples
        numbers = [
            int(torch.randint(tags.variants, (), generator=one)) for one in self.generators("tags", step)
        ]
        told = zip(examples.captions, numbers, strict=True)
        return examples._replace(captions=[arranged(caption, number, tags) for caption, number in told])

    def conditioning(self, captions: Sequence[str], geometry: Tensor) -> Conditioning:
        """What the denoiser is told besides the latents, one row a caption."""
        return self.diffusion.with_geometry(self.training_set.text(captions), geometry)


def draw_batch(source: BatchSource, step: int) -> Batch:
    """Make this process's places of the batch of update `step` (from 0) on the CPU."""
    params, total = source.params, source.schedule.num_train_timesteps
    examples, generators = source.examples(step), source.generators("noise", step)

    # Real images: latents, noise, timesteps; and the captions of both members.
    x_0_real = draw_latents(examples.real, source.diffusion, params, generators)
    eps = randn_rows(generators, tuple(x_0_real.shape[1:]))
    timesteps = draw_timesteps(total, params.timestep_sampling, generators)
    captions = drop_captions(examples.captions, params.caption_dropout, generators)
    real = _noised(source, x_0_real, eps, timesteps)

    # The opponent's images, by the same noise unless each member has its own.
    gen = None
    if examples.gen is not None:
        x_0_gen = draw_latents(examples.gen, source.diffusion, params, generators)
        if not source.shared_noise:
            eps = randn_rows(generators, tuple(x_0_gen.shape[1:]))
            timesteps = draw_timesteps(total, params.timestep_sampling, generators)
        gen = _noised(source, x_0_gen, eps, timesteps)
    return Batch(real, gen, source.conditioning(captions, examples.geometry))


def draw_timesteps(num_train_timesteps: int, how: str, generators: Sequence[torch.Generator]) -> Tensor:
    """Timesteps (B,) int64 in [0, T), one from each of B generators.

    Uniform, or by a logit-normal density (Esser et al. 2024, arXiv:2403.03206, section 3.1).
    """
    if how == "uniform":
        drawn = [torch.randint(num_train_timesteps, (), generator=generator) for generator in generators]
        return torch.stack(drawn)
    share = randn_rows(generators, ()).sigmoid()
    return (share * num_train_timesteps).long().clamp(max=num_train_timesteps - 1)


def _noised(source: BatchSource, x_0: Tensor, eps: Tensor, timesteps: Tensor) -> Noised:
    schedule, predicted = source.schedule, source.diffusion.prediction_type
    return Noised(
        schedule.add_noise(x_0, eps, timesteps),
        schedule.target(predicted, x_0, eps, timesteps),
        timesteps,
        schedule.times(timesteps),
    )


def drop_captions(captions: Sequence[str], share: float, generators: Sequence[torch.Generator]) -> list[str]:
    """Empty a share of the captions, which keeps the unconditional branch of guidance trained."""
    drawn = [float(torch.rand((), generator=generator)) for generator in generators]
    return ["" if draw < share else caption for draw, caption in zip(drawn, captions, strict=True)]


def draw_latents(
    posterior: Posterior,
    diffusion: LatentDiffusion,
    params: TrainingParams,
    generators: Sequence[torch.Generator],
) -> Tensor:
    """Latents (B, C, h, w) fp32 from the VAE's posterior: a sample, or its mean."""
    mean, logvar = posterior
    if params.sample_posterior:
        mean = mean + (0.5 * logvar).exp() * randn_rows(generators, tuple(mean.shape[1:]))
    return diffusion.scale(mean)
