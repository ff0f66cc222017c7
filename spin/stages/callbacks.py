"""What follows an optimizer update, and how a training ran."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from spin.models.checkpoint import save_checkpoint
from spin.params.training import TrainingParams
from spin.runtime.files import replacing_dir
from spin.runtime.progress import Progress
from spin.stages.resume import save_state
from spin.stages.rising_errors import RisingErrors
from spin.tracking.notes import current_run
from spin.training.ema import averaged
from spin.training.loop import TrainState
from spin.training.parallel import is_sharded
from spin.training.steps import Report


class AfterUpdate:
    """What follows every update: the curve, the line of progress, the step checkpoint, the preview.

    The first process does it; of a sharded training all do, as it is read by all of them together.
    """

    def __init__(
        self,
        params: TrainingParams,
        work: Path,
        state: TrainState,
        accelerator: Accelerator,
        reports: list[Report],
        progress: Progress,
        preview: Callable[[TrainState, Accelerator], None],
    ) -> None:
        """Continue `reports`, the curve up to `state`, in place."""
        self.params, self.work, self.state, self.accelerator = params, work, state, accelerator
        self.reports, self.progress, self.preview = reports, progress, preview
        self.snapshot: Callable[[TrainState], None] = lambda state: None
        self._first, self._started = state.step, time.monotonic()
        self._watch = RisingErrors()
        for report in reports if accelerator.is_main_process else ():
            self._watch.see(report)

    def __call__(self, report: Report) -> None:
        """Take in the report of one update."""
        self.reports.append(report)
        change = f", real {report['error_real_change']:+.5f}" if "error_real_change" in report else ""
        self.progress.update(1, f"loss {report['loss']:.4f}{change}, {self.pairs_per_second():.3g} pairs/s")
        if self.accelerator.is_main_process:
            self._watch.see(report)
            current_run().update(report, self.state.step)
            self.snapshot(self.state)
        elif not is_sharded(self.state.player):
            return
        step, every = self.state.step, self.params.preview_every
        if step % self.params.checkpoint_every == 0:
            save_state(self.work, self.state, self.accelerator, self.reports)
        if every and step % every == 0:
            self.preview(self.state, self.accelerator)

    def before_first(self) -> None:
        """Draw what the previews that follow are held against."""
        first = self.accelerator.is_main_process or is_sharded(self.state.player)
        if self.params.preview_every and self.state.step == 0 and first:
            self.preview(self.state, self.accelerator)

    def pairs_per_second(self) -> float:
        """Since this process began, over all devices."""
        updates = self.state.step - self._first
        return updates * self.params.batch_size / max(time.monotonic() - self._started, 1e-9)


def describe_run(
    state: TrainState, params: TrainingParams, accelerator: Accelerator, pairs_per_second: float
) -> dict[str, Any]:
    """How a training ran on this machine."""
    device = accelerator.device
    on_gpu = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if on_gpu else device.type,
        "processes": accelerator.num_processes,
        "precision": params.precision,
        "micro_batch_size": state.micro_batch.size,
        "pairs_per_second": round(pairs_per_second, 3),
        "overflows": state.overflows,
        "peak_gpu_bytes": torch.cuda.max_memory_allocated(device) if on_gpu else 0,
    }


def save_snapshot(
    name: str, player: nn.Module, prev: Path, snapshots: Path, every: int, state: TrainState
) -> None:
    """Keep a checkpoint of the player, which started from `prev`, as it is now, if it is time."""
    if state.step % every:
        return
    with averaged(state.ema, state.trainable), replacing_dir(snapshot_of(snapshots, state.step)) as folder:
        save_checkpoint(folder, name, player, prev)


def snapshot_of(snapshots: Path, step: int) -> Path:
    """Where the snapshot after `step` updates lies."""
    return snapshots / f"step-{step:06d}"
