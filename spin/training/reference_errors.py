"""Errors of the reference that are computed once: then it leaves memory, and a visit costs 6 forwards a pair, not 8.

With `training.reference_draws: M` every row has M draws of all that is random about it, which its visits take in turn
(`BatchSource.cells`), so the frozen reference says the same of a row at every M-th visit. What it says is computed before
the first update, for the draws that will be visited, in the order and the micro-batches of the updates that visit them
first: for those it is what the updates would have computed, to the bit.

    reference/shard-00000/errors.safetensors    errors: (updates, batch, 2) fp32, on the real and the generated images

All processes compute their places of a shard together, as a sharded reference asks of them, and the first one writes it.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

from spin.runtime.files import replacing_dir
from spin.runtime.shards import progress_over, wait_for_all
from spin.runtime.sums import is_whole
from spin.runtime.tables import mapped_room
from spin.runtime.tensors import ShardedTensors, save_shard
from spin.training.batches import Batch, BatchSource
from spin.training.loop import Recipe
from spin.training.memory import MicroBatch, is_out_of_memory
from spin.training.parallel import is_sharded
from spin.training.prefetch import AnyBatch, Prefetch
from spin.training.steps import Predict, denoise

UPDATES_A_SHARD = 16
"""So many batches are lost at most when the run is killed."""
ERRORS = "errors"


def updates_with_new_draws(num_steps: int, batch_size: int, num_rows: int, draws: int) -> int:
    """The first updates, which visit every draw that a training of `num_steps` visits: its reference runs in these."""
    return min(num_steps, -(-draws * num_rows // batch_size))


def keep_reference_errors(
    folder: Path, recipe: Recipe, source: BatchSource, micro_batch: MicroBatch, accelerator: Accelerator
) -> Recipe:
    """The recipe without its reference, whose errors the batches bring; every process must ask.

    `source` is what the recipe's batches are drawn from. Shards in `folder` that are whole are not computed again. Raises
    `ParamsError` if memory runs out and the micro-batch may not shrink.
    """
    assert source.draws is not None
    reference = recipe.opponent_of(0)
    assert reference is not None
    num_rows, draws = source.training_set.num_rows, source.draws
    updates = updates_with_new_draws(recipe.num_steps, source.params.batch_size, num_rows, draws)
    _write(folder, updates, reference, recipe, micro_batch, accelerator)
    errors = _read(folder, updates, replace(source, places=range(source.params.batch_size)))
    draw = recipe.draw_batch  # not the recipe itself, which knows the reference

    def draw_with_errors(step: int) -> Batch:
        batch = draw(step)
        assert isinstance(batch, Batch)
        return batch._replace(reference=errors(source.cells(step)))

    return replace(recipe, opponent_of=lambda step: None, draw_batch=draw_with_errors)


def _write(
    folder: Path,
    updates: int,
    reference: nn.Module,
    recipe: Recipe,
    micro_batch: MicroBatch,
    accelerator: Accelerator,
) -> None:
    """Compute the shards that are missing; returns when all of them are there."""
    starts = enumerate(range(0, updates, UPDATES_A_SHARD))
    shards = [(index, range(start, min(start + UPDATES_A_SHARD, updates))) for index, start in starts]
    missing = [[(index, steps) for index, steps in shards if not is_whole(folder / f"shard-{index:05d}")]]
    broadcast_object_list(missing)  # all do the same, whatever a shared folder shows them
    with (
        progress_over("errors of the reference", "updates", shards, missing[0]) as progress,
        Prefetch(recipe.draw_batch, updates, accelerator.device) as draw_batch,
    ):
        for index, steps in missing[0]:
            of_steps = []
            for step in steps:
                of_steps.append(
                    _errors(recipe.predict, reference, draw_batch(step), micro_batch, accelerator)
                )
                progress.update(1)
            errors: Tensor = accelerator.gather(torch.stack(of_steps, 1))  # (batch, updates, 2)
            if accelerator.is_main_process:
                with replacing_dir(folder / f"shard-{index:05d}") as shard:
                    tensors = {ERRORS: errors.transpose(0, 1).cpu()}
                    save_shard(shard / f"{ERRORS}.safetensors", tensors, ERRORS)
    wait_for_all()


def _errors(
    predict: Predict, reference: nn.Module, batch: AnyBatch, micro_batch: MicroBatch, accelerator: Accelerator
) -> Tensor:
    """Errors (B, 2) on this process's share of a batch, in smaller micro-batches if memory runs out."""
    assert isinstance(batch, Batch)
    while True:
        try:
            parts = []
            for part in batch.micro_batches(micro_batch.size):
                with torch.no_grad(), accelerator.autocast():
                    errors = denoise(predict, reference, part.to(accelerator.device))
                assert errors.gen is not None
                parts.append(torch.stack([errors.real, errors.gen], 1))
            return torch.cat(parts)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            # Of a sharded reference others may wait for this process's part.
            if is_sharded(reference) or not micro_batch.can_shrink():
                raise micro_batch.too_large() from None
        micro_batch.shrink()


def _read(folder: Path, updates: int, source: BatchSource) -> Callable[[list[tuple[int, int]]], Tensor]:
    """(row, draw) of B places -> their errors (B, 2); `source` has all places of a batch."""
    assert source.draws is not None
    shards, num_rows = ShardedTensors(folder, ERRORS), source.training_set.num_rows
    visited = -(-updates * source.params.batch_size // num_rows)  # epochs begun
    table = mapped_room((min(source.draws, visited), num_rows, 2), np.nan)
    for step in range(updates):
        # A last batch may visit draws again, and one of them twice: what the first visit found stays.
        cells, errors = np.array(source.cells(step))[::-1], shards.rows(ERRORS, [step])[0].flip(0)
        new = np.isnan(table[cells[:, 1], cells[:, 0], 0])
        table[cells[new, 1], cells[new, 0]] = errors[torch.from_numpy(new)]

    def errors_of(wanted: list[tuple[int, int]]) -> Tensor:
        rows, draws = np.array(wanted).T
        return torch.from_numpy(table[draws, rows])

    return errors_of
