"""One training stage: the player learns against a frozen reference. State in, reports out; saving is the caller's.

SPIN, Diffusion-DPO and supervised fine-tuning share this loop; they differ in the batch and in the objective.

Each process takes an equal share of every batch, adds up its gradient in micro-batches, and the gradients are averaged
once per update. That they meet in one place, and not inside the backward pass, lets one process run out of memory
without leaving the others waiting for it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from spin.errors import NonFiniteError, ParamsError
from spin.training.batches import Batch
from spin.training.chains import ChainBatch
from spin.training.memory import MicroBatch, is_out_of_memory
from spin.training.steps import Objective, Predict, Report, micro_step

MAX_OVERFLOWS = 20
"""Attempts at one fp16 update, each at half the last one's loss scale, before training stops."""


@dataclass
class TrainState:
    """All that changes in training, and so all that a resumed run needs; randomness is a function of `step`."""

    player: nn.Module
    trainable: list[nn.Parameter]
    """What the optimizer moves, fp32."""
    optimizer: Any
    """From `Accelerator.prepare`, which ties it to fp16's loss scale."""
    lr_scheduler: Any
    micro_batch: MicroBatch
    ema: Any = None
    """Average of `trainable`, see `spin.training.ema`; None to keep none."""
    step: int = 0
    """Optimizer updates done."""
    overflows: int = 0
    """fp16 updates that were not applied and tried again."""


@dataclass(frozen=True)
class Recipe:
    """What stays as it is while the player trains."""

    predict: Predict
    objective: Objective
    opponent_of: Callable[[int], nn.Module | None]
    """Update -> the frozen reference that it is measured against; None where an update needs none."""
    draw_batch: Callable[[int], Batch | ChainBatch]
    """Update -> the whole effective batch."""
    num_steps: int
    max_grad_norm: float


def train(
    state: TrainState, recipe: Recipe, accelerator: Accelerator, on_step: Callable[[Report], None]
) -> None:
    """Bring `state` to `recipe.num_steps` updates; `on_step` gets one report per update.

    Raises `NonFiniteError` before the optimizer moves if a loss or the gradient is not finite; with fp16 a gradient
    that overflows is tried again at half the loss scale first. Raises `ParamsError` if memory runs out and the
    micro-batch may not shrink.
    """
    state.player.train()
    while state.step < recipe.num_steps:
        # One update, then the schedule, the average and the report.
        learning_rate = state.optimizer.param_groups[0]["lr"]
        report, grad_norm = _update(state, recipe, accelerator)
        state.lr_scheduler.step()
        if state.ema is not None:
            state.ema.step(state.trainable)
        state.step += 1
        on_step({"step": state.step, **report, "grad_norm": grad_norm, "learning_rate": learning_rate})


def _update(state: TrainState, recipe: Recipe, accelerator: Accelerator) -> tuple[Report, float]:
    """Move the optimizer once; return the mean report of the batch and the gradient norm before clipping."""
    # Draw what this update trains on.
    batch = recipe.draw_batch(state.step)
    opponent = recipe.opponent_of(state.step)
    for _ in range(MAX_OVERFLOWS):
        report = _gradient(state, recipe, opponent, batch, accelerator)
        grad_norm = accelerator.clip_grad_norm_(state.trainable, recipe.max_grad_norm)
        if accelerator.scaler is None and not torch.isfinite(grad_norm):
            raise NonFiniteError(
                f"the gradient norm must be finite, got {grad_norm} at update {state.step + 1}; the update was not "
                "applied: lower the learning rate or beta, or train in fp32."
            )

        # Move the player.
        state.optimizer.step()  # with fp16 it does not move on an overflow, and halves the loss scale
        state.optimizer.zero_grad(set_to_none=True)
        # A fused AdamW skips an overflow inside its kernel, of which accelerate's `step_was_skipped` does not know.
        if torch.isfinite(grad_norm) and not state.optimizer.step_was_skipped:
            return report, float(grad_norm)
        state.overflows += 1
    raise NonFiniteError(
        f"the gradient must be finite in fp16 at some loss scale, but update {state.step + 1} overflowed "
        f"{MAX_OVERFLOWS} times; it was not applied: lower the learning rate or beta, or train in bf16 or fp32."
    )


def _gradient(
    state: TrainState,
    recipe: Recipe,
    opponent: nn.Module | None,
    batch: Batch | ChainBatch,
    accelerator: Accelerator,
) -> Report:
    """Put the gradient of the effective batch on the player, in smaller micro-batches if memory runs out."""
    # This process's share of the batch.
    share = list(batch.micro_batches(batch.num_rows // accelerator.num_processes))[accelerator.process_index]
    while True:
        try:
            table, failed = _accumulate(state, recipe, opponent, share, accelerator), False
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if not state.micro_batch.can_shrink():
                raise _out_of_memory(state.micro_batch) from None
            table, failed = {}, True

        # All processes agree whether it fitted into memory.
        if not _any(failed, accelerator):
            _average_gradients(state.trainable, accelerator)
            return _average_report(table, accelerator)
        state.optimizer.zero_grad(set_to_none=True)  # what a part of the batch left: nothing counts twice
        state.micro_batch.shrink()


def _out_of_memory(micro_batch: MicroBatch) -> ParamsError:
    cure = "lower it, or set it to auto"
    if micro_batch.size == 1:
        cure = "set training.gradient_checkpointing, train with training.lora, or lower resolution"
    return ParamsError(
        f"training.micro_batch_size must fit into memory, but it ran out with {micro_batch.size} at a time; {cure}."
    )


def _accumulate(
    state: TrainState,
    recipe: Recipe,
    opponent: nn.Module | None,
    share: Batch | ChainBatch,
    accelerator: Accelerator,
) -> Report:
    """Add up the gradient of this process's share of the batch; return the mean of what the micro-batches report."""
    sums: dict[str, float] = {}

    # Every row counts equally, however many micro-batches there are.
    for part in share.micro_batches(state.micro_batch.size):
        parts = share.num_rows / part.num_rows  # how many of this size make up the share

        def backward(loss: Tensor, parts: float = parts) -> None:
            accelerator.backward(loss / parts)

        with accelerator.autocast():
            report = micro_step(
                recipe.predict,
                state.player,
                opponent,
                part.to(accelerator.device),
                recipe.objective,
                backward,
            )
        for name, value in report.items():
            sums[name] = sums.get(name, 0.0) + value / parts
    return sums


def _any(flag: bool, accelerator: Accelerator) -> bool:
    """Whether `flag` holds in any process."""
    if accelerator.num_processes == 1:
        return flag
    total: Tensor = accelerator.reduce(torch.tensor(float(flag), device=accelerator.device), "sum")
    return bool(total.item())


def _average_gradients(trainable: Sequence[nn.Parameter], accelerator: Accelerator) -> None:
    if accelerator.num_processes == 1:
        return
    for parameter in trainable:
        if parameter.grad is None:  # every process must take part in every sum
            parameter.grad = torch.zeros_like(parameter)
        torch.distributed.all_reduce(parameter.grad)
        parameter.grad /= accelerator.num_processes


def _average_report(report: Report, accelerator: Accelerator) -> Report:
    """Average over processes, in fp32."""
    values = torch.tensor(list(report.values()), dtype=torch.float64).float().to(accelerator.device)
    mean: Tensor = accelerator.reduce(values, "mean")
    return dict(zip(report, mean.tolist(), strict=True))
