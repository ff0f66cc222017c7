"""One micro-batch of a tiny model, for every kind of objective."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spin.models.conditioning import Conditioning, square_geometry
from spin.models.latent_diffusion import LatentDiffusion
from spin.params.objective import ObjectiveParams
from spin.params.schema import Params
from spin.training.batches import Batch, BatchSource, Noised
from spin.training.chains import Chain, ChainBatch, draw_chain_batch
from spin.training.examples import Flips, Rows, TrainingSet
from spin.training.steps import Objective, Report, micro_step
from tests.models.tiny import miniature_params

PROMPTS = ["a red circle left of a blue square on white", "a green square above a red circle on black", ""]


PLAIN = {
    "kind": "approximate",
    "function": "logistic",
    "timestep_weighting": "constant",
    "shared_noise": True,
    "loser_scale": None,
    "reference": "previous",
}


EXACT = {**PLAIN, "kind": "exact", "timestep_weighting": "exact"}


def encoded(diffusion: LatentDiffusion, captions: Sequence[str]) -> Conditioning:
    """Text as it comes from the cache: ordinary tensors."""
    return {name: tensor.clone() for name, tensor in diffusion.encode_prompts(captions).items()}


def make_batch(
    diffusion: LatentDiffusion, *, separate: bool = False, dtype: torch.dtype = torch.float32
) -> Batch:
    """Three pairs of random latents; `separate` gives the members their own timestep and noise."""
    schedule, generator = diffusion.noise_schedule, torch.Generator().manual_seed(5)
    draws = torch.randn(4, 3, 4, 8, 8, generator=generator, dtype=torch.float64).to(dtype)
    timesteps = torch.tensor([10, 400, 900])

    def noised(x_0: Tensor, eps: Tensor, timesteps: Tensor) -> Noised:
        target = schedule.target(diffusion.prediction_type, x_0, eps, timesteps)
        return Noised(schedule.add_noise(x_0, eps, timesteps), target, timesteps, schedule.times(timesteps))

    real = noised(draws[0], draws[2], timesteps)
    gen = noised(draws[1], draws[3 if separate else 2], timesteps.flip(0) if separate else timesteps)
    return Batch(real, gen, encoded(diffusion, PROMPTS))


def objective(diffusion: LatentDiffusion, beta: float = 20.0, **changes: Any) -> Objective:
    objective = ObjectiveParams.model_validate({**PLAIN, **changes})
    return Objective.of(objective, beta, diffusion.noise_schedule, diffusion.prediction_type)


def step(
    diffusion: LatentDiffusion,
    player: nn.Module,
    opponent: nn.Module,
    batch: Batch | ChainBatch,
    objective: Objective,
) -> tuple[Report, Tensor]:
    """Report and gradient (all parameters in one vector) of a micro-batch."""
    player.zero_grad()
    measured = micro_step(
        diffusion.predict, player, opponent, batch, objective, lambda loss, _: loss.backward()
    )
    report = {name: value.item() for name, value in measured.items()}
    return report, torch.cat([p.grad.flatten() for p in player.parameters() if p.grad is not None]).clone()


def training_set(diffusion: LatentDiffusion, num_rows: int = 6) -> TrainingSet:
    """Random posteriors under three captions."""
    latents = torch.randn(num_rows, 4, 8, 8, generator=torch.Generator().manual_seed(9))

    def fetch(rows: Sequence[int], flips: Flips | None = None) -> Rows:
        posterior = latents[list(rows)], torch.full((len(rows), 4, 8, 8), -4.0)
        captions = [PROMPTS[row % len(PROMPTS)] for row in rows]
        return Rows(posterior, posterior, captions, square_geometry(len(rows), 32))

    return TrainingSet(num_rows, fetch, lambda captions: encoded(diffusion, captions))


def chain_batch(
    diffusion: LatentDiffusion, chain: Chain, *, shared: bool = True, update: int = 0
) -> ChainBatch:
    raw = miniature_params(Path("unused"))
    params = Params.model_validate(raw).training
    examples, schedule = training_set(diffusion), diffusion.noise_schedule
    source = BatchSource(examples, diffusion, schedule, params, shared, 0, "iter1", range(params.batch_size))
    return draw_chain_batch(chain, source, update)


def opponent_to_player(player: nn.Module, opponent: nn.Module) -> nn.Module:
    """The opponent's weights in a network that can be trained."""
    copy: nn.Module = type(player).from_config(player.config)  # type: ignore[attr-defined]
    copy.load_state_dict(opponent.state_dict())
    return copy
