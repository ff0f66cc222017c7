"""One training stage: the player learns against a frozen reference. State in, reports out; saving is the caller's.

SPIN, Diffusion-DPO and supervised fine-tuning share this loop; they differ in the batch and in the objective.

Each process draws its own places of every batch and adds up its gradient in micro-batches; the gradients are averaged
while the last of them goes backward (see `spin.training.parallel`). The host waits for the device once per update, when it
reads whether gradient and loss are finite: only then the optimizer moves.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from spin.errors import NonFiniteError
from spin.runtime.meter import uncounted
from spin.training.memory import MicroBatch, is_out_of_memory
from spin.training.parallel import is_sharded, replicate, whole
from spin.training.parts import Part, Parts
from spin.training.prefetch import AnyBatch, Prefetch
from spin.training.steps import Measured, Objective, Predict, Report, micro_step

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
    """Update -> the frozen reference that it is measured against; None where an update needs none or its errors are kept."""
    draw_batch: Callable[[int], AnyBatch]
    """Update -> this process's share of the effective batch."""
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
    with Prefetch(recipe.draw_batch, recipe.num_steps, accelerator.device) as draw_batch:
        # Several processes find what fits into the memory of each before any of them can wait for another.
        if accelerator.num_processes > 1 and state.step < recipe.num_steps and not is_sharded(state.player):
            with uncounted():
                _fit(state, recipe, draw_batch(state.step), accelerator)
        player = replicate(state.player, accelerator)

        # One update, then the schedule, the average and the report.
        while state.step < recipe.num_steps:
            learning_rate = state.optimizer.param_groups[0]["lr"]
            report, grad_norm = _update(state, recipe, player, draw_batch(state.step), accelerator)
            state.lr_scheduler.step()
            if state.ema is not None:
                state.ema.step(state.trainable)
            state.step += 1
            on_step({"step": state.step, **report, "grad_norm": grad_norm, "learning_rate": learning_rate})


def _update(
    state: TrainState, recipe: Recipe, player: nn.Module, batch: AnyBatch, accelerator: Accelerator
) -> tuple[Report, float]:
    """Move the optimizer once; return the mean report of the batch and the gradient norm before clipping."""
    opponent = recipe.opponent_of(state.step)
    for _ in range(MAX_OVERFLOWS):
        measured = _gradient(state, recipe, player, opponent, batch, accelerator)
        norm = whole(accelerator.clip_grad_norm_(state.trainable, recipe.max_grad_norm))
        report, grad_norm = _read(measured, norm, accelerator)
        _require_finite(report["loss"], grad_norm if accelerator.scaler is None else 0.0, state.step + 1)

        # Move the player.
        state.optimizer.step()  # with fp16 it does not move on an overflow, and halves the loss scale
        state.optimizer.zero_grad(set_to_none=True)
        # A fused AdamW skips an overflow inside its kernel, of which accelerate's `step_was_skipped` does not know.
        if math.isfinite(grad_norm) and not state.optimizer.step_was_skipped:
            return report, grad_norm
        state.overflows += 1
    raise NonFiniteError(
        f"the gradient must be finite in fp16 at some loss scale, but update {state.step + 1} overflowed "
        f"{MAX_OVERFLOWS} times; it was not applied: lower the learning rate or beta, or train in bf16 or fp32."
    )


def _gradient(
    state: TrainState,
    recipe: Recipe,
    player: nn.Module,
    opponent: nn.Module | None,
    batch: AnyBatch,
    accelerator: Accelerator,
) -> Measured:
    """Put the gradient of the effective batch on the player, in smaller micro-batches if memory runs out."""
    while True:
        try:
            return _accumulate(state.micro_batch.size, recipe, player, opponent, batch, accelerator)
        except Exception as error:
            # Another process may wait for this one: it cannot begin again.
            if not is_out_of_memory(error):
                raise
            if accelerator.num_processes > 1 or not state.micro_batch.can_shrink():
                raise state.micro_batch.too_large() from None
        state.optimizer.zero_grad(set_to_none=True)  # what a part of the batch left: nothing counts twice
        state.micro_batch.shrink()


def _fit(state: TrainState, recipe: Recipe, batch: AnyBatch, accelerator: Accelerator) -> None:
    """Shrink the micro-batch, on all processes alike, until the largest share of memory that an update takes is there.

    Raises `ParamsError` on all of them if it may not shrink.
    """
    opponents = (recipe.opponent_of(step) for step in range(recipe.num_steps))
    opponent = next((each for each in opponents if each is not None), None)
    if isinstance(batch, Parts):
        batch = batch.trial()
    moments = []
    if not state.optimizer.state:  # AdamW will have two of each weight
        moments = [torch.empty_like(each) for each in state.trainable for _ in range(2)]
    while True:
        size, failed = state.micro_batch.size, False
        try:
            parts: list[Part] = [*batch.micro_batches(size)]
            _accumulate(size, recipe, state.player, opponent, parts[0], accelerator)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            failed = True
        state.optimizer.zero_grad(set_to_none=True)
        if not _any(failed, accelerator):
            break
        if not state.micro_batch.can_shrink():
            raise state.micro_batch.too_large()
        state.micro_batch.shrink()
    del moments


def _accumulate(
    size: int,
    recipe: Recipe,
    player: nn.Module,
    opponent: nn.Module | None,
    batch: AnyBatch,
    accelerator: Accelerator,
) -> Measured:
    """Add up the gradient of a batch in micro-batches of `size`; return the mean of what these report, on the device."""
    sums: Measured = {}
    parts: list[Part] = [*batch.micro_batches(size)]
    for part in parts:
        # Every row counts equally, however many micro-batches there are.
        share = part.num_rows / batch.num_rows

        def backward(loss: Tensor, last: bool, part: Part = part, share: float = share) -> None:
            if last and part is parts[-1]:
                with accelerator.trigger_sync_in_backward(player):
                    accelerator.backward(loss * share)
            else:
                accelerator.backward(loss * share)

        with accelerator.no_sync(player), accelerator.autocast():
            on_device = part.to(accelerator.device)
            measured = micro_step(recipe.predict, player, opponent, on_device, recipe.objective, backward)
        for name, value in measured.items():
            sums[name] = value * share + sums.get(name, 0.0)
    return sums


def _any(flag: bool, accelerator: Accelerator) -> bool:
    """Whether `flag` holds in any process."""
    total: Tensor = accelerator.reduce(torch.tensor(float(flag), device=accelerator.device), "sum")
    return bool(total.item())


def _read(measured: Measured, grad_norm: Tensor, accelerator: Accelerator) -> tuple[Report, float]:
    """Bring the means over all processes and the gradient norm to the host, in one go."""
    means: Tensor = accelerator.reduce(torch.stack([each.float() for each in measured.values()]), "mean")
    *values, norm = torch.cat([means, grad_norm.float().reshape(1)]).tolist()
    return dict(zip(measured, values, strict=True)), norm


def _require_finite(loss: float, grad_norm: float, update: int) -> None:
    for name, value in (("loss", loss), ("gradient norm", grad_norm)):
        if not math.isfinite(value):
            raise NonFiniteError(
                f"the {name} must be finite, got {value} at update {update}; the update was not applied: lower the "
                "learning rate or beta, or train in fp32."
            )
