"""One training stage: the player learns against a frozen reference. State in, reports out; saving is the caller's.

SPIN, Diffusion-DPO and supervised fine-tuning share this loop; they differ in the batch and in the loss.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from spin.batches import Batch
from spin.errors import NonFiniteError
from spin.models.stable_diffusion import predict
from spin.objectives import denoising_error, implicit_accuracy, preference_loss, sft_loss
from spin.params import TrainingParams


@dataclass
class TrainState:
    """All that changes in training, and so all that a resumed run needs; randomness is a function of `step`."""

    player: nn.Module
    optimizer: torch.optim.Optimizer
    lr_scheduler: Any
    step: int = 0
    """Optimizer updates done."""


class Errors(NamedTuple):
    """Denoising errors of one model on a batch, each (B,) fp32."""

    real: Tensor
    gen: Tensor | None


def denoise(unet: nn.Module, batch: Batch) -> Errors:
    """Measure a model's errors on a batch; real and generated images go through the network together."""
    timesteps, states = batch.timesteps, batch.encoder_hidden_states
    if batch.x_t_gen is None or batch.target_gen is None:
        return Errors(
            denoising_error(predict(unet, batch.x_t_real, timesteps, states), batch.target_real), None
        )
    x_t = torch.cat([batch.x_t_real, batch.x_t_gen])  # (2B, C, h, w)
    prediction = predict(unet, x_t, timesteps.repeat(2), states.repeat(2, 1, 1))
    real, gen = denoising_error(prediction, torch.cat([batch.target_real, batch.target_gen])).chunk(2)
    return Errors(real, gen)


def micro_step(
    player: nn.Module, opponent: nn.Module, batch: Batch, beta: float | None
) -> tuple[Tensor, dict[str, float]]:
    """Loss of one micro-batch, and what to report of it. `beta` None means supervised fine-tuning."""
    with torch.no_grad():
        opponent_errors = denoise(opponent, batch)
    player_errors = denoise(player, batch)
    report = {
        "error_real": player_errors.real.mean().item(),
        "error_real_change": (player_errors.real - opponent_errors.real).mean().item(),
    }
    if beta is None or player_errors.gen is None or opponent_errors.gen is None:
        loss = sft_loss(player_errors.real)
        return loss, {"loss": loss.item(), **report}
    loss, margin = preference_loss(
        player_errors.real, player_errors.gen, opponent_errors.real, opponent_errors.gen, beta
    )
    report |= {
        "error_gen": player_errors.gen.mean().item(),
        "error_gen_change": (player_errors.gen - opponent_errors.gen).mean().item(),
        "implicit_accuracy": implicit_accuracy(margin).item(),
        "margin": margin.mean().item(),
    }
    return loss, {"loss": loss.item(), **report}


def train(
    state: TrainState,
    opponent: nn.Module,
    draw_batch: Callable[[int], Batch],
    num_steps: int,
    beta: float | None,
    params: TrainingParams,
    accelerator: Accelerator,
    on_step: Callable[[dict[str, float]], None],
) -> None:
    """Bring `state` to `num_steps` updates against a frozen opponent; `on_step` gets one report per update.

    Raises `NonFiniteError` before the optimizer moves if a loss or the gradient is not finite.
    """
    opponent.eval().requires_grad_(False)
    state.player.train()
    while state.step < num_steps:
        batch = draw_batch(state.step)
        reports = _accumulate(state, opponent, batch, beta, params, accelerator)
        grad_norm = accelerator.clip_grad_norm_(state.player.parameters(), params.max_grad_norm)
        if grad_norm is None or not torch.isfinite(grad_norm):
            raise NonFiniteError(
                f"the gradient norm must be finite, got {grad_norm} at update {state.step + 1}; the update was not "
                "applied: lower the learning rate or beta, or train in fp32."
            )
        learning_rate = state.optimizer.param_groups[0]["lr"]
        state.optimizer.step()
        state.lr_scheduler.step()
        state.optimizer.zero_grad(set_to_none=True)
        state.step += 1
        mean = _mean_report(reports, accelerator)
        on_step({"step": state.step, **mean, "grad_norm": grad_norm.item(), "learning_rate": learning_rate})


def _accumulate(
    state: TrainState,
    opponent: nn.Module,
    batch: Batch,
    beta: float | None,
    params: TrainingParams,
    accelerator: Accelerator,
) -> list[dict[str, float]]:
    """Gradient of the effective batch: this process's share of the micro-batches, averaged over all of them."""
    parts = list(batch.micro_batches(params.micro_batch_size))
    mine = parts[accelerator.process_index :: accelerator.num_processes]
    reports = []
    for index, part in enumerate(mine):
        last = index == len(mine) - 1
        with nullcontext() if last else accelerator.no_sync(state.player), accelerator.autocast():
            loss, report = micro_step(state.player, opponent, part.to(accelerator.device), beta)
            if not torch.isfinite(loss):
                raise NonFiniteError(
                    f"the loss must be finite, got {loss.item()} at update {state.step + 1}; the update was not "
                    "applied: lower the learning rate or beta, or train in fp32."
                )
            accelerator.backward(loss / len(mine))
        reports.append(report)
    return reports


def _mean_report(reports: list[dict[str, float]], accelerator: Accelerator) -> dict[str, float]:
    """Average over this process's micro-batches, then over processes."""
    table = torch.tensor([list(report.values()) for report in reports], dtype=torch.float64)
    mean: Tensor = accelerator.reduce(table.mean(0).float().to(accelerator.device), "mean")
    return dict(zip(reports[0], mean.tolist(), strict=True))
