"""A real training loop around a denoiser of a few weights: what the recipe does to them can be worked out by hand."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from spin.method.schedule import NoiseSchedule
from spin.models.checkpoint import load_model, reference_of
from spin.models.conditioning import Conditioning
from spin.models.latent_diffusion import LatentDiffusion
from spin.params.model import BaseParams
from spin.params.training import IterationParams, SftParams, StageParams, TrainingParams
from spin.runtime.files import write_json
from spin.training.batches import Batch, Noised
from spin.training.loop import Recipe, TrainState, train
from spin.training.memory import MicroBatch
from spin.training.optim import make_lr_scheduler, make_optimizer
from spin.training.parts import Parts
from spin.training.prefetch import AnyBatch
from spin.training.steps import Objective, Predict, Report
from tests.models.tiny import miniature_params

ROWS = 4
"""Pairs of an update."""


def training_params(**changes: Any) -> TrainingParams:
    """The miniature project's training section with other values."""
    return TrainingParams.model_validate({**miniature_params(Path("unused"))["training"], **changes})


def iteration(num_steps: int = 1, warmup_steps: int = 0, learning_rate: float = 0.5) -> IterationParams:
    return IterationParams(
        prev="base", learning_rate=learning_rate, num_steps=num_steps, warmup_steps=warmup_steps, beta=1.0
    )


def fine_tuning(num_steps: int) -> SftParams:
    shared = {"prev": "base", "learning_rate": 0.1, "warmup_steps": 0, "min_snr_gamma": None}
    return SftParams(objective="sft", num_steps=num_steps, **shared)


def tiny_diffusion(base: Path, folder: Path) -> LatentDiffusion:
    """The tiny Stable Diffusion, without its text encoder."""
    write_json(
        folder / "model.json",
        reference_of(BaseParams(source=str(base), revision=None, config=None, unet=None)),
    )
    return load_model(folder, with_text=False)


def denoiser(seed: int = 0) -> nn.Module:
    """A linear map from x_t (B, 2, h, w) to its prediction: four weights."""
    network = nn.Conv2d(2, 2, 1, bias=False)
    generator = torch.Generator().manual_seed(seed)
    nn.init.normal_(network.weight, generator=generator)
    return network


def predict(network: nn.Module, x_t: Tensor, times: Tensor, conditioning: Conditioning) -> Tensor:
    """As a family's `predict`; the captions say nothing here."""
    prediction: Tensor = network(x_t)
    return prediction


def draw(step: int, *, pairs: bool = True) -> Batch:
    """The batch of an update, another one at every update."""
    generator = torch.Generator().manual_seed(100 + step)
    timesteps = torch.randint(1000, (ROWS,), generator=generator)

    def noised() -> Noised:
        x_t, target = torch.randn(2, ROWS, 2, 3, 3, generator=generator)
        return Noised(x_t, target, timesteps, timesteps)

    return Batch(noised(), noised() if pairs else None, {})


def draw_real(step: int) -> Batch:
    """The same without the opponent's images."""
    return draw(step, pairs=False)


def play(
    player: nn.Module,
    *,
    micro_batch: int = ROWS,
    auto: bool = False,
    accelerator: Accelerator | None = None,
    predict: Predict = predict,
    training: TrainingParams | None = None,
    plan: StageParams | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    objective: Objective | None = None,
    opponent_of: Callable[[int], nn.Module | None] | None = None,
    draw_batch: Callable[[int], AnyBatch] = draw,
    max_grad_norm: float = 1e9,
) -> list[Report]:
    """Train `player` by the stage's own loop; `optimizer` stands in for the one of the parameters."""
    accelerator, weights = accelerator or Accelerator(), list(player.parameters())
    training, plan = training or training_params(), plan or iteration()
    made = optimizer or make_optimizer(weights, plan.learning_rate, training, accelerator.device)
    opponent = denoiser(1).requires_grad_(False)
    state = TrainState(
        player,
        weights,
        accelerator.prepare_optimizer(made),
        make_lr_scheduler(made, plan, training),
        MicroBatch(micro_batch, auto),
    )

    def own_share(step: int) -> AnyBatch:
        batch = draw_batch(step)
        if isinstance(batch, Parts):  # a share already
            return batch
        return list(batch.micro_batches(batch.num_rows // accelerator.num_processes))[
            accelerator.process_index
        ]

    recipe = Recipe(
        predict,
        objective or Objective(2.0),
        opponent_of or (lambda _: opponent),
        own_share,
        plan.num_steps,
        max_grad_norm,
    )
    reports: list[Report] = []
    train(state, recipe, accelerator, reports.append)
    return reports


def schedule() -> NoiseSchedule:
    """Stable Diffusion's."""
    return NoiseSchedule.from_scheduler_config(
        {
            "num_train_timesteps": 1000,
            "beta_schedule": "scaled_linear",
            "beta_start": 0.00085,
            "beta_end": 0.012,
        }
    )


def weight_of(network: nn.Module) -> Tensor:
    return network.get_parameter("weight").detach().clone()
